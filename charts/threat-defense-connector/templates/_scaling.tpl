{{- /* "tdc.pdb" (dict "root" $ "role" "ingress" "values" .Values.ingress "replicas" N) */ -}}
{{- define "tdc.pdb" -}}
{{- if and .values.pdb.enabled (gt (int .replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "tdc.metadata" (list .root .role .role) | nindent 2 }}
spec:
  maxUnavailable: {{ .values.pdb.maxUnavailable }}
  # A pod that is not ready anyway may always go.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "tdc.selector" (list .root .role) | nindent 6 }}
{{- end }}
{{- end -}}

{{- /* "tdc.hpa" (dict "root" $ "role" "ingress" "values" .Values.ingress) */ -}}
{{- define "tdc.hpa" -}}
{{- $scaling := .values.autoscaling }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "tdc.metadata" (list .root .role .role) | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "tdc.fullname" .root }}-{{ .role }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
  - type: Resource
    resource:
      name: cpu
      target: { type: Utilization, averageUtilization: {{ $scaling.targetCPUUtilization }} }
  behavior:
    # A copy lives for 120 s: up at once, down slowly.
    scaleUp: { stabilizationWindowSeconds: 0 }
    scaleDown: { stabilizationWindowSeconds: 300 }
{{- end -}}
