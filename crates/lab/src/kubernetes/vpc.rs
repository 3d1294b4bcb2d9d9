//! The cluster's nodes as machines of the lab's public cloud.
//!
//! The control plane is behind a port of the cloud's own, as that of a managed Kubernetes is. Everything of the cloud lives in namespaces
//! that only the control plane's first process and those below it see: the names are those of [`crate::gateway`] without a prefix, the nodes'
//! are their own.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::mount::mount_bind;

use super::addresses::Network;
use super::state::State;
use super::supervisor::{Program, Supervisor};
use crate::netns::Netns;
use crate::uml::Nic;
use crate::vpc::config::{Config, Infrastructure, Instance, Role};
use crate::vpc::reference;
use crate::world::Exec;
use crate::{control, enter, gateway};

/// The cloud's machines.
pub use crate::world::NODES;

/// The control plane's namespace and the name of its port.
const CONTROL_PLANE: &str = "control-plane";

/// Which cluster's cloud to configure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name
    #[arg(long)]
    name: String,
}

/// The cloud: two machines, and the control plane.
fn config(state: &State) -> Config {
    let mut config = reference::config("", state.dir().join("vpc.sock"));
    config.infrastructure.push(Infrastructure {
        name: CONTROL_PLANE.into(),
        netns: CONTROL_PLANE.into(),
        interface: "vpc0".into(),
        mac: "00:16:3e:00:ff:05".parse().expect("a MAC address"),
        role: Role::Service,
        addresses: vec![Network::Vpc.control_plane().into()],
    });
    config
}

fn balancer_socket(state: &State) -> PathBuf {
    state.dir().join("balancer.sock")
}

/// Makes the namespaces; the caller's own is the control plane's.
pub fn make_namespaces(state: &State) -> Result<()> {
    let own = Netns::named(CONTROL_PLANE).path();
    File::create_new(&own).with_context(|| format!("cannot make {}", own.display()))?;
    mount_bind("/proc/thread-self/ns/net", &own).context("cannot name the control plane's network")?;
    crate::links::set_up("lo")?;
    gateway::create_namespaces("")?;
    for instance in &config(state).instances {
        Netns::create(&instance.netns)?;
    }
    Ok(())
}

/// Starts the cloud and waits until the machines are connected.
pub fn start(state: &State, supervisor: &Supervisor) -> Result<()> {
    let file = state.dir().join("vpc.json");
    let config = config(state);
    config.write(&file)?;
    let lab = state.options.bin_dir.join("spiderpool-lab");
    let inside = |name: &str| {
        let words = enter::words(None, Some(&Netns::named(name).path()));
        let words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
        Program::new(name, &lab).args(words).args([lab.display().to_string()])
    };
    supervisor.keep_running(Program::new("vpc", &lab).args(["vpc", "--config"]).args([file.display().to_string()]))?;
    supervisor.until_listening(&config.control)?;
    let configure = Program::new("cloud-init", &lab).args(["kubernetes-cloud", "--name", &state.options.name]);
    supervisor.run(configure).context("cannot configure the cloud")?;
    let balancer = balancer_socket(state);
    supervisor
        .keep_running(inside("balancer").args(["balancer", "--control"]).args([balancer.display().to_string()]))?;
    supervisor.keep_running(inside("metadata").args(["metadata", "--config"]).args([file.display().to_string()]))?;
    supervisor.keep_running(inside("outside").args(["app", "--name", "outside"]))?;
    supervisor.until_listening(&balancer)
}

/// `spiderpool-lab kubernetes-cloud`: what the switch does not do itself. A process of its own, because whoever supervises programs takes in
/// every child that ends, also one that somebody else in its process waits for.
pub fn configure(args: Args) -> Result<()> {
    let state = State::load(&args.name)?.with_context(|| format!("there is no cluster {}", args.name))?;
    let config = config(&state);
    gateway::configure("", &config)?;
    for instance in &config.instances {
        if state.options.guests {
            // What arrives is the guest's; here nobody is to answer.
            Netns::named(&instance.netns).sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        } else {
            set_up(&config, instance)?;
        }
    }
    Ok(())
}

/// The same on a machine with a kernel of its own, by that machine.
pub fn cloud_init(state: &State, node: &str) -> Result<()> {
    let config = config(state);
    set_up(&config, instance(&config, node)?)
}

/// Addresses, and what kubeadm's preflight demands.
fn set_up(config: &Config, instance: &Instance) -> Result<()> {
    gateway::cloud_init(config, instance)?;
    let machine = Netns::named(&instance.netns);
    let settings = [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/forwarding", "1"),
    ];
    settings.iter().try_for_each(|(key, value)| machine.sysctl(key, value))
}

/// The network interfaces of a machine.
pub fn nics(state: &State, node: &str) -> Result<Vec<Nic>> {
    let config = config(state);
    let nics = instance(&config, node)?.nics.iter();
    Ok(nics.map(|nic| Nic { interface: nic.interface.clone(), mac: nic.mac }).collect())
}

fn instance<'a>(config: &'a Config, node: &str) -> Result<&'a Instance> {
    let found = config.instances.iter().find(|instance| instance.netns == node);
    found.with_context(|| format!("the cloud has no machine {node}"))
}

/// Gives Services of type LoadBalancer a balancer.
pub fn cloud_controller(state: &State) -> Program {
    Program::new("cloud-controller", state.options.bin_dir.join("spiderpool-lab"))
        .args(["cloud-controller", "--kubeconfig"])
        .args([state.kubeconfig("admin").display().to_string()])
        .args(["--balancer".to_owned(), balancer_socket(state).display().to_string()])
}

/// What a test reaches of the cloud.
pub struct Cloud {
    config: Config,
    balancer: PathBuf,
    lab: PathBuf,
}

impl Cloud {
    /// That of a cluster.
    pub(super) fn of(state: &State) -> Result<Self> {
        ensure!(state.options.network == Network::Vpc, "cluster {} is in no cloud", state.options.name);
        let lab = state.options.bin_dir.join("spiderpool-lab");
        Ok(Self { config: config(state), balancer: balancer_socket(state), lab })
    }

    /// As it was set up.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The switch's control API.
    pub fn vpc(&self) -> control::Client {
        control::Client::new(&self.config.control)
    }

    /// The balancer's control API.
    pub fn balancer(&self) -> control::Client {
        control::Client::new(&self.balancer)
    }

    /// One of the cloud's namespaces (`client`, `outside`, `nat`, ...), reached from the control plane's.
    pub fn place(&self, control_plane: &Exec, name: &str) -> Exec {
        let words = enter::words(None, Some(&Netns::named(name).path()));
        let lab = self.lab.display().to_string();
        let words: Vec<String> =
            std::iter::once(lab).chain(words.into_iter().map(|word| word.to_string_lossy().into_owned())).collect();
        control_plane.then(&words)
    }
}
