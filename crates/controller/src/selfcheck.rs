//! Is the webhook server reachable under a certificate that the API server trusts?
//!
//! The check connects to the server's own socket as the API server would, trusting what the webhook configurations say. It
//! runs beside the probes and in bounded time, so no probe waits for it. One failure after a success may be a busy machine;
//! several in a row make the replica unready.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use daemon::{Chain, Readiness, Stop};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, watch},
};
use tokio_rustls::TlsConnector;

use crate::certificates::Served;

/// Between two checks.
const LOOK: Duration = Duration::from_secs(5);
/// Until the first success.
const SOON: Duration = Duration::from_millis(200);
/// The longest check.
const LIMIT: Duration = Duration::from_secs(2);
/// So many failures in a row make an unready replica out of a ready one.
const FAILURES: u32 = 3;
/// What the process waits for.
const STEP: &str = "the webhook server to answer under a trusted certificate";

/// What is checked.
pub struct SelfCheck {
    /// The webhook server's socket.
    pub socket: SocketAddr,
    /// The name by which the API server calls it.
    pub name: String,
    /// The CAs that the webhook configurations name (PEM).
    pub trusted: watch::Receiver<Option<String>>,
    /// Told when the certificate does not fit them: they may say something else by now.
    pub untrusted: Arc<Notify>,
    /// The certificate: a new one is checked at once.
    pub served: Served,
    /// Told of the outcome.
    pub readiness: Readiness,
}

/// Why the API server could not call us.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the webhook configurations name no CA (caBundle): with cert-manager its CA injector writes it")]
    NoBundle,
    #[error("the caBundle of the webhook configurations cannot be used: {0}")]
    Bundle(String),
    #[error("the certificate does not fit the caBundle of the webhook configurations, or cannot be used for {name}")]
    Untrusted {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the webhook server does not answer")]
    Io(#[source] io::Error),
    #[error("the webhook server does not answer within {LIMIT:?}")]
    TimedOut,
    #[error("the webhook server answers {0:?}")]
    Answer(String),
}

impl SelfCheck {
    /// Checks again and again until `stop`.
    pub async fn run(mut self, stop: Stop) -> Result<(), std::convert::Infallible> {
        let mut unready = Some(self.readiness.hold(STEP));
        let (mut failures, mut complaint) = (0, None);
        loop {
            let outcome = tokio::time::timeout(LIMIT, self.check()).await.unwrap_or(Err(Failure::TimedOut));
            match outcome {
                Ok(()) => {
                    if unready.take().is_some() {
                        tracing::info!(name = self.name, "the webhook server answers under a trusted certificate");
                    }
                    (failures, complaint) = (0, None);
                }
                Err(failure) => {
                    failures += 1;
                    if matches!(failure, Failure::Untrusted { .. }) {
                        self.untrusted.notify_one();
                    }
                    let text = Chain(&failure).to_string();
                    // While the start is under way some things are not there yet.
                    if failures >= FAILURES && complaint.as_ref() != Some(&text) {
                        tracing::error!(name = self.name, error = text, "the API server cannot call the webhooks here");
                        complaint = Some(text);
                    }
                    if failures >= FAILURES && unready.is_none() {
                        unready = Some(self.readiness.hold(STEP));
                    }
                }
            }
            let pause = if unready.is_some() { SOON * failures.clamp(1, 10) } else { LOOK };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                () = self.served.changed() => {}
                Ok(()) = self.trusted.changed() => {}
            }
        }
    }

    async fn check(&self) -> Result<(), Failure> {
        let bundle = self.trusted.borrow().clone().ok_or(Failure::NoBundle)?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            let root = root.map_err(|error| Failure::Bundle(error.to_string()))?;
            roots.add(root).map_err(|error| Failure::Bundle(error.to_string()))?;
        }
        let name = ServerName::try_from(self.name.clone()).map_err(|error| Failure::Bundle(error.to_string()))?;
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let socket = self.connect().await.map_err(Failure::Io)?;
        let mut stream = TlsConnector::from(Arc::new(client))
            .connect(name, socket)
            .await
            .map_err(|source| Failure::Untrusted { name: self.name.clone(), source })?;
        let request = b"GET /webhook-health-check HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.map_err(Failure::Io)?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.map_err(Failure::Io)?;
        match &answer {
            b"HTTP/1.1 200" => Ok(()),
            other => Err(Failure::Answer(String::from_utf8_lossy(other).into_owned())),
        }
    }

    /// The server listens on all addresses, of which one is enough. A socket of IPv6 can be had where IPv6 is switched off
    /// (`net.ipv6.conf.all.disable_ipv6`): such a one answers on IPv4 alone.
    async fn connect(&self) -> io::Result<TcpStream> {
        let port = self.socket.port();
        match self.socket.ip() {
            IpAddr::V4(address) if address.is_unspecified() => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await,
            IpAddr::V6(address) if address.is_unspecified() => match TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
            {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable) =>
                {
                    // The first one tells more.
                    TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| error)
                }
                outcome => outcome,
            },
            _ => TcpStream::connect(self.socket).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a host without IPv6 does: `[::]` can be bound, and only IPv4 gets there.
    #[tokio::test]
    async fn a_socket_on_all_addresses_is_reached_by_either_family() {
        for bound in ["0.0.0.0:0", "[::1]:0"] {
            let listener = TcpListener::bind(bound).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let check = SelfCheck {
                socket: SocketAddr::from(([0_u16; 8], port)),
                name: "localhost".to_owned(),
                trusted: watch::channel(None).1,
                untrusted: Arc::default(),
                served: Served::default(),
                readiness: Readiness::default(),
            };
            check.connect().await.unwrap_or_else(|error| panic!("{bound}: {error}"));
        }
    }
}
