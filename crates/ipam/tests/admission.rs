//! Admission rules, row by row, as the API server would report them.

#![allow(clippy::unwrap_used)] // helpers of tests

use ipam::rules::*;
use ipam::{Labels, Route, SpanSet};

fn spec(json: &str) -> PoolSpec {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// What the webhook stores: mutation applied.
fn mutated(mut spec: PoolSpec) -> PoolSpec {
    let mutation = mutate_pool(&spec, &Labels::new(), &[], false, None);
    spec.ip_version = mutation.ip_version.or(spec.ip_version);
    spec.ips = mutation.ips.unwrap_or(spec.ips);
    spec.exclude_ips = mutation.exclude_ips.unwrap_or(spec.exclude_ips);
    spec
}

fn create(json: &str, peers: &[Peer]) -> Result<(), Refusal> {
    let context = PoolContext { enabled: Enabled::BOTH, peers, owner: None };
    validate_pool_create("new", &mutated(spec(json)), &Labels::new(), &context)
}

/// `field: kind`, and the text.
fn errors(result: Result<(), Refusal>) -> Vec<(String, ErrorKind, String)> {
    match result {
        Err(Refusal::Invalid(errors)) => {
            errors.into_iter().map(|error| (error.field.clone(), error.kind, error.to_string())).collect()
        }
        other => panic!("{other:?}"),
    }
}

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
    ] {
        assert_eq!(create(json, &[]), Ok(()), "{json}");
    }
}

#[test]
fn each_rule_names_field_kind_and_value() {
    use ErrorKind::{Forbidden, Invalid, NotSupported};
    let rows: [(&str, &str, ErrorKind, &str); 27] = [
        (r#"{"subnet":"10.0.0.0"}"#, "spec.ipVersion", Invalid, "is not generated correctly"),
        (
            r#"{"ipVersion":5,"subnet":"10.0.0.0/24"}"#,
            "spec.ipVersion",
            NotSupported,
            "Unsupported value: 5: supported values: 4, 6",
        ),
        (r#"{"ipVersion":6,"subnet":"10.0.0.0/24"}"#, "spec.subnet", Invalid, "expect an IPv6 CIDR"),
        (
            r#"{"subnet":"10.0.0.7/24"}"#,
            "spec.subnet",
            Invalid,
            "\"10.0.0.7/24\": invalid CIDR format '10.0.0.7/24': expect the network form '10.0.0.0/24'",
        ),
        (r#"{"subnet":"FD00::/64"}"#, "spec.subnet", Invalid, "expect the network form 'fd00::/64'"),
        (
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.9-10.0.0.1"]}"#,
            "spec.ips[0]",
            Invalid,
            "the first address is greater than the last one",
        ),
        (
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.5","10.0.0.9-10.0.0.1"]}"#,
            "spec.ips[1]",
            Invalid,
            "10.0.0.9-10.0.0.1",
        ),
        (
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.1.1"]}"#,
            "spec.ips[0]",
            Invalid,
            "not pertains to the 'spec.subnet' 10.0.0.0/24 of IPPool",
        ),
        (r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.200-10.0.1.1"]}"#, "spec.ips[0]", Invalid, "not pertains"),
        (r#"{"subnet":"10.0.0.0/24","ips":["fd00::1"]}"#, "spec.ips[0]", Invalid, "expect IPv4 addresses"),
        (r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.0/25"]}"#, "spec.ips[0]", Invalid, "invalid IP"),
        (
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1"],"excludeIPs":["10.0.9.1"]}"#,
            "spec.excludeIPs[0]",
            Invalid,
            "not pertains",
        ),
        (
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1"],"excludeIPs":["x"]}"#,
            "spec.excludeIPs[0]",
            Invalid,
            "invalid IP",
        ),
        (r#"{"subnet":"10.0.0.0/24","gateway":"10.0.1.1"}"#, "spec.gateway", Invalid, "not pertains"),
        (r#"{"subnet":"10.0.0.0/24","gateway":"gw"}"#, "spec.gateway", Invalid, "\"gw\""),
        (
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"gateway":"10.0.0.5"}"#,
            "spec.ips[0]",
            Invalid,
            "conflicts with 'spec.gateway' 10.0.0.5",
        ),
        (
            r#"{"subnet":"fd00::/64","ips":["fd00:0::5"],"gateway":"fd00::5"}"#,
            "spec.ips[0]",
            Invalid,
            "conflicts with 'spec.gateway'",
        ),
        (
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]}"#,
            "spec.routes[0].dst",
            Invalid,
            "please specify 'spec.gateway'",
        ),
        (
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"10.1.0.0/16","gw":"10.0.0.1"},{"dst":"10.1.0.0/16","gw":"10.0.0.2"}]}"#,
            "spec.routes[1].dst",
            Invalid,
            "duplicate",
        ),
        (
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"fd00::/64","gw":"10.0.0.1"}]}"#,
            "spec.routes[0].dst",
            Invalid,
            "expect an IPv4 CIDR",
        ),
        (
            r#"{"subnet":"10.0.0.0/24","routes":[{"dst":"10.1.0.0/16","gw":"10.9.0.1"}]}"#,
            "spec.routes[0].gw",
            Invalid,
            "not pertains",
        ),
        (r#"{"subnet":"10.0.0.0/24","podAffinity":{}}"#, "spec.podAffinity", Invalid, "empty podAffinity"),
        (
            r#"{"subnet":"10.0.0.0/24","podAffinity":{"matchExpressions":[{"key":"a","operator":"In"}]}}"#,
            "spec.podAffinity",
            Invalid,
            "must be set for operator In",
        ),
        (
            r#"{"subnet":"10.5.0.0/16"}"#,
            "spec.subnet",
            Invalid,
            "overlaps with 'spec.subnet' 10.5.0.0/24 of IPPool peer",
        ),
        (r#"{"subnet":"10.5.0.0/25"}"#, "spec.subnet", Invalid, "overlaps"),
        (
            r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.1-10.5.0.15"]}"#,
            "spec.ips",
            Forbidden,
            "overlaps with IPPool peer in IP ranges [10.5.0.10-10.5.0.11, 10.5.0.13-10.5.0.15]",
        ),
        (r#"{"ipVersion":4,"subnet":""}"#, "spec.subnet", Invalid, "invalid CIDR format ''"),
    ];
    let peer =
        Peer::of("peer", &spec(r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.10-10.5.0.20"],"excludeIPs":["10.5.0.12"]}"#))
            .unwrap();
    for (json, field, kind, text) in rows {
        let found = errors(create(json, std::slice::from_ref(&peer)));
        assert!(found.iter().any(|(f, k, t)| f == field && *k == kind && t.contains(text)), "{json}: {found:?}");
    }
}

#[test]
fn overlapping_ranges_within_a_pool_are_merged_or_refused() {
    // Two elements are merged by mutation, so their overlap never reaches validation; unmerged input is refused.
    assert_eq!(
        mutated(spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.4-10.0.0.9","10.0.0.1-10.0.0.5"]}"#)).ips,
        ["10.0.0.1-10.0.0.9"]
    );
    let raw =
        spec(r#"{"ipVersion":4,"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9","10.0.0.2","10.0.0.8-10.0.0.12"]}"#);
    let context = PoolContext { enabled: Enabled::BOTH, peers: &[], owner: None };
    let found = errors(validate_pool_create("new", &raw, &Labels::new(), &context));
    let fields: Vec<&str> = found.iter().map(|(field, _, _)| field.as_str()).collect();
    assert_eq!(fields, ["spec.ips[1]", "spec.ips[2]"], "{found:?}");
}

#[test]
fn identical_subnets_share_and_names_are_unique() {
    let peer = Peer::of("peer", &spec(r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.10-10.5.0.20"]}"#)).unwrap();
    assert_eq!(create(r#"{"subnet":"10.5.0.0/24","ips":["10.5.0.21"]}"#, std::slice::from_ref(&peer)), Ok(()));
    let same = Peer { name: "new".into(), ..peer };
    assert_eq!(create(r#"{"subnet":"10.5.0.0/24"}"#, &[same]), Err(Refusal::AlreadyExists));
}

#[test]
fn disabled_families_are_forbidden() {
    let context = PoolContext { enabled: Enabled { ipv4: true, ipv6: false }, peers: &[], owner: None };
    let found =
        errors(validate_pool_create("new", &mutated(spec(r#"{"subnet":"fd00::/64"}"#)), &Labels::new(), &context));
    assert_eq!(
        found[0],
        ("spec.ipVersion".into(), ErrorKind::Forbidden, "spec.ipVersion: Forbidden: IPv6 is disabled".into())
    );
}

fn update(old: &str, new: &str, used: &[Used]) -> Result<(), Refusal> {
    let context = PoolContext { enabled: Enabled::BOTH, peers: &[], owner: None };
    validate_pool_update("p", (&mutated(spec(old)), &mutated(spec(new))), &Labels::new(), (false, &[]), used, &context)
}

#[test]
fn updates_keep_family_subnet_and_addresses_in_use() {
    let old = r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"]}"#;
    let used = [Used { address: "10.0.0.3".parse().unwrap(), holder: "ns/web-0".into() }];
    assert_eq!(
        update(
            old,
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.3-10.0.0.4"],"gateway":"10.0.0.1","disable":true}"#,
            &used
        ),
        Ok(())
    );
    for new in [
        r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.4-10.0.0.9"]}"#,
        r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"excludeIPs":["10.0.0.3"]}"#,
    ] {
        let found = errors(update(old, new, &used));
        assert_eq!(found[0].2, "spec.ips: Forbidden: remove IP addresses in use: 10.0.0.3 (used by ns/web-0)", "{new}");
    }
    assert_eq!(errors(update(old, r#"{"subnet":"10.0.0.0/23","ips":["10.0.0.1"]}"#, &[]))[0].0, "spec.subnet");
    assert_eq!(errors(update(old, r#"{"ipVersion":6,"subnet":"10.0.0.0/24"}"#, &[]))[0].0, "spec.ipVersion");
    assert_eq!(errors(update(old, r#"{"subnet":"10.0.0.0/24","ips":["10.1.0.1"]}"#, &[]))[0].0, "spec.ips[0]");
    assert_eq!(update(r#"{"subnet":"10.0.0.0/24"}"#, r#"{"ipVersion":4,"subnet":"10.0.0.0/24"}"#, &[]), Ok(()));
}

#[test]
fn a_terminating_pool_may_only_lose_its_finalizer() {
    let context = PoolContext { enabled: Enabled::BOTH, peers: &[], owner: None };
    let spec = mutated(spec(r#"{"subnet":"10.0.0.0/24"}"#));
    let update = |finalizers: &[String]| {
        validate_pool_update("p", (&spec, &spec), &Labels::new(), (true, finalizers), &[], &context)
    };
    assert_eq!(
        update(&["spiderpool.spidernet.io".into()]),
        Err(Refusal::Forbidden("cannot update a terminating IPPool p".into()))
    );
    assert_eq!(update(&[]), Ok(()));
}

#[test]
fn pool_mutation_fills_and_merges_and_says_what_it_could_not() {
    let given =
        spec(r#"{"subnet":"172.18.40.0/24","ips":["172.18.40.41","172.18.40.40"],"excludeIPs":["172.18.40.40 "]}"#);
    let mutation = mutate_pool(&given, &Labels::new(), &[], false, None);
    assert!(mutation.add_finalizer && mutation.warnings.is_empty());
    assert_eq!(
        (mutation.ip_version, mutation.ips, mutation.exclude_ips),
        (Some(4), Some(vec!["172.18.40.40-172.18.40.41".into()]), None)
    );
    assert_eq!(mutation.labels, [("ipam.spidernet.io/ippool-cidr", "172-18-40-0-24".to_owned())]);
    let again = PoolSpec { ip_version: Some(4), ips: vec!["172.18.40.40-172.18.40.41".into()], ..given.clone() };
    let labels = Labels::from([("ipam.spidernet.io/ippool-cidr".into(), "172-18-40-0-24".into())]);
    assert!(mutate_pool(&again, &labels, &[FINALIZER.into()], false, None).is_empty(), "a second time changes nothing");
    assert!(mutate_pool(&given, &Labels::new(), &[], true, None).is_empty(), "a terminating pool is left alone");
    let broken = spec(r#"{"subnet":"172.18.40.0/24","ips":["172.18.40.41","x"]}"#);
    let mutation = mutate_pool(&broken, &Labels::new(), &[], false, None);
    assert_eq!((mutation.ip_version, mutation.ips), (Some(4), None));
    assert_eq!(mutation.warnings[0].field, "spec.ips");
    let kept = spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.1"]}"#);
    assert_eq!(mutate_pool(&kept, &Labels::new(), &[], false, None).ips, None, "one element keeps its spelling");
}

#[test]
fn pools_of_a_subnet_inherit_and_stay_inside() {
    let addresses: SpanSet = ipam::range::parse_ranges(&["10.0.0.10-10.0.0.20"], ipam::Family::V4).unwrap();
    let owner = OwnerSubnet {
        name: "s".into(),
        addresses: addresses.clone(),
        gateway: Some("10.0.0.1".into()),
        routes: Some(vec![Route::new("10.9.0.0/16", "10.0.0.2")]),
        controlled: vec![],
    };
    let given = spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.10-10.0.0.12"]}"#);
    let mutation = mutate_pool(&given, &Labels::new(), &[], false, Some(&owner));
    assert_eq!(
        (mutation.gateway.as_deref(), mutation.routes.as_ref().map(Vec::len), mutation.owner_subnet.as_deref()),
        (Some("10.0.0.1"), Some(1), Some("s"))
    );
    let blocked = PoolSpec { routes: Some(vec![]), gateway: Some("10.0.0.3".into()), ..given.clone() };
    let mutation = mutate_pool(&blocked, &Labels::new(), &[], false, Some(&owner));
    assert_eq!((mutation.gateway, mutation.routes), (None, None), "an explicit empty list blocks inheritance");
    let context = PoolContext { enabled: Enabled::BOTH, peers: &[], owner: Some(&owner) };
    assert_eq!(validate_pool_create("p", &mutated(given.clone()), &Labels::new(), &context), Ok(()));
    let wide = mutated(spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.10-10.0.0.30"]}"#));
    assert!(
        errors(validate_pool_create("p", &wide, &Labels::new(), &context))[0]
            .2
            .contains("[10.0.0.21-10.0.0.30] are not contained in Subnet s")
    );
    let auto = Labels::from([("ipam.spidernet.io/owner-application-name".into(), "web".into())]);
    assert!(
        errors(validate_pool_create("p", &mutated(given.clone()), &auto, &context))[0]
            .2
            .contains("must equal what Subnet s allocated")
    );
    let owner = OwnerSubnet { controlled: vec![("p".into(), given.addresses().unwrap())], ..owner.clone() };
    let context = PoolContext { owner: Some(&owner), ..context };
    assert_eq!(validate_pool_create("p", &mutated(given), &auto, &context), Ok(()));
}

#[test]
fn auto_pools_may_name_only_their_application() {
    let auto = Labels::from([("ipam.spidernet.io/owner-application-name".into(), "web".into())]);
    let context = PoolContext { enabled: Enabled::BOTH, peers: &[], owner: None };
    let check = |affinity: &str| {
        validate_pool_create(
            "p",
            &mutated(spec(&format!(r#"{{"subnet":"10.0.0.0/24","podAffinity":{affinity}}}"#))),
            &auto,
            &context,
        )
    };
    assert_eq!(
        check(r#"{"matchLabels":{"ipam.spidernet.io/app-kind":"Deployment","ipam.spidernet.io/app-api-group":""}}"#),
        Ok(())
    );
    assert!(errors(check(r#"{"matchLabels":{"app":"web"}}"#))[0].2.contains("may not have the label 'app'"));
    assert!(
        errors(check(r#"{"matchExpressions":[{"key":"a","operator":"Exists"}]}"#))[0]
            .2
            .contains("may not have matchExpressions")
    );
}

#[test]
fn reserved_ips_follow_their_table() {
    let reserved = |json: &str| -> ReservedSpec { serde_json::from_str(json).unwrap() };
    let create = |json: &str| {
        let mut spec = reserved(json);
        let mutation = mutate_reserved(&spec, false);
        spec.ip_version = mutation.ip_version.or(spec.ip_version);
        spec.ips = mutation.ips.unwrap_or(spec.ips);
        validate_reserved_create(&spec, Enabled { ipv4: true, ipv6: false }).map(|()| spec)
    };
    assert_eq!(
        create(r#"{"ips":["10.20.1.50","10.20.1.10-10.20.1.12"]}"#).unwrap().ips,
        ["10.20.1.10-10.20.1.12", "10.20.1.50"]
    );
    assert_eq!(create(r#"{"ipVersion":4}"#).unwrap().ips, Vec::<String>::new());
    for (json, field, text) in [
        (r#"{}"#, "spec.ipVersion", "'spec.ips' is empty or 'spec.ips[0]' is invalid"),
        (r#"{"ips":["x"]}"#, "spec.ipVersion", "is invalid"),
        (r#"{"ips":["fd00::1"]}"#, "spec.ipVersion", "IPv6 is disabled"),
        (r#"{"ipVersion":7,"ips":["10.0.0.1"]}"#, "spec.ipVersion", "supported values"),
        (r#"{"ips":["10.0.0.1","fd00::1"]}"#, "spec.ips[1]", "expect IPv4 addresses"),
        (r#"{"ips":["10.0.0.9-10.0.0.1"]}"#, "spec.ipVersion", "is invalid"),
    ] {
        let found = errors(create(json).map(|_| ()));
        assert!(found[0].0 == field && found[0].2.contains(text), "{json}: {found:?}");
    }
    let (old, new) =
        (reserved(r#"{"ipVersion":4,"ips":["10.0.0.1"]}"#), reserved(r#"{"ipVersion":6,"ips":["fd00::1"]}"#));
    assert_eq!(errors(validate_reserved_update("r", (&old, &new), false, Enabled::BOTH))[0].0, "spec.ipVersion");
    assert_eq!(validate_reserved_update("r", (&old, &old), false, Enabled::BOTH), Ok(()));
    assert_eq!(
        validate_reserved_update("r", (&old, &old), true, Enabled::BOTH),
        Err(Refusal::Forbidden("cannot update a terminating ReservedIP r".into()))
    );
}

#[test]
fn subnets_follow_their_rules() {
    let subnet = |json: &str| -> SubnetSpec { serde_json::from_str(json).unwrap() };
    let given = subnet(r#"{"ipVersion":4,"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.50"]}"#);
    let pool = Peer::of("p", &spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.40-10.0.0.60"]}"#)).unwrap();
    let other = [("other".to_owned(), "10.0.0.0/25".parse().unwrap())];
    let context = |subnets, pools| SubnetContext { enabled: Enabled::BOTH, subnets, pools };
    assert_eq!(validate_subnet_create("s", &given, &context(&[], &[])), Ok(()));
    assert!(
        errors(validate_subnet_create("s", &given, &context(&other, &[])))[0]
            .2
            .contains("overlaps with 'spec.subnet' 10.0.0.0/25 of Subnet other")
    );
    assert!(
        errors(validate_subnet_create("s", &given, &context(&[], std::slice::from_ref(&pool))))[0]
            .2
            .contains("[10.0.0.51-10.0.0.60] of the existing IPPool p")
    );
    let foreign = Peer { subnet: "10.0.0.0/16".parse().unwrap(), ..pool.clone() };
    assert!(
        errors(validate_subnet_create("s", &given, &context(&[], std::slice::from_ref(&foreign))))[0]
            .2
            .contains("of IPPool p")
    );
    assert_eq!(validate_subnet_create("other", &given, &context(&other, &[])), Err(Refusal::AlreadyExists));
    let controlled = [("p".to_owned(), ipam::range::parse_ranges(&["10.0.0.45-10.0.0.50"], ipam::Family::V4).unwrap())];
    let less = subnet(r#"{"ipVersion":4,"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.47"]}"#);
    assert!(
        errors(validate_subnet_update("s", (&given, &less), (false, &[]), &controlled, Enabled::BOTH))[0]
            .2
            .contains("[10.0.0.48-10.0.0.50] that are allocated to IPPool p")
    );
    assert_eq!(validate_subnet_update("s", (&given, &less), (false, &[]), &[], Enabled::BOTH), Ok(()));
    assert_eq!(
        mutate_subnet(&subnet(r#"{"subnet":"fd00:db8::/64"}"#), &Labels::new(), &[], false).labels[0].1,
        "fd00-db8---64"
    );
}
