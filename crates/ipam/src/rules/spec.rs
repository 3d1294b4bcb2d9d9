//! The specs that the rules read, and what mutation changes in them.

use serde::{Deserialize, Deserializer, Serialize};

use crate::family::Family;
use crate::range::{RangeError, SpanSet, merge_ranges};
use crate::route::Route;
use crate::selector::LabelSelector;

/// The finalizer of every Spiderpool kind.
pub const FINALIZER: &str = "spiderpool.spidernet.io";
/// Label of a pool: its CIDR.
pub const LABEL_POOL_CIDR: &str = "ipam.spidernet.io/ippool-cidr";
/// Label of a subnet: its CIDR.
pub const LABEL_SUBNET_CIDR: &str = "ipam.spidernet.io/subnet-cidr";
/// Label of a pool: its subnet.
pub const LABEL_POOL_OWNER_SUBNET: &str = "ipam.spidernet.io/owner-spider-subnet";

/// `SpiderIPPool.spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSpec {
    /// 4 or 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<i64>,
    /// CIDR.
    pub subnet: String,
    /// Ranges.
    #[serde(deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Ranges.
    #[serde(rename = "excludeIPs", deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub exclude_ips: Vec<String>,
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Absent and empty differ: only an absent list is inherited from the subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// Selector on pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_affinity: Option<LabelSelector>,
    /// Selector on namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_affinity: Option<LabelSelector>,
    /// Namespaces.
    #[serde(deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub namespace_name: Vec<String>,
    /// Selector on nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<LabelSelector>,
    /// Nodes.
    #[serde(deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub node_name: Vec<String>,
    /// Networks.
    #[serde(deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub multus_name: Vec<String>,
    /// Cluster default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// No new allocations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable: Option<bool>,
}

/// `SpiderSubnet.spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubnetSpec {
    /// 4 or 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<i64>,
    /// CIDR.
    pub subnet: String,
    /// Ranges.
    #[serde(deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Ranges.
    #[serde(rename = "excludeIPs", deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub exclude_ips: Vec<String>,
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
}

/// `SpiderReservedIP.spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReservedSpec {
    /// 4 or 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<i64>,
    /// Ranges.
    #[serde(deserialize_with = "list_or_null", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
}

fn list_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The part of a spec that pools and subnets share.
#[derive(Clone, Copy)]
pub(super) struct Network<'a> {
    pub kind: &'static str,
    pub ip_version: Option<i64>,
    pub subnet: &'a str,
    pub ips: &'a [String],
    pub exclude_ips: &'a [String],
    pub gateway: Option<&'a str>,
    pub routes: &'a [Route],
}

impl PoolSpec {
    pub(super) fn network(&self) -> Network<'_> {
        Network {
            kind: "IPPool",
            ip_version: self.ip_version,
            subnet: &self.subnet,
            ips: &self.ips,
            exclude_ips: &self.exclude_ips,
            gateway: self.gateway.as_deref(),
            routes: self.routes.as_deref().unwrap_or_default(),
        }
    }

    /// The family: of `ipVersion`, else of `subnet`.
    pub fn family(&self) -> Option<Family> {
        family_of(self.ip_version, &self.subnet)
    }

    /// `ips` − `excludeIPs`.
    pub fn addresses(&self) -> Result<SpanSet, RangeError> {
        self.network().addresses()
    }
}

impl SubnetSpec {
    pub(super) fn network(&self) -> Network<'_> {
        Network {
            kind: "Subnet",
            ip_version: self.ip_version,
            subnet: &self.subnet,
            ips: &self.ips,
            exclude_ips: &self.exclude_ips,
            gateway: self.gateway.as_deref(),
            routes: self.routes.as_deref().unwrap_or_default(),
        }
    }

    /// `ips` − `excludeIPs`.
    pub fn addresses(&self) -> Result<SpanSet, RangeError> {
        self.network().addresses()
    }
}

impl Network<'_> {
    pub(super) fn addresses(&self) -> Result<SpanSet, RangeError> {
        let family = family_of(self.ip_version, self.subnet).ok_or_else(|| RangeError::Cidr {
            text: self.subnet.to_owned(),
            reason: "expect address/prefix length".to_owned(),
        })?;
        crate::pool::allocatable(self.ips, self.exclude_ips, family)
    }
}

fn family_of(version: Option<i64>, subnet: &str) -> Option<Family> {
    match version {
        Some(version) => Family::from_version(version),
        None => subnet.parse::<ipnet::IpNet>().ok().map(|net| Family::of(net.addr())),
    }
}

/// Something that mutation could not do. The object is left as it is in that respect, and validation refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Field path.
    pub field: &'static str,
    /// Why not.
    pub text: String,
}

/// What mutation changes; everything unset stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mutation {
    /// Whether [`FINALIZER`] is to be added.
    pub add_finalizer: bool,
    /// `spec.ipVersion`.
    pub ip_version: Option<i64>,
    /// Labels to set.
    pub labels: Vec<(&'static str, String)>,
    /// Merged `spec.ips`.
    pub ips: Option<Vec<String>>,
    /// Merged `spec.excludeIPs`.
    pub exclude_ips: Option<Vec<String>>,
    /// Inherited `spec.gateway`.
    pub gateway: Option<String>,
    /// Inherited `spec.routes`.
    pub routes: Option<Vec<Route>>,
    /// Name of the `SpiderSubnet` that becomes the controller owner.
    pub owner_subnet: Option<String>,
    /// What could not be done.
    pub warnings: Vec<Warning>,
}

impl Mutation {
    pub(super) fn set_version(&mut self, current: Option<i64>, family: Result<Family, String>, field: &'static str) {
        match (current, family) {
            (Some(_), _) => {}
            (None, Ok(family)) => self.ip_version = Some(family.version()),
            (None, Err(text)) => self.warnings.push(Warning { field, text }),
        }
    }

    pub(super) fn set_label(&mut self, labels: &crate::Labels, key: &'static str, value: String) {
        if labels.get(key) != Some(&value) {
            self.labels.push((key, value));
        }
    }

    /// Merges lists with more than one element; a single element keeps its spelling.
    pub(super) fn merge(&mut self, ips: &[String], exclude_ips: &[String], family: Option<Family>) {
        let Some(family) = family else { return };
        self.ips = self.merged("spec.ips", ips, family);
        self.exclude_ips = self.merged("spec.excludeIPs", exclude_ips, family);
    }

    fn merged(&mut self, field: &'static str, ranges: &[String], family: Family) -> Option<Vec<String>> {
        if ranges.len() < 2 {
            return None;
        }
        match merge_ranges(ranges, family) {
            Ok(merged) => (merged != ranges).then_some(merged),
            Err(error) => {
                self.warnings.push(Warning { field, text: error.to_string() });
                None
            }
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        Self { warnings: Vec::new(), ..self.clone() } == Self::default()
    }
}

/// The family of a CIDR text, for filling `ipVersion`.
pub(super) fn family_of_cidr(text: &str) -> Result<Family, String> {
    let net: ipnet::IpNet = text.parse().map_err(|_| format!("invalid CIDR format '{text}'"))?;
    Ok(Family::of(net.addr()))
}
