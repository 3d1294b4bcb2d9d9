//! An agent of ours, called over its socket.

use std::path::PathBuf;

use agent::{
    app::{self, Ports},
    settings::Settings,
};
use daemon::{Env, Readiness, Stop, Tasks};
use kube::Client;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::world::eventually;

pub struct Agent {
    socket: PathBuf,
    stop: Stop,
    running: JoinHandle<anyhow::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Agent {
    /// Starts one and waits until it serves.
    pub async fn start(client: &Client, node: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("spiderpool.sock");
        let config = dir.path().join("conf.yml");
        std::fs::write(
            &config,
            format!("enableIPv4: true\nenableIPv6: true\nipamUnixSocketPath: {}\n", socket.display()),
        )
        .unwrap();
        let env: Env = [
            ("SPIDERPOOL_NODE_NAME", node),
            ("SPIDERPOOL_POD_NAMESPACE", "kube-system"),
            ("SPIDERPOOL_POD_NAME", node),
            ("SPIDERPOOL_HEALTH_PORT", "0"),
        ]
        .into_iter()
        .collect();
        let mut settings = Settings::new(&env, daemon::config::load(&config).unwrap().config).unwrap();
        settings.spool_root = dir.path().join("spool");
        let (stop, readiness) = (Stop::new(), Readiness::default());
        let ports = Ports::open(&settings).await.unwrap();
        let running =
            tokio::spawn(app::run(settings, client.clone(), ports, readiness.clone(), Tasks::new(stop.clone())));
        eventually("the agent serves", || async { readiness.check().is_ok().then_some(()) }).await;
        Self { socket, stop, running, _dir: dir }
    }

    /// The pod's UID and its address.
    pub async fn add(&self, name: &str, uid: &str) -> (String, String) {
        let (args, client) = (args(name, uid), wire::agent::Client::new(self.socket.clone()));
        let args = serde_json::from_value(args).unwrap();
        let answer = tokio::task::spawn_blocking(move || client.add(&args)).await.unwrap();
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        (uid.to_owned(), answer.ips[0].address.split('/').next().unwrap().to_owned())
    }

    pub async fn del(&self, name: &str, uid: &str) {
        let (args, client) = (args(name, uid), wire::agent::Client::new(self.socket.clone()));
        let args = serde_json::from_value(args).unwrap();
        tokio::task::spawn_blocking(move || client.release(&args)).await.unwrap().unwrap();
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn args(name: &str, uid: &str) -> serde_json::Value {
    json!({
        "containerID": format!("sandbox-of-{name}"), "ifName": "eth0", "netNamespace": "/var/run/netns/x",
        "podNamespace": "ns1", "podName": name, "podUID": uid
    })
}
