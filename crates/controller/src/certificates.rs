//! Certificates of the webhook server: the operator's files, or a CA and a leaf of our own, kept in a Secret.
//!
//! | part | owns |
//! |---|---|
//! | [`Served`] | the pair that the server shows, exchanged under running connections |
//! | [`files`] | files of the operator or of cert-manager, read again when they change |
//! | [`authority`] | what the Secret shall hold: made, rotated, rolled over (pure) |
//! | [`secret`] | the Secret itself, shared by all replicas |
//! | [`x509`] | reading and judging certificates |
//! | [`Trust`] | which CAs the API server shall trust, for the webhook configurations |
//!
//! A replica without a usable certificate serves nothing and is not ready; it goes on trying.

pub mod authority;
pub mod files;
pub mod secret;
pub mod x509;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

use kube::{Api, Client};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::Notify;

/// What the webhook server shows to its clients.
#[derive(Clone, Debug, Default)]
pub struct Served(Arc<Current>);

#[derive(Debug, Default)]
struct Current {
    key: RwLock<Option<Arc<CertifiedKey>>>,
    expires: AtomicI64,
    changed: Notify,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Served {
    /// A server's TLS configuration, which follows every change.
    pub fn server(&self) -> ServerConfig {
        let resolver: Arc<dyn ResolvesServerCert> = self.0.clone();
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// From now on this is shown; it expires at `expires` (seconds since 1970).
    pub fn replace(&self, key: CertifiedKey, expires: i64) {
        *self.0.key.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        self.0.expires.store(expires, Ordering::Relaxed);
        self.0.changed.notify_one();
    }

    /// Whether there is anything to show.
    pub fn is_there(&self) -> bool {
        self.0.key.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// When it expires, in seconds since 1970; 0 if there is none.
    pub fn expires(&self) -> i64 {
        self.0.expires.load(Ordering::Relaxed)
    }

    /// Until something else is shown.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

/// Which CAs the API server shall trust.
#[derive(Clone)]
pub enum Trust {
    /// Those in our Secret.
    Secret(Box<Api<k8s_openapi::api::core::v1::Secret>>, String),
    /// Those in the first of these files that exists; if none does, the webhook configurations stay as they are.
    Files(Vec<PathBuf>),
    /// Somebody else (cert-manager) writes them into the webhook configurations.
    Injected,
}

/// The CAs could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The Secret.
    #[error("cannot read Secret {0}")]
    Secret(String, #[source] kube::Error),
    /// The file.
    #[error("cannot read CA file {}", .0.display())]
    File(PathBuf, #[source] std::io::Error),
}

impl Trust {
    /// The Secret of this name.
    pub fn in_secret(client: &Client, namespace: &str, name: &str) -> Self {
        Self::Secret(Box::new(Api::namespaced(client.clone(), namespace)), name.to_owned())
    }

    /// The CAs as PEM, as they are now. `None`: leave the webhook configurations alone.
    pub async fn bundle(&self) -> Result<Option<String>, TrustError> {
        match self {
            Self::Secret(api, name) => {
                let secret = api.get_opt(name).await.map_err(|source| TrustError::Secret(name.clone(), source))?;
                Ok(secret.map(|secret| secret::material(&secret).ca).filter(|ca| !ca.is_empty()))
            }
            Self::Files(paths) => {
                for path in paths {
                    match tokio::fs::read_to_string(path).await {
                        Ok(bundle) => return Ok(Some(bundle)),
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                        Err(source) => return Err(TrustError::File(path.clone(), source)),
                    }
                }
                Ok(None)
            }
            Self::Injected => Ok(None),
        }
    }
}

/// The names under which an API server may call the webhooks, the usual one first: the host of the URL if there is one, the
/// Service, loopback, and what the operator adds.
pub fn names(service: &str, namespace: &str, domain: &str, url: Option<&str>, extra: &[String]) -> Vec<String> {
    let mut names: Vec<String> = url.and_then(host).into_iter().collect();
    names.extend([format!("{service}.{namespace}.svc"), format!("{service}.{namespace}")]);
    names.push(format!("{service}.{namespace}.svc.{domain}"));
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names.extend(extra.iter().cloned());
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// The host of an `https` URL, without port and brackets.
fn host(url: &str) -> Option<String> {
    let uri: axum::http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    Some(host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |address| address.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_name_comes_first() {
        let with = |url| names("c", "ns", "cluster.local", url, &["more.example".to_owned()]);
        assert_eq!(with(Some("https://10.0.0.1:5722"))[0], "10.0.0.1");
        assert_eq!(with(Some("https://[fd00::0:1]:5722/base"))[0], "fd00::1");
        assert_eq!(with(None)[..3], ["c.ns.svc", "c.ns", "c.ns.svc.cluster.local"]);
        assert_eq!(with(None).last().map(String::as_str), Some("more.example"));
        assert_eq!(with(Some("https://127.0.0.1:5722")).len(), 7, "each once");
    }
}
