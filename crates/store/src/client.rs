//! The connection to the API server.
//!
//! There is no client-side throttling: upstream's 50 requests per second were a source of queues, and priority and fairness are
//! the API server's business.

use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use std::time::Duration;

/// How long to wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may be silent while an answer is awaited. Longer than a watch, which the API server ends after less than five
/// minutes: without it a peer that vanished would be waited for for ever.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);

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
    let config = match std::env::var("KUBECONFIG").ok().filter(|path| !path.is_empty()) {
        // Inferring would fall back silently to another cluster if the file is broken.
        Some(path) => Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .map_err(|source| ConnectError::Kubeconfig { path, source })?,
        None => Config::infer().await?,
    };
    connect_to(config, SILENCE_LIMIT)
}

/// A client of this API server. A connection on which an answer is awaited may be silent for as long as `silence`. Nothing is sent yet.
pub fn connect_to(mut config: Config, silence: Duration) -> Result<Client, ConnectError> {
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(silence);
    config.reset_reader_on_write = true;
    // Who asked knows what 429, 503 and 504 mean. A repetition below it would hide that the outcome is unknown, and pass the leader's fence.
    config.default_retry = false;
    let url = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ConnectError::Client { url, source })
}
