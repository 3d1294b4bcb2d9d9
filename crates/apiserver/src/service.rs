//! Services: allocation of addresses and ports.
use serde_json::Value;

use crate::schema::Cause;

/// Rules of a Service.
pub fn validate(_new: &Value, _old: Option<&Value>) -> Vec<Cause> {
    Vec::new()
}
