//! The connection to the API server.
//!
//! There is no client-side throttling: upstream's 50 requests per second were a source of queues, and priority and fairness are
//! the API server's business.

use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use std::time::Duration;

/// How long to wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account.
    #[error("no API server configured: neither KUBECONFIG nor a service account can be used")]
    Config(#[from] kube::config::InferConfigError),
    /// The file that `KUBECONFIG` names is wrong.
    #[error("cannot use kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// TLS, tokens, URL.
    #[error("cannot connect to API server {url}")]
    Client {
        /// Its URL.
        url: String,
        /// What is wrong.
        #[source]
        source: kube::Error,
    },
}

/// A client from `KUBECONFIG`, `~/.kube/config` or the service account, in this order. Nothing is sent yet.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = match std::env::var("KUBECONFIG").ok().filter(|path| !path.is_empty()) {
        // Inferring would fall back silently to another cluster if the file is broken.
        Some(path) => Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .map_err(|source| ConnectError::Kubeconfig { path, source })?,
        None => Config::infer().await?,
    };
    config.connect_timeout = Some(CONNECT_LIMIT);
    let url = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ConnectError::Client { url, source })
}
