//! Nodes: one whose lease has run out is not ready.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;

use super::Snapshot;
use super::action::Action;

/// How long a lease may go without renewal (`--node-monitor-grace-period`).
const GRACE: SignedDuration = SignedDuration::from_secs(40);

pub(super) fn plan(snapshot: &Snapshot) -> Vec<Action> {
    let silent = snapshot.nodes.iter().filter(|node| is_ready(node) && is_silent(snapshot, node));
    silent
        .map(|node| {
            let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
            }
            let patch = json!({"status": {"conditions": conditions}});
            Action::Patch { kind: "Node", of: (String::new(), node.name_any()), status: true, patch }
        })
        .collect()
}

fn is_silent(snapshot: &Snapshot, node: &Node) -> bool {
    let lease = snapshot.leases.iter().find(|lease| lease.name_any() == node.name_any());
    let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
    renewed.is_some_and(|renewed| snapshot.now.duration_since(renewed) > GRACE)
}

/// Whether the node's condition `Ready` is true.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
