//! The cloud of the reference run: two machines with two NICs each, in two subnets, as the public-cloud guide has them.

use super::addresses::Addresses;
use super::config::{Config, Infrastructure, Instance, Nic, Role, VSwitch, Vpc};
use std::net::IpAddr;
use std::path::PathBuf;

/// The region of all machines.
pub const REGION: &str = "cn-hangzhou";
/// Where the metadata service answers.
pub const METADATA: [&str; 2] = ["100.100.100.200", "fd00:100::100:200"];
/// The balancer's address inside the VPC: the source of health checks and of L7 requests.
pub const BALANCER_INSIDE: &str = "100.117.0.1";

/// The cloud, with namespaces named `<prefix>master`, `<prefix>worker`, `<prefix>nat`, `<prefix>ipv6`, `<prefix>balancer` and
/// `<prefix>metadata`.
pub fn config(prefix: &str, control: PathBuf) -> Config {
    Config {
        control,
        router_mac: parse("ee:ff:ff:ff:ff:ff"),
        vpc: Vpc {
            id: "vpc-bp1spiderlab0000000001".into(),
            ipv4: parse("172.16.0.0/12"),
            ipv6: vec![parse("fd00:172:31::/48"), parse("fd00:192:168::/48")],
        },
        vswitches: vec![
            vswitch("vsw-bp1spiderlab0000000172", "172.31.192.0/20", "172.31.207.253", "fd00:172:31::"),
            vswitch("vsw-bp1spiderlab0000000192", "192.168.0.0/24", "192.168.0.253", "fd00:192:168::"),
        ],
        instances: vec![
            instance(prefix, "master", "i-bp1spiderlab0000master", [(183, "185", "189"), (154, "156", "160")]),
            instance(prefix, "worker", "i-bp1spiderlab0000worker", [(184, "190", "194"), (155, "161", "165")]),
        ],
        infrastructure: vec![
            infrastructure(prefix, "nat", Role::NatGateway, 1, &["172.31.192.4"]),
            infrastructure(prefix, "ipv6", Role::Ipv6Gateway, 2, &["fd00:172:31::fe"]),
            infrastructure(prefix, "balancer", Role::Balancer, 3, &[BALANCER_INSIDE]),
            infrastructure(prefix, "metadata", Role::Service, 4, &METADATA),
        ],
    }
}

fn vswitch(id: &str, ipv4: &str, gateway: &str, ipv6: &str) -> VSwitch {
    VSwitch {
        id: id.into(),
        ipv4: parse(ipv4),
        ipv4_gateway: parse(gateway),
        ipv6: Some(parse(&format!("{ipv6}/64"))),
        ipv6_gateway: Some(parse(&format!("{ipv6}fd"))),
    }
}

/// A machine with its NICs in the first and the second subnet; each `(own, first, last)`: the last parts of its addresses.
fn instance(prefix: &str, node: &str, id: &str, nics: [(u8, &str, &str); 2]) -> Instance {
    let subnets = [("172.31.199", "fd00:172:31::", "172"), ("192.168.0", "fd00:192:168::", "192")];
    let nics = subnets.iter().zip(nics).enumerate().map(|(index, ((v4, v6, name), (own, first, last)))| Nic {
        id: format!("eni-bp1spiderlab0{node}{index}"),
        interface: format!("eth{index}"),
        mac: parse(&format!("00:16:3e:00:{name_byte:02x}:{own:02x}", name_byte = index + 1)),
        vswitch: format!("vsw-bp1spiderlab0000000{name}"),
        primary: vec![parse(&format!("{v4}.{own}")), parse(&format!("{v6}{own}"))],
        secondary: vec![range(&format!("{v4}."), first, last), range(v6, first, last)],
    });
    Instance {
        node: node.into(),
        netns: format!("{prefix}{node}"),
        id: id.into(),
        region: REGION.into(),
        zone: format!("{REGION}-j"),
        instance_type: "ecs.g7.large".into(),
        nics: nics.collect(),
    }
}

fn range(head: &str, first: &str, last: &str) -> Addresses {
    parse(&format!("{head}{first}-{head}{last}"))
}

fn infrastructure(prefix: &str, name: &str, role: Role, number: u8, addresses: &[&str]) -> Infrastructure {
    Infrastructure {
        name: name.into(),
        netns: format!("{prefix}{name}"),
        interface: "vpc0".into(),
        mac: parse(&format!("00:16:3e:00:ff:{number:02x}")),
        role,
        addresses: addresses.iter().map(|address| parse::<IpAddr>(address)).collect(),
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a constant of this file")
}
