//! Control sockets: HTTP/1.1 with JSON bodies over a Unix socket, so that `curl --unix-socket` works too.

use anyhow::{Context, Result, bail};
use serde::{Serialize, de::DeserializeOwned};
use std::future::IntoFuture;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A blocking client of one control socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the socket at that path. Nothing is opened yet.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Self { socket: socket.as_ref().to_owned() }
    }

    /// `GET path`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call("GET", path, None::<&()>)
    }

    /// `PUT path` with a JSON body.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call("PUT", path, Some(body))
    }

    /// `POST path` with a JSON body.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call("POST", path, Some(body))
    }

    /// `DELETE path`.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call("DELETE", path, None::<&()>)
    }

    fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        let what = || format!("{method} {path} at {}", self.socket.display());
        let body = body.map(serde_json::to_vec).transpose().with_context(what)?.unwrap_or_default();
        let (status, answer) = self.exchange(method, path, &body).with_context(what)?;
        if !(200..300).contains(&status) {
            bail!("{}: status {status}: {}", what(), String::from_utf8_lossy(&answer).trim());
        }
        serde_json::from_slice(&answer).with_context(what)
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("answer without a header")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status =
            head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("answer without a status")?;
        Ok((status, answer.split_off(end + 4)))
    }
}

/// A control socket being served; the file goes with it.
#[derive(Debug)]
pub struct Server {
    listener: tokio::net::UnixListener,
    socket: PathBuf,
}

impl Server {
    /// Makes the socket, in place of one that a killed predecessor left. Needs a running tokio runtime.
    pub fn bind(socket: &Path) -> Result<Self> {
        let what = || format!("cannot listen on {}", socket.display());
        if UnixStream::connect(socket).is_ok() {
            bail!("{}: another process serves it", what());
        }
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(what),
            _ => {}
        }
        if let Some(parent) = socket.parent() {
            std::fs::create_dir_all(parent).with_context(what)?;
        }
        Ok(Self { listener: tokio::net::UnixListener::bind(socket).with_context(what)?, socket: socket.to_owned() })
    }

    /// Serves until SIGTERM or SIGINT.
    pub async fn serve(self, router: axum::Router) -> Result<()> {
        let served = axum::serve(self.listener, router).into_future();
        let outcome = tokio::select! {
            served = served => served.with_context(|| format!("serving {}", self.socket.display())),
            stopped = stopped() => stopped,
        };
        let _ = std::fs::remove_file(&self.socket);
        outcome
    }
}

/// Returns when the process is asked to stop.
pub async fn stopped() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
