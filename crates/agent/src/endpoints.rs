//! Writes `SpiderEndpoint`s off the critical path: per pod in order, the newest state only, until it is written.

use crate::records::{Record, status};
use ipam::owner::OwnerRef;
use kube::Client;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::endpoints::Written;
use store::meta::top_controller;
use store::{Endpoints, Failure};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Writes under way at a time.
const PARALLEL: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The queue.
#[derive(Clone)]
pub struct EndpointQueue(Arc<Inner>);

struct Inner {
    client: Client,
    store: Endpoints,
    /// Whether pods of `apps/v1` StatefulSets keep their endpoint when they go.
    stateful_set: bool,
    slots: Mutex<HashMap<String, Slot>>,
    permits: Semaphore,
    workers: TaskTracker,
}

/// What is to be written for one pod name.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    /// What an ADD told.
    Put(Arc<Record>),
    /// What is left of that, or was told before this process started: gives way to whatever another pod of the name shall have.
    Shrink(Arc<Record>),
    Remove {
        namespace: String,
        name: String,
        uid: String,
    },
}

impl Wanted {
    fn uid(&self) -> &str {
        match self {
            Self::Put(record) | Self::Shrink(record) => &record.uid,
            Self::Remove { uid, .. } => uid,
        }
    }
}

#[derive(Default)]
struct Slot {
    wanted: Option<Wanted>,
    running: bool,
    last: Option<Last>,
}

/// The last write for a pod name.
#[derive(Clone)]
struct Last {
    uid: String,
    owner: OwnerRef,
    object: Written,
}

impl EndpointQueue {
    /// An empty queue.
    pub fn new(client: Client, stateful_set: bool) -> Self {
        Self(Arc::new(Inner {
            store: Endpoints::new(client.clone()),
            client,
            stateful_set,
            slots: Mutex::default(),
            permits: Semaphore::new(PARALLEL),
            workers: TaskTracker::new(),
        }))
    }

    /// The endpoint shall tell this, which an ADD was answered.
    pub fn put(&self, record: Arc<Record>) {
        let key = key(&record.namespace, &record.name);
        self.want(key, Wanted::Put(record));
    }

    /// The endpoint shall tell this, unless it is about to tell of another pod of the name.
    pub fn shrink(&self, record: Arc<Record>) {
        let key = key(&record.namespace, &record.name);
        self.want(key, Wanted::Shrink(record));
    }

    /// The endpoint of this pod shall be gone.
    pub fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let wanted = Wanted::Remove { namespace: namespace.into(), name: name.into(), uid: uid.into() };
        self.want(key(namespace, name), wanted);
    }

    /// Waits until everything is written.
    pub async fn settle(&self) {
        self.0.workers.close();
        self.0.workers.wait().await;
    }

    fn want(&self, key: String, wanted: Wanted) {
        let mut slots = self.0.slots();
        let slot = slots.entry(key.clone()).or_default();
        if !supersedes(&wanted, slot.wanted.as_ref()) {
            return;
        }
        slot.wanted = Some(wanted);
        if !slot.running {
            slot.running = true;
            let inner = self.0.clone();
            self.0.workers.spawn(async move { inner.work(key).await });
        }
    }
}

/// The newest state counts, but the end of an earlier pod of the name, or of one of its NICs, does not undo what its successor shall have:
/// that write replaces the earlier pod's endpoint anyway.
fn supersedes(wanted: &Wanted, pending: Option<&Wanted>) -> bool {
    match (wanted, pending) {
        (Wanted::Remove { uid, .. }, Some(Wanted::Put(record) | Wanted::Shrink(record))) => *uid == record.uid,
        (Wanted::Shrink(record), Some(pending)) => record.uid == pending.uid(),
        _ => true,
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl Inner {
    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on one pod name until nothing is wanted any more.
    async fn work(&self, key: String) {
        let mut pause = FIRST_PAUSE;
        while let Some((wanted, last)) = self.next(&key) {
            let outcome = {
                let _permit = self.permits.acquire().await;
                self.write(&wanted, last).await
            };
            match outcome {
                Ok(written) => {
                    pause = FIRST_PAUSE;
                    self.done(&key, &wanted, written);
                }
                Err(failure @ (Failure::Refused(_) | Failure::NotFound)) => {
                    // A namespace that goes, a definition that is missing: claims are not touched by that.
                    tracing::warn!(endpoint = %key, error = %failure, "endpoint is not written");
                    self.done(&key, &wanted, None);
                }
                Err(failure) => {
                    tracing::warn!(endpoint = %key, error = %failure, "endpoint is not written yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// What to write next; ends the worker when there is nothing.
    fn next(&self, key: &str) -> Option<(Wanted, Option<Last>)> {
        let mut slots = self.slots();
        let slot = slots.get_mut(key)?;
        match &slot.wanted {
            Some(wanted) => Some((wanted.clone(), slot.last.clone())),
            None => {
                slot.running = false;
                if slot.last.is_none() {
                    slots.remove(key);
                }
                None
            }
        }
    }

    /// Books a write; something newer that is wanted meanwhile stays wanted.
    fn done(&self, key: &str, wanted: &Wanted, last: Option<Last>) {
        let mut slots = self.slots();
        if let Some(slot) = slots.get_mut(key) {
            slot.last = last;
            if slot.wanted.as_ref() == Some(wanted) {
                slot.wanted = None;
            }
        }
    }

    async fn write(&self, wanted: &Wanted, last: Option<Last>) -> Result<Option<Last>, Failure> {
        let last = last.filter(|last| last.uid == wanted.uid());
        let known = last.as_ref().map(|last| &last.object);
        match wanted {
            Wanted::Put(record) | Wanted::Shrink(record) => {
                let owner = match &last {
                    Some(last) => last.owner.clone(),
                    None => self.owner(record).await?,
                };
                let status = status(record, &owner);
                let owned = !(self.stateful_set && is_stateful_set(&owner));
                let object = self.store.write(&record.namespace, &record.name, owned, &status, known).await?;
                Ok(Some(Last { uid: record.uid.clone(), owner, object }))
            }
            Wanted::Remove { namespace, name, uid } => {
                self.store.remove(namespace, name, uid, known).await?;
                Ok(None)
            }
        }
    }

    /// The top controller. If it went meanwhile the pod's own controller is told: the view must not wait for what is gone.
    async fn owner(&self, record: &Record) -> Result<OwnerRef, Failure> {
        let pod = OwnerRef::new("v1", "Pod", &record.name, &record.uid);
        match top_controller(&self.client, &record.namespace, pod, record.controller.clone()).await {
            Ok(owner) => Ok(owner),
            Err(error) if error.source.is_unknown() => Err(error.source),
            Err(error) => Ok(error.owner),
        }
    }
}

/// Pods of these have fixed addresses and endpoints that outlive them.
pub fn is_stateful_set(owner: &OwnerRef) -> bool {
    owner.api_version == "apps/v1" && owner.kind == "StatefulSet"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(uid: &str) -> Wanted {
        Wanted::Put(Arc::new(Record { uid: uid.into(), ..Record::default() }))
    }

    fn shrink(uid: &str) -> Wanted {
        Wanted::Shrink(Arc::new(Record { uid: uid.into(), ..Record::default() }))
    }

    fn remove(uid: &str) -> Wanted {
        Wanted::Remove { namespace: "ns".into(), name: "web".into(), uid: uid.into() }
    }

    #[test]
    fn the_end_of_an_earlier_pod_does_not_undo_its_successor() {
        for (wanted, pending, expected) in [
            (remove("u1"), Some(put("u1")), true),
            (remove("u1"), Some(put("u2")), false),
            (remove("u1"), None, true),
            (put("u2"), Some(remove("u1")), true),
            (put("u1"), Some(put("u1")), true),
            (shrink("u1"), Some(put("u2")), false),
            (shrink("u1"), Some(put("u1")), true),
            (shrink("u1"), Some(remove("u2")), false),
            (shrink("u1"), None, true),
            (put("u2"), Some(shrink("u1")), true),
            (remove("u1"), Some(shrink("u2")), false),
            (remove("u1"), Some(shrink("u1")), true),
        ] {
            assert_eq!(supersedes(&wanted, pending.as_ref()), expected, "{wanted:?} after {pending:?}");
        }
    }
}
