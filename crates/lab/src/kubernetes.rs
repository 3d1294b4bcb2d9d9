//! A real Kubernetes whose nodes are namespaces of this machine: etcd, kube-apiserver, controller-manager, scheduler, and nodes with
//! containerd, kubelet and kube-proxy.
//!
//! ```text
//! driver ── keeper ── control plane (first process of own network, mount and process namespaces; bridges br0, br1)
//!                        ├─ etcd, kube-apiserver, kube-controller-manager, kube-scheduler
//!                        ├─ node "master" (namespaces of its own; eth0 on br0, eth1 on br1)
//!                        │     └─ containerd, kubelet, kube-proxy, pods
//!                        └─ node "worker" ...
//! ```
//!
//! With [`Network::Vpc`] the nodes are machines of the lab's public cloud ([`vpc`]) instead, and with [`Options::guests`] they have kernels
//! of their own ([`guest`]).
//!
//! # Guarantees
//! * Nothing touches the machine's own network, and nothing is written outside [`dir`] but control groups: a node's root is an overlay in memory.
//! * Whoever dies takes along what is below: a killed driver ends a cluster that was not handed over ([`Cluster::keep`]), a killed keeper
//!   ends it always. What a killed keeper leaves (control groups, [`dir`]) is cleared away by the next `up` or `down` of that name.
//!
//! # Caveats
//! Needs root. The kernel is shared but with guests: it has no ipvlan on some machines. No cluster DNS.

mod addresses;
mod cgroup;
mod configuration;
pub mod control;
pub mod control_plane;
mod guest;
pub mod images;
pub mod keeper;
pub mod node;
mod pki;
mod root;
mod state;
mod supervisor;
pub mod vpc;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

pub use addresses::{Network, SECOND_NETWORK};
pub use state::{dir, names};

use state::State;

use crate::world::Exec;

/// What a cluster is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// Its name: letters, digits and dashes.
    pub name: String,
    /// Names of its nodes; none: a control plane alone.
    pub nodes: Vec<String>,
    /// What they are plugged into.
    pub network: Network,
    /// Whether the nodes have kernels of their own; the network must be the VPC then.
    #[serde(default)]
    pub guests: bool,
    /// Where the lab's programs are.
    pub bin_dir: PathBuf,
    /// Where Kubernetes, etcd, containerd, helm and Multus are, with the CNI plugins in `cni` below.
    pub kubernetes_dir: PathBuf,
    /// A static `spiderpool-lab`, which becomes the application in images.
    pub app: PathBuf,
    /// Image archives that every node gets.
    pub images: Vec<PathBuf>,
    /// Directory of the processes' logs, which outlive the cluster.
    pub log_dir: PathBuf,
    /// Whether etcd keeps its data on the disk, beside the logs, and waits for it as in production; else it is in memory.
    #[serde(default)]
    pub durable: bool,
}

/// The nodes' names when only their number is given.
pub fn node_names(count: usize) -> Vec<String> {
    let name = |at: usize| match at {
        0 => "master".to_owned(),
        1 => "worker".to_owned(),
        _ => format!("worker-{at}"),
    };
    (0..count).map(name).collect()
}

/// A cluster that is up.
pub struct Cluster {
    state: State,
    /// As long as it is open, the cluster lives; closing it without a word ends the cluster.
    lifeline: Option<Child>,
}

impl Cluster {
    /// Brings a cluster up; `progress` gets a line per step. It ends with the result, unless [`Cluster::keep`] is called.
    pub fn up(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        check_name(&options.name)?;
        match State::load(&options.name)? {
            Some(old) if old.is_alive() => bail!("cluster {} is up already", options.name),
            Some(old) => {
                progress("clearing away what an earlier cluster left");
                old.clear()?;
            }
            None => {}
        }
        preflight(options)?;
        progress("keys, certificates and test images");
        let state = State::create(options)?;
        match Self::start(state.clone(), progress) {
            Ok(cluster) => Ok(cluster),
            Err(error) => {
                let cleared = state.end();
                let error = error.context(format!("cluster {} did not come up", options.name));
                Err(match cleared {
                    Ok(()) => error,
                    Err(also) => error.context(format!("clearing up failed as well: {also:#}")),
                })
            }
        }
    }

    fn start(state: State, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let options = &state.options;
        let log = state.log("keeper");
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut keeper = Command::new(options.bin_dir.join("spiderpool-lab"));
        keeper.args(["kubernetes-keeper", "--name", &options.name]);
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).current_dir("/");
        let mut keeper = keeper.spawn().context("cannot start the keeper")?;
        let lines = BufReader::new(keeper.stdout.take().context("the keeper has no output")?);
        let mut ready = false;
        for line in lines.lines() {
            let line = line.context("cannot read what the keeper says")?;
            if line == keeper::READY {
                ready = true;
                break;
            }
            progress(&line);
        }
        let mut cluster = Self { state, lifeline: Some(keeper) };
        if !ready {
            cluster.wait_for_keeper();
            let words = fs::read_to_string(&log).unwrap_or_default();
            bail!("{}\n(logs of all processes: {})", words.trim(), log.parent().unwrap_or(&log).display());
        }
        // By now it names the processes.
        cluster.state = State::load(&cluster.state.options.name)?.context("its state is gone")?;
        Ok(cluster)
    }

    /// The cluster of that name, if it is up.
    pub fn found(name: &str) -> Result<Option<Self>> {
        let state = State::load(name)?.filter(State::is_alive);
        Ok(state.map(|state| Self { state, lifeline: None }))
    }

    /// Lets the cluster outlive this process.
    pub fn keep(&mut self) -> Result<()> {
        let Some(mut keeper) = self.lifeline.take() else { return Ok(()) };
        let mut lifeline = keeper.stdin.take().context("the keeper has no input")?;
        lifeline.write_all(keeper::KEEP).context("cannot hand the cluster over to its keeper")
    }

    /// Ends the cluster, and what a dead one left.
    pub fn down(name: &str) -> Result<bool> {
        check_name(name)?;
        let Some(state) = State::load(name)? else { return Ok(false) };
        state.end()?;
        Ok(true)
    }

    /// What it is made of.
    pub fn options(&self) -> &Options {
        &self.state.options
    }

    /// The process that clears up, on this machine.
    pub fn keeper_pid(&self) -> u32 {
        self.state.keeper.pid()
    }

    /// A kubeconfig for the administrator, valid inside ([`Cluster::command`]).
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.kubeconfig("admin")
    }

    /// A command among the control plane's namespaces, with `KUBECONFIG` and `PATH` set.
    pub fn command<S: AsRef<str>>(&self, words: &[S]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.state.first_pid().to_string(), "--net", "--mount", "--pid", "--uts"]);
        command.args(["--wdns=/", "--", "env"]);
        command.arg(format!("KUBECONFIG={}", self.kubeconfig().display())).arg(format!("PATH={}", self.path()));
        command.args(words.iter().map(AsRef::as_ref));
        command
    }

    /// A command on a node.
    pub fn command_on<S: AsRef<str>>(&self, node: &str, words: &[S]) -> Result<Command> {
        let enter: Vec<String> = if self.state.options.guests {
            let environment = [format!("KUBECONFIG={}", self.kubeconfig().display()), format!("PATH={}", self.path())];
            let words = guest::words(&self.state, self.state.node_at(node)?);
            words.into_iter().chain(["env".into()]).chain(environment).collect()
        } else {
            let pid = self.state.node_pid(node)?.to_string();
            let words = ["nsenter", "--target", &pid, "--net", "--mount", "--pid", "--uts", "--wdns=/", "--"];
            words.map(str::to_owned).into()
        };
        Ok(self
            .command(&enter.into_iter().chain(words.iter().map(|word| word.as_ref().to_owned())).collect::<Vec<_>>()))
    }

    fn path(&self) -> String {
        let own = self.state.options.kubernetes_dir.display();
        format!("{own}:{own}/cni:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// The same as a place to run commands in.
    pub fn place(&self) -> Exec {
        Exec::of(&self.command::<&str>(&[]))
    }

    /// A node as a place to run commands in.
    pub fn place_on(&self, node: &str) -> Result<Exec> {
        Ok(Exec::of(&self.command_on::<&str>(node, &[])?))
    }

    /// Takes the calling thread, and those that it starts, into the control plane's network, where the API server can be reached.
    pub fn enter_network(&self) -> Result<()> {
        let path = format!("/proc/{}/ns/net", self.state.first_pid());
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter the cluster's network")
    }

    /// What is around the nodes when they are in the cloud.
    pub fn cloud(&self) -> Result<vpc::Cloud> {
        vpc::Cloud::of(&self.state)
    }

    /// Imports image archives on every node.
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        for node in &self.state.options.nodes {
            for archive in archives {
                let file = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
                let mut import =
                    self.command_on(node, &["ctr", "--namespace", "k8s.io", "images", "import", "--local", "-"])?;
                crate::netns::output(import.stdin(file))
                    .with_context(|| format!("cannot import {} on {node}", archive.display()))?;
            }
        }
        Ok(())
    }

    /// Steers a process: `etcd`, `kube-apiserver`, ..., `node-NAME`; with a node: `containerd`, `kubelet`, `kube-proxy` there.
    pub fn steer(&self, node: Option<&str>, order: control::Order, process: &str) -> Result<String> {
        if let Some(node) = node.filter(|_| self.state.options.guests) {
            return Err(guest::no_orders(node));
        }
        control::ask(&self.state.socket(node), order, process)
    }

    fn wait_for_keeper(&mut self) {
        if let Some(keeper) = &mut self.lifeline {
            // Without an open lifeline it clears up and ends.
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.wait_for_keeper();
    }
}

fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !name.is_empty() && name.len() <= 40 && name.chars().all(good),
        "cluster name {name:?}: 1 to 40 lower-case letters, digits and dashes are allowed"
    );
    Ok(())
}

/// Says at once what would go wrong later.
fn preflight(options: &Options) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "a cluster out of namespaces needs root");
    ensure!(options.nodes.len() <= 200, "{} nodes are more than the lab has addresses for", options.nodes.len());
    for node in &options.nodes {
        check_name(node).context("name of a node")?;
    }
    if options.network == Network::Vpc {
        ensure!(
            options.nodes == vpc::NODES,
            "the cloud has the machines {}, all of them nodes",
            vpc::NODES.join(" and ")
        );
    }
    ensure!(
        options.network == Network::Vpc || !options.guests,
        "only machines of the cloud can have kernels of their own"
    );
    let mut files = vec![options.bin_dir.join("spiderpool-lab"), options.app.clone()];
    let mut programs = vec!["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"];
    let mut tools = vec!["ip", "nsenter"];
    if !options.nodes.is_empty() {
        programs.extend(["containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy"]);
        tools.extend(["runc", "iptables", "busybox"]);
    }
    if options.guests {
        tools.extend(guest::TOOLS);
    }
    files.extend(programs.iter().map(|name| options.kubernetes_dir.join(name)));
    files.extend(options.images.iter().cloned());
    let mut missing: Vec<String> =
        files.iter().filter(|file| !file.is_file()).map(|file| file.display().to_string()).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let absent = tools.iter().filter(|tool| !dirs.iter().any(|dir| dir.join(tool).is_file()));
    missing.extend(absent.map(|tool| (*tool).to_owned()));
    ensure!(missing.is_empty(), "a cluster out of namespaces needs what is not here: {}", missing.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_nodes_are_called_as_in_the_guide() {
        assert_eq!(node_names(3), ["master", "worker", "worker-2"]);
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        for name in ["", "a/b", "..", "A", "a b"] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
        check_name("default").unwrap();
    }
}
