//! SpiderIPPool on CREATE: §10.2, rules 1 to 11.

use ipam::rules::{ErrorKind::*, *};
use ipam::{Labels, SpanSet};

use crate::{assert_complete, assert_only, context, create, errors, mutated, spec};

#[test]
fn pools_that_users_have_are_admitted() {
    for json in [
        r#"{"subnet":"172.31.192.0/20","ips":["172.31.199.185-172.31.199.189"],"gateway":"172.31.207.253","default":true,"nodeName":["master"],"multusName":["kube-system/ipvlan-eth0"]}"#,
        r#"{"subnet":"10.20.0.0/22","ips":["10.20.1.10-10.20.1.60","10.20.1.80"],"excludeIPs":["10.20.1.33"],"gateway":"10.20.0.1","routes":[{"dst":"10.99.0.0/16","gw":"10.20.0.2"}]}"#,
        r#"{"subnet":"10.20.0.0/22","ips":["10.20.0.0-10.20.3.255"],"excludeIPs":["10.20.0.1"],"gateway":"10.20.0.1"}"#,
        r#"{"subnet":"fd00:172:31::/64","ips":["fd00:172:31::185-fd00:172:31::189"],"gateway":"fd00:172:31::fd"}"#,
        r#"{"subnet":"fd00::/8","ips":["fd00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]}"#,
        r#"{"subnet":"10.0.0.0/24"}"#,
        r#"{"subnet":"10.0.0.0/24","ips":null,"routes":null}"#,
        r#"{"subnet":"10.0.0.0/24","podAffinity":{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"a","operator":"Exists"}]}}"#,
        r#"{"subnet":"10.0.0.0/24","namespaceAffinity":{},"nodeAffinity":{}}"#,
    ] {
        assert_eq!(create(json, &[]), Ok(()), "{json}");
    }
}

#[test]
fn each_rule_names_field_kind_and_value() {
    let rows: [(u8, &str, &str, ErrorKind, &str); 38] = [
        (1, r#"{"subnet":"10.0.0.0"}"#, "spec.ipVersion", Invalid, "is not generated correctly, 'spec.subnet' may be"),
        (1, r#"{"subnet":""}"#, "spec.ipVersion", Invalid, "is not generated correctly"),
        (
            2,
            r#"{"ipVersion":5,"subnet":"10.0.0.0/24"}"#,
            "spec.ipVersion",
            NotSupported,
            r#"Unsupported value: 5: supported values: "4", "6""#,
        ),
        (4, r#"{"ipVersion":6,"subnet":"10.0.0.0/24"}"#, "spec.subnet", Invalid, "expect an IPv6 CIDR"),
        (
            4,
            r#"{"subnet":"10.0.0.7/24"}"#,
            "spec.subnet",
            Invalid,
            "\"10.0.0.7/24\": invalid CIDR format '10.0.0.7/24': expect the network form '10.0.0.0/24'",
        ),
        (4, r#"{"subnet":"FD00::/64"}"#, "spec.subnet", Invalid, "expect the network form 'fd00::/64'"),
        (4, r#"{"ipVersion":4,"subnet":""}"#, "spec.subnet", Invalid, "invalid CIDR format ''"),
        (
            5,
            r#"{"subnet":"10.5.0.0/16"}"#,
            "spec.subnet",
            Invalid,
            "\"10.5.0.0/16\": overlap with IPPool peer which 'spec.subnet' is 10.5.0.0/24",
        ),
        (5, r#"{"subnet":"10.5.0.0/25"}"#, "spec.subnet", Invalid, "overlap with IPPool peer"),
        (
            6,
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.9-10.0.0.1"]}"#,
            "spec.ips[0]",
            Invalid,
            "the first address is greater than the last one",
        ),
        (
            6,
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.5","10.0.0.9-10.0.0.1"]}"#,
            "spec.ips[1]",
            Invalid,
            "10.0.0.9-10.0.0.1",
        ),
        (
            6,
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.1.1"]}"#,
            "spec.ips[0]",
            Invalid,
            "not pertains to the 'spec.subnet' 10.0.0.0/24 of IPPool",
        ),
        (6, r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.200-10.0.1.1"]}"#, "spec.ips[0]", Invalid, "not pertains"),
        (6, r#"{"subnet":"10.0.0.0/24","ips":["fd00::1"]}"#, "spec.ips[0]", Invalid, "expect IPv4 addresses"),
        (6, r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.0/25"]}"#, "spec.ips[0]", Invalid, "invalid IP"),
        (6, r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1 - 10.0.0.5"]}"#, "spec.ips[0]", Invalid, "invalid IP"),
        (6, r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.2-10.0.0.3"]}"#, "spec.ips[0]", Invalid, "invalid IP"),
        (
            6,
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1"],"excludeIPs":["10.0.9.1"]}"#,
            "spec.excludeIPs[0]",
            Invalid,
            "not pertains",
        ),
        (
            6,
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1"],"excludeIPs":["x"]}"#,
            "spec.excludeIPs[0]",
            Invalid,
            "invalid IP",
        ),
        (
            7,
            r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.1-10.5.0.15"]}"#,
            "spec.ips",
            Forbidden,
            "Forbidden: overlap with IPPool peer in IP ranges [10.5.0.10-10.5.0.11 10.5.0.13-10.5.0.15], total IP addresses of an IPPool are jointly determined by 'spec.ips' and 'spec.excludeIPs'",
        ),
        (8, r#"{"subnet":"10.0.0.0/24","gateway":"10.0.1.1"}"#, "spec.gateway", Invalid, "not pertains"),
        (8, r#"{"subnet":"10.0.0.0/24","gateway":"fd00::1"}"#, "spec.gateway", Invalid, "not pertains"),
        (8, r#"{"subnet":"10.0.0.0/24","gateway":"gw"}"#, "spec.gateway", Invalid, "\"gw\""),
        (8, r#"{"subnet":"10.0.0.0/24","gateway":""}"#, "spec.gateway", Invalid, "not pertains"),
        (
            8,
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"gateway":"10.0.0.5"}"#,
            "spec.ips[0]",
            Invalid,
            "conflicts with 'spec.gateway' 10.0.0.5, add the gateway IP address to 'spec.excludeIPs' or remove it",
        ),
        (
            8,
            r#"{"subnet":"fd00::/64","ips":["fd00:0::5"],"gateway":"fd00::5"}"#,
            "spec.ips[0]",
            Invalid,
            "conflicts with 'spec.gateway'",
        ),
        (
            9,
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]}"#,
            "spec.routes[0].dst",
            Invalid,
            "please specify 'spec.gateway' to configure the default route",
        ),
        (
            9,
            r#"{"subnet":"fd00::/64","routes":[{"dst":"::/0","gw":"fd00::1"}]}"#,
            "spec.routes[0].dst",
            Invalid,
            "please specify 'spec.gateway'",
        ),
        (
            9,
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"10.1.0.0/16","gw":"10.0.0.1"},{"dst":"10.1.0.0/16","gw":"10.0.0.2"}]}"#,
            "spec.routes[1].dst",
            Invalid,
            "duplicate route with the same dst",
        ),
        (
            9,
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"fd00::/64","gw":"10.0.0.1"}]}"#,
            "spec.routes[0].dst",
            Invalid,
            "expect an IPv4 CIDR",
        ),
        (
            9,
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"10.1.0.1","gw":"10.0.0.1"}]}"#,
            "spec.routes[0].dst",
            Invalid,
            "invalid CIDR format",
        ),
        (
            9,
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"10.1.0.0/16","gw":"10.9.0.1"}]}"#,
            "spec.routes[0].gw",
            Invalid,
            "not pertains",
        ),
        (
            9,
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"10.1.0.0/16","gw":"x"}]}"#,
            "spec.routes[0].gw",
            Invalid,
            "\"x\"",
        ),
        (
            10,
            r#"{"subnet":"10.0.0.0/24","podAffinity":{}}"#,
            "spec.podAffinity",
            Invalid,
            "{}: empty podAffinity is invalid for SpiderIPPool",
        ),
        (
            10,
            r#"{"subnet":"10.0.0.0/24","podAffinity":{"matchExpressions":[{"key":"a","operator":"In"}]}}"#,
            "spec.podAffinity",
            Invalid,
            "must be set for operator In",
        ),
        (
            10,
            r#"{"subnet":"10.0.0.0/24","podAffinity":{"matchExpressions":[{"key":"a","operator":"Is"}]}}"#,
            "spec.podAffinity",
            Invalid,
            "\"Is\" is not a valid label selector operator",
        ),
        (
            10,
            r#"{"subnet":"10.0.0.0/24","podAffinity":{"matchLabels":{"a b":"c"}}}"#,
            "spec.podAffinity",
            Invalid,
            "'a b' is not a valid label key",
        ),
        (
            10,
            r#"{"subnet":"10.0.0.0/24","podAffinity":{"matchLabels":{"a":"b c"}}}"#,
            "spec.podAffinity",
            Invalid,
            "'b c' is not a valid value",
        ),
    ];
    let peer =
        Peer::of("peer", &spec(r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.10-10.5.0.20"],"excludeIPs":["10.5.0.12"]}"#))
            .unwrap();
    for (rule, json, field, kind, text) in rows {
        let result = create(json, std::slice::from_ref(&peer));
        assert_only(&format!("rule {rule}: {json}"), result, field, kind, text);
    }
    // 3 and 11 have tests of their own: they need other settings and a SpiderSubnet.
    assert_complete([1, 2].into_iter().chain(4..=10), rows.iter().map(|row| row.0));
}

#[test]
fn rule_3_a_disabled_family_is_forbidden() {
    let only = |ipv4, ipv6| PoolContext { enabled: Enabled { ipv4, ipv6 }, peers: &[], owner: None };
    for (context, json, text) in [
        (only(true, false), r#"{"subnet":"fd00::/64"}"#, "spec.ipVersion: Forbidden: IPv6 is disabled"),
        (only(false, true), r#"{"subnet":"10.0.0.0/24"}"#, "spec.ipVersion: Forbidden: IPv4 is disabled"),
    ] {
        let result = validate_pool_create("new", &mutated(spec(json)), &Labels::new(), &context);
        assert_only(json, result, "spec.ipVersion", Forbidden, text);
    }
}

#[test]
fn rule_5_identical_subnets_share_and_names_are_unique() {
    let peer = Peer::of("peer", &spec(r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.10-10.5.0.20"]}"#)).unwrap();
    assert_eq!(create(r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.21"]}"#, std::slice::from_ref(&peer)), Ok(()));
    let same = Peer { name: "new".into(), ..peer };
    assert_eq!(create(r#"{"subnet":"10.5.0.0/24"}"#, &[same]), Err(Refusal::AlreadyExists));
}

#[test]
fn rule_6_overlapping_ranges_within_a_pool_are_merged_or_refused() {
    // Two elements are merged by mutation, so their overlap never reaches validation; unmerged input is refused.
    assert_eq!(
        mutated(spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.4-10.0.0.9","10.0.0.1-10.0.0.5"]}"#)).ips,
        ["10.0.0.1-10.0.0.9"]
    );
    let raw =
        spec(r#"{"ipVersion":4,"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9","10.0.0.2","10.0.0.8-10.0.0.12"]}"#);
    let found = errors(validate_pool_create("new", &raw, &Labels::new(), &context(&[])));
    let fields: Vec<&str> = found.iter().map(|(field, _, _)| field.as_str()).collect();
    assert_eq!(fields, ["spec.ips[1]", "spec.ips[2]"], "{found:?}");
    assert!(found.iter().all(|(.., text)| text.contains("overlaps with 'spec.ips[0]' 10.0.0.1-10.0.0.9")), "{found:?}");
}

#[test]
fn rule_7_what_a_pool_excludes_others_may_have() {
    let peer =
        Peer::of("peer", &spec(r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.10-10.5.0.20"],"excludeIPs":["10.5.0.12"]}"#));
    let peers = [peer.unwrap()];
    assert_eq!(create(r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.12"]}"#, &peers), Ok(()));
    let beside = r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.10-10.5.0.30"],"excludeIPs":["10.5.0.10-10.5.0.20"]}"#;
    assert_eq!(create(beside, &peers), Ok(()));
}

#[test]
fn rules_6_to_10_are_reported_together() {
    let peer = Peer::of("peer", &spec(r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.10"]}"#)).unwrap();
    let json = r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.10","10.6.0.1"],"gateway":"10.7.0.1","routes":[{"dst":"0.0.0.0/0","gw":"10.5.0.1"}],"podAffinity":{}}"#;
    let found = errors(create(json, &[peer]));
    let fields: Vec<&str> = found.iter().map(|(field, ..)| field.as_str()).collect();
    assert_eq!(fields, ["spec.ips[1]", "spec.gateway", "spec.routes[0].dst", "spec.podAffinity", "spec.ips"]);
}

#[test]
fn rule_10_auto_pools_may_name_only_their_application() {
    let auto = Labels::from([("ipam.spidernet.io/owner-application-name".into(), "web".into())]);
    let check = |affinity: &str| {
        let spec = mutated(spec(&format!(r#"{{"subnet":"10.0.0.0/24","podAffinity":{affinity}}}"#)));
        validate_pool_create("p", &spec, &auto, &context(&[]))
    };
    let five = r#"{"matchLabels":{"ipam.spidernet.io/app-kind":"Deployment","ipam.spidernet.io/app-api-group":"","ipam.spidernet.io/app-api-version":"v1","ipam.spidernet.io/app-namespace":"a","ipam.spidernet.io/app-name":"b"}}"#;
    assert_eq!(check(five), Ok(()));
    for (affinity, text) in [
        (
            r#"{"matchLabels":{"app":"web"}}"#,
            "it's invalid to add additional podAffinity matchLabels for auto-created SpiderIPPool: 'app'",
        ),
        (
            r#"{"matchExpressions":[{"key":"a","operator":"Exists"}]}"#,
            "it's invalid to add additional podAffinity matchExpressions for auto-created SpiderIPPool",
        ),
    ] {
        assert_only(affinity, check(affinity), "spec.podAffinity", Invalid, text);
    }
}

#[test]
fn rule_11_pools_of_a_subnet_stay_inside() {
    let addresses: SpanSet = ipam::range::parse_ranges(&["10.0.0.10-10.0.0.20"], ipam::Family::V4).unwrap();
    let owner = OwnerSubnet { name: "s".into(), addresses, gateway: None, routes: None, controlled: vec![] };
    let given = spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.10-10.0.0.12"]}"#);
    let context = PoolContext { enabled: Enabled::BOTH, peers: &[], owner: Some(&owner) };
    assert_eq!(validate_pool_create("p", &mutated(given.clone()), &Labels::new(), &context), Ok(()));
    let wide = mutated(spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.10-10.0.0.30"]}"#));
    let result = validate_pool_create("p", &wide, &Labels::new(), &context);
    assert_only("wide", result, "spec.ips", Forbidden, "[10.0.0.21-10.0.0.30] are not contained in Subnet s");

    let auto = Labels::from([("ipam.spidernet.io/owner-application-name".into(), "web".into())]);
    let result = validate_pool_create("p", &mutated(given.clone()), &auto, &context);
    assert_only("auto", result, "spec.ips", Forbidden, "must equal what Subnet s allocated");
    let owner = OwnerSubnet { controlled: vec![("p".into(), given.addresses().unwrap())], ..owner.clone() };
    let context = PoolContext { owner: Some(&owner), ..context };
    assert_eq!(validate_pool_create("p", &mutated(given), &auto, &context), Ok(()));
}
