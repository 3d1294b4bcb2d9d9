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

    /// Makes the endpoint of a pod say `status`, whatever was there: created if absent, updated if it is this pod's, taken over if it
    /// is left over from an earlier pod of the same name, perhaps of another node: then nothing of that pod stays in it. `last` saves
    /// the reading when the object was written before. Refused if the name has gone on to a later pod.
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
                Failure::AlreadyExists | Failure::Conflict => {
                    match self.write_over(&api, namespace, name, &wanted).await {
                        Ok(object) => return Ok(written(&object)),
                        Err(failure) => failure,
                    }
                }
                other => return Err(other),
            };
        }
        Err(failure)
    }

    /// Writes an object that is there already. One that tells of an earlier pod is taken over as it is, by one update: an agent may
    /// not delete what another node's left.
    async fn write_over(
        &self,
        api: &Api<SpiderEndpoint>,
        namespace: &str,
        name: &str,
        wanted: &SpiderEndpoint,
    ) -> Result<SpiderEndpoint, Failure> {
        let Some(found) = optional(bounded(api.get(name)).await)? else { return Err(Failure::NotFound) };
        let identity = written(&found);
        let mut object = with_identity(wanted.clone(), &identity);
        if uid_of(&found) == uid_of(wanted) {
            // Labels and annotations of others stay.
            let labels = object.metadata.labels.take();
            object.metadata.labels = found.metadata.labels.clone();
            object.metadata.labels.get_or_insert_default().extend(labels.into_iter().flatten());
            object.metadata.annotations = found.metadata.annotations.clone();
        } else {
            self.must_be_current(namespace, name, wanted).await?;
        }
        let others: Vec<String> = found.finalizers().iter().filter(|one| *one != FINALIZER).cloned().collect();
        if found.metadata.deletion_timestamp.is_none() {
            object.finalizers_mut().extend(others);
            return replace(api, object).await;
        }
        // It cannot live on: the update lets go of it, then anew.
        let held = others.join(", ");
        object.metadata.finalizers = Some(others);
        replace(api, object).await?;
        if held.is_empty() {
            return Err(Failure::NotFound);
        }
        Err(Failure::Unknown(format!("an endpoint of this name is being deleted and held by the finalizers {held}")))
    }

    /// Whether the pod is the one that has the name now. Judged after the object was read: what the pod's successor writes later
    /// changes the object's version.
    async fn must_be_current(&self, namespace: &str, name: &str, wanted: &SpiderEndpoint) -> Result<(), Failure> {
        let uid = uid_of(wanted).unwrap_or_default();
        match crate::pods::read(&self.client, namespace, name).await? {
            Some(pod) if pod.uid == uid => Ok(()),
            Some(pod) => {
                Err(Failure::Refused(format!("the name belongs to pod {} of node {:?} now", pod.uid, pod.node)))
            }
            None => Err(Failure::Refused(format!("pod {uid} is gone and the endpoint tells of another one"))),
        }
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
        let empty = || SpiderEndpoint::new(namespace, name, SpiderEndpointStatus::default());
        let mut known = last.map(|written| with_identity(empty(), written));
        for _ in 0..TRIES {
            let object = match known.take() {
                Some(object) => object,
                None => match optional(bounded(api.get(name)).await)? {
                    Some(found) if uid_of(&found) == Some(pod_uid) => found,
                    _ => return Ok(()),
                },
            };
            match self.discard(&api, object).await {
                Err(Failure::Conflict) => {} // judged anew
                outcome => return outcome,
            }
        }
        Err(Failure::Conflict)
    }

    /// Removes an endpoint that was read, if nobody has changed it since: else it is a conflict.
    pub async fn remove_this(&self, read: &SpiderEndpoint) -> Result<(), Failure> {
        let namespace = read.metadata.namespace.as_deref().unwrap_or_default();
        self.discard(&self.api(namespace), read.clone()).await
    }

    /// Deletes this very object in this very version (what was changed since may tell another pod's addresses) and takes our
    /// finalizer off it.
    async fn discard(&self, api: &Api<SpiderEndpoint>, object: SpiderEndpoint) -> Result<(), Failure> {
        let name = object.name_any();
        let mut left = Some(object);
        if let Some(object) = left.take_if(|object| object.metadata.deletion_timestamp.is_none()) {
            let Written { uid, version } = written(&object);
            let preconditions = Some(Preconditions { uid: Some(uid), resource_version: Some(version) });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            left = match bounded(api.delete(&name, &params)).await {
                Ok(answer) => answer.left(),
                Err(Failure::NotFound) => None,
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
