//! Links and their addresses.

use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{CREATE, EXCLUSIVE, Request};
use crate::{Error, Mac, Netlink, Netns};

/// What is known of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Absent for links without a six-byte address.
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub tx_queue_len: u32,
    pub up: bool,
    pub loopback: bool,
    /// `veth`, `macvlan`, `ipvlan`, ...; absent for physical NICs.
    pub kind: Option<String>,
    /// The peer of a veth, the parent of a macvlan or ipvlan: an index in that link's namespace.
    pub partner: Option<u32>,
}

/// One end of a veth pair that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
}

/// What to change on a link; absent means leave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    pub up: Option<bool>,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub tx_queue_len: Option<u32>,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The address and its prefix length.
    pub address: IpNet,
    /// Reachable beyond the link and the host.
    pub global: bool,
    /// Duplicate address detection found another owner.
    pub duplicate: bool,
}

impl Link {
    /// Makes a veth pair: `here` in the namespace of the socket, `there` in another one. Both ends get their hardware
    /// address at once, so that no name service daemon gives them another one later.
    pub fn add_veth(here: &VethEnd, there: &VethEnd, namespace: &Netns) -> Request {
        let end = |end: &VethEnd| {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::IfName(end.name.clone()));
            message.attributes.push(LinkAttribute::Mtu(end.mtu));
            message.attributes.push(LinkAttribute::Address(end.mac.0.to_vec()));
            message
        };
        let (mut message, mut peer) = (end(here), end(there));
        peer.attributes.push(LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let doing = format!("adding veth {} with peer {} in {}", here.name, there.name, namespace.path().display());
        Request::new(RouteNetlinkMessage::NewLink(message), CREATE | EXCLUSIVE, doing)
    }

    /// Removes a link (and the peer of a veth).
    pub fn delete(&self) -> Request {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        Request::new(RouteNetlinkMessage::DelLink(message), 0, format!("deleting interface {}", self.name))
    }

    /// Changes a link.
    pub fn change(&self, change: &LinkChange) -> Request {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        let mut words = Vec::new();
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            words.push(if up { "up".to_owned() } else { "down".to_owned() });
        }
        if let Some(mac) = change.mac {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
            words.push(format!("address {mac}"));
        }
        if let Some(mtu) = change.mtu {
            message.attributes.push(LinkAttribute::Mtu(mtu));
            words.push(format!("mtu {mtu}"));
        }
        if let Some(length) = change.tx_queue_len {
            message.attributes.push(LinkAttribute::TxQueueLen(length));
            words.push(format!("txqueuelen {length}"));
        }
        let doing = format!("setting interface {} {}", self.name, words.join(" "));
        Request::new(RouteNetlinkMessage::SetLink(message), 0, doing)
    }

    fn parse(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::TxQueueLen(length) => link.tx_queue_len = length,
                LinkAttribute::Link(index) => link.partner = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

impl Address {
    /// Adds an address to its link.
    pub fn add(&self) -> Request {
        let doing = format!("adding address {} to interface {}", self.address, self.link);
        Request::new(RouteNetlinkMessage::NewAddress(self.message()), CREATE | EXCLUSIVE, doing)
    }

    /// Removes an address from its link.
    pub fn delete(&self) -> Request {
        let doing = format!("deleting address {} of interface {}", self.address, self.link);
        Request::new(RouteNetlinkMessage::DelAddress(self.message()), 0, doing)
    }

    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(self.address);
        message.header.prefix_len = self.address.prefix_len();
        message.header.index = self.link;
        if !self.global {
            message.header.scope = AddressScope::Link;
        }
        message.attributes.push(AddressAttribute::Local(self.address.addr()));
        message.attributes.push(AddressAttribute::Address(self.address.addr()));
        message
    }

    fn parse(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut other, mut flags) = (None, None, AddressFlags::empty());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Address(address) => other = Some(*address),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        // IPv4 and point-to-point: the local address is its own attribute, and the other one is the peer's.
        let address = IpNet::new(local.or(other)?, message.header.prefix_len).ok()?;
        Some(Self {
            link: message.header.index,
            address,
            global: message.header.scope == AddressScope::Universe,
            duplicate: flags.contains(AddressFlags::Dadfailed),
        })
    }
}

fn family(net: IpNet) -> AddressFamily {
    if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

impl Netlink {
    /// All links of the namespace, by index.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut links = self.dump("listing interfaces", &request, |message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Link::parse(link)),
            _ => None,
        })?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The link of a name.
    ///
    /// # Errors
    /// [`Error::NoLink`] if there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.fetch_link(message, name)
    }

    /// The link of an index.
    pub fn link_at(&mut self, index: u32) -> Result<Link, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.fetch_link(message, &format!("number {index}"))
    }

    fn fetch_link(&mut self, message: LinkMessage, name: &str) -> Result<Link, Error> {
        match self.fetch(&format!("looking for interface {name}"), RouteNetlinkMessage::GetLink(message)) {
            Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Link::parse(link)),
            Ok(_) => Err(Error::NoLink { name: name.to_owned() }),
            Err(error) if error.not_there() => Err(Error::NoLink { name: name.to_owned() }),
            Err(error) => Err(error),
        }
    }

    /// All addresses of the namespace, in the kernel's order, IPv4 first.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = AddressMessage::default();
            message.header.family = family;
            let request = RouteNetlinkMessage::GetAddress(message);
            all.extend(self.dump("listing addresses", &request, |message| match message {
                RouteNetlinkMessage::NewAddress(address) => Address::parse(&address),
                _ => None,
            })?);
        }
        Ok(all)
    }
}
