//! Address sets as the configuration writes them: `172.31.199.183`, `172.31.199.185-172.31.199.189` or `172.31.200.0/28`.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Ranges longer than this are a mistake; longer runs are written as prefixes.
const LONGEST_RANGE: u128 = 65_536;

/// One run of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Addresses {
    One(IpAddr),
    /// Inclusive, one family, `first <= last`.
    Range(IpAddr, IpAddr),
    Prefix(IpNet),
}

/// The text is no address, range or prefix.
#[derive(Debug, thiserror::Error)]
pub enum NotAddresses {
    #[error("`{0}` is not an address, a range FIRST-LAST or a prefix")]
    Text(String),
    #[error("range `{0}`: the ends are of different families or in the wrong order")]
    Order(String),
    #[error("range `{0}`: more than {LONGEST_RANGE} addresses")]
    Long(String),
}

impl Addresses {
    /// The single addresses, or the prefix if it is one.
    pub fn single(&self) -> Result<Vec<IpAddr>, IpNet> {
        match *self {
            Self::One(address) => Ok(vec![address]),
            Self::Range(IpAddr::V4(first), IpAddr::V4(last)) => {
                Ok((u32::from(first)..=u32::from(last)).map(|n| Ipv4Addr::from(n).into()).collect())
            }
            Self::Range(first, last) => Ok((number(first)..=number(last)).map(|n| Ipv6Addr::from(n).into()).collect()),
            Self::Prefix(prefix) => Err(prefix),
        }
    }

    /// The first and the last address.
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        match *self {
            Self::One(address) => (address, address),
            Self::Range(first, last) => (first, last),
            Self::Prefix(IpNet::V4(net)) => (net.network().into(), net.broadcast().into()),
            Self::Prefix(IpNet::V6(net)) => (net.network().into(), net.broadcast().into()),
        }
    }
}

/// The address as a number; the families keep apart because ranges hold one family only.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

impl FromStr for Addresses {
    type Err = NotAddresses;

    fn from_str(text: &str) -> Result<Self, NotAddresses> {
        let wrong = |_| NotAddresses::Text(text.to_owned());
        if let Some((first, last)) = text.split_once('-') {
            let (first, last): (IpAddr, IpAddr) = (first.parse().map_err(wrong)?, last.parse().map_err(wrong)?);
            if first.is_ipv4() != last.is_ipv4() || first > last {
                return Err(NotAddresses::Order(text.to_owned()));
            }
            if number(last) - number(first) >= LONGEST_RANGE {
                return Err(NotAddresses::Long(text.to_owned()));
            }
            return Ok(Self::Range(first, last));
        }
        if text.contains('/') {
            let prefix: IpNet = text.parse().map_err(|_| NotAddresses::Text(text.to_owned()))?;
            return Ok(Self::Prefix(prefix.trunc()));
        }
        text.parse().map(Self::One).map_err(wrong)
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => write!(f, "{address}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Prefix(prefix) => write!(f, "{prefix}"),
        }
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_reads_as_it_prints() {
        for text in [
            "172.31.199.183",
            "172.31.199.185-172.31.199.189",
            "172.31.200.0/28",
            "fd00::1",
            "fd00::185-fd00::189",
            "fd00:1::/80",
        ] {
            assert_eq!(text.parse::<Addresses>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_range_holds_both_ends() {
        let range: Addresses = "192.168.0.254-192.168.1.1".parse().unwrap();
        let texts: Vec<_> = range.single().unwrap().iter().map(IpAddr::to_string).collect();
        assert_eq!(texts, ["192.168.0.254", "192.168.0.255", "192.168.1.0", "192.168.1.1"]);
    }

    #[test]
    fn what_is_no_run_of_addresses_is_named() {
        for text in
            ["", "x", "1.2.3", "1.2.3.4-", "1.2.3.5-1.2.3.4", "1.2.3.4-fd00::1", "1.2.3.4/33", "fd00::-fd00::1:0:0"]
        {
            let error = text.parse::<Addresses>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
