{{/*
Policies for agents: what roles cannot say. An agent's token tells its node since Kubernetes 1.30; before there are none.
*/}}
{{- define "spiderpool.agent.hasPolicies" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}true{{ end -}}
{{- end -}}

{{/* The condition under which a request is an agent's. */}}
{{- define "spiderpool.agent.isAgent" -}}
- name: is-agent
  expression: request.userInfo.username == 'system:serviceaccount:{{ .Release.Namespace }}:{{ .Values.spiderpoolAgent.name }}'
{{- end -}}

{{/* Puts a policy into force. Arguments: root, name of the policy. */}}
{{- define "spiderpool.agent.policyBinding" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  {{- include "spiderpool.metadata" (dict "root" $root "component" $root.Values.spiderpoolAgent.name "name" $name "cluster" true) | nindent 2 }}
spec:
  policyName: {{ $name }}
  validationActions: [Deny]
{{- end -}}

{{/*
Annotation of the agents' pods. A token that an agent got before the cluster's upgrade to 1.30 names no node, and the policies refuse what it
writes: agents are replaced by the same `helm upgrade` that brings the policies.
*/}}
{{- define "spiderpool.agent.policed" -}}
{{- if include "spiderpool.agent.hasPolicies" . -}}
ipam.spidernet.io/own-node-policy: "true"
{{- end -}}
{{- end -}}
