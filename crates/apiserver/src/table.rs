//! Printer columns: the `Table` form of objects that `kubectl get` shows.
//!
//! Custom resources have the columns of their definition (`additionalPrinterColumns`), built-in kinds those of
//! kube-apiserver's printers, always with the wide ones (kubectl hides what has a priority). Cells are what the
//! server computes; ages are relative to `now`.

use serde_json::{Value, json};

mod builtin;
mod duration;
mod jsonpath;
mod workloads;

use jsonpath::JsonPath;

/// The columns of one kind.
#[derive(Debug)]
pub struct Columns {
    definitions: Value,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Builtin(builtin::Printer),
    Custom(Vec<Column>),
}

#[derive(Debug)]
struct Column {
    type_: String,
    path: Option<JsonPath>,
}

/// One column of a built-in kind: name, type, format, description, priority.
pub(crate) struct Definition {
    pub name: &'static str,
    pub type_: &'static str,
    pub format: &'static str,
    pub description: String,
    pub priority: u8,
}

impl Definition {
    fn to_json(&self) -> Value {
        json!({"name": self.name, "type": self.type_, "format": self.format, "description": self.description, "priority": self.priority})
    }
}

const META: &str = crate::builtin::types::OBJECT_META;

/// The description of a field of a published type.
pub(crate) fn description(definition: &str, field: &str) -> String {
    let schema = crate::builtin::types::SCHEMAS.get(definition);
    schema.and_then(|s| s["properties"][field]["description"].as_str()).unwrap_or_default().to_owned()
}

impl Columns {
    /// Columns of a built-in kind; Name and Created At when it has none of its own.
    pub fn builtin(group: &str, kind: &str) -> Self {
        let (printer, definitions) = builtin::columns(group, kind);
        let definitions = definitions.iter().map(Definition::to_json).collect();
        Self { definitions, source: Source::Builtin(printer) }
    }

    /// Columns of a version of a CustomResourceDefinition (`spec.versions[i]`).
    pub fn from_crd(version: &Value) -> Self {
        let age = json!([{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": description(META, "creationTimestamp")}]);
        let given = version["additionalPrinterColumns"].as_array().filter(|columns| !columns.is_empty());
        let columns = given.or(age.as_array()).cloned().unwrap_or_default();
        let mut definitions = vec![
            Definition {
                name: "Name",
                type_: "string",
                format: "name",
                description: description(META, "name"),
                priority: 0,
            }
            .to_json(),
        ];
        let mut sources = Vec::new();
        for column in &columns {
            let text = |key: &str| column[key].as_str().unwrap_or_default();
            let described = match text("description") {
                "" => format!("Custom resource definition column (in JSONPath format): {}", text("jsonPath")),
                own => own.to_owned(),
            };
            definitions.push(json!({"name": text("name"), "type": text("type"), "format": text("format"),
                "description": described, "priority": column["priority"].as_i64().unwrap_or(0)}));
            sources.push(Column { type_: text("type").to_owned(), path: JsonPath::parse(text("jsonPath")) });
        }
        Self { definitions: Value::Array(definitions), source: Source::Custom(sources) }
    }

    /// The `columnDefinitions` array.
    pub fn definitions(&self) -> Value {
        self.definitions.clone()
    }

    /// The cells of one object's row.
    pub fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        match &self.source {
            Source::Builtin(printer) => printer(object, now),
            Source::Custom(columns) => {
                let name = object["metadata"]["name"].clone();
                let cells = columns.iter().map(|column| column.cell(object, now));
                std::iter::once(name).chain(cells).collect()
            }
        }
    }

    /// `conditions` of a row: pods that ended are marked, so that clients may leave them out.
    pub fn row_conditions(&self, object: &Value) -> Option<Value> {
        if object["kind"] != "Pod" {
            return None;
        }
        let (reason, message) = match object["status"]["phase"].as_str()? {
            "Succeeded" => ("Succeeded", "The pod has completed successfully."),
            "Failed" => ("Failed", "The pod failed."),
            _ => return None,
        };
        Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
    }
}

impl Column {
    fn cell(&self, object: &Value, now: jiff::Timestamp) -> Value {
        let Some(value) = self.path.as_ref().and_then(|path| path.first(object)) else { return Value::Null };
        match self.type_.as_str() {
            "string" => text(&value).into(),
            "integer" => match (value.as_i64(), value.as_f64()) {
                (Some(int), _) => int.into(),
                (None, Some(float)) => (float as i64).into(),
                _ => Value::Null,
            },
            "number" => value.as_f64().map_or(Value::Null, Value::from),
            "boolean" => value.as_bool().map_or(Value::Null, Value::from),
            "date" => match value.as_str() {
                Some(text) => {
                    text.parse().map_or_else(|_| "<invalid>".into(), |then| duration::since(now, then).into())
                }
                None => Value::Null,
            },
            _ => Value::Null,
        }
    }
}

/// A value as text: scalars plain, collections as compact JSON.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => crate::schema::cause::go_number(number),
        Value::Null => "<no value>".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> jiff::Timestamp {
        "2026-01-02T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn custom_columns_follow_their_paths_and_types() {
        let version = json!({"additionalPrinterColumns": [
            {"name": "VERSION", "type": "string", "jsonPath": ".spec.ipVersion"},
            {"name": "NodeName", "type": "string", "jsonPath": ".spec.nodeName", "priority": 10},
            {"name": "COUNT", "type": "integer", "jsonPath": ".status.count"},
            {"name": "DEFAULT", "type": "boolean", "jsonPath": ".spec.default"},
            {"name": "APP", "type": "string", "jsonPath": ".spec.matchLabels['ipam\\.spidernet\\.io/app\\-namespace']"},
            {"name": "NIC", "type": "string", "jsonPath": ".status.ips[0].interface"},
            {"name": "AGE", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]});
        let columns = Columns::from_crd(&version);
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T22:30:00Z"},
            "spec": {"ipVersion": 4, "nodeName": ["master"], "default": true, "matchLabels": {"ipam.spidernet.io/app-namespace": "ns1"}},
            "status": {"ips": [{"interface": "eth0"}]}});
        assert_eq!(
            columns.cells(&object, now()),
            [
                json!("a"),
                json!("4"),
                json!("[\"master\"]"),
                Value::Null,
                json!(true),
                json!("ns1"),
                json!("eth0"),
                json!("90m")
            ]
        );
        assert_eq!(columns.definitions()[2]["priority"], 10);
        assert_eq!(
            columns.definitions()[1]["description"],
            "Custom resource definition column (in JSONPath format): .spec.ipVersion"
        );
    }

    #[test]
    fn without_columns_a_custom_resource_has_its_age() {
        let columns = Columns::from_crd(&json!({}));
        assert_eq!(columns.definitions()[1]["name"], "Age");
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T23:59:00Z"}});
        assert_eq!(columns.cells(&object, now()), [json!("a"), json!("60s")]);
    }
}
