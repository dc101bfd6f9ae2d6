{{- define "poolrt.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "poolrt.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "poolrt.labels" -}}
{{ include "poolrt.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "poolrt.secret" -}}
{{- required "give apiKey.existingSecret, the name of a Secret with the entry api-key, or apiKey.value" (.Values.apiKey.existingSecret | default (ternary (include "poolrt.name" .) "" (ne .Values.apiKey.value ""))) }}
{{- end }}
