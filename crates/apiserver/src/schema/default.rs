//! Defaults of a structural schema, and what becomes of nulls.
//!
//! A null where null is not allowed counts as absent: the default takes its place; without a default the null is
//! dropped before defaulting (kube-apiserver drops it when the object is decoded or admitted).

use super::node::{Additional, Node};
use serde_json::Value;

/// Fills in the defaults below `node`, after non-nullable nulls were dropped or replaced.
pub(crate) fn apply(value: &mut Value, node: &Node) {
    drop_nulls(value, node);
    fill(value, node);
}

fn refused_null(value: &Value, node: &Node) -> bool {
    value.is_null() && !node.nullable
}

/// Removes nulls of fields that are neither nullable nor have a default (`PruneNonNullableNullsWithoutDefaults`).
fn drop_nulls(value: &mut Value, node: &Node) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| match node.at(key) {
                Some(known) => !(refused_null(value, known) && known.default.is_none()),
                None => true,
            });
            for (key, value) in map.iter_mut() {
                if let Some(known) = node.at(key) {
                    drop_nulls(value, known);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_node) = node.items.as_deref() {
                items.iter_mut().for_each(|item| drop_nulls(item, item_node));
            }
        }
        _ => {}
    }
}

fn fill(value: &mut Value, node: &Node) {
    match value {
        Value::Object(map) => {
            for (name, known) in &node.properties {
                let Some(default) = &known.default else { continue };
                if map.get(name).is_none_or(|v| refused_null(v, known)) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (key, value) in map.iter_mut() {
                if let Some(known) = node.properties.get(key) {
                    fill(value, known);
                } else if let Additional::Schema(known) = &node.additional {
                    replace_null(value, known);
                    fill(value, known);
                }
            }
        }
        Value::Array(items) => {
            let Some(item_node) = node.items.as_deref() else { return };
            for item in items {
                replace_null(item, item_node);
                fill(item, item_node);
            }
        }
        _ => {}
    }
}

fn replace_null(value: &mut Value, node: &Node) {
    if let (true, Some(default)) = (refused_null(value, node), &node.default) {
        *value = default.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_filled_also_inside_defaults_and_lists() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "x"},
            "o": {"type": "object", "default": {}, "properties": {"n": {"type": "integer", "default": 3}}},
            "absent": {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}},
            "l": {"type": "array", "items": {"type": "object", "properties": {"v": {"type": "integer", "default": 0}}}},
            "m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"v": {"type": "integer", "default": 1}}}}}});
        let mut value = json!({"l": [{}, {"v": 7}], "m": {"k": {}}});
        apply(&mut value, &Node::compile(&schema));
        assert_eq!(value, json!({"a": "x", "o": {"n": 3}, "l": [{"v": 0}, {"v": 7}], "m": {"k": {"v": 1}}}));
    }

    #[test]
    fn nulls_become_the_default_or_go_unless_nullable() {
        let schema = json!({"type": "object", "properties": {
            "d": {"type": "string", "default": "x"},
            "plain": {"type": "string"},
            "both": {"type": "string", "nullable": true, "default": "x"}}});
        let mut value = json!({"d": null, "plain": null, "both": null});
        apply(&mut value, &Node::compile(&schema));
        assert_eq!(value, json!({"d": "x", "both": null}));
    }
}
