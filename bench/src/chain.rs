//! (d) The full chain of one pod by phase on this kernel: main plugin with IPAM, then coordinator; ADD and DEL.
//!
//! The node is a network namespace with one NIC; the main plugin is ipvlan where the kernel has it, else macvlan.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Args;
use crate::report;
use crate::stats::{Samples, shown};
use crate::world::World;

const SAMPLES: usize = 40;
/// Where Debian puts the standard plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";

/// A named network namespace that ends with this value.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace; a leftover of the same name is replaced.
    pub fn make(name: &str) -> Result<Self> {
        // Nothing to remove is the usual case.
        let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        ip(&["netns", "add", name])?;
        Ok(Self { name: name.to_owned() })
    }

    /// The path that plugins get as `CNI_NETNS`.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        let mut all = vec!["-n", &self.name];
        all.extend(args);
        ip(&all)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("start ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs the measurement.
pub async fn run(args: &Args) -> Result<()> {
    let world = World::start(args).await?;
    world.api.create_pool("bench", "10.16.0.0/16", "10.16.1.1-10.16.3.232").await?;
    world.api.create_coordinator("10.233.0.0/18").await?;
    let agent = world.start_agent("node-0").await?;
    let pods = world.api.create_pods("node-0", (0..SAMPLES).map(|n| format!("web-{n}"))).await?;
    let (fabric, node) = (Namespace::make("spiderpool-bench-net")?, Namespace::make("spiderpool-bench-node")?);
    fabric.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", "spiderpool-bench-node"])?;
    for (side, address) in [(&fabric, "10.16.0.1/16"), (&node, "10.16.0.2/16")] {
        side.ip(&["addr", "add", address, "dev", "eth0"])?;
        side.ip(&["link", "set", "eth0", "up"])?;
        side.ip(&["link", "set", "lo", "up"])?;
    }
    node.ip(&["route", "add", "default", "via", "10.16.0.1"])?;

    let dir = TempDir::with_prefix("spiderpool-bench-")?;
    for name in ["spiderpool", "coordinator"] {
        std::os::unix::fs::symlink(args.plugin_dir.join("spiderpool").canonicalize()?, dir.path().join(name))?;
    }
    let kind = if has_ipvlan(&node) { "ipvlan" } else { "macvlan" };
    let chain = Chain { node: node.path(), bin: dir.path().to_owned(), socket: agent.socket.clone(), kind };
    let mut phases: [(&str, Samples); 4] =
        ["main plugin with IPAM, ADD", "coordinator, ADD", "coordinator, DEL", "main plugin with IPAM, DEL"]
            .map(|name| (name, Samples::default()));
    for pod in &pods {
        let sandbox = Namespace::make("spiderpool-bench-pod")?;
        sandbox.ip(&["link", "set", "lo", "up"])?;
        let call = Call { container: &pod.container, pod: &pod.name, uid: &pod.uid, sandbox: sandbox.path() };
        let result = chain.main(&call, "ADD", &mut phases[0].1)?;
        chain.coordinator(&call, "ADD", &result, &mut phases[1].1)?;
        world.api.delete_pods(std::slice::from_ref(pod)).await?;
        chain.coordinator(&call, "DEL", &result, &mut phases[2].1)?;
        chain.main(&call, "DEL", &mut phases[3].1)?;
    }
    for (name, samples) in &phases {
        println!("{name}: {}", samples.summary());
        report::raw(&format!("{name}, ms"), &samples.raw());
    }
    let total: Samples =
        Samples(phases[0].1.0.iter().zip(&phases[1].1.0).map(|(main, after)| *main + *after).collect());
    let seen = format!("{kind}, IPv4, no probes: {}", total.summary());
    let goal = Duration::from_millis(40);
    report::figure(
        "full chain ADD",
        &seen,
        "<= 1/5 of 0.2 s",
        total.median() <= goal,
        "0.2 s (IPv4), 1.65 s (dual stack), with probes",
    );
    println!("  agent ready after {}", shown(agent.ready_after));
    Ok(())
}

fn has_ipvlan(node: &Namespace) -> bool {
    let made = node.ip(&["link", "add", "spbench0", "link", "eth0", "type", "ipvlan", "mode", "l2"]).is_ok();
    if made {
        let _ = node.ip(&["link", "del", "spbench0"]);
    }
    made
}

/// Where and with what the chain is called.
struct Chain {
    node: PathBuf,
    bin: PathBuf,
    socket: PathBuf,
    kind: &'static str,
}

/// The pod of a call.
struct Call<'a> {
    container: &'a str,
    pod: &'a str,
    uid: &'a str,
    sandbox: PathBuf,
}

impl Chain {
    fn main(&self, call: &Call, verb: &str, samples: &mut Samples) -> Result<Value> {
        let log = self.bin.join("plugin.log");
        let mut conf = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": self.kind, "master": "eth0",
            "ipam": {"type": "spiderpool", "ipam_unix_socket_path": self.socket, "log_file_path": log},
        });
        conf["mode"] = if self.kind == "ipvlan" { "l2".into() } else { "bridge".into() };
        self.timed(&Path::new(CNI_PLUGINS).join(self.kind), verb, call, &conf, samples)
    }

    fn coordinator(&self, call: &Call, verb: &str, before: &Value, samples: &mut Samples) -> Result<Value> {
        let conf = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "coordinator", "mode": "underlay", "tunePodRoutes": true,
            "ipam_unix_socket_path": self.socket, "logOptions": {"logFile": self.bin.join("coordinator.log")},
            "prevResult": before,
        });
        self.timed(&self.bin.join("coordinator"), verb, call, &conf, samples)
    }

    fn timed(&self, program: &Path, verb: &str, call: &Call, conf: &Value, samples: &mut Samples) -> Result<Value> {
        let mut command = Command::new(program);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", call.container).env("CNI_NETNS", &call.sandbox);
        command.env("CNI_IFNAME", "eth0").env("CNI_PATH", format!("{}:{CNI_PLUGINS}", self.bin.display()));
        let pod = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_UID={}", call.pod, call.uid);
        command.env("CNI_ARGS", format!("IgnoreUnknown=1;{pod}"));
        let (output, elapsed) = in_namespace(&self.node, command, conf.to_string())?;
        if !output.status.success() {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            bail!("{} {verb} failed: {out}{err}", program.display());
        }
        samples.0.push(elapsed);
        if output.stdout.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&output.stdout)?) }
    }
}

/// Runs a command in a network namespace, on a thread that ends with it, and times only the command.
fn in_namespace(namespace: &Path, mut command: Command, input: String) -> Result<(Output, Duration)> {
    let file = std::fs::File::open(namespace)?;
    let job = move || -> Result<(Output, Duration)> {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))?;
        let started = Instant::now();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().expect("standard input is piped").write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        Ok((output, started.elapsed()))
    };
    std::thread::spawn(job).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
