//! The server's own certificate authority, its certificate, and the kubeconfig that goes with them.
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("file {path}")]
    File {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate cannot be made.
    #[error("certificate for {names:?}")]
    Make {
        /// Its subject names.
        names: Vec<String>,
        /// Why.
        source: rcgen::Error,
    },
    /// The server cannot use it.
    #[error("certificate is not usable")]
    Use(#[from] rustls::Error),
}

/// What clients need to trust the server, and what the server shows them.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The authority's certificate.
    pub ca_pem: String,
    /// For the listener.
    pub config: Arc<rustls::ServerConfig>,
}

impl Identity {
    /// Reads the authority from `ca.crt` and `ca.key`, making it first if need be, and issues a certificate for the names.
    pub fn open(dir: &Path, names: &[String]) -> Result<Self, TlsError> {
        let failed = |source| TlsError::Make { names: names.to_vec(), source };
        let (ca_pem, ca_key) = authority(dir).map_err(|e| match e {
            AuthorityError::File(path, source) => TlsError::File { path, source },
            AuthorityError::Make(source) => failed(source),
        })?;
        let issuer = Issuer::new(authority_params(), ca_key);
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, "spiderpool-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &issuer).map_err(failed)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { ca_pem, config: Arc::new(config) })
    }
}

enum AuthorityError {
    File(PathBuf, io::Error),
    Make(rcgen::Error),
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "spiderpool-apiserver-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn authority(dir: &Path) -> Result<(String, KeyPair), AuthorityError> {
    let (cert, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    let read = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AuthorityError::File(path.to_owned(), error)),
    };
    let unusable = |path: &Path, why: String| AuthorityError::File(path.to_owned(), io::Error::other(why));
    let pair = match (read(&cert)?, read(&key)?) {
        (Some(pem), Some(text)) => {
            let pair = KeyPair::from_pem(&text).map_err(|error| unusable(&key, error.to_string()))?;
            match certificate(&pem) {
                Some(known) if is_of(&known, &pair) => return Ok((pem, pair)),
                Some(_) => return Err(unusable(&cert, format!("it is not a certificate of {}", key.display()))),
                None => tracing::warn!(path = %cert.display(), "no certificate in it, one of the same key is made"),
            }
            pair
        }
        _ => KeyPair::generate().map_err(AuthorityError::Make)?,
    };
    let pem = authority_params().self_signed(&pair).map_err(AuthorityError::Make)?.pem();
    fs::create_dir_all(dir).map_err(|e| AuthorityError::File(dir.to_owned(), e))?;
    write_secret(&key, &pair.serialize_pem()).map_err(|e| AuthorityError::File(key.clone(), e))?;
    write_whole(&cert, &pem, 0o644).map_err(|e| AuthorityError::File(cert.clone(), e))?;
    Ok((pem, pair))
}

/// The first certificate of a PEM text, `None` where none can be read.
fn certificate(pem: &str) -> Option<CertificateDer<'static>> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    rustls::RootCertStore::empty().add(der.clone()).ok()?;
    Some(der)
}

/// Whether a certificate holds the public half of a key.
fn is_of(certificate: &CertificateDer<'_>, pair: &KeyPair) -> bool {
    let public = pair.subject_public_key_info();
    certificate.windows(public.len()).any(|part| part == public)
}

/// Writes a file that only its owner can read.
pub fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    write_whole(path, text, 0o600)
}

/// Writes a file that is the old or the new one at any time.
fn write_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let _ = fs::remove_file(&partial);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

/// A kubeconfig for one server, authority and token.
pub fn kubeconfig(server: &str, ca_pem: &str, token: &str) -> String {
    let ca = STANDARD.encode(ca_pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: spiderpool\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\ncontexts:\n- name: spiderpool\n  context:\n    cluster: spiderpool\n    \
         user: admin\ncurrent-context: spiderpool\nusers:\n- name: admin\n  user:\n    token: {token}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Result<Identity, TlsError> {
        Identity::open(dir, &["127.0.0.1".to_owned()])
    }

    #[test]
    fn a_certificate_that_was_cut_off_is_made_anew_of_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap().ca_pem;
        let cert = dir.path().join("ca.crt");
        let key = || fs::read_to_string(dir.path().join("ca.key")).unwrap();
        let before = key();
        assert_eq!(open(dir.path()).unwrap().ca_pem, first, "what is whole is kept");
        for cut in [0, 1, first.len() / 2, first.len() - 10] {
            fs::write(&cert, &first[..cut]).unwrap();
            let pem = open(dir.path()).unwrap().ca_pem;
            assert!(certificate(&pem).is_some(), "{cut}: {pem}");
            assert_eq!((fs::read_to_string(&cert).unwrap(), key()), (pem, before.clone()), "{cut}");
        }
        assert!(!dir.path().join("ca.partial").exists());
    }

    #[test]
    fn a_pair_that_does_not_fit_is_refused_by_its_file() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        open(one.path()).unwrap();
        open(other.path()).unwrap();
        let refused = |name: &str| match open(one.path()).unwrap_err() {
            TlsError::File { path, .. } => assert_eq!(path, one.path().join(name)),
            error => panic!("{error}"),
        };
        fs::copy(other.path().join("ca.crt"), one.path().join("ca.crt")).unwrap();
        refused("ca.crt");
        fs::write(one.path().join("ca.key"), "").unwrap();
        refused("ca.key");
    }
}
