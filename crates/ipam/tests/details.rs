//! What endpoint and plugin are told.

#![allow(clippy::unwrap_used)] // helpers of tests

use ipam::detail::{Allocation, NicDetail, details, response};
use ipam::{Pool, Route, SpanSet};

fn pool(name: &str, subnet: &str, gateway: Option<&str>) -> Pool {
    Pool {
        gateway: gateway.map(|text| text.parse().unwrap()),
        ..Pool::new(name, subnet.parse().unwrap(), SpanSet::new())
    }
}

fn allocation(nic: &str, address: &str, pool: &Pool, clean: bool) -> Allocation {
    Allocation::new(nic, address.parse().unwrap(), pool, Some(clean))
}

#[test]
fn families_are_merged_per_nic_and_eth0_comes_first() {
    let v4 = Pool {
        routes: vec![Route::new("10.99.0.0/16", "10.20.0.2")],
        ..pool("rack1-v4", "10.20.0.0/22", Some("10.20.0.1"))
    };
    let v6 = pool("rack1-v6", "fd00:20::/64", Some("fd00:20::1"));
    let other = pool("other", "192.168.0.0/24", None);
    let custom = [
        Route::new("10.50.0.0/16", "192.168.0.9"),
        Route::new("10.60.0.0/16", "1.1.1.1"),
        Route::new("fd99::/64", "fd00:20::9"),
    ];
    let allocations = [
        allocation("data", "192.168.0.7", &other, true),
        allocation("eth0", "fd00:20::11", &v6, false),
        allocation("eth0", "10.20.1.11", &v4, false),
    ];
    let (nics, leftover) = details(&allocations, &custom);
    assert_eq!(leftover, [custom[1].clone()]);
    let json = serde_json::to_value(&nics).unwrap();
    let expected = serde_json::json!([
        {"interface": "eth0", "ipv4": "10.20.1.11/22", "ipv4Pool": "rack1-v4", "ipv4Gateway": "10.20.0.1", "ipv6": "fd00:20::11/64", "ipv6Pool": "rack1-v6",
         "ipv6Gateway": "fd00:20::1", "vlan": 0, "cleanGateway": false, "routes": [{"dst": "10.99.0.0/16", "gw": "10.20.0.2"}, {"dst": "fd99::/64", "gw": "fd00:20::9"}]},
        {"interface": "data", "ipv4": "192.168.0.7/24", "ipv4Pool": "other", "vlan": 0, "cleanGateway": true, "routes": [{"dst": "10.50.0.0/16", "gw": "192.168.0.9"}]},
    ]);
    assert_eq!(json, expected);
    let again: Vec<NicDetail> = serde_json::from_value(json).unwrap();
    assert_eq!(again, nics);
    let answer = response(&nics);
    let routes: Vec<String> =
        answer.routes.iter().map(|one| format!("{} {} {}", one.nic, one.route.dst, one.route.gw)).collect();
    assert_eq!(
        routes,
        [
            "eth0 10.99.0.0/16 10.20.0.2",
            "eth0 fd99::/64 fd00:20::9",
            "eth0 0.0.0.0/0 10.20.0.1",
            "eth0 ::/0 fd00:20::1",
            "data 10.50.0.0/16 192.168.0.9"
        ]
    );
    let ips: Vec<String> = answer
        .ips
        .iter()
        .map(|ip| format!("{} {} {} {:?} {}", ip.nic, ip.family, ip.address, ip.gateway, ip.pool))
        .collect();
    assert_eq!(
        ips,
        [
            "eth0 IPv4 10.20.1.11/22 Some(\"10.20.0.1\") rack1-v4",
            "eth0 IPv6 fd00:20::11/64 Some(\"fd00:20::1\") rack1-v6",
            "data IPv4 192.168.0.7/24 None other"
        ]
    );
}

#[test]
fn clean_gateway_leaves_out_the_default_route_but_not_the_gateway() {
    let v6 = pool("p", "fd00::/64", Some("fd00::1"));
    let (nics, _) = details(&[allocation("eth0", "fd00::5", &v6, true)], &[]);
    let answer = response(&nics);
    assert!(answer.routes.is_empty());
    assert_eq!(answer.ips[0].gateway.as_deref(), Some("fd00::1"));
}

#[test]
fn entries_without_clean_gateway_have_default_routes() {
    let stored: NicDetail =
        serde_json::from_str(r#"{"interface":"eth0","ipv4":"10.0.0.5/24","ipv4Gateway":"10.0.0.1"}"#).unwrap();
    assert_eq!(response(&[stored]).routes.len(), 1);
}
