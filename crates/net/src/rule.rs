//! Policy routing rules.

use std::fmt;

use ipnet::IpNet;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{CREATE, EXCLUSIVE, Request};
use crate::{Error, Family, Netlink};

/// A rule that sends packets to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub family: Family,
    pub priority: u32,
    /// Only packets from here.
    pub from: Option<IpNet>,
    /// Only packets to there.
    pub to: Option<IpNet>,
    /// Only packets whose mark has this value under this mask.
    pub mark: Option<(u32, u32)>,
    pub table: u32,
}

impl Rule {
    /// A rule for every packet.
    pub fn new(family: Family, priority: u32, table: u32) -> Self {
        Self { family, priority, from: None, to: None, mark: None, table }
    }

    /// A rule for packets from a network.
    pub fn from(net: IpNet, priority: u32, table: u32) -> Self {
        Self { from: Some(net), ..Self::new(Family::of(net.addr()), priority, table) }
    }

    /// Adds the rule; fails if an equal one of the same priority exists.
    pub fn add(&self) -> Request {
        Request::new(RouteNetlinkMessage::NewRule(self.message()), CREATE | EXCLUSIVE, format!("adding rule {self}"))
    }

    /// Removes the rule.
    pub fn delete(&self) -> Request {
        Request::new(RouteNetlinkMessage::DelRule(self.message()), 0, format!("deleting rule {self}"))
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(self.family);
        message.header.action = RuleAction::ToTable;
        if let Ok(small) = u8::try_from(self.table) {
            message.header.table = small;
        }
        message.attributes.push(RuleAttribute::Table(self.table));
        message.attributes.push(RuleAttribute::Priority(self.priority));
        if let Some(net) = self.from {
            message.header.src_len = net.prefix_len();
            message.attributes.push(RuleAttribute::Source(net.addr()));
        }
        if let Some(net) = self.to {
            message.header.dst_len = net.prefix_len();
            message.attributes.push(RuleAttribute::Destination(net.addr()));
        }
        if let Some((mark, mask)) = self.mark {
            message.attributes.push(RuleAttribute::FwMark(mark));
            message.attributes.push(RuleAttribute::FwMask(mask));
        }
        message
    }

    /// Reads a rule. Rules that do something other than look a table up, or that have conditions unknown here, are
    /// skipped: they are not ours, and half of a condition would be a lie.
    fn parse(message: &RuleMessage) -> Option<Self> {
        let family = match message.header.family {
            AddressFamily::Inet => Family::V4,
            AddressFamily::Inet6 => Family::V6,
            _ => return None,
        };
        if message.header.action != RuleAction::ToTable {
            return None;
        }
        let mut rule = Self::new(family, 0, u32::from(message.header.table));
        let (mut mark, mut mask) = (None, u32::MAX);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Source(address) => rule.from = IpNet::new(*address, message.header.src_len).ok(),
                RuleAttribute::Destination(address) => rule.to = IpNet::new(*address, message.header.dst_len).ok(),
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::FwMark(value) => mark = Some(*value),
                RuleAttribute::FwMask(value) => mask = *value,
                RuleAttribute::Iifname(_) | RuleAttribute::Oifname(_) | RuleAttribute::UidRange(_) => return None,
                RuleAttribute::IpProtocol(_) | RuleAttribute::SourcePortRange(_) => return None,
                RuleAttribute::DestinationPortRange(_) | RuleAttribute::TunId(_) => return None,
                _ => {}
            }
        }
        rule.mark = mark.map(|value| (value, mask));
        Some(rule)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: from ", self.priority)?;
        match self.from {
            Some(net) => write!(f, "{net}")?,
            None => f.write_str("all")?,
        }
        if let Some(net) = self.to {
            write!(f, " to {net}")?;
        }
        if let Some((mark, mask)) = self.mark {
            write!(f, " fwmark {mark:#x}/{mask:#x}")?;
        }
        write!(f, " lookup {} ({})", self.table, self.family)
    }
}

pub(crate) fn family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

impl Netlink {
    /// The rules of a family that look a table up, by priority.
    pub fn rules(&mut self, wanted: Family) -> Result<Vec<Rule>, Error> {
        let mut message = RuleMessage::default();
        message.header.family = family(wanted);
        self.dump("listing rules", &RouteNetlinkMessage::GetRule(message), |message| match message {
            RouteNetlinkMessage::NewRule(rule) => Rule::parse(&rule),
            _ => None,
        })
    }
}
