//! DaemonSets: one pod on every node that the template admits. A changed template replaces pods one at a time.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodTemplateSpec,
};
use kube::ResourceExt;
use serde_json::json;

use super::action::Action;
use super::{Snapshot, is_active, is_ready, scheduler, template};

/// The label that tells pods of one template from those of the next.
const GENERATION: &str = "pod-template-hash";

pub(super) fn plan(snapshot: &Snapshot) -> Vec<Action> {
    let living = snapshot.daemonsets.iter().filter(|set| set.metadata.deletion_timestamp.is_none());
    living.flat_map(|set| plan_one(snapshot, set)).collect()
}

fn plan_one(snapshot: &Snapshot, set: &DaemonSet) -> Vec<Action> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let hash = template::hash(&spec.template);
    let mut actions = Vec::new();
    let mut status = DaemonSetStatus { observed_generation: set.metadata.generation, ..Default::default() };
    let mut outdated = Vec::new();
    for node in &snapshot.nodes {
        let name = node.name_any();
        let mine: Vec<&Arc<Pod>> =
            snapshot.pods_of(set.metadata.uid.as_deref()).filter(|pod| target(pod) == Some(name.clone())).collect();
        let active: Vec<&&Arc<Pod>> = mine.iter().filter(|pod| is_active(pod)).collect();
        let wanted = scheduler::obstacle(&Pod { spec: spec.template.spec.clone(), ..Default::default() }, node);
        if wanted.is_some_and(|obstacle| obstacle != "node is not ready") {
            status.number_misscheduled += active.len() as i32;
            actions.extend(active.iter().map(|pod| delete(pod)));
            continue;
        }
        status.desired_number_scheduled += 1;
        if let Some(pod) = active.first() {
            let current = pod.labels().get(GENERATION) == Some(&hash);
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(is_ready(pod));
            *status.updated_number_scheduled.get_or_insert(0) += i32::from(current);
            *status.number_available.get_or_insert(0) += i32::from(is_ready(pod));
            outdated.extend((!current).then_some((**pod).clone()));
            actions.extend(active.iter().skip(1).map(|pod| delete(pod)));
        } else if mine.iter().all(|pod| is_ended(pod)) && wanted.is_none() {
            actions.extend(mine.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(|pod| delete(pod)));
            actions.push(Action::create("Pod", &pod_for(set, &spec.template, &name, &hash)));
        }
    }
    if status.number_ready == status.desired_number_scheduled {
        actions.extend(outdated.first().map(|pod| delete(pod)));
    }
    let unavailable = status.desired_number_scheduled - status.number_ready;
    status.number_unavailable = (unavailable > 0).then_some(unavailable);
    if set.status.as_ref() != Some(&status) {
        let of = (set.namespace().unwrap_or_default(), set.name_any());
        let mut patch = json!({"status": status});
        // Counters that are zero are absent: a merge patch must say so.
        for key in ["numberUnavailable", "numberAvailable", "updatedNumberScheduled"] {
            patch["status"].as_object_mut().expect("built above").entry(key).or_insert(serde_json::Value::Null);
        }
        actions.push(Action::Patch { kind: "DaemonSet", of, status: true, patch });
    }
    actions
}

/// Ended pods are replaced; one on its way out is waited for.
fn is_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none()
}

fn delete(pod: &Pod) -> Action {
    Action::Delete { kind: "Pod", of: (pod.namespace().unwrap_or_default(), pod.name_any()), uid: pod.uid() }
}

/// The node that a pod was made for: it is bound by the scheduler, but chosen here by affinity, as the real controller does.
fn target(pod: &Pod) -> Option<String> {
    if let Some(node) = scheduler::node_of(pod) {
        return Some(node.to_owned());
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    terms.first()?.match_fields.as_ref()?.first()?.values.as_ref()?.first().cloned()
}

fn pod_for(set: &DaemonSet, of: &PodTemplateSpec, node: &str, hash: &str) -> Pod {
    let mut pod = template::pod(set, of, &template::suffix(), &[(GENERATION, hash)]);
    let requirement =
        NodeSelectorRequirement { key: "metadata.name".into(), operator: "In".into(), values: Some(vec![node.into()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![requirement]), ..Default::default() };
    let affinity = pod.spec.get_or_insert_default().affinity.get_or_insert_with(Affinity::default);
    let of_node = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    of_node.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod
}
