//! What the server does with `metadata`, for every kind (apiserver `pkg/registry/rest`).
use jiff::Timestamp;
use serde_json::{Map, Value};

const NAME_SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The time as Kubernetes writes it.
pub fn now() -> String {
    stamp(Timestamp::now())
}

/// A time as Kubernetes writes it: whole seconds, UTC.
pub fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Whether deletion has begun.
pub fn is_deleting(value: &Value) -> bool {
    value["metadata"]["deletionTimestamp"].is_string()
}

/// `metadata.finalizers`.
pub fn finalizers(value: &Value) -> Vec<String> {
    let list = value["metadata"]["finalizers"].as_array().into_iter().flatten();
    list.filter_map(|f| f.as_str().map(str::to_owned)).collect()
}

/// Text at `metadata.KEY`, empty if absent.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value["metadata"][key].as_str().unwrap_or_default()
}

/// The metadata map, made if absent.
pub fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value["metadata"].is_object() {
        value["metadata"] = Value::Object(Map::new());
    }
    value["metadata"].as_object_mut().expect("it was just made an object")
}

/// A name for `generateName`.
pub fn generated(base: &str) -> String {
    let random = uuid::Uuid::new_v4();
    let suffix = random.as_bytes()[..5].iter().map(|b| NAME_SUFFIX[*b as usize % NAME_SUFFIX.len()] as char);
    base.chars().take(58).chain(suffix).collect()
}

/// Sets what the system sets on a new object.
pub fn fill(value: &mut Value, namespace: &str) {
    let meta = map_mut(value);
    for key in ["selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
        meta.remove(key);
    }
    if namespace.is_empty() {
        meta.remove("namespace");
    } else {
        meta.insert("namespace".into(), namespace.into());
    }
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), now().into());
    drop_empty(meta);
}

/// Go drops empty maps and lists of metadata when it serialises.
pub fn drop_empty(meta: &mut Map<String, Value>) {
    meta.retain(|key, value| match key.as_str() {
        "labels" | "annotations" => value.as_object().is_some_and(|m| !m.is_empty()),
        "finalizers" | "ownerReferences" => value.as_array().is_some_and(|l| !l.is_empty()),
        _ => !value.is_null(),
    });
}

/// Keeps what only the system may change: taken from the old object.
pub fn keep_system(old: &Value, new: &mut Value) {
    let meta = map_mut(new);
    meta.remove("managedFields");
    meta.remove("selfLink");
    for key in
        ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "uid", "namespace"]
    {
        match &old["metadata"][key] {
            // What only a deletion sets stays for validation to refuse.
            Value::Null if key.starts_with("deletion") => {}
            Value::Null => {
                meta.remove(key);
            }
            kept if key == "uid" || key == "namespace" => {
                meta.entry(key).or_insert_with(|| kept.clone());
            }
            kept => {
                meta.insert(key.into(), kept.clone());
            }
        }
    }
    drop_empty(meta);
}
