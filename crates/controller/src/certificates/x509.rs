//! Reading and judging certificates. Times are seconds since 1970.

use std::{sync::Arc, time::Duration};

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    sign::CertifiedKey,
};

/// What is wrong with a certificate or key.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Text that is not PEM.
    #[error("{0} is not PEM")]
    Pem(&'static str, #[source] rustls::pki_types::pem::Error),
    /// There is nothing in it.
    #[error("{0} holds no certificate")]
    Empty(&'static str),
    /// Not a certificate.
    #[error("{0} is not an X.509 certificate: {1}")]
    Malformed(&'static str, String),
    /// The key cannot be used, or it is not the certificate's.
    #[error("the key cannot be used with the certificate")]
    Key(#[source] rustls::Error),
    /// A name that is neither DNS name nor address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    /// Nobody would trust it.
    #[error("it cannot be trusted as {name}")]
    Untrusted {
        /// The name.
        name: String,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// The CA cannot be used as one.
    #[error("the CA cannot be used")]
    Ca(#[source] rustls::Error),
}

/// A certificate and what matters of it.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// DER.
    pub der: CertificateDer<'static>,
    /// It is valid from then on.
    pub not_before: i64,
    /// And until then.
    pub not_after: i64,
    /// The public key's bits.
    pub public_key: Vec<u8>,
}

impl Parsed {
    /// Whether it is valid at `now`.
    pub fn is_valid(&self, now: i64) -> bool {
        self.not_before <= now && now < self.not_after
    }

    fn new(what: &'static str, der: CertificateDer<'static>) -> Result<Self, Fault> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| Fault::Malformed(what, error.to_string()))?;
        let (not_before, not_after) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let public_key = parsed.public_key().subject_public_key.data.to_vec();
        Ok(Self { not_before, not_after, public_key, der })
    }
}

/// All certificates of a PEM text; `what` names it in errors.
pub fn chain(what: &'static str, pem: &str) -> Result<Vec<Parsed>, Fault> {
    let parsed = CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| Parsed::new(what, der.map_err(|source| Fault::Pem(what, source))?))
        .collect::<Result<Vec<_>, _>>()?;
    if parsed.is_empty() { Err(Fault::Empty(what)) } else { Ok(parsed) }
}

/// Certificate and key as a server shows them, and the leaf.
pub fn pair(cert: &str, key: &str) -> Result<(CertifiedKey, Parsed), Fault> {
    let chain = chain("tls.crt", cert)?;
    let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|source| Fault::Pem("tls.key", source))?;
    let leaf = chain.first().cloned().ok_or(Fault::Empty("tls.crt"))?;
    let signer = any_supported_type(&private).map_err(Fault::Key)?;
    let pair = CertifiedKey::new(chain.into_iter().map(|cert| cert.der).collect(), signer);
    pair.keys_match().map_err(Fault::Key)?;
    Ok((pair, leaf))
}

/// Whether a client that trusts `roots` would at `now` accept the leaf under each of the names.
pub fn trusted<'a>(
    leaf: &CertificateDer<'static>,
    roots: impl IntoIterator<Item = &'a Parsed>,
    names: &[String],
    now: i64,
) -> Result<(), Fault> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.der.clone()).map_err(Fault::Ca)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build();
    let verifier = verifier.map_err(|error| Fault::Ca(rustls::Error::General(error.to_string())))?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
    for name in names {
        let server = ServerName::try_from(name.clone()).map_err(|_| Fault::Name(name.clone()))?;
        verifier
            .verify_server_cert(leaf, &[], &server, &[], now)
            .map_err(|source| Fault::Untrusted { name: name.clone(), source })?;
    }
    Ok(())
}

/// Now.
pub fn now() -> i64 {
    k8s_openapi::jiff::Timestamp::now().as_second()
}

/// A time for people.
pub fn shown(time: i64) -> String {
    k8s_openapi::jiff::Timestamp::from_second(time).map_or_else(|_| time.to_string(), |time| time.to_string())
}
