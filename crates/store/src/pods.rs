//! Pods of the node: what allocation needs of each.

use crate::cache::{Cache, Change};
use crate::failure::{Failure, bounded, optional};
use crate::meta;
use ipam::Labels;
use ipam::liveness::{PodPhase, is_alive};
use ipam::owner::OwnerRef;
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};

/// Annotations of a static pod's mirror that hold the UID which the runtime knows the pod by.
const STATIC_UIDS: [&str; 2] = ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"];

/// What is kept of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`.
    pub node: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// What its liveness depends on.
    pub phase: PodPhase,
    /// Its controller.
    pub controller: Option<OwnerRef>,
}

impl Pod {
    /// Does it live?
    pub fn is_alive(&self) -> bool {
        is_alive(Some(&self.phase))
    }

    /// Is this the pod that the runtime calls by `uid`? A runtime that passes no UID means whichever pod has the name.
    pub fn is_called(&self, uid: &str) -> bool {
        let is_static = || STATIC_UIDS.iter().any(|key| self.annotations.get(*key).is_some_and(|one| one == uid));
        uid.is_empty() || self.uid == uid || is_static()
    }
}

impl From<ApiPod> for Pod {
    fn from(pod: ApiPod) -> Self {
        let (meta, spec, status) = (pod.metadata, pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
        Self {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            node: spec.node_name.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            annotations: meta::annotations(meta.annotations),
            phase: PodPhase {
                terminating: meta.deletion_timestamp.is_some(),
                phase: status.phase.unwrap_or_default(),
                reason: status.reason.unwrap_or_default(),
                restart_policy: spec.restart_policy.unwrap_or_default(),
            },
            controller: meta::controller(meta.owner_references.as_ref()),
        }
    }
}

/// Keeps the pods of one node; `changed` is told of every change.
pub async fn follow(client: Client, node: &str, cache: &Cache<Pod>, changed: impl FnMut(Change<Pod>)) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let events = watcher(Api::<ApiPod>::all(client), config).default_backoff();
    cache.follow("pods", events, Pod::from, changed).await;
}

/// A pod, not from a cache.
pub async fn read(client: &Client, namespace: &str, name: &str) -> Result<Option<Pod>, Failure> {
    let api: Api<ApiPod> = Api::namespaced(client.clone(), namespace);
    Ok(optional(bounded(api.get(name)).await)?.map(Pod::from))
}

/// Sets an annotation of the pod with this UID. [`Failure::Conflict`]: the name belongs to another pod by now.
pub async fn annotate(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
    key: &str,
    value: &str,
) -> Result<(), Failure> {
    let api: Api<ApiPod> = Api::namespaced(client.clone(), namespace);
    // A UID in a patch is a precondition: the API server refuses to change it.
    let patch = serde_json::json!({"metadata": {"uid": uid, "annotations": {key: value}}});
    bounded(api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}
