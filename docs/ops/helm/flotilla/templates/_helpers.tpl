{{- define "flotilla.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Pods are called by it with their number behind: a controller's name has at most 63 characters. */}}
{{- define "flotilla.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "flotilla.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "flotilla.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "flotilla.selector" -}}
app.kubernetes.io/name: {{ include "flotilla.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flotilla.labels" -}}
{{ include "flotilla.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "flotilla.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "flotilla.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The most pods that there can be: each of them has its own Service. */}}
{{- define "flotilla.podsMax" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.maxReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end }}
{{- end }}

{{/* A value as an environment variable holds it: whole numbers without an exponent, lists with commas. */}}
{{- define "flotilla.env" -}}
{{- if kindIs "slice" . }}{{ join "," . }}
{{- else if kindIs "float64" . }}{{ int64 . }}
{{- else }}{{ toString . }}
{{- end }}
{{- end }}

{{/* What is wrong with the values beyond what a schema can say. */}}
{{- define "flotilla.check" -}}
{{- $pods := int (include "flotilla.podsMax" .) }}
{{- if gt $pods (int .Values.store.shards) }}
{{- fail "store.shards: more controllers than shards, so some would lead nothing" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}
{{- fail "autoscaling.maxReplicas: give at least minReplicas" }}
{{- end }}
{{- if and (gt $pods 1) (not (contains "$(" .Values.devices.advertise)) }}
{{- fail "devices.advertise: every controller needs an address of its own; name the pod in it, such as $(POD_NAME).sms.example.org:7443" }}
{{- end }}
{{- if and (contains "$(POD_INDEX)" .Values.devices.advertise) (gt $pods 10) (eq .Values.devices.expose "nodePort") }}
{{- fail "devices.advertise: $(POD_INDEX) stands for one digit of a port; with more than 10 controllers use $(POD_NAME) in a host name" }}
{{- end }}
{{- if and .Values.cluster.etcd.user (not .Values.cluster.etcd.passwordSecret.name) }}
{{- fail "cluster.etcd.passwordSecret.name: etcd's user needs a password" }}
{{- end }}
{{- range $section, $keys := .Values.config }}
{{- if not (kindIs "map" $keys) }}{{ fail (printf "config.%s: give section and key, such as config.log.format" $section) }}{{ end }}
{{- if has $section (list "store" "cluster" "quic") }}{{ fail (printf "config.%s: this section is set by the chart's own values; use extraEnv for what they lack" $section) }}{{ end }}
{{- end }}
{{- end }}
