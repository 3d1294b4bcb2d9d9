//! What happens after a write: dependents of deleted owners, contents of deleted namespaces, objects of deleted
//! definitions. Every step looks at the current state, so that it can be repeated after a crash.
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::delete::{CRD_CLEANUP, FOREGROUND, ORPHAN, Options, Propagation, delete_object};
use crate::meta;
use crate::request::{Accept, Call, Query, Shape, Target};
use crate::server::Server;
use crate::storage::{Event, Expect, Object, Refused, StoreId, Write};

const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// Deletions under way at once.
const PARALLEL: usize = 32;

/// Follows all writes until the server stops.
pub async fn run(server: Server, mut events: mpsc::UnboundedReceiver<Arc<Event>>, stop: CancellationToken) {
    sweep(&server).await;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = stop.cancelled() => None,
        };
        let Some(event) = event else { return };
        follow(&server, &event).await;
    }
}

/// After a start: everything that may have been left half-done.
async fn sweep(server: &Server) {
    let mut suspects = Vec::new();
    for (store, shard) in server.store().read().stores() {
        let marked = |o: &&Arc<Object>| !o.owners.is_empty() || meta::is_deleting(&o.value());
        suspects.extend(shard.objects.values().filter(marked).map(|o| (store.clone(), o.clone())));
    }
    for (store, object) in suspects {
        settle(server, &store, &object).await;
    }
}

async fn follow(server: &Server, event: &Event) {
    server.noticed(&event.store);
    if event.removed {
        let orphans = server.store().read().dependents(&event.new.uid);
        let work = orphans.iter().map(|(store, object)| collect(server, store, object)).collect::<Vec<_>>();
        futures::stream::iter(work).buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
        emptied(server, &event.store, &event.new).await;
    } else {
        settle(server, &event.store, &event.new).await;
    }
    // A foreground deletion waits for blocking dependents: look again at owners of what changed.
    let owners: BTreeSet<&String> = event.old.iter().flat_map(|o| &o.owners).chain(&event.new.owners).collect();
    for uid in owners {
        let owner = server.store().read().by_uid(uid).map(|(s, o)| (s.clone(), o.clone()));
        if let Some((store, owner)) = owner
            && meta::finalizers(&owner.value()).iter().any(|f| f == FOREGROUND)
        {
            settle(server, &store, &owner).await;
        }
    }
}

/// The last object of a terminating namespace or definition may have gone.
async fn emptied(server: &Server, store: &StoreId, object: &Object) {
    if let Some(namespace) = server.store().get("/namespaces", object.namespace()) {
        settle(server, &"/namespaces".into(), &namespace).await;
    }
    if let Some((group, plural)) = store.split_once('/')
        && let Some(definition) = server.store().get(DEFINITIONS, &format!("{plural}.{group}"))
    {
        settle(server, &DEFINITIONS.into(), &definition).await;
    }
}

/// Does what the object's own state asks for.
async fn settle(server: &Server, store: &StoreId, object: &Arc<Object>) {
    if !object.owners.is_empty() {
        collect(server, store, object).await;
    }
    let value = object.value();
    if !meta::is_deleting(&value) {
        return;
    }
    let finalizers = meta::finalizers(&value);
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has(ORPHAN) {
        let dependents = server.store().read().dependents(&object.uid);
        for (store, dependent) in dependents {
            edit(server, &store, &dependent, |value| drop_owners(value, |uid| *uid == object.uid)).await;
        }
        edit(server, store, object, |value| drop_finalizer(value, ORPHAN)).await;
    }
    if has(FOREGROUND) {
        foreground(server, store, object).await;
    }
    match &**store {
        "/namespaces" => namespace(server, store, object).await,
        DEFINITIONS if has(CRD_CLEANUP) => definition(server, store, object, &value).await,
        _ => {}
    }
}

/// Deletes the dependents of an owner that goes last; lets the owner go when none blocks it.
async fn foreground(server: &Server, store: &StoreId, owner: &Arc<Object>) {
    let dependents = server.store().read().dependents(&owner.uid);
    let blocks = |dependent: &Object| {
        let value = dependent.value();
        let mut references = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        references.any(|r| r["uid"] == owner.uid.as_str() && r["blockOwnerDeletion"] == true)
    };
    if !dependents.iter().any(|(_, d)| blocks(d)) {
        edit(server, store, owner, |value| drop_finalizer(value, FOREGROUND)).await;
        return;
    }
    for (store, dependent) in dependents {
        collect(server, &store, &dependent).await;
    }
}

/// Deletes a dependent all of whose owners are gone; drops references to those that are gone while others live.
async fn collect(server: &Server, store: &StoreId, object: &Arc<Object>) {
    let Some(object) = server.store().get(store, &object.key).filter(|o| o.uid == object.uid) else { return };
    let value = object.value();
    if meta::is_deleting(&value) && !meta::finalizers(&value).iter().any(|f| f == FOREGROUND) {
        return;
    }
    let (mut solid, mut gone, mut waiting) = (0, Vec::new(), Vec::new());
    for owner in &object.owners {
        match owner_state(server, &object, owner) {
            Owner::Lives => solid += 1,
            Owner::Gone => gone.push(owner.clone()),
            Owner::Waits => waiting.push(owner.clone()),
        }
    }
    if gone.is_empty() && waiting.is_empty() || meta::is_deleting(&value) {
        return;
    }
    if solid > 0 {
        edit(server, store, &object, |value| drop_owners(value, |uid| gone.contains(uid) || waiting.contains(uid))).await;
        return;
    }
    let has_dependents = !server.store().read().dependents(&object.uid).is_empty();
    let policy = if !waiting.is_empty() && has_dependents { Some(Propagation::Foreground) } else { None };
    remove(server, store, &object, policy).await;
}

enum Owner {
    Lives,
    Gone,
    Waits,
}

fn owner_state(server: &Server, dependent: &Object, uid: &String) -> Owner {
    let state = server.store().read();
    let Some((_, owner)) = state.by_uid(uid) else { return Owner::Gone };
    if !owner.namespace().is_empty() && owner.namespace() != dependent.namespace() {
        return Owner::Gone; // an owner in another namespace does not exist for this object
    }
    let value = owner.value();
    let waits = meta::is_deleting(&value) && meta::finalizers(&value).iter().any(|f| f == FOREGROUND);
    if waits { Owner::Waits } else { Owner::Lives }
}

/// Deletes what a terminating namespace still holds; lets the namespace go when it is empty.
async fn namespace(server: &Server, store: &StoreId, object: &Arc<Object>) {
    let prefix = format!("{}/", object.key);
    let mut contents = Vec::new();
    for (store, shard) in server.store().read().stores() {
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let range = shard.objects.range::<str, _>(from);
        contents.extend(range.take_while(|(k, _)| k.starts_with(&prefix)).map(|(_, o)| (store.clone(), o.clone())));
    }
    if contents.is_empty() {
        edit(server, store, object, |value| value["spec"].as_object_mut().is_some_and(|s| s.remove("finalizers").is_some())).await;
        return;
    }
    remove_all(server, &contents).await;
}

/// Deletes the objects of a terminating definition; lets the definition go when there are none.
async fn definition(server: &Server, store: &StoreId, object: &Arc<Object>, value: &Value) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let theirs: StoreId = format!("{}/{}", text(&value["spec"]["group"]), text(&value["spec"]["names"]["plural"])).into();
    let contents: Vec<_> = server.store().all(&theirs).into_iter().map(|o| (theirs.clone(), o)).collect();
    if contents.is_empty() {
        edit(server, store, object, |value| drop_finalizer(value, CRD_CLEANUP)).await;
        server.rebuild();
        return;
    }
    remove_all(server, &contents).await;
}

async fn remove_all(server: &Server, contents: &[(StoreId, Arc<Object>)]) {
    let fresh = contents.iter().filter(|(_, o)| !meta::is_deleting(&o.value()));
    let work = fresh.map(|(store, object)| remove(server, store, object, None)).collect::<Vec<_>>();
    futures::stream::iter(work).buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
}

/// A DELETE as a client would send it, guarded by the UID.
async fn remove(server: &Server, store: &StoreId, object: &Arc<Object>, propagation: Option<Propagation>) {
    let Some(resource) = server.catalog().by_store(store).cloned() else { return };
    let target = Target { resource, namespace: object.namespace().into(), name: Some(object.name().into()), sub: None };
    let call = Call {
        target,
        query: Query::default(),
        accept: Accept { shape: Shape::Whole, yaml: false },
        content_type: String::new(),
        user: "system:serviceaccount:kube-system:generic-garbage-collector".into(),
    };
    let options = Options { propagation, uid: Some(object.uid.clone()), ..Options::default() };
    if let Err(failure) = delete_object(server, &call, &options).await
        && !matches!(&*failure.reason, "NotFound" | "Conflict")
    {
        tracing::warn!(%store, key = %object.key, error = %failure, "garbage stays");
    }
}

/// Changes an object in place; when nothing holds a deleted object any more it goes.
async fn edit(server: &Server, store: &StoreId, object: &Arc<Object>, change: impl Fn(&mut Value) -> bool) {
    loop {
        let Some(current) = server.store().get(store, &object.key).filter(|o| o.uid == object.uid) else { return };
        let mut value = current.value();
        if !change(&mut value) {
            return;
        }
        let held = !meta::finalizers(&value).is_empty()
            || value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0
            || (&**store == "/namespaces" && value["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()));
        meta::drop_empty(meta::map_mut(&mut value));
        let remove = meta::is_deleting(&value) && !held;
        let write = Write {
            store: store.clone(),
            key: current.key.to_string(),
            expect: Expect::Version(current.version),
            value,
            remove,
            namespace: None,
        };
        match server.store().write(write).await {
            Err(Refused::Changed) => {}
            Err(Refused::Disk(why)) => return tracing::error!(%store, key = %object.key, why, "clean-up not written"),
            _ => return,
        }
    }
}

fn drop_finalizer(value: &mut Value, name: &str) -> bool {
    let mut finalizers = meta::finalizers(value);
    let before = finalizers.len();
    finalizers.retain(|f| f != name);
    let changed = finalizers.len() != before;
    value["metadata"]["finalizers"] = finalizers.into();
    changed
}

fn drop_owners(value: &mut Value, gone: impl Fn(&String) -> bool) -> bool {
    let Some(owners) = value["metadata"]["ownerReferences"].as_array_mut() else { return false };
    let before = owners.len();
    owners.retain(|o| !o["uid"].as_str().is_some_and(|uid| gone(&uid.to_owned())));
    owners.len() != before
}
