//! Nodes that are gone, not ready, fenced.

use k8s_api::{Holder, SpiderIPPool, ip::NodeHolder};
use k8s_openapi::api::core::v1::{Event, Node};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::{Cluster, settings, uid},
    world::{create, eventually},
};

/// node-a goes. On it: a pod that lives, one that is gone, one whose name has another pod by now, and an address held ahead of need.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_is_gone_held_is_released_and_nothing_else() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", false).await;
    cluster.node("node-b", false).await;
    let pool = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1-10.9.0.200"]}});
    create::<SpiderIPPool>(&cluster.client, "p", pool).await.unwrap();
    let alive = uid(&cluster.pod("alive", "node-a", json!({})).await);
    cluster.claim("10.9.0.11", "alive", &alive, "node-a").await;
    cluster.claim("10.9.0.12", "gone", "uid-gone", "node-a").await;
    cluster.claim("10.9.0.13", "gone-too", "uid-gone-too", "node-b").await;
    cluster.claim_for("10.9.0.14", Holder::Node(NodeHolder { name: "node-a".into() })).await;
    cluster.claim("10.9.0.15", "alive", "uid-before", "node-a").await;
    for (pod, address, node) in [("gone", "10.9.0.12", "node-a"), ("gone-too", "10.9.0.13", "node-b")] {
        cluster.endpoint(pod, &format!("uid-{pod}"), ("StatefulSet", "gone"), address, node).await;
    }
    let collector = cluster.collect(settings());
    cluster.looked_at("gone").await;
    assert_eq!(cluster.claims().await.len(), 5, "a node that is not ready keeps its addresses");

    cluster.no_node("node-a").await;
    for address in ["10.9.0.12", "10.9.0.14", "10.9.0.15"] {
        cluster.freed(address).await;
    }
    cluster.endpoint_gone("gone").await;
    assert!(cluster.has_endpoint("gone-too").await);
    assert_eq!((collector.metrics.released.get(), collector.metrics.failed.get()), (3, 0));
    let events = Api::<Event>::namespaced(cluster.client.clone(), "default");
    let event = eventually("event on the pool", async || {
        let events = events.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().find(|event| event.involved_object.kind.as_deref() == Some("SpiderIPPool"))
    })
    .await;
    assert_eq!(event.reason.as_deref(), Some("AddressesCollected"));
    let message = event.message.unwrap();
    assert!(message.contains("that no pod uses any more were released (for example 10.9.0."), "{message}");

    // Kubernetes collects the pod: now its address goes too.
    cluster.force_delete("alive").await;
    cluster.freed("10.9.0.11").await;
    assert_eq!(cluster.claims().await, ["10.9.0.13"]);
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_ready_loses_addresses_only_by_its_switch() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", false).await;
    cluster.claim("10.9.0.11", "gone", "uid-gone", "node-a").await;
    let ended = uid(&cluster.pod("ended", "node-a", json!({})).await);
    cluster.claim("10.9.0.12", "ended", &ended, "node-a").await;
    cluster.status("ended", json!({"phase": "Failed", "startTime": "2020-01-01T00:00:00Z"})).await;
    let alive = uid(&cluster.pod("alive", "node-a", json!({})).await);
    cluster.claim("10.9.0.13", "alive", &alive, "node-a").await;

    let collector = cluster.collect(settings());
    cluster.looked_at("gone").await;
    cluster.looked_at("ended").await;
    assert_eq!(cluster.claims().await, ["10.9.0.11", "10.9.0.12", "10.9.0.13"]);
    collector.end().await;

    let mut settings = settings();
    settings.switches.not_ready_node = true;
    let collector = cluster.collect(settings);
    cluster.freed("10.9.0.11").await;
    cluster.freed("10.9.0.12").await;
    assert_eq!(cluster.claims().await, ["10.9.0.13"]);
    assert!(!cluster.was_looked_at("alive"), "what looks healthy costs no request");
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_node_is_as_good_as_gone() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", false).await;
    cluster.claim("10.9.0.11", "gone", "uid-gone", "node-a").await;
    let collector = cluster.collect(settings());
    cluster.looked_at("gone").await;
    assert!(cluster.is_claimed("10.9.0.11").await);
    let taint = json!({"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"});
    let nodes = Api::<Node>::all(cluster.client.clone());
    let fence = Patch::Merge(json!({"spec": {"taints": [taint]}}));
    nodes.patch("node-a", &PatchParams::default(), &fence).await.unwrap();
    cluster.freed("10.9.0.11").await;
    collector.end().await;
}
