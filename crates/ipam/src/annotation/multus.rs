//! The network selection syntax of the NPWG de-facto standard (v1.3 §4.1.2), as Multus reads it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::json::{self, Json, Members};
use super::shortened;
use crate::selector::is_dns_label;

/// One selected network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Namespace of the NetworkAttachmentDefinition.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Interface asked for.
    pub interface: Option<String>,
    /// Addresses asked for (address or CIDR).
    pub ips: Vec<String>,
    /// MAC asked for.
    pub mac: Option<String>,
    /// InfiniBand GUID asked for.
    pub infiniband_guid: Option<String>,
    /// `portMappings`, as JSON text.
    pub port_mappings: Option<String>,
    /// `bandwidth`, as JSON text.
    pub bandwidth: Option<String>,
    /// `default-route`: gateways that the pod's default route shall use.
    pub default_route: Vec<String>,
    /// `cni-args`, as JSON text of an object.
    pub cni_args: Option<String>,
    /// `ipam-claim-reference`.
    pub ipam_claim_reference: Option<String>,
}

/// A selection that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid network selection '{value}': {reason}")]
pub struct NetworkError {
    /// The value, shortened when long.
    pub value: String,
    /// What is wrong.
    pub reason: String,
}

/// Parses a selection. Texts with any of `[`, `{`, `"` are a JSON array; others are comma-separated items
/// `[namespace/]name[@interface]`. An item without namespace gets `default_namespace`.
pub fn parse_networks(value: &str, default_namespace: &str) -> Result<Vec<Network>, NetworkError> {
    let parsed = if value.trim().is_empty() {
        Err("empty text".to_owned())
    } else if value.contains(['[', '{', '"']) {
        // Nested values are passed on as text, so they are read a second time with their content.
        let raw: Result<serde_json::Value, _> = serde_json::from_str(value);
        json::parse(value).and_then(Json::list).and_then(|items| {
            let raw = raw.map_err(|error| error.to_string())?;
            let raw = raw.as_array().cloned().unwrap_or_default();
            items.into_iter().zip(raw).map(|(item, raw)| from_json(item.object()?, &raw)).collect()
        })
    } else {
        value.split(',').map(|item| from_short(item.trim())).collect()
    };
    let finish = |mut network: Network| {
        if network.namespace.is_empty() {
            default_namespace.clone_into(&mut network.namespace);
        }
        network
    };
    match parsed {
        Ok(networks) => Ok(Vec::into_iter(networks).map(finish).collect()),
        Err(reason) => Err(NetworkError { value: shortened(value), reason }),
    }
}

fn from_short(item: &str) -> Result<Network, String> {
    let (path, interface) = match item.split_once('@') {
        Some((path, interface)) => (path.trim(), Some(interface.trim())),
        None => (item, None),
    };
    let (namespace, name) = match path.split_once('/') {
        Some((namespace, name)) => (Some(namespace.trim()), name.trim()),
        None => (None, path),
    };
    let label = |what: &str, text: &str| {
        let good = is_dns_label(text);
        good.then(|| text.to_owned()).ok_or_else(|| format!("{what} '{text}' is not a DNS-1123 label in '{item}'"))
    };
    Ok(Network {
        namespace: namespace.map(|text| label("namespace", text)).transpose()?.unwrap_or_default(),
        name: label("name", name)?,
        interface: interface.map(checked_interface).transpose()?,
        ..Network::default()
    })
}

fn from_json(members: Members, raw: &serde_json::Value) -> Result<Network, String> {
    let name = members.string("name")?.filter(|name| !name.is_empty()).ok_or("an item has no 'name'")?;
    let network = Network {
        namespace: members.string("namespace")?.unwrap_or_default(),
        interface: members
            .string("interface")?
            .filter(|text| !text.is_empty())
            .map(|text| checked_interface(&text))
            .transpose()?,
        ips: members.strings("ips")?,
        mac: members.string("mac")?.filter(|text| !text.is_empty()),
        infiniband_guid: members.string("infiniband-guid")?.filter(|text| !text.is_empty()),
        port_mappings: nested(raw, "portMappings"),
        bandwidth: nested(raw, "bandwidth"),
        default_route: members.strings("default-route")?,
        cni_args: nested(raw, "cni-args"),
        ipam_claim_reference: members.string("ipam-claim-reference")?.filter(|text| !text.is_empty()),
        name,
    };
    check(&network)?;
    Ok(network)
}

fn nested(raw: &serde_json::Value, name: &str) -> Option<String> {
    let members = raw.as_object()?;
    let (_, value) = members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    (!value.is_null()).then(|| value.to_string())
}

fn check(network: &Network) -> Result<(), String> {
    let Network { name, .. } = network;
    if let Some(ip) = network.ips.iter().find(|ip| ip.parse::<IpAddr>().is_err() && ip.parse::<IpNet>().is_err()) {
        return Err(format!("'{ip}' in 'ips' of '{name}' is neither an IP address nor a CIDR"));
    }
    if let Some(gateway) = network.default_route.iter().find(|gateway| gateway.parse::<IpAddr>().is_err()) {
        return Err(format!("'{gateway}' in 'default-route' of '{name}' is not an IP address"));
    }
    for (what, text) in [("mac", &network.mac), ("infiniband-guid", &network.infiniband_guid)] {
        if let Some(text) = text.as_ref().filter(|text| !is_hardware_address(text)) {
            return Err(format!("'{text}' in '{what}' of '{name}' is not a hardware address"));
        }
    }
    Ok(())
}

/// What Go's `net.ParseMAC` takes: 6, 8 or 20 bytes, written `xx:xx`, `xx-xx` or `xxxx.xxxx`.
fn is_hardware_address(text: &str) -> bool {
    let (separator, width) = match text.bytes().find(|byte| !byte.is_ascii_hexdigit()) {
        Some(separator @ (b':' | b'-')) => (separator, 2),
        Some(b'.') => (b'.', 4),
        _ => return false,
    };
    let groups: Vec<&str> = text.split(char::from(separator)).collect();
    let hex = |group: &&str| group.len() == width && group.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(groups.len() * width / 2, 6 | 8 | 20) && groups.iter().all(hex)
}

/// What the kernel takes as an interface name.
fn checked_interface(name: &str) -> Result<String, String> {
    let bad = name.is_empty() || name.len() > 15 || name.contains(|c: char| c == '/' || c.is_whitespace());
    let bad = bad || name == "." || name == "..";
    if bad {
        Err(format!("'{name}' is not an interface name (1 to 15 bytes, no blank, no '/')"))
    } else {
        Ok(name.to_owned())
    }
}
