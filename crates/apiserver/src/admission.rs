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
use crate::patch::apply_in_order;
use crate::request::Call;
use crate::schema::rules::fault;
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
    conditions: Vec<Condition>,
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
            conditions: conditions.map(|c| Condition::new(text(&c["expression"]))).collect(),
            ignores_failure: value["failurePolicy"] == "Ignore",
            reinvoked: value["reinvocationPolicy"] == "IfNeeded",
            dry_runs: matches!(value["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            timeout: Duration::from_secs(value["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
            endpoint: Endpoint::parse(&value["clientConfig"]),
        }
    }

    /// Whether the webhook is to be asked. A condition that cannot be evaluated refuses the request, unless failures are ignored.
    fn wants(&self, server: &Server, request: &Request<'_>, body: &Value) -> Outcome<bool> {
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
        self.conditions_hold(body).or_else(|why| {
            if self.ignores_failure {
                tracing::warn!(webhook = %self.name, error = why, "match conditions failed, failurePolicy is Ignore");
                return Ok(false);
            }
            Err(Failure::forbidden(request.call.resource(), body["name"].as_str().unwrap_or_default(), &why))
        })
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
        let mut faults = Vec::new();
        for condition in &self.conditions {
            match condition.holds(&context) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => faults.push(why),
            }
        }
        match faults.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
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
            verified(&answer, &uid).map_err(|why| format!("received invalid webhook response: {why}"))
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

    /// Applies the JSON patch of a response; tells whether it changed the object. A patch that does not fit the object is no failed call.
    fn patch(&self, response: &Value, new: &mut Value) -> Outcome<bool> {
        let patch = match decoded_patch(response) {
            Ok(patch) => patch,
            Err(why) => return self.failed(&why).map(|()| false),
        };
        if patch.is_empty() {
            return Ok(false);
        }
        if !new.is_object() {
            let name = &self.name;
            let why = "attempted to modify the object, which is not supported for this operation";
            return Err(Failure::internal(format!("admission webhook {name:?} {why}")));
        }
        let before = new.clone();
        apply_in_order(new, &patch).map_err(Failure::internal)?;
        Ok(*new != before)
    }
}

/// One of `matchConditions`.
#[derive(Debug)]
struct Condition {
    expression: String,
    program: Result<Program, String>,
}

impl Condition {
    fn new(expression: String) -> Self {
        let program = Program::compile(&expression).map_err(|error| error.to_string());
        Self { expression, program }
    }

    fn holds(&self, context: &Context<'_>) -> Result<bool, String> {
        let value = self.program.as_ref().map_err(Clone::clone);
        let why = match value.and_then(|program| program.execute(context).map_err(|error| fault(&error).into_owned())) {
            Ok(Cel::Bool(holds)) => return Ok(holds),
            Ok(_) => "not a boolean".to_owned(),
            Err(why) => why,
        };
        Err(format!("expression '{}' resulted in error: {why}", self.expression))
    }
}

/// The response in a webhook's answer, or what is wrong with it.
fn verified(answer: &Value, uid: &Value) -> Result<Value, String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    if response["uid"] != *uid {
        let got = response["uid"].as_str().unwrap_or_default();
        return Err(format!("expected response.uid={uid}, got {got:?}"));
    }
    Ok(response.clone())
}

fn decoded_patch(response: &Value) -> Result<json_patch::Patch, String> {
    let Some(patch) = response["patch"].as_str().filter(|p| !p.is_empty()) else { return Ok(Default::default()) };
    match response["patchType"].as_str() {
        Some("JSONPatch") => {}
        Some(other) => return Err(format!("unsupported patch type {other:?}")),
        None => {
            let why = "webhook returned response.patch but not response.patchType";
            return Err(format!("received invalid webhook response: {why}"));
        }
    }
    let undecodable = |why: String| format!("received undecodable patch in webhook response: {why}");
    let bytes = STANDARD.decode(patch).map_err(|error| undecodable(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| undecodable(error.to_string()))
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
    let count = hooks.mutating.len();
    // Asked since the last change, and wishing to be asked again after one; those whose wish came true.
    let (mut asked, mut again) = (vec![false; count], vec![false; count]);
    let mut changed_at_all = false;
    for round in 0..2 {
        for (at, hook) in hooks.mutating.iter().enumerate() {
            let body = request.body(&uid(), new, old);
            if !hook.wants(server, request, &body)? || (round == 1 && !again[at]) {
                continue;
            }
            let changed = match hook.ask(server, request, body, warnings).await? {
                Some(response) => hook.patch(&response, new)?,
                None => false,
            };
            if changed {
                changed_at_all = true;
                again.iter_mut().zip(&mut asked).for_each(|(again, asked)| *again |= std::mem::take(asked));
            }
            asked[at] = hook.reinvoked;
        }
        if !changed_at_all {
            break;
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
        let verdict = match hook.wants(server, request, &body) {
            Ok(true) => hook.ask(server, request, body, &mut warnings).await.map(drop),
            Ok(false) => Ok(()),
            Err(refused) => Err(refused),
        };
        (verdict, warnings)
    });
    let mut outcome = Ok(());
    for (verdict, texts) in join_all(asked).await {
        warnings.extend(texts);
        outcome = outcome.and(verdict);
    }
    outcome
}
