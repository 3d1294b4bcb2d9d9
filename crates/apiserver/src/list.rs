//! get and list: versions, pages, filters.
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::render::{self, ListMeta};
use crate::request::Call;
use crate::schema::Cause;
use crate::selector::{Fields, Labels};
use crate::status::{Failure, Outcome};
use crate::storage::{Object, Shard, State, Store};

/// Which objects of a resource a list or watch is about.
#[derive(Debug, Clone)]
pub struct Filter {
    namespace: String,
    labels: Labels,
    fields: Fields,
}

impl Filter {
    /// From the path and the selectors of a call.
    pub fn of(call: &Call) -> Outcome<Self> {
        let resource = call.resource();
        let labels = call.query.text("labelSelector").map(Labels::parse).transpose()?.unwrap_or_default();
        let stored = |path: &str| stored_field(resource, path);
        let text = call.query.text("fieldSelector").unwrap_or_default();
        let mut fields = Fields::parse(text, |path| unselectable(resource, path))?.map_paths(stored);
        if let Some(name) = &call.target.name {
            fields = fields.named(name);
        }
        Ok(Self { namespace: call.target.namespace.clone(), labels, fields })
    }

    /// Whether an object belongs to the list.
    pub fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == object.namespace())
            && self.labels.matches(&object.labels)
            && self.fields.matches(|path| object.field(path))
    }

    fn is_selective(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    /// The matching objects after a key, in order.
    pub fn select(&self, objects: &BTreeMap<Arc<str>, Arc<Object>>, after: Option<&str>) -> Vec<Arc<Object>> {
        if let (Some(name), false) = (self.fields.name(), self.namespace.is_empty()) {
            let found = objects.get(format!("{}/{name}", self.namespace).as_str());
            return found
                .filter(|o| self.matches(o) && after.is_none_or(|a| &*o.key > a))
                .cloned()
                .into_iter()
                .collect();
        }
        let prefix = if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) };
        let start = after.map_or_else(|| prefix.clone(), |a| format!("{a}\0"));
        let range = objects.range::<str, _>((std::ops::Bound::Included(start.as_str()), std::ops::Bound::Unbounded));
        range.map(|(_, o)| o).take_while(|o| o.key.starts_with(&prefix)).filter(|o| self.matches(o)).cloned().collect()
    }
}

/// Why a list cannot be selected by a field; each kind has kube-apiserver's words.
fn unselectable(resource: &Resource, path: &str) -> Option<String> {
    if resource.selects(&stored_field(resource, path)) {
        return None;
    }
    Some(match &*resource.store {
        "batch/jobs" => format!("field label {path:?} not supported for Job"),
        "/events" | "/namespaces" | "/nodes" | "/pods" | "/secrets" | "/services" => {
            format!("field label not supported: {path}")
        }
        _ if !resource.builtin => format!("field label not supported: {path}"),
        _ => format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
    })
}

/// events.k8s.io calls the fields of the stored core/v1 Event by other names.
fn stored_field(resource: &Resource, path: &str) -> String {
    match (resource.group.as_str(), path.split_once('.')) {
        ("events.k8s.io", Some(("regarding", rest))) => format!("involvedObject.{rest}"),
        ("events.k8s.io", None) if path == "reportingController" => "reportingComponent".into(),
        _ => path.to_owned(),
    }
}

/// GET of one object.
pub fn get(store: &Store, call: &Call) -> Outcome<Response> {
    let object = store.get(&call.resource().store, &call.key());
    if let Some(asked) = version_option(call)? {
        let current = store.read().version;
        if asked > current {
            return Err(Failure::version_too_large(asked, current));
        }
    }
    let object = object.ok_or_else(|| Failure::not_found(call.resource(), call.name()))?;
    render::object(call, StatusCode::OK, &object)
}

/// The `resourceVersion` parameter, or what is wrong with it.
fn version_text(call: &Call) -> Result<Option<u64>, Cause> {
    let refuse = |text: &str| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        Cause::invalid_text("resourceVersion", text, why)
    };
    call.query.text("resourceVersion").map(|text| text.parse().map_err(|_| refuse(text))).transpose()
}

/// The `resourceVersion` parameter of a get or a watch; a wrong one is an error 500, as kube-apiserver has it.
pub fn version_option(call: &Call) -> Outcome<Option<u64>> {
    version_text(call).map_err(|cause| Failure::custom(StatusCode::INTERNAL_SERVER_ERROR, "", cause.to_string()))
}

/// GET of a collection.
pub fn list(store: &Store, call: &Call) -> Outcome<Response> {
    let filter = Filter::of(call)?;
    let limit = call.query.number("limit")?.unwrap_or(0) as usize;
    call.query.number("timeoutSeconds")?; // a list takes no time, but the option must make sense
    let page = Page::of(call, limit)?;
    let (mut objects, version) = {
        let state = store.read();
        if let Want::NotOlderThan(asked) = page.want
            && asked > state.version
        {
            return Err(Failure::version_too_large(asked, state.version));
        }
        page.read(&state, &call.resource().store, &filter)?
    };
    let mut meta = ListMeta { version, ..ListMeta::default() };
    if limit > 0 && objects.len() > limit {
        let remaining = objects.len() - limit;
        objects.truncate(limit);
        meta.continue_token = objects.last().map(|last| token(version, &last.key));
        meta.remaining = (!filter.is_selective()).then_some(remaining);
    }
    render::list(call, objects.iter().map(|o| &**o), &meta)
}

/// Which state of the store a list shows.
enum Want {
    Newest,
    NotOlderThan(u64),
    Exactly(u64),
}

struct Page {
    want: Want,
    after: Option<String>,
}

impl Page {
    fn of(call: &Call, limit: usize) -> Outcome<Self> {
        let version =
            version_text(call).map_err(|cause| Failure::bad_request(format!("invalid resource version: {cause}")))?;
        let matching = call.query.text("resourceVersionMatch");
        if call.query.flag("sendInitialEvents").is_some() {
            let cause = Cause::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
            return Err(Failure::invalid_options("ListOptions", &[cause]));
        }
        let refuse = |cause| Err(Failure::invalid_options("ListOptions", &[cause]));
        let forbid = |why: &str| refuse(Cause::forbidden("resourceVersionMatch", why));
        if let Some(token) = call.query.text("continue") {
            if matching.is_some() {
                return forbid("resourceVersionMatch is forbidden when continue is provided");
            }
            if version.is_some_and(|v| v > 0) {
                return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
            }
            let (version, after) = parse_token(token)?;
            let want = version.map_or(Want::Newest, Want::Exactly);
            return Ok(Self { want, after: Some(after) });
        }
        let want = match (matching, version) {
            (None, None | Some(0)) | (Some("NotOlderThan"), Some(0)) => Want::Newest,
            (Some(_), None) => return forbid("resourceVersionMatch is forbidden unless resourceVersion is provided"),
            (Some("Exact"), Some(0)) => {
                return forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
            (Some("Exact"), Some(v)) => Want::Exactly(v),
            (None, Some(v)) if limit > 0 => Want::Exactly(v),
            (None | Some("NotOlderThan"), Some(v)) => Want::NotOlderThan(v),
            (Some(other), _) => {
                let supported = ["Exact", "NotOlderThan", ""];
                return refuse(Cause::not_supported("resourceVersionMatch", &other.into(), &supported));
            }
        };
        Ok(Self { want, after: None })
    }

    fn read(&self, state: &State, store: &str, filter: &Filter) -> Outcome<(Vec<Arc<Object>>, u64)> {
        let after = self.after.as_deref();
        let Some(shard) = state.shard(store) else { return Ok((Vec::new(), state.version)) };
        match self.want {
            Want::Exactly(version) if version > state.version => {
                Err(Failure::version_too_large(version, state.version))
            }
            Want::Exactly(version) if version < shard.compacted => Err(too_old(after)),
            Want::Exactly(version) => Ok((filter.select(&at_version(shard, version), after), version)),
            _ => Ok((filter.select(&shard.objects, after), state.version)),
        }
    }
}

/// The objects as they were: the current ones with later events undone.
fn at_version(shard: &Shard, version: u64) -> BTreeMap<Arc<str>, Arc<Object>> {
    let mut objects = shard.objects.clone();
    for event in shard.history.iter().rev().take_while(|e| e.version > version) {
        match &event.old {
            Some(old) => objects.insert(old.key.clone(), old.clone()),
            None => objects.remove(&event.new.key),
        };
    }
    objects
}

fn too_old(after: Option<&str>) -> Failure {
    let Some(after) = after else {
        return Failure::expired("The resourceVersion for the provided list is too old.");
    };
    let mut failure = Failure::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    failure.continue_token = Some(encode_token(&json!({"v": "meta.k8s.io/v1", "rv": -1, "start": after})));
    failure
}

fn token(version: u64, last: &str) -> String {
    encode_token(&json!({"v": "meta.k8s.io/v1", "rv": version, "start": last}))
}

fn encode_token(value: &Value) -> String {
    STANDARD_NO_PAD.encode(value.to_string())
}

/// Version (`None` for an inconsistent continuation) and last key of a continue token.
fn parse_token(token: &str) -> Outcome<(Option<u64>, String)> {
    let refuse =
        |why: String| Failure::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = STANDARD_NO_PAD.decode(token).map_err(|e| refuse(e.to_string()))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
    let start = value["start"].as_str().ok_or_else(|| refuse("it has no start".into()))?;
    Ok((value["rv"].as_u64(), start.to_owned()))
}
