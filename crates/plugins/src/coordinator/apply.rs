//! Carries plans out: in order, in few system calls, and back again when a step fails.

use std::collections::BTreeMap;

use net::{Link, Neighbour, Netlink, Netns, Request, announce, marks, sysctl};

use super::op::{Op, Route, Side, Step};

/// A step that failed, and what could not be taken back after it.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}{}", not_undone(rest))]
pub struct ApplyError {
    step: String,
    source: net::Error,
    rest: Vec<String>,
}

fn not_undone(rest: &[String]) -> String {
    if rest.is_empty() { String::new() } else { format!("; not taken back: {}", rest.join("; ")) }
}

/// Where a step takes place. Neighbouring steps at one place go together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A netlink request.
    Netlink(Side),
    /// A call on a thread inside the namespace.
    Inside(Side),
}

/// The two namespaces of a pod's coordination.
pub struct Kernel<'a> {
    host: Netlink,
    pod: Option<PodSide<'a>>,
    /// Interfaces that were looked up, by side and name.
    links: BTreeMap<(bool, String), Link>,
}

struct PodSide<'a> {
    netns: &'a Netns,
    netlink: Netlink,
}

impl<'a> Kernel<'a> {
    /// Opens the node's side (the caller's namespace), and the pod's if there is one.
    pub fn open(pod: Option<&'a Netns>) -> Result<Self, net::Error> {
        let pod = pod.map(|netns| Ok(PodSide { netns, netlink: Netlink::open_in(netns)? })).transpose()?;
        Ok(Self { host: Netlink::open()?, pod, links: BTreeMap::new() })
    }

    /// The node's netlink socket.
    pub fn host(&mut self) -> &mut Netlink {
        &mut self.host
    }

    /// The pod's namespace and netlink socket.
    pub fn pod(&mut self) -> Option<(&'a Netns, &mut Netlink)> {
        self.pod.as_mut().map(|pod| (pod.netns, &mut pod.netlink))
    }

    /// Carries steps out in order; on failure takes the finished ones back, newest first.
    pub fn apply(&mut self, steps: &[Step]) -> Result<(), ApplyError> {
        let mut done: Vec<&Step> = Vec::new();
        for run in steps.chunk_by(|a, b| go_together(&a.op, &b.op)) {
            let ops: Vec<&Op> = run.iter().map(|step| &step.op).collect();
            let verdicts = self.execute(&ops);
            let mut failed = None;
            for (step, verdict) in run.iter().zip(verdicts) {
                match verdict {
                    Ok(()) => done.push(step),
                    Err(source) => failed = failed.or(Some((step, source))),
                }
            }
            if let Some((step, source)) = failed {
                return Err(ApplyError { step: step.op.to_string(), source, rest: self.undo(&done) });
            }
        }
        Ok(())
    }

    /// Carries out what can be carried out, and reports the rest.
    pub fn attempt(&mut self, ops: &[Op]) -> Vec<String> {
        let mut failures = Vec::new();
        for run in ops.chunk_by(go_together) {
            let refs: Vec<&Op> = run.iter().collect();
            let verdicts = self.execute(&refs);
            failures
                .extend(run.iter().zip(verdicts).filter_map(|(op, verdict)| Some(format!("{op}: {}", verdict.err()?))));
        }
        failures
    }

    fn undo(&mut self, done: &[&Step]) -> Vec<String> {
        let ops: Vec<Op> = done.iter().rev().filter_map(|step| step.undo.clone()).collect();
        self.attempt(&ops)
    }

    /// Carries steps at one place out. After the first failure, steps of a kind that cannot be sent together are left
    /// out, as failures.
    fn execute(&mut self, ops: &[&Op]) -> Vec<Result<(), net::Error>> {
        let verdicts = match ops.first().map(|op| place(op)) {
            None => return Vec::new(),
            Some(Place::Netlink(side)) => self.execute_netlink(side, ops),
            Some(Place::Inside(side)) => self.execute_inside(side, ops),
        };
        ops.iter().zip(verdicts).map(|(op, verdict)| forgive(op, verdict)).collect()
    }

    fn execute_netlink(&mut self, side: Side, ops: &[&Op]) -> Vec<Result<(), net::Error>> {
        let requests: Vec<Result<Request, net::Error>> = ops.iter().map(|op| self.request(side, op)).collect();
        let ready: Vec<Request> = requests.iter().flatten().cloned().collect();
        let sent = match self.netlink(side) {
            Ok(netlink) => netlink.run_all(&ready),
            Err(error) => return ops.iter().map(|_| Err(no_pod(&error))).collect(),
        };
        if ops.iter().any(|op| matches!(op, Op::AddVeth { .. } | Op::DeleteLink { .. })) {
            self.links.clear();
        }
        let mut sent = sent.into_iter();
        requests
            .into_iter()
            .map(|request| request.and_then(|_| sent.next().expect("every request has a verdict")))
            .collect()
    }

    fn execute_inside(&mut self, side: Side, ops: &[&Op]) -> Vec<Result<(), net::Error>> {
        // What an announcement needs to know of its interface is read outside.
        let links: Vec<Option<u32>> = ops
            .iter()
            .map(|op| match op {
                Op::Announce { dev, .. } => self.link(side, dev).ok().map(|link| link.index),
                _ => None,
            })
            .collect();
        let job = || ops.iter().zip(&links).map(|(op, link)| inside(op, *link)).collect();
        let netns = match (side, &self.pod) {
            (Side::Host, _) => return job(),
            (Side::Pod, Some(pod)) => pod.netns,
            (Side::Pod, None) => return ops.iter().map(|_| Err(no_pod(&"the pod's namespace is gone"))).collect(),
        };
        netns.run(job).unwrap_or_else(|error| {
            let why = format!("entering {}: {error}", netns.path().display());
            ops.iter().map(|_| Err(no_pod(&why))).collect()
        })
    }

    fn netlink(&mut self, side: Side) -> Result<&mut Netlink, &'static str> {
        match side {
            Side::Host => Ok(&mut self.host),
            Side::Pod => self.pod.as_mut().map(|pod| &mut pod.netlink).ok_or("the pod's namespace is gone"),
        }
    }

    fn link(&mut self, side: Side, dev: &str) -> Result<Link, net::Error> {
        let key = (side == Side::Host, dev.to_owned());
        if let Some(link) = self.links.get(&key) {
            return Ok(link.clone());
        }
        let link = self.netlink(side).map_err(|error| no_pod(&error))?.link(dev)?;
        self.links.insert(key, link.clone());
        Ok(link)
    }

    fn request(&mut self, side: Side, op: &Op) -> Result<Request, net::Error> {
        Ok(match op {
            Op::AddVeth { host, pod } => {
                let inner = self.pod.as_ref().ok_or_else(|| no_pod(&"the pod's namespace is gone"))?;
                Link::add_veth(host, pod, inner.netns)
            }
            Op::DeleteLink { dev, .. } => self.link(side, dev)?.delete(),
            Op::SetLink { dev, change, .. } => self.link(side, dev)?.change(change),
            Op::AddAddress { dev, address, .. } => {
                let link = self.link(side, dev)?.index;
                net::Address { link, address: *address, global: true, duplicate: false }.add()
            }
            Op::AddRoute { route, .. } => self.route(side, route)?.add(),
            Op::RestoreRoute { route, front: true, .. } => self.route(side, route)?.prepend(),
            Op::RestoreRoute { route, front: false, .. } => self.route(side, route)?.append(),
            Op::DeleteRoute { route, .. } => self.route(side, route)?.delete(),
            Op::AddRule { rule, .. } => rule.add(),
            Op::DeleteRule { rule, .. } => rule.delete(),
            Op::SetNeighbour { dev, address, mac, .. } => Neighbour::set(self.link(side, dev)?.index, *address, *mac),
            Op::DeleteNeighbour { dev, address, .. } => {
                let link = self.link(side, dev)?.index;
                Neighbour { link, address: *address, mac: None, permanent: true }.delete()
            }
            Op::Sysctl { .. } | Op::InstallMarks { .. } | Op::RemoveMarks { .. } | Op::Announce { .. } => {
                unreachable!("these steps take place inside the namespace")
            }
        })
    }

    fn route(&mut self, side: Side, route: &Route) -> Result<net::Route, net::Error> {
        let hop = net::Hop { link: self.link(side, &route.dev)?.index, gateway: route.via, on_link: route.on_link };
        let numbered = net::Route::new(route.to, route.table, hop);
        Ok(net::Route { source: route.source, metric: route.metric, mtu: route.mtu, ..numbered })
    }
}

/// Whether neighbouring steps go together: at one place, unless the first makes the pair. The requests of a run are made
/// before any of it is sent, and the pair cannot be looked up before it is there.
fn go_together(a: &Op, b: &Op) -> bool {
    place(a) == place(b) && !matches!(a, Op::AddVeth { .. })
}

fn place(op: &Op) -> Place {
    match op {
        Op::AddVeth { .. } => Place::Netlink(Side::Host),
        Op::DeleteLink { side, .. }
        | Op::SetLink { side, .. }
        | Op::AddAddress { side, .. }
        | Op::AddRoute { side, .. }
        | Op::RestoreRoute { side, .. }
        | Op::DeleteRoute { side, .. }
        | Op::AddRule { side, .. }
        | Op::DeleteRule { side, .. }
        | Op::SetNeighbour { side, .. }
        | Op::DeleteNeighbour { side, .. } => Place::Netlink(*side),
        Op::Sysctl { side, .. } => Place::Inside(*side),
        Op::InstallMarks { .. } | Op::RemoveMarks { .. } | Op::Announce { .. } => Place::Inside(Side::Pod),
    }
}

/// A step that takes place on a thread inside its namespace.
fn inside(op: &Op, link: Option<u32>) -> Result<(), net::Error> {
    match op {
        Op::Sysctl { key, value, .. } => sysctl::write(key, value),
        Op::InstallMarks { dev, families } => marks::install(dev, families).map(drop),
        Op::RemoveMarks { dev, families } => marks::remove(dev, families),
        Op::Announce { dev, mac, address } => match link {
            Some(link) => announce::announce(link, *mac, *address),
            None => Err(net::Error::NoLink { name: dev.clone() }),
        },
        _ => unreachable!("other steps are netlink requests"),
    }
}

/// Drops failures that mean that nothing is left to do.
fn forgive(op: &Op, verdict: Result<(), net::Error>) -> Result<(), net::Error> {
    match verdict {
        // The announcement is a courtesy: the network learns the address with the first packet as well.
        Err(_) if matches!(op, Op::Announce { .. }) => Ok(()),
        Err(error) if op.tolerant() && (error.already_there() || error.not_there()) => Ok(()),
        other => other,
    }
}

fn no_pod(why: &dyn std::fmt::Display) -> net::Error {
    net::Error::Io { doing: "reaching the pod".to_owned(), source: std::io::Error::other(why.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::plan::{self, host_veth};
    use crate::coordinator::testing::{CONTAINER, Kernel as Lab, request};

    #[test]
    fn on_a_node_without_ipv6_too_the_pair_is_there_before_it_is_looked_up() {
        for ipv6 in [true, false] {
            let mut lab = Lab::new().nic("eth0", &["10.6.2.1/16"], &["10.6.0.1"]);
            lab.host.ipv6 = ipv6;
            let steps = plan::add(&request("eth0"), &lab.pod, &lab.host).unwrap();
            let ops: Vec<Op> = steps.into_iter().map(|step| step.op).collect();
            let mut runs = ops.chunk_by(go_together);
            let first = runs.next().unwrap();
            assert!(matches!(first, [Op::AddVeth { .. }]), "ipv6 {ipv6}: {first:?}");
            let veth = host_veth(CONTAINER);
            let up = runs.flatten().find(|op| matches!(op, Op::SetLink { dev, .. } if *dev == veth));
            assert!(up.is_some(), "ipv6 {ipv6}: {ops:?}");
        }
    }
}
