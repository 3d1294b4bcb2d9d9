//! What roles cannot say: of a pool's status an agent changes only what it must while agents of upstream allocate from it.

use super::nodes::World;
use crate::engine::unique;
use k8s_api::SpiderIPPoolStatus;
use k8s_api::access::Component;
use serde_json::{Value, json};

const POOLS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools";
const MEMBERS: &str = "of a pool's status an agent changes only allocatedIPs and allocatedIPCount";
const LENGTH: &str = "an agent changes the length of status.allocatedIPs by no more than 16384 at once";

/// `status.allocatedIPs` with so many entries.
fn entries(count: u32) -> String {
    let first = u32::from(std::net::Ipv4Addr::new(10, 8, 0, 1));
    let entry = |n| {
        let pod = json!({"pod": format!("some-namespace/some-deployment-{n:05}"), "podUid": format!("00000000-0000-0000-0000-{n:012}")});
        (std::net::Ipv4Addr::from(first + n).to_string(), pod)
    };
    Value::Object((0..count).map(entry).collect()).to_string()
}

/// A pool of a world, and what its status becomes.
struct Pool<'a> {
    world: &'a World,
    path: String,
}

impl<'a> Pool<'a> {
    async fn new(world: &'a World) -> Self {
        let name = format!("pool-{}", unique());
        let spec = json!({"subnet": "10.8.0.0/16", "ips": ["10.8.0.1-10.8.200.200"]});
        let pool = json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": name}, "spec": spec,
        });
        world.installation.api.post(POOLS, &pool).await.ok();
        Self { world, path: format!("{POOLS}/{name}/status") }
    }

    /// What somebody with every right writes.
    async fn is(&self, status: Value) {
        self.world.installation.api.patch(&self.path, "merge", &json!({"status": status})).await.ok();
    }

    /// The verdict on what an agent writes.
    async fn judge(&self, what: &str, status: Value, expected: Result<(), &str>) {
        self.world.judge(what, "PATCH", &self.path, &json!({"status": status}), expected).await;
    }

    /// The API server learns of the policy a moment later.
    async fn in_force(&self) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        let (dry, body) = (format!("{}?dryRun=All", self.path), json!({"status": {"usedRanges": ["10.8.0.1"]}}));
        loop {
            let answer = self.world.installation.as_agent(Some("a"), "PATCH", &dry, &body).await;
            if answer.code == 403 && answer.refusal().2.contains(MEMBERS) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "the policy takes effect: {answer:?}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn an_agent_books_and_releases_and_changes_nothing_else() {
    let world = World::new().await;
    let pool = Pool::new(&world).await;
    pool.in_force().await;
    pool.judge("the first entry", json!({"allocatedIPs": entries(1), "allocatedIPCount": 1}), Ok(())).await;
    pool.judge("a second one", json!({"allocatedIPs": entries(2), "allocatedIPCount": 2}), Ok(())).await;
    pool.judge("a release", json!({"allocatedIPs": entries(1), "allocatedIPCount": 1}), Ok(())).await;
    pool.judge("the last release", json!({"allocatedIPs": null, "allocatedIPCount": 0}), Ok(())).await;

    for (member, value) in [
        ("source", json!("SpiderIP")),
        ("sourceIPs", json!(["10.8.0.1"])),
        ("usedRanges", json!(["10.8.0.1"])),
        ("totalIPCount", json!(5)),
    ] {
        pool.judge(member, json!({member: value}), Err(MEMBERS)).await;
    }
    pool.is(json!({"sourceIPs": ["10.8.0.1"], "usedRanges": ["10.8.0.1"], "totalIPCount": 9})).await;
    for (member, value) in [
        ("sourceIPs", json!(["10.8.0.1", "10.8.0.2"])),
        ("usedRanges", json!([])),
        ("totalIPCount", json!(8)),
        ("totalIPCount", Value::Null),
    ] {
        pool.judge(member, json!({member: value}), Err(MEMBERS)).await;
    }
    let as_upstream = json!({"sourceIPs": null, "usedRanges": null, "allocatedIPs": entries(1), "allocatedIPCount": 1});
    pool.judge("members that upstream does not know are lost", as_upstream, Ok(())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn an_agent_neither_empties_nor_fills_a_pool() {
    let world = World::new().await;
    let pool = Pool::new(&world).await;
    pool.in_force().await;
    pool.is(json!({"allocatedIPs": entries(5000), "allocatedIPCount": 5000})).await;
    for (what, text) in [("nothing", Value::Null), ("an empty map", "{}".into()), ("half", entries(2500).into())] {
        pool.judge(what, json!({"allocatedIPs": text}), Err(LENGTH)).await;
    }
    pool.judge("as many again", json!({"allocatedIPs": entries(10_000)}), Err(LENGTH)).await;
    pool.judge("one more", json!({"allocatedIPs": entries(5001), "allocatedIPCount": 5001}), Ok(())).await;
    pool.judge("one less", json!({"allocatedIPs": entries(5000), "allocatedIPCount": 5000}), Ok(())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn a_pool_that_is_taken_over_is_the_controllers() {
    let world = World::new().await;
    let pool = Pool::new(&world).await;
    pool.in_force().await;
    pool.is(json!({"source": "SpiderIP", "allocatedIPs": entries(1), "allocatedIPCount": 1})).await;
    for (what, status) in [
        ("book", json!({"allocatedIPs": entries(2), "allocatedIPCount": 2})),
        ("release", json!({"allocatedIPs": null, "allocatedIPCount": 0})),
        (
            "as upstream, which loses the mark",
            json!({"source": null, "allocatedIPs": entries(2), "allocatedIPCount": 2}),
        ),
    ] {
        pool.judge(what, status, Err(SpiderIPPoolStatus::TAKEN_OVER)).await;
    }
    let controller = world.installation.account(Component::Controller);
    let headers = [("content-type", "application/merge-patch+json"), ("Impersonate-User", controller.as_str())];
    let body = json!({"status": {"allocatedIPs": null, "allocatedIPCount": 0, "usedRanges": null}}).to_string();
    world.installation.api.call("PATCH", &pool.path, &headers, body.into_bytes()).await.ok();
}
