//! Telling the network where an address is: gratuitous ARP (RFC 5227, section 3) and unsolicited neighbour
//! advertisements (RFC 4861, section 7.2.6). Probing for other owners will live beside it.

#![allow(unsafe_code)] // packet sockets take an address type that no safe interface offers

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::{Error, Mac};

const BROADCAST: Mac = Mac([0xff; 6]);
/// ff02::1, all nodes, and its Ethernet address.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// Announces an address on a link of the calling thread's namespace. The link must be up.
pub fn announce(link: u32, mac: Mac, address: IpAddr) -> Result<(), Error> {
    let (frame, protocol) = match address {
        IpAddr::V4(address) => (gratuitous_arp(mac, address), ARP),
        IpAddr::V6(address) => (unsolicited_advertisement(mac, address), IPV6),
    };
    send(link, protocol, &frame).map_err(|error| Error::io(format!("announcing {address} on interface {link}"), error))
}

fn ethernet(to: Mac, from: Mac, protocol: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(protocol.to_be_bytes());
    frame
}

/// An ARP request whose sender and target are the address itself.
fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]); // Ethernet, IPv4, lengths, request
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend(BROADCAST.0);
    frame.extend(address.octets());
    frame
}

/// An advertisement to all nodes with the override flag and the link-layer address.
fn unsolicited_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut icmp = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    icmp.extend(address.octets());
    icmp.extend([2, 1]);
    icmp.extend(mac.0);
    let checksum = icmpv6_checksum(address, ALL_NODES, &icmp);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());

    let length = u16::try_from(icmp.len()).expect("an advertisement has 32 bytes");
    let mut frame = ethernet(ALL_NODES_MAC, mac, IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(icmp);
    frame
}

/// RFC 4443, section 2.3: over a pseudo-header of addresses, length and next header, then the message.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).expect("a message fits a packet");
    let mut bytes = [source.octets(), destination.octets()].concat();
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(message);
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

fn send(link: u32, protocol: u16, frame: &[u8]) -> io::Result<()> {
    // SAFETY: plain system call without pointers; the new descriptor has no other owner.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: every field of sockaddr_ll is an integer, for which zero is valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).expect("families are small");
    to.sll_protocol = protocol.to_be();
    to.sll_ifindex = i32::try_from(link).map_err(io::Error::other)?;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&frame[..6]);
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).expect("an address is small");
    // SAFETY: frame and address outlive the call, and the sizes passed are theirs.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), size)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([0x0a, 0x1b, 10, 6, 2, 1]);

    #[test]
    fn a_gratuitous_arp_names_the_address_twice() {
        let frame = gratuitous_arp(OWN, Ipv4Addr::new(10, 6, 2, 1));
        let expected =
            "ffffffffffff 0a1b0a060201 0806 0001 0800 06 04 0001 0a1b0a060201 0a060201 ffffffffffff 0a060201";
        assert_eq!(hex(&frame), expected.replace(' ', ""));
    }

    #[test]
    fn an_advertisement_has_a_checksum_that_adds_up() {
        let address: Ipv6Addr = "fd00:10:6::2:1".parse().unwrap();
        let frame = unsolicited_advertisement(OWN, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        // A receiver sums the message with its checksum in place and must get zero.
        assert_eq!(icmpv6_checksum(address, ALL_NODES, &frame[54..]), 0);
        assert_eq!(hex(&frame[78..]), "02010a1b0a060201");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
