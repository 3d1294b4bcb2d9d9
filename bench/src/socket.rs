//! Calls of the agent as a plugin makes them: HTTP/1.1 over the Unix socket, one connection a call.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// One call; the answer's body, or an error with status and body when it is not 200.
pub async fn call(socket: &Path, method: &str, path: &str, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let mut stream = UnixStream::connect(socket).await.with_context(|| format!("connect {}", socket.display()))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: \r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no end of headers")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("{method} {path}: {status} {body}");
    }
    if body.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(body).with_context(|| format!("{method} {path} answered {body:?}"))
}

/// What a plugin sends for one interface of a pod.
pub fn arguments(pod: &Pod) -> Value {
    serde_json::json!({
        "containerID": pod.container, "ifName": "eth0", "netNamespace": "/run/netns/none",
        "podNamespace": "default", "podName": pod.name, "podUID": pod.uid,
    })
}

/// A pod as its agent's calls name it.
#[derive(Clone)]
pub struct Pod {
    /// Name of the pod, in namespace `default`.
    pub name: String,
    /// UID that the API server gave it.
    pub uid: String,
    /// Identifier of its sandbox.
    pub container: String,
}

/// The first address of an answer to an ADD.
pub fn address(answer: &Value) -> Result<String> {
    let address = answer["ips"][0]["address"].as_str();
    address.map(str::to_owned).with_context(|| format!("no address in {answer}"))
}
