{{/* Environment of the init Job: which default objects to make. */}}
{{- define "spiderpool.init.env" -}}
{{- $pool := .Values.clusterDefaultPool -}}
{{ include "spiderpool.podEnv" . }}
- name: SPIDERPOOL_NAMESPACE
  value: {{ .Release.Namespace | quote }}
- name: SPIDERPOOL_CONTROLLER_NAME
  value: {{ .Values.spiderpoolController.name | quote }}
- name: SPIDERPOOL_AGENT_NAME
  value: {{ .Values.spiderpoolAgent.name | quote }}
{{- if .Values.coordinator.enabled }}
- name: SPIDERPOOL_INIT_DEFAULT_COORDINATOR_NAME
  value: {{ .Values.coordinator.name | quote }}
{{ include "spiderpool.coordinatorEnv" . }}
{{- end }}
{{- range $family := list "4" "6" }}
{{- if index $pool (printf "installIPv%sIPPool" $family) }}
{{- $of := printf "ipv%s" $family }}
{{- $head := printf "SPIDERPOOL_INIT_DEFAULT_IPV%s" $family }}
{{- if $.Values.ipam.spiderSubnet.enable }}
- name: {{ $head }}_SUBNET_NAME
  value: {{ index $pool (printf "%sSubnetName" $of) | quote }}
{{- end }}
- name: {{ $head }}_IPPOOL_NAME
  value: {{ index $pool (printf "%sIPPoolName" $of) | quote }}
- name: {{ $head }}_IPPOOL_SUBNET
  value: {{ index $pool (printf "%sSubnet" $of) | quote }}
- name: {{ $head }}_IPPOOL_IPRANGES
  value: {{ join "," (index $pool (printf "%sIPRanges" $of)) | quote }}
- name: {{ $head }}_IPPOOL_GATEWAY
  value: {{ index $pool (printf "%sGateway" $of) | quote }}
{{- end }}
{{- end }}
- name: SPIDERPOOL_INIT_ENABLE_MULTUS_CONFIG
  value: {{ .Values.multus.enableMultusConfig | quote }}
{{- if .Values.multus.enableMultusConfig }}
- name: SPIDERPOOL_INIT_DEFAULT_CNI_NAMESPACE
  value: {{ .Release.Namespace | quote }}
{{- if .Values.multus.multusCNI.defaultCniCRName }}
- name: SPIDERPOOL_INIT_DEFAULT_CNI_NAME
  value: {{ .Values.multus.multusCNI.defaultCniCRName | quote }}
{{- else }}
- name: SPIDERPOOL_INIT_DEFAULT_CNI_DIR
  value: {{ .Values.global.cniConfHostPath | quote }}
{{- end }}
{{- end }}
{{- end -}}
