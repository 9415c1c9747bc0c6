{{- /*
Names and labels. Selectors hold name, instance and component only: they cannot be changed later.
*/ -}}
{{- define "tdc.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "tdc" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-tdc" (.Release.Name | trunc 36 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- /* "tdc.selector" (list $ "ingress") */ -}}
{{- define "tdc.selector" -}}
app.kubernetes.io/name: threat-defense-connector
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* "tdc.labels" (list $ "ingress") */ -}}
{{- define "tdc.labels" -}}
{{- $root := index . 0 -}}
{{ include "tdc.selector" . }}
app.kubernetes.io/part-of: threat-defense-connector
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* "tdc.metadata" (list $ "ingress" "NAME-SUFFIX"): name, namespace, labels */ -}}
{{- define "tdc.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "tdc.fullname" $root }}-{{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "tdc.labels" (list $root (index . 1)) | nindent 2 }}
{{- end -}}

{{- define "tdc.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* HOST:PORT of the policy service. */ -}}
{{- define "tdc.policyAddress" -}}
{{ include "tdc.fullname" . }}-policy.{{ .Release.Namespace }}.svc:9090
{{- end -}}

{{- define "tdc.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* Refuses what cannot work, before anything is installed. */ -}}
{{- define "tdc.check" -}}
{{- if not .Values.ingress.nextHops -}}
{{- fail "ingress.nextHops is missing: the mailbox servers to which all mail goes, as [HOST:PORT]" -}}
{{- end -}}
{{- $redis := .Values.redis -}}
{{- $ways := list -}}
{{- if $redis.url -}}{{- $ways = append $ways "redis.url" -}}{{- end -}}
{{- if $redis.existingSecret.name -}}{{- $ways = append $ways "redis.existingSecret.name" -}}{{- end -}}
{{- if $redis.bundled.enabled -}}{{- $ways = append $ways "redis.bundled.enabled" -}}{{- end -}}
{{- if ne (len $ways) 1 -}}
{{- fail (printf "set exactly one of redis.url, redis.existingSecret.name and redis.bundled.enabled; set are: %s" (join ", " $ways | default "none")) -}}
{{- end -}}
{{- if .Values.grpcTls.enabled -}}
{{- if not (and .Values.grpcTls.serverSecret .Values.grpcTls.clientSecret) -}}
{{- fail "grpcTls.enabled needs grpcTls.serverSecret and grpcTls.clientSecret" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.proxyProtocol.enabled (not .Values.ingress.proxyProtocol.trustedNetworks) -}}
{{- fail "ingress.proxyProtocol.enabled needs ingress.proxyProtocol.trustedNetworks: anyone else could claim any address" -}}
{{- end -}}
{{- if and .Values.ingress.tls.implicitPort (not .Values.ingress.tls.secretName) -}}
{{- fail "ingress.tls.implicitPort needs ingress.tls.secretName" -}}
{{- end -}}
{{- if and .Values.ingress.tls.required (not .Values.ingress.tls.secretName) -}}
{{- fail "ingress.tls.required needs ingress.tls.secretName" -}}
{{- end -}}
{{- end -}}
