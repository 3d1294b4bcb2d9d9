//! Nodes with a kernel of their own ([`crate::uml`]), for clusters whose pods need what this machine's kernel lacks.
//!
//! Everything else stays as it is: the control plane and the cloud are on this machine, and what runs on a node is what runs on a node of
//! namespaces. The node's cables are the cloud's, whose ends in the node's namespace on this machine are left without addresses.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::mount::mount_bind;

use super::addresses::Network;
use super::state::State;
use super::supervisor::{Program, Supervisor};
use super::{cgroup, vpc};
use crate::netns::Netns;
use crate::uml::Uml;

/// In MiB; the disk of the container runtime is in it.
const MEMORY: u32 = 2500;

/// For kube-proxy, the container runtime, and the plugins: nothing loads itself when it is first used.
const MODULES: [&str; 24] = [
    "ipvlan",
    "macvlan",
    "veth",
    "tun",
    "bridge",
    "br_netfilter",
    "overlay",
    "ip_tables",
    "iptable_nat",
    "iptable_filter",
    "iptable_mangle",
    "ip6_tables",
    "ip6table_nat",
    "ip6table_filter",
    "ip6table_mangle",
    "xt_comment",
    "xt_mark",
    "xt_connmark",
    "xt_MASQUERADE",
    "xt_statistic",
    "xt_conntrack",
    "xt_addrtype",
    "xt_nat",
    "nf_conntrack",
];

/// Where a node takes commands ([`crate::shell`]).
const SHELL_PORT: u16 = 2222;

/// Becomes the node's kernel; the caller is in the node's network on this machine.
pub fn become_kernel(state: &State, name: &str) -> Result<()> {
    let lab = state.options.bin_dir.join("spiderpool-lab").display().to_string();
    let command = [lab.as_str(), "kubernetes-node", "--cluster", &state.options.name, "--node", name, "--inside"];
    let machine = Uml {
        dir: state.dir().join("guests").join(name),
        name: name.to_owned(),
        memory: MEMORY,
        modules: MODULES.to_vec(),
        nics: vpc::nics(state, name)?,
        shared: state.shared(),
        command: command.map(str::to_owned).into(),
    };
    Err(machine.command()?.exec()).with_context(|| format!("cannot start the kernel of node {name}"))
}

/// What a machine has before anything of a cluster runs on it; this process is the first one of its kernel.
pub fn settle(state: &State, name: &str) -> Result<()> {
    cgroup::make(&cgroup::name(&state.options.name, name))?;
    let own = Netns::named(name).path();
    fs::write(&own, "").with_context(|| format!("cannot make {}", own.display()))?;
    mount_bind("/proc/thread-self/ns/net", &own).context("cannot name the node's network")?;
    vpc::cloud_init(state, name)
}

/// Takes commands from this machine.
pub fn listen(state: &State, at: usize, supervisor: &Supervisor) -> Result<()> {
    let shell = Program::new("shell", state.options.bin_dir.join("spiderpool-lab"))
        .args(["shell-server".to_owned(), "--listen".into(), address(at).to_string(), "--secret".into()])
        .args([secret(state).display().to_string()]);
    supervisor.keep_running(shell)
}

/// The words before those of a command that is to run on a node, from the control plane's network.
pub fn words(state: &State, at: usize) -> Vec<String> {
    let lab = state.options.bin_dir.join("spiderpool-lab").display().to_string();
    let [server, secret] = [address(at).to_string(), secret(state).display().to_string()];
    [&lab, "shell", "--server", &server, "--secret", &secret, "--"].map(str::to_owned).into()
}

/// The file with the word that opens the nodes.
pub fn secret(state: &State) -> PathBuf {
    state.dir().join("shell-secret")
}

fn address(at: usize) -> SocketAddr {
    SocketAddr::new(Network::Vpc.node(at).into(), SHELL_PORT)
}

/// The programs that this takes.
pub const TOOLS: [&str; 3] = [crate::uml::PROGRAM, "xtables-legacy-multi", "modprobe"];

/// Refuses what needs a Unix socket of the node.
pub fn no_orders(name: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "node {name} has a kernel of its own: its processes cannot be steered from here; the node itself can (process node-{name})"
    )
}
