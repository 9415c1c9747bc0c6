{{- /*
Where the queue is: three ways in, one environment variable out. The URL may hold a password, so it is never an
argument, and comes from a Secret.
*/ -}}
{{- define "tdc.redisEnv" -}}
- name: TDC_REDIS
  valueFrom:
    secretKeyRef:
{{- with .Values.redis.existingSecret }}
{{- if .name }}
      name: {{ .name }}
      key: {{ .key }}
{{- else }}
      name: {{ include "tdc.fullname" $ }}-redis
      key: url
{{- end }}
{{- end }}
{{- end -}}

{{- /* The bundled Redis keeps its password through upgrades; a plain `helm template` makes a new one each time. */ -}}
{{- define "tdc.redisPassword" -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace (printf "%s-redis" (include "tdc.fullname" .)) -}}
{{- if .Values.redis.bundled.password -}}
{{- .Values.redis.bundled.password -}}
{{- else if and $secret (dig "data" "password" "" $secret) -}}
{{- $secret.data.password | b64dec -}}
{{- else -}}
{{- randAlphaNum 32 -}}
{{- end -}}
{{- end -}}

{{- define "tdc.redisHost" -}}
{{ include "tdc.fullname" . }}-redis.{{ .Release.Namespace }}.svc
{{- end -}}
