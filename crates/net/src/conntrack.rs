//! Connection tracking: forgetting the connections of an address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::NlasIterator;

use crate::socket::Socket;
use crate::{Error, Family};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`, and DELETE beside it (linux/netfilter/nfnetlink_conntrack.h).
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const REQUEST_ACK: u16 = 0x5;
const REQUEST_DUMP: u16 = 0x301;

/// An entry: the attributes that identify it, as the kernel wrote them.
struct Entry {
    family: Family,
    key: Vec<u8>,
}

/// Removes the entries of the calling thread's namespace that name one of the addresses, in either direction, and
/// says how many there were. A kernel without connection tracking has none.
///
/// # Errors
/// The listing failed, or an entry could not be removed although it is still there.
pub fn forget(addresses: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    if addresses.is_empty() {
        return Ok(0);
    }
    let mut socket = match Socket::open(netlink_sys::protocols::NETLINK_NETFILTER) {
        Err(error) if error.unsupported() => return Ok(0),
        other => other?,
    };
    let mut forgotten = 0;
    for family in Family::BOTH {
        if !addresses.iter().any(|address| Family::of(*address) == family) {
            continue;
        }
        let listed = socket.dump(
            "listing connections",
            |sequence| request(GET, REQUEST_DUMP, sequence, family, &[]),
            |message| Ok(entry(message.payload, family, addresses)),
        );
        let entries = match listed {
            Err(error) if error.unsupported() || error.errno() == Some(libc::EINVAL) => continue,
            other => other?,
        };
        for entry in entries {
            forgotten += usize::from(delete(&mut socket, &entry)?);
        }
    }
    Ok(forgotten)
}

fn delete(socket: &mut Socket, entry: &Entry) -> Result<bool, Error> {
    let doing = "deleting a connection";
    let sequence = socket.next_sequence();
    socket.send(doing, &request(DELETE, REQUEST_ACK, sequence, entry.family, &entry.key))?;
    let mut verdict = None;
    while verdict.is_none() {
        socket.receive(doing, |message| {
            if message.sequence == sequence {
                verdict = message.verdict();
            }
            Ok(())
        })?;
    }
    match verdict {
        Some(Err((libc::ENOENT, _))) => Ok(false), // ended by itself meanwhile
        Some(Err((errno, said))) => Err(Error::Refused { doing: doing.to_owned(), errno, said }),
        _ => Ok(true),
    }
}

/// Header and `nfgenmsg`, then the attributes as they are.
fn request(kind: u16, flags: u16, sequence: u32, family: Family, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).expect("an entry has some hundred bytes");
    let mut bytes = Vec::with_capacity(20 + attributes.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    let family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    bytes.extend([u8::try_from(family).expect("families are small"), 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// What identifies the entry, if it names one of the addresses.
fn entry(payload: &[u8], family: Family, addresses: &BTreeSet<IpAddr>) -> Option<Entry> {
    let (mut key, mut named) = (Vec::new(), false);
    for attribute in NlasIterator::new(payload.get(4..)?).flatten() {
        let kind = attribute.kind();
        if matches!(kind, TUPLE_ORIGINAL | TUPLE_REPLY) {
            named |= tuple_addresses(attribute.value()).any(|address| addresses.contains(&address));
        }
        if matches!(kind, TUPLE_ORIGINAL | ID | ZONE) {
            let length = usize::from(attribute.length());
            key.extend(&attribute.into_inner()[..length]);
            key.resize(key.len().next_multiple_of(4), 0);
        }
    }
    named.then_some(Entry { family, key })
}

fn tuple_addresses(tuple: &[u8]) -> impl Iterator<Item = IpAddr> {
    let inner = NlasIterator::new(tuple).flatten().filter(|attribute| attribute.kind() == TUPLE_IP);
    inner.flat_map(|ip| {
        let length = usize::from(ip.length());
        let addresses = NlasIterator::new(&ip.into_inner()[4..length]).flatten();
        addresses.filter_map(|address| match address.value() {
            value if value.len() == 4 => value.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
            value => value.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        })
    })
}
