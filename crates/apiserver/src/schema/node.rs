//! A structural schema, compiled: the tree that pruning, defaulting and validation walk.
//!
//! Regular expressions and CEL programs are compiled once here. A schema is trusted to be structural: the
//! definition was checked by [`super::crd`] before it is compiled.

use super::rules::Rule;
use regex::Regex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What `additionalProperties` says about keys that are not in `properties`.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    /// Not given: anything, but pruned.
    #[default]
    Unset,
    /// `true` or `false`.
    Any(bool),
    /// A schema for every value: a map.
    Schema(Box<Node>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// Bounds and patterns of a node; absent ones are `None`.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<u64>,
    pub min_length: Option<u64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<u64>,
    pub min_items: Option<u64>,
    pub unique_items: bool,
    pub max_properties: Option<u64>,
    pub min_properties: Option<u64>,
    pub required: Vec<String>,
    pub choices: Vec<Value>,
}

/// `pattern` with its text, which the error repeats.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub text: String,
    pub regex: Result<Regex, String>,
}

/// One node of a structural schema.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// JSON types allowed: none (anything), one, or integer and string for int-or-string.
    pub types: Vec<&'static str>,
    pub nullable: bool,
    pub format: Option<String>,
    pub properties: BTreeMap<String, Node>,
    pub additional: Additional,
    pub items: Option<Box<Node>>,
    pub default: Option<Value>,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub list_type: ListType,
    pub map_keys: Vec<String>,
    pub bounds: Bounds,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Box<Node>>,
    pub rules: Vec<Rule>,
    /// Whether this node or one below has rules: most subtrees do not and are skipped.
    pub rules_below: bool,
}

impl Node {
    /// Compiles a `JSONSchemaProps` object.
    pub fn compile(schema: &Value) -> Self {
        let flag = |key: &str| schema[key].as_bool().unwrap_or(false);
        let list = |key: &str| schema[key].as_array().into_iter().flatten().map(Self::compile).collect();
        let int_or_string = flag("x-kubernetes-int-or-string");
        let types = match schema["type"].as_str().and_then(known_type) {
            _ if int_or_string => vec!["integer", "string"],
            Some(one) => vec![one],
            None => Vec::new(),
        };
        let format = schema["format"].as_str().filter(|f| super::format::applies(types.as_slice(), f));
        let mut node = Self {
            nullable: flag("nullable"),
            format: format.map(str::to_owned),
            properties: properties(schema["properties"].as_object()),
            additional: additional(&schema["additionalProperties"]),
            items: schema["items"].is_object().then(|| Box::new(Self::compile(&schema["items"]))),
            default: schema.get("default").filter(|d| !d.is_null()).cloned(),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            list_type: match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map,
                _ => ListType::Atomic,
            },
            map_keys: strings(&schema["x-kubernetes-list-map-keys"]),
            bounds: Bounds::compile(schema),
            all_of: list("allOf"),
            any_of: list("anyOf"),
            one_of: list("oneOf"),
            not: schema["not"].is_object().then(|| Box::new(Self::compile(&schema["not"]))),
            rules: schema["x-kubernetes-validations"].as_array().into_iter().flatten().map(Rule::compile).collect(),
            types,
            rules_below: false,
        };
        let additional = if let Additional::Schema(node) = &node.additional { Some(node.as_ref()) } else { None };
        let below = node.properties.values().chain(node.items.as_deref()).chain(additional).chain(&node.all_of);
        node.rules_below = !node.rules.is_empty() || below.into_iter().any(|n| n.rules_below);
        node
    }

    /// The schema of values under `key`, from `properties` or `additionalProperties`.
    pub fn at(&self, key: &str) -> Option<&Node> {
        match (self.properties.get(key), &self.additional) {
            (Some(node), _) => Some(node),
            (None, Additional::Schema(node)) => Some(node),
            _ => None,
        }
    }

    /// Whether unknown keys are values of a map rather than unknown fields.
    pub fn is_map(&self) -> bool {
        matches!(self.additional, Additional::Schema(_) | Additional::Any(true))
    }

    /// Whether an error names the value or, as for objects and arrays, leaves it out.
    pub fn is_compound(&self) -> bool {
        matches!(self.types.as_slice(), ["object"] | ["array"])
    }

    /// The type as a CEL error names it.
    pub fn type_name(&self) -> &'static str {
        match self.types.as_slice() {
            [one] => one,
            _ => "",
        }
    }
}

impl Bounds {
    fn compile(schema: &Value) -> Self {
        let size = |key: &str| schema[key].as_u64();
        let flag = |key: &str| schema[key].as_bool().unwrap_or(false);
        Self {
            maximum: schema["maximum"].as_f64(),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: schema["minimum"].as_f64(),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: schema["multipleOf"].as_f64(),
            max_length: size("maxLength"),
            min_length: size("minLength"),
            pattern: schema["pattern"].as_str().filter(|p| !p.is_empty()).map(Pattern::compile),
            max_items: size("maxItems"),
            min_items: size("minItems"),
            unique_items: flag("uniqueItems"),
            max_properties: size("maxProperties"),
            min_properties: size("minProperties"),
            required: strings(&schema["required"]),
            choices: schema["enum"].as_array().cloned().unwrap_or_default(),
        }
    }
}

impl Pattern {
    pub(crate) fn compile(text: &str) -> Self {
        Self { text: text.to_owned(), regex: Regex::new(text).map_err(|e| e.to_string()) }
    }
}

fn properties(map: Option<&Map<String, Value>>) -> BTreeMap<String, Node> {
    map.into_iter().flatten().map(|(name, schema)| (name.clone(), Node::compile(schema))).collect()
}

fn additional(value: &Value) -> Additional {
    match value {
        Value::Bool(any) => Additional::Any(*any),
        Value::Object(_) => Additional::Schema(Box::new(Node::compile(value))),
        _ => Additional::Unset,
    }
}

fn known_type(name: &str) -> Option<&'static str> {
    ["object", "array", "string", "integer", "number", "boolean"].into_iter().find(|t| *t == name)
}

pub(crate) fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
