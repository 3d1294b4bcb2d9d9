//! `GET /v1/coordinator/config` and `GET /v1/workloadendpoint`: what other plugins ask.

use crate::agent::{Agent, PodError};
use crate::records;
use ipam::annotation::POD_DEFAULT_ROUTE_NIC;
use ipam::detail::NicDetail;
use ipam::nad;
use k8s_api::SpiderCoordinatorStatus;
use std::sync::Arc;
use store::networks::{self, Coordinator};
use store::{Endpoints, Failure};
use wire::agent::{CoordinatorArgs, CoordinatorConfig, EndpointInterface, PolicyRoute, Route, WorkloadEndpoint};

/// Why there is no coordinator configuration.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The pod cannot be told.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// None exists.
    #[error("no SpiderCoordinator exists")]
    Absent,
    /// The API server does not say.
    #[error("cannot read SpiderCoordinators")]
    Unreadable(#[source] Failure),
    /// The cluster's CIDRs are not known.
    #[error("SpiderCoordinator {name} is not ready: status.phase {phase:?}, expected \"Synced\"{}", reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    NotReady {
        /// Name.
        name: String,
        /// Its phase.
        phase: String,
        /// Why.
        reason: Option<String>,
    },
}

/// What the coordinator is to do for a pod.
pub async fn coordinator(agent: &Agent, args: CoordinatorArgs) -> Result<CoordinatorConfig, CoordinatorError> {
    let pod = agent.pod(&args.pod_namespace, &args.pod_name, "").await?;
    let coordinator = chosen(agent).await?;
    let status = &coordinator.status;
    if status.phase != SpiderCoordinatorStatus::SYNCED {
        let (name, phase, reason) = (coordinator.name.clone(), status.phase.clone(), status.reason.clone());
        return Err(CoordinatorError::NotReady { name, phase, reason });
    }
    let spec = &coordinator.spec;
    let nic = pod.annotations.get(POD_DEFAULT_ROUTE_NIC).or(spec.pod_default_route_nic.as_ref());
    let number = |value: Option<isize>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
    let routes = spec.policy_routes.iter().flatten();
    Ok(CoordinatorConfig {
        hijack_cidr: spec.hijack_cidr.clone().unwrap_or_default(),
        host_rule_table: spec.host_rule_table.and_then(|table| i64::try_from(table).ok()).unwrap_or(500),
        mode: spec.mode.map_or("auto", |mode| mode.as_str()).to_owned(),
        overlay_pod_cidr: status.overlay_pod_cidr.clone().unwrap_or_default(),
        pod_default_route_nic: nic.cloned().unwrap_or_default(),
        pod_nics: nad::nics(&pod.annotations, &pod.namespace).ok(),
        pod_mac_prefix: spec.pod_mac_prefix.clone().unwrap_or_default(),
        pod_rp_filter: number(spec.pod_rp_filter),
        policy_routes: routes.map(|route| PolicyRoute { dst: route.dst.clone(), gw: route.gw.clone() }).collect(),
        service_cidr: status.service_cidr.clone().unwrap_or_default(),
        tune_pod_routes: spec.tune_pod_routes.unwrap_or(true),
        tx_queue_len: number(spec.tx_queue_len),
        veth_link_address: spec.veth_link_address.clone().unwrap_or_default(),
        veth_mtu: number(spec.veth_mtu),
    })
}

/// The one of the configured name if there is one, else the first by name.
async fn chosen(agent: &Agent) -> Result<Arc<Coordinator>, CoordinatorError> {
    let name = &agent.settings.coordinator;
    let cached = preferred(name, agent.caches.coordinators.all());
    if let Some(cached) = cached.filter(|cached| cached.status.phase == SpiderCoordinatorStatus::SYNCED) {
        return Ok(cached);
    }
    // Absent or not ready is worth a look: the watch may be behind.
    let live = networks::read_coordinators(&agent.client).await.map_err(CoordinatorError::Unreadable)?;
    preferred(name, live.into_iter().map(Arc::new).collect()).ok_or(CoordinatorError::Absent)
}

fn preferred(name: &str, coordinators: Vec<Arc<Coordinator>>) -> Option<Arc<Coordinator>> {
    coordinators.into_iter().min_by_key(|one| (one.name != name, one.name.clone()))
}

/// The addresses of a pod; `None` when it has none.
pub async fn endpoint(agent: &Agent, namespace: &str, name: &str) -> Result<Option<WorkloadEndpoint>, Failure> {
    let cached = agent.caches.pods.get(&store::cache::key(Some(namespace), name));
    if let Some(record) = cached.and_then(|pod| agent.records.get(&pod.uid)) {
        return Ok(Some(view(namespace, name, &record.uid, &record.node, &record.nics)));
    }
    let found = Endpoints::new(agent.client.clone()).read(namespace, name).await?;
    Ok(found.and_then(|endpoint| {
        let current = endpoint.status.as_ref()?.current.clone();
        let nics = records::of_endpoint(&endpoint, &current.uid)?;
        Some(view(namespace, name, &current.uid, &current.node, &nics))
    }))
}

fn view(namespace: &str, name: &str, uid: &str, node: &str, nics: &[NicDetail]) -> WorkloadEndpoint {
    WorkloadEndpoint {
        interfaces: nics.iter().map(interface).collect(),
        node: node.to_owned(),
        pod_name: name.to_owned(),
        pod_namespace: namespace.to_owned(),
        pod_uid: uid.to_owned(),
    }
}

fn interface(nic: &NicDetail) -> EndpointInterface {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let route =
        |route: &ipam::Route| Route { if_name: nic.interface.clone(), dst: route.dst.clone(), gw: route.gw.clone() };
    EndpointInterface {
        interface: nic.interface.clone(),
        ipv4: text(&nic.ipv4),
        ipv4_gateway: text(&nic.ipv4_gateway),
        ipv4_pool: text(&nic.ipv4_pool),
        ipv6: text(&nic.ipv6),
        ipv6_gateway: text(&nic.ipv6_gateway),
        ipv6_pool: text(&nic.ipv6_pool),
        mac: text(&nic.mac),
        routes: nic.routes.iter().map(route).collect(),
        vlan: nic.vlan,
    }
}
