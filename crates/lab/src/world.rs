//! The whole reference run's world: the cloud, two nodes in it, and a cluster on them.
//!
//! [`World::up`] starts everything in order and waits for states, not for times; [`World::down`] ends it. Both work from one file of state,
//! so that any later process can enter a world, stop and start parts of it, or clear away what a killed one left behind.
//!
//! Guarantees: nothing of a world survives `down`: processes by their id and start time, everything that lives in a node's mounts,
//! namespaces, mount points that were made, the directory of state.

mod cluster;
pub mod objects;
mod processes;
mod state;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;

use crate::netns::Netns;
use crate::vpc::config::Config;
use crate::vpc::reference;
use crate::{control, gateway, node, secret};

pub use processes::{Exec, Output};
pub use rustix::process::Signal;
pub use state::{NODES, PREFIX};

use state::{Process, State};

/// Where the API server is reached inside the world.
pub const API_SERVER: &str = "172.31.199.183:6443";
/// Ranges of ClusterIPs.
pub const SERVICE_CIDRS: &str = "10.233.0.0/18,fd00:10:233::/116";
/// Ranges of pods, which no pod here uses.
pub const POD_CIDRS: &str = "10.233.64.0/18,fd00:10:233:64::/60";
/// The ClusterIP of the cluster's name server.
pub const CLUSTER_DNS: &str = "10.233.0.10";
/// What is said when a world goes that somebody wanted to stay.
pub const ENDING_KEPT: &str = "ending the world that --keep left up";
/// The default network of pods.
pub const CLUSTER_NETWORK: &str = "kube-system/ipvlan-eth0";

/// How a world is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// Where `charts/` is.
    pub repository: PathBuf,
    /// Directory of the world's state.
    pub state_dir: PathBuf,
    /// Directory of the processes' logs.
    pub log_dir: PathBuf,
    /// Addresses of both families for pods.
    pub ipv6: bool,
    /// Where this machine reaches the API server.
    pub api_listen: SocketAddr,
}

/// The usual directory of state.
pub fn state_dir() -> PathBuf {
    PathBuf::from("/run/spiderpool-lab")
}

/// Whether worlds are still built, or end for good; held by whoever makes something that an end must know of.
static OVER: Mutex<bool> = Mutex::new(false);
/// Held by whoever clears a world away.
static CLEARING: Mutex<()> = Mutex::new(());

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is made below the directory of state, or is noted there, is made while this is held, so that an end for good finds all of it; refused
/// once there was one.
fn building() -> Result<MutexGuard<'static, bool>> {
    let over = locked(&OVER);
    ensure!(!*over, "this world ends");
    Ok(over)
}

/// Ends the world of that state, if there is one, whatever another thread of this process is at: from now on nothing in it is made, started
/// or restarted.
pub fn end_for_good(state_dir: &Path) -> Result<bool> {
    *locked(&OVER) = true;
    let found = World::found(state_dir)?;
    let was_up = found.is_some();
    found.map_or(Ok(()), World::down)?;
    Ok(was_up)
}

/// A world that is up.
pub struct World {
    state: State,
    config: Config,
}

impl World {
    /// Makes a world; `progress` gets a line per step. A world that was left behind is cleared away first; after a failure nothing is left.
    /// That nobody is at work in that world is the caller's business ([`crate::lock`]).
    pub async fn up(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        if let Some(old) = State::load(&options.state_dir)? {
            progress(if old.kept { ENDING_KEPT } else { "clearing away what a killed run left behind" });
            clear(&old)?;
        }
        preflight(options)?;
        fs::create_dir_all(&options.log_dir).with_context(|| format!("cannot make {}", options.log_dir.display()))?;
        let config = reference::config(PREFIX, options.state_dir.join("vpc.sock"));
        let mut world = Self { state: State::new(options), config };
        match world.build(options, progress).await {
            Ok(()) => Ok(world),
            Err(error) => {
                let logs = world.state.last_words();
                let cleared = world.down();
                let error = error.context(format!("the world did not come up\n{logs}"));
                Err(match cleared {
                    Ok(()) => error,
                    Err(also) => error.context(format!("clearing up failed as well: {also:#}")),
                })
            }
        }
    }

    /// The world that is up, as its state says.
    pub fn found(state_dir: &Path) -> Result<Option<Self>> {
        let config = reference::config(PREFIX, state_dir.join("vpc.sock"));
        Ok(State::load(state_dir)?.map(|state| Self { state, config }))
    }

    /// Notes that it is to stay when this process ends.
    pub fn keep(&mut self) -> Result<()> {
        let _building = building()?;
        self.state.kept = true;
        self.state.save()
    }

    /// Ends everything.
    pub fn down(self) -> Result<()> {
        clear(&self.state)
    }

    async fn build(&mut self, options: &Options, progress: &mut dyn FnMut(&str)) -> Result<()> {
        self.begin()?;
        progress("VPC: switch, gateways, balancer, metadata service, outside");
        self.cloud()?;
        progress("nodes: master and worker, two NICs each");
        for name in NODES {
            self.node(name)?;
        }
        progress("control plane: API server, custom resources");
        self.api_server(options).await?;
        progress("control plane: controllers; nodes: agent, kubelet, kube-proxy");
        self.cluster(options).await?;
        progress("waiting for the nodes");
        self.until_ready(options).await
    }

    fn begin(&mut self) -> Result<()> {
        let _building = building()?;
        secret::make_dir(&self.state.dir)?;
        self.state.mount_points = node::make_mount_points()?;
        self.state.save()
    }

    /// The cloud: namespaces, switch, what is around it.
    fn cloud(&mut self) -> Result<()> {
        let state_dir = self.state.dir.clone();
        let file = state_dir.join("vpc.json");
        {
            let _building = building()?;
            gateway::create_namespaces(PREFIX)?;
            for instance in &self.config.instances {
                Netns::create(&instance.netns)?;
            }
            self.config.write(&file)?;
        }
        let lab = self.state.program("spiderpool-lab");
        self.start(Process::new("vpc", &lab).args(["vpc", "--config"]).arg(&file))?;
        self.until_printed("vpc", "vpc ready")?;
        gateway::configure(PREFIX, &self.config)?;
        for instance in &self.config.instances {
            gateway::cloud_init(&self.config, instance)?;
        }
        let balancer = Process::new("balancer", &lab)
            .net("balancer")
            .args(["balancer", "--control"])
            .arg(&state_dir.join("balancer.sock"));
        self.start(balancer)?;
        self.start(Process::new("metadata", &lab).net("metadata").args(["metadata", "--config"]).arg(&file))?;
        self.start(Process::new("outside", &lab).net("outside").args(["app", "--name", "outside"]))?;
        self.until_printed("balancer", "balancer ready")?;
        self.until_printed("metadata", "metadata ready")
    }

    /// One node: its first process and what kubeadm's preflight would set.
    fn node(&mut self, name: &str) -> Result<()> {
        let root = self.state.node_root(name);
        {
            let _building = building()?;
            fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        }
        let lab = self.state.program("spiderpool-lab");
        self.start(
            Process::new(&format!("node-{name}"), &lab).net(name).args(["node", "--name", name, "--root"]).arg(&root),
        )?;
        wait_until(Duration::from_secs(20), &format!("node {name} to be there"), || node::ready_file(&root).exists())?;
        let netns = Netns::named(format!("{PREFIX}{name}"));
        let sysctls = [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/all/forwarding", "1"),
        ];
        sysctls.iter().try_for_each(|(key, value)| netns.sysctl(key, value))
    }

    /// A client of the API server.
    pub async fn client(&self) -> Result<Client> {
        crate::client::from_kubeconfig(&self.kubeconfig()).await
    }

    /// The kubeconfig for this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.dir.join("kubeconfig")
    }

    /// The switch's control API.
    pub fn vpc(&self) -> control::Client {
        control::Client::new(&self.config.control)
    }

    /// The balancer's control API.
    pub fn balancer(&self) -> control::Client {
        control::Client::new(self.state.dir.join("balancer.sock"))
    }

    /// The cloud as it was set up.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Directory of the processes' logs.
    pub fn log_dir(&self) -> &Path {
        &self.state.log_dir
    }

    /// Something to be run in one of the cloud's namespaces (`client`, `outside`, `nat`, ...).
    pub fn in_cloud(&self, name: &str) -> Exec {
        self.state.enter(None, Some(&Netns::named(format!("{PREFIX}{name}")).path()))
    }

    /// Something to be run on a node.
    pub fn on_node(&self, node: &str) -> Result<Exec> {
        Ok(self.state.enter(Some(self.state.anchor(node)?), None))
    }

    /// Something to be run in a pod, found by UID among what its node's kubelet keeps.
    pub fn in_pod(&self, node: &str, uid: &str) -> Result<Exec> {
        let record = self.sandbox(node, uid)?;
        let netns = record.netns.with_context(|| format!("pod {uid} on {node} uses its node's network"))?;
        Ok(self.state.enter(Some(self.state.anchor(node)?), Some(&netns)).named(&record.name))
    }

    /// The place of that name: a node, a pod (`NAME`, `NAMESPACE/NAME`, or what only one pod's name begins with), or a namespace of the cloud.
    pub fn place(&self, name: &str) -> Result<Exec> {
        if NODES.contains(&name) {
            return self.on_node(name);
        }
        if gateway::NAMESPACES.contains(&name) {
            return Ok(self.in_cloud(name));
        }
        let mut found = Vec::new();
        for node in NODES {
            found.extend(self.sandboxes(node)?.into_iter().map(|record| (node, record)));
        }
        let full = |record: &crate::kubelet::Record| format!("{}/{}", record.namespace, record.name);
        let exact = found.iter().find(|(_, record)| record.name == name || full(record) == name);
        let alike: Vec<_> = found
            .iter()
            .filter(|(_, record)| record.name.starts_with(name) || full(record).starts_with(name))
            .collect();
        let pods = || found.iter().map(|(_, record)| record.name.as_str()).collect::<Vec<_>>().join(", ");
        let (node, record) = match (exact, alike.as_slice()) {
            (Some(found), _) => found,
            (None, [found]) => *found,
            _ => bail!("{name:?} is none of: {}, {}, {}", NODES.join(", "), gateway::NAMESPACES.join(", "), pods()),
        };
        match record.netns {
            Some(_) => self.in_pod(node, &record.uid),
            None => self.on_node(node),
        }
    }

    /// What a node's kubelet keeps about a pod.
    pub fn sandbox(&self, node: &str, uid: &str) -> Result<crate::kubelet::Record> {
        let records = self.sandboxes(node)?;
        records
            .into_iter()
            .find(|record| record.uid == uid)
            .with_context(|| format!("node {node} has no sandbox of pod {uid}"))
    }

    /// What a node's kubelet keeps about all its pods.
    pub fn sandboxes(&self, node: &str) -> Result<Vec<crate::kubelet::Record>> {
        let root = node::kept(&self.state.node_root(node), "/var/lib/kubelet");
        crate::kubelet::Record::all(&root).with_context(|| format!("cannot read {}", root.display()))
    }

    /// A node's own copy of a directory such as `/run/netns`.
    pub fn kept(&self, node: &str, dir: &str) -> PathBuf {
        node::kept(&self.state.node_root(node), dir)
    }

    /// Sends a signal to a process of the world by name (`agent-worker`, `apiserver`, ...) and, if that ends it, waits until it is gone.
    pub fn signal(&mut self, name: &str, signal: Signal) -> Result<()> {
        self.state.signal(name, signal)
    }

    /// Starts a process again that has ended.
    pub fn restart(&mut self, name: &str) -> Result<()> {
        let process = self.state.process(name)?.clone();
        ensure!(!process.is_alive(), "process {name} still runs");
        self.start(process)
    }

    /// Opens a way in from outside this machine; see [`crate::shell`].
    pub fn serve_shell(&mut self, listen: SocketAddr, secret: &Path) -> Result<()> {
        let lab = self.state.program("spiderpool-lab");
        let server = Process::new("shell", &lab)
            .args(["shell-server", "--listen", &listen.to_string(), "--secret"])
            .arg(secret)
            .args(["--state"]);
        self.start(server.arg(&self.state.dir))?;
        self.until_printed("shell", "shell server ready")
    }

    fn start(&mut self, process: Process) -> Result<()> {
        self.state.start(process)
    }

    /// Waits until a process has printed a text; fails when it ends before.
    fn until_printed(&self, name: &str, text: &str) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            if self.state.log_of(name).contains(text) {
                return Ok(());
            }
            let process = self.state.process(name)?;
            if !process.is_alive() {
                bail!("{name} ended: {}", self.state.tail(name));
            }
            ensure!(Instant::now() < limit, "{name} is not ready after 60 s: {}", self.state.tail(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits for a state.
fn wait_until(limit: Duration, what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition() {
        ensure!(Instant::now() < deadline, "waited {} s for {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What must be there before anything is touched.
fn preflight(options: &Options) -> Result<()> {
    ensure!(rustix::process::getuid().is_root(), "the world is made of namespaces: run as root");
    let programs =
        ["spiderpool-lab", "spiderpool-apiserver", "spiderpool-controller", "spiderpool-agent", "spiderpool"];
    let missing: Vec<_> = programs.iter().filter(|name| !options.bin_dir.join(name).is_file()).copied().collect();
    ensure!(missing.is_empty(), "{} has no {}", options.bin_dir.display(), missing.join(", "));
    ensure!(
        Path::new(cluster::MAIN_PLUGINS).join("ipvlan").is_file(),
        "{} has no ipvlan; install: containernetworking-plugins",
        cluster::MAIN_PLUGINS
    );
    Ok(())
}

/// Ends what the state names. Goes on after errors and reports them all.
fn clear(state: &State) -> Result<()> {
    let _clearing = locked(&CLEARING);
    if !state.dir.exists() {
        // Another thread was faster.
        return Ok(());
    }
    let mut errors = state.end_processes();
    errors.extend(gateway::delete_namespaces(PREFIX));
    for name in NODES {
        let netns = Netns::named(format!("{PREFIX}{name}"));
        if netns.exists() {
            errors.extend(netns.delete().err());
        }
    }
    for dir in state.mount_points.iter().rev() {
        // Not empty: somebody else uses it by now.
        let _ = fs::remove_dir(dir);
    }
    if errors.is_empty() {
        return fs::remove_dir_all(&state.dir).with_context(|| format!("cannot remove {}", state.dir.display()));
    }
    bail!("{}", errors.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("; "))
}

/// Whether this kernel has ipvlan: tried in a namespace of its own.
pub fn kernel_has_ipvlan() -> bool {
    let tried = std::thread::spawn(|| {
        crate::isolate::own_network()?;
        let script = "ip link add d0 type veth peer name d1 && ip link add i0 link d0 type ipvlan mode l2";
        let status =
            std::process::Command::new("sh").args(["-c", script]).stderr(std::process::Stdio::null()).status()?;
        std::io::Result::Ok(status.success())
    });
    matches!(tried.join(), Ok(Ok(true)))
}

/// Where the API server listens for this machine when nothing else is said.
pub fn default_api_listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 6443))
}
