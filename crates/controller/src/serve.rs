//! HTTP servers: a listener, a router, a stop. Connections that are open when stop is requested finish their request.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use daemon::Stop;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// A client that has not finished its TLS handshake by then is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time that open connections have after stop was requested.
const DRAIN: Duration = Duration::from_secs(5);

/// A socket on `port` of all addresses: IPv6 and IPv4, or IPv4 alone where the host has no IPv6.
pub async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from(([0u16; 8], port))).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await,
    }
}

/// Serves plain HTTP until `stop`.
pub async fn http(listener: TcpListener, router: Router, stop: Stop) -> Result<(), Infallible> {
    accept(listener, stop.clone(), move |socket| connection(socket, router.clone(), stop.clone())).await;
    Ok(())
}

/// Serves HTTPS until `stop`.
pub async fn https(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    router: Router,
    stop: Stop,
) -> Result<(), Infallible> {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    accept(listener, stop.clone(), move |socket| {
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => connection(stream, router, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        }
    })
    .await;
    Ok(())
}

async fn accept<F>(listener: TcpListener, stop: Stop, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let _ = socket.set_nodelay(true);
                    connections.spawn(serve(socket));
                }
                // Out of descriptors, most likely: let some close.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router, stop: Stop) {
    let service =
        TowerToHyperService::new(tower::ServiceExt::map_request(router, |request: Request<hyper::body::Incoming>| {
            request.map(Body::new)
        }));
    let builder = Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error = %error, "connection ended");
    }
}
