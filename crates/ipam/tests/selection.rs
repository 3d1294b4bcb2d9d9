//! Selection of pools: sources, tests with their reasons, order.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeMap;
use std::sync::Arc;

use ipam::annotation::PoolNames;
use ipam::nad::NadDefaults;
use ipam::owner::{OwnerRef, TopController};
use ipam::select::{Cni, MasterAddresses, Pod, Request, SelectError, Selection, Settings, Source, select};
use ipam::{Family, LabelSelector, Labels, Pool};

/// Plain facts, changed by each test.
struct World {
    pod: Pod,
    nic: &'static str,
    namespace_annotations: Labels,
    namespace_labels: Labels,
    node_labels: Option<Labels>,
    cni: Cni,
    settings: Settings,
    pools: BTreeMap<String, Arc<Pool>>,
    unusable: BTreeMap<String, String>,
    master: Option<MasterAddresses>,
}

fn world() -> World {
    World {
        pod: Pod {
            namespace: "app".into(),
            name: "web-0".into(),
            labels: Labels::from([("app".into(), "web".into())]),
            annotations: Labels::new(),
            node: "node-a".into(),
            top: TopController { owner: OwnerRef::new("apps/v1", "Deployment", "web", "u"), namespace: "app".into() },
        },
        nic: "eth0",
        namespace_annotations: Labels::new(),
        namespace_labels: Labels::from([("team".into(), "blue".into())]),
        node_labels: Some(Labels::from([("zone".into(), "a".into())])),
        cni: Cni::default(),
        settings: Settings {
            enable_ipv4: true,
            enable_ipv6: true,
            enable_subnet: false,
            nad: NadDefaults { agent_namespace: "kube-system".into(), cluster_network: None },
        },
        pools: BTreeMap::new(),
        unusable: BTreeMap::new(),
        master: None,
    }
}

fn pool(name: &str) -> Pool {
    let subnet = if name.contains("v6") { "fd00::/64" } else { "10.0.0.0/24" };
    Pool::new(name, subnet.parse().unwrap(), ipam::SpanSet::new())
}

impl World {
    fn with(mut self, pools: impl IntoIterator<Item = Pool>) -> Self {
        self.pools.extend(pools.into_iter().map(|pool| (pool.name.clone(), Arc::new(pool))));
        self
    }

    fn annotated(mut self, key: &str, value: &str) -> Self {
        self.pod.annotations.insert(key.into(), value.into());
        self
    }

    fn select(&self) -> Result<Selection, SelectError> {
        select(&Request {
            pod: &self.pod,
            nic: self.nic,
            namespace_annotations: &self.namespace_annotations,
            namespace_labels: Ok(&self.namespace_labels),
            node_labels: self.node_labels.as_ref().ok_or("node not found"),
            cni: &self.cni,
            settings: &self.settings,
            pools: &self.pools,
            unusable: &self.unusable,
            master: self.master.as_ref(),
        })
    }

    /// `nic/family: pools` per want.
    fn served(&self) -> Vec<String> {
        let selection = self.select().unwrap_or_else(|error| panic!("{error}"));
        let names =
            |want: &ipam::claim::Want| want.pools.iter().map(|pool| pool.name.clone()).collect::<Vec<_>>().join(",");
        selection.wants().iter().map(|want| format!("{}/{}: {}", want.interface, want.family, names(want))).collect()
    }

    fn refused(&self) -> String {
        match self.select() {
            Err(error) => error.to_string(),
            Ok(selection) => panic!("{selection:?}"),
        }
    }
}

const IPPOOL: &str = "ipam.spidernet.io/ippool";
const IPPOOLS: &str = "ipam.spidernet.io/ippools";
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

#[test]
fn the_first_source_wins_and_nothing_is_merged() {
    let mut world =
        world().with([pool("pods"), pool("pod"), pool("ns"), pool("cni"), Pool { default: true, ..pool("cluster") }]);
    world.pod.annotations.insert(IPPOOLS.into(), r#"[{"interface":"eth0","ipv4":["pods"]}]"#.into());
    world.pod.annotations.insert(IPPOOL.into(), r#"{"ipv4":["pod"]}"#.into());
    world.namespace_annotations.insert("ipam.spidernet.io/default-ipv4-ippool".into(), r#"["ns"]"#.into());
    world.cni.pools = PoolNames { v4: vec!["cni".into()], v6: vec![] };
    assert_eq!(
        (world.select().unwrap().source, world.served()),
        (Source::PodPools, vec!["eth0/IPv4: pods".to_owned()])
    );
    world.pod.annotations.remove(IPPOOLS);
    assert_eq!(world.served(), ["eth0/IPv4: pod"]);
    world.pod.annotations.remove(IPPOOL);
    assert_eq!(world.served(), ["eth0/IPv4: ns"]);
    world.namespace_annotations.clear();
    assert_eq!(world.served(), ["eth0/IPv4: cni"]);
    world.cni = Cni::default();
    assert_eq!(world.served(), ["eth0/IPv4: cluster"]);
    world.pools.clear();
    assert!(world.refused().starts_with("no IPPool available: neither Pod"), "{}", world.refused());
}

#[test]
fn a_present_annotation_ends_the_search_even_when_it_names_nothing() {
    let world = world().with([Pool { default: true, ..pool("cluster") }]).annotated(IPPOOL, "{}");
    assert_eq!(
        world.refused(),
        "no IPPool available: NIC eth0: the Pod annotation ippool names pools of no family that is enabled"
    );
}

#[test]
fn every_test_has_its_reason() {
    type Change = fn(&mut Pool);
    let rows: [(&str, Change, &str); 14] = [
        ("p", |pool| pool.terminating = true, "terminating IPPool"),
        ("p", |pool| pool.disabled = true, "disabled IPPool"),
        ("p-v6", |_| {}, "expect an IPv4 IPPool"),
        ("p", |pool| pool.node_names = vec!["node-b".into()], "unmatched Node name node-a"),
        ("p", |pool| pool.node_affinity = Some(LabelSelector::label("zone", "b")), "unmatched Node affinity"),
        ("p", |pool| pool.namespace_names = vec!["other".into()], "unmatched Namespace name app"),
        (
            "p",
            |pool| pool.namespace_affinity = Some(LabelSelector::label("team", "red")),
            "unmatched Namespace affinity",
        ),
        ("p", |pool| pool.pod_affinity = Some(LabelSelector::label("app", "db")), "unmatched Pod affinity"),
        (
            "p",
            |pool| pool.pod_affinity = Some(LabelSelector::label("-bad", "db")),
            "invalid Pod affinity: '-bad' is not a valid label key",
        ),
        ("p", |pool| pool.multus_names = vec!["kube-system/x".into()], "cluster-network multus isn't set"),
        (
            "p",
            |pool| {
                pool.labels.insert("ipam.spidernet.io/owner-application-name".into(), "web".into());
                pool.pod_affinity = Some(LabelSelector::label("app", "web"));
            },
            "unmatched Pod affinity",
        ),
        (
            "p",
            |pool| {
                pool.node_affinity = Some(LabelSelector {
                    match_expressions: vec![ipam::selector::Expression {
                        key: "zone".into(),
                        operator: "Like".into(),
                        values: vec![],
                    }],
                    ..LabelSelector::default()
                });
            },
            "invalid Node affinity: \"Like\" is not a valid label selector operator",
        ),
        ("gone", |_| {}, "IPPool not found, or bound to another node (unmatched Node name)"),
        ("x*", |_| {}, "pattern matches no IPv4 IPPool"),
    ];
    for (named, change, reason) in rows {
        let mut changed = pool(if named == "p-v6" { "p-v6" } else { "p" });
        change(&mut changed);
        let world = world().with([changed]).annotated(IPPOOL, &format!(r#"{{"ipv4":["{named}"]}}"#));
        let expected = format!("no IPPool available: NIC eth0 IPv4 (Pod annotation ippool): pool {named}: {reason}");
        assert_eq!(world.refused(), expected);
    }
}

#[test]
fn of_a_pool_that_cannot_be_used_nothing_else_is_said() {
    let unusable = BTreeMap::from([("raw4".to_owned(), "spec.ips is wrong".to_owned())]);
    let broken = || World { unusable: unusable.clone(), ..world() }.with([pool("raw-v6")]);
    for names in ["raw4", "raw*"] {
        let refused = broken().annotated(IPPOOL, &format!(r#"{{"ipv4":["{names}"]}}"#)).refused();
        let expected =
            "no IPPool available: NIC eth0 IPv4 (Pod annotation ippool): pool raw4: cannot be used: spec.ips is wrong";
        assert_eq!(refused, expected, "{names}");
    }
    assert!(broken().refused().ends_with("(unmatched Node name); pool raw4: cannot be used: spec.ips is wrong"));
    // Beside one that serves it is on record, for the case that this one is used up.
    let world = broken().with([pool("raw-good")]).annotated(IPPOOL, r#"{"ipv4":["raw*"]}"#);
    let want = world.select().unwrap().wants().remove(0);
    assert_eq!((want.pools[0].name.as_str(), want.rejected[0].pool.as_str()), ("raw-good", "raw4"));
}

#[test]
fn restrictions_that_hold_let_a_pool_serve() {
    type Change = fn(&mut Pool);
    let rows: [Change; 9] = [
        |_| {},
        |pool| pool.node_names = vec!["node-b".into(), "node-a".into()],
        |pool| pool.node_affinity = Some(LabelSelector::label("zone", "a")),
        |pool| pool.namespace_names = vec!["app".into()],
        |pool| pool.namespace_affinity = Some(LabelSelector::label("team", "blue")),
        |pool| pool.pod_affinity = Some(LabelSelector::label("app", "web")),
        |pool| {
            (pool.node_affinity, pool.pod_affinity) = (Some(LabelSelector::default()), Some(LabelSelector::default()))
        },
        // Names beat selectors.
        |pool| (pool.node_names, pool.node_affinity) = (vec!["node-a".into()], Some(LabelSelector::label("zone", "b"))),
        |pool| {
            pool.labels.insert("ipam.spidernet.io/owner-application-name".into(), "web".into());
            let labels = [
                ("app-api-group", "apps"),
                ("app-api-version", "v1"),
                ("app-kind", "Deployment"),
                ("app-namespace", "app"),
                ("app-name", "web"),
            ];
            let labels = labels.into_iter().map(|(key, value)| (format!("ipam.spidernet.io/{key}"), value.to_owned()));
            pool.pod_affinity = Some(LabelSelector { match_labels: labels.collect(), ..LabelSelector::default() });
        },
    ];
    for (row, change) in rows.into_iter().enumerate() {
        let mut changed = pool("p");
        change(&mut changed);
        assert_eq!(
            world().with([changed]).annotated(IPPOOL, r#"{"ipv4":["p"]}"#).served(),
            ["eth0/IPv4: p"],
            "row {row}"
        );
    }
}

#[test]
fn unknown_node_labels_take_out_only_pools_that_need_them() {
    let needy = Pool { node_affinity: Some(LabelSelector::label("zone", "a")), ..pool("needy") };
    let mut world = world().with([needy, pool("plain")]).annotated(IPPOOL, r#"{"ipv4":["needy","plain"]}"#);
    world.node_labels = None;
    let selection = world.select().unwrap();
    let want = &selection.wants()[0];
    assert_eq!(want.pools[0].name, "plain");
    assert_eq!(want.rejected[0].reason, "labels of Node node-a are unknown: node not found");
}

#[test]
fn pools_bound_to_networks_serve_only_their_nics() {
    let bound = |name: &str, network: &str| Pool { multus_names: vec![network.into()], default: true, ..pool(name) };
    let mut world = world()
        .with([bound("p0", "kube-system/ipvlan-eth0"), bound("p1", "ipvlan-eth1"), bound("p2", "app/extra")])
        .annotated(DEFAULT_NETWORK, "kube-system/ipvlan-eth1")
        .annotated(NETWORKS, "extra");
    assert_eq!(world.served(), ["eth0/IPv4: p1"], "an entry without namespace is in the agent's");
    let rejected: Vec<String> = world.select().unwrap().wants()[0].rejected.iter().map(ToString::to_string).collect();
    assert!(rejected.contains(&"pool p0: unmatched multus name: NIC eth0 belongs to kube-system/ipvlan-eth1, the pool to kube-system/ipvlan-eth0".to_owned()), "{rejected:?}");
    world.nic = "net1";
    assert_eq!(world.served(), ["net1/IPv4: p2"]);
    world.nic = "net9";
    assert!(world.refused().contains("pool p2: no matched multus object for NIC net9"), "{}", world.refused());
}

#[test]
fn a_pool_without_networks_serves_a_nic_whose_network_is_unknown() {
    assert_eq!(world().with([Pool { default: true, ..pool("p") }]).served(), ["eth0/IPv4: p"]);
}

#[test]
fn the_scenario_of_the_cloud_guide_picks_one_pool_per_node_and_nic() {
    let of = |name: &str, node: &str, network: &str| Pool {
        default: true,
        node_names: vec![node.into()],
        multus_names: vec![format!("kube-system/{network}")],
        ..pool(name)
    };
    let pools = [
        of("master-172", "master", "ipvlan-eth0"),
        of("worker-172", "worker", "ipvlan-eth0"),
        of("master-192", "master", "ipvlan-eth1"),
        of("worker-192", "worker", "ipvlan-eth1"),
        of("worker-172-v6", "worker", "ipvlan-eth0"),
    ];
    let mut world = world().with(pools).annotated(DEFAULT_NETWORK, "kube-system/ipvlan-eth0");
    world.pod.node = "worker".into();
    assert_eq!(world.served(), ["eth0/IPv4: worker-172", "eth0/IPv6: worker-172-v6"]);
    world.pod.node = "master".into();
    assert_eq!(
        world.served(),
        ["eth0/IPv4: master-172"],
        "a family of the defaults without a fitting pool is left out"
    );
    let rejected = &world.select().unwrap().wants()[0].rejected;
    assert_eq!(rejected.len(), 3, "the others are told with their reasons: {rejected:?}");
}

#[test]
fn families_that_are_named_must_all_be_served_unless_disabled() {
    let mut world = world()
        .with([pool("a"), Pool { disabled: true, ..pool("a-v6") }])
        .annotated(IPPOOL, r#"{"ipv4":["a"],"ipv6":["a-v6"]}"#);
    assert!(world.refused().contains("NIC eth0 IPv6"), "{}", world.refused());
    world.settings.enable_ipv6 = false;
    assert_eq!(world.served(), ["eth0/IPv4: a"]);
}

#[test]
fn a_missing_pool_does_not_stop_its_siblings() {
    let world = world().with([pool("b")]).annotated(IPPOOL, r#"{"ipv4":["gone","b"]}"#);
    assert_eq!(world.served(), ["eth0/IPv4: b"]);
}

#[test]
fn patterns_are_replaced_in_place_and_a_pool_is_reached_once() {
    let pools = || [pool("rack1-a"), pool("rack1-b"), pool("rack2"), pool("rack1-v6")];
    assert_eq!(
        world().with(pools()).annotated(IPPOOL, r#"{"ipv4":["rack2","rack1-*"]}"#).served(),
        ["eth0/IPv4: rack2,rack1-a,rack1-b"]
    );
    assert_eq!(
        world().with(pools()).annotated(IPPOOL, r#"{"ipv4":["rack1-[ab]"]}"#).served(),
        ["eth0/IPv4: rack1-a,rack1-b"]
    );
    for (value, expected) in [
        (r#"["rack*","rack2"]"#, "wrong input: duplicate IPPool rack2"),
        (r#"["x","x"]"#, "wrong input: duplicate IPPool x"),
        (r#"["rack[1"]"#, "IPPool not found"),
        (r#"["rack[]"]"#, "wrong input: syntax error"),
    ] {
        let world = world().with(pools()).annotated(IPPOOL, &format!(r#"{{"ipv4":{value}}}"#));
        assert!(world.refused().contains(expected), "{value}: {}", world.refused());
    }
}

#[test]
fn pools_are_sorted_by_what_they_restrict_and_else_as_listed() {
    let mut rich = pool("pod");
    rich.pod_affinity = Some(LabelSelector::label("app", "web"));
    let node = Pool { node_names: vec!["node-a".into()], ..pool("node") };
    let affinity = Pool { node_affinity: Some(LabelSelector::label("zone", "a")), ..pool("affinity") };
    let namespace = Pool { namespace_names: vec!["app".into()], ..pool("namespace") };
    let both = Pool {
        namespace_names: vec!["app".into()],
        namespace_affinity: Some(LabelSelector::default()),
        ..pool("both")
    };
    let world = world()
        .with([pool("z"), pool("y"), namespace, affinity, node, both, rich])
        .annotated(IPPOOL, r#"{"ipv4":["z","y","namespace","affinity","node","both","pod"]}"#);
    assert_eq!(world.served(), ["eth0/IPv4: pod,node,affinity,both,namespace,z,y"]);
}

#[test]
fn ippools_serves_all_nics_and_insists_on_the_current_one() {
    let pools = || [pool("a"), pool("b"), pool("c")];
    let named = world().with(pools()).annotated(
        IPPOOLS,
        r#"[{"interface":"net1","ipv4":["b"],"cleangateway":true},{"interface":"eth0","ipv4":["a"]}]"#,
    );
    assert_eq!(named.served(), ["net1/IPv4: b", "eth0/IPv4: a"]);
    assert!(named.select().unwrap().nics[0].clean_gateway && !named.select().unwrap().nics[1].clean_gateway);
    let unnamed = || world().with(pools()).annotated(IPPOOLS, r#"[{"ipv4":["a"]},{"ipv4":["b"]},{"ipv4":["c"]}]"#);
    assert_eq!(unnamed().annotated(NETWORKS, "x,y@data").served(), ["eth0/IPv4: a", "net1/IPv4: b", "data/IPv4: c"]);
    assert_eq!(
        unnamed().annotated(NETWORKS, "x").served(),
        ["eth0/IPv4: a", "net1/IPv4: b"],
        "an item without NIC makes nothing"
    );
    let missing = World { nic: "net2", ..named };
    assert!(
        missing.refused().starts_with("wrong input: ")
            && missing.refused().contains("interface net2 must be specified"),
        "{}",
        missing.refused()
    );
}

#[test]
fn clean_gateway_comes_from_the_plugin_where_the_annotation_has_none() {
    let mut world = world().with([pool("a")]).annotated(IPPOOL, r#"{"ipv4":["a"]}"#);
    world.cni.clean_gateway = true;
    assert!(world.select().unwrap().nics[0].clean_gateway);
}

#[test]
fn the_master_subnet_is_tested_when_asked_for() {
    let mut world = world().with([pool("a")]).annotated(IPPOOL, r#"{"ipv4":["a"]}"#);
    world.cni.match_master_subnet = true;
    assert!(world.refused().contains("the master of NIC eth0 is unknown"), "{}", world.refused());
    world.master = Some(Ok(("ens1".into(), vec!["192.168.0.1".parse().unwrap()])));
    assert!(world.refused().contains("subnet 10.0.0.0/24 contains no address of master ens1"), "{}", world.refused());
    world.master = Some(Ok(("ens1".into(), vec!["10.0.0.200".parse().unwrap()])));
    assert_eq!(world.served(), ["eth0/IPv4: a"]);
}

#[test]
fn subnet_annotations_count_only_with_the_feature_on() {
    let mut world =
        world().with([Pool { default: true, ..pool("a") }]).annotated("ipam.spidernet.io/subnet", r#"{"ipv4":["s"]}"#);
    assert_eq!(world.served(), ["eth0/IPv4: a"]);
    world.settings.enable_subnet = true;
    assert!(
        world.refused().contains("Pod annotation 'ipam.spidernet.io/subnet'")
            && world.refused().contains("SpiderSubnet"),
        "{}",
        world.refused()
    );
}

#[test]
fn family_of_the_want_follows_the_list() {
    let world = world().with([pool("a"), pool("b-v6")]).annotated(IPPOOL, r#"{"ipv6":["b-v6"],"ipv4":["a"]}"#);
    let families: Vec<Family> = world.select().unwrap().wants().iter().map(|want| want.family).collect();
    assert_eq!(families, Family::BOTH);
}
