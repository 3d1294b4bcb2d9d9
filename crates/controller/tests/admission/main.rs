//! Every rule of admission, through the API server and over TLS: code, reason, field and the key words of the text.

#![allow(clippy::unwrap_used)] // tests

#[path = "../world/mod.rs"]
mod world;

use k8s_api::{
    FINALIZER, Holder, IpState, NetworkAttachmentDefinition, SpiderCoordinator, SpiderIP, SpiderIPPool,
    SpiderMultusConfig, SpiderReservedIP, SpiderSubnet, ip::PodHolder,
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::Status,
};
use serde_json::{Value, json};
use world::{World, create, create_in, create_raw, object};

/// The refusal in an outcome.
fn refusal<T: std::fmt::Debug>(what: &str, outcome: kube::Result<T>) -> Box<Status> {
    match outcome {
        Err(kube::Error::Api(status)) => status,
        other => panic!("{what}: expected a refusal, got {other:?}"),
    }
}

/// Asserts a 422 whose only cause names `field`, with `words` in its text and in the message.
fn assert_invalid(what: &str, status: &Status, kind: &str, field: &str, words: &str) {
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{what}: {status:?}");
    let causes = &status.details.as_ref().unwrap().causes;
    assert_eq!(causes.len(), 1, "{what}: {causes:?}");
    assert_eq!((causes[0].reason.as_str(), causes[0].field.as_str()), (kind, field), "{what}: {causes:?}");
    assert!(causes[0].message.contains(words), "{what}: {:?} lacks {words:?}", causes[0].message);
    assert!(status.message.contains(words) && status.message.contains(field), "{what}: {}", status.message);
}

fn pool(changes: Value) -> Value {
    let mut spec = json!({"subnet": "10.9.0.0/24", "ips": ["10.9.0.10-10.9.0.20"], "gateway": "10.9.0.1"});
    for (key, value) in changes.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"spec": spec})
}

const INVALID: &str = "FieldValueInvalid";
const FORBIDDEN: &str = "FieldValueForbidden";
const REQUIRED: &str = "FieldValueRequired";
const UNSUPPORTED: &str = "FieldValueNotSupported";

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
        ("unparsable subnet", json!({"subnet": "10.9.0.0"}), INVALID, "spec.ipVersion", "is not generated correctly"),
        ("not a family", json!({"ipVersion": 5}), UNSUPPORTED, "spec.ipVersion", "supported values"),
        ("host bits", json!({"subnet": "10.9.0.7/24"}), INVALID, "spec.subnet", "10.9.0.0/24"),
        ("other family", json!({"ipVersion": 6}), INVALID, "spec.subnet", "10.9.0.0/24"),
        (
            "overlap",
            json!({"subnet": "10.8.0.0/16", "gateway": "10.8.0.1", "ips": []}),
            INVALID,
            "spec.subnet",
            "of IPPool neighbour",
        ),
        ("outside", json!({"ips": ["10.7.0.1"]}), INVALID, "spec.ips[0]", "10.7.0.1"),
        ("reversed", json!({"ips": ["10.9.0.20-10.9.0.10"]}), INVALID, "spec.ips[0]", "10.9.0.20-10.9.0.10"),
        ("IPv6 text", json!({"ips": ["fd00::1"]}), INVALID, "spec.ips[0]", "fd00::1"),
        ("CIDR as range", json!({"ips": ["10.9.0.0/28"]}), INVALID, "spec.ips[0]", "10.9.0.0/28"),
        ("excluded outside", json!({"excludeIPs": ["10.7.0.1"]}), INVALID, "spec.excludeIPs[0]", "10.7.0.1"),
        ("gateway outside", json!({"gateway": "10.7.0.1"}), INVALID, "spec.gateway", "10.7.0.1"),
        ("no gateway", json!({"gateway": "nonsense"}), INVALID, "spec.gateway", "nonsense"),
        ("gateway in ips", json!({"gateway": "10.9.0.15"}), INVALID, "spec.ips[0]", "10.9.0.15"),
        (
            "default route",
            json!({"routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}]}),
            INVALID,
            "spec.routes[0].dst",
            "gateway",
        ),
        (
            "route twice",
            json!({"routes": [{"dst": "10.1.0.0/16", "gw": "10.9.0.1"}, {"dst": "10.1.0.0/16", "gw": "10.9.0.2"}]}),
            INVALID,
            "spec.routes[1].dst",
            "10.1.0.0/16",
        ),
        (
            "route's family",
            json!({"routes": [{"dst": "fd00::/64", "gw": "10.9.0.1"}]}),
            INVALID,
            "spec.routes[0].dst",
            "fd00::/64",
        ),
        (
            "route's gateway",
            json!({"routes": [{"dst": "10.1.0.0/16", "gw": "10.7.0.1"}]}),
            INVALID,
            "spec.routes[0].gw",
            "10.7.0.1",
        ),
        ("empty selector", json!({"podAffinity": {}}), INVALID, "spec.podAffinity", "podAffinity"),
        (
            "bad selector",
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
    let twin = json!({"spec": {"subnet": "10.8.0.0/24", "ips": ["10.8.0.20-10.8.0.30"]}});
    let status = refusal("twin", create::<SpiderIPPool>(&world.client, "twin", twin.clone()).await);
    assert_invalid("twin", &status, FORBIDDEN, "spec.ips", "10.8.0.20");
    let status = refusal("same name", create::<SpiderIPPool>(&world.client, "neighbour", twin).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"), "{status:?}");
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
async fn a_family_that_is_off_is_refused() {
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
        ("gateway", json!({"gateway": "10.9.0.12"}), INVALID, "spec.ips[0]", "10.9.0.12"),
    ];
    for (what, spec, kind, field, words) in rows {
        assert_invalid(what, &refusal(what, patched(&world.client, "p", spec).await), kind, field, words);
    }
    let free = json!({"ips": ["10.9.0.12-10.9.0.30"], "gateway": "10.9.0.2", "disable": true, "nodeName": ["node-a"]});
    patched(&world.client, "p", free).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminating_pool_in_use_is_not_changed() {
    let world = World::start().await;
    create::<SpiderIPPool>(&world.client, "p", pool(json!({}))).await.unwrap();
    claim(&world.client, "10.9.0.12", "p").await;
    Api::<SpiderIPPool>::all(world.client.clone()).delete("p", &DeleteParams::default()).await.unwrap();
    let status = refusal("change", patched(&world.client, "p", json!({"disable": true})).await);
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"), "{status:?}");
    assert!(status.message.contains("terminating") && status.message.contains("IPPool p"), "{}", status.message);
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
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"), "{status:?}");
    assert!(status.message.contains("10.9.0.12 to ns/web-0"), "{}", status.message);
    Api::<SpiderIP>::all(world.client.clone()).delete("10.9.0.12", &DeleteParams::default()).await.unwrap();
    pools.delete("p", &DeleteParams::default()).await.unwrap();
    world.end().await;
}

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
    let patch = Patch::Merge(json!({"spec": {"ipVersion": 6, "ips": ["fd00::1"]}}));
    let status = refusal("immutable", api.patch("r", &PatchParams::default(), &patch).await);
    assert_invalid("immutable", &status, FORBIDDEN, "spec.ipVersion", "not changeable");
    api.delete("r", &DeleteParams::default()).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subnets_say_that_they_are_not_available() {
    let world = World::with("enableIPv4: true\nenableIPv6: true\nenableSpiderSubnet: true\n", &[]).await;
    let spec = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1"]}});
    let status = refusal("subnet", create::<SpiderSubnet>(&world.client, "s", spec).await);
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"), "{status:?}");
    assert!(status.message.contains("SpiderSubnet feature is not available"), "{}", status.message);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators() {
    let world = World::start().await;
    let given = json!({"spec": {"podCIDRType": "cluster", "hijackCIDR": ["10.1.0.1", "10.2.0.0/16", "fd00::1"],
                                "policyRoutes": [{"dst": "10.3.0.1", "gw": "10.4.0.1"}]}});
    let stored: SpiderCoordinator = create(&world.client, "good", given).await.unwrap();
    assert_eq!(stored.finalizers(), [FINALIZER]);
    let spec = serde_json::to_value(&stored.spec).unwrap();
    let expected = json!({
        "mode": "auto", "podCIDRType": "cluster", "tunePodRoutes": true, "hostRuleTable": 500, "podRPFilter": 0, "txQueueLen": 0,
        "vethLinkAddress": "", "vethMTU": 1500, "hijackCIDR": ["10.1.0.1/32", "10.2.0.0/16", "fd00::1/128"],
        "policyRoutes": [{"dst": "10.3.0.1/32", "gw": "10.4.0.1"}],
    });
    assert_eq!(spec, expected);
    let rows = [
        ("no type", json!({"podCIDRType": null}), UNSUPPORTED, "spec.podCIDRType", "cluster"),
        ("type", json!({"podCIDRType": "all"}), UNSUPPORTED, "spec.podCIDRType", "cluster"),
        ("mode", json!({"mode": "fast"}), UNSUPPORTED, "spec.mode", "underlay"),
        ("hijack", json!({"hijackCIDR": ["10.1.0.1", "x"]}), INVALID, "spec.hijackCIDR[1]", "\"x\""),
        (
            "route",
            json!({"policyRoutes": [{"dst": "10.1.0.0/16", "gw": "fd00::1"}]}),
            INVALID,
            "spec.policyRoutes[0]",
            "families",
        ),
        (
            "route's dst",
            json!({"policyRoutes": [{"dst": "x", "gw": "fd00::1"}]}),
            INVALID,
            "spec.policyRoutes[0].dst",
            "\"x\"",
        ),
        (
            "route's gw",
            json!({"policyRoutes": [{"dst": "10.1.0.0/16", "gw": "x"}]}),
            INVALID,
            "spec.policyRoutes[0].gw",
            "\"x\"",
        ),
        ("MAC", json!({"podMACPrefix": "0a"}), INVALID, "spec.podMACPrefix", "not a valid MAC prefix"),
        ("MAC digits", json!({"podMACPrefix": "0a:1g"}), INVALID, "spec.podMACPrefix", "not a valid MAC prefix"),
        ("multicast MAC", json!({"podMACPrefix": "0b:1b"}), INVALID, "spec.podMACPrefix", "not a unicast MAC"),
        ("queue", json!({"txQueueLen": -1}), INVALID, "spec.txQueueLen", "less than 0"),
        ("rp_filter", json!({"podRPFilter": 3}), UNSUPPORTED, "spec.podRPFilter", "\"2\""),
        ("link", json!({"vethLinkAddress": "fe80"}), INVALID, "spec.vethLinkAddress", "invalid IP address"),
        ("MTU", json!({"vethMTU": 0}), INVALID, "spec.vethMTU", "greater than or equal to 1"),
    ];
    for (what, changes, kind, field, words) in rows {
        let mut spec = json!({"podCIDRType": "cluster"});
        json_patch::merge(&mut spec, &changes);
        let status = refusal(
            what,
            create_raw(&world.client, "SpiderCoordinator", "spidercoordinators", "bad", json!({"spec": spec})).await,
        );
        assert_invalid(what, &status, kind, field, words);
    }
    create::<SpiderCoordinator>(&world.client, "lenient", json!({"spec": {"podCIDRType": "none", "podRPFilter": -1}}))
        .await
        .unwrap();
    world.end().await;
}

async fn network(client: &Client, annotations: Value, spec: Value) -> kube::Result<SpiderMultusConfig> {
    create_in(client, "default", "net", json!({"metadata": {"annotations": annotations}, "spec": spec})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_that_break_a_rule_are_refused() {
    let world = World::start().await;
    let macvlan = |block: Value| json!({"cniType": "macvlan", "macvlan": block});
    let rdma = json!({"cni.spidernet.io/rdma-resource-inject": "g"});
    let inject = json!({"cni.spidernet.io/network-resource-inject": "g"});
    let none = json!({});
    let rows = [
        (
            "no block",
            &none,
            json!({"cniType": "macvlan"}),
            REQUIRED,
            "spec.macvlanConfig",
            "no spec.macvlanConfig specified",
        ),
        ("no master", &none, macvlan(json!({"master": []})), INVALID, "spec.macvlanConfig", "master can't be empty"),
        (
            "no bond",
            &none,
            macvlan(json!({"master": ["a", "b"]})),
            INVALID,
            "spec.macvlanConfig",
            "bond property is nil",
        ),
        (
            "bond's name",
            &none,
            macvlan(json!({"master": ["a", "b"], "bond": {"name": "", "mode": 0}})),
            INVALID,
            "spec.macvlanConfig",
            "bond name can't be empty",
        ),
        (
            "master subnet",
            &none,
            json!({"cniType": "ipvlan", "ipvlan": {"master": ["a"], "ippools": {"matchMasterSubnet": true}}}),
            INVALID,
            "spec.ipvlanConfig",
            "not supported for ipvlan",
        ),
        ("VLAN", &none, macvlan(json!({"master": ["a"], "vlanID": 4095})), INVALID, "spec.macvlan.vlanID", "4094"),
        (
            "other block",
            &none,
            json!({"cniType": "ipvlan", "ipvlan": {"master": ["a"]}, "macvlan": {"master": ["a"]}}),
            FORBIDDEN,
            "spec.cniType",
            "only supports spec.ipvlanConfig",
        ),
        (
            "VLAN in auto",
            &none,
            json!({"cniType": "vlan", "vlan": {"master": ["a"], "vlanMode": "auto", "vlanID": 1}}),
            INVALID,
            "spec.vlanConfig",
            "must not be set",
        ),
        (
            "rates",
            &none,
            json!({"cniType": "sriov", "sriov": {"resourceName": "x", "minTxRateMbps": 2, "maxTxRateMbps": 1}}),
            INVALID,
            "spec.sriovConfig",
            "minTxRateMbps must be less than maxTxRateMbps",
        ),
        ("resource", &none, json!({"cniType": "sriov", "sriov": {}}), REQUIRED, "spec.sriovConfig", "resourceName"),
        (
            "ib resource",
            &none,
            json!({"cniType": "ib-sriov", "ibsriov": {}}),
            REQUIRED,
            "spec.ibsriovConfig",
            "resourceName",
        ),
        ("ipoib master", &none, json!({"cniType": "ipoib", "ipoib": {}}), REQUIRED, "spec.ipoibConfig", "master"),
        (
            "ovs VLAN",
            &none,
            json!({"cniType": "ovs", "ovs": {"bridge": "b", "vlan": 4095}}),
            INVALID,
            "spec.ovsConfig",
            "[0,4094]",
        ),
        (
            "trunk order",
            &none,
            json!({"cniType": "ovs", "ovs": {"bridge": "b", "trunk": [{"minID": 2, "maxID": 1}]}}),
            INVALID,
            "spec.ovsConfig",
            "minID is greater than maxID",
        ),
        (
            "trunk half",
            &none,
            json!({"cniType": "ovs", "ovs": {"bridge": "b", "trunk": [{"maxID": 1}]}}),
            INVALID,
            "spec.ovsConfig",
            "maxID without minID",
        ),
        (
            "custom",
            &none,
            json!({"cniType": "custom", "customCNI": "{"}),
            FORBIDDEN,
            "spec.customCniTypeConfig",
            "valid JSON",
        ),
        (
            "custom with block",
            &none,
            json!({"cniType": "custom", "ovs": {"bridge": "b"}}),
            FORBIDDEN,
            "spec.cniType",
            "spec.customCniTypeConfig",
        ),
        ("rdma resource", &rdma, macvlan(json!({"master": ["a"]})), INVALID, "spec.macvlanConfig", "rdmaResourceName"),
        (
            "rdma pools",
            &rdma,
            macvlan(json!({"master": ["a"], "rdmaResourceName": "x"})),
            INVALID,
            "spec.macvlanConfig",
            "no ippools",
        ),
        (
            "inject pools",
            &inject,
            json!({"cniType": "ipoib", "ipoib": {"master": "a"}}),
            INVALID,
            "spec.ipoibConfig",
            "no ippools",
        ),
        (
            "inject ovs",
            &inject,
            json!({"cniType": "ovs", "ovs": {"bridge": "b"}}),
            FORBIDDEN,
            "spec.cniType",
            "resource injected",
        ),
        ("inject custom", &rdma, json!({"cniType": "custom"}), FORBIDDEN, "spec.cniType", "resource injected"),
        (
            "coordinator",
            &none,
            json!({"cniType": "ipvlan", "ipvlan": {"master": ["a"]}, "coordinator": {"podMACPrefix": "zz"}}),
            INVALID,
            "spec.podMACPrefix",
            "not a valid MAC prefix",
        ),
        (
            "chain",
            &none,
            json!({"cniType": "ipvlan", "ipvlan": {"master": ["a"]}, "chainCNIJsonData": ["{\"x\":1}"]}),
            FORBIDDEN,
            "spec.chainCNIJsonData",
            "missing 'type'",
        ),
        ("name", &json!({"multus.spidernet.io/cr-name": "A_b"}), json!({}), INVALID, "metadata.annotations", "A_b"),
        (
            "version",
            &json!({"multus.spidernet.io/cni-version": "0.1.0"}),
            json!({}),
            INVALID,
            "metadata.annotations",
            "unsupported CNI version 0.1.0",
        ),
    ];
    for (what, annotations, spec, kind, field, words) in rows {
        let status = refusal(what, network(&world.client, annotations.clone(), spec).await);
        assert_invalid(what, &status, kind, field, words);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_networks_name_is_not_changed_and_not_taken_from_another() {
    let world = World::start().await;
    let name = |name: &str| json!({"multus.spidernet.io/cr-name": name});
    network(&world.client, name("first"), json!({})).await.unwrap();
    let api = Api::<SpiderMultusConfig>::namespaced(world.client.clone(), "default");
    let annotate = async |annotations: Value| {
        api.patch("net", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"annotations": annotations}})))
            .await
    };
    let status = refusal("changed", annotate(name("second")).await);
    assert_invalid("changed", &status, INVALID, "metadata.annotations", "from 'first' to 'second'");
    annotate(json!({"multus.spidernet.io/cr-name": null})).await.unwrap();
    let status = refusal("added", annotate(name("second")).await);
    assert_invalid("added", &status, INVALID, "metadata.annotations", "to customized name 'second'");

    let definitions = Api::<NetworkAttachmentDefinition>::namespaced(world.client.clone(), "default");
    world::eventually("the definition of its own name", || async { definitions.get_opt("net").await.unwrap() }).await;
    let thief = json!({"metadata": {"annotations": name("net")}, "spec": {}});
    let status = refusal("taken", create_in::<SpiderMultusConfig>(&world.client, "default", "thief", thief).await);
    assert_invalid("taken", &status, INVALID, "metadata.annotations", "managed by SpiderMultusConfig default/net");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_network_that_the_installation_makes_may_become_any_type() {
    let world = World::start().await;
    let made = network(&world.client, json!({}), json!({"cniType": "custom", "customCNI": ""})).await.unwrap();
    assert_eq!((made.spec.custom_cni.as_deref(), made.spec.enable_coordinator), (Some(""), Some(true)));
    let api = Api::<SpiderMultusConfig>::namespaced(world.client.clone(), "default");
    let spec = json!({"cniType": "ipvlan", "ipvlan": {"master": ["eth0"]}});
    api.patch("net", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap();
    let definitions = Api::<NetworkAttachmentDefinition>::namespaced(world.client.clone(), "default");
    world::eventually("its definition", || async {
        let config = definitions.get_opt("net").await.unwrap()?.spec.config?;
        (config.contains("ipvlan") && config.contains("coordinator")).then_some(())
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_objects_are_accepted() {
    let world = World::start().await;
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios/alicloud");
    let mut accepted = 0;
    for file in ["10-multus-configs.yaml", "20-ippools.yaml", "dual-stack/20-ippools-v6.yaml", "extra/burst-pool.yaml"]
    {
        let text = std::fs::read_to_string(format!("{scenario}/{file}")).unwrap();
        for document in text.split("\n---\n") {
            let value: Value = serde_saphyr::from_str(document).unwrap();
            let name = value["metadata"]["name"].as_str().unwrap().to_owned();
            match value["kind"].as_str().unwrap() {
                "SpiderIPPool" => drop(create::<SpiderIPPool>(&world.client, &name, value).await.unwrap()),
                "SpiderMultusConfig" => {
                    let config: SpiderMultusConfig = object(&name, value);
                    let namespace = config.namespace().unwrap();
                    Api::namespaced(world.client.clone(), &namespace)
                        .create(&PostParams::default(), &config)
                        .await
                        .unwrap();
                }
                other => panic!("{file}: {other}"),
            }
            accepted += 1;
        }
    }
    assert_eq!(accepted, 11);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_configuration_is_upstreams_with_our_url() {
    let world = World::start().await;
    let api = Api::<kube::api::DynamicObject>::all_with(
        world.client.clone(),
        &kube::api::ApiResource::erase::<k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration>(
            &(),
        ),
    );
    let configuration = api.get("spiderpool-controller").await.unwrap();
    let names: Vec<&str> = configuration.data["webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|webhook| webhook["name"].as_str().unwrap())
        .collect();
    let kinds = ["spidersubnet", "spiderippool", "spiderreservedip", "spidercoordinator", "spidermultusconfig"];
    assert_eq!(names, kinds.map(|kind| format!("{kind}.spiderpool.spidernet.io")));
    for webhook in configuration.data["webhooks"].as_array().unwrap() {
        assert_eq!((&webhook["failurePolicy"], &webhook["sideEffects"]), (&json!("Fail"), &json!("None")));
        assert!(webhook["clientConfig"]["caBundle"].is_string(), "{webhook}");
    }
    world.end().await;
}
