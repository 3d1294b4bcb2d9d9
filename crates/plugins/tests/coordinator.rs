//! The coordinator as a process in real namespaces. Needs root; `cargo xtask test netns`.

#![allow(clippy::unwrap_used)] // helpers of tests

#[path = "coordinator/world.rs"]
mod world;

use serde_json::{Value, json};
use world::{CONFIG, Pod, World};

const DUAL: [&str; 2] = ["10.6.2.1/16", "fd00:10:6::2:1/64"];
const NET1: [&str; 2] = ["172.200.0.5/16", "fd00:200::5/64"];

fn nothing() -> Value {
    json!({})
}

/// The routes of a table as short lines.
fn routes(world: &World, name: &str, family: &str, table: &str) -> Vec<String> {
    let mut lines: Vec<String> = world
        .ip(name, &format!("{family} route show table {table}"))
        .iter()
        .map(|route| {
            let word =
                |key: &str, name: &str| route[key].as_str().map(|value| format!(" {name} {value}")).unwrap_or_default();
            let line = format!(
                "{}{}{}{}",
                route["dst"].as_str().unwrap(),
                word("gateway", "via"),
                word("dev", "dev"),
                word("prefsrc", "src")
            );
            line
        })
        .filter(|line| !line.starts_with("fe80::"))
        .collect();
    lines.sort();
    lines
}

fn rules(world: &World, name: &str, family: &str) -> Vec<String> {
    let text = world.run(name, &format!("ip {family} rule"));
    let own = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    own.filter(|line| !["0:", "32766:", "32767:"].iter().any(|system| line.starts_with(system))).collect()
}

fn neighbours(world: &World, name: &str) -> Vec<String> {
    let all = world.ip(name, "neigh show nud permanent");
    all.iter()
        .map(|entry| {
            format!(
                "{} dev {} {}",
                entry["dst"].as_str().unwrap(),
                entry["dev"].as_str().unwrap(),
                entry["lladdr"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
#[ignore = "netns"]
fn a_pod_reaches_its_node_and_is_reached_in_both_families() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL);
    assert!(
        world.attempt("p1", "ping -n -c1 -W1 10.6.1.1").is_err(),
        "a macvlan reaches its parent without coordinator: the test shows nothing"
    );
    world.add(&pod, "eth0", &nothing());
    let pairs = [
        ("p1", "10.6.1.1"),
        ("p1", "fd00:10:6::1:1"),
        ("p1", "172.200.1.1"), // own node
        ("n1", "10.6.2.1"),
        ("n1", "fd00:10:6::2:1"), // probe
        ("p1", "10.6.1.2"),
        ("p1", "fd00:10:6::1:2"),
        ("n2", "10.6.2.1"),
        ("n2", "fd00:10:6::2:1"), // other node
        ("ext", "10.6.2.1"),
        ("p1", "192.168.9.2"),
        ("ext", "fd00:10:6::2:1"),
    ];
    for (from, to) in pairs {
        assert!(world.pings(from, to), "{from} does not reach {to}");
    }
    world.serve("n1", "10.6.1.1:80");
    assert_eq!(world.ask("p1", "10.6.1.1:80").unwrap().to_string(), "10.6.2.1");
}

#[test]
#[ignore = "netns"]
fn one_nic_leaves_the_tables_of_the_specification() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL[..1]);
    world.add(&pod, "eth0", &nothing());
    let veth = World::veth(&pod);
    let expected = [
        "10.233.0.0/18 via 10.6.1.1 dev veth0 src 10.6.2.1",
        "10.233.64.0/18 via 10.6.1.1 dev veth0 src 10.6.2.1",
        "10.6.0.0/16 dev eth0 src 10.6.2.1",
        "10.6.1.1 dev veth0 src 10.6.2.1",
        "169.254.0.0/16 via 10.6.1.1 dev veth0 src 10.6.2.1",
        "172.200.1.1 dev veth0 src 10.6.2.1",
        "default via 10.6.0.1 dev eth0",
    ];
    assert_eq!(routes(&world, "p1", "-4", "main"), expected);
    assert_eq!(routes(&world, "p1", "-4", "100"), ["default via 10.6.1.1 dev veth0 src 10.6.2.1"]);
    assert_eq!(
        routes(&world, "p1", "-4", "101"),
        ["10.6.1.1 dev veth0 src 10.6.2.1", "172.200.1.1 dev veth0 src 10.6.2.1"]
    );
    assert_eq!(rules(&world, "p1", "-4"), ["1000: from all fwmark 0x1/0x1 lookup 100"]);
    assert_eq!(rules(&world, "n1", "-4"), ["1000: from all lookup 500"]);
    assert_eq!(routes(&world, "n1", "-4", "500"), [format!("10.6.2.1 dev {veth} src 10.6.1.1")]);
    assert!(neighbours(&world, "n1")[0].starts_with(&format!("10.6.2.1 dev {veth} ")));
    let ruleset = world.run("p1", "nft list ruleset");
    for rule in [
        "iifname \"veth0\" ct state new ct mark set ct mark | 0x00000001",
        "ct direction reply ct mark & 0x00000001 == 0x00000001 meta mark set meta mark | 0x00000001",
        "type route hook output priority mangle",
    ] {
        assert!(ruleset.contains(rule), "{rule}\nis not in\n{ruleset}");
    }
}

#[test]
#[ignore = "netns"]
fn a_node_port_keeps_the_client_and_needs_the_marks() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL);
    world.add(&pod, "eth0", &nothing());
    world.serve("p1", "[::]:80");
    world.node_port(30080, "10.6.2.1:80");
    world.node_port(30086, "[fd00:10:6::2:1]:80");
    assert_eq!(world.ask("ext", "10.6.1.1:30080").unwrap().to_string(), "::ffff:192.168.9.2");
    assert_eq!(world.ask("ext", "[fd00:10:6::1:1]:30086").unwrap().to_string(), "fd00:9::2");

    world.run("p1", "nft delete table inet spiderpool");
    assert!(world.ask("ext", "10.6.1.1:30080").is_err(), "the marks are deleted, but the reply finds back");
    assert!(world.ask("ext", "[fd00:10:6::1:1]:30086").is_err(), "the marks are deleted, but the reply finds back");

    let missing = world.call("CHECK", &pod, "eth0", Some(CONFIG), &nothing()).unwrap_err();
    assert!(missing["msg"].as_str().unwrap().contains("install reply marks for veth0"), "{missing}");
    world.add(&pod, "eth0", &nothing());
    assert_eq!(world.ask("ext", "10.6.1.1:30080").unwrap().to_string(), "::ffff:192.168.9.2");
}

#[test]
#[ignore = "netns"]
fn with_two_nics_replies_leave_by_the_nic_of_the_request() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL);
    world.add(&pod, "eth0", &nothing());
    world.attach_net1("p1", &NET1);
    world.add(&pod, "net1", &nothing());
    assert_eq!(
        rules(&world, "p1", "-4"),
        ["1000: from all fwmark 0x1/0x1 lookup 100", "1001: from 172.200.0.5 lookup 101"]
    );
    assert!(routes(&world, "p1", "-4", "101").contains(&"default via 172.200.0.1 dev net1".to_owned()));
    assert!(routes(&world, "p1", "-4", "main").contains(&"172.200.0.0/16 dev net1 src 172.200.0.5".to_owned()));
    for family in ["-4", "-6"] {
        let defaults: Vec<String> =
            routes(&world, "p1", family, "main").into_iter().filter(|line| line.starts_with("default")).collect();
        assert_eq!(defaults.len(), 1, "{defaults:?}");
        assert!(defaults[0].ends_with("dev eth0"), "{defaults:?}");
    }
    for (from, to) in [
        ("n1", "172.200.0.5"),
        ("n1", "fd00:200::5"),
        ("n2", "172.200.0.5"),
        ("ext", "172.200.0.5"),
        ("ext", "fd00:200::5"),
        ("ext", "10.6.2.1"),
    ] {
        assert!(world.pings(from, to), "{from} does not reach {to}");
    }
    world.serve("p1", "[::]:80");
    world.node_port(30080, "172.200.0.5:80");
    world.node_port(30086, "[fd00:200::5]:80");
    assert_eq!(world.ask("ext", "10.6.1.1:30080").unwrap().to_string(), "::ffff:192.168.9.2");
    assert_eq!(world.ask("ext", "[fd00:10:6::1:1]:30086").unwrap().to_string(), "fd00:9::2");
    for nic in ["eth0", "net1"] {
        world.check(&pod, nic, &nothing());
    }
}

#[test]
#[ignore = "netns"]
fn the_default_route_nic_keeps_node_ports_of_the_first_address() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL);
    let conf = json!({"podDefaultRouteNic": "net1"});
    world.add(&pod, "eth0", &conf);
    world.attach_net1("p1", &NET1);
    world.add(&pod, "net1", &conf);
    assert_eq!(rules(&world, "p1", "-4")[1], "1001: from 10.6.2.1 lookup 101");
    for target in ["8.8.8.8", "2001:db8::1"] {
        let way = &world.ip("p1", &format!("route get {target}"))[0];
        assert_eq!(way["dev"], "net1", "{way}");
    }
    assert!(world.pings("n1", "10.6.2.1") && world.pings("ext", "10.6.2.1") && world.pings("ext", "172.200.0.5"));
    world.serve("p1", "[::]:80");
    world.node_port(30080, "10.6.2.1:80");
    assert_eq!(world.ask("ext", "10.6.1.1:30080").unwrap().to_string(), "::ffff:192.168.9.2");
    for nic in ["eth0", "net1"] {
        world.check(&pod, nic, &conf);
    }
    // The NIC goes; the default route comes back to the first one.
    world.del(&pod, "net1", &nothing());
    world.run("p1", "ip link del net1");
    assert_eq!(world.ip("p1", "route get 8.8.8.8")[0]["dev"], "eth0");
    assert_eq!(world.ip("p1", "route get 2001:db8::1")[0]["dev"], "eth0");
    assert!(world.pings("p1", "192.168.9.2") && world.pings("p1", "10.6.1.1"));
}

#[test]
#[ignore = "netns"]
fn a_family_that_only_the_second_nic_has_stays_reachable() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL[..1]);
    world.add(&pod, "eth0", &nothing());
    world.attach_net1("p1", &NET1);
    world.add(&pod, "net1", &nothing());
    assert_eq!(world.ip("p1", "route get 2001:db8::1")[0]["dev"], "net1");
    assert_eq!(world.ip("p1", "route get 8.8.8.8")[0]["dev"], "eth0");
    for (from, to) in [("p1", "fd00:200::1:1"), ("p1", "fd00:9::2"), ("n1", "fd00:200::5"), ("p1", "192.168.9.2")] {
        assert!(world.pings(from, to), "{from} does not reach {to}");
    }
    world.check(&pod, "net1", &nothing());
}

#[test]
#[ignore = "netns"]
fn removing_a_further_nic_leaves_the_pod_connected() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL);
    world.add(&pod, "eth0", &nothing());
    let before = (world.state("p1"), world.state("n1"));
    world.attach_net1("p1", &NET1);
    world.add(&pod, "net1", &nothing());
    world.del(&pod, "net1", &nothing());
    world.run("p1", "ip link del net1");
    same(&world.state("n1"), &before.1);
    assert!(world.pings("p1", "10.6.1.1") && world.pings("n1", "10.6.2.1"));
    assert_eq!(rules(&world, "p1", "-4"), ["1000: from all fwmark 0x1/0x1 lookup 100"]);
    world.check(&pod, "eth0", &nothing());
}

#[test]
#[ignore = "netns"]
fn del_leaves_nothing_on_the_node() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL);
    let before = (world.state("n1"), world.state("p1"));
    world.add(&pod, "eth0", &nothing());
    world.serve("p1", "[::]:80");
    world.node_port(30080, "10.6.2.1:80");
    world.ask("ext", "10.6.1.1:30080").unwrap();
    assert!(world.run("n1", "conntrack -L").contains("10.6.2.1"), "no connection was tracked: the test shows nothing");
    world.run("n1", "nft delete table ip port30080");

    world.del(&pod, "eth0", &nothing());
    assert!(!world.run("n1", "conntrack -L").contains("10.6.2.1"));
    for family in ["-4", "-6"] {
        // The rule is the node's, for all its pods.
        assert_eq!(rules(&world, "n1", family), ["1000: from all lookup 500"]);
        world.run("n1", &format!("ip {family} rule del pref 1000"));
    }
    same(&world.state("n1"), &before.0);
    same(&world.state("p1"), &before.1);
    world.del(&pod, "eth0", &nothing());
}

#[test]
#[ignore = "netns"]
fn del_works_when_the_namespace_is_gone() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL);
    world.add(&pod, "eth0", &nothing());
    // The namespace is still there, but nobody can name it: what is on the node must go by the container's ID.
    let gone = json!({"netns": "/run/netns/spiderpool-gone"});
    for nic in ["eth0", "eth0"] {
        world.del(&pod, nic, &gone);
    }
    assert!(world.attempt("n1", &format!("ip link show {}", World::veth(&pod))).is_err());
    assert!(routes(&world, "n1", "-4", "500").is_empty() && neighbours(&world, "n1").is_empty());
    world.del(&pod, "net1", &json!({"netns": ""}));
}

#[test]
#[ignore = "netns"]
fn a_late_del_does_not_touch_the_next_owner_of_an_address() {
    let mut world = World::new();
    let old = world.pod("p1", &DUAL[..1]);
    world.add(&old, "eth0", &nothing());
    world.run("p1", "ip link del eth0");
    let new = world.pod("p2", &DUAL[..1]);
    world.add(&new, "eth0", &nothing());
    let expected = [format!("10.6.2.1 dev {} src 10.6.1.1", World::veth(&new))];
    assert_eq!(routes(&world, "n1", "-4", "500"), expected);
    world.serve("p2", "0.0.0.0:80");
    world.ask("n1", "10.6.2.1:80").unwrap();
    assert!(world.run("n1", "conntrack -L 2>&1").contains("flow entries"));
    let previous = json!({"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.6.2.1/16"}]}});
    world.del(&old, "eth0", &previous);
    assert_eq!(routes(&world, "n1", "-4", "500"), expected);
    assert_eq!(neighbours(&world, "n1").len(), 1);
    assert!(world.pings("n1", "10.6.2.1"));
}

#[test]
#[ignore = "netns"]
fn a_failed_add_takes_everything_back() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL);
    let before = (world.state("n1"), world.state("p1"));
    let conf = json!({"podRPFilter": 2, "policyRoutes": [{"dst": "10.9.0.0/16", "gw": "10.99.0.1"}]});
    let error = world.call("ADD", &pod, "eth0", Some(CONFIG), &conf).unwrap_err();
    let text = error["msg"].as_str().unwrap();
    assert!(
        text.contains("10.9.0.0/16 via 10.99.0.1 dev eth0") && text.contains("Nexthop has invalid gateway"),
        "{text}"
    );
    for family in ["-4", "-6"] {
        world.run("n1", &format!("ip {family} rule del pref 1000"));
    }
    same(&world.state("n1"), &before.0);
    same(&world.state("p1"), &before.1);
}

#[test]
#[ignore = "netns"]
fn a_second_run_changes_nothing() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL);
    let conf = json!({"podMACPrefix": "0a:1b", "txQueueLen": 777, "vethMTU": 1400, "vethLinkAddress": "169.254.100.1", "podRPFilter": 2,
        "policyRoutes": [{"dst": "10.9.0.0/16", "gw": "10.6.0.7"}]});
    world.add(&pod, "eth0", &conf);
    let once = (world.state("n1"), world.state("p1"));
    world.add(&pod, "eth0", &conf);
    same(&world.state("n1"), &once.0);
    same(&world.state("p1"), &once.1);
    world.check(&pod, "eth0", &conf);

    let nic = &world.ip("p1", "link show eth0")[0];
    assert_eq!((nic["address"].as_str(), nic["txqlen"].as_u64()), (Some("0a:1b:0a:06:02:01"), Some(777)));
    assert_eq!(world.ip("p1", "link show veth0")[0]["mtu"], 1400);
    assert_eq!(world.ip("n1", &format!("link show {}", World::veth(&pod)))[0]["mtu"], 1400);
    assert!(world.run("p1", "ip -o addr show dev veth0").contains("169.254.100.1/32"));
    assert!(routes(&world, "p1", "-4", "main").contains(&"10.9.0.0/16 via 10.6.0.7 dev eth0".to_owned()));
    for dev in ["all", "default", "veth0", "eth0"] {
        assert_eq!(world.run("p1", &format!("sysctl -n net.ipv4.conf.{dev}.rp_filter")).trim(), "2");
    }

    world.run("p1", "ip route del 10.233.0.0/18");
    let error = world.call("CHECK", &pod, "eth0", Some(CONFIG), &conf).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("add route 10.233.0.0/18 via 10.6.1.1 dev veth0"), "{error}");
}

#[test]
#[ignore = "netns"]
fn an_ipv6_only_pod_works_and_a_family_without_node_is_left_alone() {
    let mut world = World::new();
    let six = world.pod("p1", &DUAL[1..]);
    world.add(&six, "eth0", &json!({"vethLinkAddress": "169.254.100.1"}));
    assert!(world.pings("p1", "fd00:10:6::1:1") && world.pings("n1", "fd00:10:6::2:1"));
    assert!(!world.run("p1", "ip -o addr show dev veth0").contains("169.254"));
    world.serve("p1", "[::]:80");
    world.node_port(30086, "[fd00:10:6::2:1]:80");
    assert_eq!(world.ask("ext", "[fd00:10:6::1:1]:30086").unwrap().to_string(), "fd00:9::2");

    world.run("n1", "ip -6 addr flush scope global");
    let dual = world.pod("p2", &["10.6.2.2/16", "fd00:10:6::2:2/64"]);
    world.add(&dual, "eth0", &nothing());
    assert!(world.pings("p2", "10.6.1.1") && world.pings("n1", "10.6.2.2"));
    assert!(rules(&world, "p2", "-6").is_empty());
}

#[test]
#[ignore = "netns"]
fn a_node_without_ipv6_gets_its_pods_connected() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL[..1]);
    let old = json!({"nodeWithoutIPv6": true});
    world.add(&pod, "eth0", &old);
    assert!(world.pings("p1", "10.6.1.1") && world.pings("n1", "10.6.2.1"));
    world.check(&pod, "eth0", &old);
    world.del(&pod, "eth0", &old);
    assert!(world.attempt("n1", &format!("ip link show {}", World::veth(&pod))).is_err());
}

#[test]
#[ignore = "netns"]
fn what_cannot_work_is_refused_with_its_reason_and_without_traces() {
    let mut world = World::new();
    let pod = world.pod("p1", &DUAL[..1]);
    let before = (world.state("n1"), world.state("p1"));
    let rows: [(&str, Option<&str>, Value, u64, &str); 8] = [
        ("eth0", None, nothing(), 11, "no configuration for pod ns1/web-0: cannot reach the agent at"),
        ("eth0", Some("garbage"), nothing(), 11, "is not understood"),
        (
            "eth0",
            Some(CONFIG),
            json!({"netns": "/run/netns/spiderpool-gone"}),
            3,
            "/run/netns/spiderpool-gone: No such file",
        ),
        ("eth0", Some(CONFIG), json!({"netns": "/etc/hostname"}), 3, "/etc/hostname: is not a network namespace"),
        ("eth0", Some(CONFIG), json!({"mode": "overlay"}), 7, "mode overlay is not supported"),
        ("eth0", Some(CONFIG), json!({"prevResult": null}), 7, "prevResult is missing"),
        ("net1", Some(CONFIG), nothing(), 7, "pod interface net1 does not exist"),
        ("lo", Some(CONFIG), nothing(), 7, "pod interface lo has no usable address"),
    ];
    for (nic, config, extra, code, text) in rows {
        let error = world.call("ADD", &pod, nic, config, &extra).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains(text), "{extra}: {error}");
        assert_eq!(
            (error["code"].as_u64(), error["cniVersion"].as_str()),
            (Some(code), Some("1.1.0")),
            "{extra}: {error}"
        );
    }
    let node = json!({"netns": world.netns_path("n1")});
    let error = world.call("ADD", &pod, "eth0", Some(CONFIG), &node).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("is the node's own network namespace"), "{error}");
    same(&world.state("n1"), &before.0);
    same(&world.state("p1"), &before.1);

    // A second NIC of a pod whose first one had no coordinator.
    world.attach_net1("p1", &NET1[..1]);
    let error = world.call("ADD", &pod, "net1", Some(CONFIG), &nothing()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("eth0 was attached without coordinator"), "{error}");
    world.add(&pod, "eth0", &nothing());
    let error = world.call("ADD", &pod, "net1", Some(CONFIG), &json!({"podDefaultRouteNic": "errNic"})).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("podDefaultRouteNIC: errNic does not exist"), "{error}");
    world.call("ADD", &pod, "net1", Some(CONFIG), &json!({"podDefaultRouteNic": "net2"})).unwrap();
    // The agent tells which NICs the pod will have: a number says nothing then.
    let told = CONFIG.replacen('{', r#"{"podNICs":["eth0","net1","uplink"],"#, 1);
    for command in ["ADD", "CHECK"] {
        let error = world.call(command, &pod, "net1", Some(&told), &json!({"podDefaultRouteNic": "net9"})).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains("podDefaultRouteNIC: net9 does not exist"), "{error}");
        world.call(command, &pod, "net1", Some(&told), &json!({"podDefaultRouteNic": "uplink"})).unwrap();
    }
}

#[test]
#[ignore = "netns"]
fn switched_off_it_passes_the_result_on() {
    let mut world = World::new();
    let pod: Pod = world.pod("p1", &DUAL[..1]);
    let before = world.state("p1");
    for word in ["disable", "disabled"] {
        let result = world.call("ADD", &pod, "eth0", None, &json!({"mode": word})).unwrap();
        assert_eq!(result["interfaces"][0]["name"], "eth0");
    }
    let result = world.call("ADD", &pod, "eth0", Some(&CONFIG.replace("auto", "disabled")), &nothing()).unwrap();
    assert_eq!(result["cniVersion"], "1.1.0");
    same(&world.state("p1"), &before);
}

/// Compares two states line by line.
fn same(now: &[String], then: &[String]) {
    let lines = |state: &[String]| {
        let volatile = |line: &&str| !line.contains("expires") && !line.contains("mode DEFAULT");
        let mut lines: Vec<String> =
            state.iter().flat_map(|part| part.lines()).filter(volatile).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(now), lines(then));
}
