//! What webhooks fill in and refuse (upstream's contract: controller, §9.2), for a SpiderCoordinator and for the
//! coordinator block of a SpiderMultusConfig.

use std::net::IpAddr;

use ipam::{Family, rules::FieldError};
use ipnet::IpNet;
use k8s_api::{CoordinatorSpec, Route, SpiderCoordinator, coordinator::CoordinatorMode};

const POD_CIDR_TYPES: &str = r#""auto", "cluster", "calico", "cilium", "none""#;
const RP_FILTERS: &str = r#""0", "1", "2""#;

/// Where a coordinator specification stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// In a SpiderCoordinator, where it must be complete.
    Cluster,
    /// In a SpiderMultusConfig, where it overrides the cluster's.
    Network,
}

/// Fills `coordinator` as upstream's webhook does, but gives it no finalizer: nothing must be done before it goes. What is wrong is left for
/// [`check`] to refuse.
pub fn fill(coordinator: &mut SpiderCoordinator) {
    let spec = &mut coordinator.spec;
    spec.mode.get_or_insert(CoordinatorMode::Auto);
    spec.tune_pod_routes.get_or_insert(true);
    spec.host_rule_table.get_or_insert(500);
    spec.pod_rp_filter.get_or_insert(0);
    spec.tx_queue_len.get_or_insert(0);
    spec.veth_link_address.get_or_insert_default();
    spec.veth_mtu.get_or_insert(1500);
    spec.hijack_cidr.iter_mut().flatten().for_each(normalise);
    spec.policy_routes.iter_mut().flatten().for_each(|route| normalise(&mut route.dst));
}

/// A bare address becomes a prefix, and a prefix loses its host bits, as upstream's parser does.
fn normalise(text: &mut String) {
    if let Some(net) = prefix(text) {
        *text = net.trunc().to_string();
    }
}

/// An address or a CIDR.
fn prefix(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Checks a coordinator specification.
pub fn check(spec: &CoordinatorSpec, owner: Owner) -> Result<(), FieldError> {
    if owner == Owner::Cluster && spec.pod_cidr_type.is_none() {
        return Err(FieldError::not_supported("spec.podCIDRType", &"", POD_CIDR_TYPES));
    }
    for (index, text) in spec.hijack_cidr.iter().flatten().enumerate() {
        if prefix(text).is_none() {
            let field = format!("spec.hijackCIDR[{index}]");
            return Err(FieldError::invalid(field, text, "invalid CIDR format: expect an IP address or a CIDR"));
        }
    }
    for (index, route) in spec.policy_routes.iter().flatten().enumerate() {
        policy_route(&format!("spec.policyRoutes[{index}]"), route)?;
    }
    mac_prefix(spec.pod_mac_prefix.as_deref().unwrap_or_default())?;
    if let Some(length) = spec.tx_queue_len
        && length < 0
    {
        return Err(FieldError::invalid("spec.txQueueLen", &length, "txQueueLen can't be less than 0"));
    }
    rp_filter(spec.pod_rp_filter, owner)?;
    let link = spec.veth_link_address.as_deref().unwrap_or_default();
    if !link.is_empty() && link.parse::<IpAddr>().is_err() {
        return Err(FieldError::invalid("spec.vethLinkAddress", &link, "vethLinkAddress is an invalid IP address"));
    }
    match spec.veth_mtu {
        Some(mtu) if mtu <= 0 => Err(FieldError::invalid("spec.vethMTU", &mtu, "vethMTU must be greater than 0")),
        _ => Ok(()),
    }
}

fn policy_route(field: &str, route: &Route) -> Result<(), FieldError> {
    let Some(dst) = prefix(&route.dst) else {
        return Err(FieldError::invalid(format!("{field}.dst"), &route.dst, "expect an IP address or a CIDR"));
    };
    let Ok(gateway) = route.gw.parse::<IpAddr>() else {
        return Err(FieldError::invalid(format!("{field}.gw"), &route.gw, "expect an IP address"));
    };
    if Family::of(dst.addr()) != Family::of(gateway) {
        return Err(FieldError::invalid(field, route, "dst and gw are of different families"));
    }
    Ok(())
}

fn mac_prefix(prefix: &str) -> Result<(), FieldError> {
    let invalid = |text: &str| Err(FieldError::invalid("spec.podMACPrefix", &prefix, text));
    if prefix.is_empty() {
        return Ok(());
    }
    let byte = |text: &str| {
        let hex = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    match prefix.split_once(':').map(|(first, second)| (byte(first), byte(second))) {
        Some((Some(first), Some(_))) if first & 1 == 0 => Ok(()),
        Some((Some(_), Some(_))) => invalid("not a unicast MAC: the lowest bit of the first byte must be 0"),
        _ => invalid("not a valid MAC prefix"),
    }
}

fn rp_filter(filter: Option<isize>, owner: Owner) -> Result<(), FieldError> {
    match filter {
        None if owner == Owner::Cluster => {
            Err(FieldError::not_supported("spec.podRPFilter", &serde_json::Value::Null, RP_FILTERS))
        }
        Some(filter) if filter > 2 => Err(FieldError::not_supported("spec.podRPFilter", &filter, RP_FILTERS)),
        _ => Ok(()),
    }
}
