//! Events on objects: what a user can do about it, where `kubectl describe` shows it.
//!
//! An event that says the same about the same object again raises the count of the first, at most once a minute. Events
//! are for people: one that cannot be written is logged and forgotten.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

/// Events of the same text are not written more often.
const QUIET: Duration = Duration::from_secs(60);
/// The longest message that an API server takes.
const LONGEST: usize = 1024;
/// Texts that are remembered.
const REMEMBERED: usize = 1024;

/// Writes events.
pub struct Events {
    client: Client,
    instance: String,
    written: Mutex<HashMap<Key, Written>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    object: String,
    reason: &'static str,
    message: String,
}

#[derive(Clone)]
struct Written {
    name: String,
    uid: Option<String>,
    version: Option<String>,
    count: i32,
    at: Instant,
}

impl Events {
    /// A writer; `instance` is the pod's name.
    pub fn new(client: Client, instance: &str) -> Self {
        Self { client, instance: instance.to_owned(), written: Mutex::default() }
    }

    /// Something is wrong with `object`.
    pub async fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &'static str, message: String) {
        self.write(object, "Warning", reason, message).await;
    }

    /// Something noteworthy happened to `object`.
    pub async fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &'static str, message: String) {
        self.write(object, "Normal", reason, message).await;
    }

    async fn write<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: &str,
        reason: &'static str,
        message: String,
    ) {
        let message = shortened(message);
        let about = object.object_ref(&());
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let key = Key { object: object.uid().unwrap_or_default(), reason, message };
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        let outcome = match self.repeated(&key) {
            Repeated::Recently => return,
            Repeated::Before(Written { name, uid, version, count, .. }) => {
                let metadata = json!({"uid": uid, "resourceVersion": version});
                let patch = json!({"metadata": metadata, "count": count, "lastTimestamp": Time(Timestamp::now())});
                match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                    // It has expired meanwhile, or somebody edited it.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                        self.create(&api, about, kind, &key).await
                    }
                    outcome => outcome.map(|event| self.remember(&key, &event, count)),
                }
            }
            Repeated::Never => self.create(&api, about, kind, &key).await,
        };
        if let Err(error) = outcome {
            tracing::warn!(reason, message = key.message, %error, "event not written");
        }
    }

    async fn create(&self, api: &Api<Event>, about: ObjectReference, kind: &str, key: &Key) -> kube::Result<()> {
        let now = Timestamp::now();
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta { name: Some(name), namespace: api_namespace(&about), ..Default::default() },
            involved_object: about,
            type_: Some(kind.to_owned()),
            reason: Some(key.reason.to_owned()),
            message: Some(key.message.clone()),
            source: Some(EventSource { component: Some("spiderpool".to_owned()), host: Some(self.instance.clone()) }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Default::default()
        };
        let event = api.create(&PostParams::default(), &event).await?;
        self.remember(key, &event, 1);
        Ok(())
    }

    fn remember(&self, key: &Key, event: &Event, count: i32) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() >= REMEMBERED {
            written.clear();
        }
        let (name, uid, version) = (event.name_any(), event.uid(), event.resource_version());
        written.insert(key.clone(), Written { name, uid, version, count, at: Instant::now() });
    }

    fn repeated(&self, key: &Key) -> Repeated {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match written.get_mut(key) {
            None => Repeated::Never,
            Some(last) if last.at.elapsed() < QUIET => Repeated::Recently,
            Some(last) => {
                last.count += 1;
                last.at = Instant::now();
                Repeated::Before(last.clone())
            }
        }
    }
}

enum Repeated {
    Never,
    Recently,
    Before(Written),
}

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST {
        let mut end = LONGEST - 3;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
    message
}

/// Events about cluster-scoped objects live in `default`.
fn api_namespace(about: &ObjectReference) -> Option<String> {
    about.namespace.clone().or_else(|| Some("default".to_owned()))
}
