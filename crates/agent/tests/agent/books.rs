//! What becomes of claims that nobody releases.

use crate::world::{World, call, eventually, v4};
use k8s_api::SpiderIP;
use kube::api::DeleteParams;
use serde_json::{Value, json};
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

#[tokio::test]
async fn a_claim_that_somebody_else_freed_leaves_neither_endpoint_nor_record() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.10")).await;
    let agent = world.agent("node-a").await;
    let (gone, next) = (world.pod("gone", json!({})).await, world.pod("next", json!({})).await);
    agent.addresses(&gone).await;
    eventually("the endpoint is written", async || world.endpoint("gone").await.is_some()).await;
    world.finish_pod("gone").await;
    let claims = world.api::<SpiderIP>();
    eventually("the address serves the next pod", async || {
        // Made again for as long as the agent has not seen the end of its pod.
        let _ = claims.delete("10.1.0.10", &DeleteParams::default()).await;
        agent.add(&next).await.0 == 200
    })
    .await;
    assert_eq!(world.claims().await.into_values().collect::<Vec<_>>(), ["next/eth0"]);
    eventually("the endpoint is gone", async || world.endpoint("gone").await.is_none()).await;
    let path = "/v1/workloadendpoint?podName=gone&podNamespace=ns1";
    let (status, told) = call(&agent.socket, "GET", path, &Value::Null).await;
    assert!(told["interfaces"].as_array().is_none_or(Vec::is_empty), "{status} {told}");
}
