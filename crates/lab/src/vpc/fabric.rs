//! The forwarding decision: a frame in, a verdict out. No I/O, no clock.
//!
//! Always holds: an address has one owner; a frame of a NIC is judged by that NIC's registration alone; no verdict sends a
//! frame back into the port it came from (answers of the router are its own frames).

use super::addresses::Addresses;
use super::config::{Config, Infrastructure, Instance, Nic, Role};
use super::counters::{Class, PortCounters, Reason, Report, Sample, Samples, count, describe, report};
use super::flows::{Flow, Flows};
use super::frame::{Body, FlowKey, LONGEST, Neighbour, Parsed, parse};
use super::mac::Mac;
use super::reply;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How many balanced flows are remembered.
const FLOWS: usize = 65_536;

/// A port of the switch, by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub usize);

/// What to do with a frame. Where the buffer was changed it holds what is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it to that port.
    Deliver(PortId),
    /// The buffer now holds the router's answer of that length, for the port the question came from.
    Answer(usize),
    /// Nothing is owed: a question for the asker's own address, or an announcement of it.
    Silence,
    Drop(Reason),
}

/// Why an address cannot be registered or taken back.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("NIC {0}: no such NIC")]
    NoSuchNic(String),
    #[error("NIC {nic}: {addresses} is not within its subnet {vswitch}")]
    OutsideSubnet { nic: String, addresses: Addresses, vswitch: String },
    #[error("NIC {nic}: {address} already belongs to {owner}")]
    Taken { nic: String, address: IpAddr, owner: String },
    #[error("NIC {nic}: {address} is a gateway")]
    Gateway { nic: String, address: IpAddr },
    #[error("NIC {nic}: prefix {prefix} overlaps {other}, which belongs to {owner}")]
    PrefixTaken { nic: String, prefix: IpNet, other: IpNet, owner: String },
    #[error("NIC {nic}: {addresses} is not registered for it")]
    NotRegistered { nic: String, addresses: Addresses },
    #[error("NIC {nic}: vSwitch {vswitch} does not exist")]
    NoSuchSubnet { nic: String, vswitch: String },
    #[error("{name}: MAC {mac} already belongs to {owner}")]
    MacTaken { name: String, mac: Mac, owner: String },
    #[error("{name}: the VPC already has {other} as {role:?}")]
    RoleTaken { name: String, other: String, role: Role },
}

#[derive(Debug)]
enum Kind {
    Nic { id: String, node: String, vswitch: String, prefixes: Vec<IpNet>, registered: Vec<Addresses> },
    Infrastructure(Role),
}

#[derive(Debug)]
struct Port {
    name: String,
    mac: Mac,
    kind: Kind,
    counters: PortCounters,
}

/// A NIC and what is registered for it; the JSON of `GET /nics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NicView {
    pub id: String,
    pub node: String,
    /// `node/interface`
    pub port: String,
    pub mac: Mac,
    pub vswitch: String,
    pub addresses: Vec<Addresses>,
}

/// The switch's whole state.
#[derive(Debug)]
pub struct Fabric {
    router: Mac,
    subnets: Vec<IpNet>,
    gateways: HashSet<IpAddr>,
    ports: Vec<Port>,
    owners: HashMap<IpAddr, PortId>,
    prefixes: Vec<(IpNet, PortId)>,
    nat: Option<PortId>,
    ipv6: Option<PortId>,
    flows: Flows,
    samples: Samples,
}

impl Fabric {
    /// The switch that a configuration describes. Ports are numbered as they are listed: NICs of instances, then infrastructure.
    pub fn new(config: &Config) -> Result<Self, RegistryError> {
        let mut fabric = Self {
            router: config.router_mac,
            subnets: config.vswitches.iter().flat_map(|vswitch| vswitch.prefixes()).collect(),
            gateways: config.vswitches.iter().flat_map(|vswitch| vswitch.gateways()).collect(),
            ports: Vec::new(),
            owners: HashMap::new(),
            prefixes: Vec::new(),
            nat: None,
            ipv6: None,
            flows: Flows::with_capacity(FLOWS),
            samples: Samples::default(),
        };
        for instance in &config.instances {
            for nic in &instance.nics {
                fabric.add_nic(config, instance, nic)?;
            }
        }
        for port in &config.infrastructure {
            fabric.add_infrastructure(port)?;
        }
        Ok(fabric)
    }

    fn add_nic(&mut self, config: &Config, instance: &Instance, nic: &Nic) -> Result<(), RegistryError> {
        let (id, node, vswitch) = (nic.id.clone(), instance.node.clone(), nic.vswitch.clone());
        let Some(subnet) = config.vswitch(&vswitch) else {
            return Err(RegistryError::NoSuchSubnet { nic: id, vswitch });
        };
        let kind = Kind::Nic { id, node, vswitch, prefixes: subnet.prefixes().collect(), registered: Vec::new() };
        self.add_port(format!("{}/{}", instance.node, nic.interface), nic.mac, kind)?;
        nic.addresses().try_for_each(|addresses| self.register(&nic.id, &addresses))
    }

    fn add_port(&mut self, name: String, mac: Mac, kind: Kind) -> Result<PortId, RegistryError> {
        let of_port = || self.ports.iter().find(|port| port.mac == mac).map(|port| port.name.clone());
        let owner = if mac == self.router { Some("the router".to_owned()) } else { of_port() };
        if let Some(owner) = owner {
            return Err(RegistryError::MacTaken { name, mac, owner });
        }
        self.ports.push(Port { name, mac, kind, counters: PortCounters::default() });
        Ok(PortId(self.ports.len() - 1))
    }

    fn add_infrastructure(&mut self, port: &Infrastructure) -> Result<(), RegistryError> {
        let id = self.add_port(port.name.clone(), port.mac, Kind::Infrastructure(port.role))?;
        let gateway = match port.role {
            Role::NatGateway => Some(&mut self.nat),
            Role::Ipv6Gateway => Some(&mut self.ipv6),
            Role::Balancer | Role::Service => None,
        };
        if let Some(other) = gateway.and_then(|gateway| gateway.replace(id)) {
            let other = self.ports[other.0].name.clone();
            return Err(RegistryError::RoleTaken { name: port.name.clone(), other, role: port.role });
        }
        for address in &port.addresses {
            self.free(&port.name, *address)?;
            self.owners.insert(*address, id);
        }
        Ok(())
    }

    /// Fails if the address already has an owner.
    fn free(&self, nic: &str, address: IpAddr) -> Result<(), RegistryError> {
        if self.gateways.contains(&address) {
            return Err(RegistryError::Gateway { nic: nic.to_owned(), address });
        }
        match self.owner(address) {
            Some(owner) => {
                Err(RegistryError::Taken { nic: nic.to_owned(), address, owner: self.ports[owner.0].name.clone() })
            }
            None => Ok(()),
        }
    }

    fn nic(&self, id: &str) -> Result<PortId, RegistryError> {
        let is_it = |port: &Port| matches!(&port.kind, Kind::Nic { id: other, .. } if other == id);
        self.ports.iter().position(is_it).map(PortId).ok_or_else(|| RegistryError::NoSuchNic(id.to_owned()))
    }

    /// Registers addresses for a NIC, all or none.
    pub fn register(&mut self, nic: &str, addresses: &Addresses) -> Result<(), RegistryError> {
        let port = self.nic(nic)?;
        let Kind::Nic { prefixes, vswitch, .. } = &self.ports[port.0].kind else { unreachable!("found as a NIC") };
        let (first, last) = addresses.ends();
        if !prefixes.iter().any(|prefix| prefix.contains(&first) && prefix.contains(&last)) {
            return Err(RegistryError::OutsideSubnet {
                nic: nic.to_owned(),
                addresses: addresses.clone(),
                vswitch: vswitch.clone(),
            });
        }
        match addresses.single() {
            Ok(single) => {
                single.iter().try_for_each(|address| self.free(nic, *address))?;
                self.owners.extend(single.into_iter().map(|address| (address, port)));
            }
            Err(prefix) => {
                self.free_prefix(nic, prefix)?;
                self.prefixes.push((prefix, port));
            }
        }
        if let Kind::Nic { registered, .. } = &mut self.ports[port.0].kind {
            registered.push(addresses.clone());
        }
        Ok(())
    }

    fn free_prefix(&self, nic: &str, prefix: IpNet) -> Result<(), RegistryError> {
        let overlaps = |other: &IpNet| other.contains(&prefix) || prefix.contains(other);
        if let Some((other, owner)) = self.prefixes.iter().find(|(other, _)| overlaps(other)) {
            let owner = self.ports[owner.0].name.clone();
            return Err(RegistryError::PrefixTaken { nic: nic.to_owned(), prefix, other: *other, owner });
        }
        let inside = self.owners.keys().chain(&self.gateways).find(|address| prefix.contains(*address));
        inside.map_or(Ok(()), |address| self.free(nic, *address))
    }

    /// Takes addresses back; they must have been registered in that very form.
    pub fn unregister(&mut self, nic: &str, addresses: &Addresses) -> Result<(), RegistryError> {
        let port = self.nic(nic)?;
        let Kind::Nic { registered, .. } = &mut self.ports[port.0].kind else { unreachable!("found as a NIC") };
        let Some(at) = registered.iter().position(|other| other == addresses) else {
            return Err(RegistryError::NotRegistered { nic: nic.to_owned(), addresses: addresses.clone() });
        };
        registered.remove(at);
        match addresses.single() {
            Ok(single) => self.owners.retain(|address, _| !single.contains(address)),
            Err(prefix) => self.prefixes.retain(|(other, _)| *other != prefix),
        }
        Ok(())
    }

    /// The NICs and their addresses.
    pub fn nics(&self) -> Vec<NicView> {
        let view = |port: &Port| match &port.kind {
            Kind::Nic { id, node, vswitch, registered, .. } => Some(NicView {
                id: id.clone(),
                node: node.clone(),
                port: port.name.clone(),
                mac: port.mac,
                vswitch: vswitch.clone(),
                addresses: registered.clone(),
            }),
            Kind::Infrastructure(_) => None,
        };
        self.ports.iter().filter_map(view).collect()
    }

    /// The names of the ports, in their order.
    pub fn port_names(&self) -> impl Iterator<Item = &str> {
        self.ports.iter().map(|port| port.name.as_str())
    }

    /// All counters as of now.
    pub fn report(&self) -> Report {
        report(self.ports.iter().map(|port| (port.name.clone(), port.counters.clone())), &self.samples)
    }

    /// The balanced flows, by what their replies look like, with the balancer's name.
    pub fn flows(&self, now: Duration) -> impl Iterator<Item = (&FlowKey, &Flow, &str)> {
        self.flows.live(now).map(|(key, flow)| (key, flow, self.ports[flow.port.0].name.as_str()))
    }

    /// Judges the frame `buffer[..length]` that came from a port, and counts the verdict. The buffer must hold 128 bytes or
    /// more, whatever the frame's length, for an answer may be longer than its question.
    pub fn forward(&mut self, now: Duration, from: PortId, buffer: &mut [u8], length: usize) -> Verdict {
        let parsed = parse(&buffer[..length]);
        self.ports[from.0].counters.sent += 1;
        let verdict = self.verdict(now, from, buffer, length, parsed.as_ref());
        let counters = &mut self.ports[from.0].counters;
        match verdict {
            Verdict::Answer(_) => counters.answered += 1,
            Verdict::Silence => counters.unanswered += 1,
            Verdict::Deliver(to) => self.ports[to.0].counters.received += 1,
            Verdict::Drop(reason) => self.note_drop(now, from, &buffer[..length], parsed.as_ref(), reason),
        }
        verdict
    }

    /// Takes a delivery back because the interface behind the port did not accept the frame.
    pub fn undeliverable(&mut self, now: Duration, from: PortId, to: PortId, frame: &[u8]) {
        self.ports[to.0].counters.received -= 1;
        self.note_drop(now, from, frame, parse(frame).as_ref(), Reason::PortDown);
    }

    fn note_drop(&mut self, now: Duration, from: PortId, frame: &[u8], parsed: Option<&Parsed>, reason: Reason) {
        let class = Class::of(frame, parsed);
        let port = &mut self.ports[from.0];
        count(&mut port.counters.drops, reason, class);
        let sample = Sample { at: now.as_secs_f64(), port: port.name.clone(), class, frame: describe(frame, parsed) };
        self.samples.keep(reason, sample);
    }

    fn verdict(
        &mut self,
        now: Duration,
        from: PortId,
        buffer: &mut [u8],
        length: usize,
        parsed: Option<&Parsed>,
    ) -> Verdict {
        let Some(parsed) = parsed else { return Verdict::Drop(Reason::Malformed) };
        if length > LONGEST {
            return Verdict::Drop(Reason::TooLong);
        }
        if let Err(reason) = self.check_sender(from, parsed) {
            return Verdict::Drop(reason);
        }
        match parsed.body {
            Body::Arp { request, target, .. } => self.arp(from, buffer, request, target),
            Body::Neighbour { kind, source, target, .. } => self.neighbour(from, buffer, kind, source, target),
            Body::Packet { .. } if parsed.destination.is_broadcast() => Verdict::Drop(Reason::Broadcast),
            Body::Packet { .. } if parsed.destination.is_group() => Verdict::Drop(Reason::Multicast),
            Body::Packet { destination, .. } if is_broadcast(destination) => Verdict::Drop(Reason::Broadcast),
            Body::Packet { destination, .. } if destination.is_multicast() => Verdict::Drop(Reason::Multicast),
            Body::Packet { destination, echo_request: true, .. } if self.gateways.contains(&destination) => {
                reply::echo(buffer, self.router);
                Verdict::Answer(length)
            }
            Body::Packet { destination, flow, .. } => self.packet(now, from, buffer, destination, flow),
            Body::Other(_) => Verdict::Drop(Reason::UnsupportedProtocol),
        }
    }

    /// The rule that makes a VPC: MAC and address must be the NIC's own. Questions from nobody (`0.0.0.0`, `::`) and
    /// neighbour messages from link-local addresses are allowed.
    fn check_sender(&self, from: PortId, parsed: &Parsed) -> Result<(), Reason> {
        let port = &self.ports[from.0];
        if matches!(port.kind, Kind::Infrastructure(_)) {
            return Ok(());
        }
        let (inner_mac, address) = match parsed.body {
            Body::Arp { sender_mac, sender, .. } => {
                (Some(sender_mac), Some(sender.into()).filter(|_| !sender.is_unspecified()))
            }
            Body::Neighbour { kind: Neighbour::Advertisement, target, link_address, .. } => {
                (link_address, Some(target.into()))
            }
            Body::Neighbour { source, link_address, .. } => {
                (link_address, Some(source.into()).filter(|_| !source.is_unspecified()))
            }
            Body::Packet { source, .. } => (None, Some(source)),
            Body::Other(_) => (None, None),
        };
        if parsed.source != port.mac || inner_mac.is_some_and(|mac| mac != port.mac) {
            return Err(Reason::UnknownSourceMac);
        }
        let in_neighbour = matches!(parsed.body, Body::Neighbour { .. });
        let group_noise = matches!(parsed.body, Body::Packet { .. }) && parsed.destination.is_group();
        match address {
            Some(IpAddr::V6(address)) if is_link_local(address) && (in_neighbour || group_noise) => Ok(()),
            // Nobody's source is how listener reports and DHCP begin; they go nowhere anyway.
            Some(address) if address.is_unspecified() && group_noise => Ok(()),
            Some(address) if self.owner(address) != Some(from) => Err(Reason::UnknownSourceAddress),
            _ => Ok(()),
        }
    }

    fn arp(&self, from: PortId, buffer: &mut [u8], request: bool, target: Ipv4Addr) -> Verdict {
        if !request || self.owner(target.into()) == Some(from) {
            return Verdict::Silence;
        }
        Verdict::Answer(reply::arp(buffer, self.router))
    }

    fn neighbour(
        &self,
        from: PortId,
        buffer: &mut [u8],
        kind: Neighbour,
        source: Ipv6Addr,
        target: Ipv6Addr,
    ) -> Verdict {
        // A link-local address is never registered: the one whose uniqueness is asked for is the asker's own.
        let own = self.owner(target.into()) == Some(from) || (source.is_unspecified() && is_link_local(target));
        if kind == Neighbour::Advertisement || own {
            return Verdict::Silence;
        }
        let is_gateway = self.gateways.contains(&target.into());
        Verdict::Answer(reply::advertisement(buffer, self.router, source, target, is_gateway))
    }

    fn packet(
        &mut self,
        now: Duration,
        from: PortId,
        buffer: &mut [u8],
        destination: IpAddr,
        flow: Option<FlowKey>,
    ) -> Verdict {
        let to = match self.route(now, destination, flow) {
            Ok(to) if to == from => return Verdict::Drop(Reason::Hairpin),
            Ok(to) => to,
            Err(reason) => return Verdict::Drop(reason),
        };
        let is_balancer = matches!(self.ports[from.0].kind, Kind::Infrastructure(Role::Balancer));
        if let Some(flow) = flow.filter(|flow| is_balancer && self.is_outside(flow.source.0)) {
            self.flows.request(now, flow, from);
        }
        buffer[..6].copy_from_slice(&self.ports[to.0].mac.0);
        buffer[6..12].copy_from_slice(&self.router.0);
        Verdict::Deliver(to)
    }

    fn route(&mut self, now: Duration, destination: IpAddr, flow: Option<FlowKey>) -> Result<PortId, Reason> {
        if let Some(owner) = self.owner(destination) {
            return Ok(owner);
        }
        if !self.is_outside(destination) {
            return Err(Reason::NoSuchDestination);
        }
        if let Some(balancer) = flow.and_then(|flow| self.flows.reply(now, &flow)) {
            return Ok(balancer);
        }
        let gateway = if destination.is_ipv4() { self.nat } else { self.ipv6 };
        gateway.ok_or(Reason::NoGateway)
    }

    fn owner(&self, address: IpAddr) -> Option<PortId> {
        let by_prefix = || self.prefixes.iter().find(|(prefix, _)| prefix.contains(&address)).map(|(_, port)| *port);
        self.owners.get(&address).copied().or_else(by_prefix)
    }

    /// Whether the address is neither owned nor in a subnet, and can be routed at all.
    fn is_outside(&self, address: IpAddr) -> bool {
        let local = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback() || v4.is_unspecified(),
            IpAddr::V6(v6) => is_link_local(v6) || v6.is_loopback() || v6.is_unspecified(),
        };
        !local && self.owner(address).is_none() && !self.subnets.iter().any(|subnet| subnet.contains(&address))
    }
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local()
}
