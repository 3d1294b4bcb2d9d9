//! Health checks of nodes.

use super::model::Probe;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A node that does not answer within this time has failed the check.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the node passes.
pub async fn passes(probe: Probe, node: Ipv4Addr) -> bool {
    let checked = async {
        match probe {
            Probe::Trust => Ok(true),
            Probe::Connect(port) => TcpStream::connect((node, port)).await.map(|_| true),
            Probe::Http(port) => healthz(node, port).await,
        }
    };
    matches!(timeout(PATIENCE, checked).await, Ok(Ok(true)))
}

async fn healthz(node: Ipv4Addr, port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((node, port)).await?;
    let request =
        format!("GET /healthz HTTP/1.1\r\nHost: {node}:{port}\r\nUser-Agent: balancer\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(status.starts_with(b"HTTP/1.") && status.ends_with(b" 200"))
}
