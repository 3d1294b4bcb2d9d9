//! Views for tests of plans, and a kernel of the simplest kind that carries steps out on them.

use net::{Family, Link, Mac};

use super::POD_VETH;
use super::config::{Mode, Settings};
use super::op::{Op, Route, Side};
use super::plan::{Request, host_veth};
use super::view::{Address, Neighbour, View};

pub const CONTAINER: &str = "0123456789abcdef";
pub const HOST_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

pub fn request(nic: &str) -> Request {
    let settings = Settings {
        mode: Mode::Auto,
        first_nic: "eth0".to_owned(),
        hijack: ["10.233.0.0/18", "fd00:10:233::/116"].map(|net| net.parse().unwrap()).into(),
        policy_routes: Vec::new(),
        tune_routes: true,
        default_route_nic: None,
        nics: None,
        mac_prefix: None,
        host_table: 500,
        rp_filter: Some(0),
        tx_queue_len: None,
        veth_address: None,
        veth_mtu: 1500,
    };
    Request { nic: nic.to_owned(), container_id: CONTAINER.to_owned(), settings, host_mac: HOST_MAC, pod_mac: POD_MAC }
}

/// Node and pod.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub host: View,
    pub pod: View,
}

impl Kernel {
    /// A node with addresses on eth0 and eth1, and a pod with nothing.
    pub fn new() -> Self {
        let mut kernel =
            Self { host: View { ipv6: true, ..View::default() }, pod: View { ipv6: true, ..View::default() } };
        for (dev, net) in [("eth0", "10.6.1.1/16"), ("eth0", "fd00:10:6::1:1/64"), ("eth1", "172.200.1.1/16")] {
            address(&mut kernel.host, dev, net);
        }
        for key in ["all", "default", "eth0", "net1", "net2"] {
            kernel.pod.sysctls.insert(format!("ipv4/conf/{key}/rp_filter"), "0".to_owned());
        }
        kernel.pod.sysctls.insert("ipv6/conf/all/disable_ipv6".to_owned(), "0".to_owned());
        kernel
    }

    /// What a main plugin makes: a NIC with addresses, connected routes and default routes (`None`: no default).
    pub fn nic(mut self, dev: &str, nets: &[&str], gateways: &[&str]) -> Self {
        for net in nets {
            let parsed: ipnet::IpNet = net.parse().unwrap();
            address(&mut self.pod, dev, net);
            let connected = Route::new(parsed.trunc(), dev, net::MAIN_TABLE);
            self.pod
                .routes
                .push(Route { kernel: true, ..connected.source(parsed.addr().is_ipv4().then_some(parsed.addr())) });
        }
        for gateway in gateways {
            let gateway: std::net::IpAddr = gateway.parse().unwrap();
            let family = Family::of(gateway);
            let leg = family == Family::V6
                && self
                    .pod
                    .routes
                    .iter()
                    .any(|route| route.is_default() && route.table == net::MAIN_TABLE && route.family() == family);
            self.pod.routes.push(Route { leg, ..Route::new(family.everything(), dev, net::MAIN_TABLE).via(gateway) });
        }
        self
    }

    pub fn carry_out(&mut self, op: &Op) {
        match op {
            Op::AddVeth { host, pod } => {
                let (outer, inner) = (link(&mut self.host, &host.name), link(&mut self.pod, POD_VETH));
                *self.host.links.iter_mut().find(|link| link.index == outer).unwrap() = Link {
                    index: outer,
                    name: host.name.clone(),
                    mac: Some(host.mac),
                    partner: Some(inner),
                    ..Link::default()
                };
                *self.pod.links.iter_mut().find(|link| link.index == inner).unwrap() = Link {
                    index: inner,
                    name: pod.name.clone(),
                    mac: Some(pod.mac),
                    partner: Some(outer),
                    ..Link::default()
                };
                self.pod.sysctls.insert("ipv4/conf/veth0/rp_filter".to_owned(), "1".to_owned());
            }
            Op::DeleteLink { dev, .. } => {
                forget_link(&mut self.host, dev);
                if *dev == host_veth(CONTAINER) {
                    forget_link(&mut self.pod, POD_VETH);
                    self.pod.sysctls.remove("ipv4/conf/veth0/rp_filter");
                }
            }
            Op::SetLink { side, dev, change } => {
                let link = self.view(*side).links.iter_mut().find(|link| link.name == *dev).unwrap();
                link.up = change.up.unwrap_or(link.up);
                link.mac = change.mac.or(link.mac);
                link.tx_queue_len = change.tx_queue_len.unwrap_or(link.tx_queue_len);
            }
            Op::AddAddress { side, dev, address } => {
                self.view(*side).addresses.push(Address { dev: dev.clone(), net: *address, duplicate: false });
            }
            Op::AddRoute { side, route } => {
                let routes = &mut self.view(*side).routes;
                let rival = routes.iter().find(|other| other.rivals(route));
                assert!(rival.is_none(), "{side}: add route {route}: File exists: {}", rival.unwrap());
                routes.push(route.clone());
            }
            Op::RestoreRoute { side, route, front } => {
                let routes = &mut self.view(*side).routes;
                let at = if *front { 0 } else { routes.len() };
                routes.insert(at, route.clone());
            }
            Op::DeleteRoute { side, route } => remove(&mut self.view(*side).routes, |other| other.same_way(route), op),
            Op::AddRule { side, rule } => self.view(*side).rules.push(rule.clone()),
            Op::DeleteRule { side, rule } => remove(&mut self.view(*side).rules, |other| other == rule, op),
            Op::SetNeighbour { side, dev, address, mac } => {
                self.view(*side).neighbours.push(Neighbour {
                    dev: dev.clone(),
                    address: *address,
                    mac: Some(*mac),
                    permanent: true,
                });
            }
            Op::DeleteNeighbour { side, dev, address } => {
                remove(&mut self.view(*side).neighbours, |entry| entry.dev == *dev && entry.address == *address, op);
            }
            Op::Sysctl { side, key, value } => {
                self.view(*side).sysctls.insert(key.clone(), value.clone());
            }
            Op::InstallMarks { .. } => self.pod.marks = true,
            Op::RemoveMarks { .. } => self.pod.marks = false,
            Op::Announce { .. } => {}
        }
    }

    fn view(&mut self, side: Side) -> &mut View {
        if side == Side::Host { &mut self.host } else { &mut self.pod }
    }

    /// Everything but the order, in words.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (side, view) in [(Side::Host, &self.host), (Side::Pod, &self.pod)] {
            words.extend(view.links.iter().map(|link| format!("{side} {} {:?} up {}", link.name, link.mac, link.up)));
            words.extend(view.routes.iter().map(|route| format!("{side} {route} metric {:?}", route.metric)));
            words.extend(view.rules.iter().map(|rule| format!("{side} {rule}")));
            words.extend(view.neighbours.iter().map(|entry| format!("{side} {entry:?}")));
            words.extend(
                view.sysctls
                    .iter()
                    .filter(|(key, _)| !key.contains("accept_ra"))
                    .map(|entry| format!("{side} {entry:?}")),
            );
            words.push(format!("{side} marks {}", view.marks));
        }
        words.sort();
        words
    }
}

fn link(view: &mut View, name: &str) -> u32 {
    if let Some(link) = view.link(name) {
        return link.index;
    }
    let index = view.links.iter().map(|link| link.index).max().unwrap_or(0) + 1;
    view.links.push(Link { index, name: name.to_owned(), up: true, ..Link::default() });
    index
}

fn address(view: &mut View, dev: &str, net: &str) {
    link(view, dev);
    view.addresses.push(Address { dev: dev.to_owned(), net: net.parse().unwrap(), duplicate: false });
}

fn forget_link(view: &mut View, dev: &str) {
    view.links.retain(|link| link.name != dev);
    view.addresses.retain(|address| address.dev != dev);
    view.routes.retain(|route| route.dev != dev);
    view.neighbours.retain(|entry| entry.dev != dev);
}

fn remove<T>(list: &mut Vec<T>, matches: impl Fn(&T) -> bool, op: &Op) {
    let at = list.iter().position(matches).unwrap_or_else(|| panic!("{op}: No such object"));
    list.remove(at);
}
