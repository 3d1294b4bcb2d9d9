//! The call of one webhook: where it is, TLS, one HTTP request.
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::render::to_json;
use crate::server::Server;

/// Largest answer of a webhook.
const ANSWER_LIMIT: usize = 3 << 20;

/// A parsed `clientConfig`.
#[derive(Debug)]
pub struct Endpoint {
    place: Place,
    path: String,
    tls: Arc<rustls::ClientConfig>,
}

#[derive(Debug)]
enum Place {
    Url { host: String, port: u16 },
    Service { namespace: String, name: String, port: u16 },
}

impl Endpoint {
    /// Reads `clientConfig`.
    pub fn parse(config: &Value) -> Result<Self, String> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let tls = Arc::new(trust(config["caBundle"].as_str().unwrap_or_default())?);
        if let Some(url) = config["url"].as_str() {
            let uri: Uri = url.parse().map_err(|e| format!("Unparsable URL: {e}"))?;
            let host = uri.host().ok_or("Unparsable URL: no host")?.trim_matches(['[', ']']).to_owned();
            if uri.scheme_str() != Some("https") {
                return Err(format!("url {url:?}: 'https' is the only allowed URL scheme"));
            }
            let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
            return Ok(Self { place: Place::Url { host, port: uri.port_u16().unwrap_or(443) }, path, tls });
        }
        let service = &config["service"];
        if !service.is_object() {
            return Err("webhook configuration must have either service or URL".into());
        }
        let path = match service["path"].as_str().unwrap_or_default() {
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/{path}"),
        };
        let port = service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443);
        Ok(Self {
            place: Place::Service { namespace: text(&service["namespace"]), name: text(&service["name"]), port },
            path,
            tls,
        })
    }

    /// Sends the review and returns the answer; errors read like those of Go's HTTP client.
    pub async fn call(&self, server: &Server, review: &Value, timeout: Duration) -> Result<Value, String> {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        let path = format!("{}{separator}timeout={}s", self.path, timeout.as_secs());
        let (name, shown) = match &self.place {
            Place::Url { host, port } if host.contains(':') => (host.clone(), format!("[{host}]:{port}")),
            Place::Url { host, port } => (host.clone(), format!("{host}:{port}")),
            Place::Service { namespace, name, port } => {
                (format!("{name}.{namespace}.svc"), format!("{name}.{namespace}.svc:{port}"))
            }
        };
        let attempt = async {
            let address = match &self.place {
                Place::Url { .. } => shown.clone(),
                Place::Service { namespace, name, port } => service_address(server, namespace, name, *port)?,
            };
            let stream = TcpStream::connect(&address)
                .await
                .map_err(|e| format!("dial tcp {address}: connect: {}", go_text(&e)))?;
            let server_name = ServerName::try_from(name.clone()).map_err(|e| e.to_string())?;
            let stream = TlsConnector::from(self.tls.clone()).connect(server_name, stream).await;
            exchange(stream.map_err(|e| format!("tls: failed to verify certificate: {e}"))?, &path, &shown, review)
                .await
        };
        let outcome =
            tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| Err("context deadline exceeded".into()));
        outcome.map_err(|why| format!("Post \"https://{shown}{path}\": {why}"))
    }
}

fn go_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => error.to_string(),
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    host: &str,
    review: &Value,
) -> Result<Value, String> {
    let text = |e: hyper::Error| e.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let driver = tokio::spawn(connection);
    let request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(to_json(review)))
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(text)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|e| e.to_string())?;
    drop(sender);
    driver.abort();
    let body: Bytes = body.to_bytes();
    if !status.is_success() {
        return Err(format!("the server answered {status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])));
    }
    serde_json::from_slice(&body).map_err(|e| format!("couldn't decode the answer: {e}"))
}

/// Trust in the certificates of a `caBundle`, base64 of PEM.
fn trust(bundle: &str) -> Result<rustls::ClientConfig, String> {
    let pem = STANDARD.decode(bundle).map_err(|e| format!("unable to load root certificates: {e}"))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| format!("unable to load root certificates: {e}"))?;
        roots.add(certificate).map_err(|e| format!("unable to load root certificates: {e}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

/// A ready endpoint of the Service if there is one, else its cluster address (for whoever has a kube-proxy).
fn service_address(server: &Server, namespace: &str, name: &str, port: u16) -> Result<String, String> {
    let service = server.store().get("/services", &format!("{namespace}/{name}"));
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?.value();
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let wanted = ports.into_iter().find(|p| p["port"] == port);
    let wanted = wanted.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    for slice in server.store().all("discovery.k8s.io/endpointslices") {
        let label = |key: &str| slice.labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        if slice.namespace() != namespace || label("kubernetes.io/service-name") != Some(name) {
            continue;
        }
        let slice = slice.value();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let port = slice["ports"].as_array().into_iter().flatten().find(|p| text(&p["name"]) == text(&wanted["name"]));
        let ready = slice["endpoints"].as_array().into_iter().flatten().find(|e| e["conditions"]["ready"] != false);
        if let (Some(port), Some(address)) =
            (port.and_then(|p| p["port"].as_u64()), ready.and_then(|e| e["addresses"][0].as_str()))
        {
            return Ok(host_port(address, port));
        }
    }
    match service["spec"]["clusterIP"].as_str() {
        Some(ip) if ip != "None" && !ip.is_empty() => Ok(host_port(ip, u64::from(port))),
        _ => Err(format!("no endpoints available for service {name:?}")),
    }
}

fn host_port(address: &str, port: u64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
