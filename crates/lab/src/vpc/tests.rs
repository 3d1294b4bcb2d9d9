//! The forwarding decision, judged with frames that etherparse builds and reads.

use super::counters::{Class, Reason};
use super::fabric::{Fabric, PortId, RegistryError, Verdict};
use super::flows::IDLE;
use super::reference;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

const MASTER0: PortId = PortId(0);
const MASTER1: PortId = PortId(1);
const WORKER0: PortId = PortId(2);
const WORKER1: PortId = PortId(3);
const NAT: PortId = PortId(4);
const IPV6: PortId = PortId(5);
const BALANCER: PortId = PortId(6);
const METADATA: PortId = PortId(7);

const MASTER0_MAC: [u8; 6] = [0, 0x16, 0x3e, 0, 1, 183];
const WORKER0_MAC: [u8; 6] = [0, 0x16, 0x3e, 0, 1, 184];
const WORKER1_MAC: [u8; 6] = [0, 0x16, 0x3e, 0, 2, 155];
const ROUTER_MAC: [u8; 6] = [0xee, 0xff, 0xff, 0xff, 0xff, 0xff];
const MACVLAN_MAC: [u8; 6] = [0x3a, 1, 2, 3, 4, 5];
const BROADCAST: [u8; 6] = [0xff; 6];
const NOW: Duration = Duration::from_secs(1000);

fn fabric() -> Fabric {
    Fabric::new(&reference::config("x-", "/x".into())).unwrap()
}

/// Sends a frame; returns the verdict and the buffer.
fn send(fabric: &mut Fabric, from: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
    send_at(fabric, NOW, from, frame)
}

fn send_at(fabric: &mut Fabric, now: Duration, from: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let mut buffer = frame.to_vec();
    buffer.resize(2048, 0xaa);
    let verdict = fabric.forward(now, from, &mut buffer, frame.len());
    buffer.truncate(if let Verdict::Answer(length) = verdict { length } else { frame.len() });
    (verdict, buffer)
}

fn verdict(from: PortId, frame: &[u8]) -> Verdict {
    send(&mut fabric(), from, frame).0
}

fn tcp(mac: [u8; 6], from: &str, to: &str, ports: (u16, u16)) -> Vec<u8> {
    tcp_to(mac, ROUTER_MAC, from, to, ports)
}

fn tcp_to(mac: [u8; 6], to_mac: [u8; 6], from: &str, to: &str, ports: (u16, u16)) -> Vec<u8> {
    let step = PacketBuilder::ethernet2(mac, to_mac);
    let step = match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => step.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => step.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut frame = Vec::new();
    step.tcp(ports.0, ports.1, 1, 64_000).syn().write(&mut frame, b"hello").unwrap();
    frame
}

fn arp(mac: [u8; 6], inner_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &inner_mac,
        &sender,
        &[0; 6],
        &target,
    );
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac, BROADCAST).arp(packet.unwrap()).write(&mut frame).unwrap();
    frame
}

/// A neighbour message; `option`: type and MAC of its link-layer address option.
fn neighbour(mac: [u8; 6], from: &str, kind: u8, target: &str, option: Option<(u8, [u8; 6])>) -> Vec<u8> {
    let (from, target): (Ipv6Addr, Ipv6Addr) = (from.parse().unwrap(), target.parse().unwrap());
    let group: Ipv6Addr = "ff02::1:ff00:fd".parse().unwrap();
    let mut body = target.octets().to_vec();
    if let Some((number, mac)) = option {
        body.extend([number, 1]);
        body.extend(mac);
    }
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(mac, [0x33, 0x33, 0xff, 0, 0, 0xfd]).ipv6(from.octets(), group.octets(), 255);
    step.icmpv6_raw(kind, 0, [0; 4]).write(&mut frame, &body).unwrap();
    frame
}

#[test]
fn a_registered_sender_reaches_every_owner_with_the_owners_mac() {
    for (name, from, frame, to) in [
        ("same subnet", MASTER0, tcp(MASTER0_MAC, "172.31.199.183", "172.31.199.184", (1, 2)), WORKER0),
        ("secondary to secondary", MASTER0, tcp(MASTER0_MAC, "172.31.199.189", "172.31.199.190", (1, 2)), WORKER0),
        ("other subnet, other node", MASTER0, tcp(MASTER0_MAC, "172.31.199.185", "192.168.0.161", (1, 2)), WORKER1),
        ("other subnet, same node", MASTER0, tcp(MASTER0_MAC, "172.31.199.185", "192.168.0.156", (1, 2)), MASTER1),
        ("IPv6", WORKER1, tcp(WORKER1_MAC, "fd00:192:168::155", "fd00:172:31::185", (1, 2)), MASTER0),
        ("outside", MASTER0, tcp(MASTER0_MAC, "172.31.199.185", "203.0.113.1", (1, 2)), NAT),
        ("outside by IPv6", MASTER0, tcp(MASTER0_MAC, "fd00:172:31::185", "2001:db8::1", (1, 2)), IPV6),
        ("metadata", MASTER0, tcp(MASTER0_MAC, "172.31.199.183", "100.100.100.200", (1, 2)), METADATA),
        (
            "infrastructure with a foreign address",
            NAT,
            tcp(MACVLAN_MAC, "203.0.113.1", "172.31.199.185", (1, 2)),
            MASTER0,
        ),
        (
            "by address, whatever the MAC",
            MASTER0,
            tcp_to(MASTER0_MAC, WORKER1_MAC, "172.31.199.183", "172.31.199.184", (1, 2)),
            WORKER0,
        ),
    ] {
        let (verdict, buffer) = send(&mut fabric(), from, &frame);
        assert_eq!(verdict, Verdict::Deliver(to), "{name}");
        assert_eq!(buffer[6..12], ROUTER_MAC, "{name}: source MAC");
        assert_eq!(buffer[12..], frame[12..], "{name}: nothing else changes");
    }
    let (_, buffer) = send(&mut fabric(), MASTER0, &tcp(MASTER0_MAC, "172.31.199.183", "172.31.199.184", (1, 2)));
    assert_eq!(buffer[..6], WORKER0_MAC);
}

#[test]
fn each_rule_has_its_reason() {
    use Reason::*;
    let good = tcp(MASTER0_MAC, "172.31.199.183", "172.31.199.184", (1, 2));
    let mut vlan = good.clone();
    vlan.splice(12..12, [0x81, 0, 0, 5]);
    let mut bad_checksum = good.clone();
    bad_checksum[24] ^= 0xff;
    let long = [good.clone(), vec![0; 1500]].concat();
    let mut cut_arp = arp(MASTER0_MAC, MASTER0_MAC, [172, 31, 199, 183], [172, 31, 199, 184]);
    cut_arp.truncate(30);
    for (name, frame, reason) in [
        ("MAC of a macvlan", tcp(MACVLAN_MAC, "172.31.199.185", "172.31.199.184", (1, 2)), UnknownSourceMac),
        ("MAC of another NIC", tcp(WORKER0_MAC, "172.31.199.183", "172.31.199.184", (1, 2)), UnknownSourceMac),
        ("address of another NIC", tcp(MASTER0_MAC, "172.31.199.184", "192.168.0.155", (1, 2)), UnknownSourceAddress),
        (
            "address of the node's other NIC",
            tcp(MASTER0_MAC, "192.168.0.154", "172.31.199.184", (1, 2)),
            UnknownSourceAddress,
        ),
        ("address of nobody", tcp(MASTER0_MAC, "172.31.199.200", "172.31.199.184", (1, 2)), UnknownSourceAddress),
        (
            "IPv6 address of nobody",
            tcp(MASTER0_MAC, "fd00:172:31::1", "fd00:172:31::184", (1, 2)),
            UnknownSourceAddress,
        ),
        (
            "link-local sender of a packet",
            tcp(MASTER0_MAC, "fe80::1", "fd00:172:31::184", (1, 2)),
            UnknownSourceAddress,
        ),
        ("free address of a subnet", tcp(MASTER0_MAC, "172.31.199.183", "172.31.199.200", (1, 2)), NoSuchDestination),
        ("gateway, no echo", tcp(MASTER0_MAC, "172.31.199.183", "172.31.207.253", (1, 2)), NoSuchDestination),
        ("link-local destination", tcp(MASTER0_MAC, "172.31.199.183", "169.254.1.1", (1, 2)), NoSuchDestination),
        ("same NIC", tcp(MASTER0_MAC, "172.31.199.185", "172.31.199.183", (1, 2)), Hairpin),
        ("broadcast MAC", tcp_to(MASTER0_MAC, BROADCAST, "172.31.199.183", "172.31.199.184", (1, 2)), Broadcast),
        ("broadcast address", tcp(MASTER0_MAC, "172.31.199.183", "255.255.255.255", (1, 2)), Broadcast),
        ("DHCP discovery", tcp_to(MASTER0_MAC, BROADCAST, "0.0.0.0", "255.255.255.255", (1, 2)), Broadcast),
        ("multicast", tcp_to(MASTER0_MAC, [1, 0, 0x5e, 0, 0, 5], "172.31.199.183", "224.0.0.5", (1, 2)), Multicast),
        ("listener report", tcp_to(MASTER0_MAC, [0x33, 0x33, 0, 0, 0, 0x16], "fe80::1", "ff02::16", (1, 2)), Multicast),
        ("VLAN tag", vlan, UnsupportedProtocol),
        ("header checksum", bad_checksum, Malformed),
        ("cut ARP", cut_arp, Malformed),
        ("ten bytes", good[..10].to_vec(), Malformed),
        ("half a header", good[..30].to_vec(), Malformed),
        ("too long", long, TooLong),
    ] {
        assert_eq!(verdict(MASTER0, &frame), Verdict::Drop(reason), "{name}");
    }
}

#[test]
fn no_frame_however_cut_or_flipped_makes_the_switch_stumble() {
    let frames = [
        tcp(MASTER0_MAC, "172.31.199.183", "172.31.199.184", (1, 2)),
        tcp(MASTER0_MAC, "fd00:172:31::183", "fd00:172:31::184", (1, 2)),
        arp(MASTER0_MAC, MASTER0_MAC, [172, 31, 199, 183], [172, 31, 207, 253]),
        neighbour(MASTER0_MAC, "fd00:172:31::183", 135, "fd00:172:31::fd", Some((1, MASTER0_MAC))),
    ];
    let mut fabric = fabric();
    for frame in frames {
        for length in 0..frame.len() {
            send(&mut fabric, MASTER0, &frame[..length]);
        }
        for (at, bit) in (0..frame.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = frame.clone();
            flipped[at] ^= 1 << bit;
            let (verdict, _) = send(&mut fabric, MASTER0, &flipped);
            assert_ne!(verdict, Verdict::Deliver(MASTER0), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn arp_is_answered_for_every_address_but_the_askers() {
    for (name, sender, target, answered) in [
        ("gateway", [172, 31, 199, 183], [172, 31, 207, 253], true),
        ("another NIC's", [172, 31, 199, 183], [172, 31, 199, 184], true),
        ("nobody's", [172, 31, 199, 185], [172, 31, 199, 250], true),
        ("from nobody, for another NIC's", [0, 0, 0, 0], [172, 31, 199, 190], true),
        ("own, announced", [172, 31, 199, 183], [172, 31, 199, 183], false),
        ("own, probed", [0, 0, 0, 0], [172, 31, 199, 185], false),
    ] {
        let (verdict, buffer) = send(&mut fabric(), MASTER0, &arp(MASTER0_MAC, MASTER0_MAC, sender, target));
        if !answered {
            assert_eq!(verdict, Verdict::Silence, "{name}");
            continue;
        }
        assert_eq!(verdict, Verdict::Answer(42), "{name}");
        let packet = SlicedPacket::from_ethernet(&buffer).unwrap();
        let Some(NetSlice::Arp(reply)) = packet.net else { panic!("{name}: no ARP") };
        assert_eq!((&buffer[..6], &buffer[6..12]), (&MASTER0_MAC[..], &ROUTER_MAC[..]), "{name}");
        assert_eq!(reply.operation(), ArpOperation::REPLY, "{name}");
        assert_eq!((reply.sender_hw_addr(), reply.sender_protocol_addr()), (&ROUTER_MAC[..], &target[..]), "{name}");
        assert_eq!((reply.target_hw_addr(), reply.target_protocol_addr()), (&MASTER0_MAC[..], &sender[..]), "{name}");
    }
}

#[test]
fn the_sender_inside_arp_is_checked_like_any_other() {
    let target = [172, 31, 207, 253];
    for (frame, reason) in [
        (arp(MACVLAN_MAC, MACVLAN_MAC, [172, 31, 199, 185], target), Reason::UnknownSourceMac),
        (arp(MASTER0_MAC, MACVLAN_MAC, [172, 31, 199, 185], target), Reason::UnknownSourceMac),
        (arp(MASTER0_MAC, MASTER0_MAC, [172, 31, 199, 190], target), Reason::UnknownSourceAddress),
    ] {
        assert_eq!(verdict(MASTER0, &frame), Verdict::Drop(reason));
    }
}

#[test]
fn solicitations_are_answered_for_every_address_but_the_askers() {
    let lla = Some((1, MASTER0_MAC));
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    for (name, from, target, option, answered) in [
        ("gateway", "fd00:172:31::183", "fd00:172:31::fd", lla, true),
        ("from link-local", "fe80::216:3eff:fe00:1b7", "fd00:172:31::fd", lla, true),
        ("another NIC's", "fd00:172:31::183", "fd00:192:168::161", lla, true),
        ("without the option", "fd00:172:31::183", "fd00:172:31::184", None, true),
        ("another's, probed", "::", "fd00:172:31::190", None, true),
        ("own, probed", "::", "fd00:172:31::185", None, false),
        ("link-local, probed", "::", "fe80::216:3eff:fe00:1b7", None, false),
    ] {
        let (verdict, buffer) = send(&mut fabric(), MASTER0, &neighbour(MASTER0_MAC, from, 135, target, option));
        if !answered {
            assert_eq!(verdict, Verdict::Silence, "{name}");
            continue;
        }
        assert_eq!(verdict, Verdict::Answer(buffer.len()), "{name}");
        let packet = SlicedPacket::from_ethernet(&buffer).unwrap();
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (packet.net, packet.transport) else {
            panic!("{name}")
        };
        let from: Ipv6Addr = from.parse().unwrap();
        let to = if from.is_unspecified() { all_nodes } else { from };
        assert_eq!(
            (ip.header().source_addr().to_string(), ip.header().destination_addr()),
            (target.to_owned(), to),
            "{name}"
        );
        assert_eq!(ip.header().hop_limit(), 255, "{name}");
        assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()), "{name}: checksum");
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else {
            panic!("{name}: {:?}", icmp.icmp_type())
        };
        assert_eq!(
            (header.router, header.solicited, header.r#override),
            (target.ends_with("fd"), !from.is_unspecified(), true),
            "{name}"
        );
        let target: Ipv6Addr = target.parse().unwrap();
        assert_eq!(icmp.payload(), [&target.octets()[..], &[2, 1], &ROUTER_MAC].concat(), "{name}");
    }
}

#[test]
fn the_sender_inside_neighbour_messages_is_checked_like_any_other() {
    let gateway = "fd00:172:31::fd";
    for (name, frame, expected) in [
        ("MAC", neighbour(MACVLAN_MAC, "fe80::1", 135, gateway, None), Verdict::Drop(Reason::UnknownSourceMac)),
        (
            "MAC in the option",
            neighbour(MASTER0_MAC, "fe80::1", 135, gateway, Some((1, MACVLAN_MAC))),
            Verdict::Drop(Reason::UnknownSourceMac),
        ),
        (
            "source",
            neighbour(MASTER0_MAC, "fd00:172:31::190", 135, gateway, None),
            Verdict::Drop(Reason::UnknownSourceAddress),
        ),
        (
            "advertised",
            neighbour(MASTER0_MAC, "fe80::1", 136, "fd00:172:31::190", None),
            Verdict::Drop(Reason::UnknownSourceAddress),
        ),
        (
            "advertised own",
            neighbour(MASTER0_MAC, "fe80::1", 136, "fd00:172:31::185", Some((2, MASTER0_MAC))),
            Verdict::Silence,
        ),
    ] {
        assert_eq!(verdict(MASTER0, &frame), expected, "{name}");
    }
    let mut forwarded = neighbour(MASTER0_MAC, "fe80::1", 135, gateway, None);
    forwarded[14 + 7] = 254;
    assert_eq!(verdict(MASTER0, &forwarded), Verdict::Drop(Reason::Malformed), "hop limit");
}

#[test]
fn the_gateways_answer_echo_requests_with_a_right_checksum() {
    for payload in [&b"0123456789"[..], b"odd", &[0xff; 40], &[0; 2]] {
        let mut frame = Vec::new();
        let step = PacketBuilder::ethernet2(MASTER0_MAC, ROUTER_MAC).ipv4([172, 31, 199, 183], [172, 31, 207, 253], 64);
        step.icmpv4_echo_request(7, 1).write(&mut frame, payload).unwrap();
        let (verdict, buffer) = send(&mut fabric(), MASTER0, &frame);
        assert_eq!(verdict, Verdict::Answer(frame.len()));
        let mut expected = Vec::new();
        let step = PacketBuilder::ethernet2(ROUTER_MAC, MASTER0_MAC).ipv4([172, 31, 207, 253], [172, 31, 199, 183], 64);
        step.icmpv4_echo_reply(7, 1).write(&mut expected, payload).unwrap();
        assert_eq!(buffer, expected, "IPv4, {payload:?}");

        let (from, to) = (
            "fd00:172:31::183".parse::<Ipv6Addr>().unwrap().octets(),
            "fd00:172:31::fd".parse::<Ipv6Addr>().unwrap().octets(),
        );
        let (mut frame, mut expected) = (Vec::new(), Vec::new());
        PacketBuilder::ethernet2(MASTER0_MAC, ROUTER_MAC)
            .ipv6(from, to, 64)
            .icmpv6_echo_request(7, 1)
            .write(&mut frame, payload)
            .unwrap();
        PacketBuilder::ethernet2(ROUTER_MAC, MASTER0_MAC)
            .ipv6(to, from, 64)
            .icmpv6_echo_reply(7, 1)
            .write(&mut expected, payload)
            .unwrap();
        assert_eq!(send(&mut fabric(), MASTER0, &frame).1, expected, "IPv6, {payload:?}");
    }
}

#[test]
fn replies_of_balanced_flows_go_back_to_the_balancer_and_nothing_else_does() {
    let mut fabric = fabric();
    let (client, node) = ("203.0.113.100", "172.31.199.184");
    let reply = tcp(WORKER0_MAC, node, client, (30999, 5000));
    assert_eq!(send(&mut fabric, WORKER0, &reply).0, Verdict::Deliver(NAT), "nothing known yet");
    let request = tcp(MACVLAN_MAC, client, node, (5000, 30999));
    assert_eq!(send(&mut fabric, BALANCER, &request).0, Verdict::Deliver(WORKER0));
    assert_eq!(send(&mut fabric, WORKER0, &reply).0, Verdict::Deliver(BALANCER));
    assert_eq!(
        send(&mut fabric, WORKER0, &tcp(WORKER0_MAC, node, client, (30999, 5001))).0,
        Verdict::Deliver(NAT),
        "another port"
    );
    assert_eq!(
        send(&mut fabric, WORKER0, &tcp(WORKER0_MAC, "172.31.199.190", client, (30999, 5000))).0,
        Verdict::Deliver(NAT),
        "another source"
    );
    let views: Vec<_> = fabric
        .flows(NOW)
        .map(|(key, flow, balancer)| (key.source.1, flow.requests, flow.replies, balancer.to_owned()))
        .collect();
    assert_eq!(views, [(30999, 1, 1, "balancer".to_owned())]);
    assert_eq!(send_at(&mut fabric, NOW + IDLE, WORKER0, &reply).0, Verdict::Deliver(NAT), "idle too long");
}

#[test]
fn an_icmp_error_about_a_balanced_flow_goes_back_to_the_balancer() {
    let mut fabric = fabric();
    let request = tcp(MACVLAN_MAC, "203.0.113.100", "172.31.199.184", (5000, 30999));
    send(&mut fabric, BALANCER, &request);
    let mut error = Vec::new();
    let step = PacketBuilder::ethernet2(WORKER0_MAC, ROUTER_MAC).ipv4([172, 31, 199, 184], [203, 0, 113, 100], 64);
    // Port unreachable, quoting the header and eight bytes.
    step.icmpv4_raw(3, 3, [0; 4]).write(&mut error, &request[14..42]).unwrap();
    assert_eq!(send(&mut fabric, WORKER0, &error).0, Verdict::Deliver(BALANCER));
}

#[test]
fn what_the_balancer_sends_with_its_own_address_is_no_flow() {
    let mut fabric = fabric();
    let probe = tcp(MACVLAN_MAC, reference::BALANCER_INSIDE, "172.31.199.184", (5000, 31000));
    assert_eq!(send(&mut fabric, BALANCER, &probe).0, Verdict::Deliver(WORKER0));
    assert_eq!(fabric.flows(NOW).count(), 0);
    let answer = tcp(WORKER0_MAC, "172.31.199.184", reference::BALANCER_INSIDE, (31000, 5000));
    assert_eq!(send(&mut fabric, WORKER0, &answer).0, Verdict::Deliver(BALANCER), "it owns that address");
}

#[test]
fn drops_are_counted_by_reason_class_and_port_and_kept_as_samples() {
    let mut fabric = fabric();
    send(&mut fabric, MASTER0, &tcp(MACVLAN_MAC, "172.31.199.185", "172.31.199.184", (1, 2)));
    send(&mut fabric, MASTER0, &arp(MACVLAN_MAC, MACVLAN_MAC, [172, 31, 199, 185], [172, 31, 199, 184]));
    send(&mut fabric, WORKER0, &tcp_to(WORKER0_MAC, [0x33, 0x33, 0, 0, 0, 2], "fe80::1", "ff02::2", (1, 2)));
    send(&mut fabric, MASTER0, &tcp(MASTER0_MAC, "172.31.199.183", "172.31.199.184", (1, 2)));
    let report = fabric.report();
    let mac = report.drops[&Reason::UnknownSourceMac];
    assert_eq!((mac.unicast, mac.question, mac.group, report.dropped(Reason::UnknownSourceMac)), (1, 1, 0, 2));
    assert_eq!((report.unicast_drops, report.question_drops, report.delivered, report.answered), (1, 1, 1, 0));
    assert_eq!(report.drops[&Reason::Multicast].group, 1);
    assert!(
        report.ports["worker/eth0"].drops.contains_key(&Reason::Multicast)
            && !report.ports["master/eth0"].drops.contains_key(&Reason::Multicast)
    );
    let sample = &report.samples[&Reason::UnknownSourceMac][1];
    assert_eq!((sample.port.as_str(), sample.class), ("master/eth0", Class::Question));
    assert_eq!(
        sample.frame,
        "3a:01:02:03:04:05 > ff:ff:ff:ff:ff:ff: ARP who has 172.31.199.184, tell 172.31.199.185 (3a:01:02:03:04:05)"
    );
}

#[test]
fn addresses_come_and_go_at_run_time() {
    let mut fabric = fabric();
    let burst = "172.31.200.1-172.31.200.32".parse().unwrap();
    let prefix = "172.31.201.0/28".parse().unwrap();
    let frame = tcp(MASTER0_MAC, "172.31.199.183", "172.31.200.32", (1, 2));
    let into_prefix = tcp(MASTER0_MAC, "172.31.199.183", "172.31.201.15", (1, 2));
    fabric.register("eni-bp1spiderlab0worker0", &burst).unwrap();
    fabric.register("eni-bp1spiderlab0worker0", &prefix).unwrap();
    assert_eq!(send(&mut fabric, MASTER0, &frame).0, Verdict::Deliver(WORKER0));
    assert_eq!(send(&mut fabric, MASTER0, &into_prefix).0, Verdict::Deliver(WORKER0));
    fabric.unregister("eni-bp1spiderlab0worker0", &burst).unwrap();
    fabric.unregister("eni-bp1spiderlab0worker0", &prefix).unwrap();
    assert_eq!(send(&mut fabric, MASTER0, &frame).0, Verdict::Drop(Reason::NoSuchDestination));
    assert_eq!(send(&mut fabric, MASTER0, &into_prefix).0, Verdict::Drop(Reason::NoSuchDestination));
}

#[test]
fn an_address_has_one_owner() {
    let mut fabric = fabric();
    let mut register = |nic: &str, text: &str| fabric.register(nic, &text.parse().unwrap()).unwrap_err();
    for (nic, text, wanted) in [
        ("eni-x", "172.31.200.1", "NIC eni-x: no such NIC"),
        ("eni-bp1spiderlab0worker0", "192.168.0.200", "192.168.0.200 is not within its subnet"),
        ("eni-bp1spiderlab0worker0", "172.31.207.250-172.31.208.1", "is not within its subnet"),
        ("eni-bp1spiderlab0worker0", "172.31.199.180-172.31.199.188", "172.31.199.183 already belongs to master/eth0"),
        ("eni-bp1spiderlab0worker0", "172.31.207.253", "172.31.207.253 is a gateway"),
        ("eni-bp1spiderlab0worker0", "172.31.199.176/28", "already belongs to"),
        ("eni-bp1spiderlab0worker0", "172.31.192.4", "172.31.192.4 already belongs to nat"),
    ] {
        let error = register(nic, text).to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
    assert_eq!(
        send(&mut fabric, MASTER0, &tcp(MASTER0_MAC, "172.31.199.183", "172.31.199.180", (1, 2))).0,
        Verdict::Drop(Reason::NoSuchDestination),
        "nothing half done"
    );
}

#[test]
fn a_cloud_that_contradicts_itself_is_refused() {
    let mut config = reference::config("x-", "/x".into());
    config.instances[1].nics[0].mac = config.instances[0].nics[0].mac;
    assert!(matches!(Fabric::new(&config), Err(RegistryError::MacTaken { .. })));
    let mut config = reference::config("x-", "/x".into());
    config.infrastructure[1].role = config.infrastructure[0].role;
    assert!(matches!(Fabric::new(&config), Err(RegistryError::RoleTaken { .. })));
    let text = serde_json::to_string(&reference::config("x-", "/x".into())).unwrap();
    assert_eq!(serde_json::from_str::<super::config::Config>(&text).unwrap(), reference::config("x-", "/x".into()));
}
