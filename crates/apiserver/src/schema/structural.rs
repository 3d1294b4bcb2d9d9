//! What makes an `openAPIV3Schema` structural, and its rules sound.
//!
//! Spec: Kubernetes' "structural schema" (every value has a type; unions only restrict; no `$ref`), list and map
//! types, and CEL rules that parse and refer to fields that exist.

use super::cause::{Cause, child, index, key};
use super::node::{Node, Pattern, strings};
use super::{fields, rules};
use serde_json::Value;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Checks the schema at `path`; `status` says that the status subresource is on.
pub(crate) fn validate(path: &str, schema: &Value, status: bool, causes: &mut Vec<Cause>) {
    if !schema.is_object() {
        return;
    }
    if schema["nullable"] == true {
        causes.push(Cause::forbidden(child(path, "nullable"), "nullable cannot be true at the root"));
    }
    if status && schema["type"] != "object" && schema["type"].is_string() {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        causes.push(Cause::invalid(child(path, "type"), &schema["type"], detail));
    }
    let before = causes.len();
    visit(path, schema, Level::Root, causes);
    causes[before..].sort_by_key(ToString::to_string);
    let sound = causes.len() == before;
    keywords(path, schema, None, true, causes);
    if sound {
        defaults(path, schema, causes);
    }
}

/// Every value has a type.
fn visit(path: &str, schema: &Value, level: Level, causes: &mut Vec<Cause>) {
    let type_name = schema["type"].as_str().unwrap_or_default();
    let on = |keyword: &str| schema[keyword] == true;
    if type_name == "array" && schema["items"].is_null() {
        causes.push(Cause::required(child(path, "items"), "must be specified"));
    }
    if schema["items"].is_object() {
        visit(&child(path, "items"), &schema["items"], Level::Item, causes);
    }
    for (name, sub) in schema["properties"].as_object().into_iter().flatten() {
        visit(&key(&child(path, "properties"), name), sub, Level::Field, causes);
    }
    if !schema["additionalProperties"].is_null() {
        if level == Level::Root {
            causes.push(Cause::forbidden(child(path, "additionalProperties"), "must not be used at the root"));
        }
        if schema["additionalProperties"].is_object() {
            visit(&child(path, "additionalProperties"), &schema["additionalProperties"], Level::Field, causes);
        }
    }
    let at = child(path, "type");
    if on("x-kubernetes-embedded-resource") && type_name != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        causes.push(match type_name {
            "" => Cause::required(at, detail),
            other => Cause::invalid_text(at, other, detail),
        });
    } else if type_name.is_empty() && !on("x-kubernetes-int-or-string") && !on("x-kubernetes-preserve-unknown-fields") {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        causes.push(Cause::required(at, detail));
    } else if level == Level::Root && !type_name.is_empty() && type_name != "object" {
        causes.push(Cause::invalid_text(at, type_name, "must be object at the root"));
    }
    embedded(path, schema, level, causes);
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for (i, branch) in schema[keyword].as_array().into_iter().flatten().enumerate() {
            let skip = on("x-kubernetes-int-or-string");
            branch_is_pure(&index(&child(path, keyword), i), branch, skip, causes);
        }
    }
    if schema["not"].is_object() {
        branch_is_pure(&child(path, "not"), &schema["not"], false, causes);
    }
}

fn embedded(path: &str, schema: &Value, level: Level, causes: &mut Vec<Cause>) {
    let on = |keyword: &str| schema[keyword] == true;
    if on("x-kubernetes-embedded-resource") {
        if !schema["additionalProperties"].is_null() {
            let detail = "must not be used if x-kubernetes-embedded-resource is set";
            causes.push(Cause::forbidden(child(path, "additionalProperties"), detail));
        }
        if !on("x-kubernetes-preserve-unknown-fields")
            && schema["properties"].as_object().is_none_or(serde_json::Map::is_empty)
        {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            causes.push(Cause::required(child(path, "properties"), detail));
        }
    }
    if on("x-kubernetes-int-or-string") {
        for other in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if on(other) {
                causes.push(Cause::invalid(
                    child(path, other),
                    &Value::Bool(true),
                    "must be false if x-kubernetes-int-or-string is true",
                ));
            }
        }
        if let Some(type_name) = schema["type"].as_str() {
            causes.push(Cause::forbidden(
                child(path, "type"),
                format!("must be empty if x-kubernetes-int-or-string is true, but is {type_name}"),
            ));
        }
    }
    if level == Level::Root {
        for field in ["kind", "apiVersion"] {
            let sub = &schema["properties"][field];
            if sub.is_object() && sub["type"] != "string" {
                let at = child(&key(&child(path, "properties"), field), "type");
                causes.push(Cause::invalid_text(at, sub["type"].as_str().unwrap_or_default(), "must be string"));
            }
        }
        metadata(&key(&child(path, "properties"), "metadata"), &schema["properties"]["metadata"], causes);
    }
}

/// The schema of metadata is the server's; only name and generateName may be restricted.
fn metadata(path: &str, schema: &Value, causes: &mut Vec<Cause>) {
    let Some(map) = schema.as_object() else { return };
    if schema["type"] != "object" {
        causes.push(Cause::invalid_text(
            child(path, "type"),
            schema["type"].as_str().unwrap_or_default(),
            "must be object",
        ));
    }
    let foreign = |name: &String| !["name", "generateName"].contains(&name.as_str());
    let properties = schema["properties"].as_object().is_some_and(|p| p.keys().any(foreign));
    if properties || map.keys().any(|k| !["type", "properties", "description"].contains(&k.as_str())) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        causes.push(Cause::forbidden(path, detail));
    }
}

/// Branches of unions restrict values; they may not describe them.
fn branch_is_pure(path: &str, branch: &Value, int_or_string: bool, causes: &mut Vec<Cause>) {
    for keyword in ["type", "default", "nullable", "additionalProperties", "title", "description"] {
        let empty = branch[keyword].is_null() || branch[keyword] == "" || branch[keyword] == false;
        if !(empty || keyword == "type" && int_or_string) {
            causes.push(Cause::forbidden(child(path, keyword), "must be empty to be structural"));
        }
    }
    for keyword in
        ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"]
    {
        if branch[keyword] == true {
            causes.push(Cause::forbidden(child(path, keyword), "must be false to be structural"));
        }
    }
    for (name, sub) in branch["properties"].as_object().into_iter().flatten() {
        branch_is_pure(&key(&child(path, "properties"), name), sub, int_or_string, causes);
    }
    if branch["items"].is_object() {
        branch_is_pure(&child(path, "items"), &branch["items"], int_or_string, causes);
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for (i, sub) in branch[keyword].as_array().into_iter().flatten().enumerate() {
            branch_is_pure(&index(&child(path, keyword), i), sub, int_or_string, causes);
        }
    }
}

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Keywords with rules of their own; `uncorrelated` is the list or map inside which `oldSelf` has no meaning.
fn keywords(path: &str, schema: &Value, uncorrelated: Option<&str>, root: bool, causes: &mut Vec<Cause>) {
    let type_name = schema["type"].as_str().unwrap_or_default();
    if type_name == "null" {
        causes
            .push(Cause::forbidden(child(path, "type"), "type cannot be set to null, use nullable as an alternative"));
    } else if !type_name.is_empty() && !TYPES.contains(&type_name) {
        causes.push(Cause::not_supported(child(path, "type"), &schema["type"], &TYPES));
    }
    for keyword in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if !schema[keyword].is_null() {
            causes.push(Cause::forbidden(child(path, keyword), format!("{keyword} is not supported")));
        }
    }
    if let Some(text) = schema["pattern"].as_str()
        && let Err(why) = Pattern::compile(text).regex
    {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        causes.push(Cause::invalid_text(child(path, "pattern"), text, detail));
    }
    if schema["uniqueItems"] == true {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        causes.push(Cause::forbidden(child(path, "uniqueItems"), detail));
    }
    if schema["items"].is_array() {
        causes.push(Cause::forbidden(child(path, "items"), "items must be a schema object and not an array"));
    }
    let properties = schema["properties"].as_object();
    if properties.is_some_and(|p| !p.is_empty())
        && (schema["additionalProperties"].is_object() || schema["additionalProperties"] == false)
    {
        let detail = "additionalProperties and properties are mutual exclusive";
        causes.push(Cause::forbidden(child(path, "additionalProperties"), detail));
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        let at = child(path, "x-kubernetes-preserve-unknown-fields");
        causes.push(Cause::invalid(at, &Value::Bool(false), "must be true or undefined"));
    }
    collection_types(path, schema, type_name, causes);
    validations(path, schema, uncorrelated, causes);
    let list_type = schema["x-kubernetes-list-type"].as_str();
    for (name, sub) in properties.into_iter().flatten() {
        let at = key(&child(path, "properties"), name);
        if root && ["metadata", "kind", "apiVersion"].contains(&name.as_str()) && !sub["default"].is_null() {
            causes.push(Cause::forbidden(child(&at, "default"), format!("must not be set in top-level {name}")));
        }
        keywords(&at, sub, uncorrelated, false, causes);
    }
    if schema["additionalProperties"].is_object() {
        keywords(&child(path, "additionalProperties"), &schema["additionalProperties"], uncorrelated, false, causes);
    }
    if schema["items"].is_object() {
        let inside = if list_type == Some("map") { uncorrelated } else { uncorrelated.or(Some(path)) };
        keywords(&child(path, "items"), &schema["items"], inside, false, causes);
    }
}

fn collection_types(path: &str, schema: &Value, type_name: &str, causes: &mut Vec<Cause>) {
    for (keyword, wanted, values) in [
        ("x-kubernetes-map-type", "object", ["atomic", "granular"].as_slice()),
        ("x-kubernetes-list-type", "array", ["atomic", "set", "map"].as_slice()),
    ] {
        let Some(value) = schema[keyword].as_str() else { continue };
        if type_name != wanted {
            let detail = format!("must be {wanted} if {keyword} is specified");
            let at = child(path, "type");
            causes.push(if type_name.is_empty() {
                Cause::required(at, detail)
            } else {
                Cause::invalid_text(at, type_name, detail)
            });
        }
        if !values.contains(&value) {
            causes.push(Cause::not_supported(child(path, keyword), &schema[keyword], values));
        }
    }
    map_keys(path, schema, causes);
    let items = &schema["items"];
    let list_type = schema["x-kubernetes-list-type"].as_str();
    if matches!(list_type, Some("set" | "map")) && items["nullable"] == true {
        let detail = if list_type == Some("map") {
            "cannot be nullable when x-kubernetes-list-type is map"
        } else {
            "cannot be nullable when x-kubernetes-list-type is set"
        };
        causes.push(Cause::forbidden(child(path, "items.nullable"), detail));
    }
}

fn map_keys(path: &str, schema: &Value, causes: &mut Vec<Cause>) {
    let keys = strings(&schema["x-kubernetes-list-map-keys"]);
    let at = child(path, "x-kubernetes-list-map-keys");
    let is_map = schema["x-kubernetes-list-type"] == "map";
    if !is_map {
        if !keys.is_empty() {
            let at = child(path, "x-kubernetes-list-type");
            causes.push(match schema["x-kubernetes-list-type"].as_str() {
                None => Cause::required(at, "must be map if x-kubernetes-list-map-keys is non-empty"),
                Some(other) => Cause::invalid_text(at, other, "must be map if x-kubernetes-list-map-keys is non-empty"),
            });
        }
        return;
    }
    if keys.is_empty() {
        causes.push(Cause::required(at, "must not be empty if x-kubernetes-list-type is map"));
        return;
    }
    let items = &schema["items"];
    if items["type"] != "object" {
        causes.push(Cause::invalid(
            child(path, "items.type"),
            &items["type"],
            "must be object if parent array's x-kubernetes-list-type is map",
        ));
        return;
    }
    let required = strings(&items["required"]);
    for (i, name) in keys.iter().enumerate() {
        let property = &items["properties"][name.as_str()];
        let property_path = key(&child(path, "items.properties"), name);
        if !property.is_object() {
            causes.push(Cause::invalid(
                &at,
                &schema["x-kubernetes-list-map-keys"],
                "entries must all be names of item properties",
            ));
            continue;
        }
        if ["object", "array"].contains(&property["type"].as_str().unwrap_or_default()) {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            causes.push(Cause::invalid(child(&property_path, "type"), &property["type"], detail));
        }
        if keys[..i].contains(name) {
            causes.push(Cause::invalid(
                &at,
                &schema["x-kubernetes-list-map-keys"],
                "must not contain duplicate entries",
            ));
        }
        if !required.contains(name) && property["default"].is_null() {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            causes.push(Cause::required(child(&property_path, "default"), detail));
        }
    }
}

const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

fn validations(path: &str, schema: &Value, uncorrelated: Option<&str>, causes: &mut Vec<Cause>) {
    for (i, rule) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
        let at = index(&child(path, "x-kubernetes-validations"), i);
        let text = |key: &str| rule[key].as_str().unwrap_or_default();
        let expression = text("rule").trim();
        if expression.is_empty() {
            causes.push(Cause::required(child(&at, "rule"), "rule is not specified"));
            continue;
        }
        if !text("message").is_empty() && text("message").trim().is_empty() {
            causes.push(Cause::invalid_text(child(&at, "message"), text("message"), "must be non-empty if specified"));
        } else if text("message").trim().contains('\n') {
            causes.push(Cause::invalid_text(child(&at, "message"), text("message"), "must not contain line breaks"));
        } else if expression.contains('\n') && text("message").trim().is_empty() {
            causes
                .push(Cause::required(child(&at, "message"), "message must be specified if rule contains line breaks"));
        }
        if !rule["reason"].is_null() && !REASONS.contains(&text("reason")) {
            causes.push(Cause::not_supported(child(&at, "reason"), &rule["reason"], &REASONS));
        }
        if !text("fieldPath").is_empty() && !refers(schema, text("fieldPath")) {
            causes.push(Cause::invalid_text(child(&at, "fieldPath"), text("fieldPath"), "must be a valid path"));
        }
        expression_is_sound(&at, rule, schema, uncorrelated, causes);
    }
}

fn expression_is_sound(at: &str, rule: &Value, schema: &Value, uncorrelated: Option<&str>, causes: &mut Vec<Cause>) {
    let expression = rule["rule"].as_str().unwrap_or_default().trim();
    match rules::compile(expression) {
        Err(error) => causes.push(Cause::invalid(child(at, "rule"), rule, format!("compilation failed: {error}"))),
        Ok(program) => {
            if let Some(field) = fields::undefined(program.expression(), schema, rule["optionalOldSelf"] == true) {
                let detail = format!("compilation failed: ERROR: <input>: undefined field '{field}'");
                causes.push(Cause::invalid(child(at, "rule"), rule, detail));
            }
            let transition = program.references().has_variable("oldSelf");
            if let (true, Some(within)) = (transition, uncorrelated) {
                let detail =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}");
                causes.push(Cause::invalid_text(child(at, "rule"), expression, detail));
            }
            if !transition && !rule["optionalOldSelf"].is_null() {
                let detail = "may not be set if oldSelf is not used in rule";
                causes.push(Cause::invalid(child(at, "optionalOldSelf"), &rule["optionalOldSelf"], detail));
            }
        }
    }
    if let Some(text) = rule["messageExpression"].as_str().filter(|t| !t.trim().is_empty())
        && let Err(error) = rules::compile(text.trim())
    {
        let detail = format!("messageExpression compilation failed: {error}");
        causes.push(Cause::invalid(child(at, "messageExpression"), rule, detail));
    }
}

/// Whether a simple path names a field of the schema.
fn refers(schema: &Value, path: &str) -> bool {
    let mut node = schema;
    for (name, _) in super::paths::segments(path) {
        let additional = &node["additionalProperties"];
        node = match node["properties"].get(&name) {
            Some(sub) => sub,
            None if additional.is_object() => additional,
            None => return false,
        };
    }
    path.starts_with(['.', '['])
}

/// A default must be valid itself.
fn defaults(path: &str, schema: &Value, causes: &mut Vec<Cause>) {
    if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
        let node = Node::compile(schema);
        let mut filled = default.clone();
        super::default::apply(&mut filled, &node);
        causes.extend(super::check::value(&child(path, "default"), &filled, None, &node));
        let mut pruned = serde_json::json!({"value": filled});
        let unknown = super::prune::object(
            &mut pruned,
            &Node::compile(&serde_json::json!({"type": "object", "properties": {"value": schema}})),
        );
        if !unknown.is_empty() {
            causes.push(Cause::invalid(child(path, "default"), default, "must not have unknown fields"));
        }
    }
    for (name, sub) in schema["properties"].as_object().into_iter().flatten() {
        defaults(&key(&child(path, "properties"), name), sub, causes);
    }
    for keyword in ["items", "additionalProperties"] {
        if schema[keyword].is_object() {
            defaults(&child(path, keyword), &schema[keyword], causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(field: Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"f": field}});
        let mut causes = Vec::new();
        validate("s", &schema, false, &mut causes);
        causes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_of_a_field() {
        let rows = [
            (
                json!({"type": "text"}),
                "s.properties[f].type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ),
            (json!({"type": "string", "$ref": "#/x"}), "s.properties[f].$ref: Forbidden: $ref is not supported"),
            (
                json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map"}),
                "s.properties[f].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ),
            (
                json!({"type": "integer", "anyOf": [{"type": "integer"}]}),
                "s.properties[f].anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                json!({"type": "integer", "default": "x"}),
                "s.properties[f].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}),
                "s.properties[f].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[f]",
            ),
            (
                json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.size() > 0", "reason": "Why"}]}),
                "s.properties[f].x-kubernetes-validations[0].reason: Unsupported value: \"Why\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
            ),
        ];
        for (field, text) in rows {
            assert_eq!(texts(field.clone()), [text], "{field}");
        }
        let broken = texts(json!({"type": "string", "x-kubernetes-validations": [{"rule": "self >="}]}));
        assert!(broken[0].contains("rule: Invalid value: {\"rule\":\"self >=\"}: compilation failed:"), "{broken:?}");
    }

    #[test]
    fn good_schemas_pass() {
        for field in [
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                "items": {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}}}),
            json!({"type": "object", "default": {"a": 1}, "properties": {"a": {"type": "integer", "minimum": 0}}}),
        ] {
            assert_eq!(texts(field.clone()), [""; 0], "{field}");
        }
    }
}
