//! SpiderIPPool: UPDATE and DELETE (ipam, §10.3).

use k8s_api::{Holder, IpState, SpiderIP, SpiderIPPool, ip::PodHolder};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::world::{World, api_server, create, create_in};
use crate::{FORBIDDEN, INVALID, assert_invalid, assert_refused, pool, refusal};

async fn patched(client: &Client, name: &str, spec: Value) -> kube::Result<SpiderIPPool> {
    Api::<SpiderIPPool>::all(client.clone())
        .patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec})))
        .await
}

async fn claim(client: &Client, address: &str, pool: &str) -> SpiderIP {
    let address = address.parse().unwrap();
    let pod = PodHolder {
        namespace: "ns".into(),
        name: "web-0".into(),
        uid: "uid-0".into(),
        interface: "eth0".into(),
        node: "node-a".into(),
        container_id: None,
    };
    let ip = SpiderIP::claim(
        &ipam::address_name(address),
        address,
        pool,
        IpState::Allocated,
        Holder::Pod(pod),
        Time(Timestamp::now()),
    );
    Api::all(client.clone()).create(&PostParams::default(), &ip).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_in_use_keeps_its_subnet_and_its_addresses_in_use() {
    let world = World::start().await;
    create::<SpiderIPPool>(&world.client, "p", pool(json!({}))).await.unwrap();
    create::<SpiderIPPool>(&world.client, "neighbour", pool(json!({"ips": ["10.9.0.40"]}))).await.unwrap();
    claim(&world.client, "10.9.0.12", "p").await;
    let rows = [
        (
            "subnet",
            json!({"subnet": "10.10.0.0/24", "ips": [], "gateway": null}),
            FORBIDDEN,
            "spec.subnet",
            "not changeable",
        ),
        ("ipVersion", json!({"ipVersion": 6}), FORBIDDEN, "spec.ipVersion", "not changeable"),
        ("in use", json!({"ips": ["10.9.0.13-10.9.0.20"]}), FORBIDDEN, "spec.ips", "10.9.0.12"),
        ("in use, excluded", json!({"excludeIPs": ["10.9.0.12"]}), FORBIDDEN, "spec.ips", "ns/web-0"),
        ("6", json!({"ips": ["10.9.0.10-10.9.0.20", "10.9.1.20"]}), INVALID, "spec.ips[1]", "not pertains"),
        ("7", json!({"ips": ["10.9.0.10-10.9.0.40"]}), FORBIDDEN, "spec.ips", "overlap with IPPool neighbour"),
        ("8", json!({"gateway": "10.9.0.12"}), INVALID, "spec.ips[0]", "10.9.0.12"),
        ("9", json!({"routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}]}), INVALID, "spec.routes[0].dst", "gateway"),
        ("10", json!({"podAffinity": {}}), INVALID, "spec.podAffinity", "empty podAffinity is invalid"),
    ];
    for (what, spec, kind, field, words) in rows {
        assert_invalid(what, &refusal(what, patched(&world.client, "p", spec).await), kind, field, words);
    }
    let free = json!({"ips": ["10.9.0.12-10.9.0.30"], "gateway": "10.9.0.2", "disable": true, "nodeName": ["node-a"]});
    patched(&world.client, "p", free).await.unwrap();
    world.end().await;
}

/// A pool that upstream's agents allocate from: their record counts, imported or not.
#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_has_recorded_is_in_use() {
    let (client, server) = api_server().await;
    let containers = json!([{"name": "c", "image": "i"}]);
    let pod = json!({"spec": {"nodeName": "node-a", "containers": containers}});
    let pod = create_in::<Pod>(&client, "default", "web-0", pod).await.unwrap();
    create::<SpiderIPPool>(&client, "p", pool(json!({}))).await.unwrap();
    let record = json!({"10.9.0.12": {"pod": "default/web-0", "podUid": pod.uid()}}).to_string();
    let status = json!({"status": {"allocatedIPs": record, "allocatedIPCount": 1}});
    let pools = Api::<SpiderIPPool>::all(client.clone());
    pools.patch_status("p", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let guarded = "enableIPv4: true\nenableIPv6: true\nenableValidatingResourcesDeletedWebhook: true\n";
    let world = World::on(client.clone(), server, guarded, &[]).await;
    let status = refusal("left out", patched(&client, "p", json!({"ips": ["10.9.0.13-10.9.0.20"]})).await);
    assert_invalid(
        "left out",
        &status,
        FORBIDDEN,
        "spec.ips",
        "10.9.0.12 that is being used by Pod default/web-0, total IP",
    );
    let status = refusal("delete", pools.delete("p", &DeleteParams::default()).await);
    assert_refused("delete", &status, (403, "Forbidden"), "10.9.0.12 to Pod default/web-0");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminating_pool_in_use_is_not_changed() {
    let world = World::start().await;
    create::<SpiderIPPool>(&world.client, "p", pool(json!({}))).await.unwrap();
    claim(&world.client, "10.9.0.12", "p").await;
    Api::<SpiderIPPool>::all(world.client.clone()).delete("p", &DeleteParams::default()).await.unwrap();
    let status = refusal("change", patched(&world.client, "p", json!({"disable": true})).await);
    assert_refused("change", &status, (403, "Forbidden"), "cannot update a terminating IPPool p");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deletion_of_a_pool_in_use_is_refused_where_that_is_switched_on() {
    let world =
        World::with("enableIPv4: true\nenableIPv6: true\nenableValidatingResourcesDeletedWebhook: true\n", &[]).await;
    let pools = Api::<SpiderIPPool>::all(world.client.clone());
    create::<SpiderIPPool>(&world.client, "p", pool(json!({}))).await.unwrap();
    claim(&world.client, "10.9.0.12", "p").await;
    let status = refusal("delete", pools.delete("p", &DeleteParams::default()).await);
    assert_refused("delete", &status, (403, "Forbidden"), "10.9.0.12 to Pod ns/web-0");
    Api::<SpiderIP>::all(world.client.clone()).delete("10.9.0.12", &DeleteParams::default()).await.unwrap();
    pools.delete("p", &DeleteParams::default()).await.unwrap();
    world.end().await;
}
