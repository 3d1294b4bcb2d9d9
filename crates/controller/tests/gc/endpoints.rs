//! Endpoints that nobody takes away.

use axum::http::Method;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::{
    cluster::{Cluster, claim, pod_holder, settings, uid},
    world::eventually,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_finalizer_nobody_removes_goes_with_its_pod() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    let collector = cluster.collect(settings());
    let pod = uid(&cluster.pod("web", "node-a", json!({})).await);
    cluster.endpoint("web", &pod, ("Pod", "web"), "10.9.0.11", "node-a").await;
    // Its pod lives: no look, no matter that it has no claim.
    cluster.claim("10.9.0.12", "gone", "uid-gone", "node-a").await;
    cluster.freed("10.9.0.12").await;
    assert!(cluster.has_endpoint("web").await && !cluster.was_looked_at("web"));
    cluster.force_delete("web").await;
    cluster.endpoint_gone("web").await;
    collector.end().await;
}

/// On a node that is not ready the address is kept, but the endpoint must not hold up a namespace that is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_deleted_goes_though_its_address_is_kept() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", false).await;
    cluster.claim("10.9.0.11", "web", "uid-web", "node-a").await;
    cluster.endpoint("web", "uid-web", ("ReplicaSet", "web"), "10.9.0.11", "node-a").await;
    let collector = cluster.collect(settings());
    cluster.looked_at("web").await;
    assert!(cluster.has_endpoint("web").await, "it tells whose the address is");
    cluster.endpoints().delete("web", &DeleteParams::default()).await.unwrap();
    cluster.endpoint_gone("web").await;
    assert!(cluster.is_claimed("10.9.0.11").await);
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outdated_endpoints_of_living_pods_go_by_their_switch() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    for (pod, address) in [("without", "10.9.0.11"), ("with", "10.9.0.12")] {
        let uid = uid(&cluster.pod(pod, "node-a", json!({})).await);
        cluster.endpoint(pod, &uid, ("Pod", pod), address, "node-a").await;
        if pod == "with" {
            cluster.claim(address, pod, &uid, "node-a").await;
        }
    }
    let mut settings = settings();
    settings.switches.clean_outdated = true;
    let collector = cluster.collect(settings);
    cluster.endpoint_gone("without").await;
    assert!(cluster.has_endpoint("with").await && cluster.is_claimed("10.9.0.12").await);
    collector.end().await;
}

/// Mend G9: what is removed is the endpoint that was judged.
#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_of_a_successor_stays() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    cluster.claim("10.9.0.11", "web", "uid-before", "node-a").await;
    let pod = uid(&cluster.pod("web", "node-a", json!({})).await);
    cluster.claim("10.9.0.12", "web", &pod, "node-a").await;
    cluster.endpoint("web", &pod, ("Pod", "web"), "10.9.0.12", "node-a").await;
    let made = cluster.endpoints().get("web").await.unwrap().metadata.uid;
    let collector = cluster.collect(settings());
    cluster.freed("10.9.0.11").await;
    eventually("quiet", async || {
        let found = cluster.endpoints().get_opt("web").await.unwrap();
        (found.and_then(|found| found.metadata.uid) == made).then_some(())
    })
    .await;
    assert_eq!(cluster.claims().await, ["10.9.0.12"]);
    collector.end().await;
}

/// Its agent gives the pod another address just then, and books it in the endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_changes_while_it_is_judged_stays() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    let pod = uid(&cluster.pod("web", "node-a", json!({})).await);
    cluster.endpoint("web", &pod, ("Pod", "web"), "10.9.0.11", "node-a").await;
    let (ips, endpoints) = (cluster.ips(), cluster.endpoints());
    let given = claim("10.9.0.12", pod_holder("web", &pod, "node-a"));
    cluster.spy.before(Method::DELETE, "/spiderendpoints/web", async move {
        ips.create(&PostParams::default(), &given).await.unwrap();
        let nic = json!({"interface": "eth0", "ipv4": "10.9.0.12/24", "ipv4Pool": "p"});
        let patch = Patch::Merge(json!({"status": {"current": {"ips": [nic]}}}));
        endpoints.patch("web", &PatchParams::default(), &patch).await.unwrap();
    });
    let mut settings = settings();
    settings.switches.clean_outdated = true;
    let collector = cluster.collect(settings);
    eventually("a removal was tried", async || cluster.spy.has_come().then_some(())).await;
    // The look ends as well.
    collector.end().await;
    let found = cluster.endpoints().get_opt("web").await.unwrap().expect("it tells of an address in use");
    assert_eq!(found.metadata.deletion_timestamp, None);
    assert_eq!(found.status.unwrap().current.ips[0].ipv4.as_deref(), Some("10.9.0.12/24"));
}
