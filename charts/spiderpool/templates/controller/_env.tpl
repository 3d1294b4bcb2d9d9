{{/* Environment of the controller. */}}
{{- define "spiderpool.controller.env" -}}
{{- $controller := .Values.spiderpoolController -}}
{{- $gc := .Values.ipam.gc -}}
{{- $tls := $controller.tls -}}
- name: SPIDERPOOL_LOG_LEVEL
  value: {{ $controller.debug.logLevel | quote }}
- name: SPIDERPOOL_ENABLED_METRIC
  value: {{ $controller.prometheus.enabled | quote }}
- name: SPIDERPOOL_ENABLED_DEBUG_METRIC
  value: {{ $controller.prometheus.enabledDebugMetric | quote }}
- name: SPIDERPOOL_METRIC_HTTP_PORT
  value: {{ $controller.prometheus.port | quote }}
- name: SPIDERPOOL_HEALTH_PORT
  value: {{ $controller.httpPort | quote }}
- name: SPIDERPOOL_WEBHOOK_PORT
  value: {{ $controller.webhookPort | quote }}
{{ include "spiderpool.podEnv" . }}
- name: SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME
  value: {{ $controller.name | quote }}
- name: SPIDERPOOL_AGENT_NAME
  value: {{ .Values.spiderpoolAgent.name | quote }}
- name: SPIDERPOOL_GC_IP_ENABLED
  value: {{ $gc.enabled | quote }}
- name: SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION
  value: {{ $gc.gcAll.intervalInSecond | quote }}
- name: SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY
  value: {{ $gc.gcDeletingTimeOutPodDelay | quote }}
- name: SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED
  value: {{ $gc.statelessPod.zombieOnReadyNode | quote }}
- name: SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED
  value: {{ $gc.statelessPod.zombieOnNotReadyNode | quote }}
- name: SPIDERPOOL_GC_ENABLE_STATELESS_RUNNING_POD_ON_EMPTY_POD_STATUS_IPS
  value: {{ $gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs | quote }}
- name: SPIDERPOOL_MULTUS_CONFIG_ENABLED
  value: {{ .Values.multus.enableMultusConfig | quote }}
- name: SPIDERPOOL_COORDINATOR_ENABLED
  value: {{ .Values.coordinator.enabled | quote }}
{{- if .Values.coordinator.enabled }}
- name: SPIDERPOOL_COORDINATOR_DEAFULT_NAME # upstream's spelling
  value: {{ .Values.coordinator.name | quote }}
{{ include "spiderpool.coordinatorEnv" . }}
- name: SPIDERPOOL_CNI_CONFIG_DIR
  value: {{ .Values.global.cniConfHostPath | quote }}
- name: SPIDERPOOL_CILIUM_CONFIGMAP_NAMESPACE_NAME
  value: {{ .Values.global.ciliumConfigMap | quote }}
{{- end }}
{{- if eq $tls.method "auto" }}
- name: SPIDERPOOL_TLS_SECRET_NAME
  value: {{ $tls.secretName | quote }}
- name: SPIDERPOOL_TLS_CA_DAYS
  value: {{ $tls.auto.caExpiration | quote }}
- name: SPIDERPOOL_TLS_CERT_DAYS
  value: {{ $tls.auto.certExpiration | quote }}
- name: SPIDERPOOL_TLS_EXTRA_DNS_NAMES
  value: {{ join "," $tls.auto.extraDnsNames | quote }}
- name: SPIDERPOOL_TLS_EXTRA_IP_ADDRESSES
  value: {{ join "," $tls.auto.extraIpAddresses | quote }}
- name: SPIDERPOOL_CLUSTER_DNS_DOMAIN
  value: {{ .Values.global.clusterDnsDomain | quote }}
{{- else if eq $tls.method "certmanager" }}
- name: SPIDERPOOL_WEBHOOK_CA_INJECTED
  value: "true"
{{- end }}
{{- end -}}

{{/* The default SpiderCoordinator: for the Job that makes it, and for the controller, which makes it anew when somebody deletes it. */}}
{{- define "spiderpool.coordinatorEnv" -}}
{{- $coordinator := .Values.coordinator -}}
- name: SPIDERPOOL_INIT_DEFAULT_COORDINATOR_MODE
  value: {{ $coordinator.mode | quote }}
- name: SPIDERPOOL_INIT_DEFAULT_COORDINATOR_POD_CIDR_TYPE
  value: {{ $coordinator.podCIDRType | quote }}
- name: SPIDERPOOL_INIT_DEFAULT_COORDINATOR_TUNE_POD_ROUTES
  value: {{ $coordinator.tunePodRoutes | quote }}
- name: SPIDERPOOL_INIT_DEFAULT_COORDINATOR_HIJACK_CIDR
  value: {{ join "," $coordinator.hijackCIDR | quote }}
- name: SPIDERPOOL_INIT_DEFAULT_COORDINATOR_POLICY_ROUTES
  value: {{ toJson $coordinator.policyRoutes | quote }}
- name: SPIDERPOOL_INIT_DEFAULT_COORDINATOR_VETH_LINK_ADDRESS
  value: {{ $coordinator.vethLinkAddress | quote }}
- name: SPIDERPOOL_INIT_DEFAULT_COORDINATOR_VETH_MTU
  value: {{ $coordinator.vethMTU | quote }}
{{- end -}}
