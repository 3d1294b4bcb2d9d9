//! The annotation grammar, row by row.

#![allow(clippy::unwrap_used)] // helpers of tests

use ipam::Labels;
use ipam::annotation::{Network, NicPools, PoolNames, ippool, ippools, namespace_defaults, parse_networks, routes};
use ipam::nad::{NadDefaults, network_of, networks};

fn names(v4: &[&str], v6: &[&str]) -> PoolNames {
    let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    PoolNames { v4: own(v4), v6: own(v6) }
}

#[test]
fn ippool_is_read_as_go_reads_it() {
    let rows = [
        (r#"{"ipv4":["a","b*"],"ipv6":["c"]}"#, names(&["a", "b*"], &["c"])),
        (r#"{"IPv4":["a"],"Ipv6":["c"]}"#, names(&["a"], &["c"])),
        (r#"{"ipv4":["a"],"unknown":{"x":[1,2.5,-3,null,true]}}"#, names(&["a"], &[])),
        (r#"{"ipv4":null}"#, names(&[], &[])),
        (r#"{"ipv4":["a"],"ipv4":["b"]}"#, names(&["b"], &[])),
        (r#"{"ipv4":["a"],"IPV4":["b"]}"#, names(&["b"], &[])),
        (r#"{}"#, names(&[], &[])),
        (r#"null"#, names(&[], &[])),
        (" {\"ipv4\" : [ \"a\" ] }\n", names(&["a"], &[])),
    ];
    for (text, expected) in rows {
        assert_eq!(ippool(text).unwrap_or_else(|error| panic!("{text}: {error}")), expected, "{text}");
    }
}

#[test]
fn malformed_pod_annotations_are_wrong_input_naming_key_and_value() {
    for text in [
        "",
        "{",
        "[]",
        "\"a\"",
        r#"{"ipv4":"a"}"#,
        r#"{"ipv4":[1]}"#,
        r#"{"ipv4":[["a"]]}"#,
        r#"{"ipv4":["a"]} x"#,
        r#"{ipv4:["a"]}"#,
        r#"{"ipv4":["a",]}"#,
    ] {
        let error = ippool(text).unwrap_err().to_string();
        assert!(
            error.starts_with("wrong input: invalid format of Pod annotation 'ipam.spidernet.io/ippool'")
                && error.contains(text),
            "{error}"
        );
    }
    let long = format!("[{}", "é".repeat(1000));
    assert!(ippool(&long).unwrap_err().to_string().len() < 700, "long values are shortened");
}

#[test]
fn ippools_names_all_interfaces_or_none() {
    let items = ippools(r#"[{"interface":"eth0","ipv4":["a"]},{"interface":"net1","IPv6":["b"],"cleanGateway":true}]"#)
        .unwrap();
    let expected = [
        NicPools { interface: Some("eth0".into()), pools: names(&["a"], &[]), clean_gateway: false },
        NicPools { interface: Some("net1".into()), pools: names(&[], &["b"]), clean_gateway: true },
    ];
    assert_eq!(items, expected);
    assert_eq!(ippools(r#"[{"ipv4":["a"]},{"ipv4":["b"],"interface":""}]"#).unwrap().len(), 2);
    let rows = [
        ("[]", "at least one item"),
        ("null", "at least one item"),
        (r#"[{"interface":"eth0"},{"ipv4":["b"]}]"#, "in all items or in none"),
        (r#"[{"interface":"eth0"},{"interface":"eth0"}]"#, "duplicate interface eth0"),
        (r#"[{"interface":5}]"#, "expect a string in 'interface', found a number"),
        (r#"[{"cleangateway":"yes"}]"#, "expect a boolean in 'cleangateway', found a string"),
        (r#"{"interface":"eth0"}"#, "expect an array, found an object"),
    ];
    for (text, expected) in rows {
        let error = ippools(text).unwrap_err().to_string();
        assert!(error.starts_with("wrong input") && error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn routes_are_of_one_family_each() {
    let parsed = routes(r#"[{"dst":"10.0.0.0/8","gw":"172.16.0.1"},{"DST":"::/0","gw":"fd00::1"}]"#).unwrap();
    assert_eq!(parsed.len(), 2);
    assert_eq!((parsed[1].dst.as_str(), parsed[1].gw.as_str()), ("::/0", "fd00::1"));
    for (text, expected) in [
        (r#"[{"dst":"10.0.0.0/8","gw":"fd00::1"}]"#, "different families"),
        (r#"[{"dst":"10.0.0.0","gw":"172.16.0.1"}]"#, "dst is not a CIDR"),
        (r#"[{"dst":"10.0.0.0/8"}]"#, "gw is not an IP address"),
        (r#"{"dst":"10.0.0.0/8","gw":"172.16.0.1"}"#, "expect an array"),
    ] {
        let error = routes(text).unwrap_err().to_string();
        assert!(error.starts_with("wrong input") && error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn namespace_annotations_are_arrays_of_names() {
    let mut annotations = Labels::new();
    assert_eq!(namespace_defaults(&annotations).unwrap(), names(&[], &[]));
    annotations.insert("ipam.spidernet.io/default-ipv4-ippool".into(), r#"["a","b"]"#.into());
    assert_eq!(namespace_defaults(&annotations).unwrap(), names(&["a", "b"], &[]));
    annotations.insert("ipam.spidernet.io/default-ipv6-ippool".into(), "x".into());
    let error = namespace_defaults(&annotations).unwrap_err().to_string();
    assert!(error.contains("Namespace annotation 'ipam.spidernet.io/default-ipv6-ippool' (value 'x')"), "{error}");
}

fn network(namespace: &str, name: &str, interface: Option<&str>) -> Network {
    Network {
        namespace: namespace.into(),
        name: name.into(),
        interface: interface.map(Into::into),
        ..Network::default()
    }
}

#[test]
fn the_short_selection_syntax() {
    let rows = [
        ("a", vec![network("d", "a", None)]),
        ("ns/a", vec![network("ns", "a", None)]),
        ("ns/a@if0", vec![network("ns", "a", Some("if0"))]),
        (" a , ns/b@net7 ", vec![network("d", "a", None), network("ns", "b", Some("net7"))]),
    ];
    for (text, expected) in rows {
        assert_eq!(parse_networks(text, "d").unwrap_or_else(|error| panic!("{error}")), expected, "{text}");
    }
    for text in [
        "",
        "  ",
        "a,,b",
        "a,",
        "ns/",
        "/a",
        "a/b/c",
        "A",
        "a.b",
        "a b",
        "a@",
        "a@0123456789abcdef",
        "a@x/y",
        "a@x y",
        "-a",
    ] {
        let error = parse_networks(text, "d").unwrap_err();
        assert_eq!(error.value, text, "{error}");
    }
}

#[test]
fn the_json_selection_syntax() {
    let text = r#"[{"name":"a","namespace":"ns","interface":"net5","mac":"02:00:00:00:00:01","ips":["10.0.0.5/24","fd00::5"],
        "default-route":["10.0.0.1"],"infiniband-guid":"c2:11:22:33:44:55:66:77","portMappings":[{"hostPort":80,"containerPort":8080}],
        "bandwidth":{"ingressRate":5},"cni-args":{"foo":"bar"},"other":1},{"Name":"b"}]"#;
    let parsed = parse_networks(text, "d").unwrap();
    let first = Network {
        mac: Some("02:00:00:00:00:01".into()),
        ips: vec!["10.0.0.5/24".into(), "fd00::5".into()],
        default_route: vec!["10.0.0.1".into()],
        infiniband_guid: Some("c2:11:22:33:44:55:66:77".into()),
        port_mappings: Some(r#"[{"containerPort":8080,"hostPort":80}]"#.into()),
        bandwidth: Some(r#"{"ingressRate":5}"#.into()),
        cni_args: Some(r#"{"foo":"bar"}"#.into()),
        ..network("ns", "a", Some("net5"))
    };
    assert_eq!(parsed, [first, network("d", "b", None)]);
    let rows = [
        (r#"{"name":"a"}"#, "expect an array"),
        (r#"[{"namespace":"a"}]"#, "no 'name'"),
        (r#"[{"name":"a","mac":"02:00"}]"#, "'02:00' in 'mac' of 'a'"),
        (r#"[{"name":"a","ips":["10.0.0.300"]}]"#, "'10.0.0.300' in 'ips' of 'a'"),
        (r#"[{"name":"a","default-route":["gw"]}]"#, "'gw' in 'default-route' of 'a'"),
        (r#"[{"name":"a","interface":"a/b"}]"#, "'a/b' is not an interface name"),
        (r#"[{"name":"a"}"#, "EOF"),
        (r#""a""#, "expect an array"),
    ];
    for (text, expected) in rows {
        let error = parse_networks(text, "d").unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn nics_find_their_networks() {
    let defaults = |cluster: Option<&str>| NadDefaults {
        agent_namespace: "kube-system".into(),
        cluster_network: cluster.map(Into::into),
    };
    let both = Labels::from([
        ("v1.multus-cni.io/default-network".to_owned(), "ipvlan-eth0".to_owned()),
        ("k8s.v1.cni.cncf.io/networks".to_owned(), "a,other/b@data,c".to_owned()),
    ]);
    let found = |nic: &str, annotations: &Labels, cluster| {
        network_of(nic, annotations, "app", &defaults(cluster))
            .map(|network| format!("{}/{}", network.namespace, network.name))
            .map_err(|error| error.to_string())
    };
    assert_eq!(found("eth0", &both, None).unwrap(), "kube-system/ipvlan-eth0");
    assert_eq!(found("net1", &both, None).unwrap(), "app/a");
    assert_eq!(found("data", &both, None).unwrap(), "other/b");
    assert_eq!(found("net3", &both, None).unwrap(), "app/c");
    assert_eq!(found("net2", &both, None).unwrap_err(), "no matched multus object for NIC net2");
    assert_eq!(found("eth0", &Labels::new(), Some("kube-system/x")).unwrap(), "kube-system/x");
    assert_eq!(found("eth0", &Labels::new(), None).unwrap_err(), "cluster-network multus isn't set");
    let nics: Vec<String> = networks(&both, "app").unwrap().into_iter().map(|(nic, _)| nic).collect();
    assert_eq!(nics, ["net1", "data", "net3"]);
    let bad = Labels::from([("k8s.v1.cni.cncf.io/networks".to_owned(), "A".to_owned())]);
    assert!(
        found("net1", &bad, None)
            .unwrap_err()
            .starts_with("Pod annotation 'k8s.v1.cni.cncf.io/networks': invalid network selection 'A'")
    );
}
