//! What the reconcilers keep true, seen through the API.

#![allow(clippy::unwrap_used)] // tests

mod world;

use std::net::IpAddr;

use k8s_api::{
    FINALIZER, Holder, IpState, NetworkAttachmentDefinition, SpiderCoordinator, SpiderIP, SpiderIPPool,
    SpiderMultusConfig,
    ip::{NodeHolder, PodHolder},
};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Event},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use world::{World, api_server, create, create_in, eventually};

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

async fn merge<K: Clone + std::fmt::Debug + serde::de::DeserializeOwned>(api: &Api<K>, name: &str, patch: Value) -> K {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
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

async fn event(client: &Client, namespace: &str, reason: &str) -> Event {
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    eventually(&format!("event {reason}"), || async {
        let events = api.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().find(|event| event.reason.as_deref() == Some(reason))
    })
    .await
}

async fn coordinator_in_phase(client: &Client, phase: &str) -> SpiderCoordinator {
    let api = Api::<SpiderCoordinator>::all(client.clone());
    eventually(&format!("coordinator {phase}"), || async {
        let found = api.get_opt("default").await.unwrap()?;
        (found.status.as_ref()?.phase == phase).then_some(found)
    })
    .await
}

fn kubeadm(pods: &str) -> Value {
    let text = format!("networking:\n  podSubnet: {pods}\n  serviceSubnet: 10.233.0.0/18,fd00:10:233::/116\n");
    json!({"data": {"ClusterConfiguration": text}})
}

const CLUSTER: (&str, &str) = ("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_POD_CIDR_TYPE", "cluster");

#[tokio::test(flavor = "multi_thread")]
async fn the_default_coordinator_is_made_and_knows_the_clusters_cidrs() {
    let world = World::with(world::BOTH, &[CLUSTER]).await;
    let client = &world.client;
    let waiting = coordinator_in_phase(client, "NotReady").await;
    assert!(waiting.status.unwrap().reason.unwrap().contains("kubeadm-config"));
    assert!(event(client, "default", "ClusterNotReady").await.message.unwrap().contains("create the ConfigMap"));
    assert_eq!(waiting.spec.hijack_cidr, Some(vec!["169.254.0.0/16".to_owned()]));

    create_in::<ConfigMap>(client, "kube-system", "kubeadm-config", kubeadm("10.233.64.0/18")).await.unwrap();
    let status = coordinator_in_phase(client, "Synced").await.status.unwrap();
    assert_eq!(status.overlay_pod_cidr, Some(vec!["10.233.64.0/18".to_owned()]));
    assert_eq!(status.service_cidr, Some(vec!["10.233.0.0/18".to_owned(), "fd00:10:233::/116".to_owned()]));
    assert_eq!(status.reason, None);

    let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    merge(&maps, "kubeadm-config", kubeadm("10.99.0.0/16")).await;
    let api = Api::<SpiderCoordinator>::all(client.clone());
    eventually("the new CIDR", || async {
        let status = api.get("default").await.unwrap().status?;
        (status.overlay_pod_cidr == Some(vec!["10.99.0.0/16".to_owned()])).then_some(())
    })
    .await;

    merge(&api, "default", json!({"spec": {"podCIDRType": "none"}})).await;
    eventually("no overlay", || async {
        let status = api.get("default").await.unwrap().status?;
        (status.overlay_pod_cidr == Some(vec![]) && status.phase == "Synced").then_some(())
    })
    .await;
    event(client, "default", "PodCIDRTypeChanged").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_coordinator_goes() {
    let world = World::start().await;
    let client = &world.client;
    create::<SpiderCoordinator>(client, "spare", json!({"spec": {"podCIDRType": "none"}})).await.unwrap();
    let api = Api::<SpiderCoordinator>::all(client.clone());
    api.delete("spare", &DeleteParams::default()).await.unwrap();
    eventually("no coordinator", || async { api.get_opt("spare").await.unwrap().is_none().then_some(()) }).await;
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
