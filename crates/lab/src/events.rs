//! Events on objects, repeated ones counted up as client-go's recorder does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;

/// Whether an event is good or bad news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Writes events in the name of one component.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    source: EventSource,
    seen: Arc<Mutex<HashMap<String, (String, i32)>>>,
    queue: tokio::sync::mpsc::UnboundedSender<Note>,
}

struct Note {
    about: ObjectReference,
    kind: Kind,
    reason: String,
    message: String,
}

impl Recorder {
    /// A recorder; its events are written one after the other in the background.
    pub fn new(client: Client, component: &str, host: Option<&str>) -> Self {
        let (queue, mut notes) = tokio::sync::mpsc::unbounded_channel();
        let source = EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) };
        let recorder = Self { client, source, seen: Arc::default(), queue };
        let writer = recorder.clone();
        tokio::spawn(async move {
            while let Some(note) = notes.recv().await {
                if let Err(error) = writer.write(&note).await {
                    tracing::warn!(%error, reason = note.reason, object = note.about.name, "cannot write an event");
                }
            }
        });
        recorder
    }

    /// Notes something about an object.
    pub fn note<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: Kind,
        reason: &str,
        message: impl Into<String>,
    ) {
        let note = Note { about: object.object_ref(&()), kind, reason: reason.to_owned(), message: message.into() };
        // The receiver lives as long as the process.
        let _ = self.queue.send(note);
    }

    async fn write(&self, note: &Note) -> kube::Result<()> {
        let namespace = note.about.namespace.as_deref().unwrap_or("default");
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let key = format!(
            "{}/{}/{:?}/{}/{}",
            namespace,
            note.about.uid.as_deref().unwrap_or_default(),
            note.kind,
            note.reason,
            note.message
        );
        let now = Time(now());
        let known = self.seen.lock().expect("no panic while locked").get(&key).cloned();
        if let Some((name, count)) = known {
            let patch = json!({"count": count + 1, "lastTimestamp": now});
            match events.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    self.remember(key, name, count + 1);
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let stamp = Timestamp::now().as_nanosecond();
        let name = format!("{}.{stamp:x}", note.about.name.as_deref().unwrap_or("object"));
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..Default::default()
            },
            involved_object: note.about.clone(),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            type_: Some(format!("{:?}", note.kind)),
            source: Some(self.source.clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Default::default()
        };
        events.create(&PostParams::default(), &event).await?;
        self.remember(key, name, 1);
        Ok(())
    }

    fn remember(&self, key: String, name: String, count: i32) {
        self.seen.lock().expect("no panic while locked").insert(key, (name, count));
    }
}

/// The time as Kubernetes writes it: whole seconds.
pub fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).expect("a second that was just read is in range")
}
