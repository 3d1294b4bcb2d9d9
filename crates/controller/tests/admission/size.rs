//! Large objects: a review of an update has the object twice.

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use controller::admission::{self, Context};
use ipam::rules::Enabled;
use k8s_api::SpiderIPPool;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::world::{BOTH, World, api_server, create, eventually};
use crate::{INVALID, assert_invalid, pool, refusal};

/// The longest review that is read.
const LONGEST: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_with_a_large_status_can_be_changed_and_is_judged() {
    let (client, server) = api_server().await;
    create::<SpiderIPPool>(&client, "p", pool(json!({}))).await.unwrap();
    let api = Api::<SpiderIPPool>::all(client.clone());
    // Nobody understands it, so it stays as it is. Twice it is more than 2 MB.
    let text = "x".repeat(1_100_000);
    let large = Patch::Merge(json!({"status": {"allocatedIPs": text}}));
    api.patch_status("p", &PatchParams::default(), &large).await.unwrap();
    let world = World::on(client.clone(), server, BOTH, &[]).await;
    let patch = async |spec: Value| api.patch("p", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await;
    // On a busy machine a large review may take longer than the API server waits.
    let changed =
        eventually("a change", || async { patch(json!({"ips": ["10.9.0.40", "10.9.0.41"]})).await.ok() }).await;
    assert_eq!(changed.spec.ips, ["10.9.0.40-10.9.0.41"], "mutated");
    let status = eventually("a judgement", || async {
        let status = refusal("gateway", patch(json!({"gateway": "10.7.0.1"})).await);
        (status.code != 500).then_some(status)
    })
    .await;
    assert_invalid("gateway", &status, INVALID, "spec.gateway", "10.7.0.1");
    assert_eq!(api.get("p").await.unwrap().status.unwrap().allocated_ips.as_ref(), Some(&text));
    world.end().await;
}

/// What the webhooks answer to a review of so many bytes.
async fn answer(client: &Client, path: &str, length: usize) -> (StatusCode, String) {
    let context = Context {
        client: client.clone(),
        metrics: Default::default(),
        peers: Default::default(),
        enabled: Enabled { ipv4: true, ipv6: true },
        guard_deletion: false,
        coordinator: true,
        multus: true,
        subnet: false,
    };
    let mut object = pool(json!({}));
    object["metadata"] = json!({"name": "p", "annotations": {"a": ""}});
    object["spec"]["ipVersion"] = 4.into(); // as mutated
    let review = |object: &Value| {
        let kind = json!({"group": k8s_api::GROUP, "version": k8s_api::VERSION, "kind": "SpiderIPPool"});
        let request = json!({"uid": "u", "kind": kind, "operation": "CREATE", "object": object});
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
    };
    let rest = review(&object).len();
    object["metadata"]["annotations"]["a"] = "x".repeat(length - rest).into();
    let request = Request::post(path).header("content-type", "application/json").body(Body::from(review(&object)));
    let response = admission::router(&context).oneshot(request.unwrap()).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_is_read_up_to_its_longest_and_beyond_that_refused_in_words() {
    let (client, _server) = api_server().await;
    for verb in ["mutate", "validate"] {
        let path = format!("/{verb}-spiderpool-spidernet-io-v2beta1-spiderippool");
        for length in [3_000_000, LONGEST] {
            let (status, text) = answer(&client, &path, length).await;
            assert_eq!(status, StatusCode::OK, "{verb} {length}: {text:.200}");
            let review: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(review["response"]["allowed"], true, "{verb} {length}: {text:.200}");
        }
        let (status, text) = answer(&client, &path, LONGEST + 1).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{verb}: {text:.200}");
        assert!(text.contains("length limit exceeded"), "{verb}: {text:.200}");
    }
}
