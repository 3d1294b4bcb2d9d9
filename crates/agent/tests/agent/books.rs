//! What becomes of claims that nobody releases.

use crate::world::{World, eventually, v4};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_sandbox_that_ended_before_its_pod_keeps_no_address_over_a_restart() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("job", json!({})).await;
    agent.addresses(&pod).await;
    assert_eq!(agent.del(&pod).await.0, 200);
    assert_eq!(world.claims().await.len(), 1, "the pod lives");
    agent.kill();
    world.finish_pod("job").await;
    *world.no_del.lock().unwrap() = Duration::ZERO;
    let _agent = world.agent("node-a").await;
    eventually("no DEL comes any more", async || world.claims().await.is_empty()).await;
    eventually("the endpoint is gone", async || world.endpoints().await.is_empty()).await;
}

#[tokio::test]
async fn a_finished_pod_keeps_the_address_of_a_sandbox_that_is_on_record() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let (kept, freed) = (world.pod("kept", json!({})).await, world.pod("freed", json!({})).await);
    for pod in [&kept, &freed] {
        agent.addresses(pod).await;
    }
    agent.kill();
    for name in ["kept", "freed"] {
        world.finish_pod(name).await;
    }
    let entry = world.cni_dir().join(format!("multus/{}", kept.container));
    std::fs::create_dir_all(entry.parent().unwrap()).unwrap();
    std::fs::write(entry, "{}").unwrap();
    *world.no_del.lock().unwrap() = Duration::ZERO;
    let agent = world.agent("node-a").await;
    let holders = async || world.claims().await.into_values().collect::<Vec<_>>();
    eventually("the other one's is freed", async || holders().await == ["kept/eth0"]).await;
    agent.stop().await;
    assert_eq!(holders().await, ["kept/eth0"]);
}
