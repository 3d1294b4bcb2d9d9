//! Deployments: one ReplicaSet per template; the newest gets all replicas, older ones go to zero once it is ready.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::ResourceExt;
use serde_json::json;

use super::action::Action;
use super::{Snapshot, template};

/// The label that Kubernetes gives to ReplicaSets and pods of a template.
const HASH: &str = "pod-template-hash";

pub(super) fn plan(snapshot: &Snapshot) -> Vec<Action> {
    let living = snapshot.deployments.iter().filter(|deployment| deployment.metadata.deletion_timestamp.is_none());
    living.flat_map(|deployment| plan_one(snapshot, deployment)).collect()
}

fn plan_one(snapshot: &Snapshot, deployment: &Deployment) -> Vec<Action> {
    let Some(spec) = &deployment.spec else { return Vec::new() };
    let replicas = spec.replicas.unwrap_or(1);
    let hash = template::hash(&spec.template);
    let uid = deployment.metadata.uid.as_deref();
    let own: Vec<&Arc<ReplicaSet>> = snapshot
        .replicasets
        .iter()
        .filter(|set| uid.is_some() && template::controller_uid(&set.metadata) == uid)
        .collect();
    let (current, older): (Vec<_>, Vec<_>) = own.into_iter().partition(|set| set.labels().get(HASH) == Some(&hash));
    let mut actions = Vec::new();
    match current.first() {
        None => actions.push(Action::create("ReplicaSet", &replicaset(deployment, &hash, replicas))),
        Some(set) if size(set) != replicas => actions.push(scale(set, replicas)),
        Some(set) if ready(set) >= replicas => {
            actions.extend(older.iter().filter(|set| size(set) > 0).map(|set| scale(set, 0)));
        }
        Some(_) => {}
    }
    let all = || current.iter().chain(&older);
    let count = |number: fn(&ReplicaSet) -> i32| Some(all().map(|set| number(set)).sum::<i32>()).filter(|sum| *sum > 0);
    let (total, available) = (count(observed), count(ready));
    let unavailable = Some(replicas - available.unwrap_or(0)).filter(|number| *number > 0);
    let status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: total,
        updated_replicas: current.first().map(|set| observed(set)).filter(|number| *number > 0),
        ready_replicas: available,
        available_replicas: available,
        unavailable_replicas: unavailable,
        ..Default::default()
    };
    let old = deployment.status.clone().map(|status| DeploymentStatus { conditions: None, ..status });
    if old.as_ref() != Some(&status) {
        actions.push(status_patch(deployment, &status, replicas));
    }
    actions
}

fn status_patch(deployment: &Deployment, status: &DeploymentStatus, replicas: i32) -> Action {
    let available = status.available_replicas.unwrap_or(0) >= replicas;
    let mut patch = json!({"status": status});
    let map = patch["status"].as_object_mut().expect("built above");
    for key in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"] {
        map.entry(key).or_insert(serde_json::Value::Null);
    }
    let condition = json!({
        "type": "Available",
        "status": if available { "True" } else { "False" },
        "reason": if available { "MinimumReplicasAvailable" } else { "MinimumReplicasUnavailable" },
        "lastTransitionTime": crate::events::now(),
        "lastUpdateTime": crate::events::now(),
    });
    map.insert("conditions".into(), json!([condition]));
    Action::Patch {
        kind: "Deployment",
        of: (deployment.namespace().unwrap_or_default(), deployment.name_any()),
        status: true,
        patch,
    }
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn observed(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn scale(set: &ReplicaSet, replicas: i32) -> Action {
    let of = (set.namespace().unwrap_or_default(), set.name_any());
    Action::Patch { kind: "ReplicaSet", of, status: false, patch: json!({"spec": {"replicas": replicas}}) }
}

fn replicaset(deployment: &Deployment, hash: &str, replicas: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(HASH.into(), hash.into());
    let mut of = spec.template;
    of.metadata.get_or_insert_default().labels = Some(labels.clone());
    let mut selector: LabelSelector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.into());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![template::owned_by(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec { replicas: Some(replicas), selector, template: Some(of), ..Default::default() }),
        status: None,
    }
}
