//! SpiderReservedIP: addresses that no pool hands out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{resource::custom_resource, schema};

custom_resource! {
    /// SpiderReservedIP is a set of addresses that no pool hands out.
    SpiderReservedIP(crate::GROUP, crate::VERSION, "spiderreservedips", ClusterResourceScope),
    spec: SpiderReservedIPSpec
}

/// ReservedIPSpec defines the desired state of SpiderReservedIP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiderReservedIPSpec {
    /// Address family, 4 or 6; filled from the first of ips, immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [4, 6], "x-kubernetes-validations" = schema::immutable()))]
    pub ip_version: Option<i64>,
    /// Reserved addresses: "A" or "A-B" each.
    #[serde(default, rename = "ips", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
}
