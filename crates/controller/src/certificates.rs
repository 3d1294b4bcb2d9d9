//! Certificates of the webhook server: the operator's files, or a CA and a leaf made for this run.
//!
//! Files are read again when they change (a Secret's volume is renewed under a running pod). A certificate of our own is
//! made anew at each start, and its CA is written into the webhook configurations; the key never leaves the process.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use daemon::{Chain, Stop};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ServerConfig,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or not PEM.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate or key cannot be used.
    #[error("cannot use certificate {} with key {}", cert.display(), key.display())]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// Our own cannot be made.
    #[error("cannot make a certificate for {names:?}")]
    Make {
        /// Names in it.
        names: Vec<String>,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
}

/// The webhook server's certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    current: Arc<Current>,
    files: Option<(PathBuf, PathBuf)>,
    /// PEM of the CA that clients must trust, if we made it.
    pub ca: Option<String>,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Certificate {
    /// From the operator's files.
    pub fn of_files(cert: &Path, key: &Path) -> Result<Self, Error> {
        let current = Arc::new(Current(RwLock::new(Arc::new(load(cert, key)?))));
        Ok(Self { current, files: Some((cert.to_owned(), key.to_owned())), ca: None })
    }

    /// Made now, valid for these DNS names and addresses.
    pub fn made_for(names: &[String]) -> Result<Self, Error> {
        let (ca, key) = make(names).map_err(|source| Error::Make { names: names.to_vec(), source })?;
        Ok(Self { current: Arc::new(Current(RwLock::new(Arc::new(key)))), files: None, ca: Some(ca) })
    }

    /// A server's TLS configuration, which follows changes of the files.
    pub fn server(&self) -> ServerConfig {
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(self.current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// Follows changes of the files until `stop`.
    pub async fn follow(self, stop: Stop) -> Result<(), Error> {
        let Some((cert, key)) = &self.files else {
            stop.cancelled().await;
            return Ok(());
        };
        let mut seen = (changed(cert), changed(key));
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let now = (changed(cert), changed(key));
            if now == seen {
                continue;
            }
            // A pair that does not fit may be half written: it is tried again, the old one serves on.
            match load(cert, key) {
                Ok(renewed) => {
                    *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(renewed);
                    seen = now;
                    tracing::info!(cert = %cert.display(), "webhook certificate renewed");
                }
                Err(error) => tracing::warn!(error = %Chain(&error), "webhook certificate changed and cannot be used"),
            }
        }
        Ok(())
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn load(cert: &Path, key: &Path) -> Result<CertifiedKey, Error> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).map_err(file(cert))?.collect();
    let chain = chain.map_err(file(cert))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(file(key))?;
    let unusable = |source| Error::Unusable { cert: cert.to_owned(), key: key.to_owned(), source };
    let pair = CertifiedKey::new(chain, any_supported_type(&private).map_err(unusable)?);
    pair.keys_match().map_err(unusable)?;
    Ok(pair)
}

fn make(names: &[String]) -> Result<(String, CertifiedKey), rcgen::Error> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "spidernet.io");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name.push(DnType::CommonName, crate::NAME);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let leaf = leaf.signed_by(&key, &ca)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("rcgen writes PKCS #8");
    let signer = any_supported_type(&private).expect("ring signs with the keys that rcgen makes with ring");
    Ok((ca.pem(), CertifiedKey::new(vec![leaf.der().clone()], signer)))
}

/// The names under which an API server may call the webhooks: loopback, the Service, and the host of a URL.
pub fn names(service: &str, namespace: &str, url: Option<&str>) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(["", ".svc", ".svc.cluster.local"].map(|suffix| format!("{service}.{namespace}{suffix}")));
    if let Some(host) = url.and_then(host)
        && !names.contains(&host)
    {
        names.push(host);
    }
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
    fn the_names_include_the_urls_host() {
        let with = |url| names("c", "ns", Some(url)).last().cloned();
        assert_eq!(with("https://10.0.0.1:5722"), Some("10.0.0.1".to_owned()));
        assert_eq!(with("https://[fd00::0:1]:5722/base"), Some("fd00::1".to_owned()));
        assert_eq!(names("c", "ns", Some("https://127.0.0.1:5722")).len(), 6);
        assert!(names("c", "ns", None).contains(&"c.ns.svc".to_owned()));
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let pem = CertificateParams::default().self_signed(&one).unwrap().pem();
        std::fs::write(&cert, pem).unwrap();
        std::fs::write(&key, other.serialize_pem()).unwrap();
        assert!(matches!(Certificate::of_files(&cert, &key), Err(Error::Unusable { .. })));
        std::fs::write(&key, one.serialize_pem()).unwrap();
        Certificate::of_files(&cert, &key).unwrap();
        assert!(matches!(Certificate::of_files(&dir.path().join("none"), &key), Err(Error::File { .. })));
    }
}
