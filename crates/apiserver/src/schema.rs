//! Schemas: what an object of a kind may look like, and what the server makes of one.
//!
//! Expected flow for a write: [`Schema::check_types`] and [`Schema::prune`] when the body is decoded,
//! [`Schema::default`], then (after mutating admission: prune and default again) [`Schema::validate`] or
//! [`Schema::validate_status`]. Everything here is pure: no clock, no I/O, no look at other objects.
//!
//! Custom resources follow their CustomResourceDefinition (structural schema, CEL rules); built-in kinds follow the
//! published OpenAPI types plus the defaults and checks of [`crate::builtin`].

use crate::builtin::Builtin;
use node::Node;
use serde_json::Value;
use std::sync::Arc;

pub(crate) mod cause;
mod check;
pub(crate) mod crd;
mod default;
pub(crate) mod duplicates;
mod fields;
pub(crate) mod format;
mod lists;
pub(crate) mod meta;
pub(crate) mod names;
pub(crate) mod node;
pub(crate) mod paths;
mod prune;
pub(crate) mod rules;
mod structural;

pub use cause::Cause;

/// The schemas of all versions of one CustomResourceDefinition.
#[derive(Debug)]
pub struct CompiledCrd {
    versions: Vec<(String, Arc<Schema>)>,
}

impl CompiledCrd {
    /// Compiles the definition; the causes say why the definition itself is invalid.
    pub fn compile(crd: &Value) -> Result<Self, Vec<Cause>> {
        let causes = crd::validate(crd, None);
        if !causes.is_empty() {
            return Err(causes);
        }
        let spec = &crd["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let compile = |version: &Value| {
            let name = text(&version["name"]);
            let custom = Custom {
                api_version: format!("{}/{name}", text(&spec["group"])),
                kind: text(&spec["names"]["kind"]),
                namespaced: spec["scope"] == "Namespaced",
                node: root(&version["schema"]["openAPIV3Schema"], spec["preserveUnknownFields"] == true),
            };
            (name, Arc::new(Schema { kind: Kind::Custom(Box::new(custom)) }))
        };
        Ok(Self { versions: spec["versions"].as_array().into_iter().flatten().map(compile).collect() })
    }

    /// The schema of one version.
    pub fn version(&self, name: &str) -> Option<&Arc<Schema>> {
        self.versions.iter().find(|(n, _)| n == name).map(|(_, s)| s)
    }
}

/// The root node; `apiVersion`, `kind` and `metadata` belong to the server whatever the definition says of them.
fn root(schema: &Value, preserve: bool) -> Node {
    let mut node = Node::compile(schema);
    node.preserve_unknown |= preserve;
    for field in ["apiVersion", "kind", "metadata"] {
        if let Some(known) = node.properties.get_mut(field) {
            known.default = None;
        }
    }
    node
}

/// The schema of one version of one kind.
#[derive(Debug)]
pub struct Schema {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Custom(Box<Custom>),
    Builtin(Builtin),
}

#[derive(Debug)]
struct Custom {
    api_version: String,
    kind: String,
    namespaced: bool,
    node: Node,
}

impl Schema {
    /// Whether typed parts (all of a built-in kind, the metadata of a custom resource) have the JSON types that
    /// decoding needs; the error is the text after `strict decoding`-like prefixes, e.g.
    /// `json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32`.
    pub fn check_types(&self, object: &Value) -> Result<(), String> {
        match &self.kind {
            Kind::Builtin(builtin) => builtin.check_types(object),
            Kind::Custom(_) => crate::builtin::types::check_metadata(&object["metadata"]),
        }
    }

    /// Removes unknown fields and returns their paths, sorted. Each is one strict error:
    /// `unknown field "PATH"`.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        match &self.kind {
            Kind::Builtin(builtin) => builtin.prune(object),
            Kind::Custom(custom) => {
                let mut unknown = crate::builtin::types::prune_metadata(&mut object["metadata"]);
                unknown.extend(prune::object(object, &custom.node));
                unknown.sort();
                unknown
            }
        }
    }

    /// Fills in defaults, and drops nulls where null is not allowed.
    pub fn default(&self, object: &mut Value) {
        match &self.kind {
            Kind::Builtin(builtin) => builtin.default(object),
            Kind::Custom(custom) => default::apply(object, &custom.node),
        }
    }

    /// Checks a new object (`old` is none) or an update: metadata, structure, list types, rules. Names are already
    /// generated, the resourceVersion of an unconditional update is already filled in.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        match &self.kind {
            Kind::Builtin(builtin) => builtin.validate(new, old),
            Kind::Custom(custom) => custom.validate(new, old),
        }
    }

    /// Checks a write to the status subresource.
    pub fn validate_status(&self, new: &Value, old: &Value) -> Vec<Cause> {
        match &self.kind {
            Kind::Builtin(builtin) => builtin.validate_status(new, old),
            Kind::Custom(custom) => custom.validate_status(new, old),
        }
    }

    /// Whether an update may leave out the resourceVersion; the others answer 422.
    pub fn unconditional_update(&self) -> bool {
        match &self.kind {
            Kind::Builtin(builtin) => builtin.unconditional_update(),
            Kind::Custom(_) => false,
        }
    }

    /// Warnings for the client that are no errors (`Warning: 299` headers).
    pub fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        match &self.kind {
            Kind::Builtin(_) => Vec::new(),
            Kind::Custom(_) => finalizer_warnings(new, old),
        }
    }
}

/// The schema of a built-in kind.
pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Arc<Schema>> {
    Builtin::find(group, version, kind).map(|builtin| Arc::new(Schema { kind: Kind::Builtin(builtin) }))
}

impl Custom {
    fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = self.type_meta(new);
        if !causes.is_empty() {
            return causes;
        }
        match old {
            None => meta::on_create(&new["metadata"], self.namespaced, meta::NameForm::Subdomain, &mut causes),
            Some(old) => meta::on_update(&new["metadata"], &old["metadata"], true, &mut causes),
        }
        causes.extend(check::value("", new, old, &self.node));
        embedded("", new, &self.node, &mut causes);
        let mut already = Vec::new();
        if let Some(old) = old {
            lists::duplicates("", old, &self.node, &mut already);
        }
        if already.is_empty() {
            lists::duplicates("", new, &self.node, &mut causes);
        }
        self.rules(new, old, causes)
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = self.type_meta(new);
        if !causes.is_empty() {
            return causes;
        }
        meta::on_update(&new["metadata"], &old["metadata"], true, &mut causes);
        if let (Some(status), Some(node)) = (new.get("status"), self.node.properties.get("status")) {
            causes.extend(check::value("status", status, old.get("status"), node));
            let mut already = Vec::new();
            lists::duplicates("status", &old["status"], node, &mut already);
            if already.is_empty() {
                lists::duplicates("status", status, node, &mut causes);
            }
        }
        self.rules(new, Some(old), causes)
    }

    /// CEL rules run only on objects whose structure they can rely on.
    fn rules(&self, new: &Value, old: Option<&Value>, mut causes: Vec<Cause>) -> Vec<Cause> {
        if !self.node.rules_below {
            return causes;
        }
        if causes.iter().any(cause::blocks_rules) {
            let text = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            causes.push(Cause::invalid("", &Value::Null, text));
        } else {
            rules::evaluate("", new, old, &self.node, &mut causes);
        }
        causes
    }

    fn type_meta(&self, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (field, wanted) in [("kind", &self.kind), ("apiVersion", &self.api_version)] {
            let seen = object[field].as_str().unwrap_or_default();
            if seen != wanted {
                causes.push(Cause::invalid_text(field, seen, format!("must be {wanted}")));
            }
        }
        causes
    }
}

/// Embedded resources must say what they are.
fn embedded(path: &str, value: &Value, node: &Node, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for field in ["apiVersion", "kind"].into_iter().filter(|_| node.embedded) {
                let at = cause::child(path, field);
                match map.get(field) {
                    None => causes.push(Cause::required(at, "")),
                    Some(Value::String(text)) if text.is_empty() => {
                        causes.push(Cause::invalid_text(at, "", "must not be empty"))
                    }
                    Some(Value::String(_)) => {}
                    Some(other) => causes.push(Cause::invalid(at, other, "must be a string")),
                }
            }
            for (name, value) in map {
                if let Some(known) = node.at(name) {
                    embedded(&cause::child(path, name), value, known, causes);
                }
            }
        }
        Value::Array(items) => {
            let Some(item_node) = node.items.as_deref() else { return };
            for (i, item) in items.iter().enumerate() {
                embedded(&cause::index(path, i), item, item_node, causes);
            }
        }
        _ => {}
    }
}

/// A new finalizer without a path in its name may collide with somebody else's.
fn finalizer_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let list = |object: &Value| node::strings(&object["metadata"]["finalizers"]);
    let before = old.map(list).unwrap_or_default();
    let mut added: Vec<_> = list(new).into_iter().filter(|f| !before.contains(f)).collect();
    added.sort();
    added.dedup();
    let warn = |name: &String| {
        let standard = ["orphan", "foregroundDeletion", "kubernetes"].contains(&name.as_str());
        if name.contains('/') || standard {
            return None;
        }
        let hint = if name.contains('.') {
            "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
        } else {
            "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
        };
        Some(format!("metadata.finalizers: {}: {hint}", cause::go_quote(name)))
    };
    added.iter().filter_map(warn).collect()
}
