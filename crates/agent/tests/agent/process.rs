//! The built program: settings, signals, several side by side.

use crate::world::{World, call, eventually, v4};
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio_util::sync::CancellationToken;

/// A running program, killed when the test ends.
struct Program {
    child: Child,
    socket: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Where the release notes of this socket would be.
        let _ = std::fs::remove_dir_all(wire::spool::Spool::of_socket(&self.socket).dir());
    }
}

impl Program {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

fn command(dir: &Path, node: &str, config: &str) -> (Command, PathBuf) {
    let socket = dir.join(format!("{node}.sock"));
    let file = dir.join(format!("{node}.conf"));
    std::fs::write(&file, format!("ipamUnixSocketPath: {}\n{config}", socket.display())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_spiderpool-agent"));
    command
        .args(["daemon", "--config-path"])
        .arg(file)
        .env_clear()
        .env("KUBECONFIG", dir.join("kubeconfig"))
        .env("SPIDERPOOL_NODE_NAME", node)
        .env("SPIDERPOOL_POD_NAMESPACE", "kube-system")
        .env("SPIDERPOOL_POD_NAME", "agent")
        .env("SPIDERPOOL_HEALTH_PORT", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    (command, socket)
}

async fn start(dir: &Path, node: &str) -> Program {
    let (mut command, socket) = command(dir, node, "enableIPv4: true\n");
    let child = command.spawn().unwrap();
    let program = Program { child, socket };
    eventually("the agent listens", async || tokio::net::UnixStream::connect(&program.socket).await.is_ok()).await;
    program
}

/// Serves the world's API on loopback and writes a kubeconfig for it.
async fn serve(world: &World) -> tokio_util::sync::DropGuard {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", listener.local_addr().unwrap())}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    });
    std::fs::write(world.dir.path().join("kubeconfig"), config.to_string()).unwrap();
    let stop = CancellationToken::new();
    let tokens = apiserver::listen::Tokens::parse("secret,admin,1");
    tokio::spawn(apiserver::listen::serve(world.server.clone(), listener, None, tokens, stop.clone()));
    stop.drop_guard()
}

#[tokio::test]
async fn two_programs_on_one_host_survive_kill_and_end_on_sigterm() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.49")).await;
    world.node("node-b", json!({})).await;
    let _api = serve(&world).await;
    let dir = world.dir.path();
    let mut programs = vec![start(dir, "node-a").await, start(dir, "node-b").await];
    let status = std::fs::read_to_string(format!("/proc/{}/status", programs[0].child.id())).unwrap();
    let huge = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
    assert!(huge.is_none_or(|enabled| enabled.trim() == "0"), "huge pages would keep twice the memory resident");
    let mut pods = Vec::new();
    for n in 0..20 {
        let node = if n % 2 == 0 { "node-a" } else { "node-b" };
        pods.push((n % 2, world.pod_on(&format!("p{n}"), node, json!({})).await));
    }
    let asked: Vec<_> = pods
        .iter()
        .map(|(index, pod)| {
            let (socket, args) = (programs[*index].socket.clone(), pod.args(json!({})));
            tokio::spawn(async move { call(&socket, "POST", "/v1/ipam/ip", &args).await })
        })
        .collect();
    eventually("claims are made", async || !world.claims().await.is_empty()).await;
    programs[0].signal(rustix::process::Signal::KILL);
    programs[0].child.wait().unwrap();
    for one in asked {
        let _ = one.await;
    }
    programs[0] = start(dir, "node-a").await;
    for (index, pod) in &pods {
        let (status, answer) =
            call(&programs[*index].socket, "POST", "/v1/ipam/ip", &pod.container("again").args(json!({}))).await;
        assert_eq!(status, 200, "{answer}");
    }
    eventually("one claim for each pod", async || world.claims().await.len() == 20).await;
    for program in &mut programs {
        program.signal(rustix::process::Signal::TERM);
        assert!(program.child.wait().unwrap().success());
        assert!(!program.socket.exists());
    }
    assert_eq!(world.endpoints().await.len(), 20);
}

#[tokio::test]
async fn what_cannot_be_used_ends_the_start_with_key_and_value() {
    let world = World::new().await;
    let _api = serve(&world).await;
    let dir = world.dir.path();
    let rows = [
        (
            "enableIPv4: true\nenableIPConflictDetection: true\n",
            "",
            "configuration key enableIPConflictDetection: true is not supported",
        ),
        (
            "enableIPv4: true\nenableGatewayDetection: true\n",
            "",
            "configuration key enableGatewayDetection: true is not supported",
        ),
        ("enableIPv4: perhaps\n", "", "enableIPv4: \"perhaps\" is not a boolean"),
        (
            "enableIPv4: true\n",
            "SPIDERPOOL_NODE_NAME",
            "environment variable SPIDERPOOL_NODE_NAME is required and empty",
        ),
        (
            "enableIPv4: true\n",
            "SPIDERPOOL_LOG_LEVEL",
            "environment variable SPIDERPOOL_LOG_LEVEL is required and empty",
        ),
    ];
    for (config, emptied, expected) in rows {
        let (mut command, socket) = command(dir, "refused", config);
        if !emptied.is_empty() {
            command.env(emptied, "");
        }
        let mut child = command.spawn().unwrap();
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(text.contains(expected), "{text}");
        assert!(!socket.exists());
    }
}
