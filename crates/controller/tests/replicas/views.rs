//! The view of a big pool under churn: right in the end, and cheap on the way.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_api::{SpiderIP, SpiderIPPool};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    claim, name,
    world::{World, create, eventually},
};

const ADDRESSES: usize = 5000;

fn address(index: usize) -> String {
    format!("10.{}.{}.{}", 64 + index / 62_500, (index / 250) % 250, 1 + index % 250)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_allocations_in_one_pool_are_seen_right_and_cheaply() {
    let world = World::start().await;
    let client = &world.client;
    create::<Node>(client, "node-a", json!({})).await.unwrap();
    let spec = json!({"subnet": "10.64.0.0/16", "ips": ["10.64.0.1-10.64.255.254"]});
    create::<SpiderIPPool>(client, "big", json!({"spec": spec})).await.unwrap();
    let pools = Api::<SpiderIPPool>::all(client.clone());
    let before: u64 = pools.get("big").await.unwrap().resource_version().unwrap().parse().unwrap();

    // Every version of the pool is counted, not only those that a look happens to see.
    let mut versions = Box::pin(kube::runtime::watcher(
        pools.clone(),
        kube::runtime::watcher::Config::default().fields("metadata.name=big"),
    ));
    let counted = tokio::spawn(async move {
        let mut seen = std::collections::HashSet::new();
        while let Some(event) = versions.next().await {
            use kube::runtime::watcher::Event;
            let (Event::Apply(pool) | Event::InitApply(pool)) = event.unwrap() else { continue };
            let status = pool.status.clone().unwrap_or_default();
            seen.insert(pool.resource_version());
            if status.allocated_ip_count == Some(4000)
                && status.allocated_ips.is_some_and(|text| text.matches("podUid").count() == 4000)
            {
                return seen.len();
            }
        }
        unreachable!("a watch does not end")
    });
    let begun = Instant::now();
    let ips = Api::<SpiderIP>::all(client.clone());
    stream::iter(0..ADDRESSES)
        .for_each_concurrent(64, async |index| {
            ips.create(&PostParams::default(), &claim(&address(index), "big")).await.unwrap();
        })
        .await;
    let pool = eventually("all are counted", || async {
        let pool = pools.get("big").await.unwrap();
        (pool.status.as_ref()?.allocated_ip_count == Some(5000)).then_some(pool)
    })
    .await;
    let status = pool.status.unwrap();
    let listed: serde_json::Map<String, Value> = serde_json::from_str(&status.allocated_ips.unwrap()).unwrap();
    assert_eq!((listed.len(), status.total_ip_count), (ADDRESSES, Some(65_534)));
    assert_eq!(listed[&address(4999)]["pod"], format!("default/pod-{}", name(&address(4999))));

    stream::iter((0..ADDRESSES).step_by(5))
        .for_each_concurrent(64, async |index| {
            ips.delete(&name(&address(index)), &DeleteParams::default()).await.unwrap();
        })
        .await;
    let writes = tokio::time::timeout(Duration::from_secs(60), counted).await.unwrap().unwrap();
    let (elapsed, after) = (begun.elapsed(), pools.get("big").await.unwrap().resource_version());
    println!("{writes} versions of the pool in {elapsed:?} for 6000 changes ({before} to {after:?})");
    assert!(writes as u64 <= elapsed.as_secs() + 4, "{writes} writes in {elapsed:?}");
    world.end().await;
}
