//! Removes what a structural schema does not name, and tells what was removed.

use super::cause::{child, index};
use super::node::{Additional, Node};
use serde_json::Value;

/// Fields that every resource has and that the root (and embedded resources) therefore keep.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes unknown fields from a whole object. Returns their paths, sorted.
pub(crate) fn object(object: &mut Value, node: &Node) -> Vec<String> {
    let mut unknown = Vec::new();
    if node.preserve_unknown {
        keep(object, node, true, "", &mut unknown);
    } else {
        prune_fields(object, node, true, "", &mut unknown);
    }
    unknown.sort();
    unknown
}

fn prune(value: &mut Value, node: Option<&Node>, path: &str, unknown: &mut Vec<String>) {
    match (value, node) {
        (value, Some(node)) if node.preserve_unknown => keep(value, node, node.embedded, path, unknown),
        (value @ Value::Object(_), Some(node)) => prune_fields(value, node, node.embedded, path, unknown),
        (Value::Object(map), None) => {
            unknown.extend(map.keys().map(|k| child(path, k)));
            map.clear();
        }
        (Value::Array(items), node) => {
            let item_node = node.and_then(|n| n.items.as_deref());
            for (i, item) in items.iter_mut().enumerate() {
                prune(item, item_node, &index(path, i), unknown);
            }
        }
        _ => {}
    }
}

fn prune_fields(value: &mut Value, node: &Node, embedded: bool, path: &str, unknown: &mut Vec<String>) {
    let Value::Object(map) = value else { return };
    map.retain(|key, value| {
        if embedded && META.contains(&key.as_str()) {
            return true;
        }
        let at = child(path, key);
        match (node.properties.get(key), &node.additional) {
            (Some(known), _) => prune(value, Some(known), &at, unknown),
            (None, Additional::Schema(known)) => prune(value, Some(known), &at, unknown),
            (None, Additional::Any(true)) => prune(value, None, &at, unknown),
            _ => {
                unknown.push(at);
                return false;
            }
        }
        true
    });
}

/// Keeps unknown fields, but prunes below the known ones.
fn keep(value: &mut Value, node: &Node, embedded: bool, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if embedded && META.contains(&key.as_str()) {
                    continue;
                }
                if let Some(known) = node.at(key) {
                    prune(value, Some(known), &child(path, key), unknown);
                }
            }
        }
        Value::Array(items) => {
            let Some(item_node) = node.items.as_deref() else { return };
            for (i, item) in items.iter_mut().enumerate() {
                keep(item, item_node, item_node.embedded, &index(path, i), unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pruned(schema: Value, mut value: Value) -> (Value, Vec<String>) {
        let unknown = object(&mut value, &Node::compile(&schema));
        (value, unknown)
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string"}, "l": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "string"}}}}}}}});
        let (value, unknown) = pruned(
            schema,
            json!({"apiVersion": "v1", "metadata": {"x": 1}, "spec": {"a": "1", "z": 1, "l": [{"b": "", "c": 1}]}, "top": {}}),
        );
        assert_eq!(value, json!({"apiVersion": "v1", "metadata": {"x": 1}, "spec": {"a": "1", "l": [{"b": ""}]}}));
        assert_eq!(unknown, ["spec.l[0].c", "spec.z", "top"]);
    }

    #[test]
    fn preserved_parts_keep_unknown_fields_but_prune_below_known_ones() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}}}});
        let (value, unknown) = pruned(schema, json!({"spec": {"free": {"x": 1}, "known": {"a": "1", "b": 2}}}));
        assert_eq!(value, json!({"spec": {"free": {"x": 1}, "known": {"a": "1"}}}));
        assert_eq!(unknown, ["spec.known.b"]);
    }

    #[test]
    fn maps_and_embedded_resources_keep_their_keys() {
        let schema = json!({"type": "object", "properties": {
            "m": {"type": "object", "additionalProperties": {"type": "string"}},
            "e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}});
        let (value, unknown) =
            pruned(schema, json!({"m": {"any": "x"}, "e": {"kind": "K", "metadata": {"name": "n"}, "other": 1}}));
        assert_eq!(value, json!({"m": {"any": "x"}, "e": {"kind": "K", "metadata": {"name": "n"}}}));
        assert_eq!(unknown, ["e.other"]);
    }
}
