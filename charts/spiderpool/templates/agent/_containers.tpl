{{/* Environment of the agent. */}}
{{- define "spiderpool.agent.env" -}}
{{- $agent := .Values.spiderpoolAgent -}}
- name: SPIDERPOOL_LOG_LEVEL
  value: {{ $agent.debug.logLevel | quote }}
- name: SPIDERPOOL_ENABLED_METRIC
  value: {{ $agent.prometheus.enabled | quote }}
- name: SPIDERPOOL_METRIC_HTTP_PORT
  value: {{ $agent.prometheus.port | quote }}
- name: SPIDERPOOL_HEALTH_PORT
  value: {{ $agent.httpPort | quote }}
{{ include "spiderpool.podEnv" . }}
- name: SPIDERPOOL_AGENT_NAME
  value: {{ $agent.name | quote }}
- name: SPIDERPOOL_NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- if .Values.coordinator.enabled }}
- name: SPIDERPOOL_COORDINATOR_DEAFULT_NAME # upstream's spelling
  value: {{ .Values.coordinator.name | quote }}
{{- end }}
{{- with .Values.multus.multusCNI.defaultCniCRName }}
- name: MULTUS_CLUSTER_NETWORK
  value: {{ printf "%s/%s" $.Release.Namespace . | quote }}
{{- end }}
{{- end -}}

{{/* Containers that put files on the node before the agent starts. The node's directory is always seen at /host/opt/cni/bin. */}}
{{- define "spiderpool.agent.install" -}}
{{- $agent := .Values.spiderpoolAgent -}}
- name: install
  {{- include "spiderpool.containerImage" (list . $agent.image) | nindent 2 }}
  command:
    - {{ $agent.binName | quote }}
  args:
    - install
    - --to=/host/opt/cni/bin
  {{- include "spiderpool.agent.small" . | nindent 2 }}
  volumeMounts:
    - name: cni-bin
      mountPath: /host/opt/cni/bin
{{- if .Values.plugins.installCNI }}
- name: install-plugins
  {{- include "spiderpool.containerImage" (list . .Values.plugins.image) | nindent 2 }}
  env:
    - name: INSTALL_CNI_PLUGINS
      value: "true"
  {{- include "spiderpool.agent.small" . | nindent 2 }}
  volumeMounts:
    - name: cni-bin
      mountPath: /host/opt/cni/bin
{{- end }}
{{- if include "spiderpool.isMultus" . }}
- name: install-multus
  {{- include "spiderpool.containerImage" (list . .Values.multus.multusCNI.image) | nindent 2 }}
  command:
    - /install_multus
  args:
    - --type
    - thin
  {{- include "spiderpool.agent.small" . | nindent 2 }}
  volumeMounts:
    - name: cni-bin
      mountPath: /host/opt/cni/bin
{{- end }}
{{- end -}}

{{/* Resources and security of a container that only writes files of the node. */}}
{{- define "spiderpool.agent.small" -}}
resources:
  requests:
    cpu: 10m
    memory: 20Mi
securityContext:
  {{- include "spiderpool.nodeWriter" . | nindent 2 }}
{{- end -}}

{{/* Containers beside the agent: the writer of the CNI configuration, and the one that takes files away at the end. */}}
{{- define "spiderpool.agent.beside" -}}
{{- $agent := .Values.spiderpoolAgent -}}
{{- $multus := .Values.multus.multusCNI -}}
{{- if $multus.install }}
- name: multus-cni
  {{- include "spiderpool.containerImage" (list . $agent.image) | nindent 2 }}
  command:
    - {{ $agent.binName | quote }}
  args:
    - multus-config
    - --implementation={{ .Values.multus.implementation }}
    - --cni-dir=/host/etc/cni/net.d
    - --host-cni-dir={{ .Values.global.cniConfHostPath }}
    - --host-bin-dir={{ .Values.global.cniBinHostPath }}
    {{- if eq .Values.multus.implementation "multinet" }}
    - --agent-socket={{ .Values.global.ipamUNIXSocketHostPath }}
    {{- end }}
    - --log-level={{ $multus.log.logLevel }}
    - --log-file={{ $multus.log.logFile }}
  env:
    {{- include "spiderpool.env" (list (include "spiderpool.agent.multusEnv" .) $multus.extraEnv) | nindent 4 }}
  resources:
    requests:
      cpu: 10m
      memory: 20Mi
  securityContext:
    {{- if $multus.securityContext.privileged }}
    runAsUser: 0
    privileged: true
    readOnlyRootFilesystem: true
    {{- else }}
    {{- include "spiderpool.nodeWriter" . | nindent 4 }}
    {{- end }}
  volumeMounts:
    - name: cni-conf
      mountPath: /host/etc/cni/net.d
    {{- with $multus.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- if or $multus.uninstall .Values.plugins.uninstall }}
- name: uninstall
  {{- include "spiderpool.containerImage" (list . $agent.image) | nindent 2 }}
  command:
    - {{ $agent.binName | quote }}
  args:
    - uninstall
    - --on-stop
    {{- if .Values.plugins.uninstall }}
    - --plugins-dir=/host/opt/cni/bin
    {{- if include "spiderpool.isMultus" . }}
    - --plugin=multus
    {{- end }}
    {{- end }}
    {{- if $multus.uninstall }}
    - --cni-dir=/host/etc/cni/net.d
    {{- end }}
  env:
    {{- include "spiderpool.podEnv" . | nindent 4 }}
    - name: SPIDERPOOL_AGENT_NAME
      value: {{ $agent.name | quote }}
  {{- include "spiderpool.agent.small" . | nindent 2 }}
  volumeMounts:
    - name: cni-bin
      mountPath: /host/opt/cni/bin
    {{- if $multus.uninstall }}
    - name: cni-conf
      mountPath: /host/etc/cni/net.d
    {{- end }}
{{- end }}
{{- end -}}

{{/* Environment of the writer of the CNI configuration. */}}
{{- define "spiderpool.agent.multusEnv" -}}
{{ include "spiderpool.podEnv" . }}
- name: SPIDERPOOL_HEALTH_PORT
  value: {{ .Values.spiderpoolAgent.httpPort | quote }}
- name: MULTUS_CLUSTER_NETWORK
  valueFrom:
    configMapKeyRef:
      name: {{ .Values.global.configName }}
      key: clusterNetwork
{{- end -}}
