//! The patch types.
use bytes::Bytes;
use http::StatusCode;
use json_patch::{AddOperation, PatchOperation};
use serde_json::Value;

use crate::kinds::Resource;
use crate::status::{Failure, Outcome};
use crate::strategic;

/// Operations of a JSON patch at most, as in kube-apiserver.
const MOST_OPERATIONS: usize = 10_000;
/// Bytes of JSON that the copies of a JSON patch may add, as in kube-apiserver.
const MOST_COPIED: usize = 3 << 20;

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
            Self::Json(patch) if patch.len() > MOST_OPERATIONS => {
                let count = patch.len();
                return Err(Failure::too_large(&format!(
                    "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {count}"
                )));
            }
            Self::Json(patch) => apply_in_order(&mut value, patch).map_err(|error| {
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

/// Why a JSON patch is not applied.
#[derive(Debug, thiserror::Error)]
pub enum JsonPatchError {
    /// An operation does not fit the object.
    #[error(transparent)]
    Operation(#[from] json_patch::PatchError),
    /// Copies of copies grow without end.
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {size}, exceeding the limit {MOST_COPIED}"
    )]
    Copies {
        /// Bytes copied so far.
        size: usize,
    },
}

/// RFC 6902, except that `replace` of an absent member of an object adds it, as kube-apiserver's library does. After a failure the
/// value is that of the operations before.
pub fn apply_in_order(value: &mut Value, patch: &[PatchOperation]) -> Result<(), JsonPatchError> {
    let mut copied = 0;
    for operation in patch {
        match operation {
            PatchOperation::Replace(replace) if is_new_member(value, replace.path.as_str()) => {
                let (path, new) = (replace.path.clone(), replace.value.clone());
                json_patch::patch(value, &[PatchOperation::Add(AddOperation { path, value: new })])?;
            }
            PatchOperation::Copy(copy) => {
                copied += value.pointer(copy.from.as_str()).map_or(0, |from| from.to_string().len());
                if copied > MOST_COPIED {
                    return Err(JsonPatchError::Copies { size: copied });
                }
                json_patch::patch(value, std::slice::from_ref(operation))?;
            }
            _ => json_patch::patch(value, std::slice::from_ref(operation))?,
        }
    }
    Ok(())
}

/// Whether a path names an absent member of an object that is there.
fn is_new_member(value: &Value, path: &str) -> bool {
    let parent = path.rsplit_once('/').and_then(|(parent, _)| value.pointer(parent));
    value.pointer(path).is_none() && parent.is_some_and(Value::is_object)
}
