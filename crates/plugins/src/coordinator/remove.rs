//! The plan of DEL: what one NIC of one container has made, and nothing of others.
//!
//! The pair of the pod goes with the pod's first NIC, or when the pod's namespace is gone; a further NIC takes only its
//! own routes, rules and neighbours along, so that the pod keeps its node and its services. Nothing here needs the
//! agent, the pod object or, for the node's side, the namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;

use net::{Family, Rule, host_net};

use super::POD_VETH;
use super::op::{Op, Route, Side};
use super::plan::tuning::is_source_rule;
use super::plan::{FIRST_TABLE, RULE_PRIORITY, host_veth};
use super::view::View;

/// What is to be undone.
#[derive(Clone, Debug)]
pub struct Request {
    pub nic: String,
    pub container_id: String,
    /// The NIC is the pod's first.
    pub first: bool,
    /// The addresses that the main plugin reported, in case the NIC is gone.
    pub reported: Vec<IpAddr>,
}

/// What DEL does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    pub ops: Vec<Op>,
    /// The node's connections that name these addresses are forgotten.
    pub forget: BTreeSet<IpAddr>,
}

/// The addresses that the NIC has, or had.
pub fn addresses(request: &Request, pod: Option<&View>) -> Vec<IpAddr> {
    let mut addresses = pod.map(|pod| pod.usable_addresses(&request.nic)).unwrap_or_default();
    addresses
        .extend(request.reported.iter().filter(|address| !addresses.contains(address)).copied().collect::<Vec<_>>());
    addresses
}

/// What is to be done. `host` has the routes of the pair and those of the addresses, of all tables; `pod` is absent if
/// the namespace is gone.
pub fn remove(request: &Request, pod: Option<&View>, host: &View) -> Removal {
    let veth = host_veth(&request.container_id);
    let whole = request.first || pod.is_none();
    let mut removal = Removal::default();

    // A late call may name addresses that another pod has by now: the node's route tells whose they are.
    let own = addresses(request, pod);
    let theirs: BTreeSet<IpAddr> =
        pod_routes(host).filter(|route| route.dev != veth).map(|route| route.to.addr()).collect();
    removal.forget = own.iter().copied().filter(|address| !theirs.contains(address)).collect();
    if whole {
        removal.forget.extend(pod_routes(host).filter(|route| route.dev == veth).map(|route| route.to.addr()));
    }

    if let Some(pod) = pod {
        remove_from_pod(request, pod, whole, &own, &mut removal.ops);
    }
    let side = Side::Host;
    let goes = |address: &IpAddr| whole || own.contains(address);
    for route in pod_routes(host).filter(|route| route.dev == veth && goes(&route.to.addr())) {
        removal.ops.push(Op::DeleteRoute { side, route: route.clone() });
    }
    for entry in host.neighbours.iter().filter(|entry| entry.permanent && entry.dev == veth && goes(&entry.address)) {
        removal.ops.push(Op::DeleteNeighbour { side, dev: veth.clone(), address: entry.address });
    }
    // Rules for single addresses were made by releases of old.
    let old = |rule: &&Rule| {
        rule.from.is_none()
            && rule.mark.is_none()
            && rule.to.is_some_and(|to| removal.forget.iter().any(|address| to == host_net(*address)))
    };
    let old: Vec<Op> = host.rules.iter().filter(old).map(|rule| Op::DeleteRule { side, rule: rule.clone() }).collect();
    removal.ops.extend(old);
    if whole && host.link(&veth).is_some() {
        removal.ops.push(Op::DeleteLink { side, dev: veth });
    }
    removal
}

/// The node's routes to single addresses.
fn pod_routes(host: &View) -> impl Iterator<Item = &Route> {
    host.routes.iter().filter(|route| route.to == host_net(route.to.addr()))
}

fn remove_from_pod(request: &Request, pod: &View, whole: bool, own: &[IpAddr], ops: &mut Vec<Op>) {
    let side = Side::Pod;
    if whole {
        let ours = |rule: &&Rule| is_source_rule(rule) || (rule.mark.is_some() && rule.priority == RULE_PRIORITY);
        ops.extend(pod.rules.iter().filter(ours).map(|rule| Op::DeleteRule { side, rule: rule.clone() }));
        if pod.marks {
            let mut families = vec![Family::V4];
            families.extend(pod.ipv6.then_some(Family::V6));
            ops.push(Op::RemoveMarks { dev: POD_VETH.to_owned(), families });
        }
        return;
    }
    for rule in pod.rules.iter().filter(|rule| is_source_rule(rule)) {
        let source = rule.from.map(|from| from.addr());
        let of_nic = source.is_some_and(|source| own.contains(&source));
        if of_nic || gave_way(request, pod, rule) {
            ops.push(Op::DeleteRule { side, rule: rule.clone() });
            retire_table(request, pod, rule, of_nic, ops);
        }
    }
}

/// Whether the rule is there because its NIC's default route gave way to the one that is being removed.
fn gave_way(request: &Request, pod: &View, rule: &Rule) -> bool {
    let main_is_ours = pod.routes.iter().any(|route| {
        route.table == net::MAIN_TABLE
            && route.is_default()
            && route.family() == rule.family
            && route.dev == request.nic
    });
    let displaced = displaced_default(request, pod, rule);
    let owner = displaced.map(|route| pod.usable_addresses(&route.dev)).unwrap_or_default();
    main_is_ours && rule.from.is_some_and(|from| owner.contains(&from.addr()))
}

/// The default route of another NIC in the rule's table, if that NIC has none in main.
fn displaced_default<'v>(request: &Request, pod: &'v View, rule: &Rule) -> Option<&'v Route> {
    let default = |route: &&Route| route.is_default() && route.family() == rule.family && route.dev != request.nic;
    let found = pod.routes.iter().filter(default).find(|route| route.table == rule.table)?;
    let in_main =
        pod.routes.iter().filter(default).any(|route| route.table == net::MAIN_TABLE && route.dev == found.dev);
    (!in_main).then_some(found)
}

/// Empties a table whose last rule goes, and puts a default route back that had given way.
fn retire_table(request: &Request, pod: &View, rule: &Rule, of_nic: bool, ops: &mut Vec<Op>) {
    let side = Side::Pod;
    let others = pod.rules.iter().filter(|other| is_source_rule(other) && other.table == rule.table && *other != rule);
    if others.clone().any(|other| other.family == rule.family && (of_nic || !gave_way(request, pod, other))) {
        return;
    }
    if let Some(route) = displaced_default(request, pod, rule).filter(|_| !of_nic) {
        // Its metric may be taken in main by the route that leaves with its NIC.
        let main = pod
            .routes
            .iter()
            .filter(|other| other.table == net::MAIN_TABLE && other.is_default() && other.family() == rule.family);
        for rival in main.filter(|other| other.dev == request.nic) {
            ops.push(Op::DeleteRoute { side, route: rival.clone() });
        }
        ops.push(Op::AddRoute { side, route: route.copied_to(net::MAIN_TABLE) });
    }
    // The first NIC's way to the node is in its table as well, and stays.
    let of_first = |route: &&Route| route.table == FIRST_TABLE && route.dev == POD_VETH && route.via.is_none();
    let rest = pod
        .routes
        .iter()
        .filter(|route| route.table == rule.table && route.family() == rule.family && !of_first(route));
    let mut rest: Vec<&Route> = rest.collect();
    rest.sort_by_key(|route| (route.via.is_none(), !route.is_default()));
    for route in rest {
        let op = Op::DeleteRoute { side, route: route.clone() };
        if !ops.contains(&op) {
            ops.push(op);
        }
    }
}

#[cfg(test)]
mod tests;
