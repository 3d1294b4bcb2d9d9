{{/* The configuration file of agent and controller: every key that they read. */}}
{{- define "spiderpool.conf" -}}
{{- $ipam := .Values.ipam -}}
{{- $agent := .Values.spiderpoolAgent -}}
{{- $controller := .Values.spiderpoolController -}}
ipamUnixSocketPath: {{ .Values.global.ipamUNIXSocketHostPath | quote }}
enableIPv4: {{ $ipam.enableIPv4 }}
enableIPv6: {{ $ipam.enableIPv6 }}
enableStatefulSet: {{ $ipam.enableStatefulSet }}
enableKubevirtStaticIP: {{ $ipam.enableKubevirtStaticIP }}
enableCleanOutdatedEndpoint: {{ $ipam.enableCleanOutdatedEndpoint }}
enableSpiderSubnet: {{ $ipam.spiderSubnet.enable }}
enableAutoPoolForApplication: {{ and $ipam.spiderSubnet.enable $ipam.spiderSubnet.autoPool.enable }}
clusterSubnetAutoPoolDefaultRedundantIPNumber: {{ ternary $ipam.spiderSubnet.autoPool.defaultRedundantIPNumber 0 $ipam.spiderSubnet.enable }}
enableIPConflictDetection: {{ $ipam.enableIPConflictDetection }}
enableGatewayDetection: {{ $ipam.enableGatewayDetection }}
enableValidatingResourcesDeletedWebhook: {{ $controller.enableValidatingResourcesDeletedWebhook }}
tuneSysctlConfig: {{ $agent.tuneSysctlConfig }}
podResourceInject:
  enabled: {{ $controller.podResourceInject.enabled }}
agent:
  networkResourcePlugin:
    enabled: {{ $agent.networkResourcePlugin.enabled }}
    {{- if $agent.networkResourcePlugin.enabled }}
    kubeletRootDir: {{ $agent.networkResourcePlugin.kubeletRootDir | quote }}
    devicePluginAffinity: {{ toJson $agent.networkResourcePlugin.devicePluginAffinity }}
    resourceAdvertisement: {{ toJson $agent.networkResourcePlugin.resourceAdvertisement }}
    {{- end }}
iaasNetworkProvider:
  serverUrl: {{ .Values.iaasNetworkProvider.serverUrl | quote }}
  httpRequestTimeout: {{ .Values.iaasNetworkProvider.httpRequestTimeout | quote }}
{{- end -}}

{{/* Annotation that makes a pod roll when the file changes. */}}
{{- define "spiderpool.checksum" -}}
checksum/config: {{ include "spiderpool.conf" . | sha256sum }}
{{- end -}}
