{{/* Names, labels and what more than one file has to know. */}}

{{- define "fanout.name" -}}
{{- if contains "fanout" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-fanout" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "fanout.selector" -}}
app.kubernetes.io/name: fanout
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fanout.labels" -}}
{{ include "fanout.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What holds between values, which the schema of the values cannot say. */}}
{{- define "fanout.check" -}}
{{- $asks := or .Values.tokens.secret .Values.jwks.secret .Values.tls.clients }}
{{- if and (not .Values.insecure) (not (and .Values.tls.secret $asks)) }}
{{- fail "give tls.secret, and tokens.secret, jwks.secret or tls.clients; or say insecure: true" }}
{{- end }}
{{- if and .Values.tls.clients (not .Values.tls.secret) }}{{ fail "tls.clients: needs tls.secret" }}{{ end }}
{{- if and .Values.jwks.secret (not .Values.jwks.issuer) }}{{ fail "jwks.secret: needs jwks.issuer" }}{{ end }}
{{- if eq .Values.keep "nats" }}
{{- if not .Values.nats.servers }}{{ fail "nats.servers: none are named" }}{{ end }}
{{- if and .Values.nats.passwordSecret .Values.nats.credentialsSecret }}{{ fail "nats.passwordSecret: nats.credentialsSecret is given too" }}{{ end }}
{{- else if ne .Values.autoscaling.by "none" }}{{ fail "autoscaling.by: only with keep: nats" }}
{{- end }}
{{- if gt (int .Values.autoscaling.min) (int .Values.autoscaling.max) }}{{ fail "autoscaling.min: is more than autoscaling.max" }}{{ end }}
{{- if and (eq .Values.autoscaling.by "keda") (not (and .Values.autoscaling.prometheus .Values.autoscaling.query)) }}
{{- fail "autoscaling.by: keda needs autoscaling.prometheus and autoscaling.query" }}
{{- end }}
{{- if eq (int .Values.metrics.port) 7117 }}{{ fail "metrics.port: 7117 is the port of clients" }}{{ end }}
{{- if and .Values.metrics.podMonitor.enabled (not .Values.metrics.enabled) }}{{ fail "metrics.podMonitor.enabled: needs metrics.enabled" }}{{ end }}
{{- end }}

{{/* The file of settings: what the chart decides, then what the values say. JSON's texts, numbers and lists are TOML's, too. */}}
{{- define "fanout.settings" -}}
{{- $ours := dict }}
{{- if .Values.tls.secret }}
{{- $_ := set $ours "tls_cert" "/etc/fanout/tls/tls.crt" }}
{{- $_ := set $ours "tls_key" "/etc/fanout/tls/tls.key" }}
{{- if .Values.tls.clients }}{{ $_ := set $ours "tls_client_ca" "/etc/fanout/tls/ca.crt" }}{{ end }}
{{- end }}
{{- with .Values.tokens }}{{ if .secret }}{{ $_ := set $ours "tokens" (printf "/etc/fanout/tokens/%s" .key) }}{{ end }}{{ end }}
{{- with .Values.jwks }}{{ if .secret }}
{{- $_ := set $ours "jwks" (printf "/etc/fanout/jwks/%s" .key) }}
{{- $_ := set $ours "jwt_issuer" .issuer }}
{{- $_ := set $ours "jwt_audience" .audience }}
{{- end }}{{ end }}
{{- if .Values.metrics.enabled }}{{ $_ := set $ours "metrics_listen" (printf "0.0.0.0:%d" (int .Values.metrics.port)) }}{{ end }}
{{- if eq .Values.keep "disk" }}{{ $_ := set $ours "data_dir" "/data" }}{{ end }}
{{- if eq .Values.keep "nats" }}
{{- $_ := set $ours "nats_stream" .Values.nats.stream }}
{{- $_ := set $ours "nats_replicas" .Values.nats.copies }}
{{- if .Values.nats.credentialsSecret }}{{ $_ := set $ours "nats_credentials" (printf "/etc/fanout/nats-credentials/%s" .Values.nats.credentialsKey) }}{{ end }}
{{- if .Values.nats.authoritySecret }}{{ $_ := set $ours "nats_ca" (printf "/etc/fanout/nats-authority/%s" .Values.nats.authorityKey) }}{{ end }}
{{- if not (hasKey .Values.settings "drain_delay") }}{{ $_ := set $ours "drain_delay" "10s" }}{{ end }}
{{- end }}
{{- range $key, $value := .Values.settings }}
{{- if or (hasKey $ours $key) (has $key (list "listen" "insecure" "nats" "metrics_listen")) }}{{ fail (printf "settings.%s: the chart says it by itself" $key) }}{{ end }}
{{- $_ := set $ours $key $value }}
{{- end }}
{{- range $key, $value := $ours }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}

{{/* Whole seconds, rounded up, of the setting `key`: a time such as 30s, 1.5m or 500ms. */}}
{{- define "fanout.seconds" -}}
{{- if not (regexMatch "^[0-9.]+(ms|s|m|h|d)?$" (toString .time)) }}{{ fail (printf "settings.%s: %v: is no time" .key .time) }}{{ end }}
{{- $unit := regexFind "[a-z]*$" (toString .time) }}
{{- $number := float64 (trimSuffix $unit (toString .time)) }}
{{- $seconds := dict "ms" 0.001 "" 1.0 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0 }}
{{- ceil (mulf $number (get $seconds $unit)) }}
{{- end }}

{{/* Where the pod asks itself whether it is well. gRPC probes speak no TLS. */}}
{{- define "fanout.probe" -}}
{{- if .root.Values.tls.secret }}
exec:
  command: [/fanout, health, --service, {{ .service }}]
timeoutSeconds: 12
{{- else }}
grpc:
  port: 7117
  service: {{ .service }}
timeoutSeconds: 5
{{- end }}
{{- end }}

{{/* Secrets by the volume that each is mounted as, under /etc/fanout. */}}
{{- define "fanout.secrets" -}}
{{- $secrets := dict "tls" .Values.tls.secret "tokens" .Values.tokens.secret "jwks" .Values.jwks.secret }}
{{- if eq .Values.keep "nats" }}
{{- $_ := set $secrets "nats-credentials" .Values.nats.credentialsSecret }}
{{- $_ := set $secrets "nats-authority" .Values.nats.authoritySecret }}
{{- end }}
{{- range $volume, $secret := $secrets }}
{{- if $secret }}
{{ $volume }}: {{ $secret }}
{{- end }}
{{- end }}
{{- end }}
