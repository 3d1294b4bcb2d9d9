//! The patch types.
use bytes::Bytes;
use http::StatusCode;
use json_patch::{AddOperation, PatchOperation};
use serde_json::Value;

use crate::kinds::Resource;
use crate::status::{Failure, Outcome};
use crate::strategic;

/// A parsed patch.
#[derive(Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' merge by list keys.
    Strategic(Value),
}

impl Patch {
    /// By the media type of the body.
    pub fn parse(content_type: &str, body: &Bytes, resource: &Resource) -> Outcome<Self> {
        let refuse = |e: serde_json::Error| Failure::bad_request(format!("error decoding patch: {e}"));
        match content_type {
            "application/json-patch+json" => serde_json::from_slice(body).map(Self::Json).map_err(refuse),
            "application/merge-patch+json" => match serde_json::from_slice(body).map_err(refuse)? {
                map @ Value::Object(_) => Ok(Self::Merge(map)),
                other => Err(Failure::bad_request(format!("error decoding patch: {}", no_map(&other)))),
            },
            "application/strategic-merge-patch+json" if resource.builtin => {
                match serde_json::from_slice(body).map_err(|e| Failure::bad_request(e.to_string()))? {
                    map @ Value::Object(_) => Ok(Self::Strategic(map)),
                    other => Err(Failure::bad_request(no_map(&other))),
                }
            }
            // What kube-apiserver says depends on where it notices; to who wants server-side apply the longer text is of more use.
            _ if resource.builtin && content_type != "application/apply-patch+yaml" => {
                Err(Failure::unsupported_patch_type())
            }
            _ => {
                let all = [
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                ];
                Err(Failure::unsupported_media_type(if resource.builtin { &all } else { &all[..2] }))
            }
        }
    }

    /// The object after the patch.
    pub fn apply(&self, resource: &Resource, current: &Value) -> Outcome<Value> {
        let mut value = current.clone();
        match self {
            Self::Json(patch) => patch_in_order(&mut value, patch).map_err(|error| {
                // The client gets no more than this from kube-apiserver either.
                tracing::debug!(%error, "JSON patch refused");
                let message = "the server rejected our request due to an error in our request";
                Failure::custom(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            })?,
            Self::Merge(patch) => json_patch::merge(&mut value, patch),
            Self::Strategic(patch) => {
                strategic::merge(&resource.group, &resource.kind, &mut value, patch).map_err(Failure::bad_request)?;
            }
        }
        Ok(value)
    }
}

/// The refusal of a patch that is no object, in Go's words.
fn no_map(value: &Value) -> String {
    let seen = match value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        _ => "number",
    };
    format!("json: cannot unmarshal {seen} into Go value of type map[string]interface {{}}")
}

/// RFC 6902, except that `replace` of an absent member of an object adds it, as kube-apiserver's library does.
fn patch_in_order(value: &mut Value, patch: &json_patch::Patch) -> Result<(), json_patch::PatchError> {
    let mut operations = patch.0.clone();
    if operations.iter().any(|operation| matches!(operation, PatchOperation::Replace(_))) {
        let mut scratch = value.clone();
        for at in 0..operations.len() {
            if let PatchOperation::Replace(replace) = &operations[at]
                && is_new_member(&scratch, replace.path.as_str())
            {
                let (path, value) = (replace.path.clone(), replace.value.clone());
                operations[at] = PatchOperation::Add(AddOperation { path, value });
            }
            if json_patch::patch(&mut scratch, &operations[at..=at]).is_err() {
                break;
            }
        }
    }
    json_patch::patch(value, &operations)
}

/// Whether a path names an absent member of an object that is there.
fn is_new_member(value: &Value, path: &str) -> bool {
    let parent = path.rsplit_once('/').and_then(|(parent, _)| value.pointer(parent));
    value.pointer(path).is_none() && parent.is_some_and(Value::is_object)
}
