//! AdmissionReview v1 on the wire: what is read of a request, and how an answer is written so that a client sees it as
//! if the API server itself had judged (status code, reason, one cause per field).

use std::future::Future;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipam::rules::Refusal;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// The envelope, in both directions.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    api_version: String,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<Request>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response: Option<Answer>,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    uid: String,
    kind: GroupVersionKind,
    #[serde(default)]
    resource: GroupVersionResource,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    /// What is done to the object.
    pub operation: Operation,
    /// Whether nothing is stored.
    #[serde(default)]
    pub dry_run: bool,
    /// The object as it shall be.
    #[serde(default)]
    pub object: Option<Value>,
    /// The object as it is.
    #[serde(default)]
    pub old_object: Option<Value>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct GroupVersionResource {
    group: String,
    version: String,
    resource: String,
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Operation {
    /// It is created.
    Create,
    /// It is replaced.
    Update,
    /// It is deleted.
    Delete,
    /// A connection to it is opened.
    Connect,
}

/// What is answered.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    uid: String,
    allowed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patch_type: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patch: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Review {
    /// The review with the answer that `judge` gives to its request.
    pub async fn answer<F: Future<Output = Answer>>(self, judge: impl FnOnce(Request) -> F) -> Self {
        let answer = match self.request {
            Some(request) => {
                let uid = request.uid.clone();
                Answer { uid, ..judge(request).await }
            }
            None => Answer::malformed("an AdmissionReview without request"),
        };
        Self { api_version: self.api_version, kind: self.kind, request: None, response: Some(answer) }
    }

    /// The answer in a word.
    pub fn verdict(&self) -> &'static str {
        let code = |answer: &Answer| answer.status.as_ref().and_then(|status| status["code"].as_u64());
        match &self.response {
            Some(answer) if answer.allowed => "allowed",
            Some(answer) if code(answer) == Some(500) => "failed",
            Some(answer) if code(answer) == Some(400) => "malformed",
            _ => "refused",
        }
    }
}

impl Request {
    /// `object` as its type, or the answer that it is none.
    pub fn parse<T: DeserializeOwned>(&self, object: &Value) -> Result<T, Answer> {
        T::deserialize(object).map_err(|error| Answer::malformed(&format!("{}: {error}", self.title())))
    }

    /// Kind and name of the object, for texts.
    pub fn title(&self) -> String {
        let name = self.object_name();
        match self.namespace.as_str() {
            "" => format!("{} {name}", self.kind.kind),
            namespace => format!("{} {namespace}/{name}", self.kind.kind),
        }
    }

    fn object_name(&self) -> &str {
        if !self.name.is_empty() {
            return &self.name;
        }
        let object = self.object.as_ref().or(self.old_object.as_ref());
        object.and_then(|object| object["metadata"]["name"].as_str()).unwrap_or_default()
    }
}

impl Answer {
    /// Yes.
    pub fn allowed() -> Self {
        Self { allowed: true, ..Self::default() }
    }

    /// The answer, with something that the client is to know.
    pub fn with_warning(mut self, text: Option<&str>) -> Self {
        self.warnings.extend(text.map(str::to_owned));
        self
    }

    /// Yes, with changes.
    pub fn patched(patch: &json_patch::Patch) -> Self {
        if patch.0.is_empty() {
            return Self::allowed();
        }
        let text = serde_json::to_vec(patch).expect("a patch is JSON");
        Self { patch_type: Some("JSONPatch".into()), patch: Some(STANDARD.encode(text).into()), ..Self::allowed() }
    }

    /// No, by a rule.
    pub fn refused(request: &Request, refusal: &Refusal) -> Self {
        let name = request.object_name();
        let qualified = |name: &str| match request.kind.group.as_str() {
            "" => name.to_owned(),
            group => format!("{name}.{group}"),
        };
        let (kind, resource) = (qualified(&request.kind.kind), qualified(&request.resource.resource));
        let mut details = json!({"name": name, "group": request.kind.group, "kind": request.resource.resource});
        let (code, reason, message) = match refusal {
            Refusal::Invalid(errors) => {
                let causes = errors.iter().map(
                    |error| json!({"reason": error.kind.reason(), "message": error.cause(), "field": error.field}),
                );
                details["kind"] = request.kind.kind.clone().into();
                details["causes"] = causes.collect();
                let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
                let text = match texts.as_slice() {
                    [only] => only.clone(),
                    several => format!("[{}]", several.join(", ")),
                };
                (422, "Invalid", format!("{kind} \"{name}\" is invalid: {text}"))
            }
            Refusal::AlreadyExists => (409, "AlreadyExists", format!("{resource} \"{name}\" already exists")),
            Refusal::Forbidden(text) => (403, "Forbidden", format!("{resource} \"{name}\" is forbidden: {text}")),
        };
        Self::status(code, reason, &message, Some(details))
    }

    /// No: the request does not make sense.
    pub fn malformed(text: &str) -> Self {
        Self::status(400, "BadRequest", text, None)
    }

    /// No: it could not be judged.
    pub fn failed(text: &str) -> Self {
        Self::status(500, "InternalError", text, None)
    }

    fn status(code: u16, reason: &str, message: &str, details: Option<Value>) -> Self {
        let mut status =
            json!({"status": "Failure", "code": code, "reason": reason, "message": message, "metadata": {}});
        if let Some(details) = details {
            status["details"] = details;
        }
        Self { status: Some(status), ..Self::default() }
    }
}
