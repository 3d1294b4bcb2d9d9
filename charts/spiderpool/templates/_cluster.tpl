{{/*
What the cluster has already: an upgrade takes nothing from pods that still run. Rendering without a cluster (`helm template`) finds nothing.
*/}}

{{/* An object as JSON, {} if there is none. Arguments: API version, kind, namespace, name. */}}
{{- define "spiderpool.found" -}}
{{- lookup (index . 0) (index . 1) (index . 2) (index . 3) | default dict | toJson -}}
{{- end -}}

{{/*
What agents run beside ours until they are replaced, as JSON: `upstream`, whether some are upstream's; `implementation`, the other one that
writes pods' network status, if there is one. The DaemonSet tells what this upgrade replaces. An earlier upgrade whose roll-out goes on has
left the roles: those stay.
*/}}
{{- define "spiderpool.before" -}}
{{- $agent := .Values.spiderpoolAgent.name -}}
{{- $multus := .Values.multus.multusCNI -}}
{{- $other := ternary "multinet" "multus" (eq .Values.multus.implementation "multus") -}}
{{- $upstream := false -}}
{{- $changes := false -}}
{{- $set := include "spiderpool.found" (list "apps/v1" "DaemonSet" .Release.Namespace $agent) | fromJson -}}
{{- if $set -}}
{{- $upstream = not (hasKey (dig "spec" "template" "metadata" "labels" dict $set) "ipam.spidernet.io/source") -}}
{{- range dig "spec" "template" "spec" "containers" list $set -}}
{{- if eq .name "multus-cni" -}}
{{- $changes = eq $other (ternary "multinet" "multus" (has "--implementation=multinet" (default list .args))) -}}
{{- end -}}
{{- end -}}
{{- $replaced := and (eq (dig "metadata" "generation" 0 $set | int) (dig "status" "observedGeneration" 0 $set | int)) (ge (dig "status" "updatedNumberScheduled" 0 $set | int) (dig "status" "currentNumberScheduled" 0 $set | int)) -}}
{{- if not $replaced -}}
{{- $left := "rbac.authorization.k8s.io/v1" -}}
{{- $upstream = or $upstream (ne "{}" (include "spiderpool.found" (list $left "ClusterRole" "" (printf "%s-upstream" $agent)))) -}}
{{- $changes = or $changes (ne "{}" (include "spiderpool.found" (list $left "ClusterRole" "" (printf "%s-%s" $multus.name $other)))) -}}
{{- end -}}
{{- end -}}
{{- dict "upstream" $upstream "implementation" (ternary $other "" (and $multus.install $changes)) | toJson -}}
{{- end -}}

{{/*
Another release's agents, if the cluster has some: `release "NAME" in namespace NAMESPACE (DaemonSet NAMESPACE/NAME)`. Whatever is named by values, the
labels are the chart's, ours and upstream's; only our agents' pods bear the label of their source.
*/}}
{{- define "spiderpool.other" -}}
{{- $sets := include "spiderpool.found" (list "apps/v1" "DaemonSet" "" "") | fromJson -}}
{{- $others := list -}}
{{- range dig "items" list $sets -}}
{{- $labels := dig "metadata" "labels" dict . | default dict -}}
{{- $ofPods := dig "spec" "template" "metadata" "labels" dict . | default dict -}}
{{- $named := eq (dig "app.kubernetes.io/name" "" $labels) "spiderpool" -}}
{{- $charted := regexMatch "^spiderpool-v?[0-9]" (dig "helm.sh/chart" "" $labels) -}}
{{- $annotations := dig "metadata" "annotations" dict . | default dict -}}
{{- $release := dig "meta.helm.sh/release-name" "" $annotations -}}
{{- $namespace := dig "meta.helm.sh/release-namespace" "" $annotations -}}
{{- $ours := and (eq $release $.Release.Name) (eq $namespace $.Release.Namespace) -}}
{{- if and (or $named $charted (hasKey $ofPods "ipam.spidernet.io/source")) $release (not $ours) -}}
{{- $others = append $others (printf "release %q in namespace %s (DaemonSet %s/%s)" $release $namespace .metadata.namespace .metadata.name) -}}
{{- end -}}
{{- end -}}
{{- join ", " $others -}}
{{- end -}}
