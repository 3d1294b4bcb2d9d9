//! Strategic merge patch: a merge patch that knows which lists have keys.
//!
//! Spec: Kubernetes' strategic merge patch (apimachinery `strategicpatch`): lists with a merge key are merged item by
//! item, lists of scalars with strategy `merge` are united, all others are replaced. Directives: `$patch: replace`,
//! `$patch: delete`, `$retainKeys`, `$setElementOrder/LIST`, `$deleteFromPrimitiveList/LIST`.

use crate::builtin::merge_keys::{self, Strategy};
use crate::builtin::types::{self, Type};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `target` by the merge keys of the kind.
pub fn merge(group: &str, kind: &str, target: &mut Value, patch: &Value) -> Result<(), String> {
    let definition = crate::builtin::definition(group, kind);
    let definition = definition.ok_or_else(|| format!("strategic merge patch is not served for {kind}"))?;
    let (Value::Object(map), Value::Object(patch)) = (&mut *target, patch) else {
        return Err("a strategic merge patch must be an object".to_owned());
    };
    if let Some(replaced) = replacement(patch)? {
        *target = replaced;
        return Ok(());
    }
    merge_map(map, patch, Some(&definition))
}

/// What the map becomes if the patch replaces or deletes it as a whole.
fn replacement(patch: &Map<String, Value>) -> Result<Option<Value>, String> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => Ok(None),
        Some("replace") => {
            let mut value = Value::Object(patch.clone());
            strip(&mut value);
            Ok(Some(value))
        }
        Some("delete") => Ok(Some(Value::Object(Map::new()))),
        Some(other) => Err(format!("unknown patch type: {other}")),
    }
}

/// Removes directives, and the nulls that only mean "delete".
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !is_directive(key) && !value.is_null());
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => {
            items.retain(|item| {
                item.get(DIRECTIVE).is_none_or(|d| d != "delete" && d != "replace")
                    || item.as_object().is_some_and(|m| m.len() > 1 && m[DIRECTIVE] != "delete")
            });
            items.iter_mut().for_each(strip);
        }
        _ => {}
    }
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(ORDER) || key.starts_with(DELETE)
}

/// The definition of the maps in a field, if they are structs.
fn struct_of(definition: Option<&str>, field: &str) -> Option<String> {
    match definition.and_then(|d| types::field_type(d, field))? {
        Type::Struct(name) => Some(name.clone()),
        Type::List(item) => match item.as_ref() {
            Type::Struct(name) => Some(name.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn merge_map(map: &mut Map<String, Value>, patch: &Map<String, Value>, definition: Option<&str>) -> Result<(), String> {
    retain_keys(map, patch)?;
    let original = map.clone();
    for (key, wanted) in patch.iter().filter(|(key, _)| !is_directive(key)) {
        if wanted.is_null() {
            map.remove(key);
            continue;
        }
        let inner = struct_of(definition, key);
        let strategy = definition.and_then(|d| merge_keys::strategy(d, key));
        match (map.get_mut(key), wanted) {
            (Some(Value::Object(current)), Value::Object(patch)) => match replacement(patch)? {
                Some(replaced) => {
                    map.insert(key.clone(), replaced);
                }
                None => merge_map(current, patch, inner.as_deref())?,
            },
            (Some(Value::Array(current)), Value::Array(patch)) if strategy.is_some_and(|s| s.merge) => {
                let strategy = strategy.expect("the guard has it");
                let before = current.clone();
                merge_list(current, patch, strategy, inner.as_deref())?;
                // The patch's items keep the patch's order.
                let order: Vec<_> = patch.iter().filter(|item| item[DIRECTIVE] != "delete").cloned().collect();
                *current = ordered(std::mem::take(current), &order, &before, strategy.key);
            }
            _ => {
                let mut value = wanted.clone();
                strip(&mut value);
                map.insert(key.clone(), value);
            }
        }
    }
    for (key, values) in patch.iter().filter_map(|(k, v)| Some((k.strip_prefix(DELETE)?, v))) {
        let gone = values.as_array().ok_or_else(|| format!("{DELETE}{key} must be a list"))?;
        if let Some(Value::Array(current)) = map.get_mut(key) {
            current.retain(|item| !gone.contains(item));
        }
    }
    for (key, order) in patch.iter().filter_map(|(k, v)| Some((k.strip_prefix(ORDER)?, v))) {
        let order = order.as_array().ok_or_else(|| format!("{ORDER}{key} must be a list"))?;
        let merge_key = definition.and_then(|d| merge_keys::strategy(d, key)).map_or("", |s| s.key);
        let before = original.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        if let Some(Value::Array(current)) = map.get_mut(key) {
            *current = ordered(std::mem::take(current), order, &before, merge_key);
        }
    }
    Ok(())
}

fn retain_keys(map: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), String> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or_else(|| format!("{RETAIN_KEYS} must be a list"))?;
    let retained = |key: &str| keys.iter().any(|k| k == key);
    if let Some(key) = patch.keys().find(|k| !is_directive(k) && !patch[k.as_str()].is_null() && !retained(k)) {
        return Err(format!("{RETAIN_KEYS} list must contain all fields in the patch: {key}"));
    }
    map.retain(|key, _| retained(key));
    Ok(())
}

fn merge_list(
    current: &mut Vec<Value>,
    patch: &[Value],
    strategy: Strategy,
    definition: Option<&str>,
) -> Result<(), String> {
    if strategy.key.is_empty() {
        for item in patch {
            if !current.contains(item) {
                current.push(item.clone());
            }
        }
        return Ok(());
    }
    let key = strategy.key;
    if patch.iter().any(|item| item[DIRECTIVE] == "replace") {
        current.clear();
    }
    for item in patch {
        let Value::Object(fields) = item else {
            return Err(format!("items of a list with merge key {key} must be objects"));
        };
        match item[DIRECTIVE].as_str() {
            Some("delete") => {
                let wanted =
                    fields.get(key).ok_or_else(|| format!("delete patch type with no merge key defined: {key}"))?;
                current.retain(|existing| existing.get(key) != Some(wanted));
                continue;
            }
            Some("replace") if fields.len() == 1 => continue,
            None | Some("replace" | "merge") => {}
            Some(other) => return Err(format!("unknown patch type: {other}")),
        }
        let wanted =
            fields.get(key).ok_or_else(|| format!("map: {item} does not contain declared merge key: {key}"))?;
        match current.iter_mut().find(|existing| existing.get(key) == Some(wanted)) {
            Some(Value::Object(existing)) => merge_map(existing, fields, definition)?,
            _ => {
                let mut value = item.clone();
                strip(&mut value);
                current.push(value);
            }
        }
    }
    Ok(())
}

/// The items in the order that the patch wants; those that only the server has keep their place among the others.
fn ordered(items: Vec<Value>, order: &[Value], before: &[Value], key: &str) -> Vec<Value> {
    let identity = |item: &Value| if key.is_empty() { item.clone() } else { item[key].clone() };
    let place = |list: &[Value], item: &Value| list.iter().position(|other| identity(other) == identity(item));
    let (mut wanted, mut others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(order, item).is_some());
    wanted.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(before, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(wanted.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in wanted {
        while let Some(other) = others.peek() {
            match (place(before, other), place(before, &item)) {
                (Some(left), Some(right)) if left < right => out.extend(others.next()),
                _ => break,
            }
        }
        out.push(item);
    }
    out.extend(others);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(kind: (&str, &str), target: Value, patch: Value) -> Result<Value, String> {
        let mut out = target;
        merge(kind.0, kind.1, &mut out, &patch).map(|()| out)
    }

    const POD: (&str, &str) = ("", "Pod");

    fn containers(list: Value) -> Value {
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn keyed_lists_are_merged_item_by_item() {
        let target =
            containers(json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]));
        let patch = containers(
            json!([{"name": "a", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}, {"name": "b", "$patch": "delete"}]),
        );
        assert_eq!(
            merged(POD, target, patch).unwrap(),
            containers(
                json!([{"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}, {"name": "c"}])
            )
        );
    }

    #[test]
    fn other_lists_are_replaced_and_nulls_delete() {
        let target = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"tolerations": [{"key": "x"}]}});
        let patch = json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": {"tolerations": [{"key": "y"}]}});
        assert_eq!(
            merged(POD, target, patch).unwrap(),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {"tolerations": [{"key": "y"}]}})
        );
    }

    #[test]
    fn whole_lists_and_maps_can_be_replaced() {
        let target = containers(json!([{"name": "a"}, {"name": "b"}]));
        let patch = containers(json!([{"$patch": "replace"}, {"name": "c"}]));
        assert_eq!(merged(POD, target, patch).unwrap(), containers(json!([{"name": "c"}])));
        let target = json!({"spec": {"securityContext": {"runAsUser": 1}}});
        let patch = json!({"spec": {"securityContext": {"$patch": "replace", "fsGroup": 2}}});
        assert_eq!(merged(POD, target, patch).unwrap(), json!({"spec": {"securityContext": {"fsGroup": 2}}}));
    }

    #[test]
    fn retain_keys_drops_the_rest() {
        let target = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            merged(("apps", "Deployment"), target.clone(), patch).unwrap(),
            json!({"spec": {"strategy": {"type": "Recreate"}}})
        );
        let bad = json!({"spec": {"strategy": {"$retainKeys": [], "type": "Recreate"}}});
        assert!(merged(("apps", "Deployment"), target, bad).unwrap_err().contains("must contain all fields"));
    }

    #[test]
    fn scalars_are_united_and_deleted() {
        let target = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"]}});
        assert_eq!(merged(POD, target, patch).unwrap(), json!({"metadata": {"finalizers": ["c", "a"]}}));
    }

    #[test]
    fn the_order_of_the_patch_wins_and_foreign_items_keep_their_place() {
        let target = containers(json!([{"name": "a"}, {"name": "x"}, {"name": "b"}]));
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "n"}], "containers": [{"name": "n"}]}});
        assert_eq!(
            merged(POD, target, patch).unwrap(),
            containers(json!([{"name": "x"}, {"name": "b"}, {"name": "a"}, {"name": "n"}]))
        );
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let error = merged(POD, containers(json!([{"name": "a"}])), containers(json!([{"image": "x"}]))).unwrap_err();
        assert_eq!(error, "map: {\"image\":\"x\"} does not contain declared merge key: name");
        assert!(merged(("example.org", "Widget"), json!({}), json!({})).is_err());
    }
}
