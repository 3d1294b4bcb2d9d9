//! A webhook server over TLS that the server under test calls, and configurations that name it.
//!
//! It listens on the loopback: a real kube-apiserver is in the same network (`cargo xtask test contract`).

use crate::engine::{Api, config_map, unique};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The kinds of configurations.
pub const MUTATING: &str = "MutatingWebhookConfiguration";
pub const VALIDATING: &str = "ValidatingWebhookConfiguration";

/// What a webhook says: members of the review's response, by the path of its URL and the review's request.
/// `None` never answers.
pub type Verdict = fn(&str, &Value) -> Option<Value>;

/// Agrees with everything.
pub fn allow(_path: &str, _request: &Value) -> Option<Value> {
    Some(json!({}))
}

/// The response's part that changes an object.
pub fn change(operations: Value) -> Value {
    json!({"patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

/// One test's webhooks. They see config maps of the test's namespace that carry its label.
pub struct Hooks {
    port: u16,
    ca_bundle: String,
    label: String,
    served: Arc<Served>,
}

struct Served {
    verdict: Verdict,
    /// Path and request of each call.
    asked: Mutex<Vec<(String, Value)>>,
}

async fn answer(State(served): State<Arc<Served>>, uri: http::Uri, Json(review): Json<Value>) -> Response {
    let request = &review["request"];
    served.asked.lock().unwrap().push((uri.path().to_owned(), request.clone()));
    let Some(more) = (served.verdict)(uri.path(), request) else { return std::future::pending().await };
    let mut response = json!({"uid": request["uid"], "allowed": true});
    json_patch::merge(&mut response, &more);
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})).into_response()
}

impl Hooks {
    pub async fn start(verdict: Verdict) -> Self {
        let pair = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(pair.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Arc::new(Served { verdict, asked: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(served.clone());
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router);
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // The caller may go away at any time.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, ca_bundle: STANDARD.encode(pair.cert.pem()), label: unique(), served }
    }

    /// Where a webhook is.
    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    /// A webhook of a configuration: named after its path, asked about creations; `more` is merged in.
    pub fn hook(&self, api: &Api, path: &str, more: &Value) -> Value {
        let mut hook = json!({
            "name": format!("{}.example.org", path.trim_start_matches('/').replace('/', ".")),
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": self.url(path), "caBundle": self.ca_bundle},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": api.namespace}},
            "objectSelector": {"matchLabels": {"hooked": self.label}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}],
        });
        json_patch::merge(&mut hook, more);
        hook
    }

    /// Writes a configuration; its name begins with `prefix`. Returns its path.
    pub async fn configure(&self, api: &Api, kind: &str, prefix: &str, hooks: &[Value]) -> String {
        let name = format!("{prefix}-{}", unique());
        let path = format!("/apis/admissionregistration.k8s.io/v1/{}s", kind.to_lowercase());
        let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": hooks});
        api.post(&path, &body).await.ok();
        format!("{path}/{name}")
    }

    /// A config map that the webhooks see.
    pub fn map(&self, name: &str) -> Value {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"hooked": self.label});
        map
    }

    /// Waits until the webhook at `path` is asked: a real server takes a moment to learn of a configuration.
    pub async fn in_force(&self, api: &Api, path: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.asked(path).is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "the webhook {path} takes effect");
            let probe = format!("{}?dryRun=All", api.core("configmaps"));
            api.post(&probe, &self.map(&format!("probe-{}", unique()))).await;
        }
    }

    /// The requests that the webhook at `path` was asked about.
    pub fn asked(&self, path: &str) -> Vec<Value> {
        let asked = self.served.asked.lock().unwrap();
        asked.iter().filter(|(at, _)| at == path).map(|(_, request)| request.clone()).collect()
    }

    /// The webhooks that were asked about an object, in order.
    pub fn asked_about(&self, name: &str) -> Vec<String> {
        let asked = self.served.asked.lock().unwrap();
        asked.iter().filter(|(_, request)| request["name"] == name).map(|(path, _)| path.clone()).collect()
    }
}
