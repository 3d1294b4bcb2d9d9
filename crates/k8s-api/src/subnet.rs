//! SpiderSubnet: the addresses from which pools are made per application.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{pool::Route, resource::custom_resource, schema};

custom_resource! {
    /// SpiderSubnet is a set of addresses from which pools are made.
    SpiderSubnet(crate::GROUP, crate::VERSION, "spidersubnets", ClusterResourceScope),
    spec: SpiderSubnetSpec,
    status: SpiderSubnetStatus
}

/// SubnetSpec defines the desired state of SpiderSubnet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["subnet"]))]
pub struct SpiderSubnetSpec {
    /// Address family, 4 or 6; filled from subnet, immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [4, 6], "x-kubernetes-validations" = schema::immutable()))]
    pub ip_version: Option<i64>,
    /// Subnet in canonical CIDR form; immutable.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = schema::immutable_text()))]
    pub subnet: String,
    /// Addresses that pools may have: "A" or "A-B" each, inside subnet.
    #[serde(default, rename = "ips", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Addresses taken out of ips.
    #[serde(default, rename = "excludeIPs", skip_serializing_if = "Vec::is_empty")]
    pub exclude_ips: Vec<String>,
    /// Default gateway that pools inherit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Routes that pools inherit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
}

/// SubnetStatus defines the observed state of SpiderSubnet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiderSubnetStatus {
    /// JSON text of the addresses given to pools; absent when there is none.
    #[serde(default, rename = "controlledIPPools", skip_serializing_if = "Option::is_none")]
    pub controlled_ip_pools: Option<String>,
    /// Size of ips less excludeIPs.
    #[serde(default, rename = "totalIPCount", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_ip_count: Option<i64>,
    /// Number of addresses given to pools.
    #[serde(default, rename = "allocatedIPCount", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub allocated_ip_count: Option<i64>,
}
