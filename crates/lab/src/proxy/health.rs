//! Health check node ports: a balancer asks them whether this node has endpoints of a Service with policy `Local`.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The servers, by port.
#[derive(Default)]
pub struct Servers {
    running: BTreeMap<u16, (Arc<AtomicUsize>, JoinSet<()>)>,
}

impl Servers {
    /// Serves exactly these ports from now on: port -> (service, endpoints on this node).
    pub async fn set(&mut self, wanted: &BTreeMap<u16, (String, usize)>) {
        self.running.retain(|port, _| wanted.contains_key(port));
        for (&port, (service, count)) in wanted {
            if let Some((known, _)) = self.running.get(&port) {
                known.store(*count, Ordering::Relaxed);
                continue;
            }
            match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
                Ok(listener) => {
                    let shown = Arc::new(AtomicUsize::new(*count));
                    let mut task = JoinSet::new();
                    task.spawn(serve(listener, service.clone(), shown.clone()));
                    self.running.insert(port, (shown, task));
                }
                Err(error) => tracing::error!(port, service, %error, "cannot serve the health check node port"),
            }
        }
    }
}

async fn serve(listener: TcpListener, service: String, count: Arc<AtomicUsize>) {
    loop {
        // A connection that failed before it was accepted concerns nobody.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let answer = answer(&service, count.load(Ordering::Relaxed));
        tokio::spawn(async move { reply(stream, &answer).await });
    }
}

async fn reply(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut request = [0; 1024];
    // One read is enough: whatever is asked, the answer is the same. Nothing read means that nobody asks.
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The answer, in kube-proxy's words.
fn answer(service: &str, count: usize) -> String {
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    let body = serde_json::json!({"service": {"namespace": namespace, "name": name}, "localEndpoints": count, "serviceProxyHealthy": true});
    let body = body.to_string();
    let status = if count > 0 { "200 OK" } else { "503 Service Unavailable" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_endpoints_is_not_healthy() {
        assert!(answer("default/web", 1).starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(answer("default/web", 0).starts_with("HTTP/1.1 503 "));
        assert!(answer("default/web", 2).ends_with(
            r#"{"localEndpoints":2,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":true}"#
        ));
    }
}
