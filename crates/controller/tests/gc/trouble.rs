//! An API that does not answer, watches that lie, and others who are quicker.

use axum::http::Method;
use k8s_api::SpiderIPPool;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::{Cluster, claim, pod_holder, settings, uid},
    world::{create, eventually},
};

/// Mend G1: a cache may not know a pod that lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_no_watch_shows_but_the_api_does_keeps_its_address() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    let pod = uid(&cluster.pod("alive", "node-a", json!({})).await);
    cluster.claim("10.9.0.11", "alive", &pod, "node-a").await;
    cluster.endpoint("alive", &pod, ("Pod", "alive"), "10.9.0.11", "node-a").await;
    cluster.claim("10.9.0.12", "gone", "uid-gone", "node-a").await;
    cluster.hide("alive");
    let collector = cluster.collect(settings());
    cluster.freed("10.9.0.12").await;
    cluster.looked_at("alive").await;
    assert!(cluster.is_claimed("10.9.0.11").await && cluster.has_endpoint("alive").await);
    cluster.force_delete("alive").await;
    cluster.freed("10.9.0.11").await;
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_does_not_answer_nothing_is_released_and_nothing_is_forgotten() {
    let cluster = Cluster::start().await;
    cluster.claim("10.9.0.11", "gone", "uid-gone", "node-a").await;
    cluster.claim("10.9.0.12", "gone-too", "uid-gone-too", "node-a").await;
    for (method, part) in
        [(Method::GET, "/pods/gone"), (Method::GET, "/nodes/node-a"), (Method::GET, "/spiderendpoints/")]
    {
        *cluster.spy.failing.lock().unwrap() = Some((method, part));
        let collector = cluster.collect(settings());
        cluster.looked_at("gone").await;
        assert_eq!(cluster.claims().await, ["10.9.0.11", "10.9.0.12"], "without {part}");
        assert_eq!((collector.metrics.released.get(), collector.metrics.failed.get()), (0, 0), "nothing was tried");
        collector.end().await;
    }
    *cluster.spy.failing.lock().unwrap() = Some((Method::DELETE, "/spiderips/"));
    let collector = cluster.collect(settings());
    eventually("failures counted", async || (collector.metrics.failed.get() >= 2).then_some(())).await;
    eventually("both pods wait", async || (collector.metrics.queued.get() == 2).then_some(())).await;
    assert_eq!(cluster.claims().await, ["10.9.0.11", "10.9.0.12"]);
    *cluster.spy.failing.lock().unwrap() = None;
    cluster.freed("10.9.0.11").await;
    cluster.freed("10.9.0.12").await;
    eventually("nothing waits", async || (collector.metrics.queued.get() == 0).then_some(())).await;
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_anothers_by_the_time_of_its_release_stays() {
    let cluster = Cluster::start().await;
    cluster.node("node-b", true).await;
    let pod = uid(&cluster.pod("heir", "node-b", json!({})).await);
    cluster.claim("10.9.0.11", "gone", "uid-gone", "node-a").await;
    *cluster.spy.swap.lock().unwrap() = Some(claim("10.9.0.11", pod_holder("heir", &pod, "node-b")));
    let collector = cluster.collect(settings());
    eventually("a release was tried", async || (collector.metrics.released.get() > 0).then_some(())).await;
    // A later suspect that goes shows that the collector has gone on.
    cluster.claim("10.9.0.12", "gone-too", "uid-gone-too", "node-a").await;
    cluster.freed("10.9.0.12").await;
    let holder = cluster.ips().get("10.9.0.11").await.unwrap().spec.holder;
    assert_eq!(holder.pod().unwrap().name, "heir");
    let counted = (collector.metrics.conflicts.get(), collector.metrics.failed.get());
    assert_eq!(counted, (1, 0), "a conflict, and no failure");
    collector.end().await;
}

/// Mend G11: first the one who would give the address to somebody else, then ours.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_a_pool_that_upstream_allocates_from_is_released_there_too() {
    let cluster = Cluster::start().await;
    let spec = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1-10.9.0.200"]}});
    create::<SpiderIPPool>(&cluster.client, "p", spec).await.unwrap();
    let record = |pod: &str| json!({"pod": format!("default/{pod}"), "podUid": format!("uid-{pod}")});
    let records = json!({"10.9.0.11": record("gone"), "10.9.0.12": record("of-upstream")}).to_string();
    let pools = Api::<SpiderIPPool>::all(cluster.client.clone());
    let status = Patch::Merge(json!({"status": {"allocatedIPs": records}}));
    pools.patch_status("p", &PatchParams::default(), &status).await.unwrap();
    cluster.claim("10.9.0.11", "gone", "uid-gone", "node-a").await;
    *cluster.spy.failing.lock().unwrap() = Some((Method::PATCH, "/spiderippools/p/status"));
    let collector = cluster.collect(settings());
    eventually("failures counted", async || (collector.metrics.failed.get() >= 2).then_some(())).await;
    assert!(cluster.is_claimed("10.9.0.11").await, "not before upstream's record is gone");
    *cluster.spy.failing.lock().unwrap() = None;
    cluster.freed("10.9.0.11").await;
    let left = pools.get("p").await.unwrap().status.unwrap().allocated_ips.unwrap();
    assert!(!left.contains("10.9.0.11") && left.contains("10.9.0.12"), "{left}");
    collector.end().await;
}
