//! The patch types.
use bytes::Bytes;
use http::StatusCode;
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
            "application/merge-patch+json" => serde_json::from_slice(body).map(Self::Merge).map_err(refuse),
            "application/strategic-merge-patch+json" if resource.builtin => {
                serde_json::from_slice(body).map(Self::Strategic).map_err(refuse)
            }
            _ if resource.builtin => Err(Failure::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ])),
            _ => Err(Failure::unsupported_media_type(&["application/json-patch+json", "application/merge-patch+json"])),
        }
    }

    /// The object after the patch.
    pub fn apply(&self, resource: &Resource, current: &Value) -> Outcome<Value> {
        let mut value = current.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut value, patch).map_err(|e| {
                let message = "the server rejected our request due to an error in our request";
                let mut failure = Failure::custom(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
                failure.details =
                    serde_json::json!({"causes": [{"reason": "UnexpectedServerResponse", "message": e.to_string()}]});
                failure
            })?,
            Self::Merge(patch) => json_patch::merge(&mut value, patch),
            Self::Strategic(patch) => {
                strategic::merge(&resource.group, &resource.kind, &mut value, patch).map_err(Failure::bad_request)?;
            }
        }
        Ok(value)
    }
}
