//! The certificates of the webhook server.

use std::{net::IpAddr, time::Duration};

use daemon::Env;

use super::{Error, not_empty};

const CA_DAYS: &str = "SPIDERPOOL_TLS_CA_DAYS";
const CERT_DAYS: &str = "SPIDERPOOL_TLS_CERT_DAYS";
const DNS_NAMES: &str = "SPIDERPOOL_TLS_EXTRA_DNS_NAMES";
const ADDRESSES: &str = "SPIDERPOOL_TLS_EXTRA_IP_ADDRESSES";

/// What they shall be like where the controller makes them itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `SPIDERPOOL_TLS_SECRET_NAME`.
    pub secret: String,
    /// `SPIDERPOOL_TLS_CA_DAYS`.
    pub ca_validity: Duration,
    /// `SPIDERPOOL_TLS_CERT_DAYS`.
    pub leaf_validity: Duration,
    /// `SPIDERPOOL_TLS_EXTRA_DNS_NAMES` and `SPIDERPOOL_TLS_EXTRA_IP_ADDRESSES`.
    pub extra_names: Vec<String>,
    /// `SPIDERPOOL_CLUSTER_DNS_DOMAIN`.
    pub domain: String,
    /// For so long webhook configurations must have named a new CA before a certificate of it is shown.
    pub settle: Duration,
    /// `SPIDERPOOL_WEBHOOK_CA_INJECTED`: somebody else writes the CA into the webhook configurations.
    pub ca_injected: bool,
}

impl Tls {
    /// Reads them.
    pub fn new(env: &Env) -> Result<Self, Error> {
        Ok(Self {
            secret: not_empty(
                env.text("SPIDERPOOL_TLS_SECRET_NAME", "spiderpool-controller-server-certs"),
                "spiderpool-controller-server-certs",
            ),
            ca_validity: days(env, CA_DAYS, 3650)?,
            leaf_validity: days(env, CERT_DAYS, 365)?,
            extra_names: [names(env)?, addresses(env)?].concat(),
            domain: not_empty(env.text("SPIDERPOOL_CLUSTER_DNS_DOMAIN", "cluster.local"), "cluster.local"),
            settle: Duration::from_secs(30),
            ca_injected: env.flag("SPIDERPOOL_WEBHOOK_CA_INJECTED", false)?,
        })
    }
}

/// A certificate cannot say more than the year 9999.
fn days(env: &Env, name: &'static str, default: u64) -> Result<Duration, Error> {
    let days = env.optional_number::<u64>(name)?.unwrap_or(default);
    if !(1..=2_000_000).contains(&days) {
        return Err(Error::Meaning { name, value: days.to_string(), expected: "a number of days from 1 to 2000000" });
    }
    Ok(Duration::from_secs(days * 86_400))
}

fn list(env: &Env, name: &'static str) -> Vec<String> {
    let text = env.text(name, "");
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn names(env: &Env) -> Result<Vec<String>, Error> {
    let names = list(env, DNS_NAMES);
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    match names.iter().find(|name| !name.split('.').all(label)) {
        Some(wrong) => {
            Err(Error::Meaning { name: DNS_NAMES, value: wrong.clone(), expected: "a DNS name without wildcard" })
        }
        None => Ok(names),
    }
}

fn addresses(env: &Env) -> Result<Vec<String>, Error> {
    let wrong = |value: &str| Error::Meaning { name: ADDRESSES, value: value.to_owned(), expected: "an IP address" };
    let parse = |text: &String| text.parse().map(|address: IpAddr| address.to_string()).map_err(|_| wrong(text));
    list(env, ADDRESSES).iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_what_no_certificate_can_hold_is_named() {
        let tls = |pairs: &[(&str, &str)]| Tls::new(&pairs.iter().copied().collect());
        let read = tls(&[(DNS_NAMES, "a.example, b"), (ADDRESSES, "10.0.0.1,fd00:0::1"), (CERT_DAYS, "30")]).unwrap();
        assert_eq!(read.extra_names, ["a.example", "b", "10.0.0.1", "fd00::1"]);
        assert_eq!(read.leaf_validity, Duration::from_secs(30 * 86_400));
        assert_eq!(
            (read.secret.as_str(), read.domain.as_str()),
            ("spiderpool-controller-server-certs", "cluster.local")
        );
        for (name, value, expected) in [
            (DNS_NAMES, "*.example", "\"*.example\" is not a DNS name without wildcard"),
            (ADDRESSES, "10.0.0.1,host", "\"host\" is not an IP address"),
            (CA_DAYS, "0", "\"0\" is not a number of days from 1 to 2000000"),
            (CERT_DAYS, "never", "\"never\" is not a decimal number in range"),
        ] {
            let error = tls(&[(name, value)]).unwrap_err().to_string();
            assert_eq!(error, format!("environment variable {name}: {expected}"));
        }
    }
}
