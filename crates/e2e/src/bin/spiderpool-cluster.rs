//! `spiderpool-cluster`: a real Kubernetes out of namespaces, from one command (`cargo xtask cluster`).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use e2e::real::walkthrough::Walk;
use e2e::real::{self, Ground};
use lab::kubernetes::control::Order;
use lab::kubernetes::{self, Cluster, Network, Options};
use lab::world::kernel_has_ipvlan;

#[derive(Parser)]
#[command(name = "spiderpool-cluster", version, about = "A real Kubernetes whose nodes are namespaces of this machine")]
struct Cli {
    #[command(flatten)]
    places: Places,
    /// Name of the cluster; several can be up at once
    #[arg(long, global = true, default_value = "default")]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct Places {
    /// Directory of the lab's programs
    #[arg(long)]
    bin_dir: PathBuf,
    /// Directory for logs
    #[arg(long)]
    cache_dir: PathBuf,
    /// The repository (only `test` needs it)
    #[arg(long)]
    repository: Option<PathBuf>,
    /// Directory of Kubernetes, etcd, containerd, helm and Multus (only `up` needs it)
    #[arg(long, env = "SPIDERPOOL_KUBERNETES_DIR")]
    kubernetes_dir: Option<PathBuf>,
    /// A static spiderpool-lab for images; by default the one in --bin-dir
    #[arg(long)]
    app: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Brings a cluster up and leaves it up
    Up {
        /// How many nodes: master, worker, worker-2, ...; 0 for a control plane alone
        #[arg(long, default_value_t = 2)]
        nodes: usize,
        /// What they are plugged into; `vpc` is the public cloud of the walk-through, whose pods have no network yet
        #[arg(long, value_enum, default_value_t)]
        network: Network,
        /// Nodes with kernels of their own even if this kernel has ipvlan (`vpc` only)
        #[arg(long)]
        guests: bool,
        /// Image archives for every node
        #[arg(long = "image")]
        images: Vec<PathBuf>,
        /// etcd on the disk, and waiting for it, instead of in memory
        #[arg(long)]
        durable: bool,
    },
    /// Ends a cluster and clears up after it
    Down,
    /// Opens a shell, or runs a command, with KUBECONFIG and PATH set
    Shell {
        /// On this node instead of beside the API server
        #[arg(long)]
        node: Option<String>,
        /// Program and arguments instead of a shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Runs the cluster lane: a cluster of its own is made, tested and ended
    Test {
        /// On the cluster of this kubeconfig instead; what needs its machines is left out
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
        /// Archives of the product's images; without them the product's story is left out
        #[arg(long = "image")]
        images: Vec<PathBuf>,
    },
    /// Runs the guide's walk-through: a cluster in the lab's public cloud
    Walkthrough {
        /// Image archives for every node: the product's
        #[arg(long = "image")]
        images: Vec<PathBuf>,
        /// Nodes with kernels of their own even if this kernel has ipvlan
        #[arg(long)]
        guests: bool,
    },
    /// Imports image archives on every node
    Load {
        /// OCI or Docker archives
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Stops, starts or holds a process of the cluster: etcd, kube-apiserver, node-worker, with --node containerd, kubelet, ...
    Process {
        /// What to do
        order: Order,
        /// The process
        #[arg(default_value = "")]
        process: String,
        /// A process of this node
        #[arg(long)]
        node: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("spiderpool-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<u8> {
    let name = &cli.name;
    match cli.command {
        Command::Up { nodes, network, guests, images, durable } => {
            let guests = guests || needs_guests(network);
            up(&Options { network, guests, durable, ..cli.places.options(name, nodes, images)? })?
        }
        Command::Test { kubeconfig, images } => return test(cli.places, kubeconfig, images),
        Command::Walkthrough { images, guests } => return walk(cli.places, images, guests),
        Command::Down => match Cluster::down(name)? {
            true => println!("cluster {name} is gone"),
            false => println!("cluster {name} was not up"),
        },
        Command::Shell { node, command } => return shell(&found(name)?, node.as_deref(), command),
        Command::Load { archives } => found(name)?.load(&archives)?,
        Command::Process { order, process, node } => {
            print!("{}", found(name)?.steer(node.as_deref(), order, &process)?)
        }
    }
    Ok(0)
}

fn found(name: &str) -> Result<Cluster> {
    Cluster::found(name)?
        .with_context(|| format!("cluster {name} is not up; start it with: cargo xtask cluster up{}", option(name)))
}

/// What to type for a cluster with another name than the usual one.
fn option(name: &str) -> String {
    if name == "default" { String::new() } else { format!(" --name {name}") }
}

impl Places {
    fn options(self, name: &str, nodes: usize, images: Vec<PathBuf>) -> Result<Options> {
        Ok(Options {
            name: name.to_owned(),
            nodes: kubernetes::node_names(nodes),
            network: Network::default(),
            guests: false,
            app: self.app.unwrap_or_else(|| self.bin_dir.join("spiderpool-lab")),
            bin_dir: self.bin_dir,
            kubernetes_dir: self.kubernetes_dir.context("--kubernetes-dir is missing")?,
            images,
            log_dir: self.cache_dir.join(name),
            durable: false,
        })
    }
}

/// A name of its own, so that a cluster which is in use does not matter.
fn test(places: Places, kubeconfig: Option<PathBuf>, images: Vec<PathBuf>) -> Result<u8> {
    let ground = match kubeconfig {
        Some(file) => Ground::Own(file),
        None => {
            let repository = places.repository.clone().context("--repository is missing")?;
            let options = places.options(&format!("test-{}", std::process::id()), 2, images)?;
            Ground::Lab { options: Box::new(options), repository }
        }
    };
    real::run(&ground).map(|good| u8::from(!good))
}

/// Pods in the cloud are on ipvlan.
fn needs_guests(network: Network) -> bool {
    network == Network::Vpc && !kernel_has_ipvlan()
}

fn walk(places: Places, images: Vec<PathBuf>, guests: bool) -> Result<u8> {
    let repository = places.repository.clone().context("--repository is missing")?;
    let log_dir = places.cache_dir.join("walkthrough");
    let name = format!("walkthrough-{}", std::process::id());
    let network = Network::Vpc;
    let guests = guests || needs_guests(network);
    let options = Options { network, guests, log_dir, ..places.options(&name, 2, images)? };
    Walk { options: &options, repository: &repository }.run().map(|good| u8::from(!good))
}

fn up(options: &Options) -> Result<()> {
    let started = Instant::now();
    let name = &options.name;
    let mut cluster =
        Cluster::up(options, &mut |line| println!("   {line}  [{:.1} s]", started.elapsed().as_secs_f32()))?;
    cluster.keep()?;
    let option = option(name);
    println!(
        "cluster {name} is up after {:.1} s; logs: {}",
        started.elapsed().as_secs_f32(),
        options.log_dir.display()
    );
    println!("   cargo xtask cluster shell{option} kubectl get nodes -o wide");
    println!(
        "   cargo xtask cluster shell{option}                  (a shell with kubectl, helm, ctr; --node worker: on a node)"
    );
    println!("   cargo xtask cluster down{option}                   (ends it)");
    Ok(())
}

/// The exit code is the command's.
fn shell(cluster: &Cluster, node: Option<&str>, mut command: Vec<String>) -> Result<u8> {
    if command.is_empty() {
        command.push(std::env::var("SHELL").ok().filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into()));
    }
    let mut entered = match node {
        Some(node) => cluster.command_on(node, &command)?,
        None => cluster.command(&command),
    };
    let status = entered.status().context("cannot enter the cluster")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
