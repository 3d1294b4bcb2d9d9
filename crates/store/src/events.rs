//! Kubernetes Events on pods: what `kubectl describe pod` shows.

use crate::failure::{Failure, bounded};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Longest message that the API server takes.
const LONGEST: usize = 1024;

/// Writes Events in the name of one component on one node.
#[derive(Clone)]
pub struct Events {
    client: Client,
    component: &'static str,
    node: String,
}

/// What happened to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// `Warning` or `Normal`.
    pub kind: &'static str,
    /// One word.
    pub reason: &'static str,
    /// The text.
    pub message: String,
}

impl Events {
    /// Events of `component` on `node`.
    pub fn new(client: Client, component: &'static str, node: impl Into<String>) -> Self {
        Self { client, component, node: node.into() }
    }

    /// Records an event; the same one again counts up instead of making another object.
    pub async fn record(&self, event: &PodEvent) -> Result<(), Failure> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &event.namespace);
        let object = self.object(event);
        let name = object.metadata.name.clone().unwrap_or_default();
        match bounded(api.create(&PostParams::default(), &object)).await {
            Err(Failure::AlreadyExists) => {}
            outcome => return outcome.map(drop),
        }
        let count = bounded(api.get(&name)).await?.count.unwrap_or(1).saturating_add(1);
        let again = serde_json::json!({"count": count, "lastTimestamp": object.last_timestamp});
        bounded(api.patch(&name, &PatchParams::default(), &Patch::Merge(again))).await.map(drop)
    }

    fn object(&self, event: &PodEvent) -> Event {
        let mut hasher = DefaultHasher::new();
        (&event.uid, event.reason, &event.message).hash(&mut hasher);
        // As client-go names them: the object's name and a number that tells its events apart.
        let name: String = event.name.chars().take(200).collect();
        let message = match event.message.char_indices().nth(LONGEST - 3) {
            Some((end, _)) => format!("{}...", &event.message[..end]),
            None => event.message.clone(),
        };
        let now = Some(Time(Timestamp::now()));
        let mut object = Event {
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(event.namespace.clone()),
                name: Some(event.name.clone()),
                uid: Some(event.uid.clone()),
                ..ObjectReference::default()
            },
            type_: Some(event.kind.to_owned()),
            reason: Some(event.reason.to_owned()),
            message: Some(message),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: Some(self.node.clone()) }),
            first_timestamp: now.clone(),
            last_timestamp: now,
            count: Some(1),
            reporting_component: Some(self.component.to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        object.metadata.namespace = Some(event.namespace.clone());
        object.metadata.name = Some(format!("{name}.{:016x}", hasher.finish()));
        object
    }
}
