//! What is particular to a kind when it is created or updated (Kubernetes calls these strategies).
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
            object.insert("status".into(), first_status(store));
        }
        _ if resource.status => {
            object.remove("status");
        }
        _ => {}
    }
    match &*resource.store {
        "/secrets" => merge_string_data(value),
        "apps/daemonsets" => value["metadata"]["annotations"][TEMPLATE_GENERATION] = "1".into(),
        "batch/jobs" => select_own_pods(value),
        _ => {}
    }
    match has_generation(resource) {
        true => value["metadata"]["generation"] = 1.into(),
        false => {
            meta::map_mut(value).remove("generation");
        }
    }
}

/// The status of a new object: the counts that its type always shows.
fn first_status(store: &str) -> Value {
    match store {
        "apps/daemonsets" => json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        }),
        "apps/replicasets" => json!({"replicas": 0}),
        "apps/statefulsets" => json!({"availableReplicas": 0, "replicas": 0}),
        _ => json!({}),
    }
}

/// Counts the changes of a DaemonSet's template.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn count_template(old: &Value, new: &mut Value) {
    let before = &old["metadata"]["annotations"][TEMPLATE_GENERATION];
    let before = before.as_str().and_then(|text| text.parse::<i64>().ok()).unwrap_or(1);
    let changed = old["spec"]["template"] != new["spec"]["template"];
    new["metadata"]["annotations"][TEMPLATE_GENERATION] = (before + i64::from(changed)).to_string().into();
}

/// `stringData` of a Secret is only written: it becomes `data`.
fn merge_string_data(secret: &mut Value) {
    let Some(Value::Object(texts)) = secret.as_object_mut().and_then(|map| map.remove("stringData")) else { return };
    for (key, text) in texts {
        secret["data"][key] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
    }
}

/// A Job without a selector of its own selects its pods by its UID (`pkg/registry/batch/job/strategy.go`).
fn select_own_pods(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let (uid, name) = (meta::text(job, "uid").to_owned(), meta::text(job, "name").to_owned());
    let labels = &mut job["spec"]["template"]["metadata"]["labels"];
    for (key, value) in [("controller-uid", &uid), ("job-name", &name)] {
        labels[key] = value.as_str().into();
        labels[format!("batch.kubernetes.io/{key}")] = value.as_str().into();
    }
    if job["metadata"]["labels"].as_object().is_none_or(Map::is_empty) {
        job["metadata"]["labels"] = job["spec"]["template"]["metadata"]["labels"].clone();
    }
    job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"] = uid.into();
}

/// Before an update of the object itself: status stays, generation counts.
pub fn prepare_update(resource: &Resource, old: &Value, new: &mut Value) {
    if resource.status {
        put(new, "status", &old["status"]);
    }
    match &*resource.store {
        "/secrets" => merge_string_data(new),
        "apps/daemonsets" => count_template(old, new),
        _ => {}
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
    // Validation refuses a UID that differs; of custom resources nobody looks at it.
    if resource.builtin && !meta::text(new, "uid").is_empty() {
        put(&mut kept["metadata"], "uid", &new["metadata"]["uid"]);
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
