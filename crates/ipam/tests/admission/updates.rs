//! SpiderIPPool on UPDATE: §10.3.

use ipam::Labels;
use ipam::rules::{ErrorKind::*, *};

use crate::{assert_only, context, errors, mutated, spec};

fn update(old: &str, new: &str, used: &[Used], context: &PoolContext<'_>) -> Result<(), Refusal> {
    let specs = (&mutated(spec(old)), &mutated(spec(new)));
    validate_pool_update("p", specs, &Labels::new(), (false, &[]), used, context)
}

const OLD: &str = r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"]}"#;

fn used() -> [Used; 1] {
    [Used { address: "10.0.0.3".parse().unwrap(), holder: "Pod ns/web-0".into() }]
}

#[test]
fn what_may_not_change_names_field_and_kind() {
    let in_use = "spec.ips: Forbidden: remove an IP address 10.0.0.3 that is being used by Pod ns/web-0, total IP addresses \
        of an IPPool are jointly determined by 'spec.ips' and 'spec.excludeIPs'";
    let rows = [
        ("subnet", r#"{"subnet":"10.0.0.0/23","ips":["10.0.0.1"]}"#, "spec.subnet", Forbidden, "(it was 10.0.0.0/24)"),
        ("version", r#"{"ipVersion":6,"subnet":"10.0.0.0/24"}"#, "spec.ipVersion", Forbidden, "is not changeable"),
        ("in use, left out", r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.4-10.0.0.9"]}"#, "spec.ips", Forbidden, in_use),
        (
            "in use, excluded",
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"excludeIPs":["10.0.0.3"]}"#,
            "spec.ips",
            Forbidden,
            in_use,
        ),
        ("6", r#"{"subnet":"10.0.0.0/24","ips":["10.1.0.1"]}"#, "spec.ips[0]", Invalid, "not pertains"),
        (
            "7",
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.19"]}"#,
            "spec.ips",
            Forbidden,
            "overlap with IPPool peer in IP ranges [10.0.0.10-10.0.0.19], total IP addresses",
        ),
        (
            "8",
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"gateway":"10.0.0.9"}"#,
            "spec.ips[0]",
            Invalid,
            "conflicts with 'spec.gateway'",
        ),
        (
            "9",
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]}"#,
            "spec.routes[0].dst",
            Invalid,
            "please specify 'spec.gateway'",
        ),
        (
            "10",
            r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"podAffinity":{}}"#,
            "spec.podAffinity",
            Invalid,
            "empty podAffinity is invalid for SpiderIPPool",
        ),
    ];
    let peer = Peer::of("peer", &spec(r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.10-10.0.0.20"]}"#)).unwrap();
    for (what, new, field, kind, text) in rows {
        let result = update(OLD, new, &used(), &context(std::slice::from_ref(&peer)));
        assert_only(what, result, field, kind, text);
    }
}

#[test]
fn what_may_change_does() {
    for new in [
        r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.3-10.0.0.4"],"gateway":"10.0.0.1","disable":true}"#,
        r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"routes":[{"dst":"10.1.0.0/16","gw":"10.0.0.200"}],"default":true}"#,
        r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"nodeName":["a"],"namespaceName":["b"],"multusName":["c/d"]}"#,
    ] {
        assert_eq!(update(OLD, new, &used(), &context(&[])), Ok(()), "{new}");
    }
    assert_eq!(
        update(r#"{"subnet":"10.0.0.0/24"}"#, r#"{"ipVersion":4,"subnet":"10.0.0.0/24"}"#, &[], &context(&[])),
        Ok(())
    );
}

#[test]
fn rules_4_and_5_are_not_run_again() {
    // Admitted by an upstream that did not ask for the canonical form, beside a pool that overlaps.
    let peer = Peer::of("peer", &spec(r#"{"subnet":"10.0.0.0/16"}"#)).unwrap();
    let old = r#"{"subnet":"10.0.0.7/24","ips":["10.0.0.1"]}"#;
    let new = r#"{"subnet":"10.0.0.7/24","ips":["10.0.0.1-10.0.0.4"]}"#;
    assert_eq!(update(old, new, &[], &context(&[peer])), Ok(()));
    let outside = r#"{"subnet":"10.0.0.7/24","ips":["10.0.1.1"]}"#;
    assert_only("6", update(old, outside, &[], &context(&[])), "spec.ips[0]", Invalid, "not pertains");
}

#[test]
fn rule_3_a_family_that_is_switched_off_freezes_the_spec_and_nothing_else() {
    let context = PoolContext { enabled: Enabled { ipv4: false, ipv6: true }, ..context(&[]) };
    let disabled = r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.9"],"disable":true}"#;
    assert_only("spec", update(OLD, disabled, &[], &context), "spec.ipVersion", Forbidden, "IPv4 is disabled");
    assert_eq!(update(OLD, OLD, &[], &context), Ok(()), "labels and finalizers are written all the same");
}

#[test]
fn an_unchanged_spec_is_not_judged_again() {
    // Upstream admits a single range that is reversed.
    let reversed = r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.9-10.0.0.1"]}"#;
    assert_eq!(update(reversed, reversed, &used(), &context(&[])), Ok(()));
    let changed = r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.9-10.0.0.1"],"disable":true}"#;
    assert_only("changed", update(reversed, changed, &[], &context(&[])), "spec.ips[0]", Invalid, "10.0.0.9-10.0.0.1");
}

#[test]
fn many_addresses_in_use_are_named_in_part() {
    let used: Vec<Used> = (1..=12)
        .map(|host| Used { address: format!("10.0.0.{host}").parse().unwrap(), holder: format!("Pod ns/web-{host}") })
        .collect();
    let old = r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.20"]}"#;
    let new = r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.20"]}"#;
    let result = update(old, new, &used, &context(&[]));
    let text = errors(result).remove(0).2;
    assert!(text.contains("remove an IP address 10.0.0.1 that is being used by Pod ns/web-1, total IP"), "{text}");
    assert!(text.contains("; also removed and in use: 10.0.0.2 by Pod ns/web-2, "), "{text}");
    assert!(text.ends_with("10.0.0.10 by Pod ns/web-10, and 2 more"), "{text}");
}

#[test]
fn a_terminating_pool_may_only_lose_its_finalizer() {
    let spec = mutated(spec(r#"{"subnet":"10.0.0.0/24"}"#));
    let update = |finalizers: &[String]| {
        validate_pool_update("p", (&spec, &spec), &Labels::new(), (true, finalizers), &[], &context(&[]))
    };
    assert_eq!(
        update(&["spiderpool.spidernet.io".into()]),
        Err(Refusal::Forbidden("cannot update a terminating IPPool p".into()))
    );
    assert_eq!(update(&[]), Ok(()));
    assert_eq!(update(&["foregroundDeletion".into()]), Ok(()), "the finalizers of others are theirs");
}
