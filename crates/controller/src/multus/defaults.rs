//! What the mutating webhook fills in (upstream's contract: controller, §8.3).

use k8s_api::{
    CoordinatorSpec, SpiderMultusConfig,
    coordinator::CoordinatorMode,
    labels,
    multus::{
        BondConfig, CniType, DefaultPools, IbSriovConfig, IpoibConfig, LinkState, MacvlanConfig, OvsConfig,
        SriovConfig, VlanConfig, VlanMode,
    },
};

/// Fills `config` as upstream's webhook does. It cannot fail: what is wrong is left for validation to refuse.
pub fn fill(config: &mut SpiderMultusConfig) {
    let spec = &mut config.spec;
    let cni_type = *spec.cni_type.get_or_insert(CniType::Custom);
    match cni_type {
        CniType::Macvlan => spec.macvlan.iter_mut().for_each(macvlan),
        CniType::Ipvlan => spec.ipvlan.iter_mut().for_each(macvlan),
        CniType::Vlan => spec.vlan.iter_mut().for_each(vlan),
        CniType::Sriov => spec.sriov.iter_mut().for_each(sriov),
        CniType::IbSriov => spec.ibsriov.iter_mut().for_each(ib_sriov),
        CniType::Ipoib => spec.ipoib.iter_mut().for_each(ipoib),
        CniType::Ovs => spec.ovs.iter_mut().for_each(ovs),
        CniType::Custom => drop(spec.custom_cni.get_or_insert_default()),
    }
    if cni_type == CniType::Custom {
        spec.coordinator = None;
        // An empty one, as the installation makes it, may become any type: then a member that nobody set must not say no.
        if spec.custom_cni.as_deref().is_some_and(|text| !text.is_empty()) {
            spec.enable_coordinator = Some(false);
        }
    } else {
        coordinator(&mut spec.coordinator);
    }
    spec.chain_cni_json_data.get_or_insert_default();
    copy_inject_labels(config);
}

fn macvlan(block: &mut MacvlanConfig) {
    block.vlan_id.get_or_insert(0);
    block.mtu.get_or_insert(0);
    block.rdma_resource_name.get_or_insert_default();
    bond(&mut block.bond);
    pools(&mut block.ippools, None);
}

fn vlan(block: &mut VlanConfig) {
    if *block.vlan_mode.get_or_insert(VlanMode::Manual) == VlanMode::Manual {
        block.vlan_id.get_or_insert(0);
    }
    block.mtu.get_or_insert(0);
    block.rdma_resource_name.get_or_insert_default();
    bond(&mut block.bond);
    pools(&mut block.ippools, None);
}

fn sriov(block: &mut SriovConfig) {
    block.vlan_id.get_or_insert(0);
    block.mtu.get_or_insert(0);
    block.min_tx_rate_mbps.get_or_insert(0);
    block.max_tx_rate_mbps.get_or_insert(0);
    block.rdma_isolation.get_or_insert(false);
    block.resource_name.get_or_insert_default();
    pools(&mut block.ippools, Some(false));
}

fn ib_sriov(block: &mut IbSriovConfig) {
    block.pkey.get_or_insert_default();
    block.enable_ib_kubernetes.get_or_insert(false);
    block.rdma_isolation.get_or_insert(true);
    block.resource_name.get_or_insert_default();
    block.link_state.get_or_insert(LinkState::Enable);
    pools(&mut block.ippools, None);
}

fn ipoib(block: &mut IpoibConfig) {
    pools(&mut block.ippools, None);
}

fn ovs(block: &mut OvsConfig) {
    block.vlan.get_or_insert(0);
    pools(&mut block.ippools, None);
}

fn bond(bond: &mut Option<BondConfig>) {
    if let Some(bond) = bond {
        bond.options.get_or_insert_default();
    }
}

fn pools(pools: &mut Option<DefaultPools>, match_master_subnet: Option<bool>) {
    pools.get_or_insert_with(|| DefaultPools { ipv4: Some(Vec::new()), ipv6: Some(Vec::new()), match_master_subnet });
}

fn coordinator(block: &mut Option<CoordinatorSpec>) {
    let spec = block.get_or_insert_default();
    spec.mode.get_or_insert(CoordinatorMode::Auto);
    spec.hijack_cidr.get_or_insert_default();
    spec.policy_routes.get_or_insert_default();
    for text in [&mut spec.veth_link_address, &mut spec.pod_mac_prefix, &mut spec.pod_default_route_nic] {
        text.get_or_insert_default();
    }
    spec.pod_rp_filter.get_or_insert(0);
    // The CRD's defaults, which a server applies before and after this webhook.
    spec.tune_pod_routes.get_or_insert(true);
    spec.tx_queue_len.get_or_insert(0);
}

/// Pods are matched with networks to inject by label; users write an annotation. A label whose annotation is gone goes
/// with it, as long as it was a copy: upstream leaves it behind, and pods keep being injected.
fn copy_inject_labels(config: &mut SpiderMultusConfig) {
    for key in [labels::RDMA_RESOURCE_INJECT, labels::NETWORK_RESOURCE_INJECT] {
        let annotation = config.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        match annotation {
            Some(value) => {
                config.metadata.labels.get_or_insert_default().insert(key.to_owned(), value);
            }
            None => {
                if let Some(labels) = &mut config.metadata.labels {
                    labels.remove(key);
                }
            }
        }
    }
}
