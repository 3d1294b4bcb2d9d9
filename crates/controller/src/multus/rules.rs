//! What the validating webhook refuses (upstream's contract: controller, §8.4). Field paths and texts are
//! upstream's: tools match on them. Rules never look at a cluster: the existing NetworkAttachmentDefinition is an argument.

use ipam::rules::FieldError;
use k8s_api::{
    NetworkAttachmentDefinition, SpiderMultusConfig, SpiderMultusConfigSpec, labels,
    multus::{
        BondConfig, CniType, DefaultPools, IbSriovConfig, IpoibConfig, MacvlanConfig, OvsConfig, SriovConfig,
        VlanConfig, VlanMode,
    },
};
use serde::Serialize;
use serde_json::Value;

use super::network;
use crate::coordinator::rules as coordinator;

const CNI_TYPE: &str = "spec.cniType";
const CUSTOM: &str = "spec.customCniTypeConfig";
const CHAIN: &str = "spec.chainCNIJsonData";
const ANNOTATIONS: &str = "metadata.annotations";

/// CNI versions that annotation `multus.spidernet.io/cni-version` may name.
const CNI_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The highest VLAN.
const MAX_VLAN: i32 = 4094;

/// Checks `config` on create (no `old`) or update. `existing` is the NetworkAttachmentDefinition that has its name now.
pub fn check(
    old: Option<&SpiderMultusConfig>,
    config: &SpiderMultusConfig,
    existing: Option<&NetworkAttachmentDefinition>,
) -> Result<(), FieldError> {
    if let Some(old) = old {
        cr_name_is_kept(old, config)?;
    }
    annotations(config, existing)?;
    block(config)?;
    if let Some(spec) = &config.spec.coordinator {
        coordinator::check(spec, coordinator::Owner::Network)?;
    }
    chain(&config.spec)
}

fn annotation<'a>(config: &'a SpiderMultusConfig, key: &str) -> Option<&'a str> {
    config.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn cr_name_is_kept(old: &SpiderMultusConfig, new: &SpiderMultusConfig) -> Result<(), FieldError> {
    let of = |config| annotation(config, labels::MULTUS_CR_NAME);
    let text = match (of(old), of(new)) {
        (Some(was), Some(is)) if was != is => {
            format!("it's unsupported to change customized Multus net-attach-def resource name from '{was}' to '{is}'")
        }
        (None, Some(is)) => {
            let was = old.metadata.name.as_deref().unwrap_or_default();
            format!("it's unsupported to changed Multus net-attach-def '{was}' to customized name '{is}'")
        }
        _ => return Ok(()),
    };
    Err(FieldError::invalid(ANNOTATIONS, &of(new), text))
}

fn annotations(config: &SpiderMultusConfig, existing: Option<&NetworkAttachmentDefinition>) -> Result<(), FieldError> {
    let invalid = |text: String| Err(FieldError::invalid(ANNOTATIONS, &config.metadata.annotations, text));
    if let Some(name) = annotation(config, labels::MULTUS_CR_NAME)
        && !is_subdomain(name)
    {
        return invalid(format!(
            "invalid custom net-attach-def resource name '{name}': a lowercase RFC 1123 subdomain must consist of lower \
             case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
        ));
    }
    if let Some(owner) = existing.and_then(|existing| foreign_owner(config, existing)) {
        let namespace = config.metadata.namespace.as_deref().unwrap_or_default();
        let name = network::name(config);
        return invalid(format!(
            "the net-attach-def {namespace}/{name} already exists and is managed by SpiderMultusConfig {namespace}/{owner}."
        ));
    }
    match annotation(config, labels::MULTUS_CNI_VERSION) {
        Some(version) if !CNI_VERSIONS.contains(&version) => invalid(format!("unsupported CNI version {version}")),
        _ => Ok(()),
    }
}

/// The other SpiderMultusConfig that owns the definition, if one does.
pub fn foreign_owner<'a>(config: &SpiderMultusConfig, existing: &'a NetworkAttachmentDefinition) -> Option<&'a str> {
    let own = config.metadata.name.as_deref().unwrap_or_default();
    let owners = existing.metadata.owner_references.as_deref().unwrap_or_default();
    owners
        .iter()
        .find(|owner| owner.kind == SpiderMultusConfig::KIND && owner.name != own)
        .map(|owner| owner.name.as_str())
}

/// RFC 1123 subdomain, as the API machinery checks object names.
fn is_subdomain(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let label = |label: &str| {
        let bytes = label.as_bytes();
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|byte| edge(Some(byte)) || *byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Which networks the annotations ask to inject.
#[derive(Clone, Copy)]
struct Inject {
    rdma: bool,
    network: bool,
}

fn block(config: &SpiderMultusConfig) -> Result<(), FieldError> {
    let spec = &config.spec;
    let Some(cni_type) = spec.cni_type else {
        return Err(FieldError::invalid(CNI_TYPE, &Value::Null, "CniType must not be nil"));
    };
    let asks = |key| annotation(config, key).is_some();
    let inject = Inject { rdma: asks(labels::RDMA_RESOURCE_INJECT), network: asks(labels::NETWORK_RESOURCE_INJECT) };
    if (inject.rdma || inject.network) && matches!(cni_type, CniType::Ovs | CniType::Custom) {
        let text =
            format!("the cniType {} does not support RDMA resource or network resource injected", cni_type.as_str());
        return Err(FieldError::forbidden(CNI_TYPE, text));
    }
    match cni_type {
        CniType::Macvlan => macvlan("spec.macvlanConfig", "macvlan", spec.macvlan.as_ref(), inject)?,
        CniType::Ipvlan => macvlan("spec.ipvlanConfig", "ipvlan", spec.ipvlan.as_ref(), inject)?,
        CniType::Vlan => vlan(spec.vlan.as_ref(), inject)?,
        CniType::Sriov => sriov(spec.sriov.as_ref(), inject)?,
        CniType::IbSriov => ib_sriov(spec.ibsriov.as_ref(), inject)?,
        CniType::Ipoib => ipoib(spec.ipoib.as_ref(), inject)?,
        CniType::Ovs => ovs(spec.ovs.as_ref())?,
        CniType::Custom => custom(spec.custom_cni.as_deref())?,
    }
    only_its_block(spec, cni_type)
}

fn only_its_block(spec: &SpiderMultusConfigSpec, cni_type: CniType) -> Result<(), FieldError> {
    let present = [
        (CniType::Macvlan, "spec.macvlanConfig", spec.macvlan.is_some()),
        (CniType::Ipvlan, "spec.ipvlanConfig", spec.ipvlan.is_some()),
        (CniType::Vlan, "spec.vlanConfig", spec.vlan.is_some()),
        (CniType::Sriov, "spec.sriovConfig", spec.sriov.is_some()),
        (CniType::IbSriov, "spec.ibsriovConfig", spec.ibsriov.is_some()),
        (CniType::Ipoib, "spec.ipoibConfig", spec.ipoib.is_some()),
        (CniType::Ovs, "spec.ovsConfig", spec.ovs.is_some()),
        // The installation makes an empty custom configuration that may become any other type.
        (CniType::Custom, CUSTOM, spec.custom_cni.as_deref().is_some_and(|text| !text.trim().is_empty())),
    ];
    let foreign: Vec<&str> =
        present.iter().filter(|(of, _, set)| *set && *of != cni_type).map(|(_, field, _)| *field).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let own = present.iter().find(|(of, ..)| *of == cni_type).map_or(CNI_TYPE, |(_, field, _)| *field);
    let text = format!(
        "the cniType {} only supports {own}, please remove other CNI configs ({})",
        cni_type.as_str(),
        foreign.join(", ")
    );
    Err(FieldError::forbidden(CNI_TYPE, text))
}

fn required<'a, T>(field: &str, block: Option<&'a T>) -> Result<&'a T, FieldError> {
    block.ok_or_else(|| FieldError::required(field, format!("no {field} specified")))
}

fn macvlan(field: &str, kind: &str, block: Option<&MacvlanConfig>, inject: Inject) -> Result<(), FieldError> {
    let block = required(field, block)?;
    vlan_id(field, block.vlan_id)?;
    mtu(field, block.mtu)?;
    no_master_subnet(field, kind, block, block.ippools.as_ref())?;
    masters(field, block, &block.master, block.bond.as_ref())?;
    let resource = block.rdma_resource_name.as_deref().unwrap_or_default();
    injectable(field, block, resource, block.ippools.as_ref(), inject)
}

fn vlan(block: Option<&VlanConfig>, inject: Inject) -> Result<(), FieldError> {
    let field = "spec.vlanConfig";
    let block = required(field, block)?;
    match (block.vlan_mode.unwrap_or(VlanMode::Manual), block.vlan_id) {
        (VlanMode::Manual, None) => {
            return Err(FieldError::required(field, "vlanID is required when vlanMode is manual"));
        }
        (VlanMode::Auto, Some(id)) => {
            return Err(FieldError::invalid(field, &id, "vlanID must not be set when vlanMode is auto"));
        }
        (_, id) => vlan_id(field, id)?,
    }
    mtu(field, block.mtu)?;
    no_master_subnet(field, "vlan", block, block.ippools.as_ref())?;
    masters(field, block, &block.master, block.bond.as_ref())?;
    let resource = block.rdma_resource_name.as_deref().unwrap_or_default();
    injectable(field, block, resource, block.ippools.as_ref(), inject)
}

fn sriov(block: Option<&SriovConfig>, inject: Inject) -> Result<(), FieldError> {
    let field = "spec.sriovConfig";
    let block = required(field, block)?;
    vlan_id(field, block.vlan_id)?;
    mtu(field, block.mtu)?;
    if let (Some(min), Some(max)) = (block.min_tx_rate_mbps, block.max_tx_rate_mbps)
        && min > max
    {
        return Err(FieldError::invalid(field, &min, "minTxRateMbps must be less than maxTxRateMbps"));
    }
    let resource = resource(field, block.resource_name.as_deref())?;
    injectable(field, block, resource, block.ippools.as_ref(), inject)
}

fn ib_sriov(block: Option<&IbSriovConfig>, inject: Inject) -> Result<(), FieldError> {
    let field = "spec.ibsriovConfig";
    let block = required(field, block)?;
    let resource = resource(field, block.resource_name.as_deref())?;
    injectable(field, block, resource, block.ippools.as_ref(), inject)
}

fn ipoib(block: Option<&IpoibConfig>, inject: Inject) -> Result<(), FieldError> {
    let field = "spec.ipoibConfig";
    let block = required(field, block)?;
    let master = block.master.as_deref().unwrap_or_default();
    if master.is_empty() {
        return Err(FieldError::required(field, format!("no {field}[master] specified")));
    }
    injectable(field, block, master, block.ippools.as_ref(), inject)
}

fn ovs(block: Option<&OvsConfig>) -> Result<(), FieldError> {
    let field = "spec.ovsConfig";
    let block = required(field, block)?;
    vlan_id(field, block.vlan)?;
    for trunk in &block.trunk {
        let beyond = |id: Option<usize>| id.is_some_and(|id| id > MAX_VLAN.unsigned_abs() as usize);
        let problem = match (trunk.min_id, trunk.max_id) {
            (min, _) if beyond(min) => "incorrect trunk minID parameter",
            (_, max) if beyond(max) => "incorrect trunk maxID parameter",
            (None, Some(_)) => "maxID without minID in trunk parameter",
            (Some(min), Some(max)) if max < min => "minID is greater than maxID in trunk parameter",
            _ if beyond(trunk.id) => "incorrect trunk id parameter",
            _ => continue,
        };
        return Err(FieldError::invalid(field, trunk, problem));
    }
    Ok(())
}

fn custom(text: Option<&str>) -> Result<(), FieldError> {
    match text {
        None | Some("") => Ok(()),
        Some(text) => match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(FieldError::forbidden(CUSTOM, format!("customCniConfig isn't a valid JSON encoding: {error}")))
            }
        },
    }
}

fn vlan_id(field: &str, id: Option<i32>) -> Result<(), FieldError> {
    match id {
        Some(id) if !(0..=MAX_VLAN).contains(&id) => Err(FieldError::invalid(
            field,
            &id,
            format!("invalid vlanId {id}, please make sure vlanId in range [0,4094]"),
        )),
        _ => Ok(()),
    }
}

fn mtu(field: &str, mtu: Option<i32>) -> Result<(), FieldError> {
    match mtu {
        Some(mtu) if mtu < 0 => {
            Err(FieldError::invalid(field, &mtu, format!("invalid mtu {mtu}, please make sure mtu >= 0")))
        }
        _ => Ok(()),
    }
}

fn no_master_subnet(
    field: &str,
    kind: &str,
    block: &impl Serialize,
    pools: Option<&DefaultPools>,
) -> Result<(), FieldError> {
    if pools.and_then(|pools| pools.match_master_subnet) == Some(true) {
        return Err(FieldError::invalid(
            field,
            block,
            format!("MatchMasterSubnet feature is not supported for {kind}"),
        ));
    }
    Ok(())
}

fn masters(
    field: &str,
    block: &impl Serialize,
    masters: &[String],
    bond: Option<&BondConfig>,
) -> Result<(), FieldError> {
    let problem = match (masters, bond) {
        ([], _) => "master can't be empty",
        (masters, _) if masters.iter().any(String::is_empty) => "master can't contain an empty name",
        ([_], _) => return Ok(()),
        (_, None) => "the bond property is nil with multiple Interfaces",
        (_, Some(bond)) if bond.name.is_empty() => "bond name can't be empty",
        _ => return Ok(()),
    };
    Err(FieldError::invalid(field, block, problem))
}

fn resource<'a>(field: &str, name: Option<&'a str>) -> Result<&'a str, FieldError> {
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| FieldError::required(field, format!("no {field}[resourceName] specified")))
}

/// A network to inject needs pools, and for RDMA a resource.
fn injectable(
    field: &str,
    block: &impl Serialize,
    resource: &str,
    pools: Option<&DefaultPools>,
    inject: Inject,
) -> Result<(), FieldError> {
    let any = |names: Option<&Vec<String>>| names.is_some_and(|names| !names.is_empty());
    let pooled = pools.is_some_and(|pools| any(pools.ipv4.as_ref()) || any(pools.ipv6.as_ref()));
    let problem = match inject {
        Inject { rdma: true, .. } if resource.is_empty() => {
            format!("rdmaResourceName can not be empty with annotation {}", labels::RDMA_RESOURCE_INJECT)
        }
        Inject { rdma: true, .. } if !pooled => {
            format!("no ippools configured, annotation {} needs at least one", labels::RDMA_RESOURCE_INJECT)
        }
        Inject { network: true, .. } if !resource.is_empty() && !pooled => {
            format!("no ippools configured, annotation {} needs at least one", labels::NETWORK_RESOURCE_INJECT)
        }
        _ => return Ok(()),
    };
    Err(FieldError::invalid(field, block, problem))
}

/// Each element must be a plugin configuration as libcni takes it: an object with a `type`.
fn chain(spec: &SpiderMultusConfigSpec) -> Result<(), FieldError> {
    for text in spec.chain_cni_json_data.iter().flatten() {
        let problem = match serde_json::from_str::<Value>(text) {
            Err(error) => error.to_string(),
            Ok(Value::Object(members)) => match members.get("type") {
                Some(Value::String(kind)) if !kind.is_empty() => continue,
                None | Some(Value::String(_)) => "missing 'type'".to_owned(),
                Some(_) => "'type' is not a string".to_owned(),
            },
            Ok(_) => "not a JSON object".to_owned(),
        };
        return Err(FieldError::forbidden(CHAIN, format!("invalid {text}: {problem}")));
    }
    Ok(())
}
