//! SpiderIPPool: addresses of one subnet and who may have them.

use ipam::pool::Source;
use ipam::{Span, SpanSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{resource::custom_resource, schema};

custom_resource! {
    /// SpiderIPPool is a set of addresses of one subnet that pods may be given.
    SpiderIPPool(crate::GROUP, crate::VERSION, "spiderippools", ClusterResourceScope),
    spec: SpiderIPPoolSpec,
    status: SpiderIPPoolStatus
}

/// IPPoolSpec defines the desired state of SpiderIPPool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["subnet"]))]
pub struct SpiderIPPoolSpec {
    /// Address family, 4 or 6; filled from subnet, immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [4, 6], "x-kubernetes-validations" = schema::immutable()))]
    pub ip_version: Option<i64>,
    /// Subnet in canonical CIDR form; immutable. Its mask is the prefix length that pods get.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = schema::immutable_text()))]
    pub subnet: String,
    /// Allocatable addresses: "A" or "A-B" each, inside subnet.
    #[serde(default, rename = "ips", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Addresses taken out of ips.
    #[serde(default, rename = "excludeIPs", skip_serializing_if = "Vec::is_empty")]
    pub exclude_ips: Vec<String>,
    /// Default gateway, inside subnet and not one of ips unless excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Further routes for pods. An explicit empty list differs from an absent one: it inherits nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// Which pods may use the pool, by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub pod_affinity: Option<LabelSelector>,
    /// Which namespaces may use the pool, by their labels; ignored if namespaceName is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub namespace_affinity: Option<LabelSelector>,
    /// Which namespaces may use the pool, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_name: Vec<String>,
    /// Which nodes may use the pool, by their labels; ignored if nodeName is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub node_affinity: Option<LabelSelector>,
    /// Which nodes may use the pool, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_name: Vec<String>,
    /// Which networks may use the pool: "namespace/name" of the NetworkAttachmentDefinition, or "name" in the agent's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub multus_name: Vec<String>,
    /// Whether the pool serves pods that name no pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub default: Option<bool>,
    /// Whether new allocations are refused. Releases and existing allocations go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub disable: Option<bool>,
}

/// A route: destination and gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-required" = ["dst", "gw"]))]
pub struct Route {
    /// Destination in CIDR form.
    #[serde(default)]
    pub dst: String,
    /// Gateway address.
    #[serde(default)]
    pub gw: String,
}

/// IPPoolStatus defines the observed state of SpiderIPPool: a view of the pool's SpiderIPs, never their source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiderIPPoolStatus {
    /// JSON text of the addresses in use, {"ADDRESS":{"pod":"NAMESPACE/NAME","podUid":"UID"}}; absent when there is none.
    #[serde(default, rename = "allocatedIPs", skip_serializing_if = "Option::is_none")]
    pub allocated_ips: Option<String>,
    /// Size of ips less excludeIPs.
    #[serde(default, rename = "totalIPCount", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_ip_count: Option<i64>,
    /// Number of addresses in use.
    #[serde(default, rename = "allocatedIPCount", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub allocated_ip_count: Option<i64>,
    /// Addresses in use as merged ranges. A hint for choosing: what it names was in use, what it does not name may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub used_ranges: Vec<String>,
    /// SpiderIP once every address in use has a SpiderIP object, so that allocatedIPs is a view. Absent: the pool is new, or upstream's
    /// agents write allocatedIPs (which takes this member away), and allocations may be told there alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["SpiderIP"]))]
    pub source: Option<String>,
    /// The addresses, ips less excludeIPs, that were looked at before source was written. Pods may use others that ips has got since; absent:
    /// they use none.
    #[serde(default, rename = "sourceIPs", skip_serializing_if = "Option::is_none")]
    pub source_ips: Option<Vec<String>>,
}

impl SpiderIPPoolStatus {
    /// The value of [`SpiderIPPoolStatus::source`] of a pool whose allocations are all SpiderIPs.
    pub const SPIDER_IP: &'static str = "SpiderIP";
    /// How the chart's policy refuses an agent's write to such a pool (`templates/agent/pool-status.yaml`).
    pub const TAKEN_OVER: &'static str =
        "the pool is taken over, its allocations are SpiderIPs and no longer entries of status.allocatedIPs";
}

impl SpiderIPPool {
    /// Where the pool's allocations are kept. A pool that was given further addresses is new until these were looked at too.
    pub fn source(&self) -> Source {
        let Some(status) = &self.status else { return Source::New };
        match &status.allocated_ips {
            _ if self.is_view() => {
                if self.unseen().is_none() {
                    Source::Claims
                } else {
                    Source::New
                }
            }
            Some(text) if !text.trim().is_empty() => Source::Listed,
            _ => Source::New,
        }
    }

    /// Whether the status is a view of SpiderIPs: `allocatedIPs` tells nothing else.
    pub fn is_view(&self) -> bool {
        let source = self.status.as_ref().and_then(|status| status.source.as_deref());
        source == Some(SpiderIPPoolStatus::SPIDER_IP)
    }

    /// Addresses that nobody has looked at yet whether pods use them, in a pool whose status is a view. `None`: there are none, or the
    /// pool's ranges cannot be understood and serve nobody.
    pub fn unseen(&self) -> Option<SpanSet> {
        let seen = self.status.as_ref()?.source_ips.as_ref()?;
        let all = ipam::rules::PoolSpec::from(&self.spec).addresses().ok()?;
        let seen = seen.iter().filter_map(|range| Span::parse(range, all.spans().first()?.family()).ok());
        Some(all.difference(&seen.collect())).filter(|unseen| !unseen.is_empty())
    }

    /// What `status.allocatedIPs` tells.
    pub fn records(&self) -> Result<crate::records::Records, serde_json::Error> {
        crate::records::Records::parse(self.status.as_ref().and_then(|status| status.allocated_ips.as_deref()))
    }
}
