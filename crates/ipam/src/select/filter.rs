//! The tests a pool must pass for a NIC (upstream's contract: ipam, §5.2), and the order of those that pass (§5.4).

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Candidate, Request};
use crate::claim::Rejection;
use crate::family::Family;
use crate::nad;
use crate::owner::TopController;
use crate::pool::Pool;
use crate::selector::{LabelSelector, Labels};

/// Keys of `podAffinity.matchLabels` of auto-created pools; they describe the pod's top controller, not its labels.
pub const AFFINITY_KEYS: [&str; 5] = [
    "ipam.spidernet.io/app-api-group",
    "ipam.spidernet.io/app-api-version",
    "ipam.spidernet.io/app-kind",
    "ipam.spidernet.io/app-namespace",
    "ipam.spidernet.io/app-name",
];

/// Pools that may serve, best first, and the others with their reasons.
pub(super) fn filter(request: &Request<'_>, nic: &str, candidate: Candidate) -> (Vec<Arc<Pool>>, Vec<Rejection>) {
    let Candidate { family, pools, mut rejected } = candidate;
    let mut kept = Vec::new();
    for pool in pools {
        match test(request, nic, family, &pool) {
            Ok(()) => kept.push(pool),
            Err(reason) => rejected.push(Rejection { pool: pool.name.clone(), reason }),
        }
    }
    // Stable: among equals the user's order stays.
    kept.sort_by_key(|pool| Reverse(rank(pool)));
    (kept, rejected)
}

/// What a pool restricts, most weighty first.
fn rank(pool: &Pool) -> [bool; 6] {
    [
        pool.pod_affinity.is_some(),
        !pool.node_names.is_empty(),
        pool.node_affinity.is_some(),
        !pool.namespace_names.is_empty(),
        pool.namespace_affinity.is_some(),
        !pool.multus_names.is_empty(),
    ]
}

fn test(request: &Request<'_>, nic: &str, family: Family, pool: &Pool) -> Result<(), String> {
    if pool.terminating {
        return Err("terminating IPPool".to_owned());
    }
    if pool.disabled {
        return Err("disabled IPPool".to_owned());
    }
    if pool.family != family {
        return Err(format!("expect an {family} IPPool"));
    }
    let node = &request.pod.node;
    by_name_or_labels("Node", node, &pool.node_names, pool.node_affinity.as_ref(), request.node_labels)?;
    let namespace = &request.pod.namespace;
    by_name_or_labels(
        "Namespace",
        namespace,
        &pool.namespace_names,
        pool.namespace_affinity.as_ref(),
        request.namespace_labels,
    )?;
    by_pod(request, pool)?;
    by_network(request, nic, pool)?;
    by_master(request, nic, pool)
}

fn by_name_or_labels(
    kind: &str,
    name: &str,
    names: &[String],
    affinity: Option<&LabelSelector>,
    labels: Result<&Labels, &str>,
) -> Result<(), String> {
    if !names.is_empty() {
        return names
            .iter()
            .any(|one| one == name)
            .then_some(())
            .ok_or_else(|| format!("unmatched {kind} name {name}"));
    }
    let Some(selector) = affinity.filter(|selector| !selector.is_empty()) else { return Ok(()) };
    let labels = labels.map_err(|error| format!("labels of {kind} {name} are unknown: {error}"))?;
    match selector.matches(labels) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("unmatched {kind} affinity")),
        Err(error) => Err(format!("invalid {kind} affinity: {error}")),
    }
}

fn by_pod(request: &Request<'_>, pool: &Pool) -> Result<(), String> {
    let Some(selector) = &pool.pod_affinity else { return Ok(()) };
    let matched = if pool.is_auto_created() {
        Ok(is_affinity_of(selector, &request.pod.top))
    } else {
        selector.matches(&request.pod.labels)
    };
    match matched {
        Ok(true) => Ok(()),
        Ok(false) => Err("unmatched Pod affinity".to_owned()),
        Err(error) => Err(format!("invalid Pod affinity: {error}")),
    }
}

/// Whether the five `app-*` labels name this controller.
pub fn is_affinity_of(selector: &LabelSelector, top: &TopController) -> bool {
    let owner = &top.owner;
    let values = [owner.group(), owner.version(), &owner.kind, &top.namespace, &owner.name];
    AFFINITY_KEYS
        .iter()
        .zip(values)
        .all(|(key, value)| selector.match_labels.get(*key).is_some_and(|label| label == value))
}

fn by_network(request: &Request<'_>, nic: &str, pool: &Pool) -> Result<(), String> {
    if pool.multus_names.is_empty() {
        return Ok(());
    }
    let pod = request.pod;
    let defaults = &request.settings.nad;
    let network =
        nad::network_of(nic, &pod.annotations, &pod.namespace, defaults).map_err(|error| error.to_string())?;
    let full = |name: &String| match name.split_once('/') {
        Some(_) => name.clone(),
        None => format!("{}/{name}", defaults.agent_namespace),
    };
    let wanted = format!("{}/{}", network.namespace, network.name);
    let names: Vec<String> = pool.multus_names.iter().map(full).collect();
    names.contains(&wanted).then_some(()).ok_or_else(|| {
        format!("unmatched multus name: NIC {nic} belongs to {wanted}, the pool to {}", names.join(", "))
    })
}

/// The master's addresses are facts about the NIC of the current ADD only.
fn by_master(request: &Request<'_>, nic: &str, pool: &Pool) -> Result<(), String> {
    if !request.cni.match_master_subnet || nic != request.nic {
        return Ok(());
    }
    match request.master {
        None => Err(format!("the master of NIC {nic} is unknown, but match_master_subnet is set")),
        Some(Err(error)) => Err(format!("the master of NIC {nic} is unknown: {error}")),
        Some(Ok((name, addresses))) => {
            let inside = addresses.iter().any(|address| pool.subnet.contains(address));
            inside
                .then_some(())
                .ok_or_else(|| format!("subnet {} contains no address of master {name} of NIC {nic}", pool.subnet))
        }
    }
}
