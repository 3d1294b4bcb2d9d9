//! The network side: TLS, bearer tokens, HTTP/1.1 and HTTP/2, graceful stop.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse as _;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::server::{Server, User};
use crate::status::Failure;

/// How long a client may take for its handshake and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long requests may go on after a stop.
const GRACE: Duration = Duration::from_secs(5);

/// Bearer tokens and whom they stand for.
#[derive(Debug, Clone, Default)]
pub struct Tokens(Arc<HashMap<String, String>>);

impl Tokens {
    /// From the lines of a token file: a token alone, or kube-apiserver's `token,user,uid[,groups]`.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entry = |line: &str| {
            let mut parts = line.split(',').map(|part| part.trim().trim_matches('"'));
            let token = parts.next().unwrap_or_default().to_owned();
            (token, parts.next().unwrap_or("system:admin").to_owned())
        };
        Self(Arc::new(lines.map(entry).filter(|(token, _)| !token.is_empty()).collect()))
    }

    /// Whether nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn user(&self, header: Option<&str>) -> Option<String> {
        self.0.get(header?.strip_prefix("Bearer ")?.trim()).cloned()
    }
}

/// Serves until `stop`; then open watches end, and requests under way get a moment to finish.
pub async fn serve(
    server: Server,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    tokens: Tokens,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let tls = tls.map(TlsAcceptor::from);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(connection(server.clone(), stream, tls.clone(), tokens.clone(), stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed"); // out of descriptors, most likely: let others finish
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    server.stopping().cancel();
    tasks.close();
    let _ = tokio::time::timeout(GRACE, tasks.wait()).await;
}

async fn connection(
    server: Server,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    tokens: Tokens,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => http(server, stream, tokens, stop).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
                http(server, stream, tokens, stop).await;
            }
        }
    }
}

async fn http(
    server: Server,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tokens: Tokens,
    stop: CancellationToken,
) {
    let router = server.router();
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, tokens) = (router.clone(), tokens.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(router, &tokens, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PATIENCE).max_concurrent_streams(1000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "connection ended");
    }
}

async fn answer(router: axum::Router, tokens: &Tokens, mut request: Request<Incoming>) -> Response<Body> {
    let open = matches!(request.uri().path(), "/healthz" | "/livez" | "/readyz" | "/version");
    let credentials = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    match tokens.user(credentials) {
        Some(user) => {
            request.extensions_mut().insert(User(user));
        }
        None if open => {}
        None => return Failure::unauthorized().into_response(),
    }
    let answered = router.oneshot(request.map(Body::new)).await;
    answered.unwrap_or_else(|never| match never {})
}
