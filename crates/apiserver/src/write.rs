//! create, update and patch.
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::admission::{self, Operation};
use crate::kinds::Resource;
use crate::meta;
use crate::patch::Patch;
use crate::request::{Call, decode};
use crate::schema::{Cause, duplicates};
use crate::server::Server;
use crate::status::{Failure, Outcome};
use crate::storage::{DEFINITIONS, Expect, LARGEST, Object, Refused, Write};
use crate::{service, strategy};

/// How often a write that names no version is tried against concurrent ones.
const TRIES: usize = 64;
/// The refusal of an object whose namespace is not that of the path.
const OTHER_NAMESPACE: &str = "the namespace of the provided object does not match the namespace sent on the request";
/// How often another generated name is tried.
const NAMES: usize = 8;

/// The answer to a write.
#[derive(Debug)]
pub struct Reply {
    /// 200 or 201.
    pub code: StatusCode,
    /// The object; in the stored form.
    pub object: Arc<Object>,
}

/// What a client asked about unknown fields.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unknown {
    Strict,
    Warn,
    Ignore,
}

/// One write request on its way.
pub struct Writing<'a> {
    /// The server.
    pub server: &'a Server,
    /// The request.
    pub call: &'a Call,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
    /// Texts for `Warning` headers.
    pub warnings: &'a mut Vec<String>,
    unknown: Unknown,
    /// Whether the object comes out of a patch, which is then what errors of decoding are about.
    patching: bool,
}

impl<'a> Writing<'a> {
    /// Reads the options of a write.
    ///
    /// `options` is the kind that refusals of them name, `CreateOptions` and the like.
    pub fn new(server: &'a Server, call: &'a Call, options: &str, warnings: &'a mut Vec<String>) -> Outcome<Self> {
        let unknown = match call.query.text("fieldValidation") {
            Some("Strict") => Unknown::Strict,
            Some("Warn") | None => Unknown::Warn,
            Some("Ignore") => Unknown::Ignore,
            Some(other) => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                let cause = Cause::not_supported("fieldValidation", &other.into(), &supported);
                return Err(Failure::invalid_options(options, &[cause]));
            }
        };
        Ok(Self { server, call, dry_run: call.query.dry_run(options)?, warnings, unknown, patching: false })
    }

    fn resource(&self) -> &'a Resource {
        &self.call.target.resource
    }

    /// POST.
    pub async fn create(mut self, body: &Bytes) -> Outcome<Reply> {
        let value = self.read(body)?;
        let _serial = self.server.serial(self.resource()).await;
        let tries = if meta::text(&value, "name").is_empty() { NAMES } else { 1 };
        for _ in 1..tries {
            match self.create_once(value.clone()).await {
                Err(failure) if *failure.reason == *"AlreadyExists" => {}
                done => return Ok(Reply { code: StatusCode::CREATED, object: done? }),
            }
        }
        Ok(Reply { code: StatusCode::CREATED, object: self.create_once(value).await? })
    }

    async fn create_once(&mut self, mut value: Value) -> Outcome<Arc<Object>> {
        let (server, call, resource) = (self.server, self.call, self.resource());
        self.place(&mut value)?;
        if meta::text(&value, "resourceVersion").parse::<u64>().is_ok_and(|v| v > 0) {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Failure::custom(StatusCode::INTERNAL_SERVER_ERROR, "", message));
        }
        if meta::text(&value, "name").is_empty() && !meta::text(&value, "generateName").is_empty() {
            value["metadata"]["name"] = meta::generated(meta::text(&value, "generateName")).into();
        }
        meta::fill(&mut value, &call.target.namespace);
        self.check_home(meta::text(&value, "name"))?;
        let request = admission::Request::new(call, Operation::Create, self.dry_run);
        if admission::mutate(server, &request, &mut value, None, self.warnings).await? {
            self.settle(&mut value);
        }
        strategy::prepare_create(resource, &mut value);
        meta::drop_empty(meta::map_mut(&mut value));
        server.prepare(resource, &mut value, None)?;
        let causes = self.validate(&value, None);
        self.refuse(meta::text(&value, "name"), causes)?;
        self.warn(&value, None);
        admission::validate(server, &request, &value, None, self.warnings).await?;
        let name = meta::text(&value, "name").to_owned();
        self.store(&name, Expect::Absent, value, false).await.map_err(|refused| self.failure(&name, refused))
    }

    /// Name and namespace must agree with the path.
    fn place(&self, value: &mut Value) -> Outcome<()> {
        let target = &self.call.target;
        let namespace = meta::text(value, "namespace");
        if !namespace.is_empty() && namespace != target.namespace {
            return Err(Failure::bad_request(OTHER_NAMESPACE));
        }
        if self.resource().namespaced && target.namespace.is_empty() {
            return Err(Failure::bad_request("an empty namespace may not be set during creation"));
        }
        Ok(())
    }

    /// Definition and namespace are checked again when the write is decided; here it fails early and cheaply.
    fn check_home(&self, name: &str) -> Outcome<()> {
        if let Some(definition) = self.resource().definition()
            && self.server.store().get(DEFINITIONS, &definition).is_some_and(|found| found.deleting)
        {
            return Err(self.failure(name, Refused::DefinitionTerminating));
        }
        if !self.resource().namespaced {
            return Ok(());
        }
        let refused = match self.server.store().get("/namespaces", &self.call.target.namespace) {
            None => Refused::NoNamespace,
            Some(found) if found.deleting => Refused::NamespaceTerminating,
            Some(_) => return Ok(()),
        };
        Err(self.failure(name, refused))
    }

    /// PUT of the object or of a subresource.
    pub async fn update(mut self, body: &Bytes) -> Outcome<Reply> {
        let value = self.read(body)?;
        self.check_name(&value)?;
        let _serial = self.server.serial(self.resource()).await;
        let found = self.server.store().get(&self.resource().store, &self.call.key());
        if found.is_none() && strategy::allows_create_on_update(self.resource()) && self.call.target.sub.is_none() {
            return Ok(Reply { code: StatusCode::CREATED, object: self.create_once(value).await? });
        }
        let object = self.change(|_| Ok(value.clone())).await?;
        Ok(Reply { code: StatusCode::OK, object })
    }

    /// PATCH of the object or of a subresource.
    pub async fn patch(mut self, body: &Bytes) -> Outcome<Reply> {
        let patch = Patch::parse(&self.call.content_type, body, self.resource())?;
        self.patching = true;
        let _serial = self.server.serial(self.resource()).await;
        let resource = self.call.resource().clone();
        let object = self.change(|current| patch.apply(&resource, current)).await?;
        Ok(Reply { code: StatusCode::OK, object })
    }

    /// Reads the current object, lets `make` derive the new one and stores it, again when another write came between.
    pub async fn change(&mut self, mut make: impl FnMut(&Value) -> Outcome<Value>) -> Outcome<Arc<Object>> {
        let (resource, name) = (self.resource(), self.call.name());
        for _ in 0..TRIES {
            let current = self.server.store().get(&resource.store, &self.call.key());
            let current = current.ok_or_else(|| Failure::not_found(resource, name))?;
            let mut shown = current.value();
            resource.rewrite_for_client(&mut shown);
            let new = make(&shown)?;
            match self.replace(&current, shown, new).await? {
                Ok(object) => return Ok(object),
                Err(Refused::Missing) => return Err(Failure::not_found(resource, name)),
                Err(Refused::Changed) => self.warnings.clear(),
                Err(refused) => return Err(self.failure(name, refused)),
            }
        }
        Err(Failure::modified(resource, name))
    }

    async fn replace(
        &mut self,
        current: &Arc<Object>,
        old: Value,
        mut new: Value,
    ) -> Outcome<Result<Arc<Object>, Refused>> {
        let (server, call, resource) = (self.server, self.call, self.resource());
        let name = call.name();
        let sub = call.target.sub.as_deref();
        self.check_type(&new)?;
        self.check_name(&new)?;
        self.check_version(current, &new)?;
        self.prune(&mut new, &[])?;
        match sub {
            Some("status") => strategy::prepare_status(resource, &old, &mut new),
            _ => self.default(&mut new),
        }
        meta::keep_system(&old, &mut new);
        let request = admission::Request::new(call, Operation::Update, self.dry_run);
        if admission::mutate(server, &request, &mut new, Some(&old), self.warnings).await? {
            self.settle(&mut new);
        }
        if matches!(sub, None | Some("scale")) {
            strategy::prepare_update(resource, &old, &mut new);
        }
        if sub != Some("status") || !resource.is("/services") {
            server.prepare(resource, &mut new, Some(&old))?; // a Service's addresses follow from its spec only
        }
        let causes = self.validate(&new, Some(&old));
        self.refuse(name, causes)?;
        self.warn(&new, Some(&old));
        admission::validate(server, &request, &new, Some(&old), self.warnings).await?;
        new["metadata"]["resourceVersion"] = current.version.to_string().into();
        if new == old {
            return Ok(Ok(current.clone()));
        }
        let done = meta::is_deleting(&new)
            && meta::finalizers(&new).is_empty()
            && new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
            && !(resource.is("/namespaces") && new["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()));
        Ok(self.store(name, Expect::Version(current.version), new, done).await)
    }

    /// Name and namespace of the new state are those of the URL.
    fn check_name(&self, new: &Value) -> Outcome<()> {
        let (name, namespace) = (self.call.name(), &self.call.target.namespace);
        match (meta::text(new, "name"), meta::text(new, "namespace")) {
            ("", _) => Err(Failure::bad_request("name must be provided")),
            (given, _) if given != name => Err(Failure::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            ))),
            (_, given) if !given.is_empty() && given != namespace => Err(Failure::bad_request(OTHER_NAMESPACE)),
            _ => Ok(()),
        }
    }

    /// resourceVersion and UID of the new state are preconditions; a UID that a patch changes is left to validation.
    fn check_version(&self, current: &Object, new: &Value) -> Outcome<()> {
        let (resource, name) = (self.resource(), self.call.name());
        let uid = meta::text(new, "uid");
        if !uid.is_empty() && uid != current.uid && !self.patching {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: /registry/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: \
                 Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                resource.store.trim_start_matches('/'),
                current.key,
                current.uid
            );
            return Err(Failure::conflict(resource, name, &why));
        }
        match meta::text(new, "resourceVersion") {
            "" | "0" if strategy::allows_unconditional_update(resource) => Ok(()),
            "" | "0" => Err(Failure::version_required(resource, name)),
            wanted if wanted == current.version.to_string() => Ok(()),
            wanted if wanted.parse::<u64>().is_err() => {
                let why = format!("strconv.ParseUint: parsing {wanted:?}: invalid syntax");
                Err(Failure::custom(StatusCode::INTERNAL_SERVER_ERROR, "", why))
            }
            _ => Err(Failure::modified(resource, name)),
        }
    }

    /// Decodes a body and checks its type; unknown fields are dropped, defaults filled in.
    fn read(&mut self, body: &Bytes) -> Outcome<Value> {
        let mut value = decode(&self.call.content_type, body)?;
        let resource = self.resource();
        if resource.builtin
            && let Some(map) = value.as_object_mut()
        {
            // The type of a built-in object follows from the path where the object does not tell it.
            for (key, known) in [("kind", resource.kind.clone()), ("apiVersion", resource.api_version())] {
                if map.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
                    map.insert(key.into(), known.into());
                }
            }
        }
        if value["kind"].as_str().unwrap_or_default().is_empty() {
            let (kind, text) = (&resource.kind, String::from_utf8_lossy(body));
            let message = format!(
                "the object provided is unrecognized (must be of type {kind}): Object 'Kind' is missing in '{text}' ({})",
                head(body)
            );
            return Err(Failure::bad_request(message));
        }
        self.check_type(&value)?;
        if self.call.target.sub.is_none() {
            let json =
                self.unknown != Unknown::Ignore && matches!(self.call.content_type.as_str(), "" | "application/json");
            let repeated = if json { duplicates::find(body) } else { Vec::new() };
            self.prune(&mut value, &repeated)?;
            self.default(&mut value);
        }
        Ok(value)
    }

    fn check_type(&self, value: &Value) -> Outcome<()> {
        let resource = self.resource();
        let (version, kind) =
            (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
        if !value.is_object() || kind.is_empty() {
            return Err(Failure::bad_request(format!("Object 'Kind' is missing in '{value}'")));
        }
        if !resource.builtin && (kind != resource.kind || (self.patching && version != resource.api_version())) {
            return Err(self.other_type(value, version, kind));
        }
        if version != resource.api_version() {
            return Err(Failure::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({})",
                resource.api_version()
            )));
        }
        if kind != resource.kind {
            let why = format!(
                "{kind} in version {:?} cannot be handled as a {}: converting ({version}, Kind={kind}) to ({}, Kind={}): unknown conversion",
                resource.version,
                resource.kind,
                resource.api_version(),
                resource.kind
            );
            return Err(Failure::bad_request(why));
        }
        Ok(())
    }

    /// A custom resource that says it is something else.
    fn other_type(&self, value: &Value, version: &str, kind: &str) -> Failure {
        let resource = self.resource();
        if version != resource.api_version() && !self.patching {
            return Failure::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({})",
                resource.api_version()
            ));
        }
        let seen = [("kind", kind, resource.kind.clone()), ("apiVersion", version, resource.api_version())];
        let wrong = seen.iter().filter(|(_, seen, wanted)| seen != wanted);
        let causes: Vec<_> =
            wrong.map(|(field, seen, wanted)| Cause::invalid_text(*field, seen, format!("must be {wanted}"))).collect();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        Failure::invalid_as(group, kind, meta::text(value, "name"), &causes)
    }

    /// Drops unknown fields; these and the repeated ones are told as the client asked.
    fn prune(&mut self, value: &mut Value, repeated: &[String]) -> Outcome<()> {
        let Some(schema) = &self.resource().schema else { return Ok(()) };
        schema.check_types(value).map_err(|why| self.undecodable(value, &why))?;
        let before = (self.patching && self.unknown == Unknown::Strict).then(|| value.clone());
        let unknown = schema.prune(value);
        let mut texts: Vec<_> = repeated.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
        texts.extend(unknown.iter().map(|path| format!("unknown field \"{path}\"")));
        match self.unknown {
            _ if texts.is_empty() => {}
            Unknown::Ignore => {}
            Unknown::Warn => self.warnings.extend(texts),
            Unknown::Strict => {
                let why = format!("strict decoding error: {}", texts.join(", "));
                return Err(self.undecodable(before.as_ref().unwrap_or(value), &why));
            }
        }
        Ok(())
    }

    /// The object cannot be read as one of its kind: the body is at fault, or the patch that led to it.
    fn undecodable(&self, value: &Value, why: &str) -> Failure {
        let resource = self.resource();
        if self.patching {
            return Failure::undecodable_patch(&Cause::invalid_text("patch", &value.to_string(), why));
        }
        let kind = &resource.kind;
        Failure::bad_request(format!("{kind} in version {:?} cannot be handled as a {kind}: {why}", resource.version))
    }

    fn default(&self, value: &mut Value) {
        if let Some(schema) = &self.resource().schema {
            schema.default(value);
        }
    }

    /// Prunes and defaults what a webhook has changed.
    fn settle(&self, value: &mut Value) {
        if let Some(schema) = &self.resource().schema {
            schema.prune(value);
        }
        self.default(value);
    }

    fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        if self.call.target.sub.as_deref() == Some("binding") {
            return Vec::new(); // the one way to set nodeName of a stored pod
        }
        let mut causes = match (&self.resource().schema, old) {
            (Some(schema), Some(old)) if self.call.target.sub.as_deref() == Some("status") => {
                schema.validate_status(new, old)
            }
            (Some(_), _) if self.call.target.sub.as_deref() == Some("binding") => Vec::new(),
            (Some(schema), old) => schema.validate(new, old),
            (None, _) => Vec::new(),
        };
        if self.resource().is("/services") {
            causes.extend(service::validate(new, old));
        }
        causes
    }

    /// What is accepted but better avoided.
    fn warn(&mut self, new: &Value, old: Option<&Value>) {
        if let Some(schema) = &self.resource().schema {
            self.warnings.extend(schema.warnings(new, old));
        }
    }

    fn refuse(&self, name: &str, causes: Vec<Cause>) -> Outcome<()> {
        match causes.is_empty() {
            true => Ok(()),
            false => Err(Failure::invalid(self.resource(), name, &causes)),
        }
    }

    /// Stores, or for a dry run makes what would have been stored.
    pub async fn store(
        &self,
        name: &str,
        expect: Expect,
        mut value: Value,
        remove: bool,
    ) -> Result<Arc<Object>, Refused> {
        let resource = self.resource();
        resource.rewrite_for_store(&mut value);
        let namespace = &self.call.target.namespace;
        let key = resource.key(namespace, name);
        if self.dry_run {
            let found = self.server.store().get(&resource.store, &key);
            if expect == Expect::Absent && found.is_some() {
                return Err(Refused::Exists);
            }
            let version = found.map_or(0, |o| o.version);
            return Ok(Arc::new(Object::new(&key, version, &value, &[])));
        }
        let guard = (expect == Expect::Absent && resource.namespaced).then(|| namespace.clone());
        let definition = (expect == Expect::Absent).then(|| resource.definition()).flatten();
        let write = Write { store: resource.store.clone(), key, expect, value, remove, namespace: guard, definition };
        let object = self.server.store().write(write).await?;
        self.server.noticed(&resource.store);
        Ok(object)
    }

    fn failure(&self, name: &str, refused: Refused) -> Failure {
        let (resource, namespace) = (self.resource(), &self.call.target.namespace);
        match refused {
            Refused::Exists => Failure::already_exists(resource, name),
            Refused::Missing => Failure::not_found(resource, name),
            Refused::Changed => Failure::modified(resource, name),
            Refused::NoNamespace => Failure::no_namespace(namespace),
            Refused::NamespaceTerminating => Failure::namespace_terminating(resource, name, namespace),
            Refused::NoDefinition => Failure::no_such_path(),
            Refused::DefinitionTerminating => {
                let why = "create not allowed while custom resource definition is terminating";
                Failure::forbidden(resource, name, why)
            }
            Refused::TooLarge => Failure::too_large(&format!("limit is {LARGEST}")),
            Refused::Disk(why) => Failure::unavailable(&why),
        }
    }
}

/// The start of a body, for a message about it: text where it is JSON, else hexadecimal.
fn head(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (start, rest) = body.split_at(body.len().min(SHOWN));
    let more = if rest.is_empty() { "" } else { " ..." };
    match start.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", start.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// POST `/pods/NAME/binding`: the scheduler's decision.
pub async fn bind(server: &Server, call: &Call, body: &Bytes, warnings: &mut Vec<String>) -> Outcome<Value> {
    let binding = decode(&call.content_type, body)?;
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        let why = Cause::required("target.name", "").to_string();
        return Err(Failure::custom(StatusCode::INTERNAL_SERVER_ERROR, "", why));
    }
    let mut writing = Writing::new(server, call, "CreateOptions", warnings)?;
    writing
        .change(|pod| {
            let name = call.name();
            let refuse = |why: String| Failure::conflict(call.resource(), name, &why).renamed("pods", "pods/binding");
            if meta::is_deleting(pod) {
                return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
            }
            if let Some(assigned) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                return Err(refuse(format!("pod {name} is already assigned to node {assigned:?}")));
            }
            let mut pod = pod.clone();
            pod["spec"]["nodeName"] = node.as_str().into();
            for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
                pod["metadata"]["annotations"][key] = value.clone();
            }
            let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": meta::now()});
            match pod["status"]["conditions"].as_array_mut() {
                Some(conditions) => {
                    conditions.retain(|c| c["type"] != "PodScheduled");
                    conditions.push(scheduled);
                }
                None => pod["status"]["conditions"] = json!([scheduled]),
            }
            Ok(pod)
        })
        .await?;
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}
