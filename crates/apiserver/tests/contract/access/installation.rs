//! The chart's accounts, roles, bindings and policies in a namespace of their own, and requests in their name.

use crate::engine::{Answer, Api, unique};
use crate::kubectl::Kubectl;
use k8s_api::access::Component;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// What of the chart is about access.
const KINDS: [(&str, &str); 7] = [
    ("ServiceAccount", "/api/v1/namespaces/NAMESPACE/serviceaccounts"),
    ("ClusterRole", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    ("ClusterRoleBinding", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
    ("Role", "/apis/rbac.authorization.k8s.io/v1/namespaces/NAMESPACE/roles"),
    ("RoleBinding", "/apis/rbac.authorization.k8s.io/v1/namespaces/NAMESPACE/rolebindings"),
    ("ValidatingAdmissionPolicy", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"),
    ("ValidatingAdmissionPolicyBinding", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"),
];

/// An installation's accounts. What is cluster-wide is taken away again with `api`.
pub struct Installation {
    pub api: Api,
    pub kubectl: Kubectl,
    suffix: String,
}

impl Installation {
    /// With Multus or multinet, whose rights differ.
    pub async fn new(implementation: &str) -> Self {
        let api = Api::new().await;
        let kubectl = Kubectl::new(&api);
        let all = Self { api, kubectl, suffix: unique() };
        let version = all.api.get("/version").await.ok()["gitVersion"].as_str().unwrap().to_owned();
        let (namespace, values) = (all.api.namespace.clone(), all.values(implementation));
        let rendered = tokio::task::spawn_blocking(move || render(&namespace, &version, &values)).await.unwrap();
        for (kind, path) in KINDS {
            for object in rendered.iter().filter(|object| object["kind"] == kind) {
                all.api.post(&path.replace("NAMESPACE", &all.api.namespace), object).await.ok();
            }
        }
        all
    }

    /// Names that no other installation has.
    fn values(&self, implementation: &str) -> Value {
        let name = |what: &str| json!(self.name(what));
        json!({
            "spiderpoolAgent": {"name": name("agent")},
            "spiderpoolController": {"name": name("controller"), "tls": {"secretName": name("tls")}},
            "spiderpoolInit": {"name": name("init")},
            "multus": {"implementation": implementation, "multusCNI": {"name": name("multus")}},
        })
    }

    /// The name of one of the installation's objects.
    pub fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.suffix)
    }

    /// The account that a component runs under.
    pub fn account(&self, component: Component) -> String {
        let name = match component {
            Component::Agent | Component::AgentMultus | Component::AgentMultinet | Component::AgentUpstream => {
                self.name("agent")
            }
            Component::Controller | Component::ControllerCertificates => self.name("controller"),
            Component::Init => self.name("init"),
            Component::Crds => format!("{}-crds", self.name("controller")),
            Component::Clean => format!("{}-hook-pre-delete", self.name("controller")),
        };
        format!("system:serviceaccount:{}:{name}", self.api.namespace)
    }

    /// A name of the table as this installation renders it.
    pub fn rendered(&self, name: &str) -> String {
        let known = [
            ("{{ .Values.spiderpoolController.name }}", self.name("controller")),
            ("{{ .Values.spiderpoolController.tls.secretName }}", self.name("tls")),
            ("{{ .Values.spiderpoolInit.name }}", self.name("init")),
            (r#"{{ .Values.global.ciliumConfigMap | splitList "/" | last }}"#, "cilium-config".to_owned()),
        ];
        let found = known.into_iter().find(|(template, _)| *template == name).map(|(_, rendered)| rendered);
        assert!(found.is_some() || !name.contains("{{"), "what is {name}?");
        found.unwrap_or_else(|| name.to_owned())
    }

    /// One request of an agent whose token names `node`, or none.
    pub async fn as_agent(&self, node: Option<&str>, method: &str, path: &str, body: &Value) -> Answer {
        let account = self.account(Component::Agent);
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut headers = vec![("content-type", media), ("Impersonate-User", account.as_str())];
        headers.extend(node.map(|node| ("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", node)));
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.api.call(method, path, &headers, body).await
    }
}

/// The chart as Helm renders it, hooks included.
fn render(namespace: &str, version: &str, values: &Value) -> Vec<Value> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/spiderpool");
    let mut helm = Command::new("helm");
    helm.args(["template", "sp", "--namespace", namespace, "--kube-version", version, "-f", "-"]).arg(chart);
    let child = helm.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("helm is in PATH in the lane `contract`");
    child.stdin.take().unwrap().write_all(values.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = text.split("\n---\n").map(|one| one.trim_start_matches("---\n"));
    documents.filter(|one| !one.trim().is_empty()).map(|one| serde_saphyr::from_str(one).unwrap()).collect()
}
