{{/* Rules of files/rbac. A dict: root, file, scope (cluster or release). */}}
{{- define "spiderpool.rules" -}}
{{- $rules := tpl (.root.Files.Get (printf "files/rbac/%s.yaml" .file)) .root | fromYaml -}}
{{- with index $rules .scope }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/*
ClusterRole and Role of a component, as far as it has rules, with their bindings. A dict: root, account (service account), role (name of
the roles), file (in files/rbac), annotations.
*/}}
{{- define "spiderpool.roles" -}}
{{- $arguments := . -}}
{{- range $scope, $prefix := dict "cluster" "Cluster" "release" "" }}
{{- $rules := include "spiderpool.rules" (merge (dict "scope" $scope) $arguments) }}
{{- if $rules }}
{{- $metadata := include "spiderpool.metadata" (dict "root" $arguments.root "component" $arguments.account "name" $arguments.role "cluster" (eq $scope "cluster") "annotations" $arguments.annotations) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $prefix }}Role
metadata:
  {{- $metadata | nindent 2 }}
rules:
  {{- $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $prefix }}RoleBinding
metadata:
  {{- $metadata | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $prefix }}Role
  name: {{ $arguments.role }}
subjects:
  - kind: ServiceAccount
    name: {{ $arguments.account }}
    namespace: {{ $arguments.root.Release.Namespace }}
{{- end }}
{{- end }}
{{- end -}}
