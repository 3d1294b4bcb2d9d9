//! delete and deletecollection: preconditions, grace, finalizers, propagation (apiserver `rest/delete.go`, `registry/store.go`).
use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::admission::{self, Operation};
use crate::kinds::Resource;
use crate::list::Filter;
use crate::meta;
use crate::render::{self, ListMeta};
use crate::request::{Call, Target, decode};
use crate::schema::Cause;
use crate::server::Server;
use crate::status::{Failure, Outcome};
use crate::storage::{Expect, Object, Refused, Write};

/// Finalizer of an owner that waits for its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents are to be let go.
pub const ORPHAN: &str = "orphan";
/// Finalizer of a definition whose objects are to be deleted.
pub const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// `DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Grace period in seconds.
    pub grace: Option<i64>,
    /// Propagation, unless the object's finalizers decide.
    pub propagation: Option<Propagation>,
    /// UID that the object must have.
    pub uid: Option<String>,
    /// Version that the object must have.
    pub version: Option<String>,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
}

impl Options {
    fn read(call: &Call, body: &Bytes) -> Outcome<Self> {
        let body = if body.is_empty() { json!({}) } else { decode(&call.content_type, body)? };
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let in_query = call.query.integer("gracePeriodSeconds")?;
        let orphan = body["orphanDependents"].as_bool().or(call.query.flag("orphanDependents"));
        let policy =
            text(&body["propagationPolicy"]).or_else(|| call.query.text("propagationPolicy").map(str::to_owned));
        if let (Some(policy), Some(_)) = (&policy, orphan) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let cause = Cause::invalid_text("propagationPolicy", policy, why);
            return Err(Failure::invalid_options("DeleteOptions", &[cause]));
        }
        let propagation = match (policy.as_deref(), orphan) {
            (None, None) => None,
            (None, Some(true)) | (Some("Orphan"), _) => Some(Propagation::Orphan),
            (None, Some(false)) | (Some("Background"), _) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some(other), _) => return Err(unsupported_policy(other)),
        };
        Ok(Self {
            grace: body["gracePeriodSeconds"].as_i64().or(in_query).map(|g| if g < 0 { 1 } else { g }),
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: call.query.dry_run("DeleteOptions")?
                || body["dryRun"].as_array().is_some_and(|d| d.iter().any(|v| v == "All")),
        })
    }

    fn check(&self, resource: &Resource, object: &Object) -> Outcome<()> {
        if let Some(uid) = self.uid.as_ref().filter(|uid| **uid != object.uid) {
            return Err(Failure::precondition(resource, object.name(), "UID", uid, &object.uid));
        }
        let found = object.version.to_string();
        match self.version.as_ref().filter(|v| **v != found) {
            Some(wanted) => Err(Failure::precondition(resource, object.name(), "ResourceVersion", wanted, &found)),
            None => Ok(()),
        }
    }
}

fn unsupported_policy(given: &str) -> Failure {
    let supported = ["Foreground", "Background", "Orphan", "nil"];
    let cause = Cause::not_supported("propagationPolicy", &given.into(), &supported);
    Failure::invalid_options("DeleteOptions", &[cause])
}

/// What deletion did.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Arc<Object>),
    /// It waits for finalizers or its grace period; its state now.
    Pending(Arc<Object>),
}

/// DELETE of one object.
pub async fn delete(server: &Server, call: &Call, body: &Bytes, warnings: &mut Vec<String>) -> Outcome<Response> {
    let options = Options::read(call, body)?;
    let resource = call.resource();
    match delete_object(server, call, &options, warnings).await? {
        Deleted::Pending(object) => render::object(call, StatusCode::OK, &object),
        Deleted::Gone(object)
            if matches!(&*resource.store, "/pods" | "/namespaces" | "/serviceaccounts" | "/services") =>
        {
            render::object(call, StatusCode::OK, &object)
        }
        Deleted::Gone(object) => {
            let mut details = json!({"name": object.name(), "kind": resource.plural, "uid": object.uid});
            if !resource.group.is_empty() {
                details["group"] = resource.group.as_str().into();
            }
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            Ok(render::encode(call.accept.yaml, StatusCode::OK, &status))
        }
    }
}

/// DELETE of a collection: answers with the list of what it deleted.
pub async fn delete_collection(server: &Server, call: &Call, body: &Bytes) -> Outcome<Response> {
    let options = Options::read(call, body)?;
    let filter = Filter::of(call)?;
    let (objects, version) = {
        let state = server.store().read();
        let shard = state.shard(&call.resource().store);
        (shard.map(|s| filter.select(&s.objects, None)).unwrap_or_default(), state.version)
    };
    let deletions = objects.iter().map(|object| {
        let options = Options { uid: Some(object.uid.clone()), ..options.clone() };
        let call = named(call, object);
        async move {
            match delete_object(server, &call, &options, &mut Vec::new()).await {
                Err(failure) if failure.code != StatusCode::NOT_FOUND && failure.code != StatusCode::CONFLICT => {
                    Err(failure)
                }
                _ => Ok(()),
            }
        }
    });
    let done: Vec<_> = futures::stream::iter(deletions.collect::<Vec<_>>()).buffer_unordered(64).collect().await;
    done.into_iter().collect::<Outcome<Vec<()>>>()?;
    render::list(call, objects.iter().map(|o| &**o), &ListMeta { version, ..ListMeta::default() })
}

fn named(call: &Call, object: &Object) -> Call {
    let name = Some(object.name().to_owned());
    let target = Target { namespace: object.namespace().to_owned(), name, ..call.target.clone() };
    Call { target, ..call.clone() }
}

/// Deletes an object, or marks it when something must happen first.
pub async fn delete_object(
    server: &Server,
    call: &Call,
    options: &Options,
    warnings: &mut Vec<String>,
) -> Outcome<Deleted> {
    let (resource, name) = (call.resource(), call.name());
    if resource.is("/namespaces") && matches!(name, "default" | "kube-system" | "kube-public") {
        return Err(Failure::forbidden(resource, name, "this namespace may not be deleted"));
    }
    loop {
        let found = server.store().get(&resource.store, &call.key());
        let current = found.ok_or_else(|| Failure::not_found(resource, name))?;
        options.check(resource, &current)?;
        let old = render::value_of(resource, &current);
        let request = admission::Request::new(call, Operation::Delete, options.dry_run);
        admission::mutate(server, &request, &mut Value::Null, Some(&old), warnings).await?;
        admission::validate(server, &request, &Value::Null, Some(&old), warnings).await?;
        let mut value = current.value();
        let wait = mark(resource, &mut value, options);
        if options.dry_run || (wait && value == current.value()) {
            return Ok(if wait { Deleted::Pending(current) } else { Deleted::Gone(current) });
        }
        let write = Write {
            store: resource.store.clone(),
            key: call.key(),
            expect: Expect::Version(current.version),
            value,
            remove: !wait,
            namespace: None,
            definition: None,
        };
        match server.store().write(write).await {
            Ok(object) => {
                server.noticed(&resource.store);
                return Ok(if wait { Deleted::Pending(object) } else { Deleted::Gone(object) });
            }
            Err(Refused::Changed) => {}
            Err(Refused::Missing) => return Err(Failure::not_found(resource, name)),
            Err(Refused::Disk(why)) => return Err(Failure::unavailable(&why)),
            Err(other) => return Err(Failure::internal(format!("{other:?}"))),
        }
    }
}

/// Marks the object as being deleted; tells whether it must stay for now.
fn mark(resource: &Resource, value: &mut Value, options: &Options) -> bool {
    let first = !meta::is_deleting(value);
    let grace = if resource.is("/pods") { pod_grace(value, options, first) } else { 0 };
    let mut finalizers = propagation_finalizers(value, options.propagation);
    let definition = resource.is("apiextensions.k8s.io/customresourcedefinitions");
    if definition && first {
        finalizers.push(CRD_CLEANUP.to_owned());
        terminating_condition(value);
    }
    let namespace = resource.is("/namespaces") && value["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let wait = grace > 0 || !finalizers.is_empty() || namespace;
    if !wait && !resource.is("/pods") {
        return false; // it goes as it is
    }
    let meta = meta::map_mut(value);
    if first {
        let at = Timestamp::now() + SignedDuration::from_secs(grace);
        meta.insert("deletionTimestamp".into(), meta::stamp(at).into());
        if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|_| !definition) {
            meta.insert("generation".into(), (generation + 1).into());
        }
    }
    if !namespace && !definition {
        meta.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    meta.insert("finalizers".into(), finalizers.into());
    meta::drop_empty(meta);
    if namespace {
        value["status"]["phase"] = "Terminating".into();
    }
    wait
}

/// Grace of a pod; a pending one can only be shortened.
fn pod_grace(pod: &mut Value, options: &Options, first: bool) -> i64 {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    if first {
        let wanted = options.grace.or(pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
        return if unscheduled || matches!(phase, "Succeeded" | "Failed") { 0 } else { wanted };
    }
    let running = pod["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let Some(wanted) = options.grace.filter(|g| *g < running) else { return running };
    let now = Timestamp::now();
    let at = meta::text(pod, "deletionTimestamp").parse::<Timestamp>().unwrap_or(now);
    let sooner = at - SignedDuration::from_secs(running - wanted);
    pod["metadata"]["deletionTimestamp"] = meta::stamp(sooner.max(now)).into();
    if sooner < now && wanted != 0 { 1 } else { wanted }
}

/// The finalizers with those that the propagation policy asks for.
fn propagation_finalizers(value: &Value, policy: Option<Propagation>) -> Vec<String> {
    let mut finalizers = meta::finalizers(value);
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    let policy = policy.unwrap_or(match (has(ORPHAN), has(FOREGROUND)) {
        (true, _) => Propagation::Orphan,
        (_, true) => Propagation::Foreground,
        _ => Propagation::Background,
    });
    let wanted = match policy {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    finalizers.retain(|f| Some(f.as_str()) == wanted || (f != FOREGROUND && f != ORPHAN));
    if let Some(wanted) = wanted.filter(|w| !finalizers.iter().any(|f| f == w)) {
        finalizers.push(wanted.to_owned());
    }
    finalizers
}

fn terminating_condition(definition: &mut Value) {
    let condition = json!({
        "type": "Terminating", "status": "True", "reason": "InstanceDeletionPending", "lastTransitionTime": meta::now(),
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    });
    match definition["status"]["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => definition["status"]["conditions"] = json!([condition]),
    }
}
