//! Which addresses of the node a pod reaches by veth0, and which of them is its gateway to the node.

use std::net::IpAddr;

use net::Family;

use super::view::{View, is_usable};

/// Interfaces whose addresses are not the node's own: bridges and devices of container networks and load balancers.
const FOREIGN_PREFIXES: [&str; 12] = [
    "docker",
    "cbr",
    "dummy",
    "virbr",
    "lxcbr",
    "veth",
    "cali",
    "flannel",
    "kube-ipvs",
    "cni",
    "vx-submariner",
    "cilium",
];

fn is_foreign(dev: &str) -> bool {
    dev == "lo" || FOREIGN_PREFIXES.iter().any(|prefix| dev.starts_with(prefix))
}

/// Interfaces without a network, on which nodes that announce their address by a routing protocol have it. So do load balancers, which
/// is why these count only where there is nothing else.
fn is_routed(dev: &str) -> bool {
    dev == "lo" || dev.starts_with("dummy")
}

/// The node's own addresses of a family. The first is the pod's gateway: one whose network the pod's NIC shares comes
/// before others, and an address with a network before a single one, which may be a virtual address that moves to
/// another node. Then the kernel's order of interfaces counts.
pub fn addresses(host: &View, family: Family, pod: &[IpAddr]) -> Vec<IpAddr> {
    let own = ranked(host, family, pod, |dev| !is_foreign(dev));
    if own.is_empty() { ranked(host, family, pod, is_routed) } else { own }
}

fn ranked(host: &View, family: Family, pod: &[IpAddr], counts: impl Fn(&str) -> bool) -> Vec<IpAddr> {
    let own = host.addresses.iter().filter(|address| {
        Family::of(address.net.addr()) == family
            && is_usable(address.net.addr())
            && !address.duplicate
            && counts(&address.dev)
    });
    let mut ranked: Vec<_> = own
        .enumerate()
        .map(|(at, address)| {
            let single = address.net.prefix_len() == address.net.max_prefix_len();
            let shared = !single && pod.iter().any(|pod| address.net.contains(pod));
            let index = host.link(&address.dev).map_or(u32::MAX, |link| link.index);
            ((!shared, single, index, at), address.net.addr())
        })
        .collect();
    ranked.sort();
    let mut addresses: Vec<IpAddr> = ranked.into_iter().map(|(_, address)| address).collect();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::view::Address;

    fn host(addresses: &[(&str, &str)]) -> View {
        let mut view = View::default();
        for (at, (dev, net)) in addresses.iter().enumerate() {
            view.addresses.push(Address { dev: (*dev).to_owned(), net: net.parse().unwrap(), duplicate: false });
            if view.link(dev).is_none() {
                let index = u32::try_from(at).unwrap() + 1;
                view.links.push(net::Link { index, name: (*dev).to_owned(), ..net::Link::default() });
            }
        }
        view
    }

    #[test]
    fn the_gateway_is_on_the_pods_network_if_the_node_is() {
        let host = host(&[
            ("lo", "10.255.0.1/32"),
            ("docker0", "172.17.0.1/16"),
            ("eth0", "172.31.199.183/20"),
            ("eth1", "192.168.0.154/24"),
            ("eth1", "192.168.0.9/32"),
            ("eth1", "fd00:192:168::154/64"),
            ("veth0123456789a", "169.254.1.1/32"),
        ]);
        let rows: [(&str, &[&str]); 3] = [
            ("172.31.199.185", &["172.31.199.183", "192.168.0.154", "192.168.0.9"]),
            ("192.168.0.156", &["192.168.0.154", "172.31.199.183", "192.168.0.9"]),
            ("10.7.2.3", &["172.31.199.183", "192.168.0.154", "192.168.0.9"]),
        ];
        for (pod, expected) in rows {
            let found = addresses(&host, Family::V4, &[pod.parse().unwrap()]);
            let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(found, expected, "{pod}");
        }
        assert_eq!(addresses(&host, Family::V6, &[]), ["fd00:192:168::154".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_node_without_a_network_of_its_own_has_its_address_on_lo_or_a_dummy() {
        let routed = |more: &[(&str, &str)]| {
            let always = [
                ("lo", "127.0.0.1/8"),
                ("lo", "::1/128"),
                ("lo", "10.255.0.1/32"),
                ("eth0", "169.254.7.1/30"),
                ("eth0", "fe80::1/64"),
                ("dummy0", "fd00::7/128"),
                ("dummy0", "fe80::7/64"),
                ("docker0", "172.17.0.1/16"),
            ];
            host(&[&always[..], more].concat())
        };
        let found = |host: &View, family| -> Vec<String> {
            addresses(host, family, &["10.6.2.1".parse().unwrap()]).iter().map(ToString::to_string).collect()
        };
        assert_eq!(found(&routed(&[]), Family::V4), ["10.255.0.1"]);
        assert_eq!(found(&routed(&[]), Family::V6), ["fd00::7"]);
        let with_network = routed(&[("eth1", "192.168.0.9/24")]);
        assert_eq!(found(&with_network, Family::V4), ["192.168.0.9"]);
        assert_eq!(found(&with_network, Family::V6), ["fd00::7"]);
    }
}
