//! SpiderSubnet: crds, §2.4.

use ipam::Labels;
use ipam::rules::{ErrorKind::*, *};

use crate::{assert_only, spec};

fn subnet(json: &str) -> SubnetSpec {
    serde_json::from_str(json).unwrap()
}

/// The other subnets, and the pools.
type Others<'a> = (&'a [(String, ipnet::IpNet)], &'a [Peer]);

const GIVEN: &str = r#"{"ipVersion":4,"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.50"]}"#;

#[test]
fn each_rule_of_create_names_field_and_kind() {
    let other = [("other".to_owned(), "10.0.0.0/25".parse().unwrap())];
    let pool = [Peer::of("p", &spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.40-10.0.0.60"]}"#)).unwrap()];
    let foreign = [Peer { subnet: "10.0.0.0/16".parse().unwrap(), ..pool[0].clone() }];
    let with = |change: &str, value: serde_json::Value| {
        let mut json: serde_json::Value = serde_json::from_str(GIVEN).unwrap();
        json[change] = value;
        json.to_string()
    };
    let rows: [(&str, String, Others<'_>, &str, ErrorKind, &str); 11] = [
        ("no version", r#"{"subnet":"x"}"#.into(), (&[], &[]), "spec.ipVersion", Invalid, "is not generated correctly"),
        ("version", with("ipVersion", 5.into()), (&[], &[]), "spec.ipVersion", NotSupported, "supported values"),
        ("form", with("subnet", "10.0.0.7/24".into()), (&[], &[]), "spec.subnet", Invalid, "'10.0.0.0/24'"),
        (
            "another subnet",
            GIVEN.into(),
            (&other, &[]),
            "spec.subnet",
            Invalid,
            "overlaps with 'spec.subnet' 10.0.0.0/25 of Subnet other",
        ),
        ("a pool of another subnet", GIVEN.into(), (&[], &foreign), "spec.subnet", Invalid, "of IPPool p"),
        (
            "a pool of this subnet",
            GIVEN.into(),
            (&[], &pool),
            "spec.ips",
            Forbidden,
            "[10.0.0.51-10.0.0.60] of the existing IPPool p",
        ),
        ("range", with("ips", vec!["10.0.1.1"].into()), (&[], &[]), "spec.ips[0]", Invalid, "of Subnet"),
        ("excluded", with("excludeIPs", vec!["x"].into()), (&[], &[]), "spec.excludeIPs[0]", Invalid, "invalid IP"),
        ("gateway", with("gateway", "10.1.0.1".into()), (&[], &[]), "spec.gateway", Invalid, "not pertains"),
        ("gateway in ips", with("gateway", "10.0.0.5".into()), (&[], &[]), "spec.ips[0]", Invalid, "conflicts with"),
        (
            "route",
            with("routes", serde_json::json!([{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}])),
            (&[], &[]),
            "spec.routes[0].dst",
            Invalid,
            "please specify 'spec.gateway'",
        ),
    ];
    for (what, json, (subnets, pools), field, kind, text) in rows {
        let context = SubnetContext { enabled: Enabled::BOTH, subnets, pools };
        assert_only(what, validate_subnet_create("s", &subnet(&json), &context), field, kind, text);
    }
    let context = |subnets| SubnetContext { enabled: Enabled::BOTH, subnets, pools: &[] };
    assert_eq!(validate_subnet_create("s", &subnet(GIVEN), &context(&[])), Ok(()));
    assert_eq!(validate_subnet_create("other", &subnet(GIVEN), &context(&other)), Err(Refusal::AlreadyExists));
    let ipv6 = SubnetContext { enabled: Enabled { ipv4: false, ipv6: true }, subnets: &[], pools: &[] };
    let result = validate_subnet_create("s", &subnet(GIVEN), &ipv6);
    assert_only("family", result, "spec.ipVersion", Forbidden, "IPv4 is disabled");
}

#[test]
fn updates_keep_what_pools_have() {
    let controlled = [("p".to_owned(), ipam::range::parse_ranges(&["10.0.0.45-10.0.0.50"], ipam::Family::V4).unwrap())];
    let update = |new: &str, state: (bool, &[String])| {
        validate_subnet_update("s", (&subnet(GIVEN), &subnet(new)), state, &controlled, Enabled::BOTH)
    };
    let less = r#"{"ipVersion":4,"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.47"]}"#;
    for (what, new, field, kind, text) in [
        ("allocated", less, "spec.ips", Forbidden, "[10.0.0.48-10.0.0.50] that are allocated to IPPool p"),
        ("subnet", r#"{"ipVersion":4,"subnet":"10.0.0.0/23"}"#, "spec.subnet", Forbidden, "is not changeable"),
        ("version", r#"{"ipVersion":6,"subnet":"10.0.0.0/24"}"#, "spec.ipVersion", Forbidden, "is not changeable"),
        (
            "range",
            r#"{"ipVersion":4,"subnet":"10.0.0.0/24","ips":["10.0.0.45-10.0.1.1"]}"#,
            "spec.ips[0]",
            Invalid,
            "not pertains",
        ),
    ] {
        assert_only(what, update(new, (false, &[])), field, kind, text);
    }
    let free = r#"{"ipVersion":4,"subnet":"10.0.0.0/24","ips":["10.0.0.45-10.0.0.50"],"gateway":"10.0.0.1"}"#;
    assert_eq!(update(free, (false, &[])), Ok(()));
    let finalizer = [FINALIZER.to_owned()];
    assert_eq!(
        update(free, (true, &finalizer)),
        Err(Refusal::Forbidden("cannot update a terminating Subnet s".into()))
    );
    assert_eq!(update(free, (true, &[])), Ok(()));
}

#[test]
fn mutation_adds_finalizer_version_and_label_and_merges() {
    let given =
        subnet(r#"{"subnet":"fd00:db8::/64","ips":["fd00:db8::2","fd00:db8::1"],"excludeIPs":["fd00:db8::2"]}"#);
    let mutation = mutate_subnet(&given, &Labels::new(), &[], false);
    assert_eq!((mutation.add_finalizer, mutation.ip_version), (true, Some(6)));
    assert_eq!(mutation.labels, [("ipam.spidernet.io/subnet-cidr", "fd00-db8---64".to_owned())]);
    assert_eq!((mutation.ips, mutation.exclude_ips), (Some(vec!["fd00:db8::1-fd00:db8::2".into()]), None));
    assert!(mutate_subnet(&given, &Labels::new(), &[], true).is_empty());
}
