//! The IPAM plugin as a process, against a stub agent on a real socket.

#![allow(clippy::unwrap_used)] // helpers of tests

mod stub;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stub::{Agent, PROGRAM, Reply, Run, bad_stdin, may_enter_namespaces};
use wire::spool::Spool;

/// A folder with a socket in it; its release notes go with it.
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn spool(&self) -> Spool {
        Spool::of_socket(&self.socket())
    }

    fn agent(&self, reply: impl Fn(&stub::Seen) -> Reply + Send + Sync + 'static) -> Agent {
        Agent::start(self.folder.path(), reply)
    }

    /// The configuration with this scratch's socket and log, and what else a test sets in `ipam`.
    fn conf(&self, version: &str, extra: &Value) -> String {
        let mut ipam = json!({
            "type": "spiderpool", "ipam_unix_socket_path": self.socket(), "log_file_path": self.folder.path().join("plugin.log"), "agent_timeout_seconds": 1,
        });
        for (key, value) in extra.as_object().unwrap() {
            ipam[key] = value.clone();
        }
        json!({"cniVersion": version, "name": "net", "type": "ipvlan", "master": "eth0", "ipam": ipam}).to_string()
    }

    fn run(&self, command: &str, version: &str, extra: &Value) -> Run {
        Run::new(Path::new(PROGRAM), command, self.conf(version, extra))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.spool().dir());
        // The parents go as well when nobody else uses them.
        for folder in ["/var/lib/spidernet/release", "/var/lib/spidernet"] {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

fn none() -> Value {
    json!({})
}

const ANSWER: &str = r#"{"ips":[
    {"address":"10.0.0.5/24","gateway":"10.0.0.1","ipPool":"p4","nic":"eth0","version":4},
    {"address":"fd00::5/64","gateway":"fd00::1","ipPool":"p6","nic":"eth0","version":6},
    {"address":"10.9.0.5/16","nic":"net1","version":4}],
  "routes":[{"ifName":"eth0","dst":"0.0.0.0/0","gw":"10.0.0.1"},{"ifName":"net1","dst":"10.8.0.0/16","gw":"10.9.0.1"}]}"#;

fn answering(body: &'static str) -> impl Fn(&stub::Seen) -> Reply + Send + Sync {
    move |_| Reply::Json(200, body.to_owned())
}

#[test]
#[ignore = "netns"]
fn add_asks_once_and_tells_the_main_plugin_its_own_nic() {
    assert!(may_enter_namespaces());
    let scratch = Scratch::new();
    let agent = scratch.agent(answering(ANSWER));
    let extra = json!({"default_ipv4_ippool": ["a", "b*"], "clean_gateway": true, "log_level": "info", "log_file_max_age": "30"});
    let result = scratch.run("ADD", "0.3.1", &extra).succeed();
    assert_eq!(result["cniVersion"], "0.3.1");
    let expected = json!([
        {"version": "4", "address": "10.0.0.5/24", "gateway": "10.0.0.1"},
        {"version": "6", "address": "fd00::5/64", "gateway": "fd00::1"},
    ]);
    assert_eq!(result["ips"], expected);
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]));
    let seen = agent.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "POST /v1/ipam/ip HTTP/1.1");
    let expected = json!({"containerID": "c1", "ifName": "eth0", "netNamespace": "/proc/self/ns/net", "podNamespace": "ns1", "podName": "web", "podUID": "u1",
        "defaultIPv4IPPool": ["a", "b*"], "defaultIPv6IPPool": null, "cleanGateway": true});
    assert_eq!(seen[0].body, expected);
    let log = std::fs::read_to_string(scratch.folder.path().join("plugin.log")).unwrap();
    let line: Value = serde_json::from_str(&log).unwrap();
    assert_eq!((&line["level"], &line["action"], &line["podName"]), (&json!("INFO"), &json!("ADD"), &json!("web")));
}

#[test]
#[ignore = "netns"]
fn every_supported_version_is_answered_in_its_own_form() {
    let scratch = Scratch::new();
    let _agent = scratch.agent(answering(ANSWER));
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let result = scratch.run("ADD", version, &none()).succeed();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0].get("version").is_some(), version < "1.0.0", "{version}");
    }
}

#[test]
#[ignore = "netns"]
fn an_agent_that_does_not_answer_properly_is_named() {
    let rows: [(Option<Reply>, u64, &str); 8] = [
        (None, 11, "cannot reach the agent at"),
        (Some(Reply::Hang), 11, "no answer within 1s"),
        (Some(Reply::Raw("SSH-2.0-OpenSSH_9.2\r\n".into())), 11, "not an HTTP answer"),
        (Some(Reply::Raw(String::new())), 11, "the agent at"),
        (Some(Reply::Json(200, "<html>".into())), 11, "begins with \"<html>\""),
        (Some(Reply::Json(200, r#"{"ips":null}"#.into())), 11, "is not understood"),
        (Some(Reply::Json(200, r#"{"ips":[]}"#.into())), 101, "no Interface eth0 IP allocation found"),
        (
            Some(Reply::Json(500, r#""no IPPool available: NIC eth0""#.into())),
            101,
            "spiderpool IP allocation error: [POST /ipam/ip][500] no IPPool available: NIC eth0",
        ),
    ];
    for (reply, code, text) in rows {
        let scratch = Scratch::new();
        let agent = reply.clone().map(|reply| scratch.agent(move |_| reply.clone()));
        let started = Instant::now();
        let (found, msg) = scratch.run("ADD", "1.0.0", &none()).fail();
        assert!(found == code && msg.contains(text), "{reply:?}: {found} {msg}");
        assert!(code != 11 || msg.contains("unhealthy spiderpool-agent backend"), "{msg}");
        assert!(started.elapsed() < Duration::from_secs(20), "{reply:?}: bounded");
        drop(agent);
    }
}

#[test]
#[ignore = "netns"]
fn an_address_that_was_to_be_probed_is_refused() {
    let scratch = Scratch::new();
    let _agent = scratch.agent(answering(
        r#"{"ips":[{"address":"10.0.0.5/24","nic":"eth0","version":4,"enableIPConflictDetection":true}]}"#,
    ));
    let (code, msg) = scratch.run("ADD", "1.0.0", &none()).fail();
    assert!(code == 2 && msg.contains("enableIPConflictDetection of 10.0.0.5/24 on NIC eth0"), "{code} {msg}");
}

#[test]
fn a_namespace_that_is_gone_is_an_error_before_the_agent_is_asked() {
    let scratch = Scratch::new();
    let agent = scratch.agent(answering(ANSWER));
    for path in ["/run/netns/spiderpool-none", "/dev/null"] {
        let (code, msg) = scratch.run("ADD", "1.0.0", &none()).env("CNI_NETNS", path).fail();
        assert!(code == 3 && msg.contains("CNI_NETNS") && msg.contains(path), "{code} {msg}");
    }
    assert!(agent.seen().is_empty());
}

#[test]
fn bad_input_is_named() {
    for (stdin, code, text) in bad_stdin("spiderpool") {
        for command in ["ADD", "DEL"] {
            let (found, msg) = Run::new(Path::new(PROGRAM), command, stdin.clone()).fail();
            let begin = String::from_utf8_lossy(&stdin[..stdin.len().min(60)]).into_owned();
            assert!(found == code && msg.contains(text), "{command} {begin:?}: {found} {msg}");
        }
    }
    let scratch = Scratch::new();
    let rows = [
        (json!({"log_level": "loud"}), "ipam.log_level \"loud\""),
        (json!({"log_file_max_size": "big"}), "at ipam.log_file_max_size"),
        (json!({"default_ipv4_ippool": "a"}), "at ipam.default_ipv4_ippool"),
    ];
    for (extra, text) in rows {
        let (code, msg) = scratch.run("ADD", "1.0.0", &extra).fail();
        assert!(code == 7 && msg.contains(text), "{code} {msg}");
    }
    let rows = [
        ("CNI_ARGS", "K8S_POD_NAME", "is not a pair"),
        ("CNI_ARGS", "K8S_POD_NAME=a", "K8S_POD_NAMESPACE is missing"),
        ("CNI_CONTAINERID", "../x", "CNI_CONTAINERID"),
        ("CNI_IFNAME", "a/b", "CNI_IFNAME"),
        ("CNI_COMMAND", "PUT", "CNI_COMMAND \"PUT\""),
    ];
    for (key, value, text) in rows {
        let (code, msg) = scratch.run("DEL", "1.0.0", &none()).env(key, value).fail();
        assert!(code == 4 && msg.contains(text), "{key}={value}: {code} {msg}");
    }
}

#[test]
fn del_names_its_incarnation() {
    let scratch = Scratch::new();
    let agent = scratch.agent(answering(""));
    scratch.run("DEL", "1.0.0", &none()).env("CNI_NETNS", "").succeed_silently();
    let seen = agent.seen();
    assert_eq!(seen[0].line, "DELETE /v1/ipam/ip HTTP/1.1");
    assert_eq!(
        seen[0].body,
        json!({"containerID": "c1", "ifName": "eth0", "podNamespace": "ns1", "podName": "web", "podUID": "u1"})
    );
    assert!(scratch.spool().notes().unwrap().is_empty());
}

#[test]
#[ignore = "netns"]
fn del_succeeds_without_the_agent_and_leaves_a_note() {
    let rows: [Option<Reply>; 4] = [
        None,
        Some(Reply::Hang),
        Some(Reply::Raw("garbage".into())),
        Some(Reply::Json(500, "\"etcd is down\"".into())),
    ];
    for reply in rows {
        let scratch = Scratch::new();
        let _agent = reply.clone().map(|reply| scratch.agent(move |_| reply.clone()));
        for _ in 0..2 {
            scratch.run("DEL", "0.3.1", &json!({"log_level": 5})).succeed_silently();
        }
        let notes = scratch.spool().notes().unwrap();
        assert_eq!(notes.len(), 1, "{reply:?}: a repeated DEL is one note");
        let release = &notes[0].note.as_ref().unwrap().release;
        assert_eq!(
            (release.container_id.as_str(), release.if_name.as_str(), release.pod_uid.as_str()),
            ("c1", "eth0", "u1")
        );
    }
}

#[test]
fn status_and_gc_and_version() {
    let scratch = Scratch::new();
    let (code, msg) = scratch.run("STATUS", "1.1.0", &none()).fail();
    assert!(code == 50 && msg.contains("unhealthy spiderpool-agent backend"), "{code} {msg}");
    let agent = scratch.agent(answering(""));
    scratch.run("STATUS", "1.1.0", &none()).succeed_silently();
    scratch.run("GC", "1.1.0", &none()).succeed_silently();
    for command in ["STATUS", "GC"] {
        let (code, msg) = scratch.run(command, "1.0.0", &none()).fail();
        assert!(code == 1 && msg.contains("needs cniVersion 1.1.0"), "{code} {msg}");
    }
    assert_eq!(agent.seen().len(), 1);
    let version = Run::new(Path::new(PROGRAM), "VERSION", r#"{"cniVersion":"1.0.0"}"#).succeed();
    assert_eq!(version["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

#[test]
fn check_compares_with_the_agents_record() {
    let scratch = Scratch::new();
    let record = r#"{"podNamespace":"ns1","podName":"web","podUID":"u1","node":"n","interfaces":[{"interface":"eth0","ipv4":"10.0.0.5/24"}]}"#;
    let agent = scratch.agent(answering(record));
    let with = |address: &str| {
        let mut conf: Value = serde_json::from_str(&scratch.conf("1.0.0", &none())).unwrap();
        conf["prevResult"] = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"interface": 0, "address": address}]});
        Run::new(Path::new(PROGRAM), "CHECK", conf.to_string())
    };
    with("10.0.0.5/24").succeed_silently();
    let (code, msg) = with("10.0.0.6/24").fail();
    assert!(code == 103 && msg.contains("10.0.0.6/24"), "{code} {msg}");
    assert_eq!(agent.seen()[0].line, "GET /v1/workloadendpoint?podName=web&podNamespace=ns1 HTTP/1.1");
}
