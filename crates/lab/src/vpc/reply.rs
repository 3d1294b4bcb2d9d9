//! Frames that the router itself sends: answers to ARP, neighbour discovery and echo requests, made in the buffer that
//! held the question.

use super::frame::{ETHERNET, ICMPV6, be16};
use super::mac::Mac;
use std::net::Ipv6Addr;

/// Length of a neighbour advertisement with its link-layer address option.
const ADVERTISEMENT: usize = ETHERNET + 40 + 32;

/// Turns an ARP request into the router's reply; returns the length.
pub fn arp(buffer: &mut [u8], router: Mac) -> usize {
    const END: usize = ETHERNET + 28;
    let packet = &mut buffer[ETHERNET..END];
    packet[7] = 2;
    let (asker, target): ([u8; 10], [u8; 4]) =
        (packet[8..18].try_into().expect("MAC and IPv4"), packet[24..28].try_into().expect("IPv4"));
    packet[8..14].copy_from_slice(&router.0);
    packet[14..18].copy_from_slice(&target);
    packet[18..28].copy_from_slice(&asker);
    turn(buffer, router);
    END
}

/// Writes the router's advertisement of `target` over a solicitation; returns the length.
///
/// A solicitation from `::` is answered to all nodes, unsolicited flag (RFC 4861 §7.2.4).
pub fn advertisement(buffer: &mut [u8], router: Mac, asker: Ipv6Addr, target: Ipv6Addr, is_gateway: bool) -> usize {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (to, solicited) = if asker.is_unspecified() { (all_nodes, 0) } else { (asker, 0x40) };
    turn(buffer, router);
    if asker.is_unspecified() {
        buffer[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    }
    let packet = &mut buffer[ETHERNET..ADVERTISEMENT];
    packet.fill(0);
    packet[0] = 0x60;
    packet[5] = 32;
    packet[6] = ICMPV6;
    packet[7] = 255;
    packet[8..24].copy_from_slice(&target.octets());
    packet[24..40].copy_from_slice(&to.octets());
    packet[40] = 136;
    packet[44] = 0x20 | solicited | if is_gateway { 0x80 } else { 0 };
    packet[48..64].copy_from_slice(&target.octets());
    packet[64..66].copy_from_slice(&[2, 1]);
    packet[66..72].copy_from_slice(&router.0);
    let pseudo_header = sum(&packet[8..40], 32 + u32::from(ICMPV6));
    let checksum = !sum(&packet[40..72], u32::from(pseudo_header));
    packet[42..44].copy_from_slice(&checksum.to_be_bytes());
    ADVERTISEMENT
}

/// Turns an echo request to the router into its reply. IPv6 requests have no extension headers here.
pub fn echo(buffer: &mut [u8], router: Mac) {
    turn(buffer, router);
    let v6 = buffer[ETHERNET] >> 4 == 6;
    let (addresses, width, message) = if v6 {
        (ETHERNET + 8, 16, ETHERNET + 40)
    } else {
        (ETHERNET + 12, 4, ETHERNET + usize::from(buffer[ETHERNET] & 0xf) * 4)
    };
    let (source, destination) = buffer[addresses..addresses + 2 * width].split_at_mut(width);
    source.swap_with_slice(destination);
    // Only the type changes, by a known amount: RFC 1624. Swapping addresses leaves every sum as it is.
    let (reply, fall) = if v6 { (129u8, 0xfeffu32) } else { (0, 0x0800) };
    buffer[message] = reply;
    let old = u32::from(be16(buffer, message + 2).expect("an echo request has a checksum"));
    let raised = old + fall;
    let new = u16::try_from((raised & 0xffff) + (raised >> 16)).expect("both terms together fit");
    buffer[message + 2..message + 4].copy_from_slice(&new.to_be_bytes());
}

/// Sends the frame back to its sender, from the router.
fn turn(buffer: &mut [u8], router: Mac) {
    buffer.copy_within(6..12, 0);
    buffer[6..12].copy_from_slice(&router.0);
}

/// The ones' complement sum of RFC 1071 over `bytes`, begun with `start`.
pub fn sum(bytes: &[u8], start: u32) -> u16 {
    let pairs = bytes.chunks_exact(2);
    let odd = pairs.remainder().first().map_or(0, |last| u32::from(*last) << 8);
    let mut total = start + odd + pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).expect("folded to sixteen bits")
}
