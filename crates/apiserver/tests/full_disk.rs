//! A file system that fills up under the server, and has room again.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use apiserver::{Options, Server};
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// A small file system of its own.
struct Small(tempfile::TempDir);

impl Small {
    /// `None`, with the reason on stderr, where none may be mounted.
    fn mounted() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "small"]).arg(dir.path()).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(dir)),
            Ok(output) => {
                eprintln!("skipped: no file system may be mounted: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                eprintln!("skipped: mount cannot be run: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room there is.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        for chunk in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; chunk]).is_ok() {}
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

async fn send(server: &Server, method: Method, path: &str, body: &Value) -> (StatusCode, Option<String>, String) {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let response = server.router().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    let (code, retry) = (response.status(), response.headers().get("retry-after").cloned());
    let text = response.into_body().collect().await.unwrap().to_bytes();
    (code, retry.map(|v| v.to_str().unwrap().to_owned()), String::from_utf8(text.to_vec()).unwrap())
}

async fn open(dir: &Path) -> Server {
    Server::open(Options { data_dir: Some(dir.to_owned()), ..Options::default() }).await.unwrap()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(server: &Server, name: &str, size: usize) -> (StatusCode, Option<String>, String) {
    let map = json!({"metadata": {"name": name}, "data": {"text": "x".repeat(size)}});
    send(server, Method::POST, MAPS, &map).await
}

/// Names and versions of what a client is shown.
async fn shown(server: &Server) -> BTreeMap<String, String> {
    let (_, _, text) = send(server, Method::GET, MAPS, &Value::Null).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let items = list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]);
    items.map(|meta| (text(&meta["name"]), text(&meta["resourceVersion"]))).collect()
}

async fn wait_until_well(server: &Server) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let (code, _, text) = send(server, Method::GET, "/readyz", &Value::Null).await;
        if code == StatusCode::OK {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "still not ready: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_when_a_full_disk_has_room_again() {
    let Some(disk) = Small::mounted() else { return };
    let server = open(disk.path()).await;
    assert_eq!(create(&server, "before", 1000).await.0, StatusCode::CREATED);
    for round in 0..3 {
        let ballast = disk.fill();
        let mut refused = None;
        for i in 0..100 {
            let name = format!("r{round}-{i}");
            let (code, retry, text) = create(&server, &name, 200_000).await;
            match code {
                StatusCode::CREATED => assert!(refused.is_none(), "{name} is written on a disk that was full"),
                _ => {
                    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{text}");
                    assert_eq!(retry.as_deref(), Some("1"));
                    let status: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(status["reason"], "ServiceUnavailable");
                    assert_eq!(status["details"]["retryAfterSeconds"], 1);
                    let message = status["message"].as_str().unwrap();
                    assert!(message.contains("state.redb") && message.contains("No space left"), "{message}");
                    refused = Some(name);
                    if i > 50 {
                        break;
                    }
                }
            }
        }
        let refused = refused.expect("nothing was refused: the disk was not full");
        for check in ["/readyz", "/livez", "/healthz"] {
            let (code, _, text) = send(&server, Method::GET, check, &Value::Null).await;
            assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR, "{check}: {text}");
            assert!(text.contains("No space left"), "{check}: {text}");
        }
        let acknowledged = shown(&server).await;
        assert!(!acknowledged.contains_key(&refused));

        std::fs::remove_file(ballast).unwrap();
        wait_until_well(&server).await;
        assert_eq!(shown(&server).await, acknowledged);
        let (code, _, text) = create(&server, &refused, 200_000).await;
        assert_eq!(code, StatusCode::CREATED, "{text}");
        for name in acknowledged.keys().filter(|name| *name != "before") {
            let (code, _, text) = send(&server, Method::DELETE, &format!("{MAPS}/{name}"), &json!({})).await;
            assert_eq!(code, StatusCode::OK, "{text}");
        }
    }
    let last = shown(&server).await;
    assert_eq!(last.len(), 2, "{last:?}");
    server.close().await;
    let server = open(disk.path()).await;
    assert_eq!(shown(&server).await, last, "what a new start reads");
    server.close().await;
}
