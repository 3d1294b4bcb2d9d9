//! `spiderpool-lab kubernetes-node`: a node of the cluster. Two processes: one that makes the node's namespaces and waits among the control
//! plane's, and the node's first process. Ending the first ends the node, as pulling a plug would; started again, the node has its disk.
//!
//! With [`guest`]s the first becomes the node's kernel instead, and a node that is started again is a new machine.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::addresses::{self, Network};
use super::configuration::{self, CONTAINERD, NODE_FILES};
use super::state::State;
use super::supervisor::{Program, Supervisor};
use super::{cgroup, guest, root};
use crate::isolate;
use crate::netns::{self, Netns};

/// Which node to be.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster
    #[arg(long)]
    cluster: String,
    /// The node
    #[arg(long)]
    node: String,
    /// This is the first process in the node's namespaces
    #[arg(long, hide = true)]
    inside: bool,
}

/// Where the nodes' disks are, in the control plane's mounts.
const DISKS: &str = "/run/nodes";

/// Is the node until it is killed.
pub fn run(args: Args) -> Result<()> {
    // Whoever started this takes it along.
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie this process to its parent")?;
    let state = State::load(&args.cluster)?.with_context(|| format!("there is no cluster {}", args.cluster))?;
    let at = state.options.nodes.iter().position(|name| *name == args.node);
    let at = at.with_context(|| format!("cluster {} has no node {}", args.cluster, args.node))?;
    if args.inside { inside(&state, &args.node, at) } else { outside(&state, &args.node) }
}

/// Cables, then the namespaces.
fn outside(state: &State, name: &str) -> Result<()> {
    let netns = Netns::named(name);
    if state.options.network == Network::Bridges {
        cables(state, name, &netns)?;
    }
    let file = fs::File::open(netns.path()).context("cannot open the node's network")?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot enter it")?;
    if state.options.guests {
        return guest::become_kernel(state, name);
    }
    isolate::own_processes().context("cannot separate processes")?;
    let mut first = Command::new(std::env::current_exe().context("cannot find this program")?);
    first.args(["kubernetes-node", "--cluster", &state.options.name, "--node", name, "--inside"]);
    let mut first = first.stdin(Stdio::null()).spawn().context("cannot start the node")?;
    fs::write(state.pid_file(name), first.id().to_string()).context("cannot write the node's process id")?;
    let status = first.wait().context("cannot wait for the node")?;
    // A node that is down cannot be entered.
    let _ = fs::remove_file(state.pid_file(name));
    anyhow::bail!("node {name} ended: {status}")
}

/// A new network namespace with its cables to the bridges.
fn cables(state: &State, name: &str, netns: &Netns) -> Result<()> {
    netns.delete()?;
    for (nic, bridge) in [("eth0", "br0"), ("eth1", "br1")] {
        let port = port(state, name, nic)?;
        // Of an earlier life; its peer may be going already.
        let _ = Command::new("ip").args(["link", "del", &port]).stderr(Stdio::null()).status();
        if nic == "eth0" {
            Netns::create(name)?;
        }
        let line = format!("link add {port} type veth peer name {nic} netns {name}");
        netns::run(Command::new("ip").args(line.split(' ')))?;
        netns::run(Command::new("ip").args(format!("link set {port} up master {bridge}").split(' ')))?;
    }
    Ok(())
}

/// A name for the bridge's end of a cable; the kernel allows 15 bytes.
fn port(state: &State, node: &str, nic: &str) -> Result<String> {
    let at = state.options.nodes.iter().position(|name| name == node).context("not a node")?;
    Ok(format!("node{at}-{nic}"))
}

fn inside(state: &State, name: &str, at: usize) -> Result<()> {
    let options = &state.options;
    if options.guests {
        guest::settle(state, name)?;
    } else {
        isolate::own_mounts_and_name().context("cannot separate mounts and host name")?;
        rustix::system::sethostname(name.as_bytes()).with_context(|| format!("cannot set the host name {name}"))?;
        root::enter(&Path::new(DISKS).join(name), &state.shared())?;
    }
    network(options.network, options.nodes.len(), at)?;
    files(state, name, at)?;
    let supervisor = Supervisor::start(&options.log_dir, &format!("{name}-"));
    if options.guests {
        guest::listen(state, at, &supervisor)?;
    } else {
        supervisor.listen(&state.socket(Some(name)))?;
    }
    let [containerd, kubelet, proxy] = configuration::node_programs(state, name, at);
    supervisor.keep_running(containerd)?;
    supervisor.keep_running(proxy)?;
    supervisor.until_listening(Path::new(CONTAINERD))?;
    supervisor.keep_running(kubelet)?;
    load(state, &supervisor)?;
    fs::write(state.loaded_file(name), "").context("cannot say that the images are there")?;
    loop {
        std::thread::park();
    }
}

/// In the VPC the cloud has set the interfaces up before.
fn network(network: Network, nodes: usize, at: usize) -> Result<()> {
    let mut lines = Vec::new();
    if network == Network::Bridges {
        lines.extend([
            format!("addr add {}/24 dev eth0", network.node(at)),
            "link set eth0 up".to_owned(),
            "link set eth1 up".to_owned(),
            format!("route add default via {}", network.control_plane()),
        ]);
        let others = (0..nodes).filter(|other| *other != at);
        lines.extend(others.map(|other| format!("route add {} via {}", addresses::pods(other), network.node(other))));
    }
    for line in lines {
        netns::run(Command::new("ip").args(line.split(' ')))?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot switch forwarding on")?;
    // Only where the bridge filter is loaded: Services need it for pods on one bridge.
    let filter = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if filter.exists() {
        fs::write(filter, "1").with_context(|| format!("cannot write {}", filter.display()))?;
    }
    Ok(())
}

/// What lies on a node's disk before anything runs.
fn files(state: &State, name: &str, at: usize) -> Result<()> {
    let cgroup = cgroup::name(&state.options.name, name);
    let mode = if has_nftables() { "nftables" } else { "iptables" };
    let below = |file: &str| format!("{NODE_FILES}/{file}");
    let network = state.options.network;
    let mut texts = vec![
        (below("containerd.toml"), configuration::containerd()),
        (below("kubelet.yaml"), configuration::kubelet(&cgroup)),
        (below("kube-proxy.yaml"), configuration::kube_proxy(state, name, mode)),
        ("/etc/hosts".to_owned(), configuration::hosts(network, &state.options.nodes)),
        ("/etc/hostname".to_owned(), format!("{name}\n")),
        // The machine's name servers cannot be reached from here.
        ("/etc/resolv.conf".to_owned(), String::new()),
    ];
    if network == Network::Bridges {
        texts.push(("/etc/cni/net.d/10-cluster.conflist".to_owned(), configuration::cluster_network(at)));
    }
    for (path, text) in texts {
        let path = Path::new(&path);
        if path.is_symlink() {
            fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
        }
        fs::create_dir_all(path.parent().context("a file in no directory")?)
            .and_then(|()| fs::write(path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bin = Path::new("/opt/cni/bin");
    fs::create_dir_all(bin).context("cannot make /opt/cni/bin")?;
    let plugins = state.options.kubernetes_dir.join("cni");
    for entry in fs::read_dir(&plugins).with_context(|| format!("cannot read {}", plugins.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), bin.join(entry.file_name()))
            .with_context(|| format!("cannot copy {}", entry.path().display()))?;
    }
    Ok(())
}

/// Whether this kernel and this `nft` make tables.
fn has_nftables() -> bool {
    let nft =
        |words: &[&str]| Command::new("nft").args(words).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    nft(&["add", "table", "ip", "lab-probe"]) && nft(&["delete", "table", "ip", "lab-probe"])
}

/// Imports the images, one after the other.
fn load(state: &State, supervisor: &Supervisor) -> Result<()> {
    let dir = state.dir().join("images");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut archives: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    archives.sort();
    for archive in archives {
        let import = Program::new("images", state.options.kubernetes_dir.join("ctr"))
            .args(["--address", CONTAINERD, "--namespace", "k8s.io", "images", "import", "--local"])
            .args([archive.display().to_string()]);
        supervisor.run(import).with_context(|| format!("cannot import {}", archive.display()))?;
    }
    Ok(())
}
