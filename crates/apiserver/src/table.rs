//! Printer columns: the `Table` form of objects.
use serde_json::{Value, json};

/// The columns of one kind.
#[derive(Debug)]
pub struct Columns {}

impl Columns {
    /// Columns of a built-in kind; Name and Age when it has none of its own.
    pub fn builtin(_group: &str, _kind: &str) -> Self {
        Self {}
    }
    /// Columns of a version of a CustomResourceDefinition (`spec.versions[i]`).
    pub fn from_crd(_version: &Value) -> Self {
        Self {}
    }
    /// The `columnDefinitions` array.
    pub fn definitions(&self) -> Value {
        json!([{"name":"Name","type":"string","format":"name","description":"","priority":0}])
    }
    /// The cells of one object's row.
    pub fn cells(&self, object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![object["metadata"]["name"].clone()]
    }
}
