//! The published types of the built-in kinds, taken from k8s-openapi's schemas, and decoding by them.
//!
//! A built-in object is decoded as kube-apiserver decodes into its Go structs: a value of the wrong JSON type is an
//! error that names the struct and the field, unknown fields are dropped and reported, nulls count as absent.

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, batch::v1 as batch, coordination::v1 as coordination,
    core::v1 as core, discovery::v1 as discovery, events::v1 as events,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// JSON schemas of all types, by definition name, `$ref`s pointing to `#/components/schemas/`.
pub(crate) static SCHEMAS: LazyLock<Map<String, Value>> = LazyLock::new(generate);

/// The same types, compiled for decoding.
static TYPES: LazyLock<BTreeMap<String, Struct>> =
    LazyLock::new(|| SCHEMAS.iter().map(|(name, schema)| (name.clone(), Struct::compile(name, schema))).collect());

pub(crate) const REF_PREFIX: &str = "#/components/schemas/";
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn generate() -> Map<String, Value> {
    let mut generator = SchemaSettings::openapi3().with(|s| s.transforms.clear()).into_generator();
    macro_rules! add {
        ($($kind:ty),* $(,)?) => { $(add_type::<$kind>(&mut generator);)* };
    }
    add!(
        core::Namespace,
        core::Node,
        core::Pod,
        core::Service,
        core::Endpoints,
        core::ConfigMap,
        core::Secret,
        core::ServiceAccount,
        core::Event,
        apps::DaemonSet,
        apps::Deployment,
        apps::ReplicaSet,
        apps::StatefulSet,
        batch::Job,
        coordination::Lease,
        discovery::EndpointSlice,
        events::Event,
        admission::MutatingWebhookConfiguration,
        admission::ValidatingWebhookConfiguration,
        extensions::CustomResourceDefinition,
        meta::ListMeta,
        meta::ObjectMeta,
        meta::DeleteOptions,
        meta::Status,
        meta::Patch,
    );
    generator.take_definitions(true)
}

fn add_type<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

/// What Go decodes a value into.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    Struct(String),
    Map(Box<Type>),
    List(Box<Type>),
    Text,
    Time,
    Bytes,
    Int32,
    Int64,
    Float,
    Bool,
    IntOrText,
    Quantity,
    Any,
}

#[derive(Debug)]
struct Field {
    type_: Type,
    required: bool,
}

#[derive(Debug)]
struct Struct {
    /// Go's name: the last part of the definition's.
    name: String,
    fields: BTreeMap<String, Field>,
    /// Anything goes: raw JSON.
    open: bool,
}

impl Struct {
    fn compile(name: &str, schema: &Value) -> Self {
        let required = crate::schema::node::strings(&schema["required"]);
        let properties = schema["properties"].as_object();
        let field = |(name, schema): (&String, &Value)| {
            (name.clone(), Field { type_: Type::of(schema), required: required.contains(name) })
        };
        Self {
            name: short_name(name).to_owned(),
            open: properties.is_none(),
            fields: properties.into_iter().flatten().map(field).collect(),
        }
    }
}

pub(crate) fn short_name(definition: &str) -> &str {
    definition.rsplit('.').next().unwrap_or(definition)
}

impl Type {
    fn of(schema: &Value) -> Self {
        if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix(REF_PREFIX)) {
            return match short_name(name) {
                "Time" | "MicroTime" => Self::Time,
                "Quantity" => Self::Quantity,
                "IntOrString" => Self::IntOrText,
                "ByteString" => Self::Bytes,
                _ => Self::Struct(name.to_owned()),
            };
        }
        match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("string"), Some("byte")) => Self::Bytes,
            (Some("string"), Some("date-time")) => Self::Time,
            (Some("string"), _) => Self::Text,
            (Some("integer"), Some("int32")) => Self::Int32,
            (Some("integer"), _) => Self::Int64,
            (Some("number"), _) => Self::Float,
            (Some("boolean"), _) => Self::Bool,
            (Some("array"), _) => Self::List(Box::new(Self::of(&schema["items"]))),
            (Some("object"), _) if schema["additionalProperties"].is_object() => {
                Self::Map(Box::new(Self::of(&schema["additionalProperties"])))
            }
            _ => Self::Any,
        }
    }

    /// Go's name of the type.
    fn go(&self) -> String {
        match self {
            Self::Struct(name) => format!("v1.{}", short_name(name)),
            Self::Map(value) => format!("map[string]{}", value.go()),
            Self::List(item) => format!("[]{}", item.go()),
            Self::Text => "string".into(),
            Self::Time => "v1.Time".into(),
            Self::Bytes => "[]uint8".into(),
            Self::Int32 | Self::IntOrText => "int32".into(),
            Self::Int64 => "int64".into(),
            Self::Float => "float64".into(),
            Self::Bool => "bool".into(),
            Self::Quantity => "resource.Quantity".into(),
            Self::Any => "interface {}".into(),
        }
    }
}

/// Where a value is, for the error text.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The struct that has the field.
    owner: &'a str,
    /// The path of the field, without indexes.
    path: &'a str,
}

/// Whether `object` decodes into the definition.
pub(crate) fn check(definition: &str, object: &Value) -> Result<(), String> {
    decodes(&Type::Struct(definition.to_owned()), object, Place { owner: "", path: "" })
}

/// Whether the metadata of a custom resource decodes.
pub(crate) fn check_metadata(metadata: &Value) -> Result<(), String> {
    decodes(&Type::Struct(OBJECT_META.to_owned()), metadata, Place { owner: "", path: "" })
}

fn decodes(type_: &Type, value: &Value, at: Place<'_>) -> Result<(), String> {
    let fits = match (type_, value) {
        (_, Value::Null) | (Type::Any, _) => true,
        (Type::Struct(name), _) => return decodes_struct(name, type_, value, at),
        (Type::Map(inner), Value::Object(map)) => return map.values().try_for_each(|value| decodes(inner, value, at)),
        (Type::List(inner), Value::Array(items)) => {
            return items.iter().try_for_each(|value| decodes(inner, value, at));
        }
        (Type::Text, value) => value.is_string(),
        (Type::Int32, Value::Number(n)) => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        (Type::Int64, Value::Number(n)) => n.as_i64().is_some(),
        (Type::Float, Value::Number(_)) | (Type::Bool, Value::Bool(_)) => true,
        (Type::IntOrText, Value::Number(n)) => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        (Type::IntOrText | Type::Quantity, Value::String(text)) => {
            return if *type_ == Type::Quantity { quantity(text) } else { Ok(()) };
        }
        (Type::Quantity, Value::Number(_)) => true,
        (Type::Time, Value::String(text)) => return time(text),
        (Type::Bytes, Value::String(text)) => return bytes(text),
        _ => false,
    };
    if fits { Ok(()) } else { Err(mismatch(value, at, &type_.go())) }
}

fn decodes_struct(name: &str, type_: &Type, value: &Value, at: Place<'_>) -> Result<(), String> {
    let Some(known) = TYPES.get(name) else { return Ok(()) };
    if known.open {
        return Ok(());
    }
    let Value::Object(map) = value else { return Err(mismatch(value, at, &type_.go())) };
    map.iter().try_for_each(|(key, value)| {
        let Some(field) = known.fields.get(key) else { return Ok(()) };
        let path = crate::schema::cause::child(at.path, key);
        decodes(&field.type_, value, Place { owner: &known.name, path: &path })
    })
}

fn mismatch(value: &Value, at: Place<'_>, wanted: &str) -> String {
    let seen = match value {
        Value::Bool(_) => "bool".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
        Value::Number(n) if wanted.starts_with("int") => format!("number {n}"),
        _ => "number".to_owned(),
    };
    if at.owner.is_empty() {
        return format!("json: cannot unmarshal {seen} into Go value of type {wanted}");
    }
    format!("json: cannot unmarshal {seen} into Go struct field {}.{} of type {wanted}", at.owner, at.path)
}

fn time(text: &str) -> Result<(), String> {
    if text.is_empty() || crate::schema::format::is_datetime(text) {
        return Ok(());
    }
    Err(format!("parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" as \"2006\""))
}

fn bytes(text: &str) -> Result<(), String> {
    use base64::Engine;
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded.map(|_| ()).map_err(|error| match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            format!("illegal base64 data at input byte {at}")
        }
        _ => format!("illegal base64 data at input byte {}", text.len() / 4 * 4),
    })
}

fn quantity(text: &str) -> Result<(), String> {
    let number = text.trim_start_matches(['+', '-']);
    let digits = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
    let (number, suffix) = number.split_at(digits);
    let good_number = !number.is_empty() && number != "." && number.matches('.').count() <= 1;
    let exponent = suffix
        .strip_prefix(['e', 'E'])
        .is_some_and(|e| !e.is_empty() && e.trim_start_matches(['+', '-']).bytes().all(|b| b.is_ascii_digit()));
    let known = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].contains(&suffix);
    if good_number && (known || exponent) {
        return Ok(());
    }
    Err("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_owned())
}

/// Drops unknown fields, nulls, and empty lists and maps that the wire form leaves out; returns unknown paths.
pub(crate) fn prune(definition: &str, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_struct(definition, object, "", &mut unknown);
    unknown.sort();
    unknown
}

/// The same for the metadata of a custom resource.
pub(crate) fn prune_metadata(metadata: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if metadata.is_object() {
        prune_struct(OBJECT_META, metadata, "metadata", &mut unknown);
    }
    unknown
}

fn prune_struct(definition: &str, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    let Some(known) = TYPES.get(definition).filter(|s| !s.open) else { return };
    let Value::Object(map) = value else { return };
    map.retain(|key, value| {
        let at = crate::schema::cause::child(path, key);
        let Some(field) = known.fields.get(key) else {
            unknown.push(at);
            return false;
        };
        prune_value(&field.type_, value, &at, unknown);
        field.required || !is_empty(&field.type_, value)
    });
}

fn prune_value(type_: &Type, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match (type_, value) {
        (Type::Struct(name), value) => prune_struct(name, value, path, unknown),
        (Type::Map(inner), Value::Object(map)) => {
            for (key, value) in map.iter_mut() {
                prune_value(inner, value, &crate::schema::cause::child(path, key), unknown);
            }
        }
        (Type::List(inner), Value::Array(items)) => {
            for (i, item) in items.iter_mut().enumerate() {
                prune_value(inner, item, &crate::schema::cause::index(path, i), unknown);
            }
        }
        _ => {}
    }
}

/// What `omitempty` leaves out and cannot be told apart from absence.
fn is_empty(type_: &Type, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && matches!(type_, Type::Map(_)),
        _ => false,
    }
}

/// The type of a field of a definition, for merge patches and documents.
pub(crate) fn field_type(definition: &str, field: &str) -> Option<&'static Type> {
    TYPES.get(definition)?.fields.get(field).map(|f| &f.type_)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SERVICE: &str = "io.k8s.api.core.v1.Service";

    #[test]
    fn a_wrong_type_is_named_with_struct_and_path() {
        let port = |port: Value| json!({"spec": {"ports": [{"port": port}]}});
        assert_eq!(check(SERVICE, &port(json!(80))), Ok(()));
        assert_eq!(
            check(SERVICE, &port(json!("80"))).unwrap_err(),
            "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32"
        );
        assert_eq!(
            check(SERVICE, &port(json!(1.5))).unwrap_err(),
            "json: cannot unmarshal number 1.5 into Go struct field ServicePort.spec.ports.port of type int32"
        );
        assert_eq!(
            check(SERVICE, &json!({"metadata": {"labels": {"a": 1}}})).unwrap_err(),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"
        );
        assert_eq!(
            check(SERVICE, &json!({"spec": []})).unwrap_err(),
            "json: cannot unmarshal array into Go struct field Service.spec of type v1.ServiceSpec"
        );
    }

    #[test]
    fn unknown_fields_and_empties_are_dropped() {
        let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": {}, "bogus": 1},
            "spec": {"ports": [{"port": 80, "color": "red", "name": null, "targetPort": "http"}], "selector": {}}, "status": {"loadBalancer": {}}});
        assert_eq!(prune(SERVICE, &mut object), ["metadata.bogus", "spec.ports[0].color"]);
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
                "spec": {"ports": [{"port": 80, "targetPort": "http"}]}, "status": {"loadBalancer": {}}})
        );
    }

    #[test]
    fn every_reference_resolves() {
        fn refs(value: &Value, out: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    out.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|v| refs(v, out));
                }
                Value::Array(items) => items.iter().for_each(|v| refs(v, out)),
                _ => {}
            }
        }
        let mut out = Vec::new();
        SCHEMAS.values().for_each(|schema| refs(schema, &mut out));
        assert!(out.len() > 300, "{}", out.len());
        for name in out {
            assert!(SCHEMAS.contains_key(name.strip_prefix(REF_PREFIX).expect("component")), "{name}");
        }
    }

    #[test]
    fn quantities_follow_their_grammar() {
        for good in ["1", "100m", "1.5Gi", "1e3", "-2", "0"] {
            assert_eq!(quantity(good), Ok(()), "{good}");
        }
        for bad in ["", "x", "1.5.1", "1Q", "1e"] {
            assert!(quantity(bad).is_err(), "{bad}");
        }
    }
}
