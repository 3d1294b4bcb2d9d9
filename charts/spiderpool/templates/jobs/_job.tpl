{{/*
A Job of a hook. A dict: root, name, account, command, args, env (ours, as YAML), extraEnv, securityContext (the user's), image, cniConf
(whether it reads the node's CNI configurations), hook annotations.
*/}}
{{- define "spiderpool.job" -}}
{{- $root := .root -}}
{{- $controller := $root.Values.spiderpoolController -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "spiderpool.metadata" (dict "root" $root "component" .account "name" .name "annotations" .hook) | nindent 2 }}
spec:
  backoffLimit: {{ .backoffLimit }}
  template:
    metadata:
      labels:
        {{- include "spiderpool.labels" (list $root .account dict) | nindent 8 }}
    spec:
      serviceAccountName: {{ .account }}
      {{- include "spiderpool.pullSecrets" (list .image.imagePullSecrets) | nindent 6 }}
      restartPolicy: Never
      # The node's network: there may be no other before the first install, and none after the last pool is gone.
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      priorityClassName: {{ $controller.priorityClassName | quote }}
      {{- with $controller.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $controller.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .account }}
          {{- include "spiderpool.containerImage" (list $root .image) | nindent 10 }}
          command:
            - {{ .command | quote }}
          {{- with .args }}
          args:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          env:
            {{- include "spiderpool.env" (list .env .extraEnv) | nindent 12 }}
          resources:
            requests:
              cpu: 10m
              memory: 30Mi
          securityContext:
            {{- $ours := ternary (include "spiderpool.plainRoot" $root) (include "spiderpool.nobody" $root) .cniConf }}
            {{- include "spiderpool.securityContext" (list .securityContext $ours) | nindent 12 }}
      {{- if .cniConf }}
          volumeMounts:
            - name: cni-conf
              mountPath: {{ $root.Values.global.cniConfHostPath }}
              readOnly: true
      volumes:
        - name: cni-conf
          hostPath:
            path: {{ $root.Values.global.cniConfHostPath }}
            type: DirectoryOrCreate
      {{- end }}
{{- end -}}

{{/*
Service account and roles of a hook's Job: hooks themselves, because what is not a hook comes later (or is gone). A dict: root, account,
file, hook (name of the hook).
*/}}
{{- define "spiderpool.hookIdentity" -}}
{{- $hook := dict "helm.sh/hook" .hook "helm.sh/hook-weight" "-5" "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "spiderpool.metadata" (dict "root" .root "component" .account "name" .account "annotations" $hook) | nindent 2 }}
{{- include "spiderpool.roles" (dict "root" .root "account" .account "role" .account "file" .file "annotations" $hook) }}
{{- end -}}
