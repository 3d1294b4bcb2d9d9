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
    /// Runs the guide's walk-through: a cluster in the lab's public cloud, in a guest where this kernel has no ipvlan
    Walkthrough {
        /// Image archives for every node: the product's
        #[arg(long = "image")]
        images: Vec<PathBuf>,
        /// In a guest even if this kernel has ipvlan
        #[arg(long)]
        vm: bool,
        /// Where the guest's kernel is kept; by default in the directory for logs
        #[arg(long)]
        kernel_dir: Option<PathBuf>,
        /// This process is the guest's
        #[arg(long, hide = true)]
        in_guest: bool,
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
        Command::Up { nodes, network, images, durable } => {
            up(&Options { network, durable, ..cli.places.options(name, nodes, images)? })?
        }
        Command::Test { kubeconfig, images } => return test(cli.places, kubeconfig, images),
        Command::Walkthrough { images, vm, kernel_dir, in_guest } => {
            if !in_guest && (vm || Walk::needs_guest()) {
                return guest(&cli.places, kernel_dir);
            }
            return walk(cli.places, images, in_guest);
        }
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
    /// What a guest shares with this machine.
    fn guest_dir(&self) -> PathBuf {
        self.cache_dir.join("guest")
    }

    fn options(self, name: &str, nodes: usize, images: Vec<PathBuf>) -> Result<Options> {
        Ok(Options {
            name: name.to_owned(),
            nodes: kubernetes::node_names(nodes),
            network: Network::default(),
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

/// Hands the same command line over to a guest.
fn guest(places: &Places, kernel_dir: Option<PathBuf>) -> Result<u8> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = vec![own.display().to_string()];
    command.extend(std::env::args().skip(1));
    command.push("--in-guest".into());
    let kernel_dir = kernel_dir.unwrap_or_else(|| places.cache_dir.clone());
    Walk::in_guest(kernel_dir, places.guest_dir(), command).map(|good| u8::from(!good))
}

fn walk(places: Places, images: Vec<PathBuf>, in_guest: bool) -> Result<u8> {
    let repository = places.repository.clone().context("--repository is missing")?;
    let logs = if in_guest { places.guest_dir() } else { places.cache_dir.clone() }.join("walkthrough");
    let name = if in_guest { "walkthrough".to_owned() } else { format!("walkthrough-{}", std::process::id()) };
    let options = Options { network: Network::Vpc, log_dir: logs, ..places.options(&name, 2, images)? };
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
