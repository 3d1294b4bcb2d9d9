//! What the coordinator sees of the node and of the pod before it decides, with names instead of interface numbers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use net::{Family, Link, Mac, Netlink, Netns, RouteKind, Rule, marks, sysctl};

use super::op::Route;

/// One namespace as it was read. The node's view has only what matters to one pod.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By index.
    pub links: Vec<Link>,
    /// In the kernel's order, IPv4 first.
    pub addresses: Vec<Address>,
    /// Without the kernel's table of local addresses.
    pub routes: Vec<Route>,
    pub rules: Vec<Rule>,
    pub neighbours: Vec<Neighbour>,
    /// By path below `/proc/sys/net`.
    pub sysctls: BTreeMap<String, String>,
    /// The reply marks are installed.
    pub marks: bool,
    /// The kernel has IPv6.
    pub ipv6: bool,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub dev: String,
    pub net: IpNet,
    /// Duplicate address detection found another owner.
    pub duplicate: bool,
}

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub dev: String,
    pub address: IpAddr,
    pub mac: Option<Mac>,
    pub permanent: bool,
}

const LOCAL_TABLE: u32 = 255;

impl View {
    /// The link of a name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The usable addresses of an interface: neither link-local (`fe80::/10`, `169.254.0.0/16`) nor multicast.
    pub fn usable_addresses(&self, dev: &str) -> Vec<IpAddr> {
        let own = self.addresses.iter().filter(|address| address.dev == dev && !address.duplicate);
        own.map(|address| address.net.addr()).filter(|address| is_usable(*address)).collect()
    }

    /// The permanent hardware address for an IP address on an interface.
    pub fn permanent_neighbour(&self, dev: &str, address: IpAddr) -> Option<Mac> {
        let found =
            self.neighbours.iter().find(|entry| entry.permanent && entry.dev == dev && entry.address == address);
        found.and_then(|entry| entry.mac)
    }
}

/// Neither link-local nor multicast nor unspecified.
pub fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_link_local() || v4.is_multicast() || v4.is_unspecified() || v4.is_loopback()),
        IpAddr::V6(v6) => !(v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified() || v6.is_loopback()),
    }
}

/// Reads the pod's namespace whole; a pod has a handful of everything.
pub fn pod(netns: &Netns, netlink: &mut Netlink, nic: &str) -> Result<View, net::Error> {
    let links = netlink.links()?;
    let names: BTreeMap<u32, String> = links.iter().map(|link| (link.index, link.name.clone())).collect();
    let mut view = View { addresses: addresses(netlink, &names)?, links, ..View::default() };
    for family in Family::BOTH {
        let routes = netlink.routes(family, None)?;
        view.routes
            .extend(routes.iter().filter(|route| route.table != LOCAL_TABLE).flat_map(|route| named(route, &names)));
        view.rules.extend(netlink.rules(family)?);
        view.neighbours.extend(netlink.neighbours(family)?.iter().filter_map(|entry| named_neighbour(entry, &names)));
    }
    let keys = pod_sysctls(nic);
    let inside = netns.run(|| -> Result<_, net::Error> {
        let mut sysctls = BTreeMap::new();
        for key in keys {
            if let Some(value) = sysctl::read(&key)? {
                sysctls.insert(key, value);
            }
        }
        let ipv6 = has_ipv6()?;
        let families = if ipv6 { Family::BOTH.as_slice() } else { &[Family::V4] };
        Ok((sysctls, marks::installed(super::POD_VETH, families)?, ipv6))
    });
    let entering = |source| net::Error::Io { doing: format!("entering {}", netns.path().display()), source };
    (view.sysctls, view.marks, view.ipv6) = inside.map_err(entering)??;
    Ok(view)
}

/// The settings that the coordinator may change in the pod.
fn pod_sysctls(nic: &str) -> Vec<String> {
    let filters = ["all", "default", super::POD_VETH, nic].map(|dev| format!("ipv4/conf/{dev}/rp_filter"));
    filters.into_iter().chain(["ipv6/conf/all/disable_ipv6".to_owned()]).collect()
}

fn has_ipv6() -> Result<bool, net::Error> {
    Ok(sysctl::read("ipv6/conf/all/disable_ipv6")?.is_some())
}

/// Reads of the node what concerns one pod: its host interface, the node's own addresses with their interfaces, and
/// routes and neighbours of the pod's addresses. A node may have thousands of each.
pub fn host(netlink: &mut Netlink, veth: &str, table: u32, pod: &[IpAddr]) -> Result<View, net::Error> {
    let mut names = Names::default();
    let mut view = View { ipv6: has_ipv6()?, ..View::default() };
    match netlink.link(veth) {
        Ok(link) => names.insert(link),
        Err(error) if error.not_there() => {}
        Err(error) => return Err(error),
    }
    for address in netlink.addresses()?.iter().filter(|address| is_usable(address.address.addr())) {
        if let Some(dev) = names.name(netlink, address.link) {
            view.addresses.push(Address { dev, net: address.address, duplicate: address.duplicate });
        }
    }
    for family in Family::BOTH {
        if !pod.iter().any(|address| Family::of(*address) == family) {
            continue;
        }
        view.rules.extend(netlink.rules(family)?);
        let concerns = |address: &IpAddr| pod.contains(address);
        for route in netlink.routes(family, Some(table))? {
            if route.destination == net::host_net(route.destination.addr()) && concerns(&route.destination.addr()) {
                names.learn(netlink, route.hops.iter().map(|hop| hop.link));
                view.routes.extend(named(&route, &names.by_index));
            }
        }
        for entry in netlink.neighbours(family)?.into_iter().filter(|entry| concerns(&entry.address)) {
            names.learn(netlink, [entry.link]);
            view.neighbours.extend(named_neighbour(&entry, &names.by_index));
        }
    }
    view.links = names.links;
    view.links.sort_by_key(|link| link.index);
    Ok(view)
}

/// Reads of the node what belongs to one container, in all tables: the routes and neighbours of its host interface, and
/// who else has routes to its addresses.
pub fn host_of_container(netlink: &mut Netlink, veth: &str, pod: &[IpAddr]) -> Result<View, net::Error> {
    let mut names = Names::default();
    let mut view = View::default();
    let mut own = None;
    match netlink.link(veth) {
        Ok(link) => {
            own = Some(link.index);
            names.insert(link);
        }
        Err(error) if error.not_there() => {}
        Err(error) => return Err(error),
    }
    for family in Family::BOTH {
        let rules = netlink.rules(family)?;
        // The tables of pods are those to which a rule for all packets leads.
        let tables = rules.iter().filter(|rule| rule.priority == super::plan::RULE_PRIORITY && rule.mark.is_none());
        for table in tables.map(|rule| rule.table).collect::<std::collections::BTreeSet<_>>() {
            for route in netlink.routes(family, Some(table))? {
                let concerned =
                    pod.contains(&route.destination.addr()) || route.hops.iter().any(|hop| Some(hop.link) == own);
                if concerned {
                    names.learn(netlink, route.hops.iter().map(|hop| hop.link));
                    view.routes.extend(named(&route, &names.by_index));
                }
            }
        }
        let neighbours = netlink.neighbours(family)?;
        view.neighbours.extend(
            neighbours
                .iter()
                .filter(|entry| Some(entry.link) == own)
                .filter_map(|entry| named_neighbour(entry, &names.by_index)),
        );
        view.rules.extend(rules);
    }
    view.links = names.links;
    Ok(view)
}

/// Names of interfaces, looked up when they are met.
#[derive(Default)]
struct Names {
    by_index: BTreeMap<u32, String>,
    links: Vec<Link>,
}

impl Names {
    fn insert(&mut self, link: Link) {
        self.by_index.insert(link.index, link.name.clone());
        self.links.push(link);
    }

    /// An interface may vanish while the node is read; then it has no name and concerns nobody.
    fn learn(&mut self, netlink: &mut Netlink, indexes: impl IntoIterator<Item = u32>) {
        for index in indexes {
            if !self.by_index.contains_key(&index)
                && let Ok(link) = netlink.link_at(index)
            {
                self.insert(link);
            }
        }
    }

    fn name(&mut self, netlink: &mut Netlink, index: u32) -> Option<String> {
        self.learn(netlink, [index]);
        self.by_index.get(&index).cloned()
    }
}

fn addresses(netlink: &mut Netlink, names: &BTreeMap<u32, String>) -> Result<Vec<Address>, net::Error> {
    let all = netlink.addresses()?;
    let named = all.into_iter().filter_map(|address| {
        let dev = names.get(&address.link)?.clone();
        Some(Address { dev, net: address.address, duplicate: address.duplicate })
    });
    Ok(named.collect())
}

fn named<'a>(route: &'a net::Route, names: &'a BTreeMap<u32, String>) -> impl Iterator<Item = Route> + 'a {
    let leg = route.hops.len() > 1;
    let hops = route.hops.iter().filter(|_| route.kind == RouteKind::Unicast);
    hops.filter_map(move |hop| {
        Some(Route {
            to: route.destination,
            table: route.table,
            dev: names.get(&hop.link)?.clone(),
            via: hop.gateway,
            source: route.source,
            metric: route.metric,
            mtu: route.mtu,
            on_link: hop.on_link,
            kernel: route.kernel,
            leg,
        })
    })
}

fn named_neighbour(entry: &net::Neighbour, names: &BTreeMap<u32, String>) -> Option<Neighbour> {
    let dev = names.get(&entry.link)?.clone();
    Some(Neighbour { dev, address: entry.address, mac: entry.mac, permanent: entry.permanent })
}
