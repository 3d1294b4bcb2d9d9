//! The meta plugin as a process, against a stub agent and delegates that are shell scripts.

#![allow(clippy::unwrap_used)] // helpers of tests

mod stub;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use stub::{Agent, PROGRAM, Reply, Run, bad_stdin, until, write};

/// A node in a folder: plugins, configuration, cache, socket.
struct Node {
    folder: tempfile::TempDir,
}

/// Writes down the call and its stdin, then answers. `R` is the result's file, `FAIL` a file that makes it fail.
const DELEGATE: &str = r#"#!/bin/sh
me=$(basename "$0"); here=$(dirname "$0")/..
echo "$CNI_COMMAND $me $CNI_IFNAME" >> "$here/calls"
cat > "$here/stdin-$CNI_COMMAND-$me-$CNI_IFNAME"
env | grep '^CNI_' | sort > "$here/env-$CNI_COMMAND-$me-$CNI_IFNAME"
if [ -e "$here/fail-$CNI_COMMAND-$me" ]; then cat "$here/fail-$CNI_COMMAND-$me"; exit 1; fi
if [ -e "$here/wait-$me" ] && [ "$CNI_COMMAND" = ADD ]; then touch "$here/waiting"; while [ -e "$here/wait-$me" ]; do sleep 0.01; done; fi
if [ "$CNI_COMMAND" = ADD ]; then cat "$here/result-$me-$CNI_IFNAME" 2>/dev/null || cat "$here/result-$me"; fi
"#;

impl Node {
    fn new() -> Self {
        let node = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(node.path("bin")).unwrap();
        fs::create_dir_all(node.path("conf")).unwrap();
        symlink(PROGRAM, node.path("multinet")).unwrap();
        for name in ["ipvlan", "tune"] {
            write(&node.path(&format!("bin/{name}")), DELEGATE);
            fs::set_permissions(node.path(&format!("bin/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
        }
        node.result("ipvlan", "eth0", "02:00:00:00:00:01", "10.0.0.5/24");
        node.result("ipvlan", "net1", "02:00:00:00:00:02", "10.1.0.5/24");
        node.result("ipvlan", "net2", "02:00:00:00:00:03", "fd00::5/64");
        node.result("tune", "eth0", "02:00:00:00:00:01", "10.0.0.5/24");
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn result(&self, plugin: &str, nic: &str, mac: &str, address: &str) {
        let result = json!({"cniVersion": "0.3.1", "interfaces": [{"name": nic, "mac": mac, "sandbox": "/run/netns/x"}], "ips": [{"version": if address.contains(':') { "6" } else { "4" }, "interface": 0, "address": address}], "dns": {}});
        write(&self.path(&format!("result-{plugin}-{nic}")), &result.to_string());
    }

    fn agent(&self, networks: Value) -> Agent {
        Agent::start(self.folder.path(), move |seen| match seen.line.as_str() {
            "POST /v1/multinet/networks HTTP/1.1" => Reply::Json(200, networks.to_string()),
            _ => Reply::Json(200, String::new()),
        })
    }

    fn conf(&self, extra: &Value) -> Value {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "meta", "type": "multinet", "clusterNetwork": "kube-system/default", "cniDir": self.path("cache"),
            "confDir": self.path("conf"), "binDir": self.path("bin"), "agentSocket": self.path("agent.sock")});
        for (key, value) in extra.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    }

    fn run(&self, command: &str, extra: &Value) -> Run {
        Run::new(&self.path("multinet"), command, self.conf(extra).to_string())
    }

    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.path("calls")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn forget_calls(&self) {
        let _ = fs::remove_file(self.path("calls"));
    }

    fn stdin(&self, call: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(&format!("stdin-{call}"))).unwrap()).unwrap()
    }

    /// Entries of the cache.
    fn cached(&self) -> Vec<String> {
        let files = fs::read_dir(self.path("cache"))
            .map(|files| files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect());
        files.unwrap_or_default()
    }
}

fn none() -> Value {
    json!({})
}

/// The default network with a chained plugin.
fn default_network() -> Value {
    let config = json!({"cniVersion": "0.3.1", "name": "default", "plugins": [
        {"type": "ipvlan", "master": "eth0", "capabilities": {"portMappings": true, "mac": true}, "ipam": {"type": "spiderpool"}},
        {"type": "tune", "capabilities": {"bandwidth": false}},
    ]});
    json!({"namespace": "kube-system", "name": "default", "interface": "", "config": config.to_string(), "selection": {}})
}

fn network(name: &str, nic: &str, selection: Value) -> Value {
    let config = json!({"cniVersion": "0.4.0", "type": "ipvlan", "capabilities": {"ips": true, "mac": true}});
    json!({"namespace": "ns1", "name": name, "interface": nic, "config": config.to_string(), "selection": selection})
}

fn three() -> Value {
    let first =
        network("a", "net1", json!({"ips": ["10.1.0.9"], "mac": "02:00:00:00:00:09", "cniArgs": {"colour": "red"}}));
    json!({"default": default_network(), "networks": [first, network("b", "net2", none())], "podUID": "u1"})
}

#[test]
fn a_pod_is_attached_in_order_and_detached_backwards() {
    let node = Node::new();
    let agent = node.agent(three());
    let result = node.run("ADD", &json!({"runtimeConfig": {"portMappings": [{"hostPort": 80}]}})).succeed();
    assert_eq!(result["cniVersion"], "1.0.0");
    assert_eq!(
        result["ips"],
        json!([{"interface": 0, "address": "10.0.0.5/24"}]),
        "the default network's result, in the version of the call"
    );
    assert_eq!(node.calls(), ["ADD ipvlan eth0", "ADD tune eth0", "ADD ipvlan net1", "ADD ipvlan net2"]);

    let first = node.stdin("ADD-ipvlan-eth0");
    assert_eq!(
        (&first["name"], &first["cniVersion"], &first["ipam"]["type"]),
        (&json!("default"), &json!("0.3.1"), &json!("spiderpool"))
    );
    assert_eq!(
        first["runtimeConfig"],
        json!({"portMappings": [{"hostPort": 80}]}),
        "only what its capabilities ask for"
    );
    assert!(first.get("prevResult").is_none() && first.get("capabilities").is_none());
    let chained = node.stdin("ADD-tune-eth0");
    assert_eq!(chained["prevResult"]["ips"][0], json!({"version": "4", "interface": 0, "address": "10.0.0.5/24"}));
    assert!(chained.get("runtimeConfig").is_none());
    let selected = node.stdin("ADD-ipvlan-net1");
    assert_eq!(selected["runtimeConfig"], json!({"ips": ["10.1.0.9"], "mac": "02:00:00:00:00:09"}));
    assert_eq!(selected["args"]["cni"], json!({"colour": "red"}));
    assert_eq!(selected["name"], "a", "a configuration without name is called like its attachment");

    let env = fs::read_to_string(node.path("env-ADD-ipvlan-net1")).unwrap();
    for line in [
        "CNI_IFNAME=net1",
        "CNI_CONTAINERID=c1",
        "CNI_NETNS=/proc/self/ns/net",
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=web;K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=c1",
    ] {
        assert!(env.lines().any(|one| one == line), "{line} is missing in\n{env}");
    }
    assert!(env.lines().any(|one| one == format!("CNI_PATH={}", node.path("bin").display())), "{env}");

    let asked = &agent.seen_of("POST /v1/multinet/networks")[0];
    assert_eq!(asked["clusterNetwork"], "kube-system/default");
    let reported = &agent.seen_of("POST /v1/multinet/status")[0];
    assert_eq!((&reported["podName"], &reported["podUID"]), (&json!("web"), &json!("u1")));
    let status: Value = serde_json::from_str(reported["networkStatus"].as_str().unwrap()).unwrap();
    let expected = json!([
        {"name": "kube-system/default", "interface": "eth0", "ips": ["10.0.0.5"], "mac": "02:00:00:00:00:01", "default": true, "dns": {}},
        {"name": "ns1/a", "interface": "net1", "ips": ["10.1.0.5"], "mac": "02:00:00:00:00:02", "dns": {}},
        {"name": "ns1/b", "interface": "net2", "ips": ["fd00::5"], "mac": "02:00:00:00:00:03", "dns": {}},
    ]);
    assert_eq!(status, expected);

    node.forget_calls();
    let before = agent.seen().len();
    node.run("DEL", &none()).env("CNI_NETNS", "").succeed_silently();
    assert_eq!(node.calls(), ["DEL ipvlan net2", "DEL ipvlan net1", "DEL tune eth0", "DEL ipvlan eth0"]);
    assert_eq!(node.stdin("DEL-ipvlan-net1")["prevResult"]["ips"][0]["address"], "10.1.0.5/24");
    assert!(node.stdin("DEL-ipvlan-eth0").get("prevResult").is_none(), "0.3.1 has no result in DEL");
    assert_eq!(agent.seen().len(), before, "DEL needs no agent");
    assert!(node.cached().is_empty());
}

#[test]
fn a_failed_network_undoes_what_was_begun_and_keeps_the_plugins_words() {
    let node = Node::new();
    let agent = node.agent(three());
    write(
        &node.path("fail-ADD-ipvlan"),
        r#"{"cniVersion":"0.4.0","code":11,"msg":"no address","details":"pool full"}"#,
    );
    let (code, msg) = node.run("ADD", &none()).fail();
    assert!(
        code == 11
            && msg
                == "multinet: ADD of network kube-system/default (interface eth0): plugin ipvlan: no address pool full",
        "{code} {msg}"
    );
    assert_eq!(node.calls(), ["ADD ipvlan eth0", "DEL tune eth0", "DEL ipvlan eth0"]);
    assert!(!node.cached().iter().any(|file| file.ends_with(".json")), "{:?}", node.cached());
    assert!(agent.seen_of("POST /v1/multinet/status").is_empty());

    // Now the second network fails: the first is undone, the third was never begun.
    fs::remove_file(node.path("fail-ADD-ipvlan")).unwrap();
    node.forget_calls();
    write(&node.path("result-ipvlan-net1"), "no json");
    let (code, msg) = node.run("ADD", &none()).fail();
    assert!(
        code == 102
            && msg.contains("network ns1/a (interface net1): plugin ipvlan answered nonsense: CNI result is not JSON"),
        "{code} {msg}"
    );
    assert_eq!(node.calls()[2..], ["ADD ipvlan net1", "DEL ipvlan net1", "DEL tune eth0", "DEL ipvlan eth0"]);
}

#[test]
fn a_plugin_that_fails_wordlessly_or_is_missing_is_named() {
    let node = Node::new();
    let _agent = node.agent(three());
    write(&node.path("fail-ADD-tune"), "");
    let (code, msg) = node.run("ADD", &none()).fail();
    assert!(
        code == 102 && msg.contains("plugin tune failed (exit status: 1) without an error object: it said nothing"),
        "{code} {msg}"
    );
    write(&node.path("fail-ADD-tune"), "Segmentation fault");
    assert!(node.run("ADD", &none()).fail().1.contains("Segmentation fault"));
    fs::remove_file(node.path("bin/tune")).unwrap();
    let (code, msg) = node.run("ADD", &none()).fail();
    assert!(code == 102 && msg.contains("plugin tune is in none of the folders"), "{code} {msg}");
    assert!(msg.contains("not undone"), "its DEL cannot run either: {msg}");
    assert_eq!(
        node.cached().iter().filter(|file| file.ends_with(".json")).count(),
        1,
        "the record stays for the runtime's DEL"
    );
}

#[test]
fn a_status_that_cannot_be_reported_fails_the_add() {
    let node = Node::new();
    let agent = Agent::start(node.folder.path(), |seen| match seen.line.as_str() {
        "POST /v1/multinet/networks HTTP/1.1" => Reply::Json(200, three().to_string()),
        _ => Reply::Json(500, r#""API server is down""#.into()),
    });
    let (code, msg) = node.run("ADD", &none()).fail();
    assert!(
        code == 11
            && msg.contains("network-status of pod ns1/web is not reported")
            && msg.contains("API server is down"),
        "{code} {msg}"
    );
    assert_eq!(node.calls().iter().filter(|call| call.starts_with("DEL")).count(), 4);
    drop(agent);
}

#[test]
fn a_second_add_disturbs_neither_a_running_nor_a_finished_one() {
    let node = Node::new();
    let _agent = node.agent(three());
    write(&node.path("wait-tune"), "");
    let first = node.run("ADD", &none()).spawn();
    until("the first ADD", || node.path("waiting").exists());
    let (code, msg) = node.run("ADD", &none()).fail();
    assert!(code == 11 && msg.contains("another call for container c1 interface eth0 is running"), "{code} {msg}");
    fs::remove_file(node.path("wait-tune")).unwrap();
    assert!(first.wait_with_output().unwrap().status.success());
    let calls = node.calls().len();
    let (code, msg) = node.run("ADD", &none()).fail();
    assert!(code == 4 && msg.contains("is attached by interface eth0 already"), "{code} {msg}");
    assert_eq!(node.calls().len(), calls, "nothing was run or undone");
    node.run("DEL", &none()).succeed_silently();
}

#[test]
fn what_a_killed_add_left_is_removed_by_the_next_one_or_by_del() {
    for command in ["ADD", "DEL"] {
        let node = Node::new();
        let _agent = node.agent(three());
        write(&node.path("wait-tune"), "");
        let mut first = node.run("ADD", &none()).spawn();
        until("the first ADD", || node.path("waiting").exists());
        first.kill().unwrap();
        first.wait().unwrap();
        fs::remove_file(node.path("wait-tune")).unwrap();
        until("the orphaned delegate's end", || node.path("stdin-ADD-tune-eth0").exists());
        node.forget_calls();
        let output = node.run(command, &none()).run();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let calls: Vec<String> = node.calls().into_iter().filter(|call| call.starts_with("DEL")).collect();
        assert_eq!(calls, ["DEL ipvlan net2", "DEL ipvlan net1", "DEL tune eth0", "DEL ipvlan eth0"], "{command}");
    }
}

#[test]
fn del_goes_on_after_a_failure_and_can_be_repeated() {
    let node = Node::new();
    let _agent = node.agent(three());
    node.run("ADD", &none()).succeed();
    node.forget_calls();
    write(&node.path("fail-DEL-tune"), r#"{"cniVersion":"0.3.1","code":100,"msg":"busy"}"#);
    let (code, msg) = node.run("DEL", &none()).fail();
    assert!(
        code == 100 && msg.contains("DEL of network kube-system/default (interface eth0): plugin tune: busy"),
        "{code} {msg}"
    );
    assert_eq!(node.calls().len(), 4, "the others were run");
    fs::remove_file(node.path("fail-DEL-tune")).unwrap();
    node.run("DEL", &none()).succeed_silently();
    node.run("DEL", &none()).succeed_silently();
    assert!(node.cached().is_empty());
}

#[test]
fn del_of_an_attachment_without_record_asks_the_agent_and_does_without_it() {
    let node = Node::new();
    node.run("DEL", &none()).succeed_silently();
    let _agent = node.agent(three());
    node.run("DEL", &none()).succeed_silently();
    assert_eq!(node.calls(), ["DEL ipvlan net2", "DEL ipvlan net1", "DEL tune eth0", "DEL ipvlan eth0"]);
    node.forget_calls();
    node.run("DEL", &none())
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=web;K8S_POD_UID=u0")
        .succeed_silently();
    assert!(node.calls().is_empty(), "another pod of the same name");
}

#[test]
fn a_record_cut_short_goes_with_the_del() {
    for text in ["", r#"{"network":"meta","conta"#] {
        let node = Node::new();
        let absent = r#""Pod ns1/web does not exist""#;
        let _agent = Agent::start(node.folder.path(), move |_| Reply::Json(500, absent.into()));
        fs::create_dir_all(node.path("cache")).unwrap();
        write(&node.path("cache/c1-eth0.json"), text);
        node.run("DEL", &none()).succeed_silently();
        assert!(node.calls().is_empty() && node.cached().is_empty(), "{text:?}: {:?}", node.cached());
    }
}

#[test]
fn an_agent_that_does_not_help_is_named() {
    let rows: [(Option<Reply>, u64, &str); 4] = [
        (None, 11, "cannot reach the agent"),
        (Some(Reply::Raw("garbage".into())), 11, "not an HTTP answer"),
        (
            Some(Reply::Json(
                500,
                r#""NetworkAttachmentDefinition ns1/a, which Pod ns1/web asks for, does not exist""#.into(),
            )),
            101,
            "[POST /multinet/networks][500] NetworkAttachmentDefinition ns1/a",
        ),
        (Some(Reply::Json(200, r#"{"networks":null,"podUID":"u1"}"#.into())), 7, "pod ns1/web has no default network"),
    ];
    for (reply, code, text) in rows {
        let node = Node::new();
        let _agent = reply.clone().map(|reply| Agent::start(node.folder.path(), move |_| reply.clone()));
        let (found, msg) = node.run("ADD", &none()).fail();
        assert!(found == code && msg.contains(text), "{reply:?}: {found} {msg}");
        assert!(node.calls().is_empty());
    }
}

#[test]
fn bad_input_is_named() {
    let node = Node::new();
    for (stdin, code, text) in bad_stdin("multinet") {
        let (found, msg) = Run::new(&node.path("multinet"), "ADD", stdin).fail();
        assert!(found == code && msg.contains(text), "{found} {msg}");
    }
    let rows = [
        (json!({"clusterNetwork": 5}), 7, "at clusterNetwork"),
        (json!({"delegates": [{}]}), 7, "clusterNetwork and delegates exclude each other"),
        (
            json!({"clusterNetwork": "", "delegates": [{"cniVersion": "0.3.1", "plugins": []}]}),
            7,
            "delegates[0]: plugins is empty",
        ),
        (json!({"clusterNetwork": "/nonexistent/net.conf"}), 5, "/nonexistent/net.conf"),
    ];
    for (extra, code, text) in rows {
        let (found, msg) = node.run("ADD", &extra).fail();
        assert!(found == code && msg.contains(text), "{extra}: {found} {msg}");
    }
}

#[test]
fn configurations_of_attachments_are_checked() {
    let rows = [
        ("{", "config of NetworkAttachmentDefinition ns1/a is cut short"),
        (r#"{"cniVersion":"0.3.1"}"#, "plugin 0 has no type"),
        (r#"{"cniVersion":"0.3.1","type":"../../bin/sh"}"#, "type \"../../bin/sh\""),
        (r#"{"cniVersion":"0.1.0","type":"ipvlan"}"#, "cniVersion \"0.1.0\" is not supported"),
        (r#"{"cniVersion":"0.3.1","plugins":[1]}"#, "plugins[0] is not an object"),
        ("", "has no config, and no file in"),
    ];
    for (config, text) in rows {
        let node = Node::new();
        let mut networks = three();
        networks["networks"][0]["config"] = config.into();
        let _agent = node.agent(networks);
        let (_, msg) = node.run("ADD", &none()).fail();
        assert!(msg.contains(text), "{config}: {msg}");
        assert!(node.calls().is_empty(), "nothing was begun");
    }
}

#[test]
fn interfaces_are_unique_and_namespaces_isolated_when_asked_for() {
    let node = Node::new();
    let mut networks = three();
    networks["networks"][1]["interface"] = "net1".into();
    let _agent = node.agent(networks);
    let (code, msg) = node.run("ADD", &none()).fail();
    assert!(code == 7 && msg.contains("networks ns1/a and ns1/b both ask for interface net1"), "{code} {msg}");

    let node = Node::new();
    let mut networks = three();
    networks["networks"][0]["namespace"] = "other".into();
    let _agent = node.agent(networks);
    let (code, msg) = node.run("ADD", &json!({"namespaceIsolation": true})).fail();
    assert!(
        code == 7 && msg.contains("a pod of namespace ns1 may not use NetworkAttachmentDefinition other/a"),
        "{code} {msg}"
    );
    node.run("ADD", &json!({"namespaceIsolation": true, "globalNamespaces": "default,other"})).succeed();
}

#[test]
fn the_default_network_may_be_a_file() {
    let conflist = r#"{"cniVersion":"1.0.0","name":"from-file","plugins":[{"type":"ipvlan"}]}"#;
    let own = r#"{"cniVersion":"1.0.0","name":"meta","plugins":[{"type":"multinet"}]}"#;
    for extra in [
        json!({"clusterNetwork": "from-file"}),
        json!({"clusterNetwork": "DIR"}),
        json!({"clusterNetwork": "FILE"}),
        json!({"clusterNetwork": null, "delegates": [{"cniVersion": "1.0.0", "name": "from-file", "type": "ipvlan"}]}),
    ] {
        let node = Node::new();
        write(&node.path("conf/00-own.conflist"), own);
        write(&node.path("conf/10-file.conflist"), conflist);
        let agent = node.agent(json!({"networks": [], "podUID": "u1"}));
        let mut extra = extra;
        match extra["clusterNetwork"].as_str() {
            Some("DIR") => extra["clusterNetwork"] = json!(node.path("conf")),
            Some("FILE") => extra["clusterNetwork"] = json!(node.path("conf/10-file.conflist")),
            _ => {}
        }
        node.run("ADD", &extra).succeed();
        assert_eq!(node.stdin("ADD-ipvlan-eth0")["name"], "from-file", "{extra}");
        assert_eq!(agent.seen_of("POST /v1/multinet/networks")[0]["localDefault"], true);
        let status = agent.seen_of("POST /v1/multinet/status")[0]["networkStatus"].as_str().unwrap().to_owned();
        assert!(status.contains("\"name\": \"from-file\""), "{status}");
    }
}

#[test]
fn an_attachment_without_config_stands_for_a_file_of_its_name() {
    let node = Node::new();
    write(&node.path("conf/a.conf"), r#"{"cniVersion":"0.4.0","name":"a","type":"ipvlan","x":1}"#);
    let mut networks = three();
    networks["networks"][0]["config"] = "".into();
    let _agent = node.agent(networks);
    node.run("ADD", &none()).succeed();
    assert_eq!(node.stdin("ADD-ipvlan-net1")["x"], 1);
}

#[test]
fn extra_networks_are_for_pods_outside_the_system_namespaces() {
    let node = Node::new();
    let agent = node.agent(three());
    let extra = json!({"defaultNetworks": ["extra"], "multusNamespace": "infra"});
    node.run("ADD", &extra).succeed();
    node.run("ADD", &json!({"defaultNetworks": ["extra"], "systemNamespaces": ["ns1"]}))
        .env("CNI_CONTAINERID", "c2")
        .succeed();
    let asked = agent.seen_of("POST /v1/multinet/networks");
    assert_eq!((&asked[0]["defaultNetworks"], &asked[0]["multusNamespace"]), (&json!(["extra"]), &json!("infra")));
    assert!(asked[1].get("defaultNetworks").is_none());
}

#[test]
fn check_runs_the_recorded_delegates_where_their_version_has_it() {
    let node = Node::new();
    let _agent = node.agent(three());
    let (code, msg) = node.run("CHECK", &none()).fail();
    assert!(code == 3 && msg.contains("nothing is on record of container c1"), "{code} {msg}");
    node.run("ADD", &none()).succeed();
    node.forget_calls();
    node.run("CHECK", &none()).succeed_silently();
    assert_eq!(node.calls(), ["CHECK ipvlan net1", "CHECK ipvlan net2"], "the default network is of 0.3.1");
    assert_eq!(node.stdin("CHECK-ipvlan-net2")["prevResult"]["ips"][0]["address"], "fd00::5/64");
    write(&node.path("fail-CHECK-ipvlan"), r#"{"cniVersion":"0.4.0","code":103,"msg":"address gone"}"#);
    assert!(node.run("CHECK", &none()).fail().1.contains("address gone"));
}

#[test]
fn gc_ends_what_the_runtime_no_longer_has_and_tells_the_networks_what_is_left() {
    let node = Node::new();
    let mut networks = three();
    networks["networks"][0]["config"] = r#"{"cniVersion":"1.1.0","name":"a","type":"ipvlan"}"#.into();
    let agent = node.agent(networks);
    for container in ["c1", "c2"] {
        node.run("ADD", &none()).env("CNI_CONTAINERID", container).succeed();
    }
    drop(agent);
    node.forget_calls();
    node.run(
        "GC",
        &json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}),
    )
    .env("CNI_IFNAME", "")
    .succeed_silently();
    assert_eq!(node.calls()[..4], ["DEL ipvlan net2", "DEL ipvlan net1", "DEL tune eth0", "DEL ipvlan eth0"]);
    assert!(fs::read_to_string(node.path("env-DEL-ipvlan-eth0")).unwrap().contains("CNI_CONTAINERID=c1"));
    assert!(fs::read_to_string(node.path("env-DEL-ipvlan-eth0")).unwrap().contains("K8S_POD_NAME=web"));
    assert_eq!(node.calls()[4..], ["GC ipvlan net1"], "of the networks only one is of 1.1.0");
    assert_eq!(
        node.stdin("GC-ipvlan-net1")["cni.dev/valid-attachments"],
        json!([{"containerID": "c2", "ifname": "net1"}])
    );
    assert!(node.cached().iter().all(|file| file.starts_with("c2-")), "{:?}", node.cached());
}

#[test]
fn status_tells_agent_and_readiness() {
    let node = Node::new();
    let extra = json!({"cniVersion": "1.1.0", "readinessindicatorfile": node.path("ready")});
    let (code, msg) = node.run("STATUS", &extra).fail();
    assert!(code == 50 && msg.contains("readinessindicatorfile") && msg.contains("does not exist"), "{code} {msg}");
    write(&node.path("ready"), "");
    let (code, msg) = node.run("STATUS", &extra).fail();
    assert!(code == 50 && msg.contains("the agent cannot be asked"), "{code} {msg}");
    let _agent = node.agent(three());
    node.run("STATUS", &extra).succeed_silently();
}

#[test]
fn add_waits_for_the_readiness_indicator() {
    let node = Node::new();
    let agent = node.agent(three());
    let waiting = node.run("ADD", &json!({"readinessindicatorfile": node.path("ready")})).spawn();
    assert!(agent.seen().is_empty());
    write(&node.path("ready"), "");
    assert!(waiting.wait_with_output().unwrap().status.success());
}

/// A namespace that goes away with the value.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let name = format!("spiderpool-meta-{}", std::process::id());
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "netns"]
fn the_default_route_moves_to_the_network_that_asks_for_it() {
    let namespace = Namespace::new();
    let name = &namespace.0;
    for (nic, address) in [("eth0", "10.0.0.5/24"), ("net1", "10.1.0.5/24"), ("net2", "10.2.0.5/24")] {
        sh(&format!(
            "ip -n {name} link add {nic} type veth peer name p{nic}; ip -n {name} addr add {address} dev {nic}; ip -n {name} link set {nic} up; ip -n {name} link set p{nic} up"
        ));
    }
    sh(&format!(
        "ip -n {name} route add default via 10.0.0.1; ip -n {name} -6 addr add fd00::2/64 dev eth0 nodad; ip -n {name} -6 route add default via fd00::1 dev eth0"
    ));
    let node = Node::new();
    let mut networks = three();
    networks["networks"][0]["selection"]["defaultRoute"] = json!(["10.1.0.1"]);
    let agent = node.agent(networks);
    let with_route = json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.0.0.5/24"}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "10.7.0.0/16"}]});
    write(&node.path("result-tune-eth0"), &with_route.to_string());
    let result = node.run("ADD", &none()).env("CNI_NETNS", &format!("/run/netns/{name}")).succeed();
    assert_eq!(sh(&format!("ip -n {name} route show default")).trim(), "default via 10.1.0.1 dev net1");
    assert!(
        sh(&format!("ip -n {name} -6 route show default")).contains("via fd00::1 dev eth0"),
        "the other family stays"
    );
    assert_eq!(result["routes"], json!([{"dst": "10.7.0.0/16"}]), "the result tells what is there");
    let status: Value =
        serde_json::from_str(agent.seen_of("POST /v1/multinet/status")[0]["networkStatus"].as_str().unwrap()).unwrap();
    assert_eq!(status[1]["gateway"], json!(["10.1.0.1"]));
}
