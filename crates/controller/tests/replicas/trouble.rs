//! What is missing at the start is waited for, and its arrival is noticed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, api::PostParams};
use serde_json::json;

use crate::world::{BOTH, Replica, api_server, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_come_later_are_noticed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = apiserver::Server::open(apiserver::Options::default()).await.unwrap();
    let client = Client::new(server.router(), "default");
    let replica = Replica::start(&client, "a", None, BOTH, &[], |_| {}).await;
    eventually("only the views are missing", || async {
        (replica.readiness.pending() == ["pool views"]).then_some(())
    })
    .await;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for (_, definition) in k8s_api::all_crds() {
        definitions.create(&PostParams::default(), &definition).await.unwrap();
    }
    replica.ready().await;
    replica.end().await;
}

/// Refuses what `Refusal` names, as an API server does where a role is missing.
#[derive(Clone)]
struct Refusal {
    on: Arc<AtomicBool>,
    what: &'static [&'static str],
}

async fn refuse(State(refusal): State<Refusal>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if refusal.on.load(Ordering::SeqCst) && refusal.what.iter().any(|part| path.contains(part)) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
            "message": format!("{path} is forbidden: User \"controller\" may not {}", request.method()),
        });
        let headers = [("content-type", "application/json")];
        return (StatusCode::FORBIDDEN, headers, Body::from(status.to_string())).into_response();
    }
    next.run(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_that_come_later_are_noticed() {
    for what in [&["/leases"][..], &["/secrets"], &["/spiderips"], &["webhookconfigurations"]] {
        let (_, server) = api_server().await;
        let on = Arc::new(AtomicBool::new(true));
        let refusal = Refusal { on: Arc::clone(&on), what };
        let client = Client::new(server.router().layer(from_fn_with_state(refusal, refuse)), "default");
        let replica = Replica::start(&client, "a", None, BOTH, &[], |_| {}).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(replica.readiness.check().is_err(), "ready without {what:?}");
        on.store(false, Ordering::SeqCst);
        replica.ready().await;
        replica.end().await;
    }
}

async fn delay(request: Request, next: Next) -> Response {
    let pause = if request.method() == Method::GET { 300 } else { 800 };
    tokio::time::sleep(Duration::from_millis(pause)).await;
    next.run(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_api_server_is_no_trouble() {
    let (_, server) = api_server().await;
    let client = Client::new(server.router().layer(axum::middleware::from_fn(delay)), "default");
    let replica = Replica::start(&client, "a", None, BOTH, &[], |_| {}).await;
    replica.ready().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(crate::election::holder(&client).await.as_deref(), Some("a"), "it still leads");
    assert_eq!(replica.readiness.check(), Ok(()));
    replica.end().await;
}
