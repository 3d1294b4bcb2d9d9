//! The server under test and a client that shows answers as they are.

use apiserver::listen::{Tokens, serve};
use apiserver::tls::{Identity, kubeconfig};
use apiserver::{Options, Server};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The path of definitions.
pub const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How long any single answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Events of a kind that the forgetful embedded server keeps.
const SHORT_HISTORY: usize = 16;

/// The server under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Embedded,
    /// Somebody else's, by its kubeconfig.
    KubeApiserver,
}

fn given() -> Option<PathBuf> {
    std::env::var_os("CONTRACT_KUBECONFIG").map(PathBuf::from)
}

pub fn engine() -> Engine {
    if given().is_some() { Engine::KubeApiserver } else { Engine::Embedded }
}

/// The kubeconfig of the server under test; the embedded server is started by the first who asks.
pub fn kubeconfig_path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| given().unwrap_or_else(|| embedded(Options::default()))).clone()
}

/// The same; the embedded one is another that keeps a short history.
fn forgetful_kubeconfig_path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let options = || Options { history: SHORT_HISTORY, ..Options::default() };
    PATH.get_or_init(|| given().unwrap_or_else(|| embedded(options()))).clone()
}

/// Starts the embedded server on a thread of its own: it outlives the runtimes of single tests and ends with the
/// process.
fn embedded(options: Options) -> PathBuf {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let identity = Identity::open(dir.path(), &["127.0.0.1".to_owned()]).unwrap();
            let path = dir.path().join("kubeconfig");
            std::fs::write(&path, kubeconfig(&format!("https://{address}"), &identity.ca_pem, "secret")).unwrap();
            let server = Server::open(Options { advertise: address, ..options }).await.unwrap();
            ready.send(path).unwrap();
            serve(server, listener, Some(identity.config), Tokens::parse("secret"), CancellationToken::new()).await;
        });
    });
    started.recv().expect("the embedded server starts")
}

/// One test's view of the server.
pub struct Api {
    /// For what the typed client does better.
    pub client: Client,
    /// A namespace of its own.
    pub namespace: String,
    /// Paths of what outlives the test unless it is deleted.
    made: Mutex<Vec<String>>,
}

async fn connect(kubeconfig: PathBuf) -> Client {
    Client::try_from(config(kubeconfig).await).expect("a client")
}

/// A client that only trusts the server: who it is, its requests say.
pub async fn without_credentials() -> Client {
    let mut config = config(kubeconfig_path()).await;
    config.auth_info = Default::default();
    Client::try_from(config).expect("a client")
}

async fn config(kubeconfig: PathBuf) -> Config {
    let file = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
    config.default_retry = false; // answers are looked at as they are, 504 too
    config
}

impl Drop for Api {
    /// Takes back what the test made on a server that outlives it.
    fn drop(&mut self) {
        if engine() == Engine::Embedded {
            return;
        }
        let paths = std::mem::take(self.made.get_mut().expect("nothing panics while it holds the list"));
        let clean = async move {
            let client = connect(kubeconfig_path()).await;
            for path in paths {
                let request = http::Request::delete(&path).body(Body::empty()).expect("a path makes a request");
                if let Err(error) = client.send(request).await {
                    eprintln!("{path} is left behind: {error}");
                }
            }
        };
        // The runtime of the test is busy with this drop.
        let cleaned = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(clean);
        });
        if cleaned.join().is_err() {
            eprintln!("namespace {} and its definitions are left behind", self.namespace);
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// The JSON body.
    pub body: Value,
    /// Texts of `Warning` headers.
    pub warnings: Vec<String>,
}

impl Answer {
    /// `(code, reason, message)` of a refusal.
    pub fn refusal(&self) -> (u16, &str, &str) {
        assert_eq!(self.body["kind"], "Status", "{self:?}");
        (self.code, self.body["reason"].as_str().unwrap_or_default(), self.body["message"].as_str().unwrap_or_default())
    }

    /// `(field, message)` of each cause.
    pub fn causes(&self) -> Vec<(&str, &str)> {
        let causes = self.body["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
        causes
            .iter()
            .map(|c| (c["field"].as_str().unwrap_or_default(), c["message"].as_str().unwrap_or_default()))
            .collect()
    }

    /// The body of an answer that must be a success.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{self:#?}");
        self.body
    }
}

/// One request of any client.
pub async fn call(client: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let sent = client.send(request.body(Body::from(body)).unwrap());
    let response = tokio::time::timeout(PATIENCE, sent).await.expect("an answer in time").expect("an answer");
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter().filter_map(|w| w.to_str().ok()).map(warning).collect();
    let whole = tokio::time::timeout(PATIENCE, response.into_body().collect_bytes());
    let bytes = whole.await.expect("a whole answer in time").expect("a whole answer");
    let body =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code, body, warnings }
}

impl Api {
    /// Connects and makes the namespace.
    pub async fn new() -> Self {
        Self::of(kubeconfig_path()).await
    }

    /// The same on a server that can be made to forget ([`Self::forget_events`]).
    pub async fn forgetful() -> Self {
        Self::of(forgetful_kubeconfig_path()).await
    }

    async fn of(kubeconfig: PathBuf) -> Self {
        let client = connect(kubeconfig).await;
        let namespace = format!("t-{}", unique());
        let api = Self { client, namespace, made: Mutex::default() };
        api.post(
            "/api/v1/namespaces",
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": api.namespace}}),
        )
        .await
        .ok();
        api
    }

    /// The path of a resource in the namespace: `maps("configmaps")`.
    pub fn core(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.namespace)
    }

    /// One request.
    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        call(&self.client, method, path, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], Vec::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let answer =
            self.call("POST", path, &[("content-type", "application/json")], body.to_string().into_bytes()).await;
        // What is in the namespace goes with it.
        if answer.code == 201
            && !path.contains("/namespaces/")
            && let Some(name) = answer.body["metadata"]["name"].as_str()
        {
            self.made.lock().unwrap().push(format!("{path}/{name}"));
        }
        answer
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path, &[("content-type", "application/json")], body.to_string().into_bytes()).await
    }

    /// `kind` is `json`, `merge` or `strategic-merge`.
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let media_type = format!("application/{kind}-patch+json");
        self.call("PATCH", path, &[("content-type", &media_type)], body.to_string().into_bytes()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, &[], Vec::new()).await
    }

    /// The table form.
    pub async fn table(&self, path: &str) -> Value {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        self.call("GET", path, &[("accept", accept)], Vec::new()).await.ok()
    }

    /// Makes the server forget what Events were before now: etcd is compacted, the embedded server's history overflows.
    pub async fn forget_events(&self) {
        let filler = self.post(&self.core("events"), &event(&self.namespace, &unique())).await.ok();
        if engine() == Engine::Embedded {
            let path = self.core(&format!("events/{}", filler["metadata"]["name"].as_str().unwrap()));
            for count in 1..=SHORT_HISTORY {
                self.patch(&path, "merge", &json!({"count": count})).await.ok();
            }
            return;
        }
        let url = std::env::var("CONTRACT_ETCD").expect("CONTRACT_ETCD: where the cluster's etcd takes requests");
        let etcd = Client::try_from(Config::new(url.parse().expect("a URL"))).expect("a client");
        let order = json!({"revision": filler["metadata"]["resourceVersion"], "physical": true}).to_string();
        let json = [("content-type", "application/json")];
        call(&etcd, "POST", "/v3/kv/compaction", &json, order.into_bytes()).await.ok();
    }

    /// Polls a path until the condition holds.
    pub async fn until(&self, path: &str, what: &str, holds: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get(path).await;
            if holds(&answer) {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "not within 20 s: {what}: {answer:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Creates a definition in a group of its own and waits until it is served. Returns the group.
    pub async fn define(&self, scope: &str, version: Value) -> String {
        let group = format!("g{}.example.org", unique());
        let mut version = version;
        version["name"] = "v1".into();
        version["served"] = true.into();
        version["storage"] = true.into();
        let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("widgets.{group}")},
            "spec": {"group": group, "scope": scope, "names": {"plural": "widgets", "kind": "Widget"}, "versions": [version]}});
        self.post(CRDS, &crd).await.ok();
        self.until(&format!("/apis/{group}/v1/widgets"), "the definition is served", |a| a.code == 200).await;
        group
    }

    /// The path of widgets in the namespace.
    pub fn widgets(&self, group: &str) -> String {
        format!("/apis/{group}/v1/namespaces/{}/widgets", self.namespace)
    }
}

/// `299 - "text"`.
fn warning(header: &str) -> String {
    let text = header.split_once('"').map_or(header, |(_, text)| text);
    text.strip_suffix('"').unwrap_or(text).replace("\\\"", "\"")
}

/// A widget.
pub fn widget(group: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// A config map.
pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

/// An Event.
pub fn event(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "reason": "Tested", "type": "Normal",
        "involvedObject": {"kind": "ConfigMap", "namespace": namespace, "name": "a"}})
}

/// A name that nobody else has.
pub fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..10].to_owned()
}
