//! What lies between the VPC and the world, and the world itself.
//!
//! ```text
//!             VPC (switch)                                outside (bridge net0)
//!   nat       vpc0 172.31.192.4      masquerade           wan0 203.0.113.10
//!   ipv6      vpc0 fd00:172:31::fe   routes, no NAT       wan0 2001:db8:113::10
//!   balancer  vpc0 100.117.0.1       see `balancer`       wan0 203.0.113.2 and the public addresses
//!   metadata  vpc0 100.100.100.200   see `metadata`       -
//!   client    -                                           wan0 203.0.113.100, 2001:db8:113::100
//!   outside   -                                           net0 203.0.113.1, 2001:db8:113::1
//! ```
//!
//! Order: [`create_namespaces`], start the switch (it makes the `vpc0` interfaces and those of the machines), [`configure`],
//! [`cloud_init`] for each machine, then the processes ([`outside_server`], balancer, metadata).

use crate::netns::Netns;
use crate::vpc::config::{Config, Infrastructure, Instance, Role};
use anyhow::{Context, Result};
use std::net::IpAddr;
use std::process::Command;

/// The outside's own addresses; a server there tells peers how it sees them.
pub const OUTSIDE: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];
/// How the outside sees IPv4 of the VPC.
pub const NAT_ADDRESS: &str = "203.0.113.10";
/// Where the outside sends IPv6 for the VPC.
pub const IPV6_ADDRESS: &str = "2001:db8:113::10";
/// The balancer's own address outside; not one of the public ones.
pub const BALANCER_OUTSIDE: &str = "203.0.113.2";
/// The addresses of the external client.
pub const CLIENT: [&str; 2] = ["203.0.113.100", "2001:db8:113::100"];
/// The namespaces of the cloud, without their prefix.
pub const NAMESPACES: [&str; 6] = ["nat", "ipv6", "balancer", "metadata", "outside", "client"];

/// Makes the cloud's namespaces (not those of the machines).
pub fn create_namespaces(prefix: &str) -> Result<()> {
    NAMESPACES.iter().try_for_each(|name| Netns::create(format!("{prefix}{name}")).map(drop))
}

/// Removes those of the cloud's namespaces that exist; errors are collected, not the end of it.
pub fn delete_namespaces(prefix: &str) -> Vec<anyhow::Error> {
    let named = NAMESPACES.iter().map(|name| Netns::named(format!("{prefix}{name}")));
    named.filter(Netns::exists).filter_map(|ns| ns.delete().err()).collect()
}

/// Lines for `ip`, by namespace in the order of first mention: one process for each, because processes are dear in a guest.
#[derive(Default)]
struct Script(Vec<(Netns, Vec<String>)>);

impl Script {
    fn add(&mut self, ns: &Netns, line: String) {
        match self.0.iter_mut().find(|(known, _)| known == ns) {
            Some((_, lines)) => lines.push(line),
            None => self.0.push((ns.clone(), vec![line])),
        }
    }

    /// Duplicate detection is left out: these addresses are unique by construction, and it would cost a second each.
    fn add_address(&mut self, ns: &Netns, interface: &str, address: IpAddr, length: u8) {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        self.add(ns, format!("addr add {address}/{length} dev {interface}{nodad}"));
    }

    fn add_addresses(&mut self, ns: &Netns, interface: &str, own: &[&str]) {
        for address in own {
            let address: IpAddr = address.parse().expect("a constant of this file");
            self.add_address(ns, interface, address, if address.is_ipv4() { 24 } else { 64 });
        }
    }

    fn run(&self) -> Result<()> {
        self.0.iter().try_for_each(|(ns, lines)| ns.ip_all(lines))
    }
}

/// Gives the infrastructure its addresses, routes and rules, and wires the outside. The switch must be running.
pub fn configure(prefix: &str, config: &Config) -> Result<()> {
    let outside = Netns::named(format!("{prefix}outside"));
    let mut script = Script::default();
    script.add(&outside, "link add net0 type bridge forward_delay 0".into());
    script.add_addresses(&outside, "net0", &OUTSIDE);
    script.add(&outside, "link set net0 up".into());
    wire(&mut script, prefix, &outside, "client", &CLIENT);
    for port in &config.infrastructure {
        let ns = Netns::named(&port.netns);
        let configured = match port.role {
            Role::NatGateway => {
                wire(&mut script, prefix, &outside, &port.name, &[NAT_ADDRESS]);
                nat(&ns, config)
            }
            Role::Ipv6Gateway => {
                wire(&mut script, prefix, &outside, &port.name, &[IPV6_ADDRESS]);
                ipv6(&ns, config)
            }
            Role::Balancer => {
                wire(&mut script, prefix, &outside, &port.name, &[BALANCER_OUTSIDE]);
                ipv4_router(&ns)
            }
            Role::Service => Ok(()),
        };
        configured.with_context(|| format!("cannot configure {}", port.name))?;
        inside(&mut script, &ns, config, port);
    }
    for ns in [outside, Netns::named(format!("{prefix}client"))] {
        for prefix in config.vswitches.iter().filter_map(|vswitch| vswitch.ipv6) {
            script.add(&ns, format!("route add {prefix} via {IPV6_ADDRESS}"));
        }
    }
    script.run()
}

/// What cloud-init does on a machine: primary addresses on every NIC, a default route by the first one only.
pub fn cloud_init(config: &Config, instance: &Instance) -> Result<()> {
    let ns = Netns::named(&instance.netns);
    let mut script = Script::default();
    for (index, nic) in instance.nics.iter().enumerate() {
        let vswitch =
            config.vswitch(&nic.vswitch).with_context(|| format!("NIC {}: no vSwitch {}", nic.id, nic.vswitch))?;
        ns.sysctl(&format!("ipv6/conf/{}/accept_ra", nic.interface), "0")?;
        for address in &nic.primary {
            let length = vswitch.prefixes().find(|prefix| prefix.contains(address)).map(|prefix| prefix.prefix_len());
            let length =
                length.with_context(|| format!("NIC {}: {address} is not in vSwitch {}", nic.id, nic.vswitch))?;
            script.add_address(&ns, &nic.interface, *address, length);
        }
        for gateway in vswitch.gateways().filter(|_| index == 0) {
            script.add(&ns, format!("route add default via {gateway} dev {}", nic.interface));
        }
    }
    script.run()
}

/// The HTTP server of the outside, to be started.
pub fn outside_server(prefix: &str, lab_binary: &str) -> Command {
    let mut command = Netns::named(format!("{prefix}outside")).command(lab_binary);
    command.args(["app", "--name", "outside"]);
    command
}

/// Connects a namespace to the outside's bridge: `wan0` there, `to-NAME` on the bridge.
fn wire(script: &mut Script, prefix: &str, outside: &Netns, name: &str, own: &[&str]) {
    let ns = Netns::named(format!("{prefix}{name}"));
    script.add(outside, format!("link add to-{name} type veth peer name wan0 netns {}", ns.name()));
    script.add(outside, format!("link set to-{name} master net0 up"));
    script.add_addresses(&ns, "wan0", own);
    script.add(&ns, "link set wan0 up".into());
    for address in own {
        let gateway =
            OUTSIDE.into_iter().find(|gateway| gateway.contains(':') == address.contains(':')).expect("one per family");
        script.add(&ns, format!("route add default via {gateway}"));
    }
}

/// The side of an infrastructure port that the VPC sees: the subnets are on the link, because the router answers for all.
fn inside(script: &mut Script, ns: &Netns, config: &Config, port: &Infrastructure) {
    let interface = &port.interface;
    for address in &port.addresses {
        script.add_address(ns, interface, *address, if address.is_ipv4() { 32 } else { 128 });
    }
    for prefix in config.vswitches.iter().flat_map(|vswitch| vswitch.prefixes()) {
        let same_family = |address: &&IpAddr| address.is_ipv4() == prefix.addr().is_ipv4();
        if let Some(own) = port.addresses.iter().find(same_family) {
            script.add(ns, format!("route add {prefix} dev {interface} src {own}"));
        }
    }
}

/// IPv4 of the VPC leaves with the gateway's address, and nothing enters that nobody asked for.
fn nat(ns: &Netns, config: &Config) -> Result<()> {
    ipv4_router(ns)?;
    let inner: Vec<_> = config.vswitches.iter().map(|vswitch| vswitch.ipv4.to_string()).collect();
    ns.nft(&format!(
        "table ip gateway {{
           chain forward {{
             type filter hook forward priority filter; policy drop;
             ct state established,related accept
             iifname vpc0 oifname wan0 accept
           }}
           chain postrouting {{
             type nat hook postrouting priority srcnat;
             oifname wan0 ip saddr {{ {} }} masquerade
           }}
         }}",
        inner.join(", ")
    ))
}

/// IPv6 of the VPC is routed as it is.
fn ipv6(ns: &Netns, config: &Config) -> Result<()> {
    ns.sysctl("ipv6/conf/all/forwarding", "1")?;
    let inner: Vec<_> =
        config.vswitches.iter().filter_map(|vswitch| vswitch.ipv6).map(|prefix| prefix.to_string()).collect();
    if inner.is_empty() {
        return Ok(());
    }
    ns.nft(&format!(
        "table ip6 gateway {{
           chain forward {{
             type filter hook forward priority filter; policy drop;
             iifname vpc0 oifname wan0 ip6 saddr {{ {inner} }} accept
             iifname wan0 oifname vpc0 ip6 daddr {{ {inner} }} accept
           }}
         }}",
        inner = inner.join(", ")
    ))
}

fn ipv4_router(ns: &Netns) -> Result<()> {
    ns.sysctl("ipv4/ip_forward", "1")?;
    ns.sysctl("ipv4/conf/all/rp_filter", "0")
}
