//! An API that does not answer, watches that lie, and others who are quicker.

use axum::http::Method;
use controller::upstream::Phase;
use k8s_api::{SpiderIPPool, records::Record};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, claim, pod_holder, settings, uid},
    world::{create, eventually, keeper::Keeper},
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
    cluster.spy.hide("alive");
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
        cluster.spy.fail(method, part, 503);
        let collector = cluster.collect(settings());
        cluster.looked_at("gone").await;
        assert_eq!(cluster.claims().await, ["10.9.0.11", "10.9.0.12"], "without {part}");
        assert_eq!((collector.metrics.released.get(), collector.metrics.failed.get()), (0, 0), "nothing was tried");
        collector.end().await;
    }
    cluster.spy.fail(Method::DELETE, "/spiderips/", 503);
    let collector = cluster.collect(settings());
    eventually("failures counted", async || (collector.metrics.failed.get() >= 2).then_some(())).await;
    eventually("both pods wait", async || (collector.metrics.queued.get() == 2).then_some(())).await;
    assert_eq!(cluster.claims().await, ["10.9.0.11", "10.9.0.12"]);
    cluster.spy.recover();
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
    let (ips, heirs) = (cluster.ips(), claim("10.9.0.11", pod_holder("heir", &pod, "node-b")));
    cluster.spy.before(Method::DELETE, "/spiderips/", async move {
        ips.delete("10.9.0.11", &DeleteParams::default()).await.unwrap();
        ips.create(&PostParams::default(), &heirs).await.unwrap();
    });
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

/// Pool `p`, whose allocations upstream has recorded so.
async fn pool_of_upstream(cluster: &Cluster, records: Value) -> Api<SpiderIPPool> {
    let spec = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1-10.9.0.200"]}});
    create::<SpiderIPPool>(&cluster.client, "p", spec).await.unwrap();
    let pools = Api::<SpiderIPPool>::all(cluster.client.clone());
    let status = Patch::Merge(json!({"status": {"allocatedIPs": records.to_string()}}));
    pools.patch_status("p", &PatchParams::default(), &status).await.unwrap();
    pools
}

/// The addresses that upstream's agents see as allocated.
async fn recorded(pools: &Api<SpiderIPPool>) -> Vec<String> {
    let records = pools.get("p").await.unwrap().records().unwrap();
    records.iter().map(|(address, _)| address.to_string()).collect()
}

fn record(pod: &str, uid: &str) -> Record {
    Record::new("default", pod, uid)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_a_pool_that_upstream_allocates_from_is_released_there_too() {
    let cluster = Cluster::start().await;
    let records = json!({"10.9.0.11": record("gone", "uid-gone"), "10.9.0.12": record("theirs", "uid-theirs")});
    let pools = pool_of_upstream(&cluster, records).await;
    cluster.claim("10.9.0.11", "gone", "uid-gone", "node-a").await;
    let collector = cluster.collect(settings());
    cluster.freed("10.9.0.11").await;
    eventually("its entry is gone", async || (recorded(&pools).await == ["10.9.0.12"]).then_some(())).await;
    assert_eq!((collector.metrics.released.get(), collector.metrics.failed.get()), (1, 0));
    collector.end().await;
}

/// Upstream would give the address to somebody else while the pod uses it.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_released_after_all_stays_booked_with_upstream() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    cluster.pod("odd", "node-a", json!({})).await;
    let pod = uid(&cluster.status("odd", json!({"phase": "Running", "podIPs": null, "podIP": null})).await);
    let pools = pool_of_upstream(&cluster, json!({"10.9.0.11": record("odd", &pod)})).await;
    let mut taken_over = cluster.claim("10.9.0.11", "odd", &pod, "node-a").await;
    // The pod gets another sandbox, which takes its address over.
    let (ips, pods) = (cluster.ips(), cluster.pods());
    cluster.spy.before(Method::DELETE, "/spiderips/", async move {
        if let k8s_api::Holder::Pod(holder) = &mut taken_over.spec.holder {
            holder.container_id = Some("c2".into());
        }
        ips.replace("10.9.0.11", &PostParams::default(), &taken_over).await.unwrap();
        let status = json!({"status": {"podIPs": [{"ip": "10.244.0.9"}], "podIP": "10.244.0.9"}});
        pods.patch_status("odd", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    });
    let mut settings = settings();
    settings.switches.empty_ips = true;
    let collector = cluster.collect(settings);
    eventually("a release was tried", async || cluster.spy.has_come().then_some(())).await;
    // The look ends as well.
    collector.end().await;
    assert!(cluster.is_claimed("10.9.0.11").await);
    assert_eq!(recorded(&pools).await, ["10.9.0.11"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_upstream_that_outlives_its_claim_is_dropped_with_the_next_import() {
    let cluster = Cluster::start().await;
    cluster.node("node-a", true).await;
    let theirs = uid(&cluster.pod("theirs", "node-a", json!({})).await);
    let records = json!({"10.9.0.11": record("gone", "uid-gone"), "10.9.0.12": record("theirs", &theirs)});
    let pools = pool_of_upstream(&cluster, records).await;
    cluster.claim("10.9.0.11", "gone", "uid-gone", "node-a").await;
    cluster.spy.fail(Method::PATCH, "/spiderippools/p/status", 503);
    let collector = cluster.collect(settings());
    eventually("a failure counted", async || (collector.metrics.failed.get() > 0).then_some(())).await;
    collector.end().await;
    assert!(!cluster.is_claimed("10.9.0.11").await);
    assert_eq!(recorded(&pools).await, ["10.9.0.11", "10.9.0.12"], "still nobody's else");
    let keeper = Keeper::start(&cluster.client, Phase::Mixed);
    eventually("the entry is dropped", async || (recorded(&pools).await == ["10.9.0.12"]).then_some(())).await;
    eventually("the other one is imported", async || (cluster.claims().await == ["10.9.0.12"]).then_some(())).await;
    keeper.end().await;
}
