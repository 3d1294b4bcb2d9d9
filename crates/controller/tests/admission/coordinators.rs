//! SpiderCoordinator (controller, §9.2).

use k8s_api::SpiderCoordinator;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::world::{World, create, create_raw};
use crate::{INVALID, UNSUPPORTED, assert_invalid, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn coordinators() {
    let world = World::start().await;
    let given = json!({"spec": {"podCIDRType": "cluster", "hijackCIDR": ["10.1.0.1", "10.2.0.0/16", "fd00::1"],
                                "policyRoutes": [{"dst": "10.3.0.1", "gw": "10.4.0.1"}]}});
    let stored: SpiderCoordinator = create(&world.client, "good", given).await.unwrap();
    assert!(stored.finalizers().is_empty(), "it goes when it is deleted, whoever is there");
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
    let api = Api::<SpiderCoordinator>::all(world.client.clone());
    let changed = Patch::Merge(json!({"spec": {"podMACPrefix": "0b:1b"}}));
    let status = refusal("update", api.patch("good", &PatchParams::default(), &changed).await);
    assert_invalid("update", &status, INVALID, "spec.podMACPrefix", "not a unicast MAC");
    for kind in ["auto", "cluster", "calico", "cilium", "none"] {
        let spec =
            json!({"podCIDRType": kind, "podRPFilter": -1, "vethLinkAddress": "169.254.1.1", "podMACPrefix": "0a:1b"});
        create::<SpiderCoordinator>(&world.client, kind, json!({"spec": spec})).await.unwrap();
    }
    world.end().await;
}
