//! The cloud on a real kernel: TAP devices, namespaces, ping and curl as judges.

#![allow(clippy::unwrap_used)] // a test's own helpers may fail by panic

mod world;

use lab::balancer::model::{Listener, Mode, Protocol, Service, View};
use lab::control::Client;
use lab::gateway::{CLIENT, NAT_ADDRESS, OUTSIDE, outside_server};
use lab::vpc::api::{FlowView, Registration};
use lab::vpc::counters::Reason;
use lab::vpc::fabric::NicView;
use lab::vpc::reference::{BALANCER_INSIDE, METADATA};
use std::process::Command;
use world::{Cloud, LAB, eventually, says};

#[test]
#[ignore = "netns"]
fn machines_reach_each_other_across_subnets_without_a_lost_frame() {
    let cloud = Cloud::start();
    assert!(cloud.reaches("worker", Some("eth1"), "192.168.0.154"), "between the second NICs");
    // Now master has one subnet only, and worker's second NIC answers by its own gateway.
    let (master, worker) = (cloud.netns("master"), cloud.netns("worker"));
    master.ip("addr flush dev eth1 scope global").unwrap();
    for (family, own, gateway) in
        [("-4", "192.168.0.155", "192.168.0.253"), ("-6", "fd00:192:168::155", "fd00:192:168::fd")]
    {
        worker.ip(&format!("{family} rule add from {own} lookup 101")).unwrap();
        worker.ip(&format!("{family} route add default via {gateway} dev eth1 table 101")).unwrap();
    }
    for to in ["172.31.199.184", "192.168.0.155", "fd00:172:31::184", "fd00:192:168::155"] {
        assert!(cloud.reaches("master", None, to), "master to {to}");
    }
    let report = cloud.counters();
    assert_eq!((report.unicast_drops, report.question_drops), (0, 0), "{report:#?}");
    assert_eq!(report.delivered, 10, "five requests, five replies: {report:#?}");
    assert_eq!(report.ports["worker/eth1"].received, 3, "{report:#?}");
    for gateway in ["172.31.207.253", "fd00:172:31::fd"] {
        assert!(cloud.reaches("master", None, gateway), "{gateway}");
    }
}

#[test]
#[ignore = "netns"]
fn a_macvlan_child_fails_by_its_mac() {
    let cloud = Cloud::start();
    let (master, pod) = (cloud.netns("master"), cloud.pod("pod"));
    master.ip(&format!("link add link eth0 name net1 netns {} type macvlan mode bridge", pod.name())).unwrap();
    pod.ip("link set net1 up").unwrap();
    pod.ip("addr add 172.31.199.185/20 dev net1").unwrap();
    let before = cloud.dropped(Reason::UnknownSourceMac);
    assert!(!cloud.ping("pod", None, "172.31.199.184"), "a foreign MAC must not pass");
    assert!(cloud.dropped(Reason::UnknownSourceMac) > before, "{:#?}", cloud.counters());
    // The same address behind the NIC's own MAC.
    pod.ip("link del net1").unwrap();
    master.ip("addr add 172.31.199.185/32 dev eth0").unwrap();
    assert!(cloud.reaches("master", Some("172.31.199.185"), "172.31.199.184"));
}

#[test]
#[ignore = "netns"]
fn an_address_passes_only_while_it_is_registered() {
    let cloud = Cloud::start();
    cloud.netns("worker").ip("addr add 172.31.200.7/32 dev eth0").unwrap();
    let before = cloud.dropped(Reason::UnknownSourceAddress);
    assert!(!cloud.ping("worker", Some("172.31.200.7"), "172.31.199.183"));
    assert!(cloud.dropped(Reason::UnknownSourceAddress) > before, "{:#?}", cloud.counters());
    let burst = Registration { addresses: vec!["172.31.200.1-172.31.200.32".parse().unwrap()] };
    let nic: NicView = cloud.vpc().post("/nics/eni-bp1spiderlab0worker0/addresses", &burst).unwrap();
    assert!(nic.addresses.contains(&burst.addresses[0]));
    assert!(cloud.reaches("worker", Some("172.31.200.7"), "172.31.199.183"));
    let _: NicView = cloud.vpc().delete("/nics/eni-bp1spiderlab0worker0/addresses/172.31.200.1-172.31.200.32").unwrap();
    assert!(!cloud.ping("worker", Some("172.31.200.7"), "172.31.199.183"));
    let error = cloud.vpc().post::<NicView>("/nics/eni-x/addresses", &burst).unwrap_err().to_string();
    assert!(error.contains("status 404") && error.contains("NIC eni-x: no such NIC"), "{error}");
}

#[test]
#[ignore = "netns"]
fn a_frame_does_not_come_back_by_the_port_it_came_from() {
    let cloud = Cloud::start();
    // Registered for this very NIC, but the machine does not have it. Asked for directly the router would not answer.
    cloud.netns("master").ip("route add 172.31.199.186 via 172.31.207.253 dev eth0").unwrap();
    let before = cloud.dropped(Reason::Hairpin);
    assert!(!cloud.ping("master", None, "172.31.199.186"), "it would come back to eth0");
    assert!(cloud.dropped(Reason::Hairpin) > before, "{:#?}", cloud.counters());
}

#[test]
#[ignore = "netns"]
fn an_interface_that_goes_down_comes_back() {
    let cloud = Cloud::start();
    cloud.netns("worker").ip("link set eth0 down").unwrap();
    let before = cloud.dropped(Reason::PortDown);
    assert!(!cloud.ping("master", None, "172.31.199.184"));
    assert!(cloud.dropped(Reason::PortDown) > before, "{:#?}", cloud.counters());
    cloud.netns("worker").ip("link set eth0 up").unwrap();
    assert!(cloud.reaches("master", None, "172.31.199.184"));
}

#[test]
#[ignore = "netns"]
fn an_interface_that_is_deleted_leaves_the_others_alone() {
    let cloud = Cloud::start();
    cloud.netns("worker").ip("link del eth0").unwrap();
    eventually("the port is lost", || {
        cloud.ping("master", None, "172.31.199.184");
        cloud.dropped(Reason::PortDown) > 0
    });
    assert!(cloud.reaches("master", None, "172.31.207.253"));
}

#[test]
#[ignore = "netns"]
fn a_large_transfer_arrives_whole_and_with_right_checksums() {
    let mut cloud = Cloud::start();
    let data: Vec<u8> =
        (0..20_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).take(20_000_000).collect();
    std::fs::write(cloud.dir.path().join("data"), &data).unwrap();
    let mut server = cloud.netns("worker").command("python3");
    server.args(["-m", "http.server", "8000", "--bind", "::"]).current_dir(cloud.dir.path());
    cloud.spawn(server);
    let copy = cloud.dir.path().join("copy");
    for host in ["172.31.199.184", "192.168.0.155", "[fd00:172:31::184]"] {
        let url = format!("http://{host}:8000/data");
        eventually("the server listens", || cloud.curl("master", &["-I", &url]).is_ok());
        cloud.curl("master", &["--max-time", "60", "-o", copy.to_str().unwrap(), &url]).unwrap();
        assert!(std::fs::read(&copy).unwrap() == data, "{host}: not the same bytes");
    }
    for node in ["master", "worker"] {
        let counters = lab::netns::output(cloud.netns(node).command("cat").arg("/proc/net/snmp")).unwrap();
        let tcp: Vec<Vec<&str>> =
            counters.lines().filter(|line| line.starts_with("Tcp:")).map(|line| line.split(' ').collect()).collect();
        let column = tcp[0].iter().position(|name| *name == "InCsumErrors").unwrap();
        assert_eq!(tcp[1][column], "0", "{node}: TCP segments with a wrong checksum");
    }
    assert_eq!(cloud.counters().unicast_drops, 0);
}

#[test]
#[ignore = "netns"]
fn the_outside_sees_the_nat_gateway_for_ipv4_and_the_sender_for_ipv6() {
    let mut cloud = Cloud::start();
    cloud.spawn(outside_server(cloud.outside_prefix(), LAB));
    cloud.netns("master").ip("addr add 172.31.199.185/32 dev eth0").unwrap();
    cloud.netns("worker").ip("addr add fd00:172:31::190/128 dev eth0 nodad").unwrap();
    let (v4, v6) = (format!("http://{}/", OUTSIDE[0]), format!("http://[{}]/", OUTSIDE[1]));
    eventually("the outside serves", || cloud.curl("client", &[&v4]).is_ok());
    for (from, source) in [("master", "172.31.199.183"), ("master", "172.31.199.185"), ("worker", "172.31.199.184")] {
        let answer = cloud.curl(from, &["--interface", source, &v4]);
        assert!(says(&answer, &format!("peer: {NAT_ADDRESS}")), "{source}: {answer:?}");
    }
    for source in ["fd00:172:31::184", "fd00:172:31::190"] {
        let answer = cloud.curl("worker", &["--interface", source, &v6]);
        assert!(says(&answer, &format!("peer: {source}")), "{answer:?}");
    }
    assert!(cloud.reaches("client", None, "fd00:172:31::183"), "IPv6 is routed inwards too");
    cloud.netns("client").ip(&format!("route add 172.31.192.0/20 via {NAT_ADDRESS}")).unwrap();
    assert!(!cloud.ping("client", None, "172.31.199.183"), "nobody asked for this");
    assert_eq!(cloud.counters().unicast_drops, 0);
}

fn balancer(cloud: &mut Cloud) -> Client {
    let socket = cloud.dir.path().join("balancer.sock");
    let mut command = cloud.netns("balancer").command(LAB);
    command.arg("balancer").arg("--control").arg(&socket).args(["--interval-ms", "50"]);
    cloud.spawn_until_ready(command);
    Client::new(socket)
}

fn service(mode: Mode, port: u16, node_port: u16, health_check_port: Option<u16>) -> Service {
    let backends = ["172.31.199.183", "172.31.199.184"].map(|node| node.parse().unwrap()).to_vec();
    Service {
        mode,
        listeners: vec![Listener { port, protocol: Protocol::Tcp, node_port }],
        backends,
        health_check_port,
    }
}

fn healthy(balancer: &Client, service: &str) -> Vec<String> {
    let views: Vec<View> = balancer.get("/services").unwrap();
    views
        .into_iter()
        .filter(|view| view.name == service)
        .flat_map(|view| view.healthy)
        .map(|node| node.to_string())
        .collect()
}

#[test]
#[ignore = "netns"]
fn the_l4_balancer_keeps_the_clients_address_and_leaves_out_unhealthy_nodes() {
    let mut cloud = Cloud::start();
    let balancer = balancer(&mut cloud);
    cloud.app("master", 30999);
    cloud.app("worker", 30999);
    let health = cloud.app("worker", 31000);
    let wanted = service(Mode::L4, 999, 30999, Some(31000));
    let view: View = balancer.put("/services/default/tcp-service", &wanted).unwrap();
    eventually("only worker is healthy", || healthy(&balancer, "default/tcp-service") == ["172.31.199.184"]);
    let url = format!("http://{}:999/", view.address);
    for _ in 0..8 {
        let answer = cloud.curl("client", &[&url]);
        assert!(says(&answer, "name: worker") && says(&answer, &format!("peer: {}", CLIENT[0])), "{answer:?}");
    }
    let flows: Vec<FlowView> = cloud.vpc().get("/flows").unwrap();
    assert!(
        flows
            .iter()
            .any(|flow| flow.client.ip().to_string() == CLIENT[0] && flow.node.port() == 30999 && flow.replies > 0),
        "{flows:?}"
    );

    let again: View = balancer.put("/services/default/tcp-service", &wanted).unwrap();
    assert_eq!(again.address, view.address);
    cloud.app("master", 31000);
    eventually("both are healthy", || healthy(&balancer, "default/tcp-service").len() == 2);
    eventually("master serves too", || says(&cloud.curl("client", &[&url]), "name: master"));
    cloud.stop(health);
    eventually("worker is out", || healthy(&balancer, "default/tcp-service") == ["172.31.199.183"]);
    for _ in 0..8 {
        assert!(says(&cloud.curl("client", &[&url]), "name: master"));
    }
    assert_eq!(cloud.counters().unicast_drops, 0);
}

#[test]
#[ignore = "netns"]
fn the_l7_balancer_proxies_and_names_the_client() {
    let mut cloud = Cloud::start();
    let balancer = balancer(&mut cloud);
    cloud.app("worker", 30080);
    let view: View = balancer.put("/services/default/http-service", &service(Mode::L7, 80, 30080, None)).unwrap();
    eventually("worker is healthy", || healthy(&balancer, "default/http-service") == ["172.31.199.184"]);
    let url = format!("http://{}/path", view.address);
    let answer = cloud.curl("client", &[&url]);
    for line in
        ["name: worker", "path: /path", &format!("peer: {BALANCER_INSIDE}"), &format!("forwarded-for: {}", CLIENT[0])]
    {
        assert!(says(&answer, line), "{line} in {answer:?}");
    }
    assert!(cloud.curl("client", &["-I", &url]).unwrap().starts_with("HTTP/1.1 200 OK"));
    assert_eq!(cloud.counters().unicast_drops, 0);

    let other: View = balancer.put("/services/default/other", &service(Mode::L7, 80, 30081, None)).unwrap();
    assert_ne!(other.address, view.address);
    let code = cloud.curl("client", &["-o", "/dev/null", "-w", "%{http_code}", &format!("http://{}/", other.address)]);
    assert_eq!(code.as_deref(), Ok("503"), "no node listens there");
    let gone: View = balancer.delete("/services/default/http-service").unwrap();
    assert_eq!(gone.address, view.address);
    assert!(cloud.curl("client", &[&url]).is_err());
}

#[test]
#[ignore = "netns"]
fn the_balancer_refuses_ipv6_nodes() {
    let mut cloud = Cloud::start();
    let balancer = balancer(&mut cloud);
    let mut wanted = service(Mode::L4, 80, 30080, None);
    wanted.backends = vec!["fd00:172:31::183".parse().unwrap()];
    let error = balancer.put::<View>("/services/default/v6", &wanted).unwrap_err().to_string();
    assert!(error.contains("service default/v6: backend fd00:172:31::183: IPv6 backends are not supported"), "{error}");
    assert_eq!(balancer.get::<Vec<View>>("/services").unwrap(), []);
}

#[test]
#[ignore = "netns"]
fn metadata_is_told_by_the_source_address() {
    let mut cloud = Cloud::start();
    let mut command = cloud.netns("metadata").command(LAB);
    command.arg("metadata").arg("--config").arg(cloud.config_file());
    cloud.spawn_until_ready(command);
    let base = format!("http://{}/latest/meta-data", METADATA[0]);
    cloud.netns("worker").ip("addr add 172.31.199.190/32 dev eth0").unwrap();
    for (from, source, key, value) in [
        ("master", "172.31.199.183", "region-id", "cn-hangzhou"),
        ("master", "172.31.199.183", "instance-id", "i-bp1spiderlab0000master"),
        ("worker", "172.31.199.184", "instance-id", "i-bp1spiderlab0000worker"),
        ("worker", "172.31.199.190", "instance-id", "i-bp1spiderlab0000worker"),
        ("worker", "172.31.199.184", "network/interfaces/macs/", "00:16:3e:00:01:b8/\n00:16:3e:00:02:9b/"),
    ] {
        let answer = cloud.curl(from, &["-f", "--interface", source, &format!("{base}/{key}")]);
        assert_eq!(answer.as_deref(), Ok(value), "{source} {key}");
    }
    let v6 = cloud.curl("worker", &["-f", "-g", &format!("http://[{}]/2016-01-01/meta-data/region-id", METADATA[1])]);
    assert_eq!(v6.as_deref(), Ok("cn-hangzhou"));

    let code =
        |words: &[&str]| cloud.curl("worker", &[&["-o", "/dev/null", "-w", "%{http_code}"], words].concat()).unwrap();
    assert_eq!(code(&[&format!("{base}/nothing")]), "404");
    let token_url = format!("http://{}/latest/api/token", METADATA[0]);
    assert_eq!(code(&["-X", "PUT", &token_url]), "400");
    let ttl = "X-aliyun-ecs-metadata-token-ttl-seconds: 60";
    let token = cloud.curl("worker", &["-f", "-X", "PUT", "-H", ttl, &token_url]).unwrap();
    let header = format!("X-aliyun-ecs-metadata-token: {token}");
    assert_eq!(code(&["-H", &header, &format!("{base}/zone-id")]), "200");
    assert_eq!(code(&["-H", "X-aliyun-ecs-metadata-token: guessed", &format!("{base}/zone-id")]), "401");
    let foreign =
        cloud.curl("master", &["-o", "/dev/null", "-w", "%{http_code}", "-H", &header, &format!("{base}/zone-id")]);
    assert_eq!(foreign.as_deref(), Ok("401"), "another machine's token");

    let mut hardened = cloud.netns("metadata").command(LAB);
    hardened.arg("metadata").arg("--config").arg(cloud.config_file()).args([
        "--listen",
        "[::]:8080",
        "--http-tokens",
        "required",
    ]);
    cloud.spawn_until_ready(hardened);
    let url = format!("http://{}:8080/latest/meta-data/zone-id", METADATA[0]);
    assert_eq!(cloud.curl("worker", &["-o", "/dev/null", "-w", "%{http_code}", &url]).as_deref(), Ok("401"));
}

#[test]
#[ignore = "netns"]
fn the_system_resolver_gets_names_from_the_dns_server() {
    let mut cloud = Cloud::start();
    let (hosts, resolver) = (cloud.dir.path().join("hosts"), cloud.dir.path().join("resolv.conf"));
    std::fs::write(
        &hosts,
        "10.233.0.7 test-svc.default.svc.cluster.local\nfd00:10:233::7 test-svc.default.svc.cluster.local\n",
    )
    .unwrap();
    std::fs::write(&resolver, "nameserver 172.31.199.184\nsearch default.svc.cluster.local\noptions timeout:1\n")
        .unwrap();
    let mut dns = cloud.netns("worker").command(LAB);
    dns.arg("dns").arg("--hosts").arg(&hosts);
    cloud.spawn(dns);
    let resolve = |name: &str| {
        let script = format!(
            "mount --bind {} /etc/resolv.conf && getent ahosts {name} | awk '{{print $1}}' | sort -u",
            resolver.display()
        );
        let mut command: Command = cloud.netns("master").command("unshare");
        lab::netns::output(command.args(["-m", "sh", "-c", &script])).unwrap()
    };
    eventually("the name resolves", || resolve("test-svc.default.svc.cluster.local") == "10.233.0.7\nfd00:10:233::7\n");
    assert_eq!(resolve("test-svc"), "10.233.0.7\nfd00:10:233::7\n", "by the search list");
    assert_eq!(resolve("other.default.svc.cluster.local"), "");
}
