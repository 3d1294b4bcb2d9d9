//! Admission: mutating, then validating webhooks.
use serde_json::Value;

use crate::request::Call;
use crate::server::Server;
use crate::status::Outcome;

/// What is being done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// POST.
    Create,
    /// PUT, PATCH.
    Update,
    /// DELETE.
    Delete,
}

/// A request under admission.
#[derive(Debug)]
pub struct Request<'a> {
    call: &'a Call,
    operation: Operation,
    dry_run: bool,
}

impl<'a> Request<'a> {
    /// From a call.
    pub fn new(call: &'a Call, operation: Operation, dry_run: bool) -> Self {
        Self { call, operation, dry_run }
    }
}

/// Lets the mutating webhooks change the object; tells whether one did.
pub async fn mutate(_server: &Server, request: &Request<'_>, _new: &mut Value, _old: Option<&Value>, _warnings: &mut Vec<String>) -> Outcome<bool> {
    let _ = (request.call, request.operation, request.dry_run);
    Ok(false)
}

/// Asks the validating webhooks.
pub async fn validate(_server: &Server, _request: &Request<'_>, _new: &Value, _old: Option<&Value>, _warnings: &mut Vec<String>) -> Outcome<()> {
    Ok(())
}
