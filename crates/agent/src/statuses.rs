//! Writes the `network-status` of pods off the critical path: per pod the newest text only, until it is written or the pod is gone.

use crate::caches::Caches;
use ipam::annotation::NETWORK_STATUS;
use kube::Client;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Failure, pods};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Writes under way at a time.
const PARALLEL: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The queue.
#[derive(Clone)]
pub struct StatusQueue(Arc<Inner>);

/// What one pod's annotation shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a later pod of the name is not written to.
    pub uid: String,
    /// The text.
    pub text: String,
}

struct Inner {
    client: Client,
    caches: Arc<Caches>,
    /// By UID. A pod that is here has a worker.
    wanted: Mutex<HashMap<String, NetworkStatus>>,
    permits: Semaphore,
    workers: TaskTracker,
}

impl StatusQueue {
    /// An empty queue.
    pub fn new(client: Client, caches: Arc<Caches>) -> Self {
        let (permits, workers) = (Semaphore::new(PARALLEL), TaskTracker::new());
        Self(Arc::new(Inner { client, caches, wanted: Mutex::default(), permits, workers }))
    }

    /// The annotation shall say this.
    pub fn put(&self, status: NetworkStatus) {
        let uid = status.uid.clone();
        if self.0.wanted().insert(uid.clone(), status).is_none() {
            let inner = self.0.clone();
            self.0.workers.spawn(async move { inner.work(&uid).await });
        }
    }

    /// Waits until everything is written.
    pub async fn settle(&self) {
        self.0.workers.close();
        self.0.workers.wait().await;
    }
}

impl Inner {
    fn wanted(&self) -> MutexGuard<'_, HashMap<String, NetworkStatus>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on one pod until nothing is wanted any more.
    async fn work(&self, uid: &str) {
        let (mut pause, mut done) = (FIRST_PAUSE, None);
        while let Some(status) = self.next(uid, done.take()) {
            let outcome = {
                let _permit = self.permits.acquire().await;
                self.write(&status).await
            };
            let pod = format!("{}/{}", status.namespace, status.name);
            match outcome {
                Ok(()) => (pause, done) = (FIRST_PAUSE, Some(status)),
                Err(Failure::NotFound) => {
                    tracing::debug!(pod, uid, "network-status of a pod that is gone is dropped");
                    done = Some(status);
                }
                Err(failure @ (Failure::Refused(_) | Failure::AlreadyExists)) => {
                    tracing::warn!(pod, error = %failure, "network-status is not written");
                    done = Some(status);
                }
                Err(failure @ (Failure::Unknown(_) | Failure::Conflict)) => {
                    tracing::warn!(pod, error = %failure, "network-status is not written yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// What to write next; nothing for a pod that was seen to go. Ends the worker when nothing newer than what is `done` is wanted.
    fn next(&self, uid: &str, done: Option<NetworkStatus>) -> Option<NetworkStatus> {
        let mut wanted = self.wanted();
        let is_over = self.caches.gone.contains(uid) || (done.is_some() && wanted.get(uid) == done.as_ref());
        if is_over {
            wanted.remove(uid);
        }
        wanted.get(uid).cloned()
    }

    /// [`Failure::NotFound`]: the pod is gone, or the name is another one's.
    async fn write(&self, status: &NetworkStatus) -> Result<(), Failure> {
        let NetworkStatus { namespace, name, uid, text } = status;
        let outcome = pods::annotate(&self.client, namespace, name, uid, NETWORK_STATUS, text).await;
        if outcome != Err(Failure::Conflict) {
            return outcome;
        }
        let found = pods::read(&self.client, namespace, name).await?;
        Err(if found.is_some_and(|pod| pod.uid == *uid) { Failure::Conflict } else { Failure::NotFound })
    }
}
