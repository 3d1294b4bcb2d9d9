//! Refusals as `metav1.Status`, worded as kube-apiserver words them (apimachinery `pkg/api/errors`).
use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::schema::Cause;

/// A request that was not carried out: the `Status` its client gets.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// HTTP status.
    pub code: StatusCode,
    /// Machine readable reason, may be empty.
    pub reason: Cow<'static, str>,
    /// Text for people.
    pub message: String,
    /// `status.details`, null when there are none.
    pub details: Value,
    /// Token to go on with after an expired list.
    pub continue_token: Option<String>,
}

/// What handlers return.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    fn new(code: StatusCode, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: Value::Null, continue_token: None }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details.insert(key.into(), value.into());
            }
        }
        self.details = Value::Object(details);
        self
    }

    fn cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let mut cause = json!({"reason": reason, "message": message.into()});
        if !field.is_empty() {
            cause["field"] = field.into();
        }
        self.details["causes"] = json!([cause]);
        self
    }

    /// 404 for an object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{} \"{name}\" not found", resource.qualified())).about(
            &resource.group,
            &resource.plural,
            name,
        )
    }

    /// 404 for a path nobody serves.
    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
            .about("", "", "")
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(&resource.group, &resource.plural, name)
    }

    /// 409: the object is not as the request expects.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(&resource.group, &resource.plural, name)
    }

    /// 409: another write came first.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409: a delete precondition does not hold; kube-apiserver names the kind here, not the resource.
    pub fn precondition(resource: &Resource, name: &str, field: &str, wanted: &str, found: &str) -> Self {
        let hint = if field == "UID" { "deleted and then recreated" } else { "modified" };
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the {field} in the precondition ({wanted}) does not match \
             the {field} in record ({found}). The object might have been {hint}",
            resource.qualified_kind()
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(&resource.group, &resource.kind, name)
    }

    /// 422 with every cause.
    pub fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        Self::invalid_as(&resource.group, &resource.kind, name, causes)
    }

    /// 422 for the options of a request; `kind` is `ListOptions`, `CreateOptions`, ...
    pub fn invalid_options(kind: &str, causes: &[Cause]) -> Self {
        Self::invalid_as("meta.k8s.io", kind, "", causes)
    }

    /// 422 for an update that does not say which version it is of; kube-apiserver names the resource here, not the
    /// kind.
    pub fn version_required(resource: &Resource, name: &str) -> Self {
        let cause = Cause::invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
        Self::invalid_as(&resource.group, &resource.plural, name, &[cause])
    }

    /// 422 for an object that calls itself a kind of a group. The message names equal causes once.
    pub fn invalid_as(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut texts: Vec<_> = Vec::new();
        for text in causes.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let text = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{qualified} \"{name}\" is invalid: {text}");
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(group, kind, name);
        failure.details["causes"] =
            causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect();
        failure
    }

    /// 422 for a patch whose outcome is no object of the kind; neither kind nor name are told.
    pub fn undecodable_patch(cause: &Cause) -> Self {
        let message = format!(" \"\" is invalid: {}: {}", cause.field, cause.message);
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        failure.details = json!({"causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field}]});
        failure
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 403 for an object.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = match name {
            "" => format!("{} is forbidden: {why}", resource.qualified()),
            _ => format!("{} \"{name}\" is forbidden: {why}", resource.qualified()),
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(&resource.group, &resource.plural, name)
    }

    /// 403: the namespace is going away.
    pub fn namespace_terminating(resource: &Resource, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let message = format!("namespace {namespace} is being terminated");
        Self::forbidden(resource, name, &why).cause("NamespaceTerminating", message, "metadata.namespace")
    }

    /// 404: the namespace does not exist.
    pub fn no_namespace(namespace: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("namespaces \"{namespace}\" not found")).about(
            "",
            "namespaces",
            namespace,
        )
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).about("", "", "")
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 415 for a patch of a built-in kind.
    pub fn unsupported_patch_type() -> Self {
        let message = "415: Unsupported Media Type";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message).about("", "", "")
    }

    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// 413.
    pub fn too_large(why: &str) -> Self {
        let message = format!("Request entity too large: {why}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 410: the history does not reach back that far.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 504: the client has seen a version that this server has not.
    pub fn version_too_large(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut failure = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", format!("Timeout: {message}"))
            .about("", "", "")
            .cause("ResourceVersionTooLarge", "Too large resource version", "");
        failure.details["retryAfterSeconds"] = 1.into();
        failure
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let mut failure = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {message}"),
        );
        failure.details = json!({"causes": [{"message": message.to_string()}]});
        failure
    }

    /// 503: nothing can be written now.
    pub fn unavailable(why: &str) -> Self {
        let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", why);
        failure.details = json!({"retryAfterSeconds": 1});
        failure
    }

    /// A plain refusal whose code, reason and text somebody else chose (a webhook, a rule without reason).
    pub fn custom(code: StatusCode, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(code, reason, message)
    }

    /// Names a subresource instead of the resource.
    pub fn renamed(mut self, from: &str, to: &str) -> Self {
        self.message = self.message.replacen(from, to, 1);
        self.details["kind"] = to.into();
        self
    }

    /// The `Status` object.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code.as_u16(),
        });
        if !self.reason.is_empty() {
            body["reason"] = (*self.reason).into();
        }
        if !self.details.is_null() {
            body["details"] = self.details.clone();
        }
        if let Some(token) = &self.continue_token {
            body["metadata"]["continue"] = token.as_str().into();
        }
        body
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.code, axum::Json(self.body())).into_response();
        if self.details["retryAfterSeconds"].is_u64() {
            response.headers_mut().insert("retry-after", http::HeaderValue::from_static("1"));
        }
        response
    }
}
