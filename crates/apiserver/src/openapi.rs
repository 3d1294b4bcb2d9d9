//! `/openapi/v3`.
use serde_json::{Value, json};

/// A served kind.
#[derive(Debug)]
pub struct Served<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Plural resource name.
    pub plural: &'a str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether the status subresource is served.
    pub status: bool,
    /// `openAPIV3Schema` of a custom resource; `None` for built-in kinds.
    pub schema: Option<&'a Value>,
}

/// The answer to `GET /openapi/v3`.
pub fn index(group_versions: &[(&str, &str)]) -> Value {
    let path = |g: &str, v: &str| if g.is_empty() { format!("api/{v}") } else { format!("apis/{g}/{v}") };
    let paths = group_versions.iter().map(|(g, v)| (path(g, v), json!({"serverRelativeURL": format!("/openapi/v3/{}", path(g, v))})));
    json!({"paths": paths.collect::<serde_json::Map<_, _>>()})
}

/// The answer to `GET /openapi/v3/apis/G/V`.
pub fn document(_group: &str, _version: &str, _kinds: &[Served<'_>]) -> Value {
    json!({"openapi":"3.0.0","info":{"title":"Kubernetes","version":"v1.36"},"paths":{},"components":{"schemas":{}}})
}
