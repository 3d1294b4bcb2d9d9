//! The schemas of a document: the kinds, their lists, and everything they refer to.

use super::Served;
use crate::builtin::types::{OBJECT_META, REF_PREFIX, SCHEMAS};
use crate::builtin::{definition, merge_keys};
use serde_json::{Map, Value, json};

/// The name of a kind's schema: that of its Go type, or the reversed group of a custom resource.
pub(super) fn name_of(served: &Served<'_>) -> String {
    match (served.schema, definition(served.group, served.kind)) {
        (None, Some(name)) => name,
        _ => {
            let reversed: Vec<_> = served.group.rsplit('.').collect();
            format!("{}.{}.{}", reversed.join("."), served.version, served.kind)
        }
    }
}

/// All schemas of a document.
pub(super) fn components(kinds: &[Served<'_>]) -> Map<String, Value> {
    let mut out = Map::new();
    for name in [
        super::DELETE_OPTIONS,
        super::STATUS,
        super::PATCH,
        OBJECT_META,
        "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
    ] {
        add(&mut out, name);
    }
    for kind in kinds {
        let name = name_of(kind);
        match kind.schema {
            None => add(&mut out, &name),
            Some(schema) => {
                out.insert(name.clone(), custom(schema));
            }
        }
        if let Some(schema) = out.get_mut(&name) {
            schema["x-kubernetes-group-version-kind"] = json!([kind.gvk()]);
        }
        out.insert(format!("{name}List"), list(kind, &name));
    }
    out
}

/// Adds a published type and all that it refers to.
fn add(out: &mut Map<String, Value>, name: &str) {
    if out.contains_key(name) {
        return;
    }
    let Some(schema) = SCHEMAS.get(name) else { return };
    let mut schema = schema.clone();
    for (field, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(strategy) = merge_keys::strategy(name, field) {
            property["x-kubernetes-patch-strategy"] = strategy.text().into();
            if !strategy.key.is_empty() {
                property["x-kubernetes-patch-merge-key"] = strategy.key.into();
            }
        }
    }
    let mut references = Vec::new();
    publish(&mut schema, &mut references);
    out.insert(name.to_owned(), schema);
    references.iter().for_each(|name| add(out, name));
}

/// Puts a schema into the published form: references inside `allOf`, so that descriptions may stand beside them.
fn publish(schema: &mut Value, references: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            // JSONSchemaProps has fields of these names, which are no keywords there.
            if map.get("$ref").is_some_and(Value::is_string)
                && let Some(target) = map.remove("$ref")
            {
                references.extend(target.as_str().and_then(|t| t.strip_prefix(REF_PREFIX)).map(str::to_owned));
                map.insert("allOf".into(), json!([{"$ref": target}]));
            } else if map.get("x-kubernetes-int-or-string").is_some_and(Value::is_boolean) {
                map.remove("x-kubernetes-int-or-string");
                map.insert("format".into(), "int-or-string".into());
                map.insert("oneOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
            } else {
                map.values_mut().for_each(|value| publish(value, references));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|value| publish(value, references)),
        _ => {}
    }
}

/// The schema of a custom resource, with the fields that every object has.
fn custom(schema: &Value) -> Value {
    let mut schema = if schema.is_object() {
        schema.clone()
    } else {
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    };
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    let own = |field: &str| schema_field("io.k8s.api.core.v1.Pod", field);
    let metadata = json!({"description": own("metadata")["description"], "allOf": [{"$ref": format!("{REF_PREFIX}{OBJECT_META}")}]});
    let fields = [("apiVersion", own("apiVersion")), ("kind", own("kind")), ("metadata", metadata)];
    for (field, property) in fields {
        schema["properties"][field] = property;
    }
    schema
}

/// A property of a published type, for its description.
fn schema_field(name: &str, field: &str) -> Value {
    SCHEMAS.get(name).map(|schema| schema["properties"][field].clone()).unwrap_or_default()
}

fn list(kind: &Served<'_>, name: &str) -> Value {
    let reference = |name: &str| json!({"allOf": [{"$ref": format!("{REF_PREFIX}{name}")}]});
    json!({
        "description": format!("{}List is a list of {}", kind.kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": schema_field("io.k8s.api.core.v1.Pod", "apiVersion"),
            "kind": schema_field("io.k8s.api.core.v1.Pod", "kind"),
            "metadata": reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
            "items": {"type": "array", "items": reference(name)},
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind)}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_lists_carry_their_merge_keys() {
        let pod = Served {
            group: "",
            version: "v1",
            kind: "Pod",
            plural: "pods",
            namespaced: true,
            status: true,
            schema: None,
        };
        let all = components(&[pod]);
        let containers = &all["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["items"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
        assert_eq!(all["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
        assert_eq!(all["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"], "int-or-string");
    }

    #[test]
    fn a_custom_resource_is_named_by_its_reversed_group() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
        let kind = Served {
            group: "spiderpool.spidernet.io",
            version: "v2beta1",
            kind: "SpiderIPPool",
            plural: "spiderippools",
            namespaced: false,
            status: true,
            schema: Some(&schema),
        };
        let all = components(&[kind]);
        let schema = &all["io.spidernet.spiderpool.v2beta1.SpiderIPPool"];
        assert_eq!(
            schema["properties"]["metadata"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        assert!(schema["properties"]["spec"].is_object());
        assert!(all.contains_key("io.spidernet.spiderpool.v2beta1.SpiderIPPoolList"));
    }
}
