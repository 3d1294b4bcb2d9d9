//! Pods that have ended in one way or another.

use std::time::{Duration, Instant};

use k8s_api::SpiderIPPool;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, settings, uid},
    world::{create, eventually},
};

/// A pod with a claim on a ready node that has come to this status.
async fn with_status(cluster: &Cluster, address: &str, name: &str, status: Value) {
    let pod = uid(&cluster.pod(name, "node-a", json!({"spec": {"restartPolicy": "Never"}})).await);
    cluster.claim(address, name, &pod, "node-a").await;
    cluster.endpoint(name, &pod, ("Pod", name), address, "node-a").await;
    cluster.status(name, status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_have_finished_lose_their_addresses_and_others_do_not() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    let long_ago = "2020-01-01T00:00:00Z";
    let container = json!({"name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "finishedAt": long_ago}}});
    let none = Value::Null;
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "startTime": long_ago, "podIPs": none, "podIP": none});
    with_status(&cluster, "10.9.0.11", "evicted", evicted).await;
    let never = json!({"phase": "Failed", "reason": "OutOfcpu", "podIPs": none, "podIP": none});
    with_status(&cluster, "10.9.0.12", "never-started", never).await;
    let job = json!({"phase": "Succeeded", "containerStatuses": [container]});
    with_status(&cluster, "10.9.0.13", "job", job).await;
    with_status(&cluster, "10.9.0.14", "running", json!({"phase": "Running"})).await;
    with_status(&cluster, "10.9.0.15", "pending", json!({"phase": "Pending", "podIPs": none, "podIP": none})).await;

    let collector = cluster.collect(settings());
    for (address, pod) in [("10.9.0.11", "evicted"), ("10.9.0.12", "never-started"), ("10.9.0.13", "job")] {
        cluster.freed(address).await;
        cluster.endpoint_gone(pod).await;
    }
    assert_eq!(cluster.claims().await, ["10.9.0.14", "10.9.0.15"]);
    assert!(cluster.has_endpoint("running").await && cluster.has_endpoint("pending").await);
    assert!(cluster.pods().get_opt("job").await.unwrap().is_some(), "the pod itself stays");
    let events = Api::<Event>::namespaced(cluster.client.clone(), "default");
    eventually("event on the pod", async || {
        let events = events.list(&ListParams::default()).await.unwrap();
        let text = "address 10.9.0.11 of pool p was released: the pod has finished (Failed, Evicted)";
        let of_pod = events.items.into_iter().find(|event| event.message.as_deref() == Some(text))?;
        (of_pod.involved_object.name.as_deref() == Some("evicted")).then_some(())
    })
    .await;

    // And one that finishes while the collector runs.
    cluster.status("running", json!({"phase": "Succeeded", "startTime": long_ago})).await;
    cluster.freed("10.9.0.14").await;
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_has_the_first_word_about_a_pod_that_was_deleted_by_force() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    let mut settings = settings();
    settings.timing.agent = Duration::from_secs(2);
    let collector = cluster.collect(settings);
    let pod = uid(&cluster.pod("web", "node-a", json!({})).await);
    cluster.claim("10.9.0.11", "web", &pod, "node-a").await;
    cluster.endpoint("web", &pod, ("Pod", "web"), "10.9.0.11", "node-a").await;
    cluster.force_delete("web").await;
    let deleted = Instant::now();
    cluster.freed("10.9.0.11").await;
    assert!(deleted.elapsed() >= settings.timing.agent, "{:?}", deleted.elapsed());
    cluster.endpoint_gone("web").await;
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_made_again_under_the_same_name_keeps_its_own_address() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    let collector = cluster.collect(settings());
    let before = uid(&cluster.pod("web", "node-a", json!({})).await);
    cluster.claim("10.9.0.11", "web", &before, "node-a").await;
    cluster.force_delete("web").await;
    let after = uid(&cluster.pod("web", "node-a", json!({})).await);
    cluster.claim("10.9.0.12", "web", &after, "node-a").await;
    cluster.endpoint("web", &after, ("Pod", "web"), "10.9.0.12", "node-a").await;
    cluster.freed("10.9.0.11").await;
    assert!(cluster.is_claimed("10.9.0.12").await && cluster.has_endpoint("web").await);
    collector.end().await;
}

/// A pod whose node does not end it: its grace period is over.
async fn zombie(cluster: &Cluster) {
    cluster.node("node-a", true).await;
    let pod = uid(&cluster.pod("zombie", "node-a", json!({})).await);
    cluster.claim("10.9.0.11", "zombie", &pod, "node-a").await;
    let soon = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
    cluster.pods().delete("zombie", &soon).await.unwrap();
    assert!(cluster.pods().get("zombie").await.unwrap().metadata.deletion_timestamp.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_should_have_ended_loses_its_address_after_its_grace_period() {
    let cluster = Cluster::start().await;
    let collector = cluster.collect(settings());
    let begun = Instant::now();
    zombie(&cluster).await;
    cluster.freed("10.9.0.11").await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_protects_pods_that_should_have_ended() {
    let cluster = Cluster::start().await;
    let mut settings = settings();
    settings.switches.ready_node = false;
    let collector = cluster.collect(settings);
    zombie(&cluster).await;
    tokio::time::sleep(Duration::from_secs(2)).await; // the grace period: there is no state to wait for
    cluster.looked_at("zombie").await;
    assert!(cluster.is_claimed("10.9.0.11").await);
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_runs_without_address_loses_it_only_by_its_switch() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    with_status(&cluster, "10.9.0.11", "odd", json!({"phase": "Running", "podIPs": null, "podIP": null})).await;
    with_status(&cluster, "10.9.0.12", "fine", json!({"phase": "Running"})).await;
    let collector = cluster.collect(settings());
    // Nothing to look at: another pod's end shows that a scan has been.
    cluster.claim("10.9.0.13", "gone", "uid-gone", "node-a").await;
    cluster.freed("10.9.0.13").await;
    assert!(!cluster.was_looked_at("odd"));
    collector.end().await;
    let mut settings = settings();
    settings.switches.empty_ips = true;
    let collector = cluster.collect(settings);
    cluster.freed("10.9.0.11").await;
    assert_eq!(cluster.claims().await, ["10.9.0.12"]);
    collector.end().await;
}

/// Three NICs, one pool: the pool, whose status may be big, is read once for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_read_once_for_all_addresses_of_a_pod() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    let spec = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1-10.9.0.200"]}});
    create::<SpiderIPPool>(&cluster.client, "p", spec).await.unwrap();
    let ours = Patch::Merge(json!({"status": {"source": "SpiderIP", "sourceIPs": ["10.9.0.1-10.9.0.200"]}}));
    let pools = Api::<SpiderIPPool>::all(cluster.client.clone());
    pools.patch_status("p", &PatchParams::default(), &ours).await.unwrap();
    for address in ["10.9.0.11", "10.9.0.12", "10.9.0.13"] {
        cluster.claim(address, "gone", "uid-gone", "node-a").await;
    }
    let mut settings = settings();
    settings.interval = Duration::from_secs(3600); // a report reads the pool as well
    let collector = cluster.collect(settings);
    for address in ["10.9.0.11", "10.9.0.12", "10.9.0.13"] {
        cluster.freed(address).await;
    }
    assert!(matches!(cluster.pool_reads("p"), 1 | 2), "read {} times", cluster.pool_reads("p"));
    collector.end().await;
}
