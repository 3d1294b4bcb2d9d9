//! Address and port ranges of Services, and what is taken of them.
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{node_ports, texts};

/// Where addresses and ports come from.
#[derive(Debug, Clone)]
pub struct Ranges {
    /// One per family, the primary one first.
    pub(super) networks: Vec<IpNet>,
    /// Inclusive.
    pub(super) ports: (u16, u16),
}

impl Ranges {
    /// Checks the settings.
    pub fn new(networks: &[String], ports: (u16, u16)) -> Result<Self, String> {
        let parse = |text: &String| {
            text.trim().parse::<IpNet>().map(|n| n.trunc()).map_err(|_| format!("service range {text:?} is not a CIDR"))
        };
        let networks = networks.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        match networks.as_slice() {
            [_] => {}
            [a, b] if a.addr().is_ipv4() != b.addr().is_ipv4() => {}
            _ => return Err(format!("service ranges {networks:?}: want one, or one of each family")),
        }
        Ok(Self { networks, ports })
    }

    /// The first address of the primary range, that of the Service `kubernetes`.
    pub fn first(&self) -> IpAddr {
        match self.networks[0].network() {
            IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() + 1).into()),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() + 1).into()),
        }
    }

    /// The range of a family.
    pub(super) fn network(&self, family: &str) -> Option<&IpNet> {
        self.networks.iter().find(|n| family_of(n.addr()) == family)
    }

    /// The family that a Service gets by default.
    pub(super) fn primary(&self) -> &'static str {
        family_of(self.networks[0].addr())
    }
}

/// What the other Services hold.
#[derive(Debug, Default)]
pub struct Held {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) ports: BTreeSet<u64>,
}

impl Held {
    /// By these Services.
    pub fn by<'a>(services: impl Iterator<Item = &'a Value>) -> Self {
        let mut held = Self::default();
        for service in services {
            held.addresses
                .extend(texts(&service["spec"]["clusterIPs"]).iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
            held.ports.extend(node_ports(service));
            held.ports.extend(service["spec"]["healthCheckNodePort"].as_u64().filter(|p| *p > 0));
        }
        held
    }
}

/// `IPv4` or `IPv6`.
pub(super) fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Whether the network's first and last address are left out: they are no host's.
pub(super) fn is_assignable(network: &IpNet, ip: IpAddr) -> bool {
    network.contains(&ip) && ip != network.network() && (ip.is_ipv6() || ip != network.broadcast())
}

/// A random free address, outside the band at the start of the range that is left to explicit requests if possible.
pub(super) fn free_address(network: &IpNet, held: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let host_bits = u32::from(network.max_prefix_len() - network.prefix_len()).min(16);
    let size = (1u64 << host_bits).saturating_sub(if network.addr().is_ipv4() { 2 } else { 1 });
    let band = (size / 16).clamp(16, 256).min(size);
    let upper = size - band;
    let start = if upper > 0 { random() % upper } else { 0 };
    let order = (0..upper).map(|i| band + (start + i) % upper).chain(0..band);
    let base = match network.network() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let at = |offset: u64| {
        let bits = base + 1 + u128::from(offset);
        match network {
            IpNet::V4(_) => IpAddr::V4(u32::try_from(bits).unwrap_or(u32::MAX).into()),
            IpNet::V6(_) => IpAddr::V6(bits.into()),
        }
    };
    order.map(at).find(|ip| is_assignable(network, *ip) && !held.contains(ip))
}

/// 32 random bits.
pub(super) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 & 0xffff_ffff
}
