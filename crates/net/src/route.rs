//! Routes, in any table.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType,
};

use crate::netlink::{APPEND, CREATE, EXCLUSIVE, Request};
use crate::rule::family;
use crate::{Error, Family, Netlink};

/// The table that is looked at when no rule says otherwise.
pub const MAIN_TABLE: u32 = 254;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub table: u32,
    pub kind: RouteKind,
    /// One hop for an ordinary route, several for a multipath route, none for routes that refuse.
    pub hops: Vec<Hop>,
    /// The source address for packets that have none yet.
    pub source: Option<IpAddr>,
    /// The kernel shows 1024 for IPv6 routes made without.
    pub metric: Option<u32>,
    pub scope: Scope,
    pub mtu: Option<u32>,
    /// The kernel made the route itself, with an address.
    pub kernel: bool,
}

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the link.
    pub link: u32,
    pub gateway: Option<IpAddr>,
    /// The gateway need not be on a network of the link.
    pub on_link: bool,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Forwards.
    Unicast,
    /// Anything else: local, broadcast, multicast, unreachable, ...
    Other,
}

/// How far away a destination is; IPv4 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Behind a gateway.
    Global,
    /// On the link.
    Link,
    /// Anything else.
    Other,
}

impl Route {
    /// A route in a table by one hop. Its scope follows from the hop.
    pub fn new(destination: IpNet, table: u32, hop: Hop) -> Self {
        let scope = if hop.gateway.is_some() { Scope::Global } else { Scope::Link };
        Self {
            destination,
            table,
            kind: RouteKind::Unicast,
            hops: vec![hop],
            source: None,
            metric: None,
            scope,
            mtu: None,
            kernel: false,
        }
    }

    /// The family of the route.
    pub fn family(&self) -> Family {
        Family::of(self.destination.addr())
    }

    /// Whether this is a default route.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }

    /// Adds the route; fails if one with the same destination and metric exists in the table.
    pub fn add(&self) -> Request {
        Request::new(
            RouteNetlinkMessage::NewRoute(self.message(RouteProtocol::Boot)),
            CREATE | EXCLUSIVE,
            format!("adding route {self}"),
        )
    }

    /// Adds the route before those with the same destination and metric. IPv6 knows no order among them: there it
    /// becomes a further leg of a multipath route.
    pub fn prepend(&self) -> Request {
        let flags = if self.family() == Family::V6 { CREATE | APPEND } else { CREATE };
        Request::new(
            RouteNetlinkMessage::NewRoute(self.message(RouteProtocol::Boot)),
            flags,
            format!("adding route {self}"),
        )
    }

    /// Adds the route behind those with the same destination and metric.
    pub fn append(&self) -> Request {
        Request::new(
            RouteNetlinkMessage::NewRoute(self.message(RouteProtocol::Boot)),
            CREATE | APPEND,
            format!("adding route {self}"),
        )
    }

    /// Removes the route. Destination, table, hop and metric select it.
    pub fn delete(&self) -> Request {
        let mut message = self.message(RouteProtocol::Unspec);
        message.header.scope = RouteScope::NoWhere;
        Request::new(RouteNetlinkMessage::DelRoute(message), 0, format!("deleting route {self}"))
    }

    fn message(&self, protocol: RouteProtocol) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.family());
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.header.protocol = protocol;
        message.header.kind = RouteType::Unicast;
        message.header.scope = match (self.family(), self.scope) {
            (Family::V4, Scope::Link) => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        message.attributes.push(RouteAttribute::Table(self.table));
        if !self.is_default() {
            message.attributes.push(RouteAttribute::Destination(self.destination.addr().into()));
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        if let Some(metric) = self.metric {
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        if let Some(mtu) = self.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        match self.hops.as_slice() {
            [hop] => {
                if hop.on_link {
                    message.header.flags |= RouteFlags::Onlink;
                }
                message.attributes.push(RouteAttribute::Oif(hop.link));
                message.attributes.extend(hop.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
            }
            hops => message.attributes.push(RouteAttribute::MultiPath(hops.iter().map(Hop::message).collect())),
        }
        message
    }

    fn parse(message: &RouteMessage) -> Option<Self> {
        let wanted = match message.header.address_family {
            netlink_packet_route::AddressFamily::Inet => Family::V4,
            netlink_packet_route::AddressFamily::Inet6 => Family::V6,
            _ => return None,
        };
        let header = &message.header;
        let on_link = header.flags.contains(RouteFlags::Onlink);
        let (mut destination, mut link, mut gateway) = (wanted.everything(), None, None);
        let mut route = Self {
            destination,
            table: u32::from(header.table),
            kind: if header.kind == RouteType::Unicast { RouteKind::Unicast } else { RouteKind::Other },
            hops: Vec::new(),
            source: None,
            metric: None,
            scope: match header.scope {
                RouteScope::Universe => Scope::Global,
                RouteScope::Link => Scope::Link,
                _ => Scope::Other,
            },
            mtu: None,
            kernel: header.protocol == RouteProtocol::Kernel,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(to) => {
                    destination = IpNet::new(address(to)?, header.destination_prefix_length).ok()?
                }
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::Gateway(via) => gateway = address(via),
                RouteAttribute::PrefSource(source) => route.source = address(source),
                RouteAttribute::Priority(metric) => route.metric = Some(*metric),
                RouteAttribute::MultiPath(hops) => route.hops = hops.iter().map(Hop::parse).collect(),
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        route.destination = destination;
        if let (true, Some(link)) = (route.hops.is_empty(), link) {
            route.hops.push(Hop { link, gateway, on_link });
        }
        Some(route)
    }
}

impl Hop {
    fn message(&self) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.interface_index = self.link;
        if self.on_link {
            hop.flags = RouteNextHopFlags::Onlink;
        }
        hop.attributes.extend(self.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        hop
    }

    fn parse(hop: &RouteNextHop) -> Self {
        let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(via) => address(via),
            _ => None,
        });
        Self { link: hop.interface_index, gateway, on_link: hop.flags.contains(RouteNextHopFlags::Onlink) }
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        for hop in &self.hops {
            if let Some(gateway) = hop.gateway {
                write!(f, " via {gateway}")?;
            }
            write!(f, " dev {}", hop.link)?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        write!(f, " table {}", self.table)
    }
}

impl Netlink {
    /// The routes of one family, of one table or of all.
    pub fn routes(&mut self, wanted: Family, table: Option<u32>) -> Result<Vec<Route>, Error> {
        let all = self.dump_routes(wanted, |message| {
            if let Some(table) = table {
                message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
                message.attributes.push(RouteAttribute::Table(table));
            }
        })?;
        Ok(all.into_iter().filter(|route| table.is_none_or(|table| route.table == table)).collect())
    }

    fn dump_routes(&mut self, wanted: Family, filter: impl FnOnce(&mut RouteMessage)) -> Result<Vec<Route>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(wanted);
        filter(&mut message);
        self.dump("listing routes", &RouteNetlinkMessage::GetRoute(message), |message| match message {
            RouteNetlinkMessage::NewRoute(route) => Route::parse(&route),
            _ => None,
        })
    }
}
