//! SpiderEndpoint: what one pod has been given. A view for people and upstream's tools; SpiderIPs are the source.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{pool::Route, resource::custom_resource};

custom_resource! {
    /// SpiderEndpoint tells the addresses of the pod of the same name. It has no spec, and its status is written through
    /// the main resource.
    SpiderEndpoint(crate::GROUP, crate::VERSION, "spiderendpoints", NamespaceResourceScope),
    status: SpiderEndpointStatus
}

impl SpiderEndpoint {
    /// A new endpoint of that namespace and name.
    pub fn new(namespace: &str, name: &str, status: SpiderEndpointStatus) -> Self {
        let mut endpoint = Self { status: Some(status), ..Self::default() };
        endpoint.metadata.namespace = Some(namespace.to_owned());
        endpoint.metadata.name = Some(name.to_owned());
        endpoint
    }
}

/// WorkloadEndpointStatus defines the observed state of SpiderEndpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["current", "ownerControllerName", "ownerControllerType"]))]
pub struct SpiderEndpointStatus {
    /// The allocation.
    #[serde(default)]
    pub current: PodIPAllocation,
    /// Kind of the pod's top controller, Pod if it has none.
    #[serde(default)]
    pub owner_controller_type: String,
    /// Name of the pod's top controller.
    #[serde(default)]
    pub owner_controller_name: String,
}

/// The addresses of one incarnation of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["ips", "node", "uid"]))]
pub struct PodIPAllocation {
    /// UID of the pod.
    #[serde(default)]
    pub uid: String,
    /// Node of the pod.
    #[serde(default)]
    pub node: String,
    /// One entry for each NIC.
    #[serde(default)]
    pub ips: Vec<IPAllocationDetail>,
}

/// The addresses of one NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["interface"]))]
pub struct IPAllocationDetail {
    /// NIC name; empty while not yet claimed by a NIC.
    #[serde(default)]
    pub interface: String,
    /// IPv4 address with prefix length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// IPv6 address with prefix length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    /// Pool of the IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_pool: Option<String>,
    /// Pool of the IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_pool: Option<String>,
    /// VLAN, 0 unless a cloud provider supplied one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094), extend("x-default" = 0))]
    pub vlan: Option<i64>,
    /// Gateway of the IPv4 pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<String>,
    /// Gateway of the IPv6 pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<String>,
    /// Whether the NIC has no default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean_gateway: Option<bool>,
    /// Routes of the pools and the pod that go through this NIC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// MAC address, only if a cloud provider supplied one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}
