//! What is particular to a kind when it is created or updated (Kubernetes calls these strategies).
use serde_json::{Map, Value, json};

use crate::kinds::Resource;
use crate::meta;

/// Kinds whose `metadata.generation` counts changes of the desired state.
fn has_generation(resource: &Resource) -> bool {
    !resource.builtin
        || matches!(
            &*resource.store,
            "/pods"
                | "apps/daemonsets"
                | "apps/deployments"
                | "apps/replicasets"
                | "apps/statefulsets"
                | "batch/jobs"
                | "apiextensions.k8s.io/customresourcedefinitions"
                | "discovery.k8s.io/endpointslices"
                | "admissionregistration.k8s.io/mutatingwebhookconfigurations"
                | "admissionregistration.k8s.io/validatingwebhookconfigurations"
        )
}

/// Whether a PUT without resourceVersion overwrites.
pub fn allows_unconditional_update(resource: &Resource) -> bool {
    resource.builtin
        && !matches!(
            &*resource.store,
            "coordination.k8s.io/leases"
                | "apiextensions.k8s.io/customresourcedefinitions"
                | "admissionregistration.k8s.io/mutatingwebhookconfigurations"
                | "admissionregistration.k8s.io/validatingwebhookconfigurations"
        )
}

/// Whether a PUT of an absent object creates it.
pub fn allows_create_on_update(resource: &Resource) -> bool {
    matches!(&*resource.store, "coordination.k8s.io/leases" | "/endpoints" | "/events" | "/services")
}

/// Before an object is created: status is the server's, generation starts at one.
pub fn prepare_create(resource: &Resource, value: &mut Value) {
    let object = value.as_object_mut().expect("decoding admits objects only");
    match &*resource.store {
        "/nodes" => {}
        "/pods" => {
            let class = qos_class(&object.get("spec").cloned().unwrap_or_default());
            object.insert("status".into(), json!({"phase": "Pending", "qosClass": class}));
        }
        "/services" => {
            object.insert("status".into(), json!({"loadBalancer": {}}));
        }
        "/namespaces" => {
            object.insert("status".into(), json!({"phase": "Active"}));
            let finalizers = json!(["kubernetes"]);
            object.entry("spec").or_insert_with(|| json!({}))["finalizers"] = finalizers;
            let name = meta::text(value, "name").to_owned();
            value["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
        }
        store if resource.builtin && resource.status && store != "apiextensions.k8s.io/customresourcedefinitions" => {
            object.insert("status".into(), json!({}));
        }
        _ if resource.status => {
            object.remove("status");
        }
        _ => {}
    }
    match has_generation(resource) {
        true => value["metadata"]["generation"] = 1.into(),
        false => {
            meta::map_mut(value).remove("generation");
        }
    }
}

/// Before an update of the object itself: status stays, generation counts.
pub fn prepare_update(resource: &Resource, old: &Value, new: &mut Value) {
    if resource.status {
        put(new, "status", &old["status"]);
    }
    if has_generation(resource) && desired(resource, old) != desired(resource, new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = generation.into();
    }
}

/// Before an update of `/status`: everything else stays.
pub fn prepare_status(resource: &Resource, old: &Value, new: &mut Value) {
    let status = new["status"].clone();
    let mut kept = old.clone();
    if matches!(&*resource.store, "/pods" | "/nodes" | "/namespaces" | "/services") {
        for key in ["labels", "annotations", "finalizers"] {
            put(&mut kept["metadata"], key, &new["metadata"][key]);
        }
    }
    put(&mut kept["metadata"], "resourceVersion", &new["metadata"]["resourceVersion"]);
    put(&mut kept, "status", &status);
    *new = kept;
}

fn put(object: &mut Value, key: &str, value: &Value) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Value::Null => {
            map.remove(key);
        }
        value => {
            map.insert(key.into(), value.clone());
        }
    }
}

/// The part of an object that generation counts: all but metadata, and but status where that is its own resource.
fn desired(resource: &Resource, value: &Value) -> Map<String, Value> {
    let mut map = value.as_object().cloned().unwrap_or_default();
    map.remove("metadata");
    map.remove("apiVersion");
    if resource.status {
        map.remove("status");
    }
    map
}

/// Quality of service class of a pod (`pkg/apis/core/helper/qos`).
fn qos_class(spec: &Value) -> &'static str {
    let containers: Vec<&Value> =
        ["containers", "initContainers"].iter().flat_map(|k| spec[*k].as_array().into_iter().flatten()).collect();
    let amount = |c: &Value, list: &str, what: &str| c["resources"][list].get(what).cloned();
    let none = |c: &&&Value| {
        ["requests", "limits"].iter().all(|l| ["cpu", "memory"].iter().all(|w| amount(c, l, w).is_none()))
    };
    if containers.iter().filter(none).count() == containers.len() {
        return "BestEffort";
    }
    let full = containers.iter().all(|c| {
        ["cpu", "memory"].iter().all(|what| {
            let limit = amount(c, "limits", what);
            limit.is_some() && amount(c, "requests", what).is_none_or(|r| Some(r) == limit)
        })
    });
    if full { "Guaranteed" } else { "Burstable" }
}
