{{- /*
What all pods of the roles have in common.

"tdc.pod" (dict "root" $ "role" "ingress" "values" .Values.ingress "args" LIST "env" YAML "ports" YAML
           "volumes" YAML "mounts" YAML "drain" SECONDS "token" BOOL)
*/ -}}
{{- define "tdc.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "tdc.selector" (list $root .role) | nindent 4 }}
    app.kubernetes.io/part-of: threat-defense-connector
    tdc.dev/metrics: "true"
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: {{ .role }}
    {{- if and $root.Values.redis.url (ne .role "policy") }}
    checksum/redis: {{ $root.Values.redis.url | sha256sum }}
    {{- end }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "tdc.fullname" $root }}-{{ .role }}
  automountServiceAccountToken: {{ .token | default false }}
  enableServiceLinks: false
  # Time to drain, then to finish, then to write the last spans.
  terminationGracePeriodSeconds: {{ add (int .drain) (int .values.graceSeconds) 15 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  containers:
  - name: {{ .role }}
    image: {{ include "tdc.image" $root }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args:
    {{- range concat .args .values.extraArgs }}
    - {{ . | quote }}
    {{- end }}
    env:
    - name: POD_NAME
      valueFrom: { fieldRef: { fieldPath: metadata.name } }
    - name: POD_NAMESPACE
      valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
    - name: TDC_INSTANCE
      value: $(POD_NAME)
    {{- with include "tdc.tracingEnv" (list $root .role) }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .env }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    ports:
    {{- with .ports }}
    {{- . | nindent 4 }}
    {{- end }}
    - { name: admin, containerPort: 8080 }
    startupProbe:
      httpGet: { path: /livez, port: admin }
      periodSeconds: 1
      failureThreshold: 60
    livenessProbe:
      httpGet: { path: /livez, port: admin }
      periodSeconds: 10
      timeoutSeconds: 3
    readinessProbe:
      httpGet: { path: /readyz, port: admin }
      periodSeconds: 3
      timeoutSeconds: 2
      failureThreshold: 2
    {{- if .preStop }}
    lifecycle:
      preStop:
        sleep: { seconds: {{ .preStop }} }
    {{- end }}
    securityContext:
      {{- include "tdc.restricted" $root | nindent 6 }}
    {{- with .values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if or .mounts .values.extraVolumeMounts }}
    volumeMounts:
    {{- with .mounts }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
  {{- if or .volumes .values.extraVolumes }}
  volumes:
  {{- with .volumes }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
  {{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    # Counts the pods of one revision, so that an upgrade is spread too.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "tdc.selector" (list $root $.role) | nindent 8 }}
  {{- end }}
  {{- end }}
{{- end -}}

{{- define "tdc.tracingEnv" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.tracing -}}
{{- if .endpoint -}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_SERVICE_NAME
  value: tdc-{{ index $ 1 }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE)
- name: OTEL_TRACES_SAMPLER
  value: {{ .sampler | quote }}
{{- with .samplerArg }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ . | quote }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Arguments that every role has, as a YAML list. */ -}}
{{- define "tdc.commonArgs" -}}
- --admin-listen={{ .Values.listenHost }}:8080
- --log-format={{ .Values.log.format }}
- {{ printf "--log=%s" .Values.log.filter | quote }}
{{- if .Values.grpcTls.enabled }}
- --grpc-tls-cert=/etc/tdc/grpc/tls.crt
- --grpc-tls-key=/etc/tdc/grpc/tls.key
- --grpc-tls-ca=/etc/tdc/grpc/ca.crt
{{- end }}
{{- end -}}

{{- /* "tdc.deployment" (dict "root" $ "role" "ingress" "values" .Values.ingress "fixed" BOOL): down to the template. */ -}}
{{- define "tdc.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "tdc.metadata" (list .root .role .role) | nindent 2 }}
spec:
  {{- if .fixed }}
  replicas: {{ .values.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy:
    type: RollingUpdate
    rollingUpdate: { maxUnavailable: 0, maxSurge: 1 }
  selector:
    matchLabels:
      {{- include "tdc.selector" (list .root .role) | nindent 6 }}
{{- end -}}
