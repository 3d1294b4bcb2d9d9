//! Whether the end of this pod is the end of the product on this node.
//!
//! A pod ends for many reasons; only when its DaemonSet is gone, or on its way, may the files go that pods of this node need. A cluster
//! that loses the product loses its roles too, perhaps before this question: an API server that answered it before and now refuses it says
//! that it is being removed. One that cannot be reached says nothing, and everything stays.

use std::time::Duration;

use daemon::{Chain, Stop};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client};

/// How long one question may take, and all of them together: kubelet waits 30 seconds before it kills.
const ONE: Duration = Duration::from_secs(5);
const ALL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);

/// Why the files may go, or stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The DaemonSet is gone; this says how it is known.
    Removed(String),
    /// It is there.
    Stays,
    /// Nobody knows; this is why.
    Unknown(String),
}

/// The question could not be asked at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot read DaemonSet {namespace}/{name}, so the end of the product could not be told from a restart")]
pub struct RemovalError {
    namespace: String,
    name: String,
    #[source]
    source: kube::Error,
}

/// The DaemonSet that this pod belongs to.
#[derive(Clone)]
pub struct Owner {
    api: Api<DaemonSet>,
    namespace: String,
    name: String,
}

impl Owner {
    /// The DaemonSet of this name.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Asks until it was answered once, so that a refusal later means something. `false`: stopped before that.
    pub async fn make_sure(&self, stop: &Stop) -> Result<bool, RemovalError> {
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(false),
                asked = tokio::time::timeout(ONE, self.api.get_metadata(&self.name)) => asked,
            };
            match asked {
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(source @ kube::Error::Api(_))) => {
                    return Err(RemovalError { namespace: self.namespace.clone(), name: self.name.clone(), source });
                }
                Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "the API server cannot be asked yet"),
                Err(_) => tracing::warn!("the API server does not answer yet"),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// Asks at the end.
    pub async fn fate(&self) -> Fate {
        let deadline = tokio::time::Instant::now() + ALL;
        loop {
            let why = match tokio::time::timeout(ONE, self.api.get_metadata(&self.name)).await {
                Ok(Ok(found)) if found.metadata.deletion_timestamp.is_some() => {
                    return Fate::Removed("it is being deleted".to_owned());
                }
                Ok(Ok(_)) => return Fate::Stays,
                Ok(Err(kube::Error::Api(answer))) if matches!(answer.code, 401 | 403 | 404) => {
                    return Fate::Removed(format!("the API server answers {}: {}", answer.code, answer.message));
                }
                Ok(Err(error)) => Chain(&error).to_string(),
                Err(_) => format!("no answer within {ONE:?}"),
            };
            if tokio::time::Instant::now() >= deadline {
                return Fate::Unknown(why);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
