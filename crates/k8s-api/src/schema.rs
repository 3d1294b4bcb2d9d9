//! From Rust types to structural OpenAPI schemas as upstream's generator writes them.
//!
//! `schemars` yields JSON Schema; an API server wants the structural subset. The rewriting here is total: optional
//! fields lose their `null`, documented enums become plain lists, Rust-only integer formats vanish. Two facts a Rust
//! type cannot carry stand in attributes: `x-default` is the API's default (a serde default only makes reading
//! tolerant), `x-required` on a struct lists the required members.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// The structural schema of `T`.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    restructure(&mut schema);
    schema
}

/// The schema of a whole object out of those of its parts.
pub(crate) fn object(description: &str, parts: &[(&str, Value)]) -> Value {
    let mut properties = json!({
        "apiVersion": {
            "description": "APIVersion defines the versioned schema of this representation of an object. Servers should \
                convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
                https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
            "type": "string",
        },
        "kind": {
            "description": "Kind is a string value representing the REST resource this object represents. Servers may \
                infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
                https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
            "type": "string",
        },
        "metadata": {"type": "object"},
    });
    for (name, schema) in parts {
        properties[*name] = schema.clone();
    }
    json!({"description": description, "type": "object", "properties": properties})
}

/// The rule of a member that keeps its value once it is set, with kind and text of the same rule in `ipam::rules`.
pub(crate) fn immutable() -> Value {
    json!([{"rule": "self == oldSelf", "message": "is not changeable", "reason": "FieldValueForbidden"}])
}

/// [`immutable`] for a text, which the refusal shows.
pub(crate) fn immutable_text() -> Value {
    let mut rules = immutable();
    rules[0]["messageExpression"] = json!("'is not changeable (it was ' + oldSelf + ')'");
    rules
}

fn restructure(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for dropped in ["$schema", "title", "default", "nullable"] {
        map.remove(dropped);
    }
    drop_null(map);
    flatten_enum(map);
    for (private, public) in [("x-default", "default"), ("x-required", "required")] {
        if let Some(value) = map.remove(private) {
            map.insert(public.to_owned(), value);
        }
    }
    if let Some(format) = map.get("format").and_then(Value::as_str)
        && !matches!(format, "int32" | "int64" | "date-time")
    {
        map.remove("format");
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(restructure);
    }
    for nested in ["items", "additionalProperties"] {
        if let Some(schema) = map.get_mut(nested) {
            restructure(schema);
        }
    }
}

/// `Option<T>` is expressed by absence, never by null.
fn drop_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            map.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let Some(Value::Array(branches)) = map.get_mut("anyOf") else { return };
    branches.retain(|branch| !is_null(branch));
    if branches.len() == 1
        && let Some(Value::Object(inner)) = branches.pop()
    {
        map.remove("anyOf");
        for (key, value) in inner {
            map.entry(key).or_insert(value);
        }
    }
    // The single branch may itself have been written with a null type.
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
}

fn is_null(branch: &Value) -> bool {
    branch["type"] == "null" || branch["enum"] == json!([null]) || branch.get("const").is_some_and(Value::is_null)
}

/// A documented Rust enum arrives as `oneOf` constants; the API wants one list of names.
fn flatten_enum(map: &mut Map<String, Value>) {
    let Some(Value::Array(branches)) = map.get("oneOf") else { return };
    let mut names = Vec::new();
    for branch in branches {
        match (branch.get("const"), branch.get("enum")) {
            (Some(name), _) => names.push(name.clone()),
            (None, Some(Value::Array(more))) => names.extend(more.iter().cloned()),
            _ => return,
        }
    }
    map.remove("oneOf");
    map.insert("type".to_owned(), json!("string"));
    map.insert("enum".to_owned(), Value::Array(names));
}
