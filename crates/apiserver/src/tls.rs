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
};
use rustls::pki_types::PrivateKeyDer;

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
    let read = |path: &Path| fs::read_to_string(path).map_err(|e| AuthorityError::File(path.to_owned(), e));
    if cert.exists() && key.exists() {
        return Ok((read(&cert)?, KeyPair::from_pem(&read(&key)?).map_err(AuthorityError::Make)?));
    }
    let pair = KeyPair::generate().map_err(AuthorityError::Make)?;
    let pem = authority_params().self_signed(&pair).map_err(AuthorityError::Make)?.pem();
    fs::create_dir_all(dir).map_err(|e| AuthorityError::File(dir.to_owned(), e))?;
    write_secret(&key, &pair.serialize_pem()).map_err(|e| AuthorityError::File(key.clone(), e))?;
    fs::write(&cert, &pem).map_err(|e| AuthorityError::File(cert.clone(), e))?;
    Ok((pem, pair))
}

/// Writes a file that only its owner can read.
pub fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let _ = fs::remove_file(&partial);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
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
