//! EndpointSlices: the addresses behind a Service, one slice per family, and the older Endpoints beside them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as OldPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServicePort,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::action::Action;
use super::{Snapshot, is_ready, scheduler, template};

/// The value that says who keeps a slice.
const MANAGER: &str = "endpointslice-controller.k8s.io";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE: &str = "kubernetes.io/service-name";

pub(super) fn plan(snapshot: &Snapshot) -> Vec<Action> {
    let living: Vec<&Service> = snapshot
        .services
        .iter()
        .map(|service| &**service)
        .filter(|service| service.metadata.deletion_timestamp.is_none())
        .collect();
    let mut wanted = BTreeMap::new();
    let mut actions = Vec::new();
    for service in living {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if selector.is_none_or(|selector| selector.is_empty()) {
            continue;
        }
        for slice in slices(snapshot, service) {
            wanted.insert((slice.namespace().unwrap_or_default(), slice.name_any()), slice);
        }
        actions.extend(plan_endpoints(snapshot, service));
    }
    for old in
        snapshot.slices.iter().filter(|slice| slice.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER))
    {
        let of = (old.namespace().unwrap_or_default(), old.name_any());
        match wanted.remove(&of) {
            None => actions.push(Action::Delete { kind: "EndpointSlice", of, uid: old.uid() }),
            Some(new) if new.endpoints != old.endpoints || new.ports != old.ports => {
                let patch = json!({"endpoints": new.endpoints, "ports": new.ports});
                actions.push(Action::Patch { kind: "EndpointSlice", of, status: false, patch });
            }
            Some(_) => {}
        }
    }
    actions.extend(wanted.values().map(|slice| Action::create("EndpointSlice", slice)));
    actions
}

fn slices(snapshot: &Snapshot, service: &Service) -> Vec<EndpointSlice> {
    let families =
        service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_else(|| vec!["IPv4".into()]);
    let pods = pods_behind(snapshot, service);
    families
        .iter()
        .map(|family| {
            let name = format!("{}-{}", service.name_any(), family.to_lowercase());
            let labels = [(SERVICE, service.name_any()), (MANAGED_BY, MANAGER.to_owned())];
            let metadata = ObjectMeta {
                name: Some(name),
                namespace: service.namespace(),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
                owner_references: Some(vec![template::owned_by(service)]),
                ..Default::default()
            };
            let mut endpoints: Vec<Endpoint> = pods.iter().filter_map(|pod| endpoint(service, pod, family)).collect();
            endpoints.sort_by(|one, other| one.addresses.cmp(&other.addresses));
            EndpointSlice { metadata, address_type: family.clone(), endpoints, ports: Some(ports(service, &pods)) }
        })
        .collect()
}

fn pods_behind<'a>(snapshot: &'a Snapshot, service: &Service) -> Vec<&'a Pod> {
    let selector = LabelSelector {
        match_labels: service.spec.as_ref().and_then(|spec| spec.selector.clone()),
        ..Default::default()
    };
    let chosen = snapshot
        .pods
        .iter()
        .filter(|pod| pod.namespace() == service.namespace() && template::selects(&selector, &pod.metadata));
    let ended = |pod: &Pod| {
        matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
    };
    chosen.map(|pod| &**pod).filter(|pod| !ended(pod)).collect()
}

fn endpoint(service: &Service, pod: &Pod, family: &str) -> Option<Endpoint> {
    let ips = pod.status.as_ref()?.pod_ips.as_ref()?;
    let address = ips.iter().map(|ip| ip.ip.clone()).find(|ip| ip.contains(':') == (family == "IPv6"))?;
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let always = service.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some((serving && !terminating) || always),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name: scheduler::node_of(pod).map(str::to_owned),
        target_ref: Some(reference(pod)),
        ..Default::default()
    })
}

fn reference(pod: &Pod) -> ObjectReference {
    let full = pod.object_ref(&());
    ObjectReference { kind: full.kind, namespace: full.namespace, name: full.name, uid: full.uid, ..Default::default() }
}

fn ports(service: &Service, pods: &[&Pod]) -> Vec<EndpointPort> {
    let of = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    of.filter_map(|port| {
        Some(EndpointPort {
            // An unnamed port has the empty name here, not none.
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target(port, pods)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
    })
    .collect()
}

/// The number of a target port; a name is looked up in the containers.
fn target(port: &ServicePort, pods: &[&Pod]) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let containers = pods.iter().flat_map(|pod| pod.spec.iter()).flat_map(|spec| &spec.containers);
            let named = containers
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port)
        }
    }
}

fn plan_endpoints(snapshot: &Snapshot, service: &Service) -> Option<Action> {
    let family = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_ref()?.first().cloned())
        .unwrap_or_else(|| "IPv4".into());
    let pods = pods_behind(snapshot, service);
    let (mut ready, mut unready) = (Vec::new(), Vec::new());
    for (pod, endpoint) in pods.iter().filter_map(|pod| Some((pod, endpoint(service, pod, &family)?))) {
        let conditions = endpoint.conditions.unwrap_or_default();
        let address = EndpointAddress {
            ip: endpoint.addresses.into_iter().next()?,
            node_name: endpoint.node_name,
            target_ref: Some(reference(pod)),
            ..Default::default()
        };
        match (conditions.ready, conditions.terminating) {
            (Some(true), _) => ready.push(address),
            (_, Some(true)) => {}
            _ => unready.push(address),
        }
    }
    ready.sort_by(|one, other| one.ip.cmp(&other.ip));
    unready.sort_by(|one, other| one.ip.cmp(&other.ip));
    let ports: Vec<OldPort> = ports(service, &pods)
        .into_iter()
        .map(|port| OldPort {
            name: port.name.filter(|name| !name.is_empty()),
            port: port.port.unwrap_or_default(),
            protocol: port.protocol,
            app_protocol: port.app_protocol,
        })
        .collect();
    let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let subset = EndpointSubset { addresses: some(ready), not_ready_addresses: some(unready), ports: Some(ports) };
    let subsets = (subset.addresses.is_some() || subset.not_ready_addresses.is_some()).then(|| vec![subset]);
    let of = (service.namespace().unwrap_or_default(), service.name_any());
    let old = snapshot
        .endpoints
        .iter()
        .find(|old| old.namespace() == service.namespace() && old.name_any() == service.name_any());
    match old {
        None => {
            let metadata = ObjectMeta {
                name: Some(of.1),
                namespace: Some(of.0),
                owner_references: Some(vec![template::owned_by(service)]),
                ..Default::default()
            };
            Some(Action::create("Endpoints", &Endpoints { metadata, subsets }))
        }
        Some(old) if old.subsets != subsets => {
            Some(Action::Patch { kind: "Endpoints", of, status: false, patch: json!({"subsets": subsets}) })
        }
        Some(_) => None,
    }
}
