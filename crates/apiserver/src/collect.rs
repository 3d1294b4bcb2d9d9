//! What happens after a write: dependents of deleted owners, contents of deleted namespaces, objects of deleted
//! definitions. Every step looks at the current state, so that it can be repeated after a crash; what could not be
//! deleted (a webhook refused) or changed (the disk failed) is tried again from time to time. Events go when they are old.
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::delete::{CRD_CLEANUP, FOREGROUND, ORPHAN, Options, Propagation, delete_object};
use crate::meta;
use crate::request::{Accept, Call, Query, Shape, Target};
use crate::server::Server;
use crate::storage::{DEFINITIONS, EVENTS, Event, Expect, Object, Refused, State, StoreId, Write};

const NAMESPACES: &str = "/namespaces";
/// Deletions under way at once.
const PARALLEL: usize = 32;
/// Pause before failed deletions are tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Shortest pause between looks for old Events; the longest is [`RETRY`].
const SHORTEST: Duration = Duration::from_millis(100);

type Item = (StoreId, Arc<Object>);

/// Follows all writes until the server stops.
pub async fn run(server: Server, mut events: mpsc::UnboundedReceiver<Arc<Event>>, stop: CancellationToken) {
    let collector = Collector { server, failed: Mutex::default(), seen_going: Mutex::default() };
    collector.sweep().await;
    let mut retry = tokio::time::interval(RETRY);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ttl = collector.server.options().event_ttl;
    let mut expiry = tokio::time::interval(ttl.clamp(SHORTEST, RETRY));
    expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut disk = collector.server.store().health();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => collector.follow(&event).await,
                None => return,
            },
            _ = retry.tick() => collector.again().await,
            _ = expiry.tick(), if !ttl.is_zero() => collector.expire(ttl).await,
            Ok(()) = disk.changed() => {
                if disk.borrow_and_update().is_none() {
                    collector.again().await;
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

struct Collector {
    server: Server,
    /// Objects that could not be deleted, changed or judged.
    failed: Mutex<BTreeSet<(StoreId, Arc<str>)>>,
    /// UIDs of owners that went and have left dependents.
    seen_going: Mutex<BTreeSet<String>>,
}

impl Collector {
    fn get(&self, store: &str, key: &str) -> Option<Arc<Object>> {
        self.server.store().get(store, key)
    }

    fn dependents(&self, uid: &str) -> Vec<Item> {
        self.server.store().read().dependents(uid)
    }

    /// After a start: everything that may have been left half-done.
    async fn sweep(&self) {
        let suspects: Vec<Item> = {
            let state = self.server.store().read();
            let all = state
                .stores()
                .flat_map(|(store, shard)| shard.objects.values().map(move |o| (store.clone(), o.clone())));
            all.filter(|(_, o)| o.deleting || !o.owners.is_empty()).collect()
        };
        for (store, object) in suspects {
            self.collect(&store, &object).await;
            self.settle(&store, &object).await;
        }
    }

    async fn again(&self) {
        let has_dependents = |uid: &String| !self.dependents(uid).is_empty();
        self.seen_going.lock().expect("nothing panics while it holds the list").retain(has_dependents);
        let failed = std::mem::take(&mut *self.failed.lock().expect("nothing panics while it holds the list"));
        for (store, key) in failed {
            if let Some(object) = self.get(&store, &key) {
                self.collect(&store, &object).await;
                self.settle(&store, &object).await;
                self.emptied(&store, &object, true).await;
            }
        }
    }

    /// Removes the Events that nobody has written for so long, whatever holds them, as etcd does. What is not removed now is later.
    async fn expire(&self, ttl: Duration) {
        let now = Timestamp::now();
        let is_old =
            |event: &&Arc<Object>| Duration::try_from(now.duration_since(event.written)).is_ok_and(|age| age >= ttl);
        let old: Vec<Arc<Object>> = {
            let state = self.server.store().read();
            state.shard(EVENTS).into_iter().flat_map(|shard| shard.objects.values()).filter(is_old).cloned().collect()
        };
        let removal = |event: Arc<Object>| Write {
            store: EVENTS.into(),
            key: event.key.to_string(),
            expect: Expect::Version(event.version),
            value: event.value(),
            remove: true,
            namespace: None,
            definition: None,
        };
        let work = old.into_iter().map(|event| self.server.store().write(removal(event)));
        futures::stream::iter(work).buffer_unordered(PARALLEL).collect::<Vec<_>>().await;
    }

    async fn follow(&self, event: &Event) {
        self.server.noticed(&event.store);
        let (store, new) = (&event.store, &event.new);
        let old_owners = event.old.as_ref().map_or(&[][..], |o| &o.owners);
        if event.removed {
            let dependents = self.dependents(&new.uid);
            if !dependents.is_empty() {
                let mut gone = self.seen_going.lock().expect("nothing panics while it holds the list");
                gone.insert(new.uid.clone());
            }
            let work = dependents.iter().map(|(store, object)| self.collect(store, object)).collect::<Vec<_>>();
            futures::stream::iter(work).buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
            self.emptied(store, new, false).await;
        } else {
            if old_owners != new.owners {
                self.collect(store, new).await;
            }
            self.settle(store, new).await;
        }
        // A foreground deletion waits for blocking dependents: look again at the owners of what changed.
        let owners: BTreeSet<&String> = old_owners.iter().chain(&new.owners).collect();
        for uid in owners {
            let owner = self.server.store().read().by_uid(uid).map(|(s, o)| (s.clone(), o.clone()));
            if let Some((store, owner)) = owner.filter(|(_, o)| o.deleting) {
                self.settle(&store, &owner).await;
            }
        }
    }

    /// An object has gone; it may have been the last of a terminating namespace or definition.
    async fn emptied(&self, store: &StoreId, object: &Object, retry: bool) {
        let namespace = self.get(NAMESPACES, object.namespace()).filter(|n| n.deleting);
        if let Some(namespace) = namespace
            && (retry || contents(&self.server.store().read(), &namespace.key, true).is_empty())
        {
            self.settle(&NAMESPACES.into(), &namespace).await;
        }
        let last = retry || self.server.store().read().shard(store).is_none_or(|s| s.objects.is_empty());
        if last
            && let Some((group, plural)) = store.split_once('/')
            && let Some(definition) = self.get(DEFINITIONS, &format!("{plural}.{group}"))
        {
            self.settle(&DEFINITIONS.into(), &definition).await;
        }
    }

    /// Does what an object that is being deleted waits for.
    async fn settle(&self, store: &StoreId, object: &Arc<Object>) {
        let Some(object) = self.get(store, &object.key).filter(|o| o.uid == object.uid && o.deleting) else { return };
        let value = object.value();
        let finalizers = meta::finalizers(&value);
        let has = |name: &str| finalizers.iter().any(|f| f == name);
        if has(ORPHAN) {
            let mut orphaned = true;
            for (store, dependent) in self.dependents(&object.uid) {
                orphaned &= self.edit(&store, &dependent, |value| drop_owners(value, |uid| *uid == object.uid)).await;
            }
            match orphaned {
                true => _ = self.edit(store, &object, |value| drop_finalizer(value, ORPHAN)).await,
                // Without its owner a dependent that still names it would be deleted.
                false => self.later(store, &object),
            }
        }
        if has(FOREGROUND) {
            self.foreground(store, &object).await;
        }
        match &**store {
            NAMESPACES => self.namespace(store, &object).await,
            DEFINITIONS if has(CRD_CLEANUP) => self.definition(store, &object, &value).await,
            _ => {}
        }
    }

    /// Deletes the dependents of an owner that goes last; lets the owner go when none blocks it.
    async fn foreground(&self, store: &StoreId, owner: &Arc<Object>) {
        let dependents = self.dependents(&owner.uid);
        let blocks = |dependent: &Object| {
            let value = dependent.value();
            let mut references = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            references.any(|r| r["uid"] == owner.uid.as_str() && r["blockOwnerDeletion"] == true)
        };
        if !dependents.iter().any(|(_, d)| blocks(d)) {
            self.edit(store, owner, |value| drop_finalizer(value, FOREGROUND)).await;
            return;
        }
        for (store, dependent) in dependents {
            self.collect(&store, &dependent).await;
        }
    }

    /// Deletes a dependent all of whose owners are gone; drops references to those that are gone while others live.
    async fn collect(&self, store: &StoreId, object: &Arc<Object>) {
        let current = self.get(store, &object.key).filter(|o| o.uid == object.uid && !o.deleting);
        let Some(object) = current.filter(|o| !o.owners.is_empty()) else { return };
        let (mut lives, mut gone, mut waiting) = (false, Vec::new(), Vec::new());
        for reference in object.value()["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
            let owner = reference["uid"].as_str().unwrap_or_default().to_owned();
            match self.owner_state(&object, &owner, reference) {
                Owner::Lives => lives = true,
                Owner::Gone => gone.push(owner),
                Owner::Waits => waiting.push(owner),
                Owner::Impossible => {
                    tracing::warn!(%store, key = %object.key, owner = %reference, "what is in a namespace owns no object of the cluster");
                    return;
                }
                Owner::Unknown => {
                    tracing::debug!(%store, key = %object.key, owner = %reference, "the kind of the owner is not served");
                    return self.later(store, &object);
                }
            }
        }
        if gone.is_empty() && waiting.is_empty() {
            return;
        }
        if lives {
            self.edit(store, &object, |value| drop_owners(value, |uid| gone.contains(uid) || waiting.contains(uid)))
                .await;
            return;
        }
        let first = !waiting.is_empty() && !self.dependents(&object.uid).is_empty();
        self.remove(store, &object, first.then_some(Propagation::Foreground)).await;
    }

    fn owner_state(&self, dependent: &Object, uid: &str, reference: &Value) -> Owner {
        {
            let state = self.server.store().read();
            // An owner in another namespace does not exist for this object.
            let found = state.by_uid(uid).map(|(_, owner)| owner);
            let owner = found.filter(|o| o.namespace().is_empty() || o.namespace() == dependent.namespace());
            if let Some(owner) = owner {
                let waits = owner.deleting && meta::finalizers(&owner.value()).iter().any(|f| f == FOREGROUND);
                return if waits { Owner::Waits } else { Owner::Lives };
            }
        }
        let text = |key: &str| reference[key].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let catalog = self.server.catalog();
        let kind = catalog.of(group, version).find(|resource| resource.kind == text("kind"));
        match kind {
            Some(kind) if kind.namespaced && dependent.namespace().is_empty() => Owner::Impossible,
            Some(_) => Owner::Gone,
            // Its kind may have gone right after it.
            None if self.seen_going.lock().expect("nothing panics while it holds the list").contains(uid) => {
                Owner::Gone
            }
            None => Owner::Unknown,
        }
    }

    /// Deletes what a terminating namespace still holds; lets the namespace go when it is empty.
    async fn namespace(&self, store: &StoreId, object: &Arc<Object>) {
        let contents = contents(&self.server.store().read(), &object.key, false);
        if contents.is_empty() {
            let release =
                |value: &mut Value| value["spec"].as_object_mut().is_some_and(|s| s.remove("finalizers").is_some());
            self.edit(store, object, release).await;
            return;
        }
        self.remove_all(&contents).await;
    }

    /// Deletes the objects of a terminating definition; lets the definition go when there are none.
    async fn definition(&self, store: &StoreId, object: &Arc<Object>, value: &Value) {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let theirs: StoreId =
            format!("{}/{}", text(&value["spec"]["group"]), text(&value["spec"]["names"]["plural"])).into();
        let contents: Vec<_> = self.server.store().all(&theirs).into_iter().map(|o| (theirs.clone(), o)).collect();
        if contents.is_empty() {
            self.edit(store, object, |value| drop_finalizer(value, CRD_CLEANUP)).await;
            return;
        }
        self.remove_all(&contents).await;
    }

    async fn remove_all(&self, contents: &[Item]) {
        let fresh = contents.iter().filter(|(_, o)| !o.deleting);
        let work = fresh.map(|(store, object)| self.remove(store, object, None)).collect::<Vec<_>>();
        futures::stream::iter(work).buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
    }

    /// A DELETE as a client would send it, guarded by the UID.
    async fn remove(&self, store: &StoreId, object: &Arc<Object>, propagation: Option<Propagation>) {
        let Some(resource) = self.server.catalog().by_store(store).cloned() else { return };
        let target =
            Target { resource, namespace: object.namespace().into(), name: Some(object.name().into()), sub: None };
        let call = Call {
            target,
            query: Query::default(),
            accept: Accept { shape: Shape::Whole, yaml: false },
            content_type: String::new(),
            user: "system:serviceaccount:kube-system:generic-garbage-collector".into(),
        };
        let options = Options { propagation, uid: Some(object.uid.clone()), ..Options::default() };
        match delete_object(&self.server, &call, &options, &mut Vec::new()).await {
            Err(failure) if !matches!(&*failure.reason, "NotFound" | "Conflict") => {
                tracing::warn!(%store, key = %object.key, error = %failure, "deletion failed, will be tried again");
                self.later(store, object);
            }
            _ => {}
        }
    }

    /// Looks at the object again after a while.
    fn later(&self, store: &StoreId, object: &Object) {
        let mut failed = self.failed.lock().expect("nothing panics while it holds the list");
        failed.insert((store.clone(), object.key.clone()));
    }

    /// Changes an object in place; when nothing holds a deleted object any more it goes. False when that must be done later.
    async fn edit(&self, store: &StoreId, object: &Arc<Object>, change: impl Fn(&mut Value) -> bool) -> bool {
        loop {
            let Some(current) = self.get(store, &object.key).filter(|o| o.uid == object.uid) else { return true };
            let mut value = current.value();
            if !change(&mut value) {
                return true;
            }
            let held = !meta::finalizers(&value).is_empty()
                || value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0
                || (&**store == NAMESPACES && value["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()));
            meta::drop_empty(meta::map_mut(&mut value));
            let write = Write {
                store: store.clone(),
                key: current.key.to_string(),
                expect: Expect::Version(current.version),
                remove: current.deleting && !held,
                value,
                namespace: None,
                definition: None,
            };
            match self.server.store().write(write).await {
                Err(Refused::Changed) => {}
                Err(Refused::Disk(why)) => {
                    tracing::warn!(%store, key = %object.key, why, "clean-up not written, will be tried again");
                    self.later(store, object);
                    return false;
                }
                _ => {
                    self.server.noticed(store);
                    return true;
                }
            }
        }
    }
}

/// The objects of a namespace; with `any`, one of them at most.
fn contents(state: &State, namespace: &str, any: bool) -> Vec<Item> {
    let prefix = format!("{namespace}/");
    let mut found = Vec::new();
    for (store, shard) in state.stores() {
        let range = shard.objects.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        let theirs = range.take_while(|(k, _)| k.starts_with(&prefix)).map(|(_, o)| (store.clone(), o.clone()));
        found.extend(theirs.take(if any { 1 } else { usize::MAX }));
        if any && !found.is_empty() {
            break;
        }
    }
    found
}

enum Owner {
    Lives,
    Gone,
    /// It is being deleted in the foreground.
    Waits,
    /// It would be in a namespace, the dependent is not; nothing will change that.
    Impossible,
    /// Nobody serves its kind, so nobody can tell whether it is there.
    Unknown,
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use axum::body::Body;
    use http::{Method, Request, StatusCode};
    use http_body_util::BodyExt as _;
    use serde_json::json;
    use tower::ServiceExt as _;

    use super::*;

    async fn send(server: &Server, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(format!("/api/v1/namespaces/default/{path}"));
        let request = request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap();
        let response = server.router().oneshot(request).await.unwrap();
        let code = response.status();
        (code, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    #[tokio::test]
    async fn what_the_disk_refused_is_collected_later() {
        for propagation in ["Orphan", "Foreground", "Background"] {
            let dir = tempfile::tempdir().unwrap();
            let options = crate::Options { data_dir: Some(dir.path().into()), ..crate::Options::default() };
            let server = Server::open(options).await.unwrap();
            let owner = json!({"metadata": {"name": "owner"}});
            let (_, owner) = send(&server, Method::POST, "configmaps", &owner).await;
            let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
                "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true});
            let dependent = json!({"metadata": {"name": "dependent", "ownerReferences": [reference]}});
            assert_eq!(send(&server, Method::POST, "configmaps", &dependent).await.0, StatusCode::CREATED);

            let faults = &server.store().faults.0;
            faults.store(1, Ordering::SeqCst); // the deletion itself is written, nothing after it
            let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation});
            let deleted = send(&server, Method::DELETE, "configmaps/owner", &options).await;
            assert_eq!(deleted.0, StatusCode::OK, "{propagation}: {}", deleted.1);
            while server.store().trouble().is_none() {
                tokio::task::yield_now().await;
            }
            faults.store(usize::MAX, Ordering::SeqCst);

            let begun = std::time::Instant::now();
            let get = |name: &str| server.store().get("/configmaps", &format!("default/{name}"));
            let done = || match propagation {
                "Orphan" => get("owner").is_none() && get("dependent").is_some_and(|d| d.owners.is_empty()),
                _ => get("owner").is_none() && get("dependent").is_none(),
            };
            while !done() {
                assert!(propagation != "Orphan" || get("dependent").is_some(), "an orphan was deleted");
                assert!(begun.elapsed() < Duration::from_secs(60), "{propagation}: not collected");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.close().await;
        }
    }
}
