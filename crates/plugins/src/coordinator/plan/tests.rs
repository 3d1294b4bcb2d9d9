use super::*;
use crate::coordinator::config::PolicyRoute;
use crate::coordinator::testing::{CONTAINER, Kernel, request};

const V4: (&[&str], &[&str]) = (&["10.6.2.1/16"], &["10.6.0.1"]);
const DUAL: (&[&str], &[&str]) = (&["10.6.2.1/16", "fd00:10:6::2:1/64"], &["10.6.0.1", "fd00:10:6::fe"]);
const NET1: (&[&str], &[&str]) = (&["172.200.0.5/16", "fd00:200::5/64"], &["172.200.0.1", "fd00:200::fe"]);
const NET2: (&[&str], &[&str]) = (&["10.8.0.5/16"], &["10.8.0.1"]);

fn words(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|step| step.op.to_string()).collect()
}

fn planned(request: &Request, kernel: &Kernel) -> Vec<Step> {
    add(request, &kernel.pod, &kernel.host).unwrap_or_else(|error| panic!("{error}"))
}

/// Plans and carries out.
fn attach(request: &Request, kernel: &mut Kernel) -> Vec<Step> {
    let steps = planned(request, kernel);
    steps.iter().for_each(|step| kernel.carry_out(&step.op));
    steps
}

fn keeping_default(nic: &str, default: &str) -> Request {
    let mut request = request(nic);
    request.settings.default_route_nic = Some(default.to_owned());
    request
}

#[test]
fn the_first_nic_is_connected_to_its_node() {
    let kernel = Kernel::new().nic("eth0", V4.0, V4.1);
    let expected = [
        "add veth veth0123456789a with veth0 in the pod",
        "node: set net/ipv6/conf/veth0123456789a/accept_ra to 0",
        "node: set interface veth0123456789a LinkChange { up: Some(true), mac: None, mtu: None, tx_queue_len: None }",
        "pod: set interface veth0 LinkChange { up: Some(true), mac: None, mtu: None, tx_queue_len: None }",
        "pod: set net/ipv4/conf/veth0/rp_filter to 0",
        "pod: set neighbour 10.6.1.1 dev veth0 to 02:00:00:00:00:01",
        "pod: add route 10.6.1.1/32 dev veth0 src 10.6.2.1 table 254",
        "pod: add route 10.6.1.1/32 dev veth0 src 10.6.2.1 table 101",
        "pod: set neighbour 172.200.1.1 dev veth0 to 02:00:00:00:00:01",
        "pod: add route 172.200.1.1/32 dev veth0 src 10.6.2.1 table 254",
        "pod: add route 172.200.1.1/32 dev veth0 src 10.6.2.1 table 101",
        "pod: add route 10.233.0.0/18 via 10.6.1.1 dev veth0 src 10.6.2.1 table 254",
        "pod: add route 0.0.0.0/0 via 10.6.1.1 dev veth0 src 10.6.2.1 table 100",
        "pod: add rule 1000: from all fwmark 0x1/0x1 lookup 100 (IPv4)",
        "node: add rule 1000: from all lookup 500 (IPv4)",
        "node: set neighbour 10.6.2.1 dev veth0123456789a to 02:00:00:00:00:02",
        "node: add route 10.6.2.1/32 dev veth0123456789a src 10.6.1.1 table 500",
        "pod: install reply marks for veth0",
    ];
    assert_eq!(words(&planned(&request("eth0"), &kernel)), expected);
}

#[test]
fn a_further_nic_gets_a_table_and_a_rule_behind_the_marks() {
    let mut kernel = Kernel::new().nic("eth0", V4.0, V4.1);
    attach(&request("eth0"), &mut kernel);
    kernel = kernel.nic("net1", &NET1.0[..1], &NET1.1[..1]);
    let expected = [
        "pod: add route 10.233.0.0/18 via 10.6.1.1 dev veth0 src 10.6.2.1 table 101",
        "node: set neighbour 172.200.0.5 dev veth0123456789a to 02:00:00:00:00:02",
        "node: add route 172.200.0.5/32 dev veth0123456789a src 10.6.1.1 table 500",
        "pod: add rule 1001: from 172.200.0.5/32 lookup 101 (IPv4)",
        "pod: add route 172.200.0.0/16 dev net1 src 172.200.0.5 table 101",
        "pod: add route 0.0.0.0/0 via 172.200.0.1 dev net1 table 101",
        "pod: delete route 0.0.0.0/0 via 172.200.0.1 dev net1 table 254",
    ];
    let words = words(&planned(&request("net1"), &kernel));
    assert_eq!(words, expected);
}

#[test]
fn the_nic_that_keeps_the_default_route_displaces_the_holder() {
    let mut kernel = Kernel::new().nic("eth0", DUAL.0, DUAL.1);
    attach(&keeping_default("eth0", "net1"), &mut kernel);
    kernel = kernel.nic("net1", NET1.0, NET1.1);
    let steps = words(&planned(&keeping_default("net1", "net1"), &kernel));
    for expected in [
        "pod: add rule 1001: from 10.6.2.1/32 lookup 101 (IPv4)",
        "pod: add route 10.6.0.0/16 dev eth0 src 10.6.2.1 table 101",
        "pod: add route 0.0.0.0/0 via 10.6.0.1 dev eth0 table 101",
        "pod: delete route 0.0.0.0/0 via 10.6.0.1 dev eth0 table 254",
        "pod: add rule 1001: from fd00:10:6::2:1/128 lookup 101 (IPv6)",
        "pod: delete route ::/0 via fd00:10:6::fe dev eth0 table 254",
    ] {
        assert!(steps.iter().any(|step| step == expected), "{expected} is not in {steps:#?}");
    }
    assert!(!steps.iter().any(|step| step.contains("from 172.200.0.5")), "{steps:#?}");
}

#[test]
fn the_default_route_is_decided_per_family() {
    let mut kernel = Kernel::new().nic("eth0", V4.0, V4.1);
    attach(&request("eth0"), &mut kernel);
    kernel = kernel.nic("net1", NET1.0, NET1.1);
    attach(&request("net1"), &mut kernel);
    let main = |family: Family| {
        let defaults = kernel
            .pod
            .routes
            .iter()
            .filter(|route| route.table == MAIN && route.is_default() && route.family() == family);
        defaults.map(|route| route.dev.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((main(Family::V4), main(Family::V6)), (vec!["eth0"], vec!["net1"]));
    assert!(
        kernel.pod.rules.iter().any(|rule| rule.family == Family::V6 && rule.table == NODE_TABLE),
        "no way back for IPv6"
    );
}

#[test]
fn tables_follow_the_order_of_attachment_and_stay() {
    let mut kernel = Kernel::new().nic("eth0", V4.0, V4.1);
    attach(&request("eth0"), &mut kernel);
    kernel = kernel.nic("net1", &NET1.0[..1], &NET1.1[..1]);
    attach(&request("net1"), &mut kernel);
    kernel = kernel.nic("net2", NET2.0, NET2.1);
    attach(&request("net2"), &mut kernel);
    let tables: Vec<(u32, u32)> =
        kernel.pod.rules.iter().filter(|rule| rule.from.is_some()).map(|rule| (rule.priority, rule.table)).collect();
    assert_eq!(tables, [(1001, 101), (1002, 102)]);
    for nic in ["eth0", "net1", "net2"] {
        assert_eq!(words(&planned(&request(nic), &kernel)), Vec::<String>::new(), "{nic}");
    }
}

#[test]
fn a_second_run_plans_nothing_and_undoing_restores_everything() {
    let mut conf = request("eth0");
    conf.settings.veth_address = Some("169.254.100.1".parse().unwrap());
    conf.settings.mac_prefix = Some([0x0a, 0x1b]);
    conf.settings.tx_queue_len = Some(1000);
    conf.settings.rp_filter = Some(2);
    conf.settings.policy_routes =
        vec![PolicyRoute { destination: "10.9.0.0/16".parse().unwrap(), gateway: "10.6.0.9".parse().unwrap() }];
    for (default, pods) in [(None, DUAL), (Some("net1"), DUAL), (Some("net1"), V4), (None, V4)] {
        let mut kernel = Kernel::new().nic("eth0", pods.0, pods.1);
        kernel.pod.links[0].mac = Some(Mac([2, 0, 0, 0, 0, 9]));
        for (nic, net) in [("eth0", None), ("net1", Some(NET1)), ("net2", Some(NET2))] {
            if let Some((nets, gateways)) = net {
                kernel = kernel.nic(nic, nets, gateways);
                kernel.pod.links.iter_mut().for_each(|link| link.mac = link.mac.or(Some(Mac([2, 0, 0, 0, 0, 8]))));
            }
            let mut request = Request { nic: nic.to_owned(), ..conf.clone() };
            request.settings.default_route_nic = default.map(str::to_owned);
            let before = kernel.clone();
            let steps = attach(&request, &mut kernel);
            assert_eq!(
                words(&planned(&request, &kernel)),
                Vec::<String>::new(),
                "{nic}, default by {default:?}: second run"
            );

            let mut undone = kernel.clone();
            steps.iter().rev().filter_map(|step| step.undo.as_ref()).for_each(|op| undone.carry_out(op));
            // The node's rule is shared by all its pods and stays.
            undone.host.rules = before.host.rules.clone();
            assert_eq!(undone.words(), before.words(), "{nic}, default by {default:?}: undone");
        }
    }
}

#[test]
fn older_owners_of_an_address_are_forgotten() {
    let mut kernel = Kernel::new().nic("eth0", V4.0, V4.1);
    let address: IpAddr = "10.6.2.1".parse().unwrap();
    kernel.host.routes.push(Route::new(host_net(address), "vethfedcba98765", 500));
    for dev in ["vethfedcba98765", "eth0"] {
        let entry =
            crate::coordinator::view::Neighbour { dev: dev.to_owned(), address, mac: None, permanent: dev != "eth0" };
        kernel.host.neighbours.push(entry);
    }
    let steps = words(&planned(&request("eth0"), &kernel));
    let at = |text: &str| {
        steps.iter().position(|step| step == text).unwrap_or_else(|| panic!("{text} is not in {steps:#?}"))
    };
    let added = at("node: add route 10.6.2.1/32 dev veth0123456789a src 10.6.1.1 table 500");
    assert!(at("node: delete route 10.6.2.1/32 dev vethfedcba98765 table 500") < added);
    at("node: delete neighbour 10.6.2.1 dev vethfedcba98765");
    at("node: delete neighbour 10.6.2.1 dev eth0");
}

#[test]
fn a_route_of_somebody_else_in_main_stays() {
    let mut kernel = Kernel::new().nic("eth0", V4.0, V4.1);
    kernel.pod.routes.push(Route::new("10.233.0.0/18".parse().unwrap(), "eth0", MAIN).via("10.6.0.7".parse().unwrap()));
    let steps = words(&planned(&request("eth0"), &kernel));
    assert!(!steps.iter().any(|step| step.contains("10.233.0.0/18")), "{steps:#?}");
}

#[test]
fn a_pod_that_cannot_be_coordinated_is_refused() {
    let plain = || Kernel::new().nic("eth0", V4.0, V4.1);
    let with = |change: &dyn Fn(&mut Request, &mut Kernel)| {
        let (mut request, mut kernel) = (request("eth0"), plain());
        change(&mut request, &mut kernel);
        add(&request, &kernel.pod, &kernel.host).unwrap_err()
    };
    let veth = host_veth(CONTAINER);
    let link =
        |index, name: &str, partner| Link { index, name: name.to_owned(), partner: Some(partner), ..Link::default() };
    assert_eq!(with(&|request, _| request.nic = "net9".to_owned()), PlanError::NoNic("net9".to_owned()));
    assert_eq!(with(&|_, kernel| kernel.pod.addresses.clear()), PlanError::NoAddress("eth0".to_owned()));
    assert_eq!(with(&|request, _| request.settings.mode = Mode::Overlay), PlanError::Overlay("eth0".to_owned()));
    assert_eq!(
        with(&|request, _| request.settings.first_nic = "net1".to_owned()),
        PlanError::NoVeth { nic: "eth0".to_owned(), first: "net1".to_owned() }
    );
    assert_eq!(with(&|_, kernel| kernel.host.links.push(link(7, &veth, 3))), PlanError::HostVethTaken(veth.clone()));
    assert_eq!(with(&|_, kernel| kernel.pod.links.push(link(3, POD_VETH, 7))), PlanError::ForeignVeth(veth.clone()));
    let strangers = |_: &mut Request, kernel: &mut Kernel| {
        kernel.pod.links.push(link(3, POD_VETH, 8));
        kernel.host.links.push(link(7, &veth, 3));
    };
    assert_eq!(with(&strangers), PlanError::ForeignVeth(veth.clone()));
    let ipvlan = |request: &mut Request, kernel: &mut Kernel| {
        request.settings.mac_prefix = Some([2, 2]);
        kernel.pod.links[0].kind = Some("ipvlan".to_owned());
    };
    assert_eq!(with(&ipvlan), PlanError::SharedMac("eth0".to_owned()));
}

#[test]
fn the_default_route_nic_must_exist_or_be_still_to_come() {
    let mut kernel = Kernel::new().nic("eth0", V4.0, V4.1);
    attach(&request("eth0"), &mut kernel);
    kernel = kernel.nic("net1", &NET1.0[..1], &NET1.1[..1]);
    let error = add(&keeping_default("net1", "errNic"), &kernel.pod, &kernel.host).unwrap_err();
    assert_eq!(error.to_string(), "podDefaultRouteNIC: errNic does not exist in the pod, which has eth0, veth0, net1");
    let steps = words(&attach(&keeping_default("net1", "net2"), &mut kernel));
    assert!(steps.contains(&"pod: add rule 1001: from 172.200.0.5/32 lookup 101 (IPv4)".to_owned()), "{steps:#?}");
    kernel = kernel.nic("net2", NET2.0, NET2.1);
    let steps = words(&attach(&keeping_default("net2", "net2"), &mut kernel));
    assert!(steps.contains(&"pod: add rule 1002: from 10.6.2.1/32 lookup 102 (IPv4)".to_owned()), "{steps:#?}");
}

#[test]
fn the_default_route_nic_is_still_to_come_only_if_the_pod_will_have_it() {
    let with = |nic: &str, default: &str, nics: &[&str]| {
        let mut request = keeping_default(nic, default);
        request.settings.nics = Some(nics.iter().map(|nic| (*nic).to_owned()).collect());
        request
    };
    let mut kernel = Kernel::new().nic("eth0", V4.0, V4.1);
    attach(&with("eth0", "net9", &["eth0", "net1"]), &mut kernel); // one NIC has nothing to choose from
    let mut kernel = kernel.nic("net1", &NET1.0[..1], &NET1.1[..1]);
    for nics in [&["eth0", "net1"][..], &["net9", "eth0", "net1"]] {
        let error = add(&with("net1", "net9", nics), &kernel.pod, &kernel.host).unwrap_err();
        assert_eq!(
            error.to_string(),
            "podDefaultRouteNIC: net9 does not exist in the pod, which has eth0, veth0, net1"
        );
    }
    let named = ["eth0", "net1", "uplink"];
    let steps = words(&attach(&with("net1", "uplink", &named), &mut kernel));
    assert!(steps.contains(&"pod: add rule 1001: from 172.200.0.5/32 lookup 101 (IPv4)".to_owned()), "{steps:#?}");
    let mut kernel = kernel.nic("uplink", NET2.0, NET2.1);
    let steps = words(&attach(&with("uplink", "uplink", &named), &mut kernel));
    assert!(steps.contains(&"pod: add rule 1002: from 10.6.2.1/32 lookup 102 (IPv4)".to_owned()), "{steps:#?}");
    // CHECK, once all are there.
    assert_eq!(words(&planned(&with("net1", "uplink", &named), &kernel)), Vec::<String>::new());
}

#[test]
fn a_family_that_the_node_lacks_is_left_alone() {
    let mut kernel = Kernel::new().nic("eth0", DUAL.0, DUAL.1);
    kernel.host.addresses.retain(|address| address.net.addr().is_ipv4());
    let steps = words(&planned(&request("eth0"), &kernel));
    assert!(!steps.iter().any(|step| step.contains("fd00:") || step.contains("(IPv6)")), "{steps:#?}");
    assert!(steps.iter().any(|step| step.contains("10.6.2.1/32 dev veth0123456789a")));
}
