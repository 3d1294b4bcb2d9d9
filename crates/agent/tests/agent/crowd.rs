//! Several agents on one pool.

use crate::world::{Agent, Target, World, eventually, v4};
use futures::{StreamExt, stream};
use serde_json::json;
use std::collections::BTreeSet;

/// Every pod gets an address, and no two the same.
async fn fill(agents: &[(Agent, Vec<Target>)], in_flight: usize) -> BTreeSet<String> {
    let all = stream::iter(agents).map(|(agent, pods)| {
        stream::iter(pods).map(|pod| agent.add(pod)).buffer_unordered(in_flight).collect::<Vec<_>>()
    });
    let answers: Vec<_> = all.buffer_unordered(agents.len()).collect::<Vec<_>>().await.into_iter().flatten().collect();
    let mut addresses = BTreeSet::new();
    for (status, answer) in &answers {
        assert_eq!(*status, 200, "{answer}");
        for address in crate::world::bare(answer) {
            assert!(addresses.insert(address.clone()), "{address} twice");
        }
    }
    addresses
}

async fn crowd(world: &World, agents: usize, pods: usize) -> Vec<(Agent, Vec<Target>)> {
    let mut crowd = Vec::new();
    for n in 0..agents {
        let node = format!("crowd-{n}");
        world.node(&node, json!({})).await;
        let agent = world.agent(&node).await;
        let mut targets = Vec::new();
        for m in 0..pods {
            targets.push(world.pod_on(&format!("p{n}-{m}"), &node, json!({})).await);
        }
        crowd.push((agent, targets));
    }
    crowd
}

#[tokio::test]
async fn a_pool_of_a_thousand_fits_a_thousand_pods_on_ten_agents() {
    let world = World::new().await;
    world.pool("exact", v4("10.1.1.0-10.1.4.231")).await;
    let agents = crowd(&world, 10, 100).await;
    let addresses = fill(&agents, 10).await;
    assert_eq!((addresses.len(), world.claims().await.len()), (1000, 1000));
    eventually("all endpoints are written", async || world.endpoints().await.len() == 1000).await;
    let late = world.pod_on("late", "crowd-0", json!({})).await;
    let (status, error) = agents[0].0.add(&late).await;
    assert!(status == 500 && error.as_str().unwrap().starts_with("all IP addresses used out"), "{error}");
}

#[tokio::test]
async fn overlapping_pools_never_give_an_address_twice() {
    let world = World::new().await;
    for (name, ips) in [("a", "10.1.1.0-10.1.1.19"), ("b", "10.1.1.10-10.1.1.29"), ("c", "10.1.1.20-10.1.1.39")] {
        world.pool(name, v4(ips)).await;
    }
    let agents = crowd(&world, 2, 20).await;
    assert_eq!(fill(&agents, 20).await.len(), 40);
}
