//! Which node a pod goes to: the ready one with the fewest pods among those that its selectors admit.

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, Pod};
use kube::ResourceExt;
use serde_json::json;

use super::action::Action;
use super::{Snapshot, is_active, key, node};

pub(super) fn plan(snapshot: &Snapshot) -> Vec<Action> {
    let mut load: Vec<(&Node, usize)> = snapshot.nodes.iter().map(|node| (&**node, pods_on(snapshot, node))).collect();
    load.sort_by_key(|(node, _)| node.name_any());
    let waiting = snapshot.pods.iter().filter(|pod| node_of(pod).is_none() && is_active(pod) && is_ours(pod));
    let mut actions = Vec::new();
    for pod in waiting {
        let best = load.iter_mut().filter(|(node, _)| obstacle(pod, node).is_none()).min_by_key(|(_, count)| *count);
        let of = (pod.namespace().unwrap_or_default(), pod.name_any());
        if let Some((node, count)) = best {
            *count += 1;
            actions.push(Action::Bind { of, node: node.name_any() });
            continue;
        }
        let message = refusal(pod, &load);
        // What the pod knows already is not told again at each event.
        if refused_before(pod) != Some(&message) {
            let condition =
                json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
            actions.push(Action::Patch {
                kind: "Pod",
                of,
                status: true,
                patch: json!({"status": {"conditions": [condition]}}),
            });
            actions.push(Action::Note { pod: Box::new((**pod).clone()), reason: "FailedScheduling", message });
        }
    }
    actions
}

fn refused_before(pod: &Pod) -> Option<&String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?
        .message
        .as_ref()
}

fn refusal(pod: &Pod, load: &[(&Node, usize)]) -> String {
    let reasons: Vec<String> =
        load.iter().filter_map(|(node, _)| Some(format!("{}: {}", node.name_any(), obstacle(pod, node)?))).collect();
    format!("0/{} nodes are available for {}: {}", load.len(), key(pod), reasons.join(", "))
}

fn is_ours(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).is_none_or(|name| name == "default-scheduler")
}

/// The node that a pod is bound to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn pods_on(snapshot: &Snapshot, node: &Node) -> usize {
    let name = node.name_any();
    snapshot.pods.iter().filter(|pod| is_active(pod) && node_of(pod) == Some(&name)).count()
}

/// Why a pod cannot go to a node; none if it can.
pub(super) fn obstacle(pod: &Pod, node: &Node) -> Option<&'static str> {
    let spec = pod.spec.clone().unwrap_or_default();
    if !node::is_ready(node) {
        return Some("node is not ready");
    }
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        return Some("node is unschedulable");
    }
    let label = |key: &str| node.labels().get(key);
    if !spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value)) {
        return Some("node does not match the pod's node selector");
    }
    let required =
        spec.affinity.and_then(|affinity| affinity.node_affinity?.required_during_scheduling_ignored_during_execution);
    if required.is_some_and(|required| !required.node_selector_terms.iter().any(|term| term_matches(term, node))) {
        return Some("node does not match the pod's node affinity");
    }
    None
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let holds = |value: Option<&String>, operator: &str, values: &[String]| match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    };
    let name = node.name_any();
    let fields = term.match_fields.iter().flatten().all(|requirement| {
        let value = (requirement.key == "metadata.name").then_some(&name);
        holds(value, &requirement.operator, requirement.values.as_deref().unwrap_or_default())
    });
    let labels = term.match_expressions.iter().flatten().all(|requirement| {
        holds(
            node.labels().get(&requirement.key),
            &requirement.operator,
            requirement.values.as_deref().unwrap_or_default(),
        )
    });
    fields && labels
}
