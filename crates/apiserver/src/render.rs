//! Answers in the negotiated form: objects, lists, tables, metadata only.
use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::request::{Call, Shape};
use crate::schema::Cause;
use crate::status::{Failure, Outcome};
use crate::storage::Object;

/// Metadata of a list.
#[derive(Debug, Clone, Default)]
pub struct ListMeta {
    /// Version of the list.
    pub version: u64,
    /// Where the next page starts.
    pub continue_token: Option<String>,
    /// Items after this page.
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.version.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// An object in the version that the call asks for.
pub fn value_of(resource: &Resource, object: &Object) -> Value {
    let mut value = object.value();
    resource.rewrite_for_client(&mut value);
    value
}

/// JSON of an object in the version that the call asks for, without parsing when nothing changes.
pub fn json_of(resource: &Resource, object: &Object) -> Bytes {
    match object.api_version == resource.api_version() {
        true => object.json.clone(),
        false => to_json(&value_of(resource, object)),
    }
}

/// Serialises a value.
pub fn to_json(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a JSON value is always serialisable").into()
}

/// `PartialObjectMetadata` of an object.
pub fn partial(value: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]})
}

/// A `Table` with these objects as rows; without headers for later events of a watch.
pub fn table(call: &Call, values: &[Value], meta: &ListMeta, headers: bool) -> Outcome<Value> {
    let include = call.query.text("includeObject").unwrap_or("Metadata");
    let now = Timestamp::now();
    let columns = &call.resource().columns;
    let row = |value: &Value| {
        let object = match include {
            "None" => Value::Null,
            "Object" => value.clone(),
            _ => partial(value),
        };
        json!({"cells": columns.cells(value, now), "object": object})
    };
    if !matches!(include, "None" | "Object" | "Metadata") {
        let cause = Cause::invalid_text("includeObject", include, "must be 'Metadata', 'Object', 'None', or empty");
        return Err(Failure::bad_request(format!("Unable to convert to Table as requested: {cause}")));
    }
    Ok(json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta.value(),
        "columnDefinitions": if headers { columns.definitions() } else { Value::Null },
        "rows": values.iter().map(row).collect::<Vec<_>>(),
    }))
}

/// The answer for one object.
pub fn object(call: &Call, code: StatusCode, object: &Object) -> Outcome<Response> {
    if call.accept.shape == Shape::Whole && !call.accept.yaml {
        return Ok(raw(code, json_of(call.resource(), object)));
    }
    value(call, code, &value_of(call.resource(), object))
}

/// The answer for one object that is not stored (a dry run, a subresource).
pub fn value(call: &Call, code: StatusCode, value: &Value) -> Outcome<Response> {
    let shaped = match call.accept.shape {
        Shape::Whole | Shape::Discovery => return Ok(encode(call.accept.yaml, code, value)),
        Shape::Partial => partial(value),
        Shape::Table => {
            let version = value["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0);
            table(call, std::slice::from_ref(value), &ListMeta { version, ..ListMeta::default() }, true)?
        }
    };
    Ok(encode(call.accept.yaml, code, &shaped))
}

/// The answer for a list.
pub fn list<'a>(call: &Call, objects: impl Iterator<Item = &'a Object> + Clone, meta: &ListMeta) -> Outcome<Response> {
    let resource = call.resource();
    match call.accept.shape {
        Shape::Whole | Shape::Discovery => {
            let head = format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
                resource.list_kind,
                resource.api_version(),
                meta.value()
            );
            let size: usize = objects.clone().map(|o| o.json.len() + 1).sum();
            let mut body = BytesMut::with_capacity(head.len() + size + 2);
            body.put_slice(head.as_bytes());
            for (at, object) in objects.enumerate() {
                if at > 0 {
                    body.put_u8(b',');
                }
                body.put_slice(&json_of(resource, object));
            }
            body.put_slice(b"]}");
            if call.accept.yaml {
                let value: Value = serde_json::from_slice(&body).map_err(Failure::internal)?;
                return Ok(encode(true, StatusCode::OK, &value));
            }
            Ok(raw(StatusCode::OK, body.freeze()))
        }
        Shape::Table => {
            let values: Vec<_> = objects.map(|o| value_of(resource, o)).collect();
            Ok(encode(call.accept.yaml, StatusCode::OK, &table(call, &values, meta, true)?))
        }
        Shape::Partial => {
            let items: Vec<_> = objects.map(|o| partial(&value_of(resource, o))).collect();
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": meta.value(), "items": items,
            });
            Ok(encode(call.accept.yaml, StatusCode::OK, &list))
        }
    }
}

/// A JSON answer from bytes.
pub fn raw(code: StatusCode, json: Bytes) -> Response {
    with_type(code, Body::from(json), "application/json")
}

/// An answer from a value.
pub fn encode(yaml: bool, code: StatusCode, value: &Value) -> Response {
    if yaml && let Ok(text) = serde_saphyr::to_string(value) {
        return with_type(code, Body::from(text), "application/yaml");
    }
    raw(code, to_json(value))
}

/// A plain text answer.
pub fn text(code: StatusCode, text: impl Into<Body>) -> Response {
    with_type(code, text.into(), "text/plain; charset=utf-8")
}

/// An answer with a content type.
pub fn with_type(code: StatusCode, body: Body, content_type: &'static str) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
