//! Pods whose owners make them again with the same address.

use k8s_api::SpiderIPPool;
use k8s_openapi::{
    api::apps::v1::StatefulSet, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, NAMESPACE, settings, uid},
    world::{create, create_in, eventually, object},
};

async fn stateful_set(cluster: &Cluster, replicas: i32) -> StatefulSet {
    let labels = json!({"app": "db"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec =
        json!({"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": labels}, "template": template});
    create_in::<StatefulSet>(&cluster.client, NAMESPACE, "db", json!({"spec": spec})).await.unwrap()
}

fn owned_by(set: &StatefulSet) -> Value {
    let owner =
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": set.uid(), "controller": true});
    json!({"metadata": {"ownerReferences": [owner]}})
}

/// `db-0` to `db-2` have gone with node-a, and their endpoints tell whose they were.
async fn lost_members(cluster: &Cluster) {
    for (ordinal, address) in ["10.9.0.10", "10.9.0.11", "10.9.0.12"].into_iter().enumerate() {
        let (pod, uid) = (format!("db-{ordinal}"), format!("uid-db-{ordinal}"));
        cluster.claim(address, &pod, &uid, "node-a").await;
        cluster.endpoint(&pod, &uid, ("StatefulSet", "db"), address, "node-a").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_member_of_a_stateful_set_is_kept_until_it_has_no_place_or_a_successor() {
    let cluster = Cluster::start().await;
    let set = stateful_set(&cluster, 2).await;
    lost_members(&cluster).await;
    let collector = cluster.collect(settings());
    cluster.freed("10.9.0.12").await;
    cluster.endpoint_gone("db-2").await;
    cluster.looked_at("db-0").await;
    cluster.looked_at("db-1").await;
    assert_eq!(cluster.claims().await, ["10.9.0.10", "10.9.0.11"]);
    assert!(cluster.has_endpoint("db-0").await && cluster.has_endpoint("db-1").await);

    // Made again: it gets an address of its own, and it may be that this one is the last.
    cluster.node("node-b", true).await;
    let successor = cluster.starting_pod("db-0", "node-b", owned_by(&set)).await;
    cluster.freed("10.9.0.10").await;
    cluster.claim("10.9.0.20", "db-0", &uid(&successor), "node-b").await;
    cluster.status("db-0", json!({"phase": "Running", "podIPs": [{"ip": "10.9.0.20"}]})).await;

    let sets = Api::<StatefulSet>::namespaced(cluster.client.clone(), NAMESPACE);
    let scaled = Patch::Merge(json!({"spec": {"replicas": 1}}));
    sets.patch("db", &PatchParams::default(), &scaled).await.unwrap();
    cluster.freed("10.9.0.11").await;
    assert_eq!(cluster.claims().await, ["10.9.0.20"]);
    collector.end().await;
}

/// Of these pools an agent of upstream may start the successor, and gives it the same address by what the endpoint and the pool tell.
#[tokio::test(flavor = "multi_thread")]
async fn where_upstream_may_give_a_successor_the_same_address_it_is_kept_until_the_successor_has_one() {
    let cluster = Cluster::start().await;
    let spec = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1-10.9.0.200"]}});
    create::<SpiderIPPool>(&cluster.client, "p", spec).await.unwrap();
    let set = stateful_set(&cluster, 3).await;
    lost_members(&cluster).await;
    cluster.node("node-b", true).await;
    let collector = cluster.collect(settings());
    cluster.starting_pod("db-0", "node-b", owned_by(&set)).await;
    cluster.looked_at("db-0").await;
    assert_eq!(cluster.claims().await, ["10.9.0.10", "10.9.0.11", "10.9.0.12"]);
    cluster.status("db-0", json!({"phase": "Running", "podIPs": [{"ip": "10.9.0.20"}]})).await;
    cluster.freed("10.9.0.10").await;
    assert_eq!(cluster.claims().await, ["10.9.0.11", "10.9.0.12"]);
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_feature_members_of_a_stateful_set_are_like_all_others() {
    let cluster = Cluster::start().await;
    stateful_set(&cluster, 3).await;
    lost_members(&cluster).await;
    let mut settings = settings();
    settings.stateful_set = false;
    let collector = cluster.collect(settings);
    for (address, pod) in [("10.9.0.10", "db-0"), ("10.9.0.11", "db-1"), ("10.9.0.12", "db-2")] {
        cluster.freed(address).await;
        cluster.endpoint_gone(pod).await;
    }
    collector.end().await;
}

/// Mend G15: the name alone is not the owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_that_was_made_later_keeps_nothing_of_its_predecessor() {
    let cluster = Cluster::start().await;
    lost_members(&cluster).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await; // creation times have seconds
    stateful_set(&cluster, 3).await;
    let collector = cluster.collect(settings());
    for address in ["10.9.0.10", "10.9.0.11", "10.9.0.12"] {
        cluster.freed(address).await;
    }
    collector.end().await;
}

fn definition(kind: &str, plural: &str) -> CustomResourceDefinition {
    let any = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": any});
    let names =
        json!({"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")});
    let spec = json!({"group": "kubevirt.io", "scope": "Namespaced", "names": names, "versions": [version]});
    object(&format!("{plural}.kubevirt.io"), json!({"spec": spec}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_keeps_its_address_while_it_exists_and_no_other_pod_runs_it() {
    let cluster = Cluster::start().await;
    // KubeVirt is not there: no machine is.
    cluster.claim("10.9.0.9", "virt-launcher-vm-x", "uid-x", "node-a").await;
    cluster.endpoint("virt-launcher-vm-x", "uid-x", ("VirtualMachineInstance", "vm"), "10.9.0.9", "node-a").await;
    let collector = cluster.collect(settings());
    cluster.freed("10.9.0.9").await;
    collector.end().await;

    let definitions = Api::<CustomResourceDefinition>::all(cluster.client.clone());
    for (kind, plural) in [("VirtualMachine", "virtualmachines"), ("VirtualMachineInstance", "virtualmachineinstances")]
    {
        definitions.create(&PostParams::default(), &definition(kind, plural)).await.unwrap();
    }
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachine"));
    let machines = Api::<DynamicObject>::namespaced_with(cluster.client.clone(), NAMESPACE, &kind);
    for name in ["vm", "vm-2"] {
        let machine = DynamicObject::new(name, &kind);
        eventually("a machine", async || machines.create(&PostParams::default(), &machine).await.ok()).await;
    }
    for (number, machine) in [("1", "vm"), ("2", "vm-2")] {
        let (pod, uid, address) =
            (format!("virt-launcher-{number}"), format!("uid-{number}"), format!("10.9.0.1{number}"));
        cluster.claim(&address, &pod, &uid, "node-a").await;
        cluster.endpoint(&pod, &uid, ("VirtualMachineInstance", machine), &address, "node-a").await;
    }
    let collector = cluster.collect(settings());
    cluster.looked_at("virt-launcher-1").await;
    cluster.looked_at("virt-launcher-2").await;
    assert_eq!(cluster.claims().await, ["10.9.0.11", "10.9.0.12"]);

    machines.delete("vm", &DeleteParams::default()).await.unwrap();
    cluster.freed("10.9.0.11").await;
    cluster.endpoint_gone("virt-launcher-1").await;
    let instance = ApiResource::from_gvk(&GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachineInstance"));
    let instances = Api::<DynamicObject>::namespaced_with(cluster.client.clone(), NAMESPACE, &instance);
    let instance = instances.create(&PostParams::default(), &DynamicObject::new("vm-2", &instance)).await.unwrap();
    let owner = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm-2",
        "uid": instance.uid(), "controller": true});
    let labels = json!({"kubevirt.io": "virt-launcher"});
    cluster.pod("virt-launcher-3", "node-b", json!({"metadata": {"ownerReferences": [owner], "labels": labels}})).await;
    cluster.freed("10.9.0.12").await;
    collector.end().await;
}
