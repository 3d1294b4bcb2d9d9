//! From a SpiderMultusConfig to its NetworkAttachmentDefinition: name, annotations and `spec.config`.
//!
//! The configuration equals upstream's byte for byte, with two exceptions that are meant: a field that is set and that
//! upstream's generator drops is written (`hostRuleTable`, and `podRPFilter` in a block without `podCIDRType`), and
//! `vethMTU` only if it is set. A value that the CRD fills in by default cannot be told from one that a user wrote, so
//! those two are written where they differ from the CRD's default.

use std::collections::BTreeMap;

use k8s_api::{
    CoordinatorSpec, NetworkAttachmentDefinition, NetworkAttachmentDefinitionSpec, Route, SpiderMultusConfig, labels,
    multus::{
        BondConfig, CniType, DefaultPools, IbSriovConfig, IpoibConfig, MacvlanConfig, OvsConfig, SriovConfig, Trunk,
        VlanConfig, VlanMode,
    },
};
use serde::Serialize;
use serde_json::Value;

use super::go_json;

/// The CNI version of a configuration that names none.
const CNI_VERSION: &str = "0.3.1";
/// What the CRD fills in for `hostRuleTable`.
const DEFAULT_RULE_TABLE: isize = 500;

/// Why no NetworkAttachmentDefinition can be made. Admission refuses all of these; an object that bypassed it meets them here.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The block of the chosen type is absent.
    #[error("spec.{field} is required for cniType {cni_type}")]
    NoBlock {
        /// The member that is missing.
        field: &'static str,
        /// The chosen type.
        cni_type: &'static str,
    },
    /// No parent, or several without a bond.
    #[error("spec.{field}.master: {problem}")]
    Master {
        /// The block.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A text that must be JSON is not.
    #[error("{field}: invalid JSON")]
    Json {
        /// The member that holds the text.
        field: String,
        /// Where it fails.
        #[source]
        source: serde_json::Error,
    },
}

/// The name of the NetworkAttachmentDefinition: annotation `multus.spidernet.io/cr-name`, else that of the config.
pub fn name(config: &SpiderMultusConfig) -> &str {
    annotation(config, labels::MULTUS_CR_NAME).or(config.metadata.name.as_deref()).unwrap_or_default()
}

/// The NetworkAttachmentDefinition, without ownership (that needs the UID of a stored object).
pub fn definition(config: &SpiderMultusConfig) -> Result<NetworkAttachmentDefinition, NetworkError> {
    let mut annotations = config.metadata.annotations.clone().unwrap_or_default();
    if let Some(resource) = resource_name(config) {
        annotations.insert(labels::NAD_RESOURCE_NAME.to_owned(), resource);
    }
    let spec = NetworkAttachmentDefinitionSpec { config: configuration(config)? };
    let mut definition = NetworkAttachmentDefinition::new(name(config), spec);
    definition.metadata.namespace = config.metadata.namespace.clone();
    definition.metadata.annotations = Some(annotations).filter(|annotations: &BTreeMap<_, _>| !annotations.is_empty());
    Ok(definition)
}

fn annotation<'a>(config: &'a SpiderMultusConfig, key: &str) -> Option<&'a str> {
    config.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The device plugin resource that pods of the network need.
fn resource_name(config: &SpiderMultusConfig) -> Option<String> {
    let spec = &config.spec;
    match spec.cni_type? {
        CniType::Sriov => spec.sriov.as_ref()?.resource_name.clone(),
        CniType::IbSriov => spec.ibsriov.as_ref()?.resource_name.clone(),
        CniType::Ovs => {
            let ovs = spec.ovs.as_ref()?;
            let device = ovs.device_id.as_deref().unwrap_or_default();
            (!device.is_empty()).then(|| format!("ovs-cni.network.kubevirt.io/{}", ovs.bridge))
        }
        _ => None,
    }
}

/// `spec.config`: a plugin list, or for `custom` the user's text (none if empty).
fn configuration(config: &SpiderMultusConfig) -> Result<Option<String>, NetworkError> {
    let cni_type = config.spec.cni_type.unwrap_or(CniType::Custom);
    if cni_type == CniType::Custom {
        return custom(config.spec.custom_cni.as_deref().unwrap_or_default());
    }
    let list = PluginList {
        cni_version: annotation(config, labels::MULTUS_CNI_VERSION).unwrap_or(CNI_VERSION),
        name: annotation(config, labels::CNI_CONFIG_NAME).filter(|name| !name.is_empty()).unwrap_or(name(config)),
        plugins: plugins(config, cni_type)?,
    };
    Ok(Some(go_json::to_string(&list).expect("texts and numbers are JSON")))
}

fn custom(text: &str) -> Result<Option<String>, NetworkError> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map_err(|source| NetworkError::Json { field: "spec.customCNI".to_owned(), source })?;
    Ok(Some(text.to_owned()))
}

/// `[ifacer]` · main · `[rdma]` · each of `chainCNIJsonData` · `[coordinator]` · `[tuning]`.
fn plugins(config: &SpiderMultusConfig, cni_type: CniType) -> Result<Vec<Plugin>, NetworkError> {
    let spec = &config.spec;
    let ipam = |pools: Option<&DefaultPools>| (spec.disable_ipam != Some(true)).then(|| Ipam::new(pools));
    let mut plugins = Vec::new();
    let mut last = None;
    match cni_type {
        CniType::Macvlan => {
            let block = present(spec.macvlan.as_ref(), "macvlan", cni_type)?;
            plugins.extend(ifacer(&block.master, block.vlan_id, block.bond.as_ref()));
            let master = parent("macvlan", block)?;
            let (mtu, ipam) = (block.mtu, ipam(block.ippools.as_ref()));
            plugins.push(Plugin::Macvlan(Macvlan { kind: "macvlan", master, mode: "bridge", mtu, ipam }));
        }
        CniType::Ipvlan => {
            let block = present(spec.ipvlan.as_ref(), "ipvlan", cni_type)?;
            plugins.extend(ifacer(&block.master, block.vlan_id, block.bond.as_ref()));
            let master = parent("ipvlan", block)?;
            let (mtu, ipam) = (block.mtu, ipam(block.ippools.as_ref()));
            plugins.push(Plugin::Ipvlan(Ipvlan { kind: "ipvlan", master, mtu, ipam }));
        }
        CniType::Vlan => {
            let block = present(spec.vlan.as_ref(), "vlan", cni_type)?;
            plugins.extend(ifacer(&block.master, None, block.bond.as_ref()));
            plugins.push(Plugin::Vlan(vlan(block, ipam(block.ippools.as_ref()))?));
        }
        CniType::Sriov => {
            let block = present(spec.sriov.as_ref(), "sriov", cni_type)?;
            plugins.push(Plugin::Sriov(sriov(block, ipam(block.ippools.as_ref()))));
            if block.rdma_isolation == Some(true) {
                plugins.push(Plugin::Rdma { kind: "rdma" });
            }
            last = block.mtu.filter(|mtu| *mtu > 0).map(|mtu| Plugin::Tuning { kind: "tuning", mtu });
        }
        CniType::IbSriov => {
            let block = present(spec.ibsriov.as_ref(), "ibsriov", cni_type)?;
            plugins.push(Plugin::IbSriov(ib_sriov(block, ipam(block.ippools.as_ref()))));
        }
        CniType::Ipoib => {
            let block = present(spec.ipoib.as_ref(), "ipoib", cni_type)?;
            plugins.push(Plugin::Ipoib(ipoib(block, ipam(block.ippools.as_ref()))));
        }
        CniType::Ovs => {
            let block = present(spec.ovs.as_ref(), "ovs", cni_type)?;
            plugins.push(Plugin::Ovs(ovs(block, ipam(block.ippools.as_ref()))));
        }
        CniType::Custom => {}
    }
    plugins.extend(chained(spec.chain_cni_json_data.as_deref().unwrap_or_default())?);
    if spec.enable_coordinator.unwrap_or(true) {
        plugins.push(Plugin::Coordinator(Coordinator::new(spec.coordinator.as_ref())));
    }
    plugins.extend(last);
    Ok(plugins)
}

fn present<'a, T>(block: Option<&'a T>, field: &'static str, cni_type: CniType) -> Result<&'a T, NetworkError> {
    block.ok_or(NetworkError::NoBlock { field, cni_type: cni_type.as_str() })
}

/// The parent of a main plugin: the only master, or the bond of several.
fn base(field: &'static str, masters: &[String], bond: Option<&BondConfig>) -> Result<String, NetworkError> {
    match (masters, bond) {
        ([], _) => Err(NetworkError::Master { field, problem: "at least one interface is needed" }),
        ([only], _) => Ok(only.clone()),
        (_, Some(bond)) => Ok(bond.name.clone()),
        (_, None) => Err(NetworkError::Master { field, problem: "several interfaces need bond" }),
    }
}

/// [`base`], or its VLAN interface.
fn parent(field: &'static str, block: &MacvlanConfig) -> Result<String, NetworkError> {
    let base = base(field, &block.master, block.bond.as_ref())?;
    Ok(match block.vlan_id.unwrap_or(0) {
        0 => base,
        vlan => format!("{base}.{vlan}"),
    })
}

/// The plugin that makes a VLAN or a bond out of the masters, where one is needed.
fn ifacer(masters: &[String], vlan: Option<i32>, bond: Option<&BondConfig>) -> Option<Plugin> {
    let vlan = vlan.filter(|vlan| *vlan != 0);
    (vlan.is_some() || masters.len() >= 2).then(|| {
        let bond = bond.map(|bond| Bond { name: bond.name.clone(), mode: bond.mode, options: bond.options.clone() });
        Plugin::Ifacer(Ifacer { vlan_id: vlan, kind: "ifacer", interfaces: masters.to_vec(), bond })
    })
}

fn chained(texts: &[String]) -> Result<Vec<Plugin>, NetworkError> {
    let parse = |(index, text): (usize, &String)| match serde_json::from_str(text) {
        Ok(value) => Ok(Plugin::Chained(go_json::normal(value))),
        Err(source) => Err(NetworkError::Json { field: format!("spec.chainCNIJsonData[{index}]"), source }),
    };
    texts.iter().enumerate().map(parse).collect()
}

fn vlan(block: &VlanConfig, ipam: Option<Ipam>) -> Result<Vlan, NetworkError> {
    let manual = block.vlan_mode.unwrap_or(VlanMode::Manual) == VlanMode::Manual;
    Ok(Vlan {
        kind: "vlan",
        master: base("vlan", &block.master, block.bond.as_ref())?,
        vlan_mode: if manual { "manual" } else { "auto" },
        vlan_id: block.vlan_id.filter(|_| manual),
        mtu: block.mtu,
        ipam,
    })
}

fn sriov(block: &SriovConfig, ipam: Option<Ipam>) -> Sriov {
    let match_master_subnet = block.ippools.as_ref().and_then(|pools| pools.match_master_subnet);
    let ipam = ipam.map(|ipam| Ipam { match_master_subnet: match_master_subnet == Some(true), ..ipam });
    Sriov {
        vlan: block.vlan_id,
        min_tx_rate: block.min_tx_rate_mbps,
        max_tx_rate: block.max_tx_rate_mbps,
        kind: "sriov",
        ipam,
    }
}

fn ib_sriov(block: &IbSriovConfig, ipam: Option<Ipam>) -> IbSriov {
    IbSriov {
        kind: "ib-sriov",
        pkey: block.pkey.clone(),
        link_state: block.link_state.map(|state| state.as_str()),
        rdma_isolation: block.rdma_isolation,
        ib_kubernetes_enabled: block.enable_ib_kubernetes,
        ipam,
    }
}

fn ipoib(block: &IpoibConfig, ipam: Option<Ipam>) -> Ipoib {
    Ipoib { kind: "ipoib", master: block.master.clone().unwrap_or_default(), ipam }
}

fn ovs(block: &OvsConfig, ipam: Option<Ipam>) -> Ovs {
    Ovs {
        vlan: block.vlan,
        kind: "ovs",
        bridge: block.bridge.clone(),
        device_id: block.device_id.clone().unwrap_or_default(),
        ipam,
        trunk: block.trunk.clone(),
    }
}

// The structures below are upstream's, member order included: it is the order in the text.

#[derive(Serialize)]
struct PluginList<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    name: &'a str,
    plugins: Vec<Plugin>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Plugin {
    Ifacer(Ifacer),
    Macvlan(Macvlan),
    Ipvlan(Ipvlan),
    Vlan(Vlan),
    Sriov(Sriov),
    IbSriov(IbSriov),
    Ipoib(Ipoib),
    Ovs(Ovs),
    Rdma {
        #[serde(rename = "type")]
        kind: &'static str,
    },
    Tuning {
        #[serde(rename = "type")]
        kind: &'static str,
        mtu: i32,
    },
    Chained(Value),
    Coordinator(Coordinator),
}

#[derive(Serialize)]
struct Ifacer {
    #[serde(rename = "vlanID", skip_serializing_if = "Option::is_none")]
    vlan_id: Option<i32>,
    #[serde(rename = "type")]
    kind: &'static str,
    interfaces: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bond: Option<Bond>,
}

#[derive(Serialize)]
struct Bond {
    name: String,
    mode: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<String>,
}

#[derive(Serialize)]
struct Macvlan {
    #[serde(rename = "type")]
    kind: &'static str,
    master: String,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipam: Option<Ipam>,
}

#[derive(Serialize)]
struct Ipvlan {
    #[serde(rename = "type")]
    kind: &'static str,
    master: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipam: Option<Ipam>,
}

#[derive(Serialize)]
struct Vlan {
    #[serde(rename = "type")]
    kind: &'static str,
    master: String,
    #[serde(rename = "vlanMode")]
    vlan_mode: &'static str,
    #[serde(rename = "vlanId", skip_serializing_if = "Option::is_none")]
    vlan_id: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipam: Option<Ipam>,
}

#[derive(Serialize)]
struct Sriov {
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_tx_rate: Option<isize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tx_rate: Option<isize>,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipam: Option<Ipam>,
}

#[derive(Serialize)]
struct IbSriov {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_state: Option<&'static str>,
    #[serde(rename = "rdmaIsolation", skip_serializing_if = "Option::is_none")]
    rdma_isolation: Option<bool>,
    #[serde(rename = "ibKubernetesEnabled", skip_serializing_if = "Option::is_none")]
    ib_kubernetes_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipam: Option<Ipam>,
}

#[derive(Serialize)]
struct Ipoib {
    #[serde(rename = "type")]
    kind: &'static str,
    master: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipam: Option<Ipam>,
}

#[derive(Serialize)]
struct Ovs {
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<i32>,
    #[serde(rename = "type")]
    kind: &'static str,
    bridge: String,
    #[serde(rename = "deviceID", skip_serializing_if = "String::is_empty")]
    device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipam: Option<Ipam>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trunk: Vec<Trunk>,
}

#[derive(Serialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    default_ipv4_ippool: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    default_ipv6_ippool: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    match_master_subnet: bool,
}

impl Ipam {
    fn new(pools: Option<&DefaultPools>) -> Self {
        let list = |names: Option<&Vec<String>>| names.cloned().unwrap_or_default();
        Self {
            kind: "spiderpool",
            default_ipv4_ippool: list(pools.and_then(|pools| pools.ipv4.as_ref())),
            default_ipv6_ippool: list(pools.and_then(|pools| pools.ipv6.as_ref())),
            match_master_subnet: false,
        }
    }
}

#[derive(Serialize)]
struct Coordinator {
    #[serde(rename = "txQueueLen", skip_serializing_if = "Option::is_none")]
    tx_queue_len: Option<isize>,
    #[serde(rename = "vethLinkAddress", skip_serializing_if = "String::is_empty")]
    veth_link_address: String,
    #[serde(rename = "vethMTU", skip_serializing_if = "Option::is_none")]
    veth_mtu: Option<isize>,
    #[serde(rename = "tunePodRoutes", skip_serializing_if = "Option::is_none")]
    tune_pod_routes: Option<bool>,
    #[serde(rename = "podMACPrefix", skip_serializing_if = "String::is_empty")]
    pod_mac_prefix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "podDefaultRouteNic", skip_serializing_if = "String::is_empty")]
    pod_default_route_nic: String,
    #[serde(rename = "podRPFilter", skip_serializing_if = "Option::is_none")]
    pod_rp_filter: Option<isize>,
    #[serde(rename = "hostRuleTable", skip_serializing_if = "Option::is_none")]
    host_rule_table: Option<isize>,
    #[serde(rename = "hijackCIDR", skip_serializing_if = "Vec::is_empty")]
    hijack_cidr: Vec<String>,
    #[serde(rename = "policyRoutes", skip_serializing_if = "Vec::is_empty")]
    policy_routes: Vec<Route>,
}

impl Coordinator {
    fn new(spec: Option<&CoordinatorSpec>) -> Self {
        let default = CoordinatorSpec::default();
        let spec = spec.unwrap_or(&default);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            tx_queue_len: spec.tx_queue_len,
            veth_link_address: text(&spec.veth_link_address),
            veth_mtu: spec.veth_mtu,
            tune_pod_routes: spec.tune_pod_routes,
            pod_mac_prefix: text(&spec.pod_mac_prefix),
            mode: spec.mode.map(|mode| mode.as_str()),
            kind: "coordinator",
            pod_default_route_nic: text(&spec.pod_default_route_nic),
            pod_rp_filter: spec.pod_rp_filter.filter(|filter| spec.pod_cidr_type.is_some() || *filter != 0),
            host_rule_table: spec.host_rule_table.filter(|table| *table != DEFAULT_RULE_TABLE),
            hijack_cidr: spec.hijack_cidr.clone().unwrap_or_default(),
            policy_routes: spec.policy_routes.clone().unwrap_or_default(),
        }
    }
}
