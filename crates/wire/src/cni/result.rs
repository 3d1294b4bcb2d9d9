//! The result of ADD, in the shape of 1.1.0 inside and in the shape of any supported version outside.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::conf::parse_json;
use super::error::CniError;
use super::version::SpecVersion;

/// What ADD made: interfaces, addresses, routes and name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniResult {
    /// The version in which the result was written; printing sets it anew.
    #[serde(rename = "cniVersion", default, skip_serializing_if = "Option::is_none")]
    pub cni_version: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    #[serde(default, skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

/// A link that the plugin made, in the host (no sandbox) or in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Since 1.1.0.
    #[serde(rename = "socketPath", default, skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// Since 1.1.0.
    #[serde(rename = "pciID", default, skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address with its prefix length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Index into [`CniResult::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    pub address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route, by `gw` or, without it, by the gateway of the address's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// This and the following: since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

impl Route {
    /// A plain route.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Name servers for the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl CniResult {
    /// Reads the result that another plugin printed, of any supported version.
    pub fn parse(stdout: &[u8]) -> Result<Self, CniError> {
        let result: Self = parse_json("CNI result", stdout)?;
        if let Some(version) = &result.cni_version {
            version.parse::<SpecVersion>().map_err(|error| {
                CniError::new(super::error::code::INCOMPATIBLE_VERSION, format!("CNI result: {error}"))
            })?;
        }
        Ok(result)
    }

    /// The result as a document of the given version: what a version does not know is left out, what it demands is added.
    pub fn to_value(&self, version: SpecVersion) -> Value {
        let versioned = Self { cni_version: Some(version.to_string()), ..self.clone() };
        let mut value = serde_json::to_value(versioned).expect("a result has only string keys");
        if version < SpecVersion::V1_1_0 {
            strip(&mut value, "interfaces", &["mtu", "socketPath", "pciID"]);
            strip(&mut value, "routes", &["mtu", "advmss", "priority", "table", "scope"]);
        }
        if version < SpecVersion::V1_0_0 {
            for (entry, ip) in objects(&mut value, "ips").zip(&self.ips) {
                let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
                entry.insert("version".to_owned(), family.into());
            }
        }
        value
    }

    /// The result as printed.
    pub fn to_json(&self, version: SpecVersion) -> String {
        self.to_value(version).to_string()
    }
}

fn objects<'v>(value: &'v mut Value, list: &str) -> impl Iterator<Item = &'v mut Map<String, Value>> {
    let entries = value.get_mut(list).and_then(Value::as_array_mut);
    entries.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn strip(value: &mut Value, list: &str, keys: &[&str]) {
    for entry in objects(value, list) {
        for key in keys {
            entry.remove(*key);
        }
    }
}

/// Go writes an absent list as `null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(source: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(source)?.unwrap_or_default())
}
