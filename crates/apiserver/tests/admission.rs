//! Webhooks over TLS.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use apiserver::{Options, Server};
use axum::extract::State;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

/// A webhook server: answers by path, remembers what it was asked.
struct Webhooks {
    port: u16,
    ca_bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

async fn answer(
    State(asked): State<Arc<Mutex<Vec<Value>>>>,
    uri: axum::http::Uri,
    Json(review): Json<Value>,
) -> Json<Value> {
    asked.lock().unwrap().push(review.clone());
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    match uri.path() {
        "/label" => {
            let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"by": "webhook"}}]);
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch.to_string()).into();
            response["warnings"] = json!(["mind the gap"]);
        }
        "/deny" => {
            response["allowed"] = false.into();
            response["status"] = json!({"message": "no such luck", "code": 403, "reason": "Forbidden"});
        }
        "/slow" => std::future::pending().await,
        _ => {}
    }
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

impl Webhooks {
    async fn start() -> Self {
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
        let asked = Arc::new(Mutex::new(Vec::new()));
        let router = Router::new().fallback(answer).with_state(asked.clone());
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router);
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, ca_bundle: STANDARD.encode(pair.cert.pem()), asked }
    }

    fn hook(&self, path: &str, more: Value) -> Value {
        let mut hook = json!({
            "name": "test.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.ca_bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE", "DELETE"]}],
        });
        json_patch::merge(&mut hook, &more);
        hook
    }
}

struct Cluster {
    client: Client,
    webhooks: Webhooks,
}

impl Cluster {
    async fn start() -> Self {
        let server = Server::open(Options::default()).await.unwrap();
        Self { client: Client::new(server.router(), "default"), webhooks: Webhooks::start().await }
    }

    async fn configure(&self, kind: &str, hook: Value) {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind));
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "test"}, "webhooks": [hook]});
        let _ = api.delete("test", &DeleteParams::default()).await;
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    async fn create(&self, name: &str) -> Result<ConfigMap, kube::core::Status> {
        let api: Api<ConfigMap> = Api::default_namespaced(self.client.clone());
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        api.create(&PostParams::default(), &map).await.map_err(|error| match error {
            kube::Error::Api(status) => *status,
            other => panic!("{other}"),
        })
    }
}

const MUTATING: &str = "MutatingWebhookConfiguration";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

#[tokio::test]
async fn a_mutating_webhook_changes_what_is_stored() {
    let cluster = Cluster::start().await;
    cluster.configure(MUTATING, cluster.webhooks.hook("/label", json!({}))).await;
    let made = cluster.create("x").await.unwrap();
    assert_eq!(made.metadata.labels.unwrap()["by"], "webhook");
    let asked = cluster.webhooks.asked.lock().unwrap().clone();
    let request = &asked[0]["request"];
    assert_eq!(
        (&request["operation"], &request["name"], &request["namespace"]),
        (&json!("CREATE"), &json!("x"), &json!("default"))
    );
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert!(request["object"]["metadata"]["uid"].is_string() && request["oldObject"].is_null());
}

#[tokio::test]
async fn a_denial_reaches_the_client_with_its_code_and_text() {
    let cluster = Cluster::start().await;
    cluster.configure(VALIDATING, cluster.webhooks.hook("/deny", json!({}))).await;
    let refused = cluster.create("x").await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (403, "Forbidden"));
    assert_eq!(refused.message, "admission webhook \"test.example.com\" denied the request: no such luck");
}

#[tokio::test]
async fn a_dead_webhook_fails_the_request_unless_told_to_be_ignored() {
    let cluster = Cluster::start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = json!({"clientConfig": {"url": format!("https://127.0.0.1:{nobody}/x")}});
    cluster.configure(VALIDATING, cluster.webhooks.hook("/", url.clone())).await;
    let refused = cluster.create("x").await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (500, "InternalError"));
    assert_eq!(
        refused.message,
        format!(
            "Internal error occurred: failed calling webhook \"test.example.com\": failed to call webhook: Post \
             \"https://127.0.0.1:{nobody}/x?timeout=10s\": dial tcp 127.0.0.1:{nobody}: connect: connection refused"
        )
    );
    let mut hook = cluster.webhooks.hook("/", url);
    hook["failurePolicy"] = "Ignore".into();
    cluster.configure(VALIDATING, hook).await;
    cluster.create("x").await.unwrap();
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_is_given_up_after_its_timeout() {
    let cluster = Cluster::start().await;
    cluster.configure(VALIDATING, cluster.webhooks.hook("/slow", json!({"timeoutSeconds": 1}))).await;
    let refused = cluster.create("x").await.unwrap_err();
    assert!(refused.message.ends_with("?timeout=1s\": context deadline exceeded"), "{}", refused.message);
}

#[tokio::test]
async fn selectors_conditions_and_rules_choose_the_requests() {
    let cluster = Cluster::start().await;
    for (more, wanted) in [
        (json!({}), true),
        (json!({"objectSelector": {"matchLabels": {"a": "b"}}}), false),
        (json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}), true),
        (
            json!({"namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["default"]}]}}),
            false,
        ),
        (json!({"matchConditions": [{"name": "n", "expression": "object.metadata.name == 'other'"}]}), false),
        (json!({"matchConditions": [{"name": "n", "expression": "request.operation == 'CREATE'"}]}), true),
        (
            json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["CREATE"], "scope": "Cluster"}]}),
            false,
        ),
        (
            json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps/status"], "operations": ["*"]}]}),
            false,
        ),
    ] {
        cluster.configure(VALIDATING, cluster.webhooks.hook("/deny", more.clone())).await;
        let asked = cluster.create("x").await.is_err();
        assert_eq!(asked, wanted, "{more}");
        if !asked {
            cluster.configure(VALIDATING, cluster.webhooks.hook("/", json!({}))).await;
            let api: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
            api.delete("x", &DeleteParams::default()).await.unwrap();
        }
    }
}
