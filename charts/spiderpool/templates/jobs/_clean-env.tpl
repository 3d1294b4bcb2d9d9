{{/* Environment of the Job that removes what is not Helm's. */}}
{{- define "spiderpool.clean.env" -}}
{{ include "spiderpool.podEnv" . }}
- name: SPIDERPOOL_INIT_NAME
  value: {{ .Values.spiderpoolInit.name | quote }}
- name: SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME
  value: {{ .Values.spiderpoolController.name | quote }}
- name: SPIDERPOOL_TLS_SECRET_NAME
  value: {{ .Values.spiderpoolController.tls.secretName | quote }}
{{- end -}}
