//! Mend G8: who collects garbage. From the first scan on the leader alone does.

use std::{sync::Arc, time::Duration};

use axum::{http::Method, middleware::from_fn_with_state};
use controller::{gc::facts::Timing, settings::Settings};
use k8s_api::SpiderIP;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};

use crate::{
    claim,
    election::holder,
    fencing::{Record, record},
    name,
    world::{BOTH, Replica, api_server, eventually},
};

/// Looks often and frees soon, but not before both replicas are up.
fn quick(settings: &mut Settings) {
    let gc = settings.garbage_collection.as_mut().unwrap();
    gc.interval = Duration::from_millis(200);
    gc.gap = Duration::from_millis(10);
    let settled = Duration::from_secs(2);
    gc.timing = Timing { young: Duration::ZERO, settled, agent: settled };
}

async fn released(client: &Client) {
    let ips = Api::<SpiderIP>::all(client.clone());
    eventually("all addresses are released", async || {
        ips.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaned_claim_is_deleted_once_and_by_the_leader() {
    let (client, server) = api_server().await;
    let ips = Api::<SpiderIP>::all(client.clone());
    // Neither their pods nor their node exist, before any controller begins.
    let addresses: Vec<String> = (1..=12).map(|host| format!("10.1.0.{host}")).collect();
    for address in &addresses {
        ips.create(&PostParams::default(), &claim(address, "p")).await.unwrap();
    }
    let heard = Record::default();
    let heard_by = |who: &'static str| {
        let router = server.router().layer(from_fn_with_state((who, Arc::clone(&heard)), record));
        Client::new(router, "default")
    };
    let first = Replica::start(&heard_by("first"), "first", None, BOTH, &[], quick).await;
    let url = format!("https://{}", first.webhook);
    let second = Replica::start(&heard_by("second"), "second", Some(&url), BOTH, &[], quick).await;
    first.ready().await;
    second.ready().await;
    let leader = holder(&client).await.unwrap();
    released(&client).await;

    let about = |address: &str| {
        let end = format!("/spiderips/{}", name(address));
        let heard = heard.lock().unwrap();
        let about: Vec<_> = heard.iter().filter(|one| one.path.ends_with(&end)).cloned().collect();
        about
    };
    let deletes = |address: &str| {
        let deletes = about(address).into_iter().filter(|one| one.method == Method::DELETE);
        deletes.map(|one| (one.who.to_owned(), one.status.is_success())).collect::<Vec<_>>()
    };
    for address in &addresses {
        assert_eq!(deletes(address), [(leader.clone(), true)], "{address}");
        let others: Vec<_> = about(address).into_iter().filter(|one| one.who != leader).collect();
        assert!(others.is_empty(), "who does not lead does not even look: {others:?}");
    }

    // The other one does once it leads.
    let (goes, stays) = if leader == "first" { (first, second) } else { (second, first) };
    goes.end().await;
    let late = ips.create(&PostParams::default(), &claim("10.1.0.99", "p")).await.unwrap();
    released(&client).await;
    let other = if leader == "first" { "second" } else { "first" };
    assert_eq!(deletes("10.1.0.99"), [(other.to_owned(), true)], "{}", late.name_any());
    stays.end().await;
}
