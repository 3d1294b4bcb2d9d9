//! What the switch reads in a frame: enough to judge its sender and to find its receiver, and no more.
//!
//! Headers are checked as far as they are read (RFC 791, 826, 4443, 4861, 8200); a frame that does not hold together is
//! `None` and dropped as malformed.

use super::mac::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// The longest frame a port may send: an MTU of 1500 and the header.
pub const LONGEST: usize = ETHERNET + 1500;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// A transport flow, seen from the sender of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub protocol: u8,
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
}

impl FlowKey {
    /// The same flow seen from the other end.
    pub fn reversed(self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

/// Whether a neighbour message asks or tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    Solicitation,
    Advertisement,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// ARP for IPv4 over Ethernet.
    Arp { request: bool, sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr },
    /// Neighbour discovery, with the source or target link-layer address option.
    Neighbour { kind: Neighbour, source: Ipv6Addr, target: Ipv6Addr, link_address: Option<Mac> },
    /// Any other IP packet. `flow` is the TCP or UDP flow that it belongs to, for an ICMP error the flow it reports on.
    Packet { source: IpAddr, destination: IpAddr, flow: Option<FlowKey>, echo_request: bool },
    /// Another EtherType.
    Other(u16),
}

/// A frame as far as the switch reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    pub destination: Mac,
    pub source: Mac,
    pub body: Body,
}

/// Reads a frame. `None`: cut short or contradicting itself.
pub fn parse(frame: &[u8]) -> Option<Parsed> {
    let (header, payload) = frame.split_at_checked(ETHERNET)?;
    let ethertype = be16(header, 12)?;
    let body = match ethertype {
        0x0806 => arp(payload)?,
        0x0800 => ipv4(payload)?,
        0x86dd => ipv6(payload)?,
        other => Body::Other(other),
    };
    Some(Parsed { destination: mac(header, 0)?, source: mac(header, 6)?, body })
}

fn arp(packet: &[u8]) -> Option<Body> {
    // Ethernet, IPv4, their address lengths.
    if packet.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let request = match be16(packet, 6)? {
        1 => true,
        2 => false,
        _ => return None,
    };
    Some(Body::Arp { request, sender_mac: mac(packet, 8)?, sender: v4(packet, 14)?, target: v4(packet, 24)? })
}

fn ipv4(packet: &[u8]) -> Option<Body> {
    let first = *packet.first()?;
    let (header_length, total) = (usize::from(first & 0xf) * 4, usize::from(be16(packet, 2)?));
    if first >> 4 != 4 || header_length < 20 || total < header_length || total > packet.len() {
        return None;
    }
    if super::reply::sum(&packet[..header_length], 0) != 0xffff {
        return None;
    }
    let (source, destination) = (IpAddr::V4(v4(packet, 12)?), IpAddr::V4(v4(packet, 16)?));
    let fragment_offset = be16(packet, 6)? & 0x1fff;
    let payload = &packet[header_length..total];
    if fragment_offset != 0 {
        return Some(Body::Packet { source, destination, flow: None, echo_request: false });
    }
    let flow = match packet[9] {
        // Destination unreachable, time exceeded, parameter problem.
        ICMP if matches!(payload.first(), Some(3 | 11 | 12)) => {
            payload.get(8..).and_then(quoted_ipv4).map(FlowKey::reversed)
        }
        protocol => transport(protocol, source, destination, payload),
    };
    Some(Body::Packet { source, destination, flow, echo_request: packet[9] == ICMP && payload.first() == Some(&8) })
}

/// The flow of the packet quoted in an ICMP error: its header and at least eight bytes more.
fn quoted_ipv4(packet: &[u8]) -> Option<FlowKey> {
    let header_length = usize::from(packet.first()? & 0xf) * 4;
    let (source, destination) = (IpAddr::V4(v4(packet, 12)?), IpAddr::V4(v4(packet, 16)?));
    transport(packet[9], source, destination, packet.get(header_length..)?)
}

fn ipv6(packet: &[u8]) -> Option<Body> {
    let length = usize::from(be16(packet, 4)?);
    if packet.len() < 40 || packet[0] >> 4 != 6 || length > packet.len() - 40 {
        return None;
    }
    let (source, destination) = (v6(packet, 8)?, v6(packet, 24)?);
    let (protocol, payload) = upper_layer(packet[6], &packet[40..40 + length])?;
    if protocol == ICMPV6 && matches!(payload.first(), Some(135 | 136)) {
        // RFC 4861 §7.1: a hop limit below 255 means that a router forwarded it.
        return if packet[7] == 255 { neighbour(source, payload) } else { None };
    }
    let (from, to) = (IpAddr::V6(source), IpAddr::V6(destination));
    let flow = match protocol {
        ICMPV6 if matches!(payload.first(), Some(1..=4)) => {
            payload.get(8..).and_then(quoted_ipv6).map(FlowKey::reversed)
        }
        protocol => transport(protocol, from, to, payload),
    };
    let echo_request = protocol == ICMPV6 && packet[6] == ICMPV6 && payload.first() == Some(&128);
    Some(Body::Packet { source: from, destination: to, flow, echo_request })
}

fn quoted_ipv6(packet: &[u8]) -> Option<FlowKey> {
    let (source, destination) = (IpAddr::V6(v6(packet, 8)?), IpAddr::V6(v6(packet, 24)?));
    let (protocol, payload) = upper_layer(packet[6], packet.get(40..)?)?;
    transport(protocol, source, destination, payload)
}

/// Skips extension headers (RFC 8200 §4). A later fragment has no upper layer that could be read: protocol 59, "none".
fn upper_layer(mut protocol: u8, mut rest: &[u8]) -> Option<(u8, &[u8])> {
    loop {
        let length = match protocol {
            0 | 43 | 60 => (usize::from(*rest.get(1)?) + 1) * 8,
            44 if be16(rest, 2)? & 0xfff8 != 0 => return Some((59, &[])),
            44 => 8,
            _ => return Some((protocol, rest)),
        };
        protocol = *rest.first()?;
        rest = rest.get(length..)?;
    }
}

fn neighbour(source: Ipv6Addr, message: &[u8]) -> Option<Body> {
    let kind = if message[0] == 135 { Neighbour::Solicitation } else { Neighbour::Advertisement };
    let wanted = if kind == Neighbour::Solicitation { 1 } else { 2 };
    let target = v6(message, 8)?;
    let mut options = message.get(24..)?;
    let mut link_address = None;
    while !options.is_empty() {
        let length = usize::from(*options.get(1)?) * 8;
        let (option, rest) = options.split_at_checked(length).filter(|_| length > 0)?;
        if option[0] == wanted {
            link_address = Some(mac(option, 2)?);
        }
        options = rest;
    }
    Some(Body::Neighbour { kind, source, target, link_address })
}

fn transport(protocol: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Option<FlowKey> {
    if !matches!(protocol, TCP | UDP) {
        return None;
    }
    let (from, to) = (be16(payload, 0)?, be16(payload, 2)?);
    Some(FlowKey { protocol, source: (source, from), destination: (destination, to) })
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().expect("two bytes")))
}

fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    Some(Mac(bytes.get(at..at + 6)?.try_into().expect("six bytes")))
}

fn v4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().expect("four bytes");
    Some(octets.into())
}

fn v6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().expect("sixteen bytes");
    Some(octets.into())
}
