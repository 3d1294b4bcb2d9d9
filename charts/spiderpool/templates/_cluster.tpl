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
