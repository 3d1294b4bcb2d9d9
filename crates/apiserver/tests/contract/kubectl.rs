//! An unmodified kubectl. Its tests are marked `kubectl` and run where one is in `PATH`.

use crate::engine::{Api, kubeconfig_path};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// kubectl for one namespace.
pub struct Kubectl {
    namespace: String,
    cache: tempfile::TempDir,
}

/// What a run printed.
pub struct Ran {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Kubectl {
    pub fn new(api: &Api) -> Self {
        Self { namespace: api.namespace.clone(), cache: tempfile::tempdir().unwrap() }
    }

    /// Runs it on a thread that may block; `input` is its stdin.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(kubeconfig_path())
            .arg("--cache-dir")
            .arg(self.cache.path())
            .args(["-n", &self.namespace])
            .args(arguments);
        let input = input.to_owned();
        let child = move || {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("kubectl is in PATH");
            child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("kubectl reads");
            child.wait_with_output().expect("kubectl ends")
        };
        let output = tokio::task::spawn_blocking(child).await.expect("no panic");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    pub async fn ok(&self, arguments: &[&str], input: &str) -> String {
        let ran = self.run(arguments, input).await;
        assert!(ran.ok, "kubectl {arguments:?}: {}{}", ran.out, ran.err);
        ran.out
    }
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: "nginx:1", ports: [{containerPort: 80}]}
      - {name: side, image: "side:1"}
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kubectl"]
async fn apply_creates_changes_and_leaves_alone() {
    let api = Api::new().await;
    let kubectl = Kubectl::new(&api);
    assert_eq!(kubectl.ok(&["apply", "-f", "-"], DEPLOYMENT).await, "deployment.apps/web created\n");
    assert_eq!(kubectl.ok(&["apply", "-f", "-"], DEPLOYMENT).await, "deployment.apps/web unchanged\n");
    let without_side =
        DEPLOYMENT.replace("      - {name: side, image: \"side:1\"}\n", "").replace("nginx:1", "nginx:2");
    assert_eq!(kubectl.ok(&["apply", "-f", "-"], &without_side).await, "deployment.apps/web configured\n");
    let images =
        kubectl.ok(&["get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[*].image}"], "").await;
    assert_eq!(images, "nginx:2");
    let wide = kubectl.ok(&["get", "deploy", "-o", "wide"], "").await;
    let lines: Vec<Vec<&str>> = wide.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]);
    assert_eq!(
        (lines[1][0], lines[1][1], lines[1][5], lines[1][6], lines[1][7]),
        ("web", "0/2", "main", "nginx:2", "app=web")
    );
    assert!(kubectl.ok(&["scale", "deploy/web", "--replicas=3"], "").await.contains("scaled"));
    assert_eq!(kubectl.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"], "").await, "3");
    assert_eq!(kubectl.ok(&["label", "deploy", "web", "tier=front"], "").await, "deployment.apps/web labeled\n");
    assert!(kubectl.ok(&["describe", "deploy", "web"], "").await.contains("Name:                   web"));
    assert!(kubectl.ok(&["delete", "deploy", "web"], "").await.starts_with("deployment.apps \"web\" deleted"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kubectl"]
async fn mistakes_are_refused_with_the_servers_words() {
    let api = Api::new().await;
    let kubectl = Kubectl::new(&api);
    let typo = DEPLOYMENT.replace("replicas: 2", "replica: 2");
    let strict = kubectl.run(&["create", "--validate=strict", "-f", "-"], &typo).await;
    assert!(
        !strict.ok && strict.err.contains("strict decoding error: unknown field \"spec.replica\""),
        "{}",
        strict.err
    );
    let invalid = kubectl
        .run(
            &["apply", "-f", "-"],
            &DEPLOYMENT.replace(
                "template:\n    metadata: {labels: {app: web}}",
                "template:\n    metadata: {labels: {app: other}}",
            ),
        )
        .await;
    assert!(
        !invalid.ok && invalid.err.contains("The Deployment \"web\" is invalid: spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"),
        "{}",
        invalid.err
    );
    let missing = kubectl.run(&["get", "pod", "none"], "").await;
    assert_eq!(missing.err, "Error from server (NotFound): pods \"none\" not found\n");
    let unknown = kubectl.run(&["get", "gadgets"], "").await;
    assert_eq!(unknown.err, "error: the server doesn't have a resource type \"gadgets\"\n");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kubectl"]
async fn custom_resources_are_applied_patched_explained_and_waited_for() {
    let api = Api::new().await;
    let kubectl = Kubectl::new(&api);
    let schema = json!({"type": "object", "description": "A widget.", "properties": {
        "spec": {"type": "object", "description": "What is wanted.", "properties": {"size": {"type": "integer", "description": "How big."}, "list": {"type": "array", "items": {"type": "string"}}}},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}, "conditions": {"type": "array", "items": {"type": "object", "properties": {
            "type": {"type": "string"}, "status": {"type": "string"}}}}}}}});
    let columns = json!([{"name": "SIZE", "type": "integer", "jsonPath": ".spec.size"}, {"name": "FAR", "type": "string", "jsonPath": ".spec.list", "priority": 1}]);
    let group = api.define("Namespaced", json!({"schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}, "additionalPrinterColumns": columns})).await;
    let widgets = format!("widgets.{group}");
    let yaml = format!("apiVersion: {group}/v1\nkind: Widget\nmetadata: {{name: a}}\nspec: {{size: 1, list: [x]}}\n");
    assert_eq!(kubectl.ok(&["apply", "-f", "-"], &yaml).await, format!("widget.{group}/a created\n"));
    assert_eq!(
        kubectl.ok(&["apply", "-f", "-"], &yaml.replace("size: 1", "size: 2")).await,
        format!("widget.{group}/a configured\n")
    );
    let table = kubectl.ok(&["get", &widgets, "-o", "wide"], "").await;
    assert_eq!(table, "NAME   SIZE   FAR\na      2      [\"x\"]\n");
    kubectl.ok(&["patch", &widgets, "a", "--type=merge", "-p", "{\"spec\":{\"size\":5}}"], "").await;
    assert_eq!(kubectl.ok(&["get", &widgets, "a", "-o", "jsonpath={.spec.size}"], "").await, "5");
    let explained = kubectl.ok(&["explain", "widgets.spec.size", "--api-version", &format!("{group}/v1")], "").await;
    assert!(explained.contains("FIELD: size <integer>") && explained.contains("How big."), "{explained}");
    kubectl
        .ok(
            &[
                "patch",
                &widgets,
                "a",
                "--subresource=status",
                "--type=merge",
                "-p",
                "{\"status\":{\"phase\":\"Ready\",\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}",
            ],
            "",
        )
        .await;
    kubectl.ok(&["wait", &format!("{widgets}/a"), "--for=condition=Ready", "--timeout=10s"], "").await;
    kubectl.ok(&["wait", &format!("{widgets}/a"), "--for=jsonpath={.status.phase}=Ready", "--timeout=10s"], "").await;
    let resources = kubectl.ok(&["api-resources", "--api-group", &group, "--no-headers"], "").await;
    assert_eq!(resources.split_whitespace().collect::<Vec<_>>(), ["widgets", &format!("{group}/v1"), "true", "Widget"]);
    let yaml = kubectl.ok(&["get", &widgets, "a", "-o", "yaml"], "").await;
    let object: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(object["kind"], "Widget");
    kubectl.ok(&["delete", &widgets, "a", "--wait=true", "--timeout=20s"], "").await;
    assert!(kubectl.ok(&["get", &widgets], "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kubectl"]
async fn a_service_and_a_pod_look_as_on_a_cluster() {
    let api = Api::new().await;
    let kubectl = Kubectl::new(&api);
    kubectl.ok(&["create", "service", "clusterip", "svc", "--tcp=80:8080"], "").await;
    let line = kubectl.ok(&["get", "svc", "svc", "--no-headers"], "").await;
    let cells: Vec<_> = line.split_whitespace().collect();
    assert_eq!((cells[0], cells[1], cells[3], cells[4]), ("svc", "ClusterIP", "<none>", "80/TCP"));
    assert_eq!(kubectl.ok(&["create", "configmap", "cm", "--from-literal=a=b"], "").await, "configmap/cm created\n");
    assert_eq!(kubectl.ok(&["get", "cm", "cm", "-o", "jsonpath={.data.a}"], "").await, "b");
    let replaced =
        kubectl.ok(&["create", "configmap", "cm", "--from-literal=a=c", "--dry-run=client", "-o", "yaml"], "").await;
    assert_eq!(kubectl.ok(&["replace", "-f", "-"], &replaced).await, "configmap/cm replaced\n");
    let explained = kubectl.ok(&["explain", "pod.spec.containers.image"], "").await;
    assert!(explained.contains("FIELD: image <string>"), "{explained}");
    let dry = kubectl.ok(&["create", "configmap", "dry", "--from-literal=a=b", "--dry-run=server"], "").await;
    assert_eq!(dry, "configmap/dry created (server dry run)\n");
    assert!(!kubectl.run(&["get", "cm", "dry"], "").await.ok);
}
