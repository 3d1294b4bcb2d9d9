//! `SpiderEndpoint` objects: the view of a pod's addresses that people and upstream's tools read. Written here only.
//!
//! An endpoint bears our finalizer from its creation until the addresses are free, and belongs to its pod by ownerReference. Beyond
//! upstream it has a label with its node, so that an agent finds what it left behind when it was killed.

use crate::failure::{Failure, bounded, optional};
use k8s_api::{FINALIZER, SpiderEndpoint, SpiderEndpointStatus, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};

/// Tries of a read-change-write cycle before somebody else's haste is reported.
const TRIES: usize = 5;

/// Reads and writes endpoints.
#[derive(Clone)]
pub struct Endpoints {
    client: Client,
}

/// Which object of a pod was written: enough to write it again without reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
}

impl Endpoints {
    /// Endpoints behind this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn api(&self, namespace: &str) -> Api<SpiderEndpoint> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The endpoint of a pod, not from a cache.
    pub async fn read(&self, namespace: &str, name: &str) -> Result<Option<SpiderEndpoint>, Failure> {
        optional(bounded(self.api(namespace).get(name)).await)
    }

    /// The endpoints of a node, from the API server's cache: a hint of what there is.
    pub async fn of_node(&self, node: &str) -> Result<Vec<SpiderEndpoint>, Failure> {
        let api: Api<SpiderEndpoint> = Api::all(self.client.clone());
        let selector = format!("{}={}", labels::IP_NODE, labels::value(node));
        let page = bounded(api.list(&ListParams::default().labels(&selector).match_any())).await?;
        let is_of_node = |one: &SpiderEndpoint| one.status.as_ref().is_some_and(|status| status.current.node == node);
        Ok(page.items.into_iter().filter(is_of_node).collect())
    }

    /// Makes the endpoint of a pod say `status`, whatever was there: created if absent, updated if it is this pod's, replaced if it is
    /// left over from an earlier pod of the same name. `last` saves the reading when the object was written before.
    pub async fn write(
        &self,
        namespace: &str,
        name: &str,
        owned: bool,
        status: &SpiderEndpointStatus,
        last: Option<&Written>,
    ) -> Result<Written, Failure> {
        let api = self.api(namespace);
        let wanted = new_object(namespace, name, owned, status);
        let first = match last {
            Some(written) => replace(&api, with_identity(wanted.clone(), written)).await,
            None => bounded(api.create(&PostParams::default(), &wanted)).await,
        };
        let mut failure = match first {
            Ok(object) => return Ok(written(&object)),
            Err(failure) => failure,
        };
        for _ in 0..TRIES {
            failure = match failure {
                Failure::NotFound => match bounded(api.create(&PostParams::default(), &wanted)).await {
                    Ok(object) => return Ok(written(&object)),
                    Err(failure) => failure,
                },
                Failure::AlreadyExists | Failure::Conflict => match self.write_over(&api, name, &wanted).await {
                    Ok(object) => return Ok(written(&object)),
                    Err(failure) => failure,
                },
                other => return Err(other),
            };
        }
        Err(failure)
    }

    async fn write_over(
        &self,
        api: &Api<SpiderEndpoint>,
        name: &str,
        wanted: &SpiderEndpoint,
    ) -> Result<SpiderEndpoint, Failure> {
        let Some(found) = optional(bounded(api.get(name)).await)? else { return Err(Failure::NotFound) };
        if uid_of(&found) != uid_of(wanted) || found.metadata.deletion_timestamp.is_some() {
            // An earlier pod's, or one that cannot live on: out of the way, then anew.
            self.discard(api, found).await?;
            return Err(Failure::NotFound);
        }
        let identity = written(&found);
        let mut object = with_identity(wanted.clone(), &identity);
        // Labels, annotations and finalizers of others stay.
        let labels = object.metadata.labels.take();
        object.metadata.labels = found.metadata.labels.clone();
        object.metadata.labels.get_or_insert_default().extend(labels.into_iter().flatten());
        object.metadata.annotations = found.metadata.annotations.clone();
        let others = found.finalizers().iter().filter(|one| *one != FINALIZER).cloned();
        object.finalizers_mut().extend(others);
        replace(api, object).await
    }

    /// Removes the endpoint if it tells the addresses of this pod UID. Absent, or another pod's: nothing to do. `last` saves the
    /// reading when the object was written before.
    pub async fn remove(
        &self,
        namespace: &str,
        name: &str,
        pod_uid: &str,
        last: Option<&Written>,
    ) -> Result<(), Failure> {
        let api = self.api(namespace);
        if let Some(written) = last {
            let mut object = SpiderEndpoint::new(namespace, name, SpiderEndpointStatus::default());
            object.metadata.uid = Some(written.uid.clone());
            return self.discard(&api, object).await;
        }
        for _ in 0..TRIES {
            match optional(bounded(api.get(name)).await)? {
                Some(found) if uid_of(&found) == Some(pod_uid) => match self.discard(&api, found).await {
                    Err(Failure::Conflict) => {} // judged anew
                    outcome => return outcome,
                },
                _ => return Ok(()),
            }
        }
        Err(Failure::Conflict)
    }

    /// Deletes this very object and takes our finalizer off it.
    async fn discard(&self, api: &Api<SpiderEndpoint>, object: SpiderEndpoint) -> Result<(), Failure> {
        let name = object.name_any();
        let mut left = Some(object);
        if left.as_ref().is_some_and(|object| object.metadata.deletion_timestamp.is_none()) {
            // The version too where it was read: what was changed since may tell another pod's addresses.
            let metadata = left.as_ref().map(|object| &object.metadata);
            let uid = metadata.and_then(|metadata| metadata.uid.clone());
            let resource_version = metadata.and_then(|metadata| metadata.resource_version.clone());
            let read = resource_version.is_some();
            let preconditions = Some(Preconditions { uid, resource_version });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            left = match bounded(api.delete(&name, &params)).await {
                Ok(answer) => answer.left(),
                Err(Failure::Conflict) if read => return Err(Failure::Conflict),
                Err(Failure::NotFound | Failure::Conflict) => None, // it is gone, or another object has its name
                Err(failure) => return Err(failure),
            };
        }
        for _ in 0..TRIES {
            let Some(mut object) = left.filter(|object| object.finalizers().iter().any(|one| one == FINALIZER)) else {
                return Ok(());
            };
            let uid = object.metadata.uid.clone();
            object.finalizers_mut().retain(|one| one != FINALIZER);
            match bounded(api.replace(&name, &PostParams::default(), &object)).await {
                Ok(_) | Err(Failure::NotFound) => return Ok(()),
                Err(Failure::Conflict) => {}
                Err(failure) => return Err(failure),
            }
            left = optional(bounded(api.get(&name)).await)?.filter(|object| object.metadata.uid == uid);
        }
        Err(Failure::Conflict)
    }
}

async fn replace(api: &Api<SpiderEndpoint>, object: SpiderEndpoint) -> Result<SpiderEndpoint, Failure> {
    bounded(api.replace(&object.name_any(), &PostParams::default(), &object)).await
}

fn new_object(namespace: &str, name: &str, owned: bool, status: &SpiderEndpointStatus) -> SpiderEndpoint {
    let mut object = SpiderEndpoint::new(namespace, name, status.clone());
    object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    let node = labels::value(&status.current.node);
    object.metadata.labels = Some([(labels::IP_NODE.to_owned(), node)].into());
    object.metadata.owner_references = owned.then(|| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: name.to_owned(),
            uid: status.current.uid.clone(),
            controller: None,
            block_owner_deletion: None,
        }]
    });
    object
}

fn with_identity(mut object: SpiderEndpoint, identity: &Written) -> SpiderEndpoint {
    object.metadata.uid = Some(identity.uid.clone());
    object.metadata.resource_version = Some(identity.version.clone());
    object
}

fn written(object: &SpiderEndpoint) -> Written {
    Written {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        version: object.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// The UID of the pod whose addresses an endpoint tells.
pub fn uid_of(object: &SpiderEndpoint) -> Option<&str> {
    object.status.as_ref().map(|status| status.current.uid.as_str())
}
