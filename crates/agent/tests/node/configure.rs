//! `multus-config`, `uninstall` and `health` as processes.

use super::{complaint, names, program, run};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Answers probes: 500 with a reason until it is made ready.
fn agent() -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ready = Arc::new(AtomicBool::new(false));
    let state = ready.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = [0; 256];
            let _ = connection.read(&mut request);
            let answer: &[u8] = if state.load(Ordering::Relaxed) {
                b"HTTP/1.0 200 OK\r\n\r\n"
            } else {
                b"HTTP/1.0 500 Internal Server Error\r\n\r\n\"waiting for caches\""
            };
            let _ = connection.write_all(answer);
        }
    });
    (port, ready)
}

fn node(dir: &Path) {
    for folder in ["net.d", "account"] {
        fs::create_dir(dir.join(folder)).unwrap();
    }
    fs::write(dir.join("account/token"), "token-1").unwrap();
    fs::write(dir.join("account/ca.crt"), "authority").unwrap();
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_side_container_waits_for_the_agent_follows_the_token_and_ends_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    node(dir.path());
    let (port, ready) = agent();
    let (net, account) = (dir.path().join("net.d"), dir.path().join("account"));
    let mut child = program(&["multus-config", "--interval", "1", "--cni-dir", net.to_str().unwrap()])
        .args(["--service-account", account.to_str().unwrap()])
        .env("SPIDERPOOL_HEALTH_PORT", port.to_string())
        .env("SPIDERPOOL_POD_NAMESPACE", "kube-system")
        .env("MULTUS_CLUSTER_NETWORK", "kube-system/ipvlan-eth0")
        .env("KUBERNETES_SERVICE_HOST", "fd00::1")
        .env("KUBERNETES_SERVICE_PORT", "6443")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let kubeconfig = net.join("multus.d/multus.kubeconfig");
    let says = |text: &str| fs::read_to_string(&kubeconfig).is_ok_and(|found| found.contains(text));
    eventually("a kubeconfig", || says("token: \"token-1\"") && says("server: \"https://[fd00::1]:6443\""));
    assert!(!net.join("00-multus.conf").exists(), "the agent is not ready");
    ready.store(true, Ordering::Relaxed);
    eventually("a configuration", || net.join("00-multus.conf").exists());
    fs::write(account.join("token"), "token-2").unwrap();
    eventually("the new token", || says("token: \"token-2\""));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(names(&net), ["00-multus.conf", "multus.d"]);
}

#[test]
fn what_one_command_brings_the_other_takes_away() {
    let dir = tempfile::tempdir().unwrap();
    node(dir.path());
    let net = dir.path().join("net.d");
    let net = net.to_str().unwrap();
    fs::write(dir.path().join("net.d/10-flat.conf"), r#"{"name": "flat", "type": "bridge"}"#).unwrap();
    let arguments = ["multus-config", "--implementation", "multinet", "--no-wait", "--once", "--cni-dir", net];
    let output = run(&arguments, &[("SPIDERPOOL_POD_NAMESPACE", "kube-system")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names(&dir.path().join("net.d")), ["00-multinet.conflist", "10-flat.conf"]);
    assert!(run(&["uninstall", "--cni-dir", net], &[]).status.success());
    assert_eq!(names(&dir.path().join("net.d")), ["10-flat.conf"]);
}

#[test]
fn flags_that_cannot_be_used_are_named() {
    for (arguments, env, expected) in [
        (&["multus-config"][..], &[][..], "--namespace"),
        (&["multus-config", "--namespace", " "], &[], "it is empty"),
        (
            &["multus-config", "--namespace", "n", "--implementation", "thick"],
            &[],
            "[possible values: multus, multinet]",
        ),
        (
            &["multus-config", "--namespace", "n", "--log-level", "info"],
            &[],
            "[possible values: debug, verbose, error, panic]",
        ),
        (&["multus-config", "--namespace", "n", "--interval", "0"], &[], "0 is not in 1..=3600"),
        (&["multus-config", "--namespace", "n", "--service-account", "/nowhere"], &[], "cannot read /nowhere/token"),
        (&["uninstall"], &[], "--plugins-dir"),
        (&["uninstall", "--cni-dir", "/x", "--on-stop"], &[], "--daemonset"),
        (&["uninstall", "--cni-dir", "/x", "--plugin", "multus"], &[], "--plugins-dir"),
        (&["uninstall", "--plugins-dir", "/x", "--plugin", "../etc"], &[], "letters, digits"),
        (&["uninstall", "--cni-dir", "/nowhere"], &[], "--cni-dir /nowhere: no such folder"),
        (&["health", "--probe", "ready"], &[], "none of startup, readiness, liveness"),
        (
            &["health"],
            &[("SPIDERPOOL_HEALTH_PORT", "1")],
            "port 1: no answer to the readiness probe: Connection refused",
        ),
    ] {
        let error = complaint(&run(arguments, env));
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn health_is_an_exit_code_and_a_reason() {
    let (port, ready) = agent();
    let port = port.to_string();
    let error = complaint(&run(&["health", "--port", &port], &[]));
    assert_eq!(error, format!("spiderpool-agent: port {port}: readiness probe: waiting for caches"));
    ready.store(true, Ordering::Relaxed);
    assert!(run(&["health", "--probe", "liveness"], &[("SPIDERPOOL_HEALTH_PORT", &port)]).status.success());
}
