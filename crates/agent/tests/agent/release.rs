//! DEL: what is freed, what stays, and that nothing is lost.

use crate::world::{Weather, World, eventually, v4};
use serde_json::json;
use std::time::Duration;
use wire::spool::Note;

#[tokio::test]
async fn a_pod_that_goes_leaves_nothing() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    agent.addresses(&pod).await;
    eventually("the endpoint is written", async || world.endpoint("web").await.is_some()).await;
    world.delete_pod("web").await;
    assert_eq!(agent.del(&pod).await.0, 200);
    // Had the watch not told of the end by then, it frees the address when it does.
    eventually("the address is free", async || world.claims().await.is_empty()).await;
    eventually("the endpoint is gone", async || world.endpoints().await.is_empty()).await;
    assert_eq!(agent.del(&pod).await.0, 200, "a second DEL is no error");
}

#[tokio::test]
async fn the_address_of_a_living_pod_waits_for_its_next_sandbox() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let first = agent.addresses(&pod).await;
    assert_eq!(agent.del(&pod).await.0, 200);
    assert_eq!(world.claims().await.len(), 1);
    assert_eq!(agent.addresses(&pod.container("second")).await, first);
    // A late DEL of the first sandbox changes nothing, even when the pod is gone.
    world.delete_pod("web").await;
    eventually("the end of the pod is known", async || {
        agent.del(&pod).await;
        let networks = json!({"containerID": "x", "podNamespace": "ns1", "podName": "web", "podUID": ""});
        crate::world::call(&agent.socket, "POST", "/v1/multinet/networks", &networks).await.0 == 500
    })
    .await;
    assert_eq!(world.claims().await.len(), 1);
    assert_eq!(agent.del(&pod.container("second")).await.0, 200);
    assert!(world.claims().await.is_empty());
}

#[tokio::test]
async fn the_end_of_a_pod_frees_what_its_sandbox_had_ended_to_use() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    agent.addresses(&pod).await;
    eventually("the endpoint is written", async || world.endpoint("web").await.is_some()).await;
    assert_eq!(agent.del(&pod).await.0, 200);
    world.delete_pod("web").await;
    eventually("no further DEL is needed", async || world.claims().await.is_empty()).await;
    eventually("the endpoint is gone", async || world.endpoints().await.is_empty()).await;
}

#[tokio::test]
async fn nics_are_released_one_by_one() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({"k8s.v1.cni.cncf.io/networks": "x"})).await;
    agent.addresses(&pod).await;
    agent.addresses(&pod.nic("net1")).await;
    world.delete_pod("web").await;
    assert_eq!(agent.del(&pod.nic("net1")).await.0, 200);
    let left = async || world.claims().await.into_values().collect::<Vec<_>>();
    eventually("net1 is down, eth0 is not yet", async || left().await == ["web/eth0"]).await;
    assert_eq!(agent.del(&pod).await.0, 200);
    eventually("eth0 is down", async || left().await.is_empty()).await;
}

#[tokio::test]
async fn the_endpoint_names_no_address_that_the_end_of_the_pod_freed() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({"k8s.v1.cni.cncf.io/networks": "x"})).await;
    agent.addresses(&pod).await;
    let second = agent.add(&pod.nic("net1")).await.1;
    let nics = async || {
        let current = world.endpoint("web").await.and_then(|endpoint| endpoint.status).unwrap_or_default().current;
        current.ips.into_iter().map(|nic| nic.interface).collect::<Vec<_>>()
    };
    eventually("the endpoint tells of both", async || nics().await == ["eth0", "net1"]).await;
    // While the pod lives its address waits for it; the end of the pod frees it.
    assert_eq!(agent.del(&pod).await.0, 200);
    assert_eq!(world.claims().await.len(), 2);
    world.delete_pod("web").await;
    eventually("only net1 is in use", async || world.claims().await.into_values().eq(["web/net1".to_owned()])).await;
    eventually("and the endpoint says so", async || nics().await == ["net1"]).await;
    let path = "/v1/workloadendpoint?podName=web&podNamespace=ns1";
    let told = crate::world::call(&agent.socket, "GET", path, &serde_json::Value::Null).await.1;
    let address = second["ips"].as_array().unwrap().iter().find(|ip| ip["nic"] == "net1").unwrap()["address"].clone();
    assert_eq!(told["interfaces"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(told["interfaces"][0]["ipv4"], address);
    assert_eq!(agent.del(&pod.nic("net1")).await.0, 200);
    eventually("nothing is left", async || world.claims().await.is_empty() && world.endpoints().await.is_empty()).await;
}

#[tokio::test]
async fn the_end_of_an_earlier_pods_nic_does_not_cost_its_successor_the_endpoint() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let old = world.pod("web", json!({"k8s.v1.cni.cncf.io/networks": "x"})).await;
    agent.addresses(&old).await;
    agent.addresses(&old.nic("net1")).await;
    let uid = async || Some(world.endpoint("web").await?.status?.current.uid);
    eventually("the endpoint is written", async || uid().await.as_ref() == Some(&old.uid)).await;
    world.delete_pod("web").await;
    let new = world.pod("web", json!({})).await;
    world.set(Weather::NoEndpoints);
    agent.addresses(&new).await;
    // Its endpoint waits to be written when a NIC of the old one ends.
    assert_eq!(agent.del(&old).await.0, 200);
    eventually("only that is freed", async || world.claims().await.len() == 2).await;
    world.set(Weather::Fair);
    eventually("the endpoint is the new pod's", async || uid().await.as_ref() == Some(&new.uid)).await;
}

#[tokio::test]
async fn a_runtime_that_passes_no_uid_is_served_all_the_same() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let mut pod = world.pod("web", json!({})).await;
    pod.uid.clear();
    agent.addresses(&pod).await;
    world.delete_pod("web").await;
    // A new pod of the name lives: the old sandbox's address is freed nevertheless.
    let mut new = world.pod("web", json!({})).await;
    new.uid.clear();
    agent.addresses(&new).await;
    assert_eq!(agent.del(&pod).await.0, 200);
    eventually("only the new pod's address is left", async || world.claims().await.len() == 1).await;
    assert_eq!(agent.addresses(&new).await.len(), 1);
}

#[tokio::test]
async fn notes_left_while_the_agent_was_down_are_worked_off() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let (gone, lives) = (world.pod("gone", json!({})).await, world.pod("lives", json!({})).await);
    agent.addresses(&gone).await;
    agent.addresses(&lives).await;
    agent.stop().await;
    world.delete_pod("gone").await;
    let spool = world.spool("node-a");
    for pod in [&gone, &lives] {
        spool.leave(&Note { release: pod.release(), written: 1 }).unwrap();
    }
    std::fs::write(spool.dir().join("damaged.json"), "{").unwrap();
    let agent = world.agent("node-a").await;
    let left = async || spool.notes().unwrap().len();
    eventually("the good notes are worked off", async || left().await == 1).await;
    eventually("the living pod keeps its address", async || {
        world.claims().await.into_values().collect::<Vec<_>>() == ["lives/eth0"]
    })
    .await;
    // While it runs as well.
    world.delete_pod("lives").await;
    spool.leave(&Note { release: lives.release(), written: 2 }).unwrap();
    eventually("the note is worked off", async || left().await == 1 && world.claims().await.is_empty()).await;
    drop(agent);
}

#[tokio::test]
async fn a_note_that_the_time_of_the_folder_does_not_show_is_worked_off() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    *world.relook.lock().unwrap() = Duration::from_millis(100);
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    agent.addresses(&pod).await;
    world.delete_pod("web").await;
    let (spool, elsewhere) = (world.spool("node-a"), world.spool("elsewhere"));
    let note = elsewhere.leave(&Note { release: pod.release(), written: 1 }).unwrap();
    let folder = std::fs::File::open(spool.dir()).unwrap();
    let seen = folder.metadata().unwrap().modified().unwrap();
    // Until the agent has seen the folder as it is.
    tokio::time::sleep(Duration::from_secs(2)).await;
    std::fs::rename(&note, spool.dir().join(note.file_name().unwrap())).unwrap();
    folder.set_modified(seen).unwrap();
    eventually("it is worked off", async || spool.notes().unwrap().is_empty() && world.claims().await.is_empty()).await;
    drop(agent);
}

#[tokio::test]
async fn a_del_without_api_server_is_noted_and_done_later() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    agent.addresses(&pod).await;
    world.finish_pod("web").await;
    eventually("the end of the pod is seen", async || agent.add(&pod).await.0 == 500).await;
    world.set(Weather::Gone);
    assert_eq!(agent.del(&pod).await.0, 200);
    assert_eq!(world.spool("node-a").notes().unwrap().len(), 1, "durable before the answer");
    agent.kill();
    world.set(Weather::Fair);
    let _agent = world.agent("node-a").await;
    eventually("freed after all", async || world.claims().await.is_empty()).await;
    eventually("the note is gone", async || world.spool("node-a").notes().unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_thousand_dels_at_once_lose_nothing() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.1.0-10.1.9.255")).await;
    let agent = world.agent("node-a").await;
    let mut pods = Vec::new();
    for n in 0..1000 {
        pods.push(world.pod(&format!("p{n}"), json!({})).await);
    }
    for batch in pods.chunks(100) {
        for (status, answer) in futures::future::join_all(batch.iter().map(|pod| agent.add(pod))).await {
            assert_eq!(status, 200, "{answer}");
        }
    }
    assert_eq!(world.claims().await.len(), 1000);
    for pod in &pods {
        world.delete_pod(&pod.name).await;
    }
    for (status, answer) in futures::future::join_all(pods.iter().map(|pod| agent.del(pod))).await {
        assert_eq!(status, 200, "{answer}");
    }
    eventually("every address is free", async || world.claims().await.is_empty()).await;
    eventually("no endpoint is left", async || world.endpoints().await.is_empty()).await;
    assert!(world.spool("node-a").notes().unwrap().is_empty());
}
