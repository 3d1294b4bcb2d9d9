{{/*
The kinds that the controller admits with these values, as a JSON list: kind, plural, whether deletions are looked at, whether it is only
asked to judge.
*/}}
{{- define "spiderpool.kinds" -}}
{{- $guard := .Values.spiderpoolController.enableValidatingResourcesDeletedWebhook -}}
{{- $kinds := list
  (dict "kind" "spiderippool" "plural" "spiderippools" "delete" $guard)
  (dict "kind" "spiderreservedip" "plural" "spiderreservedips" "delete" false)
  (dict "kind" "spidersubnet" "plural" "spidersubnets" "delete" $guard "judge" true) -}}
{{- if .Values.coordinator.enabled -}}
{{- $kinds = append $kinds (dict "kind" "spidercoordinator" "plural" "spidercoordinators" "delete" false) -}}
{{- end -}}
{{- if .Values.multus.enableMultusConfig -}}
{{- $kinds = append $kinds (dict "kind" "spidermultusconfig" "plural" "spidermultusconfigs" "delete" false) -}}
{{- end -}}
{{- toJson $kinds -}}
{{- end -}}

{{/* One webhook of a Spiderpool kind. A dict: root, verb (mutate or validate), kind. Status is a resource of its own: nothing asks for it. */}}
{{- define "spiderpool.webhook" -}}
- name: {{ .kind.kind }}.spiderpool.spidernet.io
  {{- include "spiderpool.webhookClient" (list .root (printf "/%s-spiderpool-spidernet-io-v2beta1-%s" .verb .kind.kind)) | nindent 2 }}
  rules:
    - apiGroups: [spiderpool.spidernet.io]
      apiVersions: [v2beta1]
      resources: [{{ .kind.plural }}]
      operations:
        - CREATE
        - UPDATE
        {{- if and .kind.delete (eq .verb "validate") }}
        - DELETE
        {{- end }}
{{- end -}}

{{/* What all webhooks have in common. The caBundle is the controller's field (or cert-manager's): it stays out. Arguments: root, path. */}}
{{- define "spiderpool.webhookClient" -}}
{{- $root := index . 0 -}}
admissionReviewVersions: [v1]
sideEffects: None
failurePolicy: Fail
timeoutSeconds: 5
clientConfig:
  service:
    name: {{ $root.Values.spiderpoolController.name }}
    namespace: {{ $root.Release.Namespace }}
    port: {{ $root.Values.spiderpoolController.webhookPort }}
    path: {{ index . 1 }}
{{- end -}}
