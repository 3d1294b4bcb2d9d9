//! Every kind of network: the config as a user writes it, filled as the webhook fills it, and the `spec.config` that comes
//! out, byte for byte.

#![allow(clippy::unwrap_used)] // tests

use controller::multus::{defaults, network, rules};
use k8s_api::SpiderMultusConfig;
use serde_json::{Value, json};

/// What an API server with the CRD's defaults, then the webhook, make of `spec`.
fn admitted(annotations: Value, spec: Value) -> SpiderMultusConfig {
    let object = json!({"metadata": {"name": "net", "namespace": "ns", "annotations": annotations}, "spec": spec});
    let mut config: SpiderMultusConfig = serde_json::from_value(object).unwrap();
    schema_defaults(&mut config);
    defaults::fill(&mut config);
    rules::check(None, &config, None).unwrap();
    config
}

/// The defaults of the CRD that matter here.
fn schema_defaults(config: &mut SpiderMultusConfig) {
    let spec = &mut config.spec;
    spec.enable_coordinator.get_or_insert(true);
    spec.disable_ipam.get_or_insert(false);
    if let Some(coordinator) = &mut spec.coordinator {
        coordinator.host_rule_table.get_or_insert(500);
        coordinator.pod_rp_filter.get_or_insert(0);
        coordinator.tx_queue_len.get_or_insert(0);
        coordinator.tune_pod_routes.get_or_insert(true);
    }
}

fn config_of(spec: Value) -> Option<String> {
    network::definition(&admitted(json!({}), spec)).unwrap().spec.config
}

const COORDINATOR: &str = r#"{"txQueueLen":0,"tunePodRoutes":true,"mode":"auto","type":"coordinator"}"#;
const IPAM: &str = r#""ipam":{"type":"spiderpool"}"#;

fn list(plugins: &[&str]) -> String {
    format!(r#"{{"cniVersion":"0.3.1","name":"net","plugins":[{}]}}"#, plugins.join(","))
}

#[test]
fn every_type_of_network_is_written_as_upstream_writes_it() {
    let macvlan = r#"{"type":"macvlan","master":"eth0","mode":"bridge","mtu":0,"ipam":{"type":"spiderpool"}}"#;
    let rows = [
        (
            json!({"cniType": "macvlan", "macvlan": {"master": ["eth0"], "vlanID": 100, "ippools": {"ipv4": ["p4"]}}}),
            vec![
                r#"{"vlanID":100,"type":"ifacer","interfaces":["eth0"]}"#,
                r#"{"type":"macvlan","master":"eth0.100","mode":"bridge","mtu":0,"ipam":{"type":"spiderpool","default_ipv4_ippool":["p4"]}}"#,
                COORDINATOR,
            ],
        ),
        (
            json!({"cniType": "ipvlan", "enableCoordinator": false,
                   "ipvlan": {"master": ["eth0", "eth1"], "bond": {"name": "bond0", "mode": 1}, "vlanID": 10}}),
            vec![
                r#"{"vlanID":10,"type":"ifacer","interfaces":["eth0","eth1"],"bond":{"name":"bond0","mode":1,"options":""}}"#,
                r#"{"type":"ipvlan","master":"bond0.10","mtu":0,"ipam":{"type":"spiderpool"}}"#,
            ],
        ),
        // A bond is told whenever it is set; the VLAN stands on the only master.
        (
            json!({"cniType": "macvlan", "macvlan": {"master": ["eth0"], "bond": {"name": "b", "mode": 1}, "vlanID": 5, "mtu": 1400}}),
            vec![
                r#"{"vlanID":5,"type":"ifacer","interfaces":["eth0"],"bond":{"name":"b","mode":1,"options":""}}"#,
                r#"{"type":"macvlan","master":"eth0.5","mode":"bridge","mtu":1400,"ipam":{"type":"spiderpool"}}"#,
                COORDINATOR,
            ],
        ),
        (
            json!({"cniType": "ipvlan", "ipvlan": {"master": ["eth0"], "ippools": {"ipv4": ["a", "b*"], "ipv6": ["c"]}}}),
            vec![
                r#"{"type":"ipvlan","master":"eth0","mtu":0,"ipam":{"type":"spiderpool","default_ipv4_ippool":["a","b*"],"default_ipv6_ippool":["c"]}}"#,
                COORDINATOR,
            ],
        ),
        (
            json!({"cniType": "ipvlan", "disableIPAM": true, "enableCoordinator": false, "ipvlan": {"master": ["eth0"]}}),
            vec![r#"{"type":"ipvlan","master":"eth0","mtu":0}"#],
        ),
        (
            json!({"cniType": "vlan", "vlan": {"master": ["eth0"]}}),
            vec![
                r#"{"type":"vlan","master":"eth0","vlanMode":"manual","vlanId":0,"mtu":0,"ipam":{"type":"spiderpool"}}"#,
                COORDINATOR,
            ],
        ),
        (
            json!({"cniType": "vlan", "vlan": {"master": ["eth0"], "vlanMode": "auto", "mtu": 1400}}),
            vec![
                r#"{"type":"vlan","master":"eth0","vlanMode":"auto","mtu":1400,"ipam":{"type":"spiderpool"}}"#,
                COORDINATOR,
            ],
        ),
        (
            json!({"cniType": "vlan", "vlan": {"master": ["eth0", "eth1"], "bond": {"name": "b", "mode": 0, "options": "miimon=100"}, "vlanID": 7}}),
            vec![
                r#"{"type":"ifacer","interfaces":["eth0","eth1"],"bond":{"name":"b","mode":0,"options":"miimon=100"}}"#,
                r#"{"type":"vlan","master":"b","vlanMode":"manual","vlanId":7,"mtu":0,"ipam":{"type":"spiderpool"}}"#,
                COORDINATOR,
            ],
        ),
        (
            json!({"cniType": "sriov", "sriov": {"resourceName": "x/vf", "rdmaIsolation": true, "mtu": 4200, "maxTxRateMbps": 1000,
                   "ippools": {"ipv4": ["r1*"], "matchMasterSubnet": true}}}),
            vec![
                r#"{"vlan":0,"min_tx_rate":0,"max_tx_rate":1000,"type":"sriov","ipam":{"type":"spiderpool","default_ipv4_ippool":["r1*"],"match_master_subnet":true}}"#,
                r#"{"type":"rdma"}"#,
                COORDINATOR,
                r#"{"type":"tuning","mtu":4200}"#,
            ],
        ),
        (
            json!({"cniType": "sriov", "sriov": {"resourceName": "x/vf", "vlanID": 7, "minTxRateMbps": 1, "maxTxRateMbps": 2}, "enableCoordinator": false,
                   "chainCNIJsonData": [r#"{"type":"a"}"#, r#"{"type":"b"}"#]}),
            vec![
                r#"{"vlan":7,"min_tx_rate":1,"max_tx_rate":2,"type":"sriov","ipam":{"type":"spiderpool"}}"#,
                r#"{"type":"a"}"#,
                r#"{"type":"b"}"#,
            ],
        ),
        (
            json!({"cniType": "ib-sriov", "ibsriov": {"resourceName": "x/ib"}}),
            vec![
                r#"{"type":"ib-sriov","pkey":"","link_state":"enable","rdmaIsolation":true,"ibKubernetesEnabled":false,"ipam":{"type":"spiderpool"}}"#,
                COORDINATOR,
            ],
        ),
        (
            json!({"cniType": "ib-sriov", "ibsriov": {"resourceName": "x/ib", "pkey": "0x8001", "linkState": "auto", "rdmaIsolation": false,
                   "enableIbKubernetes": true, "ippools": {"ipv6": ["p6"]}}}),
            vec![
                r#"{"type":"ib-sriov","pkey":"0x8001","link_state":"auto","rdmaIsolation":false,"ibKubernetesEnabled":true,"ipam":{"type":"spiderpool","default_ipv6_ippool":["p6"]}}"#,
                COORDINATOR,
            ],
        ),
        (
            json!({"cniType": "ipoib", "ipoib": {"master": "ib0"}}),
            vec![r#"{"type":"ipoib","master":"ib0","ipam":{"type":"spiderpool"}}"#, COORDINATOR],
        ),
        (
            json!({"cniType": "ovs", "disableIPAM": true, "ovs": {"bridge": "br1", "trunk": [{"minID": 5, "maxID": 10}, {"id": 3}]}}),
            vec![r#"{"vlan":0,"type":"ovs","bridge":"br1","trunk":[{"minID":5,"maxID":10},{"id":3}]}"#, COORDINATOR],
        ),
        (
            json!({"cniType": "ovs", "ovs": {"bridge": "br1", "vlan": 100, "deviceID": "0000:03:02.0", "ippools": {"ipv4": ["p4"]}}}),
            vec![
                r#"{"vlan":100,"type":"ovs","bridge":"br1","deviceID":"0000:03:02.0","ipam":{"type":"spiderpool","default_ipv4_ippool":["p4"]}}"#,
                COORDINATOR,
            ],
        ),
        (
            json!({"cniType": "macvlan", "macvlan": {"master": ["eth0"]}, "chainCNIJsonData": [r#"{"type":"tuning","sysctl":{"b":"1<2","a":1.0}}"#]}),
            vec![macvlan, r#"{"sysctl":{"a":1,"b":"1\u003c2"},"type":"tuning"}"#, COORDINATOR],
        ),
    ];
    for (spec, plugins) in rows {
        assert_eq!(config_of(spec.clone()), Some(list(&plugins)), "{spec}");
    }
    assert!(macvlan.contains(IPAM));
}

#[test]
fn the_coordinator_block_is_written_as_upstream_writes_it_plus_what_upstream_drops() {
    let rows = [
        // The block of the public-cloud guide: podCIDRType brings podRPFilter with it.
        (
            json!({"mode": "underlay", "tunePodRoutes": true, "podCIDRType": "cluster"}),
            r#"{"txQueueLen":0,"tunePodRoutes":true,"mode":"underlay","type":"coordinator","podRPFilter":0}"#,
        ),
        (json!({}), COORDINATOR),
        // Set and dropped by upstream.
        (
            json!({"podRPFilter": 2, "hostRuleTable": 600}),
            r#"{"txQueueLen":0,"tunePodRoutes":true,"mode":"auto","type":"coordinator","podRPFilter":2,"hostRuleTable":600}"#,
        ),
        (
            json!({"mode": "overlay", "tunePodRoutes": false, "txQueueLen": 9, "vethMTU": 1400, "vethLinkAddress": "169.254.1.1",
                   "podMACPrefix": "0a:1b", "podDefaultRouteNIC": "net1", "hijackCIDR": ["10.1.0.0/16"],
                   "policyRoutes": [{"dst": "10.2.0.0/16", "gw": "10.3.0.1"}]}),
            r#"{"txQueueLen":9,"vethLinkAddress":"169.254.1.1","vethMTU":1400,"tunePodRoutes":false,"podMACPrefix":"0a:1b","mode":"overlay","type":"coordinator","podDefaultRouteNic":"net1","hijackCIDR":["10.1.0.0/16"],"policyRoutes":[{"dst":"10.2.0.0/16","gw":"10.3.0.1"}]}"#,
        ),
    ];
    for (block, expected) in rows {
        let spec = json!({"cniType": "ipvlan", "ipvlan": {"master": ["eth0"]}, "coordinator": block});
        let main = r#"{"type":"ipvlan","master":"eth0","mtu":0,"ipam":{"type":"spiderpool"}}"#;
        assert_eq!(config_of(spec), Some(list(&[main, expected])), "{block}");
    }
}

#[test]
fn a_custom_network_is_the_users_text() {
    let text = r#"{ "type": "calico",  "b": 1, "a": 2 }"#;
    assert_eq!(config_of(json!({"cniType": "custom", "customCNI": text})).as_deref(), Some(text));
    assert_eq!(config_of(json!({"cniType": "custom"})), None);
    assert_eq!(config_of(json!({})), None);
}

#[test]
fn annotations_name_the_definition_its_version_and_its_network() {
    let annotations = json!({
        "multus.spidernet.io/cr-name": "other", "multus.spidernet.io/cni-version": "1.0.0",
        "cni.spidernet.io/cniconfig-name": "wire", "example.com/x": "y",
    });
    let config = admitted(
        annotations,
        json!({"cniType": "sriov", "sriov": {"resourceName": "x/vf"}, "enableCoordinator": false}),
    );
    let definition = network::definition(&config).unwrap();
    assert_eq!(definition.metadata.name.as_deref(), Some("other"));
    let text = definition.spec.config.unwrap();
    assert!(text.starts_with(r#"{"cniVersion":"1.0.0","name":"wire","plugins":["#), "{text}");
    let annotations = definition.metadata.annotations.unwrap();
    assert_eq!(annotations["example.com/x"], "y");
    assert_eq!(annotations["k8s.v1.cni.cncf.io/resourceName"], "x/vf");
}

#[test]
fn device_plugin_resources_are_told_by_annotation() {
    let resource = |spec: Value| {
        let annotations = network::definition(&admitted(json!({}), spec)).unwrap().metadata.annotations;
        annotations.and_then(|all| all.get("k8s.v1.cni.cncf.io/resourceName").cloned())
    };
    assert_eq!(resource(json!({"cniType": "ib-sriov", "ibsriov": {"resourceName": "x/ib"}})).as_deref(), Some("x/ib"));
    let ovs = |device| json!({"cniType": "ovs", "ovs": {"bridge": "br1", "deviceID": device}});
    assert_eq!(resource(ovs("0000:03:02.0")).as_deref(), Some("ovs-cni.network.kubevirt.io/br1"));
    assert_eq!(resource(ovs("")), None);
    assert_eq!(resource(json!({"cniType": "ipvlan", "ipvlan": {"master": ["eth0"]}})), None);
}

#[test]
fn a_config_that_no_webhook_has_touched_is_an_error_or_a_network_never_a_panic() {
    let raw = |spec: Value| -> SpiderMultusConfig {
        serde_json::from_value(json!({"metadata": {"name": "net", "namespace": "ns"}, "spec": spec})).unwrap()
    };
    let error = |spec| network::definition(&raw(spec)).unwrap_err().to_string();
    assert_eq!(error(json!({"cniType": "macvlan"})), "spec.macvlan is required for cniType macvlan");
    assert_eq!(
        error(json!({"cniType": "ipvlan", "ipvlan": {}})),
        "spec.ipvlan.master: at least one interface is needed"
    );
    assert_eq!(
        error(json!({"cniType": "ipvlan", "ipvlan": {"master": ["a", "b"]}})),
        "spec.ipvlan.master: several interfaces need bond"
    );
    assert_eq!(error(json!({"cniType": "custom", "customCNI": "{"})), "spec.customCNI: invalid JSON");
    let chain = json!({"cniType": "ipoib", "ipoib": {"master": "ib0"}, "chainCNIJsonData": ["{}", "x"]});
    assert_eq!(error(chain), "spec.chainCNIJsonData[1]: invalid JSON");
    let bare = network::definition(&raw(json!({"cniType": "ipvlan", "ipvlan": {"master": ["eth0"]}}))).unwrap();
    let expected =
        list(&[r#"{"type":"ipvlan","master":"eth0","ipam":{"type":"spiderpool"}}"#, r#"{"type":"coordinator"}"#]);
    assert_eq!(bare.spec.config, Some(expected));
}

#[test]
fn the_guides_networks_come_out_as_on_upstream() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios/alicloud/10-multus-configs.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let mut seen = Vec::new();
    for document in text.split("\n---\n") {
        let mut config: SpiderMultusConfig = serde_saphyr::from_str(document).unwrap();
        schema_defaults(&mut config);
        defaults::fill(&mut config);
        rules::check(None, &config, None).unwrap();
        seen.push(network::definition(&config).unwrap().spec.config.unwrap());
    }
    let expected = ["eth0", "eth1"].map(|nic| {
        format!(
            r#"{{"cniVersion":"0.3.1","name":"ipvlan-{nic}","plugins":[{{"type":"ipvlan","master":"{nic}","mtu":0,"ipam":{{"type":"spiderpool"}}}},{{"txQueueLen":0,"tunePodRoutes":true,"mode":"underlay","type":"coordinator","podRPFilter":0}}]}}"#
        )
    });
    assert_eq!(seen, expected);
}

#[test]
fn a_label_copied_from_an_annotation_goes_with_it() {
    let key = "cni.spidernet.io/rdma-resource-inject";
    let spec = json!({"cniType": "macvlan", "macvlan": {"master": ["eth0"], "rdmaResourceName": "x/r", "ippools": {"ipv4": ["p"]}}});
    let mut config = admitted(json!({key: "group"}), spec);
    assert_eq!(config.metadata.labels.as_ref().unwrap()[key], "group");
    config.metadata.annotations = None;
    defaults::fill(&mut config);
    assert_eq!(config.metadata.labels.unwrap().get(key), None);
}

/// Rules that a user does not meet, because the webhook has filled in what they ask for.
#[test]
fn rules_hold_without_the_mutating_webhook_too() {
    let check = |spec: Value| {
        let object = json!({"metadata": {"name": "net", "namespace": "ns"}, "spec": spec});
        let error = rules::check(None, &serde_json::from_value(object).unwrap(), None).unwrap_err();
        format!("{error}")
    };
    for (spec, expected) in [
        (json!({}), "spec.cniType: Invalid value: null: CniType must not be nil"),
        (
            json!({"cniType": "vlan", "vlan": {"master": ["a"]}}),
            "spec.vlanConfig: Required value: vlanID is required when vlanMode is manual",
        ),
        (
            json!({"cniType": "macvlan", "macvlan": {"master": ["a"], "vlanID": 4095}}),
            "spec.macvlanConfig: Invalid value: 4095: invalid vlanId 4095, please make sure vlanId in range [0,4094]",
        ),
        (
            json!({"cniType": "sriov", "sriov": {"resourceName": "x", "mtu": -1}}),
            "spec.sriovConfig: Invalid value: -1: invalid mtu -1, please make sure mtu >= 0",
        ),
    ] {
        assert_eq!(check(spec.clone()), expected, "{spec}");
    }
    let trunk = json!({"cniType": "ovs", "ovs": {"bridge": "b", "trunk": [{"id": 4095}]}});
    assert!(check(trunk).ends_with("incorrect trunk id parameter"));
}
