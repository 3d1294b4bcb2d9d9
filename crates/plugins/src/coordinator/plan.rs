//! The plan of ADD: from what is seen to the steps that are missing. Pure, so that tests compare plans; and exact, so
//! that a second run plans nothing and CHECK is a plan that must be empty.

pub(super) mod tuning;

use std::net::IpAddr;

use net::{Family, Link, LinkChange, Mac, Rule, VethEnd, host_net, marks};
pub use wire::cni::host_veth;

use super::POD_VETH;
use super::config::{Mode, Settings};
use super::node;
use super::op::{Op, Route, Side, Step};
use super::view::View;

/// The pod's table whose default leads to the node.
pub const NODE_TABLE: u32 = 100;
/// The first of the pod's tables, one per further NIC.
pub const FIRST_TABLE: u32 = 101;
/// Rules: of the node for its pods, of the pod for marked packets. Source rules come after, so that a reply returns
/// where the request came from whatever its source address is.
pub const RULE_PRIORITY: u32 = 1000;
const MAIN: u32 = net::MAIN_TABLE;

/// What is to be coordinated.
#[derive(Clone, Debug)]
pub struct Request {
    /// The current NIC.
    pub nic: String,
    pub container_id: String,
    pub settings: Settings,
    /// For a pair that has to be made.
    pub host_mac: Mac,
    pub pod_mac: Mac,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("pod interface {0} does not exist")]
    NoNic(String),
    #[error("pod interface {0} has no usable address (neither link-local nor multicast)")]
    NoAddress(String),
    #[error("mode overlay is not supported, it was asked for pod interface {0}")]
    Overlay(String),
    #[error(
        "pod interface {nic} is not the pod's first ({first}) and the pod has no veth0: {first} was attached without coordinator, or belongs to the default network (mode overlay, which is not supported)"
    )]
    NoVeth { nic: String, first: String },
    #[error("pod interface veth0 exists, but node interface {0} is not its peer")]
    ForeignVeth(String),
    #[error("node interface {0} exists, but its peer veth0 is not in this pod")]
    HostVethTaken(String),
    #[error("podMACPrefix cannot be used on pod interface {0}: an ipvlan shares the hardware address of its parent")]
    SharedMac(String),
    #[error("podDefaultRouteNIC: {nic} does not exist in the pod, which has {present}")]
    NoDefaultRouteNic { nic: String, present: String },
}

/// The steps that are missing.
pub fn add(request: &Request, pod: &View, host: &View) -> Result<Vec<Step>, PlanError> {
    let link = pod.link(&request.nic).ok_or_else(|| PlanError::NoNic(request.nic.clone()))?;
    let addresses = pod.usable_addresses(&request.nic);
    if addresses.is_empty() {
        return Err(PlanError::NoAddress(request.nic.clone()));
    }
    let first = request.nic == request.settings.first_nic;
    check_mode(request, pod, first)?;
    let veth = Veth::find(request, pod, host, first)?;
    let families =
        Family::BOTH.into_iter().filter(|family| addresses.iter().any(|address| Family::of(*address) == *family));
    // A family that the node does not have is left alone: there is nobody to talk to.
    let nodes = families.map(|family| {
        let leader = leader(request, pod, family);
        NodeSide {
            family,
            addresses: node::addresses(host, family, &pod.usable_addresses(leader)),
            leads: leader == request.nic,
        }
    });
    let mut plan = Plan {
        request,
        pod,
        host,
        link,
        addresses: &addresses,
        nodes: nodes.filter(|node| !node.addresses.is_empty()).collect(),
        first,
        table: tuning::policy_table(request, pod, &addresses, first),
        veth,
        steps: Vec::new(),
    };
    plan.make()?;
    Ok(plan.steps)
}

/// The NIC whose network decides which node address is the gateway, and whose routes of a family go to main: the first
/// NIC, or the first by index that has the family.
fn leader<'a>(request: &'a Request, pod: &'a View, family: Family) -> &'a str {
    let has = |dev: &str| pod.usable_addresses(dev).into_iter().any(|address| Family::of(address) == family);
    let first = request.settings.first_nic.as_str();
    let names = pod.links.iter().map(|link| link.name.as_str()).filter(|name| *name != POD_VETH);
    std::iter::once(first).chain(names).find(|name| has(name)).unwrap_or(first)
}

/// The settled question of the mode: underlay, or no plan.
fn check_mode(request: &Request, pod: &View, first: bool) -> Result<(), PlanError> {
    match request.settings.mode {
        Mode::Overlay => Err(PlanError::Overlay(request.nic.clone())),
        _ if first || pod.link(POD_VETH).is_some() => Ok(()),
        _ => Err(PlanError::NoVeth { nic: request.nic.clone(), first: request.settings.first_nic.clone() }),
    }
}

/// The pair between pod and node.
struct Veth {
    host: String,
    host_mac: Mac,
    pod_mac: Mac,
    /// It is there already.
    made: bool,
}

impl Veth {
    fn find(request: &Request, pod: &View, host: &View, first: bool) -> Result<Self, PlanError> {
        let name = host_veth(&request.container_id);
        match (pod.link(POD_VETH), host.link(&name)) {
            (Some(inner), Some(outer)) if inner.partner == Some(outer.index) && outer.partner == Some(inner.index) => {
                let mac = |link: &Link, other: Mac| link.mac.unwrap_or(other);
                Ok(Self {
                    host_mac: mac(outer, request.host_mac),
                    pod_mac: mac(inner, request.pod_mac),
                    host: name,
                    made: true,
                })
            }
            (Some(_), _) => Err(PlanError::ForeignVeth(name)),
            (None, Some(_)) => Err(PlanError::HostVethTaken(name)),
            (None, None) if first => {
                Ok(Self { host: name, host_mac: request.host_mac, pod_mac: request.pod_mac, made: false })
            }
            (None, None) => unreachable!("the mode was checked: only the first NIC comes without veth0"),
        }
    }
}

/// The node's addresses of one family; at least one.
struct NodeSide {
    family: Family,
    addresses: Vec<IpAddr>,
    /// The current NIC leads the family.
    leads: bool,
}

impl NodeSide {
    fn gateway(&self) -> IpAddr {
        self.addresses[0]
    }
}

struct Plan<'a> {
    request: &'a Request,
    pod: &'a View,
    host: &'a View,
    link: &'a Link,
    /// The usable addresses of the current NIC.
    addresses: &'a [IpAddr],
    nodes: Vec<NodeSide>,
    first: bool,
    /// The policy table of the current NIC.
    table: u32,
    veth: Veth,
    steps: Vec<Step>,
}

impl Plan<'_> {
    fn make(&mut self) -> Result<(), PlanError> {
        self.make_veth();
        self.settle_sysctls();
        self.settle_nic()?;
        for at in 0..self.nodes.len() {
            self.lead_to_node(at);
            self.return_marked(at);
            self.lead_to_pod(at);
        }
        self.mark_replies();
        self.add_policy_routes();
        if self.request.settings.tune_routes && !self.first {
            self.tune_routes()?;
        }
        self.announce_new_mac();
        Ok(())
    }

    fn make_veth(&mut self) {
        let mtu = self.request.settings.veth_mtu;
        let end = |name: &str, mac: Mac| VethEnd { name: name.to_owned(), mac, mtu };
        let host = self.veth.host.clone();
        if !self.veth.made {
            let (outer, inner) = (end(&host, self.veth.host_mac), end(POD_VETH, self.veth.pod_mac));
            let undo = Op::DeleteLink { side: Side::Host, dev: host.clone() };
            self.step(Op::AddVeth { host: outer, pod: inner }, Some(undo));
            if self.host.ipv6 {
                self.step(
                    Op::Sysctl { side: Side::Host, key: format!("ipv6/conf/{host}/accept_ra"), value: "0".to_owned() },
                    None,
                );
            }
        }
        self.bring_up(Side::Host, &host);
        self.bring_up(Side::Pod, POD_VETH);
        let has_v4 = self.addresses.iter().any(IpAddr::is_ipv4);
        if let Some(address) = self.request.settings.veth_address.filter(|_| has_v4) {
            let net = host_net(address.into());
            if !self.pod.addresses.iter().any(|there| there.dev == POD_VETH && there.net == net) {
                self.step(Op::AddAddress { side: Side::Pod, dev: POD_VETH.to_owned(), address: net }, None);
            }
        }
    }

    fn bring_up(&mut self, side: Side, dev: &str) {
        let view = if side == Side::Host { self.host } else { self.pod };
        let link = view.link(dev);
        if link.is_some_and(|link| link.up) {
            return;
        }
        let set = |up| Op::SetLink {
            side,
            dev: dev.to_owned(),
            change: LinkChange { up: Some(up), ..LinkChange::default() },
        };
        // A pair that this plan makes is removed whole.
        self.step(set(true), link.map(|_| set(false)));
    }

    fn settle_sysctls(&mut self) {
        if self.addresses.iter().any(IpAddr::is_ipv6) {
            self.want_sysctl("ipv6/conf/all/disable_ipv6", "0");
        }
        // The kernel takes the larger of `all` and the interface, and veth0 got its value from `default`.
        if let Some(filter) = self.request.settings.rp_filter {
            for dev in ["all", "default", POD_VETH, &self.request.nic] {
                self.want_sysctl(&format!("ipv4/conf/{dev}/rp_filter"), &filter.to_string());
            }
        }
    }

    fn settle_nic(&mut self) -> Result<(), PlanError> {
        let nic = self.request.nic.clone();
        self.bring_up(Side::Pod, &nic);
        let set = |change| Op::SetLink { side: Side::Pod, dev: nic.clone(), change };
        if let Some(mac) = self.wanted_mac().filter(|mac| self.link.mac != Some(*mac)) {
            if self.link.kind.as_deref() == Some("ipvlan") {
                return Err(PlanError::SharedMac(nic));
            }
            let change = |mac| LinkChange { mac, ..LinkChange::default() };
            self.step(set(change(Some(mac))), self.link.mac.map(|old| set(change(Some(old)))));
        }
        if let Some(length) = self.request.settings.tx_queue_len.filter(|length| self.link.tx_queue_len != *length) {
            let change = |length| LinkChange { tx_queue_len: Some(length), ..LinkChange::default() };
            self.step(set(change(length)), Some(set(change(self.link.tx_queue_len))));
        }
        Ok(())
    }

    /// The configured prefix and the last four bytes of the first address.
    fn wanted_mac(&self) -> Option<Mac> {
        let [a, b] = self.request.settings.mac_prefix?;
        let [c, d, e, f] = match self.addresses.first()? {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(address) => *address.octets().last_chunk().expect("an IPv6 address has 16 bytes"),
        };
        Some(Mac([a, b, c, d, e, f]))
    }

    /// The pod's way to its node and to what is hijacked: in main for the NIC that leads its family, in the NIC's own
    /// table always, because a source rule may point there.
    fn lead_to_node(&mut self, at: usize) {
        let (family, gateway) = (self.nodes[at].family, self.nodes[at].gateway());
        let source = self.source(family);
        let leads = self.nodes[at].leads;
        let tables: Vec<u32> = [MAIN, self.table].into_iter().filter(|table| *table != MAIN || leads).collect();
        for address in self.nodes[at].addresses.clone() {
            self.want_neighbour(Side::Pod, POD_VETH, address, self.veth.host_mac);
            for table in &tables {
                self.want_route(Side::Pod, Route::new(host_net(address), POD_VETH, *table).source(source));
            }
        }
        let table = if leads { MAIN } else { self.table };
        let hijack: Vec<_> =
            self.request.settings.hijack.iter().filter(|net| Family::of(net.addr()) == family).copied().collect();
        for net in hijack {
            self.want_route(Side::Pod, Route::new(net, POD_VETH, table).via(gateway).source(source));
        }
    }

    /// The way back of what entered by veth0.
    fn return_marked(&mut self, at: usize) {
        let (family, gateway) = (self.nodes[at].family, self.nodes[at].gateway());
        let back = Route::new(family.everything(), POD_VETH, NODE_TABLE).via(gateway).source(self.source(family));
        self.want_route(Side::Pod, back);
        let rule = Rule { mark: Some((marks::MARK, marks::MARK)), ..Rule::new(family, RULE_PRIORITY, NODE_TABLE) };
        self.want_rule(Side::Pod, rule);
    }

    /// The node's way to the addresses of the NIC. What older pods left for them is removed: an address has one pod.
    fn lead_to_pod(&mut self, at: usize) {
        let (family, gateway) = (self.nodes[at].family, self.nodes[at].gateway());
        let (table, veth) = (self.request.settings.host_table, self.veth.host.clone());
        self.want_rule(Side::Host, Rule::new(family, RULE_PRIORITY, table));
        let own: Vec<IpAddr> =
            self.addresses.iter().copied().filter(|address| Family::of(*address) == family).collect();
        for address in own {
            self.forget_elsewhere(address, &veth);
            // Some kernels refuse an IPv6 source that is no address of the outgoing interface.
            let source = Some(gateway).filter(IpAddr::is_ipv4);
            self.want_neighbour(Side::Host, &veth, address, self.veth.pod_mac);
            self.want_route(Side::Host, Route::new(host_net(address), &veth, table).source(source));
        }
    }

    fn forget_elsewhere(&mut self, address: IpAddr, veth: &str) {
        for route in self.host.routes.iter().filter(|route| route.to == host_net(address) && route.dev != veth) {
            self.steps.push(Step { op: Op::DeleteRoute { side: Side::Host, route: route.clone() }, undo: None });
        }
        for entry in self.host.neighbours.iter().filter(|entry| entry.address == address && entry.dev != veth) {
            let op = Op::DeleteNeighbour { side: Side::Host, dev: entry.dev.clone(), address };
            self.steps.push(Step { op, undo: None });
        }
    }

    fn mark_replies(&mut self) {
        if self.pod.marks || self.nodes.is_empty() {
            return;
        }
        let mut families = vec![Family::V4];
        families.extend(self.pod.ipv6.then_some(Family::V6));
        let undo = Op::RemoveMarks { dev: POD_VETH.to_owned(), families: families.clone() };
        self.step(Op::InstallMarks { dev: POD_VETH.to_owned(), families }, Some(undo));
    }

    fn add_policy_routes(&mut self) {
        let table = if self.first { MAIN } else { self.table };
        let nic = self.request.nic.clone();
        for route in self.request.settings.policy_routes.clone() {
            if self.addresses.iter().any(|address| address.is_ipv4() == route.gateway.is_ipv4()) {
                self.want_route(Side::Pod, Route::new(route.destination, &nic, table).via(route.gateway));
            }
        }
    }

    fn announce_new_mac(&mut self) {
        if let Some(mac) = self.wanted_mac().filter(|mac| self.link.mac != Some(*mac)) {
            for address in self.addresses {
                self.step(Op::Announce { dev: self.request.nic.clone(), mac, address: *address }, None);
            }
        }
    }

    /// The source that the pod prefers towards the node: the first NIC's IPv4 address. Never one for IPv6, which some
    /// kernels refuse if it is no address of the outgoing interface.
    fn source(&self, family: Family) -> Option<IpAddr> {
        let first = self.pod.usable_addresses(&self.request.settings.first_nic);
        first.into_iter().find(|address| family == Family::V4 && address.is_ipv4())
    }

    fn step(&mut self, op: Op, undo: Option<Op>) {
        self.steps.push(Step { op, undo });
    }

    fn view(&self, side: Side) -> &View {
        if side == Side::Host { self.host } else { self.pod }
    }

    /// Adds a route unless it is there. In the tables of ours another way to the same destination is replaced; in main
    /// it was put by somebody who knows better, and stays.
    fn want_route(&mut self, side: Side, route: Route) {
        let planned = self.steps.iter().any(
            |step| matches!(&step.op, Op::AddRoute { side: at, route: other } if *at == side && other.rivals(&route)),
        );
        let rivals: Vec<Route> = self.view(side).routes.iter().filter(|other| other.rivals(&route)).cloned().collect();
        let there = rivals
            .iter()
            .any(|other| other.same_way(&route) && (other.source == route.source || route.family() == Family::V6));
        if planned || there || (!rivals.is_empty() && route.table == MAIN) {
            return;
        }
        for old in rivals {
            let undo = Op::AddRoute { side, route: old.clone() };
            self.step(Op::DeleteRoute { side, route: old }, Some(undo));
        }
        let undo = Op::DeleteRoute { side, route: route.clone() };
        self.step(Op::AddRoute { side, route }, Some(undo));
    }

    fn want_rule(&mut self, side: Side, rule: Rule) {
        if self.view(side).rules.contains(&rule) {
            return;
        }
        // The node's rule is shared by all its pods.
        let undo = (side == Side::Pod).then(|| Op::DeleteRule { side, rule: rule.clone() });
        self.step(Op::AddRule { side, rule }, undo);
    }

    fn want_neighbour(&mut self, side: Side, dev: &str, address: IpAddr, mac: Mac) {
        if self.view(side).permanent_neighbour(dev, address) == Some(mac) {
            return;
        }
        let undo = Op::DeleteNeighbour { side, dev: dev.to_owned(), address };
        self.step(Op::SetNeighbour { side, dev: dev.to_owned(), address, mac }, Some(undo));
    }

    fn want_sysctl(&mut self, key: &str, value: &str) {
        let old = self.pod.sysctls.get(key);
        if old.is_some_and(|old| old == value) {
            return;
        }
        let set = |value: &str| Op::Sysctl { side: Side::Pod, key: key.to_owned(), value: value.to_owned() };
        self.step(set(value), old.map(|old| set(old)));
    }
}

#[cfg(test)]
mod tests;
