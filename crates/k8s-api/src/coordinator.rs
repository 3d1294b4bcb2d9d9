//! SpiderCoordinator: how pods with underlay NICs reach their node and the cluster, and the cluster's CIDRs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Int, pool::Route, resource::custom_resource};

custom_resource! {
    /// SpiderCoordinator holds the cluster's coordinator configuration and CIDRs.
    SpiderCoordinator(crate::GROUP, crate::VERSION, "spidercoordinators", ClusterResourceScope),
    spec: CoordinatorSpec,
    status: SpiderCoordinatorStatus
}

/// CoordinatorSpec configures the coordinator plugin, for the cluster (SpiderCoordinator) or one network (SpiderMultusConfig).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorSpec {
    /// Mode of the coordinator plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "auto"))]
    pub mode: Option<CoordinatorMode>,
    /// How the cluster's pod CIDRs are found. Required in a SpiderCoordinator.
    #[serde(default, rename = "podCIDRType", skip_serializing_if = "Option::is_none")]
    pub pod_cidr_type: Option<PodCidrType>,
    /// Addresses and CIDRs that pods reach through their node's stack.
    #[serde(default, rename = "hijackCIDR", skip_serializing_if = "Option::is_none")]
    pub hijack_cidr: Option<Vec<String>>,
    /// Routes put into the policy routing table of the NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_routes: Option<Vec<Route>>,
    /// First two bytes of the pods' MAC addresses, for example 0a:1b; the lowest bit of the first byte is 0 (unicast).
    #[serde(default, rename = "podMACPrefix", skip_serializing_if = "Option::is_none")]
    pub pod_mac_prefix: Option<String>,
    /// Whether the routes of pods with several NICs are tuned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = true))]
    pub tune_pod_routes: Option<bool>,
    /// NIC that keeps the pod's default route.
    #[serde(default, rename = "podDefaultRouteNIC", skip_serializing_if = "Option::is_none")]
    pub pod_default_route_nic: Option<String>,
    /// Routing table of the node that leads to its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = 500))]
    pub host_rule_table: Option<Int>,
    /// rp_filter in pods: 0, 1 or 2; a negative number leaves it alone.
    #[serde(default, rename = "podRPFilter", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = 0))]
    pub pod_rp_filter: Option<Int>,
    /// Length of the NIC's transmit queue; 0 leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = 0))]
    pub tx_queue_len: Option<Int>,
    /// Link-local address of veth0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veth_link_address: Option<String>,
    /// MTU of veth0.
    #[serde(default, rename = "vethMTU", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub veth_mtu: Option<Int>,
}

/// Mode of the coordinator plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CoordinatorMode {
    /// Underlay or overlay, by the pod's NICs.
    Auto,
    /// The pod's first NIC is an underlay NIC.
    Underlay,
    /// The pod's first NIC is another CNI's, underlay NICs come after it.
    Overlay,
    /// Nothing is done.
    Disabled,
}

impl CoordinatorMode {
    /// The mode's text in the API and in the plugin's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Underlay => "underlay",
            Self::Overlay => "overlay",
            Self::Disabled => "disabled",
        }
    }
}

/// How the cluster's pod CIDRs are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PodCidrType {
    /// By the cluster's CNI configuration.
    Auto,
    /// Kubernetes' own pod CIDRs.
    Cluster,
    /// Those of Calico's IPPools.
    Calico,
    /// Those of Cilium.
    Cilium,
    /// There are none.
    None,
}

impl PodCidrType {
    /// The type's text in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cluster => "cluster",
            Self::Calico => "calico",
            Self::Cilium => "cilium",
            Self::None => "none",
        }
    }
}

/// CoordinatorStatus defines the observed state of SpiderCoordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["phase"]))]
pub struct SpiderCoordinatorStatus {
    /// Synced if the CIDRs are known, else NotReady.
    #[serde(default)]
    pub phase: String,
    /// Why the CIDRs are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The cluster's pod CIDRs.
    #[serde(default, rename = "overlayPodCIDR", skip_serializing_if = "Option::is_none")]
    pub overlay_pod_cidr: Option<Vec<String>>,
    /// The cluster's service CIDRs.
    #[serde(default, rename = "serviceCIDR", skip_serializing_if = "Option::is_none")]
    pub service_cidr: Option<Vec<String>>,
}

impl SpiderCoordinatorStatus {
    /// `phase` when the CIDRs are known.
    pub const SYNCED: &'static str = "Synced";
    /// `phase` when they are not.
    pub const NOT_READY: &'static str = "NotReady";
}
