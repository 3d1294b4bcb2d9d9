//! SpiderIPPool: mutation and CREATE (ipam, §10.1 and §10.2). Rules with all their variants are in `ipam`'s own tests; here each is seen
//! at work.

use k8s_api::{FINALIZER, SpiderIPPool, SpiderReservedIP};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{self, World, create, object};
use crate::{FORBIDDEN, INVALID, UNSUPPORTED, assert_invalid, assert_refused, pool, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_filled_in() {
    let world = World::start().await;
    let mixed = pool(json!({"ips": ["10.9.0.20", "10.9.0.10-10.9.0.12", "10.9.0.13"], "excludeIPs": ["10.9.0.11"]}));
    let stored: SpiderIPPool = create(&world.client, "p4", mixed).await.unwrap();
    assert_eq!(stored.finalizers(), [FINALIZER]);
    assert_eq!(stored.labels()["ipam.spidernet.io/ippool-cidr"], "10-9-0-0-24");
    assert_eq!((stored.spec.ip_version, stored.spec.default, stored.spec.disable), (Some(4), Some(false), Some(false)));
    assert_eq!(stored.spec.ips, ["10.9.0.10-10.9.0.13", "10.9.0.20"]);
    let v6 = json!({"spec": {"subnet": "fd00:9::/64", "ips": ["fd00:9::A-fd00:9::F"], "gateway": "fd00:9::1"}});
    let stored: SpiderIPPool = create(&world.client, "p6", v6).await.unwrap();
    assert_eq!(
        (stored.spec.ip_version, stored.spec.ips[0].as_str()),
        (Some(6), "fd00:9::A-fd00:9::F"),
        "a single range keeps its spelling"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_break_a_rule_are_refused() {
    let world = World::start().await;
    let neighbour = json!({"spec": {"subnet": "10.8.0.0/24", "ips": ["10.8.0.10-10.8.0.20"]}});
    create::<SpiderIPPool>(&world.client, "neighbour", neighbour).await.unwrap();
    let rows = [
        ("1 unparsable subnet", json!({"subnet": "10.9.0.0"}), INVALID, "spec.ipVersion", "is not generated correctly"),
        ("2 not a family", json!({"ipVersion": 5}), UNSUPPORTED, "spec.ipVersion", "supported values"),
        ("4 host bits", json!({"subnet": "10.9.0.7/24"}), INVALID, "spec.subnet", "10.9.0.0/24"),
        ("4 other family", json!({"ipVersion": 6}), INVALID, "spec.subnet", "10.9.0.0/24"),
        (
            "5 overlap",
            json!({"subnet": "10.8.0.0/16", "gateway": "10.8.0.1", "ips": []}),
            INVALID,
            "spec.subnet",
            "overlap with IPPool neighbour which 'spec.subnet' is 10.8.0.0/24",
        ),
        ("6 outside", json!({"ips": ["10.7.0.1"]}), INVALID, "spec.ips[0]", "10.7.0.1"),
        ("6 reversed", json!({"ips": ["10.9.0.20-10.9.0.10"]}), INVALID, "spec.ips[0]", "10.9.0.20-10.9.0.10"),
        ("6 IPv6 text", json!({"ips": ["fd00::1"]}), INVALID, "spec.ips[0]", "fd00::1"),
        ("6 CIDR as range", json!({"ips": ["10.9.0.0/28"]}), INVALID, "spec.ips[0]", "10.9.0.0/28"),
        ("6 excluded outside", json!({"excludeIPs": ["10.7.0.1"]}), INVALID, "spec.excludeIPs[0]", "10.7.0.1"),
        ("8 gateway outside", json!({"gateway": "10.7.0.1"}), INVALID, "spec.gateway", "10.7.0.1"),
        ("8 no gateway", json!({"gateway": "nonsense"}), INVALID, "spec.gateway", "nonsense"),
        ("8 empty gateway", json!({"gateway": ""}), INVALID, "spec.gateway", "not pertains"),
        ("8 gateway in ips", json!({"gateway": "10.9.0.15"}), INVALID, "spec.ips[0]", "10.9.0.15"),
        (
            "7 a neighbour's address",
            json!({"subnet": "10.8.0.0/24", "ips": ["10.8.0.20-10.8.0.30"], "gateway": "10.8.0.1"}),
            FORBIDDEN,
            "spec.ips",
            "overlap with IPPool neighbour in IP ranges [10.8.0.20], total IP addresses of an IPPool are jointly",
        ),
        (
            "9 default route",
            json!({"routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}]}),
            INVALID,
            "spec.routes[0].dst",
            "gateway",
        ),
        (
            "9 route twice",
            json!({"routes": [{"dst": "10.1.0.0/16", "gw": "10.9.0.1"}, {"dst": "10.1.0.0/16", "gw": "10.9.0.2"}]}),
            INVALID,
            "spec.routes[1].dst",
            "10.1.0.0/16",
        ),
        (
            "9 route's family",
            json!({"routes": [{"dst": "fd00::/64", "gw": "10.9.0.1"}]}),
            INVALID,
            "spec.routes[0].dst",
            "fd00::/64",
        ),
        (
            "9 route's gateway",
            json!({"routes": [{"dst": "10.1.0.0/16", "gw": "10.7.0.1"}]}),
            INVALID,
            "spec.routes[0].gw",
            "10.7.0.1",
        ),
        (
            "10 empty selector",
            json!({"podAffinity": {}}),
            INVALID,
            "spec.podAffinity",
            "empty podAffinity is invalid for",
        ),
        (
            "10 bad selector",
            json!({"podAffinity": {"matchExpressions": [{"key": "a", "operator": "Maybe"}]}}),
            INVALID,
            "spec.podAffinity",
            "Maybe",
        ),
    ];
    for (what, changes, kind, field, words) in rows {
        let status = refusal(what, create::<SpiderIPPool>(&world.client, "p", pool(changes)).await);
        assert_invalid(what, &status, kind, field, words);
        assert!(status.message.contains("\"p\""), "{what}: {}", status.message);
    }
    let status = refusal("5 same name", create::<SpiderIPPool>(&world.client, "neighbour", pool(json!({}))).await);
    assert_refused("5 same name", &status, (409, "AlreadyExists"), "\"neighbour\" already exists");
    assert!(Api::<SpiderIPPool>::all(world.client.clone()).get_opt("p").await.unwrap().is_none());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pools_exclusions_may_hold_its_gateway_and_its_neighbours_addresses() {
    let world = World::start().await;
    let spec = pool(json!({"gateway": "10.9.0.15", "excludeIPs": ["10.9.0.15"]}));
    create::<SpiderIPPool>(&world.client, "p", spec).await.unwrap();
    let beside = pool(json!({"ips": ["10.9.0.10-10.9.0.30"], "excludeIPs": ["10.9.0.10-10.9.0.20"]}));
    create::<SpiderIPPool>(&world.client, "q", beside).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_overlapping_pools_created_at_once_one_is_admitted() {
    let world = World::start().await;
    for round in 0..60 {
        let spec = |host: u8| json!({"spec": {"subnet": format!("10.{round}.0.0/24"), "ips": [format!("10.{round}.0.{host}-10.{round}.0.50")]}});
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let (one, other) = tokio::join!(
            create::<SpiderIPPool>(&world.client, &a, spec(10)),
            create::<SpiderIPPool>(&world.client, &b, spec(20)),
        );
        assert_eq!(u8::from(one.is_ok()) + u8::from(other.is_ok()), 1, "round {round}: {one:?} {other:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_forgotten_and_a_deleted_pool_is_not_in_the_way() {
    let world = World::start().await;
    let api = Api::<SpiderIPPool>::all(world.client.clone());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry, &object("dry", pool(json!({})))).await.unwrap();
    create::<SpiderIPPool>(&world.client, "p", pool(json!({}))).await.unwrap();
    api.delete("p", &DeleteParams::default()).await.unwrap();
    world::eventually("the pool gone", || async { api.get_opt("p").await.unwrap().is_none().then_some(()) }).await;
    create::<SpiderIPPool>(&world.client, "q", pool(json!({}))).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_6_to_10_are_reported_together() {
    let world = World::start().await;
    let changes = json!({
        "ips": ["10.7.0.1"], "gateway": "10.7.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}], "podAffinity": {},
    });
    let status = refusal("all", create::<SpiderIPPool>(&world.client, "p", pool(changes)).await);
    let fields: Vec<&str> = status.details.as_ref().unwrap().causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(fields, ["spec.ips[0]", "spec.gateway", "spec.routes[0].dst", "spec.podAffinity"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_3_a_family_that_is_off_is_refused() {
    let world = World::with("enableIPv4: true\nenableIPv6: false\n", &[]).await;
    let spec = json!({"spec": {"subnet": "fd00:9::/64", "ips": ["fd00:9::a"]}});
    let status = refusal("pool", create::<SpiderIPPool>(&world.client, "p", spec).await);
    assert_invalid("pool", &status, FORBIDDEN, "spec.ipVersion", "IPv6");
    let status = refusal(
        "reserved",
        create::<SpiderReservedIP>(&world.client, "r", json!({"spec": {"ips": ["fd00:9::a"]}})).await,
    );
    assert_invalid("reserved", &status, FORBIDDEN, "spec.ipVersion", "IPv6");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_of_a_family_that_was_switched_off_keep_their_spec_and_may_go() {
    let world = World::start().await;
    let client = world.client.clone();
    create::<SpiderIPPool>(&client, "p", json!({"spec": {"subnet": "fd00:9::/64", "ips": ["fd00:9::a"]}}))
        .await
        .unwrap();
    let server = world.end_and_keep().await;
    let world = World::on(client.clone(), server, "enableIPv4: true\nenableIPv6: false\n", &[]).await;
    let api = Api::<SpiderIPPool>::all(client);
    let patch = async |change| api.patch("p", &PatchParams::default(), &Patch::Merge(change)).await;
    let status = refusal("spec", patch(json!({"spec": {"disable": true}})).await);
    assert_invalid("spec", &status, FORBIDDEN, "spec.ipVersion", "IPv6 is disabled");
    patch(json!({"metadata": {"labels": {"example.com/a": "b"}}})).await.unwrap();
    api.delete("p", &DeleteParams::default()).await.unwrap();
    world::eventually("the pool gone", || async { api.get_opt("p").await.unwrap().is_none().then_some(()) }).await;
    world.end().await;
}
