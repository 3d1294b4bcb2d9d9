//! The ruleset as text for `nft -f`. Pure.
//!
//! Per family one table that is made anew each time. Way of a packet: `services` finds the port by destination, the port's chain decides
//! about masquerade (as a mark) and policy, one of the endpoint chains rewrites the destination.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{Endpoint, Port};

/// The table's name, in both families.
pub const TABLE: &str = "kube-proxy";
/// The mark that asks for masquerade, kube-proxy's.
const MASQUERADE: &str = "0x4000";

/// The whole ruleset.
pub fn ruleset(ports: &[Port], cluster_cidrs: &[IpNet]) -> String {
    let mut text = String::new();
    for v4 in [true, false] {
        let family = Family { v4, cidrs: cluster_cidrs.iter().filter(|cidr| cidr.addr().is_ipv4() == v4).collect() };
        let of_family: Vec<&Port> = ports.iter().filter(|port| port.cluster_ip.is_ipv4() == v4).collect();
        family.table(&mut text, &of_family).expect("writing to a string");
    }
    text
}

struct Family<'a> {
    v4: bool,
    cidrs: Vec<&'a IpNet>,
}

impl Family<'_> {
    fn word(&self) -> &'static str {
        if self.v4 { "ip" } else { "ip6" }
    }

    fn table(&self, text: &mut String, ports: &[&Port]) -> std::fmt::Result {
        let word = self.word();
        // The table is added first so that deleting it works the first time, too.
        writeln!(text, "add table {word} {TABLE}\ndelete table {word} {TABLE}\ntable {word} {TABLE} {{")?;
        for (index, port) in ports.iter().enumerate() {
            self.port_chains(text, index, port)?;
        }
        self.services(text, ports)?;
        self.refusals(text, ports)?;
        writeln!(
            text,
            "\tchain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}"
        )?;
        writeln!(text, "\tchain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}")?;
        writeln!(
            text,
            "\tchain nat-postrouting {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t\tmeta mark & {MASQUERADE} == 0 return\n\t\tmeta mark set meta mark ^ {MASQUERADE}\n\t\tmasquerade fully-random\n\t}}"
        )?;
        writeln!(
            text,
            "\tchain filter-forward {{\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tct state invalid drop\n\t\tct state new jump refusals\n\t}}"
        )?;
        writeln!(
            text,
            "\tchain filter-input {{ type filter hook input priority filter; policy accept; ct state new jump refusals; }}"
        )?;
        writeln!(
            text,
            "\tchain filter-output {{ type filter hook output priority filter; policy accept; ct state new jump refusals; }}"
        )?;
        writeln!(text, "}}")
    }

    /// The chains of one port: for the cluster's address, for outside, and one per endpoint.
    fn port_chains(&self, text: &mut String, index: usize, port: &Port) -> std::fmt::Result {
        if port.endpoints.is_empty() {
            return Ok(());
        }
        let word = self.word();
        let protocol = port.protocol.word();
        for (number, endpoint) in port.endpoints.iter().enumerate() {
            let Endpoint { address, .. } = endpoint;
            writeln!(
                text,
                "\tchain endpoint-{index}-{number} {{\n\t\t{word} saddr {address} meta mark set meta mark | {MASQUERADE}\n\t\tmeta l4proto {protocol} dnat to {}\n\t}}",
                socket(endpoint)
            )?;
        }
        let all: Vec<usize> = (0..port.endpoints.len()).collect();
        let local: Vec<usize> = all.iter().copied().filter(|number| port.endpoints[*number].local).collect();
        writeln!(text, "\tchain all-{index} {{\n\t\t{}\n\t}}", spread(index, &all))?;
        // The name is a comment of the chain's first rule, for people who read the ruleset.
        let label = port.name().replace('"', "");
        writeln!(text, "\tchain cluster-{index} {{")?;
        for cidr in &self.cidrs {
            writeln!(text, "\t\t{word} saddr != {cidr} meta mark set meta mark | {MASQUERADE} comment \"{label}\"")?;
        }
        writeln!(
            text,
            "\t\t{}\n\t}}",
            if port.internal_local { spread(index, &local) } else { format!("goto all-{index}") }
        )?;
        writeln!(text, "\tchain external-{index} {{")?;
        if port.external_local {
            for cidr in &self.cidrs {
                writeln!(text, "\t\t{word} saddr {cidr} goto all-{index} comment \"{label}\"")?;
            }
            writeln!(text, "\t\tfib saddr type local meta mark set meta mark | {MASQUERADE} goto all-{index}")?;
            writeln!(text, "\t\t{}\n\t}}", spread(index, &local))
        } else {
            writeln!(text, "\t\tmeta mark set meta mark | {MASQUERADE} goto all-{index} comment \"{label}\"\n\t}}")
        }
    }

    /// Which chain a destination belongs to.
    fn services(&self, text: &mut String, ports: &[&Port]) -> std::fmt::Result {
        let word = self.word();
        writeln!(text, "\tchain services {{")?;
        let usable = || ports.iter().enumerate().filter(|(_, port)| !port.endpoints.is_empty());
        for (index, port) in usable() {
            let protocol = port.protocol.word();
            writeln!(text, "\t\t{word} daddr {} {protocol} dport {} goto cluster-{index}", port.cluster_ip, port.port)?;
            for address in &port.external {
                writeln!(text, "\t\t{word} daddr {address} {protocol} dport {} goto external-{index}", port.port)?;
            }
        }
        let loopback = if self.v4 { "127.0.0.0/8" } else { "::1" };
        for (index, port, number) in usable().filter_map(|(index, port)| Some((index, port, port.node_port?))) {
            let protocol = port.protocol.word();
            writeln!(
                text,
                "\t\tfib daddr type local {word} daddr != {loopback} {protocol} dport {number} goto external-{index}"
            )?;
        }
        writeln!(text, "\t}}")
    }

    /// Destinations without an endpoint: refused at once rather than timed out; with policy `Local` dropped, as kube-proxy does.
    fn refusals(&self, text: &mut String, ports: &[&Port]) -> std::fmt::Result {
        let word = self.word();
        writeln!(text, "\tchain refusals {{")?;
        for port in ports {
            let protocol = port.protocol.word();
            let none = port.endpoints.is_empty();
            if none {
                for address in std::iter::once(&port.cluster_ip).chain(&port.external) {
                    writeln!(text, "\t\t{word} daddr {address} {protocol} dport {} reject", port.port)?;
                }
            }
            if let Some(number) = port.node_port {
                if none {
                    writeln!(text, "\t\tfib daddr type local {protocol} dport {number} reject")?;
                } else if port.external_local && port.local().next().is_none() {
                    writeln!(text, "\t\tfib daddr type local {protocol} dport {number} drop")?;
                }
            }
        }
        writeln!(text, "\t}}")
    }
}

/// One of these endpoints by chance; with none the packet is left alone (and refused later).
fn spread(index: usize, numbers: &[usize]) -> String {
    match numbers {
        [] => "return".into(),
        [only] => format!("goto endpoint-{index}-{only}"),
        many => {
            let ways: Vec<String> =
                many.iter().enumerate().map(|(at, number)| format!("{at} : goto endpoint-{index}-{number}")).collect();
            format!("numgen random mod {} vmap {{ {} }}", many.len(), ways.join(", "))
        }
    }
}

fn socket(endpoint: &Endpoint) -> String {
    match endpoint.address {
        IpAddr::V4(address) => format!("{address}:{}", endpoint.port),
        IpAddr::V6(address) => format!("[{address}]:{}", endpoint.port),
    }
}
