//! Interfaces of the calling thread's network namespace, by netlink: cheaper than a process that does it.

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

/// Sets an interface up.
pub fn set_up(name: &str) -> Result<()> {
    let what = || format!("cannot set {name} up");
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).with_context(what)?;
    let mut link = LinkMessage::default();
    link.header.index = netdevice::name_to_index(&any, name).with_context(what)?;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_ROUTE).with_context(what)?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).with_context(what)?;
    let (answer, _) = socket.recv_from_full().with_context(what)?;
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).with_context(what)?.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()).with_context(what),
        _ => Ok(()),
    }
}
