//! `x-kubernetes-list-type`: sets without duplicates, maps with unique keys.

use super::cause::{Cause, child, index, key};
use super::node::{Additional, ListType, Node};
use serde_json::{Map, Value};

/// Duplicates in sets and maps anywhere below `value`.
pub(crate) fn duplicates(path: &str, value: &Value, node: &Node, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match (node.properties.get(name), &node.additional) {
                    (Some(known), _) => duplicates(&child(path, name), value, known, causes),
                    (None, Additional::Schema(known)) => duplicates(&key(path, name), value, known, causes),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            match node.list_type {
                ListType::Atomic => {}
                ListType::Set => report(path, items, causes),
                ListType::Map => map_keys(path, items, node, causes),
            }
            if let Some(item_node) = node.items.as_deref() {
                for (i, item) in items.iter().enumerate() {
                    duplicates(&index(path, i), item, item_node, causes);
                }
            }
        }
        _ => {}
    }
}

/// Reports the second of equal values, not the third.
fn report(path: &str, values: &[Value], causes: &mut Vec<Cause>) {
    for (i, value) in values.iter().enumerate() {
        if values[..i].iter().filter(|earlier| *earlier == value).count() == 1 {
            causes.push(Cause::duplicate(index(path, i), value));
        }
    }
}

fn map_keys(path: &str, items: &[Value], node: &Node, causes: &mut Vec<Cause>) {
    if let Some((i, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        causes.push(Cause::invalid(index(path, i), item, "must be an object for an array of list-type map"));
        return;
    }
    let keys: Vec<Value> = items.iter().map(|item| Value::Object(key_of(item, node))).collect();
    report(path, &keys, causes);
}

/// The key fields of one item, those that it has.
pub(crate) fn key_of(item: &Value, node: &Node) -> Map<String, Value> {
    let present = |name: &String| item.get(name).map(|value| (name.clone(), value.clone()));
    node.map_keys.iter().filter_map(present).collect()
}

/// The item of `old` with the same key as `item`; `None` when the list is not a map.
pub(crate) fn counterpart<'a>(item: &Value, old: Option<&'a Value>, node: &Node) -> Option<&'a Value> {
    if node.list_type != ListType::Map {
        return None;
    }
    let wanted = key_of(item, node);
    old?.as_array()?.iter().find(|candidate| key_of(candidate, node) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(schema: Value, value: Value) -> Vec<String> {
        let mut causes = Vec::new();
        duplicates("", &value, &Node::compile(&schema), &mut causes);
        causes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn duplicates_of_sets_and_maps_are_named_by_index_and_key() {
        let list = |list_type: &str| {
            json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": list_type,
                "x-kubernetes-list-map-keys": ["n"], "items": {"type": "object", "properties": {"n": {"type": "string"}}}}}})
        };
        assert_eq!(texts(list("set"), json!({"l": ["a", "b", "a", "a"]})), ["l[2]: Duplicate value: \"a\""]);
        assert_eq!(
            texts(list("map"), json!({"l": [{"n": "a"}, {"n": "a", "v": 1}]})),
            ["l[1]: Duplicate value: {\"n\":\"a\"}"]
        );
        assert_eq!(
            texts(list("map"), json!({"l": [3]})),
            ["l[0]: Invalid value: 3: must be an object for an array of list-type map"]
        );
        assert_eq!(texts(list("atomic"), json!({"l": [1, 1]})), [""; 0]);
    }
}
