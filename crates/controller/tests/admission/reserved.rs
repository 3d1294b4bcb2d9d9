//! SpiderReservedIP (ipam, §10.4).

use k8s_api::{SpiderIPPool, SpiderReservedIP};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{World, create, eventually};
use crate::{FORBIDDEN, INVALID, UNSUPPORTED, assert_invalid, assert_refused, pool, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn reserved_addresses() {
    let world = World::start().await;
    let reserved = |spec: Value| json!({"spec": spec});
    let stored: SpiderReservedIP =
        create(&world.client, "r", reserved(json!({"ips": ["10.9.0.2", "10.9.0.1"]}))).await.unwrap();
    assert_eq!((stored.spec.ip_version, stored.spec.ips.as_slice()), (Some(4), &["10.9.0.1-10.9.0.2".to_owned()][..]));
    assert!(stored.finalizers().is_empty());
    create::<SpiderReservedIP>(&world.client, "empty", reserved(json!({"ipVersion": 4}))).await.unwrap();
    let rows = [
        ("empty", json!({}), INVALID, "spec.ipVersion", "spec.ips"),
        ("unparsable first", json!({"ips": ["x"]}), INVALID, "spec.ipVersion", "spec.ips[0]"),
        (
            "reversed",
            json!({"ipVersion": 4, "ips": ["10.9.0.2-10.9.0.1"]}),
            INVALID,
            "spec.ips[0]",
            "10.9.0.2-10.9.0.1",
        ),
        ("family", json!({"ips": ["10.9.0.1", "fd00::1"]}), INVALID, "spec.ips[1]", "fd00::1"),
        ("version", json!({"ipVersion": 7, "ips": ["10.9.0.1"]}), UNSUPPORTED, "spec.ipVersion", "supported values"),
    ];
    for (what, spec, kind, field, words) in rows {
        let status = refusal(what, create::<SpiderReservedIP>(&world.client, "bad", reserved(spec)).await);
        assert_invalid(what, &status, kind, field, words);
    }
    let api = Api::<SpiderReservedIP>::all(world.client.clone());
    let patch = async |change| api.patch("r", &PatchParams::default(), &Patch::Merge(json!({"spec": change}))).await;
    let rows = [
        ("version", json!({"ipVersion": 6, "ips": ["fd00::1"]}), FORBIDDEN, "spec.ipVersion", "not changeable"),
        ("range", json!({"ips": ["10.9.0.1", "x"]}), INVALID, "spec.ips[1]", "\"x\""),
    ];
    for (what, change, kind, field, words) in rows {
        assert_invalid(what, &refusal(what, patch(change).await), kind, field, words);
    }
    patch(json!({"ips": ["10.9.0.9"]})).await.unwrap();
    api.delete("r", &DeleteParams::default()).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_pools_may_be_reserved_and_count_all_the_same() {
    let world = World::start().await;
    create::<SpiderIPPool>(&world.client, "p", pool(json!({}))).await.unwrap();
    create::<SpiderReservedIP>(&world.client, "r", json!({"spec": {"ips": ["10.9.0.10-10.9.0.12"]}})).await.unwrap();
    let pools = Api::<SpiderIPPool>::all(world.client.clone());
    eventually("the pool's total", || async {
        (pools.get("p").await.unwrap().status?.total_ip_count == Some(11)).then_some(())
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_going_away_is_not_changed_and_may_go() {
    let world = World::start().await;
    let held = json!({"metadata": {"finalizers": ["example.com/f"]}, "spec": {"ips": ["10.9.0.1"]}});
    create::<SpiderReservedIP>(&world.client, "r", held).await.unwrap();
    let api = Api::<SpiderReservedIP>::all(world.client.clone());
    api.delete("r", &DeleteParams::default()).await.unwrap();
    let patch = async |change| api.patch("r", &PatchParams::default(), &Patch::Merge(change)).await;
    let status = refusal("spec", patch(json!({"spec": {"ips": ["10.9.0.2"]}})).await);
    assert_refused("spec", &status, (403, "Forbidden"), "cannot update a terminating ReservedIP r");
    patch(json!({"metadata": {"finalizers": null}})).await.unwrap();
    assert!(api.get_opt("r").await.unwrap().is_none());
    world.end().await;
}
