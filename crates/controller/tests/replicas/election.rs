//! One leads; when it goes the next one does, at once if it went in order.

use std::time::{Duration, Instant};

use k8s_api::SpiderIPPool;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{Api, Client, api::PostParams};
use serde_json::json;

use crate::{
    claim,
    world::{BOTH, Replica, api_server, create, eventually},
};

pub async fn holder(client: &Client) -> Option<String> {
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-system");
    let lease = leases.get_opt("spiderpool-controller-leases").await.unwrap()?;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_goes_in_order_is_succeeded_at_once_and_all_serve_webhooks() {
    let (client, _server) = api_server().await;
    create::<Node>(&client, "node-a", json!({})).await.unwrap();
    let first = Replica::start(&client, "first", None, BOTH, &[], |_| {}).await;
    first.ready().await;
    assert_eq!(holder(&client).await.as_deref(), Some("first"));
    let url = format!("https://{}", first.webhook);
    let second = Replica::start(&client, "second", Some(&url), BOTH, &[], |_| {}).await;
    // Ready without leading: its own webhook server answers under a certificate that the configurations trust.
    second.ready().await;
    assert_eq!(holder(&client).await.as_deref(), Some("first"));

    create::<SpiderIPPool>(&client, "p", json!({"spec": {"subnet": "10.1.0.0/24", "ips": ["10.1.0.1-10.1.0.9"]}}))
        .await
        .unwrap();
    let begun = Instant::now();
    first.end().await;
    eventually("the second leads", || async { (holder(&client).await.as_deref() == Some("second")).then_some(()) })
        .await;
    // A lease of 15 s that was not given back would have been waited out.
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
    Api::all(client.clone()).create(&PostParams::default(), &claim("10.1.0.1", "p")).await.unwrap();
    eventually("the second keeps the views", || async {
        let pool = Api::<SpiderIPPool>::all(client.clone()).get("p").await.unwrap();
        (pool.status?.allocated_ip_count == Some(1)).then_some(())
    })
    .await;
    second.end().await;
    assert_eq!(holder(&client).await, None, "given back");
}
