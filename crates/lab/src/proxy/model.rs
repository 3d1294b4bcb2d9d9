//! Service ports with their endpoints, out of Services and EndpointSlices. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use kube::ResourceExt;

/// Transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As nft spells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Where a port leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Whether it is on this node.
    pub local: bool,
}

/// One port of one Service in one family.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// `namespace/name`.
    pub service: String,
    /// The port's name, maybe empty.
    pub port_name: String,
    /// Transport.
    pub protocol: Protocol,
    /// The address in the cluster.
    pub cluster_ip: IpAddr,
    /// The port there, and at external addresses.
    pub port: u16,
    /// The port on every node.
    pub node_port: Option<u16>,
    /// Balancers' and external addresses.
    pub external: Vec<IpAddr>,
    /// External traffic stays on the node and keeps its source.
    pub external_local: bool,
    /// Internal traffic stays on the node.
    pub internal_local: bool,
    /// The health check node port.
    pub health_check: Option<u16>,
    /// Endpoints that may be used.
    pub endpoints: Vec<Endpoint>,
}

impl Port {
    /// A name that no other port has.
    pub fn name(&self) -> String {
        format!("{}:{}/{}/{}", self.service, self.port_name, self.protocol.word(), self.cluster_ip)
    }

    /// The endpoints on this node.
    pub fn local(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.local)
    }
}

/// All ports, in a stable order.
pub fn ports(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: &str) -> Vec<Port> {
    let mut ports: Vec<Port> = services.iter().flat_map(|service| ports_of(service, slices, node)).collect();
    ports.sort_by_key(Port::name);
    ports
}

fn ports_of(service: &Service, slices: &[Arc<EndpointSlice>], node: &str) -> Vec<Port> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let ingress =
        service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.clone()).unwrap_or_default();
    let virtual_addresses = ingress
        .into_iter()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip);
    let external: Vec<IpAddr> = virtual_addresses
        .chain(spec.external_ips.clone().unwrap_or_default())
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let cluster_ips = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse::<IpAddr>().ok());
    let mut found = Vec::new();
    for cluster_ip in cluster_ips {
        for port in spec.ports.iter().flatten() {
            found.push(Port {
                service: format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any()),
                port_name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port),
                cluster_ip,
                port: port.port as u16,
                node_port: port.node_port.filter(|number| *number > 0).map(|number| number as u16),
                external: external
                    .iter()
                    .copied()
                    .filter(|address| address.is_ipv4() == cluster_ip.is_ipv4())
                    .collect(),
                external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
                internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
                health_check: spec.health_check_node_port.filter(|number| *number > 0).map(|number| number as u16),
                endpoints: endpoints(service, port, cluster_ip, slices, node),
            });
        }
    }
    found
}

fn protocol(port: &ServicePort) -> Protocol {
    match port.protocol.as_deref() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// Ready endpoints; if there is none, those that still serve on their way out.
fn endpoints(
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
    slices: &[Arc<EndpointSlice>],
    node: &str,
) -> Vec<Endpoint> {
    let family = if cluster_ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let of_service = |slice: &&Arc<EndpointSlice>| {
        slice.namespace() == service.namespace()
            && slice.address_type == family
            && slice.labels().get("kubernetes.io/service-name") == Some(&service.name_any())
    };
    let collect = |usable: fn(&ApiEndpoint) -> bool| {
        let mut found = Vec::new();
        for slice in slices.iter().filter(of_service) {
            let named = |candidate: &&k8s_openapi::api::discovery::v1::EndpointPort| {
                candidate.name.clone().unwrap_or_default() == port.name.clone().unwrap_or_default()
                    && candidate.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
            };
            let Some(number) = slice.ports.iter().flatten().find(named).and_then(|port| port.port) else { continue };
            for endpoint in slice.endpoints.iter().filter(|endpoint| usable(endpoint)) {
                let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
                let local = endpoint.node_name.as_deref() == Some(node);
                found.extend(addresses.map(|address| Endpoint { address, port: number as u16, local }));
            }
        }
        found.sort();
        found.dedup();
        found
    };
    let ready =
        collect(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready.unwrap_or(true)));
    if !ready.is_empty() {
        return ready;
    }
    collect(|endpoint| {
        endpoint
            .conditions
            .as_ref()
            .is_some_and(|conditions| conditions.serving == Some(true) && conditions.terminating == Some(true))
    })
}
