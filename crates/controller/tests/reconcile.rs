//! What the reconcilers keep true, seen through the API.

#![allow(clippy::unwrap_used)] // tests

mod world;

use std::net::IpAddr;

use k8s_api::{
    FINALIZER, Holder, IpState, NetworkAttachmentDefinition, SpiderIP, SpiderIPPool, SpiderMultusConfig,
    ip::{NodeHolder, PodHolder},
};
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use world::{World, api_server, create, create_in, event, eventually, merge};

fn ipvlan() -> Value {
    json!({"cniType": "ipvlan", "ipvlan": {"master": ["eth0"]}, "enableCoordinator": false})
}

const IPVLAN: &str = r#"{"cniVersion":"0.3.1","name":"net","plugins":[{"type":"ipvlan","master":"eth0","mtu":0,"ipam":{"type":"spiderpool"}}]}"#;

fn definitions(client: &Client) -> Api<NetworkAttachmentDefinition> {
    Api::namespaced(client.clone(), "default")
}

fn configs(client: &Client) -> Api<SpiderMultusConfig> {
    Api::namespaced(client.clone(), "default")
}

async fn definition_with(client: &Client, name: &str, config: &str) -> NetworkAttachmentDefinition {
    let api = definitions(client);
    eventually(&format!("definition {name} with {config}"), || async {
        let found = api.get_opt(name).await.unwrap()?;
        (found.spec.config.as_deref() == Some(config) && !found.owner_references().is_empty()).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_follows_its_config_and_is_put_right() {
    let world = World::start().await;
    let client = &world.client;
    let annotated = json!({"metadata": {"annotations": {"example.com/a": "1"}}, "spec": ipvlan()});
    let config: SpiderMultusConfig = create_in(client, "default", "net", annotated).await.unwrap();
    let made = definition_with(client, "net", IPVLAN).await;
    let owner = &made.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("SpiderMultusConfig", "net", Some(true)));
    assert_eq!(Some(&owner.uid), config.uid().as_ref());
    assert_eq!(made.annotations()["example.com/a"], "1");

    // Edited: the config comes back, foreign annotations stay.
    let edit =
        json!({"metadata": {"annotations": {"example.com/a": "2", "other.io/b": "3"}}, "spec": {"config": "{}"}});
    merge(&definitions(client), "net", edit).await;
    let righted = definition_with(client, "net", IPVLAN).await;
    assert_eq!(
        (righted.annotations()["example.com/a"].as_str(), righted.annotations()["other.io/b"].as_str()),
        ("1", "3")
    );

    // Deleted: it comes back.
    definitions(client).delete("net", &DeleteParams::default()).await.unwrap();
    let again = eventually("a new definition", || async {
        definitions(client).get_opt("net").await.unwrap().filter(|found| found.uid() != made.uid())
    })
    .await;
    assert_eq!(again.spec.config.as_deref(), Some(IPVLAN));

    // Changed: it follows.
    merge(&configs(client), "net", json!({"spec": {"ipvlan": {"master": ["eth1"]}}})).await;
    definition_with(client, "net", &IPVLAN.replace("eth0", "eth1")).await;

    // The config goes, and the definition with it.
    configs(client).delete("net", &DeleteParams::default()).await.unwrap();
    eventually("no definition", || async { definitions(client).get_opt("net").await.unwrap().is_none().then_some(()) })
        .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_without_owner_is_taken_over_and_one_of_another_controller_is_not() {
    let world = World::start().await;
    let client = &world.client;
    let free =
        json!({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/resourceName": "old/vf"}}, "spec": {"config": "{}"}});
    create_in::<NetworkAttachmentDefinition>(client, "default", "net", free).await.unwrap();
    create_in::<SpiderMultusConfig>(client, "default", "net", json!({"spec": ipvlan()})).await.unwrap();
    let taken = definition_with(client, "net", IPVLAN).await;
    assert_eq!(
        taken.annotations().get("k8s.v1.cni.cncf.io/resourceName"),
        None,
        "a resource that the network does not have"
    );

    let owner = create_in::<ConfigMap>(client, "default", "owner", json!({})).await.unwrap();
    let reference =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid(), "controller": true}]);
    let foreign = json!({"metadata": {"ownerReferences": reference}, "spec": {"config": "{}"}});
    create_in::<NetworkAttachmentDefinition>(client, "default", "theirs", foreign).await.unwrap();
    create_in::<SpiderMultusConfig>(client, "default", "theirs", json!({"spec": ipvlan()})).await.unwrap();
    let event = event(client, "default", "NetworkNotWritten").await;
    assert!(event.message.unwrap().contains("default/theirs belongs to ConfigMap owner"));
    assert_eq!(definitions(client).get("theirs").await.unwrap().spec.config.as_deref(), Some("{}"));
    world.end().await;
}

/// Every way to edit a definition by hand: what the config says comes back, at once and not only at the next resync.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_edited_in_a_network_by_hand_is_put_right() {
    let world = World::with(world::BOTH, &[("SPIDERPOOL_MULTUS_CONFIG_INFORMER_RESYNC_PERIOD", "3600")]).await;
    let client = &world.client;
    let named = json!({"metadata": {"annotations": {"multus.spidernet.io/cr-name": "wire"}}, "spec": ipvlan()});
    create_in::<SpiderMultusConfig>(client, "default", "net", named).await.unwrap();
    let config = IPVLAN.replace("\"net\"", "\"wire\"");
    let made = definition_with(client, "wire", &config).await;
    let owners = serde_json::to_value(made.owner_references()).unwrap();
    let map = create_in::<ConfigMap>(client, "default", "a", json!({})).await.unwrap();
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": map.uid()});
    let rows = [
        ("another configuration", json!({"spec": {"config": "{}"}})),
        ("no configuration", json!({"spec": {"config": null}})),
        ("no owner", json!({"metadata": {"ownerReferences": null}})),
        ("another owner beside", json!({"metadata": {"ownerReferences": [other, owners[0]]}})),
        ("a resource", json!({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/resourceName": "x/vf"}}})),
        ("an annotation of the config", json!({"metadata": {"annotations": {"multus.spidernet.io/cr-name": null}}})),
    ];
    for (what, edit) in rows {
        merge(&definitions(client), "wire", edit).await;
        eventually(&format!("{what}: put right"), || async {
            let found = definitions(client).get("wire").await.unwrap();
            let owned = found.owner_references().iter().any(|owner| owner.controller == Some(true));
            let annotations = json!({"multus.spidernet.io/cr-name": "wire"});
            let right = owned
                && found.spec.config.as_deref() == Some(config.as_str())
                && serde_json::to_value(found.annotations()).unwrap() == annotations;
            (right && found.uid() == made.uid()).then_some(())
        })
        .await;
    }
    // Somebody else's owner reference and labels are theirs.
    assert_eq!(definitions(client).get("wire").await.unwrap().owner_references().len(), 2);
    merge(&definitions(client), "wire", json!({"metadata": {"labels": {"a": "b"}}})).await;
    definitions(client).delete("wire", &DeleteParams::default()).await.unwrap();
    let again = eventually("a new definition", || async {
        definitions(client).get_opt("wire").await.unwrap().filter(|found| found.uid() != made.uid())
    })
    .await;
    assert_eq!((again.spec.config, again.metadata.labels), (Some(config), None));
    world.end().await;
}

/// Two want the same name, or somebody was there first: the config gets the name when it is free, without waiting for a resync.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_written_once_its_name_is_free() {
    let world = World::with(world::BOTH, &[("SPIDERPOOL_MULTUS_CONFIG_INFORMER_RESYNC_PERIOD", "3600")]).await;
    let client = &world.client;
    let owner = create_in::<ConfigMap>(client, "default", "owner", json!({})).await.unwrap();
    let reference =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid(), "controller": true}]);
    let foreign = json!({"metadata": {"ownerReferences": reference}, "spec": {"config": "{}"}});
    create_in::<NetworkAttachmentDefinition>(client, "default", "net", foreign).await.unwrap();
    create_in::<SpiderMultusConfig>(client, "default", "net", json!({"spec": ipvlan()})).await.unwrap();
    event(client, "default", "NetworkNotWritten").await;
    definitions(client).delete("net", &DeleteParams::default()).await.unwrap();
    definition_with(client, "net", IPVLAN).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_a_former_name_is_deleted() {
    let world = World::start().await;
    let client = &world.client;
    let named = json!({"metadata": {"annotations": {"multus.spidernet.io/cr-name": "other"}}, "spec": ipvlan()});
    create_in::<SpiderMultusConfig>(client, "default", "net", named).await.unwrap();
    definition_with(client, "other", &IPVLAN.replace("\"net\"", "\"other\"")).await;
    merge(&configs(client), "net", json!({"metadata": {"annotations": {"multus.spidernet.io/cr-name": null}}})).await;
    definition_with(client, "net", IPVLAN).await;
    eventually("no definition of the former name", || async {
        definitions(client).get_opt("other").await.unwrap().is_none().then_some(())
    })
    .await;
    world.end().await;
}

fn pod_holder(pod: &str, node: &str) -> Holder {
    Holder::Pod(PodHolder {
        namespace: "default".into(),
        name: pod.into(),
        uid: format!("uid-{pod}"),
        container_id: None,
        interface: "eth0".into(),
        node: node.into(),
    })
}

async fn claim(client: &Client, address: &str, pool: &str, holder: Holder) -> SpiderIP {
    let address: IpAddr = address.parse().unwrap();
    let state = if matches!(holder, Holder::Node(_)) { IpState::Held } else { IpState::Allocated };
    let ip = SpiderIP::claim(&ipam::address_name(address), address, pool, state, holder, Time(Timestamp::now()));
    Api::all(client.clone()).create(&PostParams::default(), &ip).await.unwrap()
}

async fn free(client: &Client, name: &str) {
    Api::<SpiderIP>::all(client.clone()).delete(name, &DeleteParams::default()).await.unwrap();
}

async fn pool_with(client: &Client, name: &str, allocated: i64) -> SpiderIPPool {
    let api = Api::<SpiderIPPool>::all(client.clone());
    eventually(&format!("pool {name} with {allocated} addresses in use"), || async {
        let found = api.get(name).await.unwrap();
        (found.status.as_ref()?.allocated_ip_count == Some(allocated)).then_some(found)
    })
    .await
}

fn pool(nodes: Value) -> Value {
    json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.10-10.9.0.19"], "nodeName": nodes}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pools_status_is_the_view_of_its_addresses() {
    let (client, server) = api_server().await;
    // In use before the controller starts, and before the pool is there.
    claim(&client, "10.9.0.11", "p", pod_holder("web-0", "node-a")).await;
    let world = World::on(client, server, world::BOTH, &[]).await;
    let client = &world.client;
    create::<SpiderIPPool>(client, "p", pool(json!(["node-a"]))).await.unwrap();
    let status = pool_with(client, "p", 1).await.status.unwrap();
    assert_eq!(status.allocated_ips.as_deref(), Some(r#"{"10.9.0.11":{"pod":"default/web-0","podUid":"uid-web-0"}}"#));
    assert_eq!((status.total_ip_count, status.used_ranges), (Some(10), vec!["10.9.0.11".to_owned()]));

    claim(client, "10.9.0.12", "p", pod_holder("web-1", "node-a")).await;
    claim(client, "10.9.0.10", "p", Holder::Node(NodeHolder { name: "node-a".into() })).await;
    let status = pool_with(client, "p", 3).await.status.unwrap();
    assert_eq!(status.used_ranges, ["10.9.0.10-10.9.0.12"]);
    assert_eq!(status.allocated_ips.unwrap().matches("podUid").count(), 2);

    for name in ["10.9.0.10", "10.9.0.11", "10.9.0.12"] {
        free(client, name).await;
    }
    let status = pool_with(client, "p", 0).await.status.unwrap();
    assert_eq!((status.allocated_ips, status.used_ranges), (None, vec![]));

    merge(&Api::<SpiderIPPool>::all(client.clone()), "p", json!({"spec": {"excludeIPs": ["10.9.0.19"]}})).await;
    eventually("the new total", || async {
        let found = Api::<SpiderIPPool>::all(client.clone()).get("p").await.unwrap();
        (found.status?.total_ip_count == Some(9)).then_some(())
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_one_node_bears_its_label_also_if_no_webhook_touched_it() {
    let (client, server) = api_server().await;
    create::<SpiderIPPool>(&client, "early", pool(json!(["node-a"]))).await.unwrap();
    let world = World::on(client, server, world::BOTH, &[]).await;
    let client = &world.client;
    let api = Api::<SpiderIPPool>::all(client.clone());
    let labelled = async |name: &str, node: Option<&str>| {
        eventually(&format!("label of {name}: {node:?}"), || async {
            let found = api.get(name).await.unwrap();
            let label = found.labels().get("ipam.spidernet.io/pool-node").map(String::as_str);
            (label == node && found.finalizers() == [FINALIZER]).then_some(())
        })
        .await;
    };
    labelled("early", Some("node-a")).await;
    assert_eq!(api.get("early").await.unwrap().spec.ip_version, Some(4), "filled by the webhook on the way");
    merge(&api, "early", json!({"spec": {"nodeName": ["node-a", "node-b"]}})).await;
    labelled("early", None).await;
    merge(&api, "early", json!({"spec": {"nodeName": ["node-b"]}})).await;
    labelled("early", Some("node-b")).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pool_stays_until_its_last_address_is_released() {
    let world = World::start().await;
    let client = &world.client;
    let api = Api::<SpiderIPPool>::all(client.clone());
    create::<SpiderIPPool>(client, "p", pool(json!([]))).await.unwrap();
    claim(client, "10.9.0.11", "p", pod_holder("web-0", "node-a")).await;
    pool_with(client, "p", 1).await;
    api.delete("p", &DeleteParams::default()).await.unwrap();
    let event = event(client, "default", "IPPoolInUse").await;
    assert!(event.message.unwrap().contains("10.9.0.11 of default/web-0"));
    assert!(api.get_opt("p").await.unwrap().is_some());
    free(client, "10.9.0.11").await;
    eventually("the pool gone", || async { api.get_opt("p").await.unwrap().is_none().then_some(()) }).await;
    world.end().await;
}
