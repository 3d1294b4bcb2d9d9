//! Checks of the built-in kinds, with kube-apiserver's texts, for the fields that users and the product touch.
//!
//! What is not checked here is accepted, as a server with fewer admission plugins would.

use crate::schema::cause::{Cause, child, index};
use crate::schema::{meta, names};
use serde_json::Value;

mod cluster;
mod pods;
mod selectors;
mod workloads;

/// Checks a new object (`old` is none) or an update.
pub(super) fn object(group: &str, kind: &str, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    match (group, kind) {
        ("", "Pod") => pods::pod(new, old, causes),
        ("apps" | "batch", _) => workloads::workload(kind, new, old, causes),
        ("apiextensions.k8s.io", _) => {
            crate::schema::crd::name(new, causes);
            crate::schema::crd::approval(new, old, causes);
            causes.extend(crate::schema::crd::validate(new, old));
        }
        _ => cluster::object(group, kind, new, old, causes),
    }
}

/// Text of a field; empty when it is absent.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter().enumerate()
}

/// A field that must have one of the values.
fn choice(path: String, value: &Value, supported: &[&str], causes: &mut Vec<Cause>) {
    match value.as_str().unwrap_or_default() {
        "" => causes.push(Cause::required(path, "")),
        text if supported.contains(&text) => {}
        _ => causes.push(Cause::not_supported(path, value, supported)),
    }
}

/// A number that may be absent but not negative.
fn not_negative(path: String, value: &Value, causes: &mut Vec<Cause>) {
    if value.as_i64().is_some_and(|n| n < 0) {
        causes.push(Cause::invalid(path, value, "must be greater than or equal to 0"));
    }
}

/// A port number between 1 and 65535.
fn port_number(path: String, value: &Value, causes: &mut Vec<Cause>) {
    if !value.as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
        let shown = if value.is_null() { &Value::from(0) } else { value };
        causes.push(Cause::invalid(path, shown, "must be between 1 and 65535, inclusive"));
    }
}

/// A field that an update may not change.
fn immutable(path: &str, new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if new != old {
        causes.push(Cause::invalid(path, new, "field is immutable"));
    }
}
