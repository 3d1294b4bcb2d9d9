//! Our kinds: their objects and their definitions.

use std::time::Duration;

use k8s_api::{FINALIZER, GROUP, all_crds};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
    core::{GroupVersionKind, PartialObjectMeta},
};
use serde_json::json;
use store::{
    Failure,
    failure::{bounded, optional},
};
use tokio::time::Instant;

use super::{PAUSE, again, is_absent};

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// The SR-IOV operator's group, and the definition that upstream leaves.
const SRIOV: (&str, &str) = ("sriovnetwork.openshift.io", "sriovoperatorconfigs.sriovnetwork.openshift.io");

/// Our kinds.
pub fn ours() -> Vec<ApiResource> {
    let of_ours = all_crds().into_iter().map(|(_, crd)| crd.spec).filter(|spec| spec.group == GROUP);
    let resource =
        |spec: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionSpec| {
            let kind = GroupVersionKind::gvk(GROUP, k8s_api::VERSION, &spec.names.kind);
            ApiResource::from_gvk_with_plural(&kind, &spec.names.plural)
        };
    of_ours.map(resource).collect()
}

/// Names of the definitions to be removed.
pub async fn definitions(client: &Client, operator: bool, limit: Duration, left: &mut Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = ours().into_iter().map(|kind| format!("{}.{GROUP}", kind.plural)).collect();
    if operator {
        let api = Api::<CustomResourceDefinition>::all(client.clone());
        let listed = again(limit, || async { bounded(api.list_metadata(&ListParams::default())).await }).await;
        match listed {
            Ok(list) => {
                let of_group = |name: &String| name.ends_with(&format!(".{}", SRIOV.0)) && name != SRIOV.1;
                names.extend(list.items.iter().map(ResourceExt::name_any).filter(of_group));
            }
            Err(failure) => left.push(format!("cannot list the definitions of {}: {failure}", SRIOV.0)),
        }
    }
    names
}

/// Removes all objects of a kind, and our finalizer from those that it keeps.
pub async fn empty(client: &Client, kind: &ApiResource, limit: Duration) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let outcome = sweep(client, kind).await;
        let late = started.elapsed() >= limit;
        match outcome {
            Ok(None) => return Ok(()),
            Ok(Some(left)) if late => return Err(Failure::Unknown(left)),
            Err(failure) if late || !failure.is_unknown() => return Err(failure),
            Ok(Some(_)) | Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// One round; tells what is left.
async fn sweep(client: &Client, kind: &ApiResource) -> Result<Option<String>, Failure> {
    let all = Api::<DynamicObject>::all_with(client.clone(), kind);
    let mut left = None;
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = match bounded(all.list_metadata(&page)).await {
            Err(failure) if is_absent(&failure) => return Ok(None),
            outcome => outcome?,
        };
        for object in &list.items {
            if let Some(why) = discard(client, kind, object).await? {
                left = Some(why);
            }
        }
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(left),
        }
    }
}

/// Deletes this object and takes our finalizer off; tells what keeps it.
async fn discard(
    client: &Client,
    kind: &ApiResource,
    object: &PartialObjectMeta<DynamicObject>,
) -> Result<Option<String>, Failure> {
    let name = object.name_any();
    let api = match object.namespace() {
        Some(namespace) => Api::<DynamicObject>::namespaced_with(client.clone(), &namespace, kind),
        None => Api::<DynamicObject>::all_with(client.clone(), kind),
    };
    if object.metadata.deletion_timestamp.is_none() {
        let this = DeleteParams {
            preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        match bounded(api.delete(&name, &this)).await {
            Ok(_) => {}
            Err(failure) if is_absent(&failure) || failure == Failure::Conflict => {}
            Err(failure) => return Err(failure),
        }
    }
    let others: Vec<&String> = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    if others.len() < object.finalizers().len() {
        let patch = Patch::Merge(json!({"metadata": {"uid": object.uid(), "finalizers": others}}));
        match bounded(api.patch_metadata(&name, &PatchParams::default(), &patch)).await {
            Ok(_) => {}
            Err(failure) if is_absent(&failure) || failure == Failure::Conflict => {}
            Err(failure) => return Err(failure),
        }
    }
    if others.is_empty() {
        // Gone, or so at the next look.
        return Ok((!object.finalizers().is_empty() && object.metadata.deletion_timestamp.is_none())
            .then(|| format!("{name} is going")));
    }
    let others: Vec<&str> = others.into_iter().map(String::as_str).collect();
    Ok(Some(format!("{name} is kept by the finalizers {}, which are not ours", others.join(", "))))
}

/// Removes a definition, with whatever objects somebody has made meanwhile.
pub async fn undefine(client: &Client, name: &str, limit: Duration) -> Result<(), Failure> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let kind = ours().into_iter().find(|kind| format!("{}.{GROUP}", kind.plural) == name);
    let started = Instant::now();
    let removed = again(limit, || async {
        match bounded(api.delete(name, &DeleteParams::default())).await {
            Err(failure) if is_absent(&failure) => Ok(()),
            outcome => outcome.map(drop),
        }
    });
    removed.await?;
    loop {
        if optional(again(limit, || bounded(api.get_metadata(name))).await)?.is_none() {
            return Ok(());
        }
        if started.elapsed() >= limit {
            return Err(Failure::Unknown(format!("it is still there after {limit:?}")));
        }
        if let Some(kind) = &kind {
            sweep(client, kind).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
