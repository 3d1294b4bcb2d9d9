//! What is told about allocated addresses: the entries of a `SpiderEndpoint` and the answer to the plugin
//! (upstream's contract: ipam, §7, upstream's contract: crds, §4).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::family::Family;
use crate::pool::Pool;
use crate::route::Route;

/// One address of a pod with what its pool says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Interface.
    pub nic: String,
    /// Address.
    pub address: IpAddr,
    /// Pool name.
    pub pool: String,
    /// Prefix length of the pool's subnet.
    pub prefix: u8,
    /// Pool gateway.
    pub gateway: Option<IpAddr>,
    /// Pool routes.
    pub routes: Vec<Route>,
    /// Whether the NIC gets no default route; `None` when that is not known.
    pub clean_gateway: Option<bool>,
}

impl Allocation {
    /// An address of `pool` on `nic`.
    pub fn new(nic: impl Into<String>, address: IpAddr, pool: &Pool, clean_gateway: Option<bool>) -> Self {
        Self {
            nic: nic.into(),
            address,
            pool: pool.name.clone(),
            prefix: pool.subnet.prefix_len(),
            gateway: pool.gateway,
            routes: pool.routes.clone(),
            clean_gateway,
        }
    }
}

/// An entry of `SpiderEndpoint.status.current.ips`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NicDetail {
    /// NIC name.
    pub interface: String,
    /// Address with prefix length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// Address with prefix length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    /// Pool of the IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_pool: Option<String>,
    /// Pool of the IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_pool: Option<String>,
    /// Gateway of the IPv4 pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<String>,
    /// Gateway of the IPv6 pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<String>,
    /// VLAN; 0 unless a provider supplied one.
    pub vlan: i64,
    /// True: no default route for this NIC. Always written where an ADD told it, so that a re-used answer is the same as the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_gateway: Option<bool>,
    /// Pool routes and the pod's own routes for this NIC.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// MAC supplied by a provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// One entry of `ips` in the agent's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// Family.
    pub family: Family,
    /// `address/prefix`.
    pub address: String,
    /// NIC name.
    pub nic: String,
    /// Pool gateway, also when the default route is left out.
    pub gateway: Option<String>,
    /// Pool name.
    pub pool: String,
    /// VLAN, 0 for none.
    pub vlan: i64,
    /// MAC supplied by a provider.
    pub mac: Option<String>,
}

/// One entry of `routes` in the agent's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicRoute {
    /// NIC name.
    pub nic: String,
    /// The route.
    pub route: Route,
}

/// The agent's answer to an ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Addresses of all NICs.
    pub ips: Vec<IpConfig>,
    /// Routes of all NICs.
    pub routes: Vec<NicRoute>,
}

/// Builds the endpoint entries of a pod: one per NIC, sorted with `eth0` first, both families merged, the pod's
/// own routes attached to the first NIC whose subnet contains their gateway. Returned beside: custom routes
/// whose gateway lies in no subnet (they are only logged).
pub fn details(allocations: &[Allocation], custom: &[Route]) -> (Vec<NicDetail>, Vec<Route>) {
    let mut nics: BTreeMap<(bool, &str), NicDetail> = BTreeMap::new();
    let mut sorted: Vec<&Allocation> = allocations.iter().collect();
    sorted.sort_by_key(|one| (one.nic != "eth0", one.nic.as_str(), Family::of(one.address)));
    for one in &sorted {
        let nic = nics.entry((one.nic != "eth0", &one.nic)).or_default();
        add_to(nic, one);
    }
    let mut leftover = Vec::new();
    for route in custom {
        let home = sorted.iter().find(|one| reaches(one, route));
        match home.and_then(|one| nics.get_mut(&(one.nic != "eth0", one.nic.as_str()))) {
            Some(nic) => nic.routes.push(route.clone()),
            None => leftover.push(route.clone()),
        }
    }
    (nics.into_values().collect(), leftover)
}

fn add_to(nic: &mut NicDetail, one: &Allocation) {
    nic.interface.clone_from(&one.nic);
    nic.clean_gateway = one.clean_gateway;
    nic.routes.extend(one.routes.iter().cloned());
    let address = Some(format!("{}/{}", one.address, one.prefix));
    let gateway = one.gateway.map(|gateway| gateway.to_string());
    let pool = Some(one.pool.clone());
    match Family::of(one.address) {
        Family::V4 => (nic.ipv4, nic.ipv4_pool, nic.ipv4_gateway) = (address, pool, gateway),
        Family::V6 => (nic.ipv6, nic.ipv6_pool, nic.ipv6_gateway) = (address, pool, gateway),
    }
}

/// Whether the gateway of `route` lies in the subnet of an allocation.
fn reaches(one: &Allocation, route: &Route) -> bool {
    let subnet = ipnet::IpNet::new(one.address, one.prefix);
    let gateway = route.gw.parse::<IpAddr>();
    matches!((subnet, gateway), (Ok(subnet), Ok(gateway)) if subnet.contains(&gateway))
}

/// The answer that endpoint entries amount to: the same for a first ADD and for every repetition. Per NIC the
/// recorded routes come first, the default route of each family with a gateway last, unless `cleanGateway`.
pub fn response(nics: &[NicDetail]) -> Response {
    let mut answer = Response::default();
    for nic in nics {
        let families = [
            (Family::V4, &nic.ipv4, &nic.ipv4_pool, &nic.ipv4_gateway),
            (Family::V6, &nic.ipv6, &nic.ipv6_pool, &nic.ipv6_gateway),
        ];
        let route = |route: Route| NicRoute { nic: nic.interface.clone(), route };
        answer.routes.extend(nic.routes.iter().cloned().map(route));
        for (family, address, pool, gateway) in families {
            let Some(address) = address else { continue };
            answer.ips.push(IpConfig {
                family,
                address: address.clone(),
                nic: nic.interface.clone(),
                gateway: gateway.clone(),
                pool: pool.clone().unwrap_or_default(),
                vlan: nic.vlan,
                mac: nic.mac.clone(),
            });
            let gateway = gateway.as_deref().and_then(|text| text.parse().ok());
            if let Some(gateway) = gateway.filter(|_| nic.clean_gateway != Some(true)) {
                answer.routes.push(route(Route::default_via(gateway)));
            }
        }
    }
    answer
}
