{{/* The chart's name, or what the user calls it. */}}
{{- define "spiderpool.name" -}}
{{- regexReplaceAll "[-_.]+$" (default .Chart.Name .Values.global.nameOverride | trunc 63) "" -}}
{{- end -}}

{{/* Labels by which a component's pods are selected; they never change over upgrades. Arguments: root, component. */}}
{{- define "spiderpool.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "spiderpool.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* Labels of an object. Arguments: root, component, further labels. */}}
{{- define "spiderpool.labels" -}}
{{- $root := index . 0 -}}
{{- $own := include "spiderpool.selector" (list $root (index . 1)) | fromYaml -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $_ := set $own "app.kubernetes.io/version" ($root.Chart.AppVersion | toString) -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $more := default dict (index . 2) -}}
{{- mergeOverwrite (deepCopy (default dict $root.Values.global.commonLabels)) (deepCopy $more) $own | toYaml -}}
{{- end -}}

{{/* Annotations of an object, with their key; nothing if there are none. Arguments: root, annotations... */}}
{{- define "spiderpool.annotations" -}}
{{- $root := index . 0 -}}
{{- $all := deepCopy (default dict $root.Values.global.commonAnnotations) -}}
{{- range rest . -}}{{- $all = mergeOverwrite $all (deepCopy (default dict .)) -}}{{- end -}}
{{- if $all }}
annotations:
  {{- toYaml $all | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
metadata of an object. A dict: root, component, name; cluster: true for an object without namespace, or namespace where it is not
that of the release; annotations, labels beside the common ones.
*/}}
{{- define "spiderpool.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ default .root.Release.Namespace .namespace }}
{{- end }}
labels:
  {{- include "spiderpool.labels" (list .root .component .labels) | nindent 2 }}
{{- include "spiderpool.annotations" (list .root .annotations) }}
{{- end -}}

{{/* Reference of an image. Arguments: root, image. */}}
{{- define "spiderpool.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := default $image.registry $root.Values.global.imageRegistryOverride -}}
{{- $name := ternary (printf "%s/%s" $registry $image.repository) $image.repository (ne $registry "") -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ default (printf "v%s" $root.Chart.AppVersion) $image.tag }}
{{- end -}}
{{- end -}}

{{/* Image and pull policy of a container. Arguments: root, image. */}}
{{- define "spiderpool.containerImage" -}}
image: {{ include "spiderpool.image" . | quote }}
imagePullPolicy: {{ (index . 1).pullPolicy }}
{{- end -}}

{{/* imagePullSecrets of a pod. Arguments: the lists of its images. */}}
{{- define "spiderpool.pullSecrets" -}}
{{- $all := list -}}
{{- range . -}}{{- $all = concat $all (default list .) -}}{{- end -}}
{{- with uniq $all }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* env of a container: a variable of the user replaces ours of the same name. Arguments: our list as YAML, the user's list. */}}
{{- define "spiderpool.env" -}}
{{- $theirs := default list (index . 1) -}}
{{- $names := list -}}
{{- range $theirs -}}{{- $names = append $names .name -}}{{- end -}}
{{- $all := list -}}
{{- range index . 0 | fromYamlArray -}}{{- if not (has .name $names) -}}{{- $all = append $all . -}}{{- end -}}{{- end -}}
{{- with concat $all $theirs -}}{{ toYaml . }}{{- end -}}
{{- end -}}

{{/* Variables that tell a process which pod it is. */}}
{{- define "spiderpool.podEnv" -}}
- name: SPIDERPOOL_POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: SPIDERPOOL_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end -}}

{{/* Security context of a container that needs nothing: the user's keys go before. Arguments: the user's, ours as YAML. */}}
{{- define "spiderpool.securityContext" -}}
{{- $ours := index . 1 | fromYaml -}}
{{- mergeOverwrite $ours (deepCopy (default dict (index . 0))) | toYaml -}}
{{- end -}}

{{/* Root without any capability: may touch what root owns, and nothing else. */}}
{{- define "spiderpool.plainRoot" -}}
runAsUser: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Root that writes where the node keeps its CNI files: their directories may belong to another user (`kube` with kubespray). */}}
{{- define "spiderpool.nodeWriter" -}}
runAsUser: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: [DAC_OVERRIDE]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* A user that owns nothing. */}}
{{- define "spiderpool.nobody" -}}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The three probes. Arguments: root, healthChecking, port, whether the pod is in the node's network, delay of readiness. */}}
{{- define "spiderpool.probes" -}}
{{- $root := index . 0 -}}
{{- $checks := index . 1 -}}
{{- $port := index . 2 -}}
{{- $onNode := index . 3 -}}
{{- $host := ternary "127.0.0.1" "::1" $root.Values.ipam.enableIPv4 -}}
{{- range $kind := list "startup" "liveness" "readiness" }}
{{ $kind }}Probe:
  httpGet:
    {{- /* A pod with an address of its own is asked at that address: its kubelet's loopback is not its own. */}}
    {{- if $onNode }}
    host: {{ $host | quote }}
    {{- end }}
    path: /v1/runtime/{{ $kind }}
    port: {{ $port }}
    scheme: HTTP
  {{- with index $checks (printf "%sProbe" $kind) }}
  periodSeconds: {{ .periodSeconds }}
  failureThreshold: {{ .failureThreshold }}
  {{- end }}
  timeoutSeconds: 1
  successThreshold: 1
  {{- if eq $kind "liveness" }}
  initialDelaySeconds: 10
  {{- end }}
{{- end }}
{{- end -}}

{{/* Whether the side container writes the node's CNI configuration. */}}
{{- define "spiderpool.isMultus" -}}
{{- if and .Values.multus.multusCNI.install (eq .Values.multus.implementation "multus") }}true{{ end -}}
{{- end -}}
