//! SpiderMultusConfig: the source of a NetworkAttachmentDefinition.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Int, Uint, coordinator::CoordinatorSpec, resource::custom_resource};

custom_resource! {
    /// SpiderMultusConfig describes a network; the controller makes a NetworkAttachmentDefinition of it.
    SpiderMultusConfig(crate::GROUP, crate::VERSION, "spidermultusconfigs", NamespaceResourceScope),
    spec: SpiderMultusConfigSpec
}

/// MultusCNIConfigSpec defines the desired state of SpiderMultusConfig.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiderMultusConfigSpec {
    /// Main plugin. Only the member of that type may be present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "custom"))]
    pub cni_type: Option<CniType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macvlan: Option<MacvlanConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipvlan: Option<IpvlanConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sriov: Option<SriovConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ibsriov: Option<IbSriovConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipoib: Option<IpoibConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ovs: Option<OvsConfig>,
    /// Whether the coordinator plugin is appended; false for custom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = true))]
    pub enable_coordinator: Option<bool>,
    /// Whether the ipam member is left out.
    #[serde(default, rename = "disableIPAM", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub disable_ipam: Option<bool>,
    /// What differs from the cluster's SpiderCoordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<CoordinatorSpec>,
    /// Configuration for cniType custom, JSON; may be empty.
    #[serde(default, rename = "customCNI", skip_serializing_if = "Option::is_none")]
    pub custom_cni: Option<String>,
    /// Further plugins to chain, one JSON object each.
    #[serde(default, rename = "chainCNIJsonData", skip_serializing_if = "Option::is_none")]
    pub chain_cni_json_data: Option<Vec<String>>,
}

/// Main plugin of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CniType {
    Macvlan,
    Ipvlan,
    Vlan,
    Sriov,
    Ovs,
    #[serde(rename = "ib-sriov")]
    IbSriov,
    Ipoib,
    Custom,
}

impl CniType {
    /// The type's text in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Vlan => "vlan",
            Self::Sriov => "sriov",
            Self::Ovs => "ovs",
            Self::IbSriov => "ib-sriov",
            Self::Ipoib => "ipoib",
            Self::Custom => "custom",
        }
    }
}

/// Configuration of a macvlan network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["master"]))]
pub struct MacvlanConfig {
    /// Parent NICs; two or more need bond.
    #[serde(default)]
    pub master: Vec<String>,
    /// MTU, 0 for that of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("x-default" = 0))]
    pub mtu: Option<i32>,
    /// VLAN of the parent, 0 for none.
    #[serde(default, rename = "vlanID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan_id: Option<i32>,
    /// Bond that the parents are made into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<BondConfig>,
    /// Extended resource of the RDMA device plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdma_resource_name: Option<String>,
    /// Default pools of the network.
    #[serde(default, rename = "ippools", skip_serializing_if = "Option::is_none")]
    pub ippools: Option<DefaultPools>,
}

/// Configuration of an ipvlan network: the same members as macvlan.
pub type IpvlanConfig = MacvlanConfig;

/// Configuration of a vlan network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["master"]))]
pub struct VlanConfig {
    /// Parent NICs; two or more need bond.
    #[serde(default)]
    pub master: Vec<String>,
    /// Whether vlanID tells the VLAN (manual) or the cloud provider (auto).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "manual"))]
    pub vlan_mode: Option<VlanMode>,
    /// VLAN, only in mode manual.
    #[serde(default, rename = "vlanID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan_id: Option<i32>,
    /// MTU, 0 for that of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("x-default" = 0))]
    pub mtu: Option<i32>,
    /// Bond that the parents are made into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<BondConfig>,
    /// Extended resource of the RDMA device plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdma_resource_name: Option<String>,
    /// Default pools of the network.
    #[serde(default, rename = "ippools", skip_serializing_if = "Option::is_none")]
    pub ippools: Option<DefaultPools>,
}

/// Who tells the VLAN of a vlan network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VlanMode {
    Manual,
    Auto,
}

/// Configuration of an SR-IOV network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SriovConfig {
    /// Extended resource of the SR-IOV device plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// VLAN, 0 for none.
    #[serde(default, rename = "vlanID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan_id: Option<i32>,
    /// MTU, 0 leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("x-default" = 0))]
    pub mtu: Option<i32>,
    /// Guaranteed transmit rate in Mbit/s, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min_tx_rate_mbps: Option<Int>,
    /// Limit of the transmit rate in Mbit/s, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_tx_rate_mbps: Option<Int>,
    /// Whether the rdma plugin isolates the RDMA device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub rdma_isolation: Option<bool>,
    /// Default pools of the network.
    #[serde(default, rename = "ippools", skip_serializing_if = "Option::is_none")]
    pub ippools: Option<DefaultPools>,
}

/// Configuration of an InfiniBand SR-IOV network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IbSriovConfig {
    /// Extended resource of the SR-IOV device plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// Partition key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pkey: Option<String>,
    /// Link state of the virtual function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "enable"))]
    pub link_state: Option<LinkState>,
    /// Whether the RDMA device is isolated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = true))]
    pub rdma_isolation: Option<bool>,
    /// Whether ib-kubernetes is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub enable_ib_kubernetes: Option<bool>,
    /// Default pools of the network.
    #[serde(default, rename = "ippools", skip_serializing_if = "Option::is_none")]
    pub ippools: Option<DefaultPools>,
}

/// Link state of an InfiniBand virtual function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    Auto,
    Enable,
    Disable,
}

impl LinkState {
    /// The state's text in the API and in the plugin's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Enable => "enable",
            Self::Disable => "disable",
        }
    }
}

/// Configuration of an IP over InfiniBand network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpoibConfig {
    /// Parent NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Default pools of the network.
    #[serde(default, rename = "ippools", skip_serializing_if = "Option::is_none")]
    pub ippools: Option<DefaultPools>,
}

/// Configuration of an Open vSwitch network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["bridge"]))]
pub struct OvsConfig {
    /// Bridge that pods are attached to.
    #[serde(default)]
    pub bridge: String,
    /// VLAN of an access port, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<i32>,
    /// VLANs of a trunk port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<Trunk>,
    /// PCI address of a virtual function.
    #[serde(default, rename = "deviceID", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Default pools of the network.
    #[serde(default, rename = "ippools", skip_serializing_if = "Option::is_none")]
    pub ippools: Option<DefaultPools>,
}

/// VLANs of a trunk port: one, or a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trunk {
    /// First VLAN of the range.
    #[serde(default, rename = "minID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub min_id: Option<Uint>,
    /// Last VLAN of the range.
    #[serde(default, rename = "maxID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub max_id: Option<Uint>,
    /// A single VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub id: Option<Uint>,
}

/// A bond that several parents are made into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-required" = ["mode", "name"]))]
pub struct BondConfig {
    /// Name of the bond.
    #[serde(default)]
    pub name: String,
    /// Bonding mode.
    #[serde(default)]
    #[schemars(range(min = 0, max = 6))]
    pub mode: i32,
    /// Bonding options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
}

/// Pools of pods that name none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefaultPools {
    /// IPv4 pools, by name or pattern.
    #[serde(default, rename = "ipv4", skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Vec<String>>,
    /// IPv6 pools, by name or pattern.
    #[serde(default, rename = "ipv6", skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Vec<String>>,
    /// Whether pools whose subnet the master has no address of are passed over; sriov only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub match_master_subnet: Option<bool>,
}
