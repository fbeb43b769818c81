{{- define "flannel.image" -}}
{{ .Values.flannel.image.repository }}:{{ .Values.flannel.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "flannel.labels" -}}
app: flannel
k8s-app: flannel
tier: node
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The network configuration, as an object: no value can break the JSON. */}}
{{- define "flannel.netConf" -}}
{{- $flannel := .Values.flannel }}
{{- $backend := dict "Type" $flannel.backend }}
{{- range $name, $value := dict "Port" $flannel.backendPort "MTU" $flannel.mtu "VNI" $flannel.vni "GBP" $flannel.GBP "DirectRouting" $flannel.directRouting }}
{{- if $value }}
{{- $_ := set $backend $name $value }}
{{- end }}
{{- end }}
{{- $backend = merge $backend ($flannel.backendOptions | default dict) }}
{{- $conf := dict "Backend" $backend "EnableNFTables" $flannel.enableNFTables }}
{{- if .Values.podCidr }}
{{- $_ := set $conf "Network" .Values.podCidr }}
{{- else }}
{{- $_ := set $conf "EnableIPv4" false }}
{{- end }}
{{- if .Values.podCidrv6 }}
{{- $_ := set $conf "EnableIPv6" true }}
{{- $_ := set $conf "IPv6Network" .Values.podCidrv6 }}
{{- end }}
{{- if not (or .Values.podCidr .Values.podCidrv6) }}
{{- fail "podCidr and podCidrv6 are both empty: set the one that the controller manager has as --cluster-cidr" }}
{{- end }}
{{- $conf | toPrettyJson }}
{{- end }}

{{- define "flannel.resources" -}}
{{- if .Values.flannel.resources }}
{{- toYaml .Values.flannel.resources }}
{{- else if eq .Values.flannel.backend "udp" -}}
requests:
  cpu: 100m
  memory: 160Mi
limits:
  memory: 160Mi
{{- else -}}
requests:
  cpu: 100m
  memory: 50Mi
limits:
  cpu: 100m
  memory: 50Mi
{{- end }}
{{- end }}

{{- define "flannel.updateStrategy" -}}
{{- if .Values.flannel.updateStrategy }}
{{- toYaml .Values.flannel.updateStrategy }}
{{- else -}}
type: RollingUpdate
rollingUpdate:
{{- if eq .Values.flannel.backend "udp" }}
  maxSurge: 1
  maxUnavailable: 0
{{- else }}
  maxUnavailable: 1
{{- end }}
{{- end }}
{{- end }}

{{/* A Role and its binding: `name`, `namespace`, one `rule` of the core API, the chart's `root`. */}}
{{- define "flannel.role" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "flannel.labels" .root | nindent 4 }}
rules:
  - apiGroups: [""]
    resources: {{ .rule.resources | toJson }}
    verbs: {{ .rule.verbs | toJson }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "flannel.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: flannel
    namespace: {{ .root.Release.Namespace }}
{{- end }}
