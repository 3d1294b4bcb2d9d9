//! What the requests of an agent share.

use crate::books::Books;
use crate::caches::Caches;
use crate::endpoints::EndpointQueue;
use crate::events::EventQueue;
use crate::metrics::Metrics;
use crate::records::Records;
use crate::sandboxes::Sandboxes;
use crate::settings::Settings;
use crate::statuses::StatusQueue;
use crate::upstream::Upstream;
use kube::Client;
use std::sync::Arc;
use store::pods::Pod;
use store::{Failure, pods};
use wire::spool::Spool;

/// One agent. Requests borrow it; nothing in it waits.
pub struct Agent {
    /// Settings.
    pub settings: Settings,
    /// The API server.
    pub client: Client,
    /// Watched objects.
    pub caches: Arc<Caches>,
    /// Claims.
    pub books: Books,
    /// Sandboxes whose pods are gone.
    pub sandboxes: Sandboxes,
    /// What pods were told.
    pub records: Arc<Records>,
    /// The move from upstream.
    pub upstream: Arc<Upstream>,
    /// Endpoint writes.
    pub endpoints: EndpointQueue,
    /// Writes of `network-status`.
    pub statuses: StatusQueue,
    /// Events on pods.
    pub events: EventQueue,
    /// Release notes.
    pub spool: Spool,
    /// Series.
    pub metrics: Arc<Metrics>,
}

/// Why a pod cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// No such object.
    #[error("Pod {namespace}/{name} does not exist")]
    Absent {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// The name belongs to another pod.
    #[error("Pod {namespace}/{name} has UID {found}, the request is for UID {asked}")]
    Other {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// UID of the object.
        found: String,
        /// UID of the request.
        asked: String,
    },
    /// It is elsewhere.
    #[error("Pod {namespace}/{name} is on node {found:?}, this is the agent of node {node:?}")]
    Elsewhere {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Node of the pod.
        found: String,
        /// Node of this agent.
        node: String,
    },
    /// The API server does not say.
    #[error("cannot read Pod {namespace}/{name}")]
    Unreadable {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Why not.
        #[source]
        source: Failure,
    },
}

impl Agent {
    /// The pod that the runtime calls by this UID: from the cache if that knows it, else read live. A just re-created pod is never
    /// served as its predecessor.
    pub async fn pod(&self, namespace: &str, name: &str, uid: &str) -> Result<Arc<Pod>, PodError> {
        let cached = self.caches.pods.get(&store::cache::key(Some(namespace), name));
        if let Some(pod) = cached.filter(|pod| pod.is_called(uid) && (!uid.is_empty() || pod.is_alive())) {
            return Ok(pod);
        }
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        match pods::read(&self.client, &namespace, &name).await {
            Err(source) => Err(PodError::Unreadable { namespace, name, source }),
            Ok(None) => Err(PodError::Absent { namespace, name }),
            Ok(Some(pod)) if !pod.is_called(uid) => {
                Err(PodError::Other { namespace, name, found: pod.uid, asked: uid.to_owned() })
            }
            Ok(Some(pod)) if pod.node != self.settings.node => {
                let node = self.settings.node.clone();
                Err(PodError::Elsewhere { namespace, name, found: pod.node, node })
            }
            Ok(Some(pod)) => Ok(Arc::new(pod)),
        }
    }
}
