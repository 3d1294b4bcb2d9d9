//! NetworkAttachmentDefinitions and the cluster's coordinator configuration.

use crate::cache::Cache;
use crate::failure::{Failure, bounded, optional};
use k8s_api::{CoordinatorSpec, NetworkAttachmentDefinition, SpiderCoordinator, SpiderCoordinatorStatus, labels};
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

/// What is kept of a NetworkAttachmentDefinition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// `spec.config` as stored, empty when absent.
    pub config: String,
    /// Annotation `k8s.v1.cni.cncf.io/resourceName`, empty when absent.
    pub resource_name: String,
}

impl From<NetworkAttachmentDefinition> for Attachment {
    fn from(object: NetworkAttachmentDefinition) -> Self {
        let resource_name = object.annotations().get(labels::NAD_RESOURCE_NAME).cloned().unwrap_or_default();
        Self { config: object.spec.config.unwrap_or_default(), resource_name }
    }
}

/// Keeps all attachments.
pub async fn follow_attachments(client: Client, cache: &Cache<Attachment>) {
    let api: Api<NetworkAttachmentDefinition> = Api::all(client);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    cache.follow("network attachments", events, Attachment::from, drop).await;
}

/// An attachment, not from a cache.
pub async fn read_attachment(client: &Client, namespace: &str, name: &str) -> Result<Option<Attachment>, Failure> {
    let api: Api<NetworkAttachmentDefinition> = Api::namespaced(client.clone(), namespace);
    Ok(optional(bounded(api.get(name)).await)?.map(Attachment::from))
}

/// What is kept of a SpiderCoordinator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coordinator {
    /// Name of the object.
    pub name: String,
    /// `spec`.
    pub spec: CoordinatorSpec,
    /// `status`.
    pub status: SpiderCoordinatorStatus,
}

impl From<SpiderCoordinator> for Coordinator {
    fn from(object: SpiderCoordinator) -> Self {
        Self { name: object.name_any(), spec: object.spec, status: object.status.unwrap_or_default() }
    }
}

/// Keeps all coordinator configurations (normally one).
pub async fn follow_coordinators(client: Client, cache: &Cache<Coordinator>) {
    let events = watcher(Api::<SpiderCoordinator>::all(client), watcher::Config::default()).default_backoff();
    cache.follow("coordinators", events, Coordinator::from, drop).await;
}

/// All coordinator configurations, not from a cache.
pub async fn read_coordinators(client: &Client) -> Result<Vec<Coordinator>, Failure> {
    let api: Api<SpiderCoordinator> = Api::all(client.clone());
    Ok(bounded(api.list(&ListParams::default())).await?.items.into_iter().map(Coordinator::from).collect())
}
