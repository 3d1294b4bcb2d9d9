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
//! | [`Former`] | which CAs it shall trust a while longer |
//!
//! A replica without a usable certificate serves nothing and is not ready; it goes on trying.

pub mod authority;
pub mod files;
pub mod secret;
pub mod x509;

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
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

/// How long a CA of files is trusted beside another one: replicas see their mounts change at different times, some minutes apart.
const FORMER: Duration = Duration::from_secs(600);
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// CAs that a webhook configuration names and the files (no longer, or not yet) do: since when that is so.
#[derive(Clone, Debug, Default)]
pub struct Former(Arc<Mutex<HashMap<(&'static str, String), Instant>>>);

impl Former {
    /// What a configuration of this kind shall name that names `stored` now, when the files say `own`. It stays as it is while it names
    /// that, and nothing else for too long: replicas whose files differ do not undo each other's work.
    pub fn joined(&self, kind: &'static str, own: &str, stored: &str, now: Instant) -> String {
        let (ours, theirs) = (blocks(own), blocks(stored));
        let foreign: Vec<&String> = theirs.iter().filter(|block| !ours.contains(block)).collect();
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|(of, block), _| *of != kind || foreign.contains(&block));
        let mut is_kept =
            |block: &String| now.saturating_duration_since(*since.entry((kind, block.clone())).or_insert(now)) < FORMER;
        let kept: Vec<&String> = foreign.iter().copied().filter(|block| is_kept(block)).collect();
        if !ours.is_empty() && kept.len() == foreign.len() && ours.iter().all(|block| theirs.contains(block)) {
            return stored.to_owned();
        }
        let mut text = own.to_owned();
        for block in kept {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(block);
        }
        text
    }
}

/// The certificates of a PEM text, each as a text that does not depend on how it was written.
fn blocks(text: &str) -> Vec<String> {
    let certificates = text.split(BEGIN).skip(1).filter_map(|rest| rest.split_once(END));
    let lines = |body: &str| body.split_whitespace().map(|line| format!("{line}\n")).collect::<String>();
    certificates.map(|(body, _)| format!("{BEGIN}\n{}{END}\n", lines(body))).collect()
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
    fn a_former_ca_is_trusted_for_a_while_and_replicas_leave_each_others_alone() {
        let pem = |name: &str| format!("{BEGIN}\n{name}\n{END}\n");
        let (old, new, begun) = (pem("old"), pem("new"), Instant::now());
        let (first, second) = (Former::default(), Former::default());
        let at = |seconds| begun + Duration::from_secs(seconds);
        // Nothing is there, or nothing else.
        assert_eq!(first.joined("a", &old, "", at(0)), old);
        assert_eq!(
            first.joined("a", &old, &format!("# text\n{}", old.trim_end()), at(0)),
            format!("# text\n{}", old.trim_end())
        );
        // The first replica sees the new files, the second one does not yet.
        let both = first.joined("a", &new, &old, at(1));
        assert_eq!(both, format!("{new}{old}"));
        assert_eq!(second.joined("a", &old, &both, at(2)), both);
        assert_eq!(first.joined("a", &new, &both, at(60)), both);
        assert_eq!(second.joined("a", &new, &both, at(90)), both);
        // Then the old one goes, in each configuration by its own time.
        assert_eq!(first.joined("b", &new, &both, at(500)), both);
        assert_eq!(first.joined("a", &new, &both, at(602)), new);
        assert_eq!(second.joined("a", &new, &new, at(603)), new);
        assert_eq!(first.joined("b", &new, &both, at(602)), both);
        // One that comes again begins anew.
        assert_eq!(first.joined("a", &new, &new, at(604)), new);
        assert_eq!(first.joined("a", &new, &both, at(2000)), both);
    }

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
