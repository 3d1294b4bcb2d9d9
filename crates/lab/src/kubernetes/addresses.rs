//! Who has which address. All of it exists in the cluster's own namespaces alone.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The second network on bridges, `br1`: the nodes have `eth1` there, without an address.
pub const SECOND_NETWORK: &str = "10.50.0.0/16";
/// The second network's router, on `br1`.
pub const SECOND_ROUTER: &str = "10.50.0.1/16";

/// What the nodes are plugged into; it decides all addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Network {
    /// Two bridges, and a network of the cluster's own for pods.
    #[default]
    Bridges,
    /// The lab's public cloud: two nodes, `master` and `worker`, as in the guide. Pods have no network until somebody installs one.
    Vpc,
}

impl Network {
    /// The control plane's address, which is no node's.
    pub fn control_plane(self) -> Ipv4Addr {
        match self {
            Self::Bridges => Ipv4Addr::new(192, 168, 99, 1),
            Self::Vpc => Ipv4Addr::new(172, 31, 192, 5),
        }
    }

    /// The API server, as nodes and tests reach it.
    pub fn api_server(self) -> String {
        format!("https://{}:6443", self.control_plane())
    }

    /// The nodes' network, that of `eth0`.
    pub fn node_cidr(self) -> &'static str {
        match self {
            Self::Bridges => "192.168.99.0/24",
            Self::Vpc => "172.31.192.0/20",
        }
    }

    /// Pods of the cluster's own network, as kubeadm was told. On bridges each node has a /24 of it; in the VPC no pod uses it.
    pub fn pod_cidr(self) -> &'static str {
        match self {
            Self::Bridges => "10.244.0.0/16",
            Self::Vpc => "10.233.64.0/18",
        }
    }

    /// ClusterIPs.
    pub fn service_cidr(self) -> &'static str {
        match self {
            Self::Bridges => "10.96.0.0/16",
            Self::Vpc => "10.233.0.0/18",
        }
    }

    /// The ClusterIP of the API server: the first one.
    pub fn api_service(self) -> Ipv4Addr {
        let range: Ipv4Net = self.service_cidr().parse().expect("a constant of this file");
        Ipv4Addr::from(u32::from(range.network()) + 1)
    }

    /// The address of the node at that place in the list, on `eth0`.
    pub fn node(self, at: usize) -> Ipv4Addr {
        match self {
            Self::Bridges => Ipv4Addr::new(192, 168, 99, 11 + at as u8),
            Self::Vpc => Ipv4Addr::new(172, 31, 199, 183 + at as u8),
        }
    }
}

/// The pods of the node at that place in the list, on bridges.
pub fn pods(at: usize) -> String {
    format!("10.244.{}.0/24", at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_lies_in_its_range() {
        for network in [Network::Bridges, Network::Vpc] {
            let nodes: Ipv4Net = network.node_cidr().parse().unwrap();
            for address in [network.control_plane(), network.node(0), network.node(1)] {
                assert!(nodes.contains(&address), "{network:?}: {address} is not in {nodes}");
            }
            let services: Ipv4Net = network.service_cidr().parse().unwrap();
            assert!(services.contains(&network.api_service()));
        }
    }
}
