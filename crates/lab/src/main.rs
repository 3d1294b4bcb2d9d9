//! `spiderpool-lab`: every process of the lab in one file, chosen by subcommand.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "spiderpool-lab", version, about = "The test lab of Spiderpool: a cloud and a cluster in namespaces")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The VPC switch: forwards only what belongs to the sending NIC, and counts the rest
    Vpc(lab::vpc::Args),
    /// The load balancer's control plane and L7 proxy (run inside the balancer's namespace)
    Balancer(lab::balancer::Args),
    /// The instance metadata service (run inside the metadata namespace)
    Metadata(lab::metadata::Args),
    /// The HTTP server that stands in for the application image
    App(lab::app::Args),
    /// A DNS server for Services, or for names from a hosts file
    Dns(lab::app::dns::Args),
    /// Runs a program inside a node or a pod
    Enter(lab::enter::Args),
    /// A way into a world that is in a guest
    ShellServer(lab::shell::Args),
    /// Runs a command where a shell server is
    Shell(lab::shell::ClientArgs),
    /// A port that leads into another network namespace
    Forward(lab::forward::Args),
    /// A node's first process: holds its mounts and its name (run inside the node's network namespace)
    Node(lab::node::Args),
    /// Kubelet and container runtime in miniature
    Kubelet(lab::kubelet::Args),
    /// Scheduler and controllers in miniature
    ControllerManager(lab::controllers::Args),
    /// Services by nftables, as kube-proxy does them
    KubeProxy(lab::proxy::Args),
    /// Balancers for Services of type LoadBalancer
    CloudController(lab::cloud::Args),
    /// Keeps a real Kubernetes and clears up after it
    #[command(hide = true)]
    KubernetesKeeper(lab::kubernetes::keeper::Args),
    /// The control plane of a real Kubernetes: the first process of its namespaces
    #[command(hide = true)]
    KubernetesControlPlane(lab::kubernetes::control_plane::Args),
    /// A node of a real Kubernetes
    #[command(hide = true)]
    KubernetesNode(lab::kubernetes::node::Args),
    /// Addresses, routes and rules of the cloud around a real Kubernetes
    #[command(hide = true)]
    KubernetesCloud(lab::kubernetes::vpc::Args),
}

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if args.next().is_some_and(|own| std::path::Path::new(&own).file_name() == Some("curl".as_ref())) {
        return lab::app::fetch::run(args);
    }
    // The client's own complaints of a server that is not there yet say less than those of whoever waits for it.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "info,kube_client::client::builder=off".into()))
        .with_writer(std::io::stderr)
        .init();
    let outcome = match Cli::parse().command {
        Command::Vpc(args) => lab::vpc::run(args),
        Command::Balancer(args) => lab::balancer::run(args),
        Command::Metadata(args) => lab::metadata::run(args),
        Command::App(args) => lab::app::run(args),
        Command::Dns(args) => lab::app::dns::run(args),
        Command::Enter(args) => lab::enter::run(args),
        Command::ShellServer(args) => lab::shell::run(args),
        Command::Shell(args) => lab::shell::run_client(args),
        Command::Forward(args) => lab::forward::run(args),
        Command::Node(args) => lab::node::run(args),
        Command::Kubelet(args) => lab::kubelet::run(args),
        Command::ControllerManager(args) => lab::controllers::run(args),
        Command::KubeProxy(args) => lab::proxy::run(args),
        Command::CloudController(args) => lab::cloud::run(args),
        Command::KubernetesKeeper(args) => lab::kubernetes::keeper::run(args),
        Command::KubernetesControlPlane(args) => lab::kubernetes::control_plane::run(args),
        Command::KubernetesNode(args) => lab::kubernetes::node::run(args),
        Command::KubernetesCloud(args) => lab::kubernetes::vpc::configure(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spiderpool-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
