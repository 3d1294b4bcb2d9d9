//! Objects of which only the metadata matters: namespaces, the node, owners of pods.

use crate::cache::Cache;
use crate::failure::{Failure, bounded, optional};
use ipam::Labels;
use ipam::owner::{self, OwnerRef, Step};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};

/// Annotations that no reader of ours needs and that can be large.
const BULKY: [&str; 1] = ["kubectl.kubernetes.io/last-applied-configuration"];

/// What is kept of a namespace or node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
}

impl Meta {
    fn of(meta: ObjectMeta) -> Self {
        Self { labels: meta.labels.unwrap_or_default(), annotations: annotations(meta.annotations) }
    }
}

/// Annotations less the bulky ones.
pub(crate) fn annotations(annotations: Option<Labels>) -> Labels {
    let mut annotations = annotations.unwrap_or_default();
    BULKY.iter().for_each(|key| drop(annotations.remove(*key)));
    annotations
}

/// Keeps the metadata of all namespaces. They are few and change rarely, so this costs less than asking.
pub async fn follow_namespaces(client: Client, cache: &Cache<Meta>) {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    cache.follow("namespaces", events, |object| Meta::of(object.metadata), drop).await;
}

/// Keeps the metadata of one node.
pub async fn follow_node(client: Client, node: &str, cache: &Cache<Meta>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let api: Api<PartialObjectMeta<Node>> = Api::all(client);
    let events = watcher(api, config).default_backoff();
    cache.follow("node", events, |object| Meta::of(object.metadata), drop).await;
}

/// The metadata of a namespace, not from a cache.
pub async fn read_namespace(client: &Client, name: &str) -> Result<Option<Meta>, Failure> {
    let api: Api<Namespace> = Api::all(client.clone());
    Ok(optional(bounded(api.get_metadata(name)).await)?.map(|object| Meta::of(object.metadata)))
}

/// The controller among the owners of an object.
pub fn controller(owners: Option<&Vec<OwnerReference>>) -> Option<OwnerRef> {
    let owner = owners?.iter().find(|owner| owner.controller == Some(true))?;
    Some(OwnerRef::new(&owner.api_version, &owner.kind, &owner.name, &owner.uid))
}

/// Why the top controller of a pod is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {namespace}/{name}, the controller of the pod, cannot be read", kind = owner.kind, name = owner.name)]
pub struct OwnerError {
    /// The object that was looked for.
    pub owner: OwnerRef,
    /// Its namespace.
    pub namespace: String,
    /// Why not.
    #[source]
    pub source: Failure,
}

/// The top controller of a pod, reading metadata only.
pub async fn top_controller(
    client: &Client,
    namespace: &str,
    pod: OwnerRef,
    direct: Option<OwnerRef>,
) -> Result<OwnerRef, OwnerError> {
    let owner = match owner::first(pod, direct) {
        Step::Top(owner) => return Ok(owner),
        Step::Fetch(owner) => owner,
    };
    let kind = GroupVersionKind::gvk(owner.group(), owner.version(), &owner.kind);
    // Only the kinds of `owner::first` come here, and their plurals are regular.
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    match bounded(api.get_metadata(&owner.name)).await {
        Ok(object) => {
            let above = controller(object.metadata.owner_references.as_ref());
            Ok(owner::above(owner, above))
        }
        Err(source) => Err(OwnerError { owner, namespace: namespace.to_owned(), source }),
    }
}
