//! What the control plane asks for and what it is told.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// How a Service is balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    L4,
    L7,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// One port of the public address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    pub port: u16,
    pub protocol: Protocol,
    pub node_port: u16,
}

/// A balanced Service, as the control plane wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    pub mode: Mode,
    pub listeners: Vec<Listener>,
    /// The nodes' addresses.
    pub backends: Vec<IpAddr>,
    /// The Service's `healthCheckNodePort`; without it the node port of the first TCP listener is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_port: Option<u16>,
}

/// A balanced Service, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// `namespace/name`
    pub name: String,
    /// The public address.
    pub address: Ipv4Addr,
    pub service: Service,
    /// The nodes that get connections now.
    pub healthy: BTreeSet<Ipv4Addr>,
}

/// Why a Service cannot be balanced.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("service {0}: no listeners")]
    NoListeners(String),
    #[error("service {service}: backend {backend}: IPv6 backends are not supported")]
    Ipv6Backend { service: String, backend: IpAddr },
    #[error("service {service}: port {port}/{protocol:?} twice")]
    PortTwice { service: String, port: u16, protocol: Protocol },
    #[error("service {service}: port {port}: an L7 listener must be TCP")]
    L7NotTcp { service: String, port: u16 },
    #[error("service {0}: all public addresses are in use")]
    NoAddress(String),
    #[error("service {0}: not found")]
    NotFound(String),
}

impl Service {
    /// Whether it can be balanced at all.
    pub fn check(&self, name: &str) -> Result<(), Refusal> {
        let service = || name.to_owned();
        if self.listeners.is_empty() {
            return Err(Refusal::NoListeners(service()));
        }
        if let Some(backend) = self.backends.iter().find(|backend| backend.is_ipv6()) {
            return Err(Refusal::Ipv6Backend { service: service(), backend: *backend });
        }
        let mut seen = BTreeSet::new();
        for &Listener { port, protocol, .. } in &self.listeners {
            if !seen.insert((port, protocol)) {
                return Err(Refusal::PortTwice { service: service(), port, protocol });
            }
            if self.mode == Mode::L7 && protocol != Protocol::Tcp {
                return Err(Refusal::L7NotTcp { service: service(), port });
            }
        }
        Ok(())
    }

    /// The nodes. [`Service::check`] has refused others than IPv4.
    pub fn nodes(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.backends.iter().filter_map(|backend| match backend {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })
    }

    /// How a node is checked.
    pub fn probe(&self) -> Probe {
        match (self.health_check_port, self.listeners.iter().find(|listener| listener.protocol == Protocol::Tcp)) {
            (Some(port), _) => Probe::Http(port),
            (None, Some(listener)) => Probe::Connect(listener.node_port),
            (None, None) => Probe::Trust,
        }
    }
}

/// A health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// `GET /healthz` must give 200.
    Http(u16),
    /// A TCP connection must come about.
    Connect(u16),
    /// Nothing can be asked (UDP without a health check port).
    Trust,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Service {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_cannot_be_balanced_is_refused_by_name() {
        for (text, wanted) in [
            (r#"{"mode":"l4","listeners":[],"backends":[]}"#, "service a/b: no listeners"),
            (
                r#"{"mode":"l4","listeners":[{"port":80,"protocol":"TCP","nodePort":30080}],"backends":["172.31.199.183","fd00:172:31::183"]}"#,
                "service a/b: backend fd00:172:31::183: IPv6 backends are not supported",
            ),
            (
                r#"{"mode":"l7","listeners":[{"port":80,"protocol":"UDP","nodePort":30080}],"backends":[]}"#,
                "service a/b: port 80: an L7 listener must be TCP",
            ),
            (
                r#"{"mode":"l4","listeners":[{"port":80,"protocol":"TCP","nodePort":1},{"port":80,"protocol":"TCP","nodePort":2}],"backends":[]}"#,
                "service a/b: port 80/Tcp twice",
            ),
        ] {
            assert_eq!(service(text).check("a/b").unwrap_err().to_string(), wanted);
        }
    }

    #[test]
    fn the_health_check_port_wins_over_the_node_port() {
        let mut both = service(
            r#"{"mode":"l4","listeners":[{"port":999,"protocol":"TCP","nodePort":30999}],"backends":[],"healthCheckPort":31000}"#,
        );
        assert_eq!(both.probe(), Probe::Http(31000));
        both.health_check_port = None;
        assert_eq!(both.probe(), Probe::Connect(30999));
        both.listeners[0].protocol = Protocol::Udp;
        assert_eq!(both.probe(), Probe::Trust);
    }
}
