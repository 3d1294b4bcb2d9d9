//! SpiderIPPool mutation: §10.1, step by step.

use ipam::rules::*;
use ipam::{Labels, Route, SpanSet};

use crate::spec;

#[test]
fn finalizer_version_label_and_merged_ranges() {
    let given = spec(
        r#"{"subnet":"172.18.40.0/24","ips":["172.18.40.41","172.18.40.40"],"excludeIPs":["172.18.40.9","172.18.40.8"]}"#,
    );
    let mutation = mutate_pool(&given, &Labels::new(), &[], false, None);
    assert!(mutation.add_finalizer && mutation.warnings.is_empty());
    assert_eq!(mutation.ip_version, Some(4));
    assert_eq!(mutation.labels, [("ipam.spidernet.io/ippool-cidr", "172-18-40-0-24".to_owned())]);
    assert_eq!(mutation.ips, Some(vec!["172.18.40.40-172.18.40.41".into()]));
    assert_eq!(mutation.exclude_ips, Some(vec!["172.18.40.8-172.18.40.9".into()]));
    let v6 = mutate_pool(&spec(r#"{"subnet":"fd00:db8::/64"}"#), &Labels::new(), &[], false, None);
    assert_eq!((v6.ip_version, v6.labels[0].1.as_str()), (Some(6), "fd00-db8---64"));
}

#[test]
fn a_second_time_changes_nothing_and_a_terminating_pool_is_left_alone() {
    let given = spec(r#"{"subnet":"172.18.40.0/24","ips":["172.18.40.41","172.18.40.40"]}"#);
    let again = PoolSpec { ip_version: Some(4), ips: vec!["172.18.40.40-172.18.40.41".into()], ..given.clone() };
    let labels = Labels::from([("ipam.spidernet.io/ippool-cidr".into(), "172-18-40-0-24".into())]);
    assert!(mutate_pool(&again, &labels, &[FINALIZER.into()], false, None).is_empty());
    assert!(mutate_pool(&given, &Labels::new(), &[], true, None).is_empty());
}

#[test]
fn a_single_element_keeps_its_spelling() {
    for json in [
        r#"{"subnet":"10.0.0.0/24","ips":["10.0.0.1-10.0.0.1"],"excludeIPs":["10.0.0.2-10.0.0.2"]}"#,
        r#"{"subnet":"172.18.40.0/24","excludeIPs":["172.18.40.40 "]}"#,
    ] {
        let mutation = mutate_pool(&spec(json), &Labels::new(), &[], false, None);
        assert_eq!((mutation.ips, mutation.exclude_ips), (None, None), "{json}");
    }
}

#[test]
fn what_cannot_be_done_is_told_and_the_rest_is_done() {
    let broken =
        spec(r#"{"subnet":"172.18.40.0/24","ips":["172.18.40.41","x"],"excludeIPs":["172.18.40.2","172.18.40.1"]}"#);
    let mutation = mutate_pool(&broken, &Labels::new(), &[], false, None);
    assert_eq!((mutation.ip_version, mutation.ips), (Some(4), None));
    assert_eq!(mutation.exclude_ips, Some(vec!["172.18.40.1-172.18.40.2".into()]));
    assert_eq!(mutation.warnings[0].field, "spec.ips");
    let mutation = mutate_pool(&spec(r#"{"subnet":"x"}"#), &Labels::new(), &[], false, None);
    assert_eq!((mutation.ip_version, mutation.add_finalizer, mutation.warnings[0].field), (None, true, "spec.subnet"));
}

#[test]
fn pools_of_a_subnet_inherit_what_they_do_not_say() {
    let addresses: SpanSet = ipam::range::parse_ranges(&["10.0.0.10-10.0.0.20"], ipam::Family::V4).unwrap();
    let owner = OwnerSubnet {
        name: "s".into(),
        addresses,
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
    assert!(mutation.labels.contains(&("ipam.spidernet.io/owner-spider-subnet", "s".to_owned())));
    let blocked = PoolSpec { routes: Some(vec![]), gateway: Some("10.0.0.3".into()), ..given };
    let mutation = mutate_pool(&blocked, &Labels::new(), &[], false, Some(&owner));
    assert_eq!((mutation.gateway, mutation.routes), (None, None), "an explicit empty list blocks inheritance");
}
