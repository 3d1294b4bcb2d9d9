//! SpiderReservedIP: §10.4.

use ipam::rules::{ErrorKind::*, *};

use crate::assert_only;

fn reserved(json: &str) -> ReservedSpec {
    serde_json::from_str(json).unwrap()
}

/// What is stored, or why not.
fn create(json: &str, enabled: Enabled) -> Result<ReservedSpec, Refusal> {
    let mut spec = reserved(json);
    let mutation = mutate_reserved(&spec, false);
    spec.ip_version = mutation.ip_version.or(spec.ip_version);
    spec.ips = mutation.ips.unwrap_or(spec.ips);
    validate_reserved_create(&spec, enabled).map(|()| spec)
}

const IPV4_ONLY: Enabled = Enabled { ipv4: true, ipv6: false };

#[test]
fn mutation_fills_the_version_and_merges() {
    let stored = create(r#"{"ips":["10.20.1.50","10.20.1.10-10.20.1.12"]}"#, IPV4_ONLY).unwrap();
    assert_eq!((stored.ip_version, stored.ips), (Some(4), vec!["10.20.1.10-10.20.1.12".into(), "10.20.1.50".into()]));
    assert_eq!(create(r#"{"ips":["fd00::1"]}"#, Enabled::BOTH).unwrap().ip_version, Some(6));
    let one = create(r#"{"ips":["10.0.0.1-10.0.0.1"]}"#, IPV4_ONLY).unwrap();
    assert_eq!(one.ips, ["10.0.0.1-10.0.0.1"], "one element keeps its spelling");
    assert!(create(r#"{"ipVersion":4}"#, IPV4_ONLY).unwrap().ips.is_empty(), "nothing may be reserved, explicitly");
    let mutation = mutate_reserved(&reserved("{}"), false);
    assert_eq!((mutation.add_finalizer, mutation.warnings[0].field), (false, "spec.ips"));
    assert!(mutate_reserved(&reserved(r#"{"ips":["10.0.0.1"]}"#), true).is_empty(), "terminating");
}

#[test]
fn each_rule_names_field_and_kind() {
    for (json, field, kind, text) in [
        (r#"{}"#, "spec.ipVersion", Invalid, "'spec.ips' is empty or 'spec.ips[0]' is invalid"),
        (r#"{"ips":["x"]}"#, "spec.ipVersion", Invalid, "'spec.ips[0]' is invalid"),
        (r#"{"ips":["10.0.0.9-10.0.0.1"]}"#, "spec.ipVersion", Invalid, "'spec.ips[0]' is invalid"),
        (r#"{"ips":["fd00::1"]}"#, "spec.ipVersion", Forbidden, "IPv6 is disabled"),
        (r#"{"ipVersion":7,"ips":["10.0.0.1"]}"#, "spec.ipVersion", NotSupported, r#"supported values: "4", "6""#),
        (r#"{"ips":["10.0.0.1","fd00::1"]}"#, "spec.ips[1]", Invalid, "expect IPv4 addresses"),
        (r#"{"ipVersion":4,"ips":["10.0.0.9-10.0.0.1"]}"#, "spec.ips[0]", Invalid, "10.0.0.9-10.0.0.1"),
        (r#"{"ipVersion":4,"ips":["10.0.0.0/28"]}"#, "spec.ips[0]", Invalid, "invalid IP"),
    ] {
        assert_only(json, create(json, IPV4_ONLY).map(drop), field, kind, text);
    }
}

#[test]
fn updates() {
    let old = reserved(r#"{"ipVersion":4,"ips":["10.0.0.1"]}"#);
    let update =
        |new: &str, terminating| validate_reserved_update("r", (&old, &reserved(new)), terminating, Enabled::BOTH);
    let changed = r#"{"ipVersion":4,"ips":["10.0.0.2"]}"#;
    assert_eq!(update(changed, false), Ok(()));
    let other = update(r#"{"ipVersion":6,"ips":["fd00::1"]}"#, false);
    assert_only("version", other, "spec.ipVersion", Forbidden, "is not changeable");
    assert_only("range", update(r#"{"ipVersion":4,"ips":["x"]}"#, false), "spec.ips[0]", Invalid, "\"x\"");
    assert_eq!(update(changed, true), Err(Refusal::Forbidden("cannot update a terminating ReservedIP r".into())));
    // Deleted in the foreground, say: the garbage collector takes its finalizer off.
    assert_eq!(validate_reserved_update("r", (&old, &old), true, Enabled::BOTH), Ok(()));
}
