//! ReplicaSets: as many pods as wanted.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use super::action::Action;
use super::{Snapshot, is_active, is_ready, template};

pub(super) fn plan(snapshot: &Snapshot) -> Vec<Action> {
    let living = snapshot.replicasets.iter().filter(|set| set.metadata.deletion_timestamp.is_none());
    living.flat_map(|set| plan_one(snapshot, set)).collect()
}

fn plan_one(snapshot: &Snapshot, set: &ReplicaSet) -> Vec<Action> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let wanted = spec.replicas.unwrap_or(1).max(0) as usize;
    let mut active: Vec<&Arc<Pod>> =
        snapshot.pods_of(set.metadata.uid.as_deref()).filter(|pod| is_active(pod)).collect();
    // Those that serve stay longest.
    active.sort_by_key(|pod| (!is_ready(pod), pod.name_any()));
    let mut actions = Vec::new();
    let of = spec.template.clone().unwrap_or_default();
    for _ in active.len()..wanted {
        actions.push(Action::create("Pod", &template::pod(set, &of, &template::suffix(), &[])));
    }
    for pod in active.iter().skip(wanted) {
        actions.push(Action::Delete {
            kind: "Pod",
            of: (pod.namespace().unwrap_or_default(), pod.name_any()),
            uid: pod.uid(),
        });
    }
    let ready = Some(active.iter().filter(|pod| is_ready(pod)).count() as i32).filter(|number| *number > 0);
    let status = ReplicaSetStatus {
        observed_generation: set.metadata.generation,
        replicas: active.len() as i32,
        fully_labeled_replicas: Some(active.len() as i32).filter(|number| *number > 0),
        ready_replicas: ready,
        available_replicas: ready,
        ..Default::default()
    };
    if set.status.as_ref() != Some(&status) {
        let mut patch = json!({"status": status});
        for key in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
            patch["status"].as_object_mut().expect("built above").entry(key).or_insert(serde_json::Value::Null);
        }
        actions.push(Action::Patch {
            kind: "ReplicaSet",
            of: (set.namespace().unwrap_or_default(), set.name_any()),
            status: true,
            patch,
        });
    }
    actions
}
