{{- /*
"tdc.grpcTls.mount" $ and "tdc.grpcTls.volume" (list $ "SECRET"): where the --grpc-tls-* flags look.
*/ -}}
{{- define "tdc.grpcTls.mount" -}}
{{- if .Values.grpcTls.enabled -}}
- { name: grpc-tls, mountPath: /etc/tdc/grpc, readOnly: true }
{{- end -}}
{{- end -}}
{{- define "tdc.grpcTls.volume" -}}
{{- if (index . 0).Values.grpcTls.enabled -}}
- name: grpc-tls
  secret: { secretName: {{ index . 1 }} }
{{- end -}}
{{- end -}}
