//! The L7 half: an HTTP/1.1 proxy from a public port to the node port of a healthy node.

use super::plane::Plane;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CONNECT: Duration = Duration::from_secs(2);
/// Nodes take turns.
static TURN: AtomicUsize = AtomicUsize::new(0);

type Body = Either<Incoming, Full<Bytes>>;

/// Proxies connections of `listener` until it is dropped; connections under way end with it.
pub async fn serve(plane: Arc<Plane>, service: String, port: u16, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(service, port, %error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let (plane, service) = (plane.clone(), service.clone());
        connections.spawn(async move {
            let answer = service_fn(|request| answer(&plane, &service, port, client, request));
            let served =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            served.unwrap_or_else(|error| debug!(%client, %error, "connection ended"));
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    plane: &Plane,
    service: &str,
    port: u16,
    client: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let Some(node) = choose(plane, service, port) else {
        return Ok(failure(StatusCode::SERVICE_UNAVAILABLE, "no healthy node\n".into()));
    };
    Ok(forward(node, client, request)
        .await
        .unwrap_or_else(|error| failure(StatusCode::BAD_GATEWAY, format!("{}:{}: {error:#}\n", node.0, node.1))))
}

/// The healthy node whose turn it is, and its port.
fn choose(plane: &Plane, service: &str, port: u16) -> Option<(Ipv4Addr, u16)> {
    let view = plane.view(service)?;
    let node_port = view.service.listeners.iter().find(|listener| listener.port == port)?.node_port;
    let turn = TURN.fetch_add(1, Ordering::Relaxed).checked_rem(view.healthy.len())?;
    Some((*view.healthy.iter().nth(turn)?, node_port))
}

async fn forward(
    node: (Ipv4Addr, u16),
    client: SocketAddr,
    mut request: Request<Incoming>,
) -> anyhow::Result<Response<Body>> {
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(node)).await??;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let headers = request.headers_mut();
    // Between two hops only (RFC 9110 §7.6.1).
    headers.remove(CONNECTION);
    headers.remove("keep-alive");
    headers.append(FORWARDED_FOR, HeaderValue::from_str(&client.ip().to_string())?);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    // Ends when the response's body has been read or dropped.
    tokio::spawn(async move { connection.await.unwrap_or_else(|error| debug!(%error, "node's connection ended")) });
    let mut response = sender.send_request(request).await?;
    response.headers_mut().remove(CONNECTION);
    response.headers_mut().remove("keep-alive");
    Ok(response.map(Either::Left))
}

fn failure(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response
}
