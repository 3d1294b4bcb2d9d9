//! What pod and namespace annotations say (upstream's contract: annotations).
//!
//! The values are JSON texts that were written for Go's decoder: unknown members are ignored, names match
//! regardless of case, `null` is absent, of duplicate members the last one counts, a wrong type or anything
//! after the value is an error.

mod json;
mod multus;

use crate::route::Route;
use crate::selector::Labels;

pub use multus::{Network, NetworkError, parse_networks};

/// Pools for whichever NIC the current ADD is for.
pub const POD_IPPOOL: &str = "ipam.spidernet.io/ippool";
/// Pools for all NICs of the pod.
pub const POD_IPPOOLS: &str = "ipam.spidernet.io/ippools";
/// Subnet for one NIC.
pub const POD_SUBNET: &str = "ipam.spidernet.io/subnet";
/// Subnets for all NICs.
pub const POD_SUBNETS: &str = "ipam.spidernet.io/subnets";
/// The pod's own routes.
pub const POD_ROUTES: &str = "ipam.spidernet.io/routes";
/// NIC that keeps the default route.
pub const POD_DEFAULT_ROUTE_NIC: &str = "ipam.spidernet.io/default-route-nic";
/// IPv4 default pools of a namespace.
pub const NAMESPACE_DEFAULT_V4: &str = "ipam.spidernet.io/default-ipv4-ippool";
/// IPv6 default pools of a namespace.
pub const NAMESPACE_DEFAULT_V6: &str = "ipam.spidernet.io/default-ipv6-ippool";
/// The pod's default network (NPWG and Multus).
pub const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";
/// The pod's further networks (NPWG).
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// Where the result of network attachment is reported (NPWG).
pub const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// An annotation that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// A pod annotation does not decode or breaks a rule.
    #[error("wrong input: invalid format of Pod annotation '{key}' (value '{value}'): {reason}")]
    Pod {
        /// Annotation key.
        key: &'static str,
        /// Annotation value, shortened when long.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A namespace annotation does not decode.
    #[error("invalid format of Namespace annotation '{key}' (value '{value}'): {reason}")]
    Namespace {
        /// Annotation key.
        key: &'static str,
        /// Annotation value, shortened when long.
        value: String,
        /// What is wrong.
        reason: String,
    },
}

impl AnnotationError {
    fn pod(key: &'static str, value: &str, reason: impl ToString) -> Self {
        Self::Pod { key, value: shortened(value), reason: reason.to_string() }
    }
}

/// Annotation values may be long; an error shows this much of them.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value.to_owned(),
    }
}

/// Pool names or patterns per family, in the user's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolNames {
    /// IPv4 pools.
    pub v4: Vec<String>,
    /// IPv6 pools.
    pub v6: Vec<String>,
}

impl PoolNames {
    /// Whether neither family has a name.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// An item of the annotation `ippools`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicPools {
    /// NIC name; `None` in the form without names, where the position counts.
    pub interface: Option<String>,
    /// Its pools.
    pub pools: PoolNames,
    /// Whether the NIC gets no default route.
    pub clean_gateway: bool,
}

/// Parses the annotation `ippool`: `{"ipv4": [...], "ipv6": [...]}`.
pub fn ippool(value: &str) -> Result<PoolNames, AnnotationError> {
    pool_names(value).map_err(|reason| AnnotationError::pod(POD_IPPOOL, value, reason))
}

fn pool_names(value: &str) -> Result<PoolNames, String> {
    let object = json::parse(value)?.object()?;
    Ok(PoolNames { v4: object.strings("ipv4")?, v6: object.strings("ipv6")? })
}

/// Parses the annotation `ippools`: at least one item, interfaces named in all items or in none, none twice.
pub fn ippools(value: &str) -> Result<Vec<NicPools>, AnnotationError> {
    let items = nic_pools(value).and_then(|items| check_interfaces(&items).map(|()| items));
    items.map_err(|reason| AnnotationError::pod(POD_IPPOOLS, value, reason))
}

fn nic_pools(value: &str) -> Result<Vec<NicPools>, String> {
    let item = |item: json::Json| {
        let object = item.object()?;
        Ok(NicPools {
            interface: object.string("interface")?.filter(|name| !name.is_empty()),
            pools: PoolNames { v4: object.strings("ipv4")?, v6: object.strings("ipv6")? },
            clean_gateway: object.boolean("cleangateway")?.unwrap_or(false),
        })
    };
    json::parse(value)?.list()?.into_iter().map(item).collect()
}

fn check_interfaces(items: &[NicPools]) -> Result<(), String> {
    let names: Vec<&str> = items.iter().filter_map(|item| item.interface.as_deref()).collect();
    if items.is_empty() {
        return Err("at least one item must be specified".to_owned());
    }
    if !names.is_empty() && names.len() != items.len() {
        return Err("interface must be specified in all items or in none".to_owned());
    }
    match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        Some((_, name)) => Err(format!("duplicate interface {name}")),
        None => Ok(()),
    }
}

/// Parses the annotation `routes`: `[{"dst": CIDR, "gw": IP}, ...]`, each of one family.
pub fn routes(value: &str) -> Result<Vec<Route>, AnnotationError> {
    pod_routes(value).map_err(|reason| AnnotationError::pod(POD_ROUTES, value, reason))
}

fn pod_routes(value: &str) -> Result<Vec<Route>, String> {
    let item = |item: json::Json| {
        let object = item.object()?;
        let text = |name| object.string(name).map(Option::unwrap_or_default);
        let route = Route::new(text("dst")?, text("gw")?);
        route.parsed().map(|_| route).map_err(|error| error.to_string())
    };
    json::parse(value)?.list()?.into_iter().map(item).collect()
}

/// The default pools of a namespace; absent annotations yield empty lists.
pub fn namespace_defaults(annotations: &Labels) -> Result<PoolNames, AnnotationError> {
    let names =
        |key: &'static str| match annotations.get(key) {
            None => Ok(Vec::new()),
            Some(value) => json::parse(value)
                .and_then(json::Json::strings)
                .map_err(|reason| AnnotationError::Namespace { key, value: shortened(value), reason }),
        };
    Ok(PoolNames { v4: names(NAMESPACE_DEFAULT_V4)?, v6: names(NAMESPACE_DEFAULT_V6)? })
}
