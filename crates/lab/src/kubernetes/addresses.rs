//! Who has which address. All of it exists in the cluster's own network namespace alone.

use std::net::Ipv4Addr;

/// The API server, as nodes and tests reach it.
pub const API_SERVER: &str = "https://192.168.99.1:6443";
/// The control plane's end of the nodes' network.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(192, 168, 99, 1);
/// The nodes' network: `br0`, and `eth0` on each node.
pub const NODE_CIDR: &str = "192.168.99.0/24";
/// Pods of the cluster's own network; each node has a /24 of it.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// ClusterIPs.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The ClusterIP of the API server.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The second network, `br1`: the nodes have `eth1` there, without an address.
pub const SECOND_NETWORK: &str = "10.50.0.0/16";
/// The second network's router, on `br1`.
pub const SECOND_ROUTER: &str = "10.50.0.1/16";

/// The address of the node at that place in the list.
pub fn node(at: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 99, 11 + at as u8)
}

/// The pods of the node at that place in the list.
pub fn pods(at: usize) -> String {
    format!("10.244.{}.0/24", at + 1)
}
