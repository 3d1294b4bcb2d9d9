//! Facts, read from the API itself: never from a cache.

use std::time::Duration;

use ipam::owner::OwnerRef;
use k8s_api::SpiderEndpoint;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ContainerStatus, Node, Pod, PodStatus},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use store::{
    Failure,
    failure::{bounded, optional},
    meta,
};

use super::facts::{Fixed, NodeFact, Phase, PodFact, PodState, Terminating};

#[cfg(test)]
mod tests;

/// An administrator's word that a node is switched off: its pods may be started elsewhere.
const FENCED: &str = "node.kubernetes.io/out-of-service";
/// On the object that stands for a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Pods that run virtual machines.
const MACHINES: &str = "kubevirt.io=virt-launcher";

/// A pod by its name.
pub async fn pod(client: &Client, namespace: &str, name: &str) -> Result<Option<Pod>, Failure> {
    optional(bounded(Api::<Pod>::namespaced(client.clone(), namespace).get(name)).await)
}

/// A node by its name.
pub async fn node(client: &Client, name: &str) -> Result<NodeFact, Failure> {
    if name.is_empty() {
        return Ok(NodeFact::Unnamed);
    }
    let found = optional(bounded(Api::<Node>::all(client.clone()).get(name)).await)?;
    Ok(found.map_or(NodeFact::Gone, |node| node_fact(&node)))
}

fn node_fact(node: &Node) -> NodeFact {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    if taints.into_iter().flatten().any(|taint| taint.key == FENCED) {
        return NodeFact::Fenced;
    }
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    match conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True") {
        true => NodeFact::Ready,
        false => NodeFact::NotReady,
    }
}

/// What the pod under a holder's name means to the holder.
pub fn pod_fact(pod: Option<&Pod>, uid: &str, node: &str) -> PodFact {
    let Some(pod) = pod else { return PodFact::Absent };
    let has_ips = has_ips(pod);
    if pod.metadata.uid.as_deref() != Some(uid) {
        let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
        return PodFact::Successor { has_ips, mirror: here && pod.annotations().contains_key(MIRROR) };
    }
    let seconds = |number: Option<i64>| Duration::from_secs(number.and_then(|n| u64::try_from(n).ok()).unwrap_or(0));
    let terminating = pod
        .metadata
        .deletion_timestamp
        .as_ref()
        .map(|end| Terminating { end: end.0, grace: seconds(pod.metadata.deletion_grace_period_seconds) });
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    PodFact::Present(PodState { phase: phase(pod), terminating, grace: seconds(grace), has_ips })
}

fn has_ips(pod: &Pod) -> bool {
    let ips = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    ips.is_some_and(|ips| !ips.is_empty())
}

fn phase(pod: &Pod) -> Phase {
    let Some(status) = &pod.status else { return Phase::Pending };
    match status.phase.as_deref() {
        Some(phase @ ("Succeeded" | "Failed")) => {
            let reason = status.reason.as_deref().filter(|reason| !reason.is_empty());
            let how = reason.map_or_else(|| phase.to_owned(), |reason| format!("{phase}, {reason}"));
            Phase::Finished { how, at: end(pod, status) }
        }
        Some("Running") => Phase::Running,
        Some("Unknown") => Phase::Unknown,
        _ => Phase::Pending,
    }
}

/// When the last container ended. A pod that was evicted or never started may not tell: then the last time its status names.
fn end(pod: &Pod, status: &PodStatus) -> Timestamp {
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let ended = |container: &ContainerStatus| container.state.as_ref()?.terminated.as_ref()?.finished_at.clone();
    let containers = all.into_iter().flatten().flatten().filter_map(ended).map(|time| time.0).max();
    let conditions = status.conditions.iter().flatten().filter_map(|one| one.last_transition_time.as_ref());
    let told = conditions.chain(&status.start_time).chain(&pod.metadata.creation_timestamp).map(|time| time.0).max();
    containers.or(told).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An owner whose pods may have fixed addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    kind: OwnerKind,
    name: String,
    /// Its UID, if a pod tells it.
    uid: Option<String>,
    /// When the pod already had it, if its endpoint tells.
    known_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnerKind {
    StatefulSet,
    Machine,
}

/// The owner of a pod: of the pod itself, else of its endpoint, else of its successor.
pub fn owner(pod: Option<&Pod>, endpoint: Option<&SpiderEndpoint>, uid: &str) -> Option<Owner> {
    let controller = pod.and_then(|pod| Some((pod, meta::controller(pod.metadata.owner_references.as_ref())?)));
    if let Some((pod, owner)) = &controller
        && pod.metadata.uid.as_deref() == Some(uid)
    {
        return of_reference(owner);
    }
    let told = endpoint.and_then(|endpoint| {
        let status = endpoint.status.as_ref().filter(|status| status.current.uid == uid)?;
        let kind = match status.owner_controller_type.as_str() {
            "StatefulSet" => OwnerKind::StatefulSet,
            "VirtualMachineInstance" => OwnerKind::Machine,
            _ => return None,
        };
        let known_at = endpoint.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Some(Owner { kind, name: status.owner_controller_name.clone(), uid: None, known_at })
    });
    told.or_else(|| controller.and_then(|(_, owner)| of_reference(&owner)))
}

fn of_reference(owner: &OwnerRef) -> Option<Owner> {
    let kind = match (owner.group(), owner.kind.as_str()) {
        ("apps", "StatefulSet") => OwnerKind::StatefulSet,
        ("kubevirt.io", "VirtualMachineInstance") => OwnerKind::Machine,
        _ => return None,
    };
    Some(Owner { kind, name: owner.name.clone(), uid: Some(owner.uid.clone()), known_at: None })
}

/// The features that give fixed addresses.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// Pods of StatefulSets.
    pub stateful_set: bool,
    /// Virtual machines.
    pub kubevirt: bool,
}

/// Whether the pod keeps its address for a successor.
pub async fn fixed(
    client: &Client,
    (namespace, pod, uid): (&str, &str, &str),
    owner: Option<&Owner>,
    features: Features,
) -> Result<Fixed, Failure> {
    let valid = match owner {
        Some(owner) if owner.kind == OwnerKind::StatefulSet && features.stateful_set => {
            let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
            let set = optional(bounded(sets.get(&owner.name)).await)?;
            set.is_some_and(|set| has_place(&set, owner, pod))
        }
        Some(owner) if owner.kind == OwnerKind::Machine && features.kubevirt => {
            is_there(client, namespace, owner).await? && !runs_elsewhere(client, namespace, &owner.name, uid).await?
        }
        _ => return Ok(Fixed::No),
    };
    Ok(if valid { Fixed::Valid } else { Fixed::Invalid })
}

/// Whether the StatefulSet is the pod's and will make it again.
fn has_place(set: &StatefulSet, owner: &Owner, pod: &str) -> bool {
    let created = set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let is_later = owner.known_at.zip(created).is_some_and(|(known_at, created)| created > known_at);
    let is_another = owner.uid.is_some() && owner.uid != set.metadata.uid;
    if is_later || is_another || set.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let spec = set.spec.as_ref();
    let start = spec.and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0);
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let ordinal = pod.strip_prefix(owner.name.as_str()).and_then(|rest| rest.strip_prefix('-')?.parse::<i32>().ok());
    ordinal.is_some_and(|ordinal| (start..start.saturating_add(replicas)).contains(&ordinal))
}

/// Whether a virtual machine, or its instance, exists and is to stay.
async fn is_there(client: &Client, namespace: &str, owner: &Owner) -> Result<bool, Failure> {
    for (kind, plural) in [("VirtualMachineInstance", "virtualmachineinstances"), ("VirtualMachine", "virtualmachines")]
    {
        let kind = GroupVersionKind::gvk("kubevirt.io", "v1", kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        let get = async {
            match api.get_metadata(&owner.name).await {
                // Also the answer where KubeVirt is not installed.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
                found => found.map(|found| found.metadata.deletion_timestamp.is_none()),
            }
        };
        if bounded(get).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether another pod runs the virtual machine by now: each has addresses of its own, so this one's are not waited for.
async fn runs_elsewhere(client: &Client, namespace: &str, machine: &str, uid: &str) -> Result<bool, Failure> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let pods = bounded(pods.list(&ListParams::default().labels(MACHINES))).await?;
    Ok(pods.items.iter().any(|pod| {
        let controller = meta::controller(pod.metadata.owner_references.as_ref());
        let same = controller.is_some_and(|owner| owner.kind == "VirtualMachineInstance" && owner.name == machine);
        same && pod.metadata.uid.as_deref() != Some(uid)
            && pod.metadata.deletion_timestamp.is_none()
            && matches!(phase(pod), Phase::Running)
            && has_ips(pod)
    }))
}
