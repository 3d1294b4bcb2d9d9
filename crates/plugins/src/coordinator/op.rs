//! The steps by which the coordinator changes the kernel, in words of interface names, so that a plan can name what
//! does not exist yet.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use net::{Family, LinkChange, Mac, Rule, VethEnd};

/// The namespace that a step acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Host,
    Pod,
}

/// A route by one hop, with the interface's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub to: IpNet,
    pub table: u32,
    pub dev: String,
    pub via: Option<IpAddr>,
    pub source: Option<IpAddr>,
    pub metric: Option<u32>,
    pub mtu: Option<u32>,
    pub on_link: bool,
    /// Made by the kernel with an address.
    pub kernel: bool,
    /// One of several hops of one route.
    pub leg: bool,
}

impl Route {
    /// A plain route.
    pub fn new(to: IpNet, dev: &str, table: u32) -> Self {
        Self {
            to,
            table,
            dev: dev.to_owned(),
            via: None,
            source: None,
            metric: None,
            mtu: None,
            on_link: false,
            kernel: false,
            leg: false,
        }
    }

    /// The same route by a gateway.
    #[must_use]
    pub fn via(self, gateway: IpAddr) -> Self {
        Self { via: Some(gateway), ..self }
    }

    /// The same route with a source address.
    #[must_use]
    pub fn source(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// The same route in another table, as one that the kernel did not make.
    #[must_use]
    pub fn copied_to(&self, table: u32) -> Self {
        Self { table, kernel: false, leg: false, ..self.clone() }
    }

    /// Whether this is a default route.
    pub fn is_default(&self) -> bool {
        self.to.prefix_len() == 0
    }

    /// The family of the route.
    pub fn family(&self) -> Family {
        Family::of(self.to.addr())
    }

    /// The metric; routes made without one have 1024 in IPv6.
    pub fn metric_or_default(&self) -> u32 {
        self.metric.unwrap_or(if self.family() == Family::V6 { 1024 } else { 0 })
    }

    /// Whether a table has room for only one of both.
    pub fn rivals(&self, other: &Self) -> bool {
        (self.to, self.table, self.metric_or_default()) == (other.to, other.table, other.metric_or_default())
    }

    /// Whether both lead the same way: what packets see of a route.
    pub fn same_way(&self, other: &Self) -> bool {
        (self.to, self.table, &self.dev, self.via) == (other.to, other.table, &other.dev, other.via)
    }
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes the pair that connects the pod to its node.
    AddVeth {
        host: VethEnd,
        pod: VethEnd,
    },
    DeleteLink {
        side: Side,
        dev: String,
    },
    SetLink {
        side: Side,
        dev: String,
        change: LinkChange,
    },
    AddAddress {
        side: Side,
        dev: String,
        address: IpNet,
    },
    AddRoute {
        side: Side,
        route: Route,
    },
    /// Adds a route before or behind others of the same destination and metric.
    RestoreRoute {
        side: Side,
        route: Route,
        front: bool,
    },
    DeleteRoute {
        side: Side,
        route: Route,
    },
    AddRule {
        side: Side,
        rule: Rule,
    },
    DeleteRule {
        side: Side,
        rule: Rule,
    },
    SetNeighbour {
        side: Side,
        dev: String,
        address: IpAddr,
        mac: Mac,
    },
    DeleteNeighbour {
        side: Side,
        dev: String,
        address: IpAddr,
    },
    Sysctl {
        side: Side,
        key: String,
        value: String,
    },
    /// Reply marks for what enters by an interface of the pod.
    InstallMarks {
        dev: String,
        families: Vec<Family>,
    },
    RemoveMarks {
        dev: String,
        families: Vec<Family>,
    },
    Announce {
        dev: String,
        mac: Mac,
        address: IpAddr,
    },
}

/// A step and how it is taken back; what need not be taken back has nothing there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub op: Op,
    pub undo: Option<Op>,
}

impl Op {
    /// Whether the kernel may answer "exists already" or "is not there" without that being a failure: removals of what
    /// may vanish by itself, and the rule that all pods of a node share.
    pub fn tolerant(&self) -> bool {
        match self {
            Self::DeleteLink { .. }
            | Self::DeleteRoute { .. }
            | Self::DeleteRule { .. }
            | Self::DeleteNeighbour { .. } => true,
            Self::AddRule { side, .. } => *side == Side::Host,
            _ => false,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {}", self.dev)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        write!(f, " table {}", self.table)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "node",
            Self::Pod => "pod",
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddVeth { host, pod } => write!(f, "add veth {} with {} in the pod", host.name, pod.name),
            Self::DeleteLink { side, dev } => write!(f, "{side}: delete interface {dev}"),
            Self::SetLink { side, dev, change } => write!(f, "{side}: set interface {dev} {change:?}"),
            Self::AddAddress { side, dev, address } => write!(f, "{side}: add address {address} to {dev}"),
            Self::AddRoute { side, route } => write!(f, "{side}: add route {route}"),
            Self::RestoreRoute { side, route, .. } => write!(f, "{side}: restore route {route}"),
            Self::DeleteRoute { side, route } => write!(f, "{side}: delete route {route}"),
            Self::AddRule { side, rule } => write!(f, "{side}: add rule {rule}"),
            Self::DeleteRule { side, rule } => write!(f, "{side}: delete rule {rule}"),
            Self::SetNeighbour { side, dev, address, mac } => {
                write!(f, "{side}: set neighbour {address} dev {dev} to {mac}")
            }
            Self::DeleteNeighbour { side, dev, address } => write!(f, "{side}: delete neighbour {address} dev {dev}"),
            Self::Sysctl { side, key, value } => write!(f, "{side}: set net/{key} to {value}"),
            Self::InstallMarks { dev, .. } => write!(f, "pod: install reply marks for {dev}"),
            Self::RemoveMarks { dev, .. } => write!(f, "pod: remove reply marks for {dev}"),
            Self::Announce { dev, address, .. } => write!(f, "pod: announce {address} on {dev}"),
        }
    }
}
