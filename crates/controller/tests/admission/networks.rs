//! SpiderMultusConfig (controller, §8.3 and §8.4). What the generated definitions look like is told in `networks.rs` beside.

use k8s_api::{NetworkAttachmentDefinition, SpiderMultusConfig};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{World, create_in, eventually};
use crate::{FORBIDDEN, INVALID, REQUIRED, UNSUPPORTED, assert_invalid, refusal};

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
        ("no master", &none, macvlan(json!({"master": []})), INVALID, "spec.macvlanConfig", "master can't be empty"),
        (
            "no master of a VLAN",
            &none,
            json!({"cniType": "vlan", "vlan": {"master": [], "vlanID": 1}}),
            INVALID,
            "spec.vlanConfig",
            "master can't be empty",
        ),
        ("no name", &none, macvlan(json!({"master": [""]})), INVALID, "spec.macvlanConfig", "an empty name"),
        (
            "MTU",
            &none,
            macvlan(json!({"master": ["a"], "mtu": -1})),
            INVALID,
            "spec.macvlan.mtu",
            "greater than or equal",
        ),
        (
            "bond's mode",
            &none,
            macvlan(json!({"master": ["a", "b"], "bond": {"name": "c", "mode": 7}})),
            INVALID,
            "spec.macvlan.bond.mode",
            "less than or equal to 6",
        ),
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
        (
            "master subnet of a VLAN",
            &none,
            json!({"cniType": "vlan", "vlan": {"master": ["a"], "vlanID": 1, "ippools": {"matchMasterSubnet": true}}}),
            INVALID,
            "spec.vlanConfig",
            "not supported for vlan",
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
        (
            "VLAN of a virtual function",
            &none,
            json!({"cniType": "sriov", "sriov": {"resourceName": "x", "vlanID": 4095}}),
            INVALID,
            "spec.sriov.vlanID",
            "4094",
        ),
        (
            "MTU of a virtual function",
            &none,
            json!({"cniType": "sriov", "sriov": {"resourceName": "x", "mtu": -1}}),
            INVALID,
            "spec.sriov.mtu",
            "greater than or equal to 0",
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
            "trunk beyond",
            &none,
            json!({"cniType": "ovs", "ovs": {"bridge": "b", "trunk": [{"minID": 1, "maxID": 4095}]}}),
            INVALID,
            "spec.ovs.trunk[0].maxID",
            "4094",
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
            "rdma on InfiniBand",
            &rdma,
            json!({"cniType": "ipoib", "ipoib": {"master": "ib0"}}),
            INVALID,
            "spec.ipoibConfig",
            "no ippools",
        ),
        (
            "inject a resource without pools",
            &inject,
            json!({"cniType": "sriov", "sriov": {"resourceName": "x"}}),
            INVALID,
            "spec.sriovConfig",
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
        (
            "chain of text",
            &none,
            json!({"cniType": "ipvlan", "ipvlan": {"master": ["a"]}, "chainCNIJsonData": ["{\"type\":\"x\"}", "["]}),
            FORBIDDEN,
            "spec.chainCNIJsonData",
            "invalid [",
        ),
        (
            "chain of lists",
            &none,
            json!({"cniType": "ipvlan", "ipvlan": {"master": ["a"]}, "chainCNIJsonData": ["[]"]}),
            FORBIDDEN,
            "spec.chainCNIJsonData",
            "not a JSON object",
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
async fn every_type_needs_its_block_and_takes_no_other() {
    let world = World::start().await;
    let types = [
        ("macvlan", "macvlan", json!({"master": ["a"]})),
        ("ipvlan", "ipvlan", json!({"master": ["a"]})),
        ("vlan", "vlan", json!({"master": ["a"], "vlanID": 1})),
        ("sriov", "sriov", json!({"resourceName": "x"})),
        ("ib-sriov", "ibsriov", json!({"resourceName": "x"})),
        ("ipoib", "ipoib", json!({"master": "a"})),
        ("ovs", "ovs", json!({"bridge": "b"})),
    ];
    for (index, (kind, member, block)) in types.iter().enumerate() {
        let field = format!("spec.{member}Config");
        let status = refusal(kind, network(&world.client, json!({}), json!({"cniType": kind})).await);
        assert_invalid(kind, &status, REQUIRED, &field, &format!("no {field} specified"));
        let (_, other, foreign) = &types[(index + 1) % types.len()];
        let both = json!({"cniType": kind, (*member): block, (*other): foreign});
        let status = refusal(kind, network(&world.client, json!({}), both).await);
        assert_invalid(kind, &status, FORBIDDEN, "spec.cniType", &format!("the cniType {kind} only supports {field}"));
        let with_text = json!({"cniType": kind, (*member): block, "customCNI": "{\"type\":\"x\"}"});
        let status = refusal(kind, network(&world.client, json!({}), with_text).await);
        assert_invalid(
            kind,
            &status,
            FORBIDDEN,
            "spec.cniType",
            "please remove other CNI configs (spec.customCniTypeConfig)",
        );
        let alone = json!({"cniType": kind, (*member): block});
        create_in::<SpiderMultusConfig>(&world.client, "default", kind, json!({"spec": alone})).await.unwrap();
    }
    let api = Api::<SpiderMultusConfig>::namespaced(world.client.clone(), "default");
    let other = Patch::Merge(json!({"spec": {"cniType": "bridge"}}));
    let status = refusal("type", api.patch("macvlan", &PatchParams::default(), &other).await);
    assert_invalid("type", &status, UNSUPPORTED, "spec.cniType", "\"macvlan\"");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_looks_odd_and_is_right_is_admitted() {
    let world = World::start().await;
    let versions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    let ipvlan = json!({"cniType": "ipvlan", "ipvlan": {"master": ["a"]}});
    let inject = json!({"cni.spidernet.io/network-resource-inject": "g"});
    let mut rows: Vec<_> =
        versions.map(|version| (json!({"multus.spidernet.io/cni-version": version}), ipvlan.clone())).into();
    rows.extend([
        // A network without a resource needs no pools to be injected.
        (inject, ipvlan.clone()),
        (json!({}), json!({"cniType": "ipvlan", "ipvlan": {"master": ["a"]}, "coordinator": {"mode": "overlay"}})),
        (
            json!({}),
            json!({"cniType": "sriov", "sriov": {"resourceName": "x", "ippools": {"matchMasterSubnet": true}}}),
        ),
        (json!({}), json!({"cniType": "vlan", "vlan": {"master": ["a"], "vlanMode": "auto"}})),
        (
            json!({}),
            json!({"cniType": "ovs", "ovs": {"bridge": "b", "trunk": [{"minID": 1}, {"minID": 1, "maxID": 1}]}}),
        ),
        (json!({"multus.spidernet.io/cr-name": "a.b-c"}), json!({})),
    ]);
    for (index, (annotations, spec)) in rows.into_iter().enumerate() {
        let object = json!({"metadata": {"annotations": annotations}, "spec": spec});
        let made =
            create_in::<SpiderMultusConfig>(&world.client, "default", &format!("n{index}"), object.clone()).await;
        assert!(made.is_ok(), "{object}: {made:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_going_away_may_lose_its_finalizers_whatever_is_wrong_with_it() {
    let (client, server) = crate::world::api_server().await;
    let wrong = json!({"metadata": {"finalizers": ["example.com/f"]}, "spec": {"cniType": "macvlan"}});
    create_in::<SpiderMultusConfig>(&client, "default", "net", wrong).await.unwrap();
    let world = World::on(client.clone(), server, crate::world::BOTH, &[]).await;
    let api = Api::<SpiderMultusConfig>::namespaced(client, "default");
    api.delete("net", &DeleteParams::default()).await.unwrap();
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("net", &PatchParams::default(), &free).await.unwrap();
    assert!(api.get_opt("net").await.unwrap().is_none());
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
    eventually("the definition of its own name", || async { definitions.get_opt("net").await.unwrap() }).await;
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
    eventually("its definition", || async {
        let config = definitions.get_opt("net").await.unwrap()?.spec.config?;
        (config.contains("ipvlan") && config.contains("coordinator")).then_some(())
    })
    .await;
    world.end().await;
}
