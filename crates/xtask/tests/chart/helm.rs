//! Runs `helm template` and finds things in what it renders.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The version of Kubernetes that is rendered for.
const KUBERNETES: &str = "1.36.0";

/// The chart's folder.
pub fn chart() -> PathBuf {
    root().join("charts/spiderpool")
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// A file of the chart.
pub fn file(path: &str) -> String {
    std::fs::read_to_string(chart().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A YAML text as a value.
pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("not YAML: {error}\n{text}"))
}

fn program() -> PathBuf {
    if let Some(given) = std::env::var_os("SPIDERPOOL_HELM") {
        return given.into();
    }
    if let Some(dir) = std::env::var_os("SPIDERPOOL_KUBERNETES_DIR") {
        return Path::new(&dir).join("helm");
    }
    "helm".into()
}

/// The objects that these values lead to, hooks included.
pub struct Rendered(pub Vec<Value>);

/// Renders the chart with `values` (YAML), or says why Helm refuses.
pub fn try_render(values: &str) -> Result<Rendered, String> {
    try_render_for(KUBERNETES, values)
}

/// The same for a version of Kubernetes.
pub fn try_render_for(kubernetes: &str, values: &str) -> Result<Rendered, String> {
    template(&chart(), kubernetes, values)
}

fn template(chart: &Path, kubernetes: &str, values: &str) -> Result<Rendered, String> {
    let text = run(&["template", "sp", "--kube-version", kubernetes], chart, values)?;
    let documents =
        text.split("\n---\n").map(|one| one.trim_start_matches("---\n")).filter(|one| !one.trim().is_empty());
    Ok(Rendered(documents.map(yaml).filter(|object| !object.is_null()).collect()))
}

/// A cluster that has these objects, each by kind and name (`Secret/a`).
pub struct Cluster(tempfile::TempDir);

impl Cluster {
    /// The chart, with these objects as what `lookup` finds: without a cluster Helm finds nothing.
    pub fn with(objects: &Value) -> Self {
        let copy = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-r").arg(chart().join(".")).arg(copy.path()).status().unwrap();
        assert!(copied.success());
        let path = copy.path().join("templates/_cluster.tpl");
        let asked = "lookup (index . 0) (index . 1) (index . 2) (index . 3)";
        let answer = format!(r#"get (fromJson `{objects}`) (printf "%s/%s" (index . 1) (index . 3))"#);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(asked), "{text}");
        std::fs::write(&path, text.replace(asked, &answer)).unwrap();
        Self(copy)
    }

    /// What comes into it.
    pub fn render(&self, values: &str) -> Rendered {
        self.try_render(values).unwrap_or_else(|error| panic!("helm refuses {values:?}: {error}"))
    }

    /// The same, or why Helm refuses.
    pub fn try_render(&self, values: &str) -> Result<Rendered, String> {
        template(self.0.path(), KUBERNETES, values)
    }

    /// What Helm tells the user.
    pub fn notes(&self, values: &str) -> String {
        let text = run(&["install", "sp", "--dry-run=client"], self.0.path(), values).unwrap();
        text.split_once("\nNOTES:").unwrap().1.to_owned()
    }
}

fn run(args: &[&str], chart: &Path, values: &str) -> Result<String, String> {
    let mut helm = Command::new(program());
    helm.args(args).args(["--namespace", "kube-system", "-f", "-"]).arg(chart);
    let mut child =
        helm.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!(
                "cannot start {}: {error} (`cargo xtask test chart` finds Helm, or says why not)",
                program().display()
            )
        });
    child.stdin.take().unwrap().write_all(values.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

/// What `helm lint --strict` says.
pub fn lint() -> Result<(), String> {
    let output = Command::new(program()).args(["lint", "--strict"]).arg(chart()).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
}

/// Renders the chart with `values` (YAML).
pub fn render(values: &str) -> Rendered {
    try_render(values).unwrap_or_else(|error| panic!("helm refuses {values:?}: {error}"))
}

/// Why Helm refuses `values`.
pub fn refusal(values: &str) -> String {
    match try_render(values) {
        Ok(_) => panic!("helm takes {values:?}"),
        Err(text) => text,
    }
}

impl Rendered {
    /// The objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The object of this kind and name, if there is one.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    /// The object of this kind and name.
    pub fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// The agent's DaemonSet.
    pub fn agent(&self) -> &Value {
        self.get("DaemonSet", "spiderpool-agent")
    }

    /// The controller's Deployment.
    pub fn controller(&self) -> &Value {
        self.get("Deployment", "spiderpool-controller")
    }

    /// The Job of the defaults.
    pub fn init(&self) -> &Value {
        self.get("Job", "spiderpool-init")
    }

    /// `conf.yml`.
    pub fn conf(&self) -> Value {
        yaml(self.get("ConfigMap", "spiderpool-conf")["data"]["conf.yml"].as_str().unwrap())
    }
}

/// The specification of the pods of a DaemonSet, Deployment or Job.
pub fn pod(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]
}

/// A container (or init container) of its pods, if there is one.
pub fn try_container<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    containers(object).into_iter().find(|container| container["name"] == name)
}

/// A container (or init container) of its pods.
pub fn container<'a>(object: &'a Value, name: &str) -> &'a Value {
    try_container(object, name).unwrap_or_else(|| panic!("there is no container {name}"))
}

/// All containers of its pods, init containers first.
pub fn containers(object: &Value) -> Vec<&Value> {
    let of = |key: &str| pod(object)[key].as_array().into_iter().flatten();
    of("initContainers").chain(of("containers")).collect()
}

/// The value of a variable of a container, if it is set to a text.
pub fn env<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    container["env"].as_array()?.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}

/// The elements of a list of texts.
pub fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
