//! What the Secret shall hold: a CA, its key, a leaf and its key. Pure: time is an argument.
//!
//! The CA is kept as long as it is good. A leaf is renewed when a third of its validity is left, and so is a CA, in steps
//! between which nobody who trusts what the webhook configurations say refuses anything:
//!
//! 1. a new CA stands beside the old one in `ca.crt`; the leaf stays;
//! 2. once the webhook configurations name the new CA for a while, a leaf of the new CA takes over;
//! 3. the old CA goes when it has expired, or hours after nothing of it was shown any more.
//!
//! What cannot be used (expired, corrupt, of an unknown CA, without a name that is needed) is replaced at once: there is
//! nothing to lose. Certificates are valid from an hour before they are made, for clocks that are behind.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::x509::{self, Fault, Parsed};

/// Clocks may be behind by so much.
pub const SKEW: Duration = Duration::from_secs(3600);
/// A CA of which nothing is shown any more is dropped after this time.
const SUPERSEDED: Duration = Duration::from_secs(6 * 3600);

/// How certificates shall be.
#[derive(Clone, Debug)]
pub struct Policy {
    /// DNS names and addresses of the leaf.
    pub names: Vec<String>,
    /// How long a CA is valid.
    pub ca_validity: Duration,
    /// How long a leaf is valid; not longer than its CA.
    pub leaf_validity: Duration,
    /// For so long the webhook configurations must have named a new CA before a leaf of it is shown.
    pub settle: Duration,
}

/// The content of the Secret, as PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Material {
    /// `ca.crt`: the CA that signs, then older ones that are still to be trusted.
    pub ca: String,
    /// `ca.key`.
    pub ca_key: String,
    /// `tls.crt`.
    pub cert: String,
    /// `tls.key`.
    pub key: String,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("ca", &self.ca).field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// What to do with the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Keep,
    /// A leaf of the new CA is due, as soon as the webhook configurations name this CA (PEM).
    Await(String),
    /// Write this, because of that.
    Write(Material, String),
}

/// What to do. `settled`: the webhook configurations have named the CA that signs for long enough.
pub fn plan(policy: &Policy, stored: Option<&Material>, now: i64, settled: bool) -> Result<Plan, rcgen::Error> {
    let Some(stored) = stored else {
        return Ok(Plan::Write(anew(policy, &[], now)?, "there is none yet".to_owned()));
    };
    let known = x509::chain("ca.crt", &stored.ca).unwrap_or_default();
    let good: Vec<Parsed> = known.iter().filter(|ca| ca.is_valid(now)).cloned().collect();
    let leaf = leaf(policy, stored, &good, now);
    let signer = match signer(stored, &known, now) {
        Ok(signer) => signer,
        Err(fault) => {
            let mut made = anew(policy, &good, now)?;
            let why = match leaf {
                Ok(_) => {
                    (made.cert, made.key) = (stored.cert.clone(), stored.key.clone());
                    format!("{fault}; its certificate is shown until a new CA is trusted")
                }
                Err(leaf) => format!("{fault}; {}", daemon::Chain(&leaf)),
            };
            return Ok(Plan::Write(made, why));
        }
    };
    let leaf = match leaf {
        Err(fault) => {
            let why = format!("the certificate cannot be used: {}", daemon::Chain(&fault));
            return Ok(Plan::Write(signer.material(policy, &good, now)?, why));
        }
        Ok(leaf) => leaf,
    };
    if x509::trusted(&leaf.der, [&signer.ca], &policy.names, now).is_err() {
        return Ok(match settled {
            true => Plan::Write(signer.material(policy, &good, now)?, "its CA is being replaced".to_owned()),
            false => Plan::Await(signer.pem()),
        });
    }
    if due(&signer.ca, policy.ca_validity, now) {
        let mut made = anew(policy, &good, now)?;
        (made.cert, made.key) = (stored.cert.clone(), stored.key.clone());
        return Ok(Plan::Write(made, format!("the CA expires at {}", x509::shown(signer.ca.not_after))));
    }
    if due(&leaf, policy.leaf_validity, now) {
        let why = format!("the certificate expires at {}", x509::shown(leaf.not_after));
        return Ok(Plan::Write(signer.material(policy, &good, now)?, why));
    }
    let shown_since = leaf.not_before + seconds(SKEW);
    let superseded = now - shown_since > seconds(SUPERSEDED);
    let kept: Vec<&Parsed> = good.iter().filter(|ca| ca.public_key == signer.ca.public_key || !superseded).collect();
    if kept.len() < known.len() {
        let ca = bundle(std::iter::once(&signer.ca).chain(kept.into_iter().filter(|ca| ca.der != signer.ca.der)));
        return Ok(Plan::Write(Material { ca, ..stored.clone() }, "an old CA is not needed any more".to_owned()));
    }
    Ok(Plan::Keep)
}

/// A third of its validity, or of what is configured if that is less, is left.
fn due(cert: &Parsed, validity: Duration, now: i64) -> bool {
    let lifetime = (cert.not_after - cert.not_before).min(seconds(validity));
    cert.not_after - now < lifetime / 3
}

/// The leaf, if a client would accept it.
fn leaf(policy: &Policy, stored: &Material, good: &[Parsed], now: i64) -> Result<Parsed, Fault> {
    let (_, leaf) = x509::pair(&stored.cert, &stored.key)?;
    x509::trusted(&leaf.der, good, &policy.names, now)?;
    Ok(leaf)
}

/// A CA with its key.
struct Signer {
    ca: Parsed,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The CA of the stored key.
fn signer(stored: &Material, known: &[Parsed], now: i64) -> Result<Signer, String> {
    if stored.ca_key.is_empty() {
        return Err("ca.key is missing".to_owned());
    }
    let key = KeyPair::from_pem(&stored.ca_key).map_err(|error| format!("ca.key cannot be used: {error}"))?;
    let ca = known.iter().find(|ca| ca.public_key == key.public_key_raw());
    let ca = ca.ok_or_else(|| "no certificate in ca.crt belongs to ca.key".to_owned())?;
    if now >= ca.not_after {
        return Err(format!("the CA has expired at {}", x509::shown(ca.not_after)));
    }
    if now < ca.not_before {
        let (from, clock) = (x509::shown(ca.not_before), x509::shown(now));
        return Err(format!("the CA is not valid before {from} and the clock shows {clock}: a clock is wrong"));
    }
    let issuer = Issuer::from_ca_cert_der(&ca.der, key).map_err(|error| format!("the CA cannot sign: {error}"))?;
    Ok(Signer { ca: ca.clone(), key_pem: stored.ca_key.clone(), issuer })
}

impl Signer {
    fn pem(&self) -> String {
        bundle([&self.ca])
    }

    /// A new leaf, and the CAs to be trusted.
    fn material(&self, policy: &Policy, good: &[Parsed], now: i64) -> Result<Material, rcgen::Error> {
        let (cert, key) = sign(policy, &self.issuer, self.ca.not_after, now)?;
        let others = good.iter().filter(|ca| ca.der != self.ca.der);
        let ca = bundle(std::iter::once(&self.ca).chain(others));
        Ok(Material { ca, ca_key: self.key_pem.clone(), cert, key })
    }
}

/// A new CA beside those that are still good, and a leaf of it.
fn anew(policy: &Policy, good: &[Parsed], now: i64) -> Result<Material, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "spidernet.io");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let not_after = now + seconds(policy.ca_validity);
    valid(&mut params, now - seconds(SKEW), not_after);
    let key = KeyPair::generate()?;
    let ca_key = key.serialize_pem();
    let ca = CertifiedIssuer::self_signed(params, key)?;
    let (cert, key) = sign(policy, &ca, not_after, now)?;
    Ok(Material { ca: format!("{}{}", ca.pem(), bundle(good)), ca_key, cert, key })
}

fn sign(
    policy: &Policy,
    issuer: &Issuer<'_, KeyPair>,
    latest: i64,
    now: i64,
) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(policy.names.clone())?;
    params.distinguished_name.push(DnType::CommonName, crate::NAME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now - seconds(SKEW), latest.min(now + seconds(policy.leaf_validity)));
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

fn valid(params: &mut CertificateParams, from: i64, until: i64) {
    let at =
        |time: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(time).unwrap_or_default());
    (params.not_before, params.not_after) = (at(from), at(until));
}

/// PEM of these certificates.
pub fn bundle<'a>(certificates: impl IntoIterator<Item = &'a Parsed>) -> String {
    use base64::Engine as _;
    let mut text = String::new();
    for certificate in certificates {
        let encoded = base64::engine::general_purpose::STANDARD.encode(&certificate.der);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests;
