//! Admission: mutating, then validating webhooks (apiserver `pkg/admission/plugin/webhook`).
//!
//! Rules match the group, version and resource of the request itself; there is no conversion to other versions.
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use http::StatusCode;
use kube_cel::KubeCelExt as _;
use kube_cel::cel::{Context, Program, Value as Cel};
use serde_json::{Value, json};

use crate::meta;
use crate::request::Call;
use crate::selector::Labels;
use crate::server::Server;
use crate::status::{Failure, Outcome};
use crate::webhook::Endpoint;

/// Store of mutating configurations.
pub const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
/// Store of validating configurations.
pub const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";

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

impl Operation {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Create => ("CREATE", "CreateOptions"),
            Self::Update => ("UPDATE", "UpdateOptions"),
            Self::Delete => ("DELETE", "DeleteOptions"),
        }
    }
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

    fn is_exempt(&self) -> bool {
        let resource = self.call.resource();
        // Webhooks see neither webhook configurations, or nobody could mend a broken one, nor bindings.
        resource.is(MUTATING) || resource.is(VALIDATING) || self.call.target.sub.as_deref() == Some("binding")
    }

    /// `AdmissionReview.request`.
    fn body(&self, uid: &str, new: &Value, old: Option<&Value>) -> Value {
        let (resource, target) = (self.call.resource(), &self.call.target);
        let (operation, options) = self.operation.names();
        let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        let plural = json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
        let name = match self.call.name() {
            "" => meta::text(new, "name"),
            name => name,
        };
        let mut options = json!({"apiVersion": "meta.k8s.io/v1", "kind": options});
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        let mut body = json!({
            "uid": uid, "kind": kind, "resource": plural, "requestKind": kind, "requestResource": plural, "name": name,
            "operation": operation, "userInfo": {"username": self.call.user, "groups": ["system:masters", "system:authenticated"]},
            "object": new, "oldObject": old, "dryRun": self.dry_run, "options": options,
        });
        if !target.namespace.is_empty() {
            body["namespace"] = target.namespace.as_str().into();
        } else if resource.is("/namespaces") {
            body["namespace"] = name.into();
        }
        if let Some(sub) = &target.sub {
            body["subResource"] = sub.as_str().into();
            body["requestSubResource"] = sub.as_str().into();
        }
        body
    }
}

/// The webhooks of all configurations, in the order in which they are called.
#[derive(Debug, Default)]
pub struct Hooks {
    mutating: Vec<Hook>,
    validating: Vec<Hook>,
}

impl Hooks {
    /// Reads the configurations.
    pub fn load(server: &Server) -> Self {
        let read = |store| {
            let configurations: Vec<_> = server.store().all(store).iter().map(|o| o.value()).collect();
            let hooks = configurations.iter().flat_map(|c| c["webhooks"].as_array().into_iter().flatten());
            hooks.map(Hook::new).collect()
        };
        Self { mutating: read(MUTATING), validating: read(VALIDATING) }
    }
}

#[derive(Debug)]
struct Hook {
    name: String,
    rules: Vec<Value>,
    namespaces: Labels,
    objects: Labels,
    conditions: Vec<(String, Result<Program, String>)>,
    ignores_failure: bool,
    reinvoked: bool,
    dry_runs: bool,
    timeout: Duration,
    endpoint: Result<Endpoint, String>,
}

impl Hook {
    fn new(value: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let conditions = value["matchConditions"].as_array().into_iter().flatten();
        Self {
            name: text(&value["name"]),
            rules: value["rules"].as_array().cloned().unwrap_or_default(),
            namespaces: Labels::from_object(&value["namespaceSelector"]),
            objects: Labels::from_object(&value["objectSelector"]),
            conditions: conditions
                .map(|c| (text(&c["name"]), Program::compile(&text(&c["expression"])).map_err(|e| e.to_string())))
                .collect(),
            ignores_failure: value["failurePolicy"] == "Ignore",
            reinvoked: value["reinvocationPolicy"] == "IfNeeded",
            dry_runs: matches!(value["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            timeout: Duration::from_secs(value["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
            endpoint: Endpoint::parse(&value["clientConfig"]),
        }
    }

    /// Whether the webhook wants the request; an error is one of its conditions.
    fn wants(&self, server: &Server, request: &Request<'_>, body: &Value) -> Result<bool, String> {
        let (new, old) = (&body["object"], &body["oldObject"]);
        if !self.rules.iter().any(|rule| rule_matches(rule, request)) {
            return Ok(false);
        }
        if !self.namespaces.is_empty() && !self.namespace_matches(server, request, new, old) {
            return Ok(false);
        }
        let selected = |object: &Value| object.is_object() && self.objects.matches(&labels(object));
        if !self.objects.is_empty() && !selected(new) && !selected(old) {
            return Ok(false);
        }
        self.conditions_hold(body)
    }

    fn namespace_matches(&self, server: &Server, request: &Request<'_>, new: &Value, old: &Value) -> bool {
        let resource = request.call.resource();
        if resource.is("/namespaces") {
            let object = if new.is_object() { new } else { old };
            return self.namespaces.matches(&labels(object));
        }
        if !resource.namespaced {
            return true;
        }
        let namespace = server.store().get("/namespaces", &request.call.target.namespace);
        namespace.is_some_and(|n| self.namespaces.matches(&n.labels))
    }

    fn conditions_hold(&self, body: &Value) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let mut context = Context::default().with_all();
        for (name, value) in [("object", &body["object"]), ("oldObject", &body["oldObject"]), ("request", body)] {
            context.add_variable(name, value).map_err(|e| e.to_string())?;
        }
        let mut fault = None;
        for (name, program) in &self.conditions {
            let value =
                program.as_ref().map_err(Clone::clone).and_then(|p| p.execute(&context).map_err(|e| e.to_string()));
            match value {
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(Cel::Bool(true)) => {}
                Ok(_) => fault = Some(format!("match condition {name:?}: not a boolean")),
                Err(why) => fault = Some(format!("match condition {name:?}: {why}")),
            }
        }
        fault.map_or(Ok(true), Err)
    }

    /// Asks the webhook; a refusal is a failure, an answer its `response`; `None` when a failed call is ignored.
    async fn ask(
        &self,
        server: &Server,
        request: &Request<'_>,
        body: Value,
        warnings: &mut Vec<String>,
    ) -> Outcome<Option<Value>> {
        if request.dry_run && !self.dry_runs {
            return Err(Failure::bad_request(format!("admission webhook {:?} does not support dry run", self.name)));
        }
        let uid = body["uid"].clone();
        let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": body});
        let called = match &self.endpoint {
            Ok(endpoint) => endpoint.call(server, &review, self.timeout).await,
            Err(why) => Err(why.clone()),
        };
        let checked = called.map_err(|e| format!("failed to call webhook: {e}")).and_then(|answer| {
            let response = &answer["response"];
            match response["uid"] == uid && response["allowed"].is_boolean() {
                true => Ok(response.clone()),
                false => Err(format!(
                    "received invalid webhook response: expected response.uid={uid}, got {}",
                    response["uid"]
                )),
            }
        });
        let response = match checked {
            Ok(response) => response,
            Err(why) => return self.failed(&why).map(|()| None),
        };
        let texts = response["warnings"].as_array().into_iter().flatten();
        warnings.extend(texts.filter_map(|w| w.as_str().map(str::to_owned)));
        match response["allowed"] == true {
            true => Ok(Some(response)),
            false => Err(self.denied(&response["status"])),
        }
    }

    fn failed(&self, why: &str) -> Outcome<()> {
        if self.ignores_failure {
            tracing::warn!(webhook = %self.name, error = why, "call failed, failurePolicy is Ignore");
            return Ok(());
        }
        Err(Failure::internal(format!("failed calling webhook {:?}: {why}", self.name)))
    }

    fn denied(&self, status: &Value) -> Failure {
        let by = format!("admission webhook {:?} denied the request", self.name);
        let text = |key: &str| status[key].as_str().filter(|t| !t.is_empty());
        let message = match text("message").or(text("reason")) {
            Some(why) => format!("{by}: {why}"),
            None => format!("{by} without explanation"),
        };
        let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).filter(|c| *c >= 400);
        let code = code.and_then(|c| StatusCode::from_u16(c).ok()).unwrap_or(StatusCode::BAD_REQUEST);
        let mut failure = Failure::custom(code, text("reason").unwrap_or_default().to_owned(), message);
        failure.details = status["details"].clone();
        failure
    }

    /// Applies the JSON patch of a response; tells whether it changed the object.
    fn patch(&self, response: &Value, new: &mut Value) -> Result<bool, String> {
        let Some(patch) = response["patch"].as_str().filter(|p| !p.is_empty()) else { return Ok(false) };
        if response["patchType"] != "JSONPatch" {
            return Err(format!("unsupported patch type {}", response["patchType"]));
        }
        let bytes = STANDARD.decode(patch).map_err(|e| e.to_string())?;
        let patch: json_patch::Patch = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        let before = new.clone();
        json_patch::patch(new, &patch).map_err(|e| e.to_string())?;
        Ok(*new != before)
    }
}

fn labels(object: &Value) -> Vec<(String, String)> {
    let map = object["metadata"]["labels"].as_object().into_iter().flatten();
    map.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
}

fn rule_matches(rule: &Value, request: &Request<'_>) -> bool {
    let (resource, target) = (request.call.resource(), &request.call.target);
    let any = |key: &str, fits: &dyn Fn(&str) -> bool| {
        rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).any(|v| v == "*" || fits(v))
    };
    let sub = target.sub.as_deref();
    let resource_fits = rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str).any(|wanted| {
        let (plural, wanted_sub) = wanted.split_once('/').map_or((wanted, None), |(p, s)| (p, Some(s)));
        (plural == "*" || plural == resource.plural) && (wanted_sub == sub || wanted_sub == Some("*"))
    });
    let scope_fits = match rule["scope"].as_str() {
        Some("Namespaced") => resource.namespaced,
        Some("Cluster") => !resource.namespaced,
        _ => true,
    };
    any("operations", &|v| v == request.operation.names().0)
        && any("apiGroups", &|v| v == resource.group)
        && any("apiVersions", &|v| v == resource.version)
        && resource_fits
        && scope_fits
}

fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Lets the mutating webhooks change the object; tells whether one did.
pub async fn mutate(
    server: &Server,
    request: &Request<'_>,
    new: &mut Value,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Outcome<bool> {
    let hooks: Arc<Hooks> = server.hooks();
    if hooks.mutating.is_empty() || request.is_exempt() {
        return Ok(false);
    }
    // Whether each webhook has seen the object as the last change left it.
    let mut current = vec![true; hooks.mutating.len()];
    let mut changed_at_all = false;
    for round in 0..2 {
        for (at, hook) in hooks.mutating.iter().enumerate() {
            if round == 1 && (current[at] || !hook.reinvoked) {
                continue;
            }
            let body = request.body(&uid(), new, old);
            match hook.wants(server, request, &body) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(why) => {
                    hook.failed(&why)?;
                    continue;
                }
            }
            let Some(response) = hook.ask(server, request, body, warnings).await? else { continue };
            match hook.patch(&response, new) {
                Ok(false) => {}
                Ok(true) => {
                    changed_at_all = true;
                    current[..at].fill(false);
                }
                Err(why) => hook.failed(&why)?,
            }
        }
    }
    Ok(changed_at_all)
}

/// Asks the validating webhooks, all at once; the first refusal counts.
pub async fn validate(
    server: &Server,
    request: &Request<'_>,
    new: &Value,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Outcome<()> {
    let hooks: Arc<Hooks> = server.hooks();
    if hooks.validating.is_empty() || request.is_exempt() {
        return Ok(());
    }
    let asked = hooks.validating.iter().map(|hook| async move {
        let body = request.body(&uid(), new, old);
        let mut warnings = Vec::new();
        match hook.wants(server, request, &body) {
            Ok(false) => {}
            Ok(true) => {
                hook.ask(server, request, body, &mut warnings).await?;
            }
            Err(why) => hook.failed(&why)?,
        }
        Ok(warnings)
    });
    for answer in join_all(asked).await {
        warnings.extend(answer?);
    }
    Ok(())
}
