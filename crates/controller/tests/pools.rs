//! The keeper of pools while answers get lost, and while many pools change at once.

#![allow(clippy::unwrap_used)] // tests

mod world;

use axum::http::Method;
use controller::upstream::Phase;
use ipam::pool::Source;
use k8s_api::{FINALIZER, SpiderIPPool};
use kube::{Api, Client, ResourceExt as _, api::DeleteParams};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use world::{api_server, create, event, eventually, keeper::Keeper, merge, spy::Spy};

fn pool(number: usize, last: u8) -> Value {
    json!({"spec": {"subnet": format!("10.{number}.0.0/24"), "ips": [format!("10.{number}.0.1-10.{number}.0.{last}")]}})
}

/// Waits until the keeper has written its first word to the pool.
async fn kept(client: &Client, name: &str) {
    let pools = Api::<SpiderIPPool>::all(client.clone());
    eventually(&format!("{name} has its finalizer"), || async {
        (pools.get(name).await.unwrap().finalizers() == [FINALIZER]).then_some(())
    })
    .await;
}

/// Waits until all addresses of the pool were looked at.
async fn taken_over(client: &Client, name: &str, last: &str) {
    let pools = Api::<SpiderIPPool>::all(client.clone());
    eventually(&format!("{name} is taken over up to {last}"), || async {
        let pool = pools.get(name).await.unwrap();
        (pool.source() == Source::Claims && pool.spec.ips[0].ends_with(last)).then_some(())
    })
    .await;
}

/// What failed was the predecessor's: its successor does not wait for ever because of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_made_again_after_a_lost_answer_is_looked_at() {
    let (client, server) = api_server().await;
    let (spied, spy) = Spy::on(&server);
    let keeper = Keeper::start(&spied, Phase::Ours);
    spy.fail(Method::PATCH, "/spiderippools/", 503);
    let (pools, knows) = (Api::<SpiderIPPool>::all(client.clone()), keeper.knows());
    // It goes while the answer is awaited, and the keeper hears of that first.
    let (tell, told) = oneshot::channel();
    spy.before(Method::PATCH, "/spiderippools/lost", async move {
        pools.delete("lost", &DeleteParams::default()).await.unwrap();
        eventually("the keeper knows that it is gone", || async { (!knows("lost")).then_some(()) }).await;
        tell.send(()).unwrap();
    });
    create::<SpiderIPPool>(&client, "lost", pool(1, 9)).await.unwrap();
    told.await.unwrap();

    // A pool that fails later is due later: when it is written, the turn of the first one has passed.
    create::<SpiderIPPool>(&client, "later", pool(2, 9)).await.unwrap();
    eventually("a failure of the other one", || async {
        (spy.count("PATCH /apis/spiderpool.spidernet.io/v2beta1/spiderippools/later") > 0).then_some(())
    })
    .await;
    spy.recover();
    kept(&client, "later").await;

    create::<SpiderIPPool>(&client, "lost", pool(1, 9)).await.unwrap();
    kept(&client, "lost").await;
    taken_over(&client, "lost", ".9").await;
    keeper.end().await;
}

/// As two replicas may admit them at the same instant; here no webhook is asked.
#[tokio::test(flavor = "multi_thread")]
async fn pools_that_share_addresses_are_told_of() {
    let (client, _server) = api_server().await;
    let keeper = Keeper::start(&client, Phase::Ours);
    create::<SpiderIPPool>(&client, "first", pool(1, 9)).await.unwrap();
    // Of the same subnet, and of a wider one, without a shared address.
    let beside = json!({"spec": {"subnet": "10.1.0.0/24", "ips": ["10.1.0.20-10.1.0.29"]}});
    create::<SpiderIPPool>(&client, "beside", beside).await.unwrap();
    for name in ["first", "beside"] {
        taken_over(&client, name, "9").await;
    }
    let second = json!({"spec": {"subnet": "10.1.0.0/24", "ips": ["10.1.0.7-10.1.0.12"]}});
    create::<SpiderIPPool>(&client, "second", second).await.unwrap();
    let told = event(&client, "default", "IPPoolsOverlap").await;
    assert_eq!((told.involved_object.name.as_deref(), told.type_.as_deref()), (Some("second"), Some("Warning")));
    let text = told.message.unwrap();
    assert!(text.contains("10.1.0.7-10.1.0.9 with SpiderIPPool first"), "{text}");
    keeper.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_are_made_or_widened_at_once_cost_no_listing_of_the_cluster_each() {
    const LISTED: &str = "GET /api/v1/pods";
    // Fewer than are written at the same time.
    const POOLS: usize = 12;
    let (client, server) = api_server().await;
    let (spied, spy) = Spy::on(&server);
    let keeper = Keeper::start(&spied, Phase::Ours);
    // The first listing is held up until all pools are there, and the keeper is at work on each.
    let (release, released) = oneshot::channel();
    spy.before(Method::GET, "/api/v1/pods", async { released.await.unwrap() });
    for number in 0..POOLS {
        create::<SpiderIPPool>(&client, &format!("p{number}"), pool(number, 9)).await.unwrap();
    }
    for number in 0..POOLS {
        kept(&client, &format!("p{number}")).await;
    }
    release.send(()).unwrap();
    for number in 0..POOLS {
        taken_over(&client, &format!("p{number}"), ".9").await;
    }
    let new = spy.count(LISTED);
    assert!((1..=2).contains(&new), "{new} listings for {POOLS} new pools");

    // The first listing is held up until the keeper has heard of all changes: another pool that comes last shows that it has.
    let (release, released) = oneshot::channel();
    spy.before(Method::GET, "/api/v1/pods", async { released.await.unwrap() });
    let pools = Api::<SpiderIPPool>::all(client.clone());
    for number in 0..POOLS {
        merge(&pools, &format!("p{number}"), pool(number, 19)).await;
    }
    create::<SpiderIPPool>(&client, "last", pool(POOLS, 9)).await.unwrap();
    kept(&client, "last").await;
    release.send(()).unwrap();
    for number in 0..POOLS {
        taken_over(&client, &format!("p{number}"), ".19").await;
    }
    // One that the first pool has asked for, and one for those that changed after it was begun.
    let listings = spy.count(LISTED) - new;
    assert!((1..=2).contains(&listings), "{listings} listings for {POOLS} pools");
    keeper.end().await;
}
