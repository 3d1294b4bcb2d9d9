//! Several NICs in one pod: which table a NIC has, and whose routes go there, so that packets leave by the NIC that
//! their source address belongs to.

use std::net::IpAddr;

use net::{Family, Rule, host_net};

use super::{FIRST_TABLE, MAIN, NODE_TABLE, Plan, PlanError, RULE_PRIORITY, Request};
use crate::coordinator::POD_VETH;
use crate::coordinator::op::{Op, Route, Side};
use crate::coordinator::view::View;

/// The policy table of a NIC: 101 for the first one; for another one the table that it has already, else the lowest
/// that no other NIC uses. With coordinators on all NICs that gives 101, 101, 102, 103, ... in their order.
pub(super) fn policy_table(request: &Request, pod: &View, addresses: &[IpAddr], first: bool) -> u32 {
    if first {
        return FIRST_TABLE;
    }
    let ours = |rule: &&Rule| is_source_rule(rule) && rule.from.is_some_and(|from| addresses.contains(&from.addr()));
    if let Some(rule) = pod.rules.iter().find(ours) {
        return rule.table;
    }
    if let Some(table) = displaced_table(request, pod) {
        return table;
    }
    let used = |table: u32| {
        let by_rule = pod.rules.iter().any(|rule| rule.table == table && is_source_rule(rule));
        by_rule
            || pod.routes.iter().any(|route| route.table == table && route.dev != POD_VETH && route.dev != request.nic)
    };
    (FIRST_TABLE..MAIN - 1).find(|table| !used(*table)).unwrap_or(FIRST_TABLE)
}

/// The table to which this NIC displaced the default route of another one, if it did so in an earlier run. Other NICs
/// have tables with defaults of their own; the displaced one is the first interface that has any.
fn displaced_table(request: &Request, pod: &View) -> Option<u32> {
    let nic = request.nic.as_str();
    let took_over = request.settings.default_route_nic.as_deref() == Some(nic)
        && has_default(pod, MAIN, |dev| dev == nic)
        && !has_default(pod, MAIN, |dev| dev != nic);
    if !took_over {
        return None;
    }
    let default_of = |rule: &Rule| {
        let mut defaults = pod
            .routes
            .iter()
            .filter(|route| route.table == rule.table && route.is_default() && route.family() == rule.family);
        defaults.find(|route| route.dev != nic).and_then(|route| pod.link(&route.dev)).map(|link| link.index)
    };
    let displaced =
        pod.rules.iter().filter(|rule| is_source_rule(rule)).filter_map(|rule| Some((default_of(rule)?, rule.table)));
    displaced.min().map(|(_, table)| table)
}

/// A rule that sends the packets of one source address to a table of further NICs.
pub(in crate::coordinator) fn is_source_rule(rule: &Rule) -> bool {
    (FIRST_TABLE..MAIN - 1).contains(&rule.table)
        && rule.from.is_some_and(|from| from.prefix_len() == from.max_prefix_len())
}

fn has_default(pod: &View, table: u32, dev: impl Fn(&str) -> bool) -> bool {
    pod.routes.iter().any(|route| route.table == table && route.is_default() && dev(&route.dev))
}

impl Plan<'_> {
    /// Per family: either the current NIC's routes go to its table, or, if it is to keep the default route, those of the
    /// NIC that had it so far. Packets find the table by their source address.
    pub(super) fn tune_routes(&mut self) -> Result<(), PlanError> {
        for family in Family::BOTH {
            if !self.addresses.iter().any(|address| Family::of(*address) == family) {
                continue;
            }
            // Without another default route this NIC has the only one of the family, and keeps it.
            let Some(holder) = self.default_holder(family) else { continue };
            let mover = if self.keeps_default(&holder)? { holder } else { self.request.nic.clone() };
            let priority = RULE_PRIORITY + (self.table - NODE_TABLE);
            for address in self.pod.usable_addresses(&mover) {
                if Family::of(address) == family {
                    self.want_rule(Side::Pod, Rule::from(host_net(address), priority, self.table));
                }
            }
            self.move_routes(&mover, family);
        }
        Ok(())
    }

    /// The first other interface, by index, with a default route in main.
    fn default_holder(&self, family: Family) -> Option<String> {
        let others = self.pod.links.iter().filter(|link| !link.loopback && link.name != self.request.nic);
        let has_default = |dev: &str| {
            let mut routes = self.pod.routes.iter().filter(|route| route.table == MAIN && route.is_default());
            routes.any(|route| route.dev == dev && route.family() == family)
        };
        others.map(|link| link.name.as_str()).find(|name| has_default(name)).map(str::to_owned)
    }

    /// Whether the current NIC takes the default route over from its holder.
    fn keeps_default(&self, holder: &str) -> Result<bool, PlanError> {
        let Some(wanted) = self.request.settings.default_route_nic.as_deref() else { return Ok(false) };
        if wanted == holder || is_still_to_come(wanted, &self.request.nic, self.request.settings.nics.as_deref()) {
            return Ok(false);
        }
        if self.pod.link(wanted).is_none() {
            let present = self.pod.links.iter().filter(|link| !link.loopback).map(|link| link.name.as_str());
            let present = present.collect::<Vec<_>>().join(", ");
            return Err(PlanError::NoDefaultRouteNic { nic: wanted.to_owned(), present });
        }
        Ok(true)
    }

    /// Default routes are moved, others are copied: main keeps what leads to the NIC's own networks.
    fn move_routes(&mut self, mover: &str, family: Family) {
        let own = |route: &&Route| {
            route.table == MAIN && route.dev == mover && route.family() == family && !is_link_local(route)
        };
        // The kernel takes no single leg out of an IPv4 multipath route.
        let own = self.pod.routes.iter().filter(own).filter(|route| !(route.leg && family == Family::V4));
        let mut routes: Vec<Route> = own.cloned().collect();
        // A gateway must be reachable when its route is added.
        routes.sort_by_key(|route| (route.via.is_some(), route.is_default()));
        for route in routes {
            let copy = route.copied_to(self.table);
            // A policy route of the table's own NIC comes before a copy of another one's.
            let taken = self
                .pod
                .routes
                .iter()
                .any(|other| other.rivals(&copy) && other.dev == self.request.nic && mover != other.dev);
            if !taken {
                self.want_route(Side::Pod, copy);
            }
            if route.is_default() {
                // The newest NIC's default stands in front of the others, and gets back there.
                let front = self.pod.routes.iter().find(|other| other.rivals(&route)) == Some(&route);
                let undo = Op::RestoreRoute { side: Side::Pod, route: route.clone(), front };
                self.step(Op::DeleteRoute { side: Side::Pod, route }, Some(undo));
            }
        }
    }
}

fn is_link_local(route: &Route) -> bool {
    matches!(route.to.addr(), IpAddr::V6(address) if address.is_unicast_link_local() || address.is_multicast())
}

/// Whether a NIC will be attached after the current one. Where the agent does not tell the pod's NICs their numbers do:
/// runtimes attach `net3` after `net1`.
fn is_still_to_come(wanted: &str, current: &str, nics: Option<&[String]>) -> bool {
    if let Some(nics) = nics {
        let mut after = nics.iter().skip_while(|nic| *nic != current).skip(1);
        return after.any(|nic| nic == wanted);
    }
    let number = |name: &str| name.strip_prefix("net").and_then(|digits| digits.parse::<u32>().ok());
    matches!((number(wanted), number(current)), (Some(wanted), Some(current)) if wanted > current)
}
