//! Asks a process of this machine for its health, as kubelet's probes do: for health checks of images without shell and `curl`, and for
//! who waits for another container.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::Duration;

/// More than any answer has.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// What can be asked; the endpoints of [`crate::health`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether it has its ports.
    Startup,
    /// Whether it can serve.
    Readiness,
    /// Whether it is alive, be it waiting.
    Liveness,
}

/// Not healthy, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No answer.
    #[error("port {port}: no answer to the {probe} probe")]
    Silent {
        /// The port.
        port: u16,
        /// What was asked.
        probe: Probe,
        /// Why there is none.
        #[source]
        source: io::Error,
    },
    /// An answer that is not "yes".
    #[error("port {port}: {probe} probe: {reason}")]
    Unhealthy {
        /// The port.
        port: u16,
        /// What was asked.
        probe: Probe,
        /// The reason that the process gives, or its status line.
        reason: String,
    },
}

/// Asks on the IPv4 loopback address, then, if nobody listens there, on that of IPv6.
pub fn ask(port: u16, probe: Probe, limit: Duration) -> Result<(), ProbeError> {
    let of = |address: IpAddr| answer(SocketAddr::new(address, port), probe, limit);
    let outcome = of(Ipv4Addr::LOCALHOST.into()).or_else(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable => {
            of(Ipv6Addr::LOCALHOST.into()).map_err(|_| error) // the first one tells more
        }
        _ => Err(error),
    });
    let text = outcome.map_err(|source| ProbeError::Silent { port, probe, source })?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    let reason = serde_json::from_str::<String>(body.trim()).unwrap_or_else(|_| format!("answer {status:?}"));
    Err(ProbeError::Unhealthy { port, probe, reason })
}

fn answer(address: SocketAddr, probe: Probe, limit: Duration) -> io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, limit)?;
    connection.set_read_timeout(Some(limit))?;
    connection.set_write_timeout(Some(limit))?;
    let request = format!("GET /v1/runtime/{probe} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    connection.take(ANSWER_LIMIT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        })
    }
}

/// A name that is no probe's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of startup, readiness, liveness")]
pub struct UnknownProbe(String);

impl FromStr for Probe {
    type Err = UnknownProbe;

    fn from_str(text: &str) -> Result<Self, UnknownProbe> {
        let known = [Self::Startup, Self::Readiness, Self::Liveness];
        known.into_iter().find(|probe| probe.to_string() == text).ok_or_else(|| UnknownProbe(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chain, Readiness, health};

    const LIMIT: Duration = Duration::from_secs(5);

    async fn asked(address: &str, readiness: &Readiness, probe: Probe) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = health::router(readiness.clone(), || std::future::ready(Ok(())));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let answer = tokio::task::spawn_blocking(move || ask(port, probe, LIMIT)).await.unwrap();
        server.abort();
        answer.map_err(|error| Chain(&error).to_string().replace(&port.to_string(), "PORT"))
    }

    #[tokio::test]
    async fn the_real_endpoints_answer_on_both_families() {
        let readiness = Readiness::default();
        let guard = readiness.hold("caches");
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let not_yet = asked(address, &readiness, Probe::Readiness).await;
            assert_eq!(not_yet, Err("port PORT: readiness probe: waiting for caches".to_owned()));
            assert_eq!(asked(address, &readiness, Probe::Liveness).await, Ok(()));
        }
        drop(guard);
        assert_eq!(asked("127.0.0.1:0", &readiness, Probe::Readiness).await, Ok(()));
        assert_eq!(asked("127.0.0.1:0", &readiness, Probe::Startup).await, Ok(()));
    }

    #[test]
    fn silence_is_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = ask(port, Probe::Liveness, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), format!("port {port}: no answer to the liveness probe"));
        drop(listener);
        let error = ask(port, Probe::Liveness, LIMIT).unwrap_err();
        assert!(Chain(&error).to_string().contains("Connection refused"), "{}", Chain(&error));
    }

    #[test]
    fn names_are_those_of_the_paths() {
        assert_eq!("readiness".parse(), Ok(Probe::Readiness));
        assert_eq!(
            "ready".parse::<Probe>().unwrap_err().to_string(),
            "\"ready\" is none of startup, readiness, liveness"
        );
    }
}
