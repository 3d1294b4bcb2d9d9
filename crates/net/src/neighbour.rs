//! Neighbour entries: which hardware address an IP address has on a link.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteType;

use crate::netlink::{CREATE, REPLACE, Request};
use crate::rule::family;
use crate::{Error, Family, Mac, Netlink};

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the link.
    pub link: u32,
    pub address: IpAddr,
    /// Absent while the kernel is looking for it, or gave up.
    pub mac: Option<Mac>,
    pub permanent: bool,
}

impl Neighbour {
    /// Sets a permanent entry, replacing what the table has for this address on this link.
    pub fn set(link: u32, address: IpAddr, mac: Mac) -> Request {
        let mut message = Self::message(link, address);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let doing = format!("setting neighbour {address} of interface {link} to {mac}");
        Request::new(RouteNetlinkMessage::NewNeighbour(message), CREATE | REPLACE, doing)
    }

    /// Removes the entry.
    pub fn delete(&self) -> Request {
        let doing = format!("deleting neighbour {} of interface {}", self.address, self.link);
        Request::new(RouteNetlinkMessage::DelNeighbour(Self::message(self.link, self.address)), 0, doing)
    }

    fn message(link: u32, address: IpAddr) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family(Family::of(address));
        message.header.ifindex = link;
        message.header.kind = RouteType::Unspec;
        let address = match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        message.attributes.push(NeighbourAttribute::Destination(address));
        message
    }

    fn parse(message: NeighbourMessage) -> Option<Self> {
        let (mut address, mut mac) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(found.into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => address = Some(found.into()),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok().map(Mac),
                _ => {}
            }
        }
        let permanent = message.header.state == NeighbourState::Permanent;
        Some(Self { link: message.header.ifindex, address: address?, mac, permanent })
    }
}

impl Netlink {
    /// The neighbour entries of a family, on all links.
    pub fn neighbours(&mut self, wanted: Family) -> Result<Vec<Neighbour>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(wanted);
        self.dump("listing neighbours", &RouteNetlinkMessage::GetNeighbour(message), |message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => Neighbour::parse(neighbour),
            _ => None,
        })
    }
}
