{{/*
What the schema cannot say in words of ours: combinations that cannot work, and features that this version does not have. Each text names
the value, what it is, and what to do. Types, names and words are checked by values.schema.json before.
*/}}
{{- define "spiderpool.validate" -}}
{{- include "spiderpool.validate.alone" . -}}
{{- include "spiderpool.validate.absent" . -}}
{{- include "spiderpool.validate.paths" . -}}
{{- include "spiderpool.validate.ipam" . -}}
{{- include "spiderpool.validate.controller" . -}}
{{- end -}}

{{/* Kinds, addresses and the nodes' CNI files are the cluster's. Helm itself sees a second release only where it names an object as the first does. */}}
{{- define "spiderpool.validate.alone" -}}
{{- with include "spiderpool.other" . -}}
{{- fail (printf "Spiderpool is installed already: %s. A cluster has one installation: upgrade that release, or uninstall it before." .) -}}
{{- end -}}
{{- end -}}

{{/* Features that this version does not have: refused here rather than by a process that does not start. */}}
{{- define "spiderpool.validate.absent" -}}
{{- $absent := list
  (list "ipam.enableIPConflictDetection" .Values.ipam.enableIPConflictDetection "the plugins do not probe yet")
  (list "ipam.enableGatewayDetection" .Values.ipam.enableGatewayDetection "the plugins do not probe yet")
  (list "ipam.spiderSubnet.enable" .Values.ipam.spiderSubnet.enable "pools from SpiderSubnets are not there yet; declare SpiderIPPools")
  (list "spiderpoolController.podResourceInject.enabled" .Values.spiderpoolController.podResourceInject.enabled "the controller adds nothing to pods yet; name their networks by annotation")
  (list "spiderpoolAgent.networkResourcePlugin.enabled" .Values.spiderpoolAgent.networkResourcePlugin.enabled "the agent announces no resources yet")
  (list "spiderpoolAgent.prometheus.enabledRdmaMetric" .Values.spiderpoolAgent.prometheus.enabledRdmaMetric "the agent has no RDMA metrics yet")
  (list "rdma.rdmaSharedDevicePlugin.install" .Values.rdma.rdmaSharedDevicePlugin.install "install the device plugin with its own manifests")
  (list "sriov.install" .Values.sriov.install "install the SR-IOV network operator with its own chart") -}}
{{- range $absent -}}
{{- if index . 1 -}}
{{- fail (printf "%s: true is not supported by this version: %s. Set it to false." (index . 0) (index . 2)) -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.coordinator.mode "overlay" -}}
{{- fail "coordinator.mode: overlay is not supported by this version; set auto, and enableCoordinator: false in SpiderMultusConfigs of NICs beside another CNI's first network." -}}
{{- end -}}
{{- with .Values.iaasNetworkProvider.serverUrl -}}
{{- fail (printf "iaasNetworkProvider.serverUrl: %s is not supported by this version: no provider is asked yet. Leave it empty." .) -}}
{{- end -}}
{{- end -}}

{{/* Folders of the agent's container: two mounts cannot be at the same place. One below another one is fine. */}}
{{- define "spiderpool.validate.paths" -}}
{{- $socket := .Values.global.ipamUNIXSocketHostPath -}}
{{- if has (dir $socket) (list "/var/lib/spidernet" "/var/lib/cni" "/tmp/spiderpool/config-map") -}}
{{- fail (printf "global.ipamUNIXSocketHostPath: %s is in %s, where the agent has something else. Use a folder of its own, which may be below it." $socket (dir $socket)) -}}
{{- end -}}
{{- end -}}

{{- define "spiderpool.validate.ipam" -}}
{{- $pool := .Values.clusterDefaultPool -}}
{{- if not (or .Values.ipam.enableIPv4 .Values.ipam.enableIPv6) -}}
{{- fail "ipam.enableIPv4: false and ipam.enableIPv6: false: no pod could get an address. One of them must be true." -}}
{{- end -}}
{{- range $family := list "4" "6" -}}
{{- $install := printf "installIPv%sIPPool" $family -}}
{{- if index $pool $install -}}
{{- if not (index $.Values.ipam (printf "enableIPv%s" $family)) -}}
{{- fail (printf "clusterDefaultPool.%s: true needs ipam.enableIPv%s: true." $install $family) -}}
{{- end -}}
{{- $subnet := index $pool (printf "ipv%sSubnet" $family) -}}
{{- $colon := contains ":" $subnet -}}
{{- if or (not (contains "/" $subnet)) (ne $colon (eq $family "6")) -}}
{{- fail (printf "clusterDefaultPool.ipv%sSubnet: %q is not an IPv%s subnet like %s; clusterDefaultPool.%s: true needs one." $family $subnet $family (ternary "172.18.40.0/24" "fd00:db8::/64" (eq $family "4")) $install) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $pool.installIPv4IPPool $pool.installIPv6IPPool (eq $pool.ipv4IPPoolName $pool.ipv6IPPoolName) -}}
{{- fail (printf "clusterDefaultPool.ipv4IPPoolName and clusterDefaultPool.ipv6IPPoolName are both %q: two pools need two names." $pool.ipv4IPPoolName) -}}
{{- end -}}
{{- $timeout := .Values.iaasNetworkProvider.httpRequestTimeout -}}
{{- $seconds := include "spiderpool.seconds" $timeout | float64 -}}
{{- if or (le $seconds 0.0) (ge $seconds 100.0) -}}
{{- fail (printf "iaasNetworkProvider.httpRequestTimeout: %q is not a time like 50s or 1m30s, more than 0 and less than 100s." $timeout) -}}
{{- end -}}
{{- end -}}

{{/* Seconds of a time as the processes read it (50s, 1m30s, 1500ms); 0 for another text. */}}
{{- define "spiderpool.seconds" -}}
{{- $one := `([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)` -}}
{{- $units := dict "ns" 0.000000001 "us" 0.000001 "µs" 0.000001 "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- $seconds := 0.0 -}}
{{- if regexMatch (printf "^(%s)+$" $one) . -}}
{{- range regexFindAll $one . -1 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $seconds = addf $seconds (mulf (float64 $number) (get $units (trimPrefix $number .))) -}}
{{- end -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{- define "spiderpool.validate.controller" -}}
{{- $controller := .Values.spiderpoolController -}}
{{- $budget := $controller.podDisruptionBudget -}}
{{- if and $budget.enabled (not (kindIs "string" $budget.minAvailable)) (ge (int $budget.minAvailable) (int $controller.replicas)) -}}
{{- fail (printf "spiderpoolController.podDisruptionBudget.minAvailable: %d with spiderpoolController.replicas: %d: no controller could ever be moved, and nodes could not be drained. Have more replicas, or no budget." (int $budget.minAvailable) (int $controller.replicas)) -}}
{{- end -}}
{{- include "spiderpool.validate.tls" . -}}
{{- include "spiderpool.validate.ports" . -}}
{{- end -}}

{{- define "spiderpool.validate.tls" -}}
{{- $tls := .Values.spiderpoolController.tls -}}
{{- if eq $tls.method "provided" -}}
{{- range list "tlsCert" "tlsKey" "tlsCa" -}}
{{- if not (index $tls.provided .) -}}
{{- fail (printf "spiderpoolController.tls.provided.%s: empty. Method provided needs tlsCert, tlsKey and tlsCa, each PEM in base64." .) -}}
{{- end -}}
{{- if not (contains "-----BEGIN " (index $tls.provided . | b64dec)) -}}
{{- fail (printf "spiderpoolController.tls.provided.%s is not PEM in base64 (`base64 -w0 FILE`)." .) -}}
{{- end -}}
{{- end -}}
{{- $stored := include "spiderpool.found" (list "v1" "Secret" .Release.Namespace $tls.secretName) | fromJson -}}
{{- if and $stored (ne (dig "metadata" "annotations" "meta.helm.sh/release-name" "" $stored) .Release.Name) -}}
{{- fail (printf "spiderpoolController.tls.secretName: Secret %s/%s was made by the controller (tls.method auto) or by somebody else, and is not replaced: pods may still use it. Set another secretName together with method provided; delete the old Secret afterwards." .Release.Namespace $tls.secretName) -}}
{{- end -}}
{{- else if and (eq $tls.method "certmanager") (not $tls.certmanager.issuerName) -}}
{{- fail "spiderpoolController.tls.certmanager.issuerName: empty. Method certmanager needs the name of an Issuer in the namespace of the release." -}}
{{- end -}}
{{- if eq $tls.method "auto" -}}
{{- if gt (int $tls.auto.certExpiration) (int $tls.auto.caExpiration) -}}
{{- fail (printf "spiderpoolController.tls.auto.certExpiration: %v is more than caExpiration: %v. A certificate cannot outlive its CA." $tls.auto.certExpiration $tls.auto.caExpiration) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Ports of one network: two servers cannot have the same. Agent and controller share it where the controller is on the node. */}}
{{- define "spiderpool.validate.ports" -}}
{{- $taken := dict -}}
{{- $controller := .Values.spiderpoolController -}}
{{- $agent := .Values.spiderpoolAgent -}}
{{- $ports := list
  (list "spiderpoolController.httpPort" $controller.httpPort)
  (list "spiderpoolController.webhookPort" $controller.webhookPort)
  (list "spiderpoolController.prometheus.port" $controller.prometheus.port) -}}
{{- if $controller.hostnetwork -}}
{{- $ports = concat $ports (list
  (list "spiderpoolAgent.httpPort" $agent.httpPort)
  (list "spiderpoolAgent.prometheus.port" $agent.prometheus.port)) -}}
{{- else if eq (int $agent.httpPort) (int $agent.prometheus.port) -}}
{{- fail (printf "spiderpoolAgent.httpPort and spiderpoolAgent.prometheus.port are both %d." (int $agent.httpPort)) -}}
{{- end -}}
{{- range $ports -}}
{{- $port := index . 1 | int | toString -}}
{{- if hasKey $taken $port -}}
{{- fail (printf "%s and %s are both %s: two servers of a node cannot have the same port." (get $taken $port) (index . 0) $port) -}}
{{- end -}}
{{- $_ := set $taken $port (index . 0) -}}
{{- end -}}
{{- end -}}
