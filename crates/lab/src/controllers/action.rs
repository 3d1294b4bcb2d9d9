//! What a controller wants done, as data.

use std::fmt;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Binding, Endpoints, Node, ObjectReference, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde_json::Value;

use crate::events::{Kind as EventKind, Recorder};

/// One request to the API server.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Creates an object; one that exists already is fine.
    Create {
        /// Its kind.
        kind: &'static str,
        /// The whole object, with namespace and name.
        object: Value,
    },
    /// Merges into an object, or into its status.
    Patch {
        /// Its kind.
        kind: &'static str,
        /// `(namespace, name)`; an empty namespace for kinds without.
        of: (String, String),
        /// Whether `/status` is meant.
        status: bool,
        /// The merge patch.
        patch: Value,
    },
    /// Deletes this very object.
    Delete {
        /// Its kind.
        kind: &'static str,
        /// `(namespace, name)`.
        of: (String, String),
        /// Its UID.
        uid: Option<String>,
    },
    /// Gives a pod to a node.
    Bind {
        /// `(namespace, name)`.
        of: (String, String),
        /// The node's name.
        node: String,
    },
    /// Says why a pod waits.
    Note {
        /// The pod.
        pod: Box<Pod>,
        /// Reason.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

impl Action {
    /// Creates `object`.
    pub fn create<K: Resource<DynamicType = ()> + Serialize>(kind: &'static str, object: &K) -> Self {
        Self::Create { kind, object: serde_json::to_value(object).expect("Kubernetes objects are plain data") }
    }

    /// The kind that it is about.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Create { kind, .. } | Self::Patch { kind, .. } | Self::Delete { kind, .. } => kind,
            Self::Bind { .. } | Self::Note { .. } => "Pod",
        }
    }

    /// Namespace and name of what it creates.
    pub fn made(&self) -> Option<(&str, &str)> {
        match self {
            Self::Create { object, .. } => {
                Some((object["metadata"]["namespace"].as_str()?, object["metadata"]["name"].as_str()?))
            }
            _ => None,
        }
    }

    /// Sends the request.
    pub async fn carry_out(&self, client: &Client, recorder: &Recorder) -> Result<()> {
        let sent = match self {
            Self::Create { kind, object } => {
                let object: DynamicObject =
                    serde_json::from_value(object.clone()).context("not a Kubernetes object")?;
                let namespace = object.metadata.namespace.clone().unwrap_or_default();
                objects(client, kind, &namespace).create(&PostParams::default(), &object).await.map(drop)
            }
            Self::Patch { kind, of: (namespace, name), status, patch } => {
                let api = objects(client, kind, namespace);
                let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
                if *status {
                    api.patch_status(name, &params, &patch).await.map(drop)
                } else {
                    api.patch(name, &params, &patch).await.map(drop)
                }
            }
            Self::Delete { kind, of: (namespace, name), uid } => {
                let preconditions = uid.clone().map(|uid| Preconditions { uid: Some(uid), resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::background() };
                objects(client, kind, namespace).delete(name, &params).await.map(drop)
            }
            Self::Bind { of: (namespace, name), node } => bind(client, namespace, name, node).await,
            Self::Note { pod, reason, message } => {
                recorder.note(&**pod, EventKind::Warning, reason, message.clone());
                Ok(())
            }
        };
        match sent {
            // Exists already, or is gone already: what was wanted.
            Err(kube::Error::Api(answer))
                if answer.code == 404 || (answer.code == 409 && answer.reason == "AlreadyExists") =>
            {
                Ok(())
            }
            other => other.with_context(|| self.to_string()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { kind, .. } => {
                let (namespace, name) = self.made().unwrap_or_default();
                write!(f, "create {kind} {namespace}/{name}")
            }
            Self::Patch { kind, of: (namespace, name), status, .. } => {
                write!(f, "patch {kind} {namespace}/{name}{}", if *status { " status" } else { "" })
            }
            Self::Delete { kind, of: (namespace, name), .. } => write!(f, "delete {kind} {namespace}/{name}"),
            Self::Bind { of: (namespace, name), node } => write!(f, "bind Pod {namespace}/{name} to {node}"),
            Self::Note { reason, message, .. } => write!(f, "note {reason}: {message}"),
        }
    }
}

fn objects(client: &Client, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let resource = match kind {
        "Pod" => ApiResource::erase::<Pod>(&()),
        "Node" => ApiResource::erase::<Node>(&()),
        "DaemonSet" => ApiResource::erase::<DaemonSet>(&()),
        "Deployment" => ApiResource::erase::<Deployment>(&()),
        "ReplicaSet" => ApiResource::erase::<ReplicaSet>(&()),
        "EndpointSlice" => ApiResource::erase::<EndpointSlice>(&()),
        "Endpoints" => ApiResource::erase::<Endpoints>(&()),
        other => unreachable!("no controller here writes {other}"),
    };
    if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    }
}

async fn bind(client: &Client, namespace: &str, name: &str, node: &str) -> kube::Result<()> {
    let binding = Binding {
        metadata: kube::api::ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            ..Default::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            api_version: Some("v1".into()),
            name: Some(node.into()),
            ..Default::default()
        },
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    pods.create_subresource::<Binding, Value>("binding", name, &PostParams::default(), &binding).await.map(drop)
}
