//! `spiderpool-lab kubernetes-control-plane`: the first process of a cluster's namespaces.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{Signal, chdir, set_parent_process_death_signal};
use serde_json::json;

use super::addresses::{self, Network, SECOND_ROUTER};
use super::state::State;
use super::supervisor::{Program, Supervisor};
use super::{configuration, keeper, vpc};
use crate::world::objects;
use crate::{client, isolate, netns};

/// Everything takes a few seconds; a machine that does other work at the same time may need longer.
const LIMIT: Duration = Duration::from_secs(600);

/// Which cluster to be.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name
    #[arg(long)]
    name: String,
}

/// Brings the cluster up, says so, and is its first process until it is killed.
pub fn run(args: Args) -> Result<()> {
    // The keeper's end is the cluster's end.
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie this process to its parent")?;
    let state = State::load(&args.name)?.with_context(|| format!("there is no cluster {}", args.name))?;
    isolate::own_network().context("cannot separate the network")?;
    isolate::own_mounts_and_name().context("cannot separate mounts and host name")?;
    rustix::system::sethostname(b"control-plane").context("cannot set the host name")?;
    mounts(&state)?;
    match state.options.network {
        Network::Bridges => bridges(&state)?,
        Network::Vpc => vpc::make_namespaces(&state)?,
    }
    let supervisor = Supervisor::start(&state.options.log_dir, "");
    supervisor.listen(&state.socket(None))?;
    if state.options.network == Network::Vpc {
        say("VPC: switch, gateways, balancer, metadata service, outside");
        vpc::start(&state, &supervisor)?;
    }
    for program in configuration::storage_and_api(&state) {
        supervisor.keep_running(program)?;
    }
    start_nodes(&state, &supervisor)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(bring_up(&state, &supervisor))?;
    drop(runtime);
    say(keeper::READY);
    loop {
        std::thread::park();
    }
}

fn start_nodes(state: &State, supervisor: &Supervisor) -> Result<()> {
    for node in &state.options.nodes {
        let program = Program::new(&format!("node-{node}"), state.options.bin_dir.join("spiderpool-lab")).args([
            "kubernetes-node",
            "--cluster",
            &state.options.name,
            "--node",
            node,
        ]);
        supervisor.keep_running(program)?;
    }
    Ok(())
}

/// A `/proc` of this process namespace, and a `/run` in memory with the cluster's directory in it.
fn mounts(state: &State) -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make the mounts private")?;
    let nothing = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", nothing, None).context("cannot mount /proc")?;
    let dir = state.dir();
    // Stays reachable below the new mount through the working directory.
    chdir(&dir).with_context(|| format!("cannot enter {}", dir.display()))?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
        .context("cannot mount /run")?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    mount_bind(".", &dir).with_context(|| format!("cannot bind {}", dir.display()))?;
    chdir("/").context("cannot enter /")?;
    for sub in ["/run/netns", "/run/nodes"] {
        fs::create_dir_all(sub).with_context(|| format!("cannot make {sub}"))?;
    }
    Ok(())
}

/// Two switches, and routes to what is behind the nodes.
fn bridges(state: &State) -> Result<()> {
    let network = state.options.network;
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add br0 type bridge".into(),
        "link add br1 type bridge".into(),
        format!("addr add {}/24 dev br0", network.control_plane()),
        format!("addr add {SECOND_ROUTER} dev br1"),
        "link set br0 up".into(),
        "link set br1 up".into(),
        // Leads nowhere; some programs look for the interface of the default route.
        "route add default dev br0".into(),
    ];
    for at in 0..state.options.nodes.len() {
        // A switch without a cable has no carrier: the route waits for nothing else.
        lines.push(format!("route add {} via {} dev br0 onlink", addresses::pods(at), network.node(at)));
    }
    if !state.options.nodes.is_empty() {
        lines.push(format!("route add {} via {} dev br0 onlink", network.service_cidr(), network.node(0)));
    }
    for line in lines {
        netns::run(Command::new("ip").args(line.split(' ')))?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot switch forwarding on")
}

/// From started programs to a cluster that can be used.
async fn bring_up(state: &State, supervisor: &Supervisor) -> Result<()> {
    let client = client::from_kubeconfig(&state.kubeconfig("admin")).await?;
    say("waiting for etcd and kube-apiserver");
    let mut version = String::new();
    until("kube-apiserver", supervisor, async || {
        version = client.apiserver_version().await.map_err(|error| error.to_string())?.git_version;
        client.request_text(get("/readyz")).await.map(drop).map_err(|error| error.to_string())
    })
    .await?;
    for program in configuration::controllers(state) {
        supervisor.keep_running(program)?;
    }
    if state.options.network == Network::Vpc {
        supervisor.keep_running(vpc::cloud_controller(state))?;
    }
    for object in objects::of_text(&configuration::kubeadm(state.options.network, &version))? {
        objects::apply(&client, &object).await?;
    }
    if let [first, ..] = state.options.nodes.as_slice() {
        say(&format!("Kubernetes {version}: waiting for the nodes {}", state.options.nodes.join(", ")));
        until("the nodes", supervisor, async || nodes_ready(state, &client).await).await?;
        let label = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
        let nodes: Api<Node> = Api::all(client.clone());
        nodes
            .patch(first, &PatchParams::default(), &Patch::Merge(label))
            .await
            .with_context(|| format!("cannot label node {first}"))?;
    }
    until("the ServiceAccount default/default", supervisor, async || {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        accounts.get("default").await.map(drop).map_err(|error| error.to_string())
    })
    .await
}

fn get(path: &str) -> http::Request<Vec<u8>> {
    let mut request = http::Request::new(Vec::new());
    *request.uri_mut() = path.parse().expect("a path is a URI");
    request
}

/// Ready, with all images. In the VPC a node lacks nothing but a network for pods.
async fn nodes_ready(state: &State, client: &Client) -> Result<(), String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&Default::default()).await.map_err(|error| error.to_string())?.items;
    let mut missing = Vec::new();
    for name in &state.options.nodes {
        let conditions = nodes
            .iter()
            .find(|node| node.name_any() == *name)
            .and_then(|node| node.status.as_ref()?.conditions.as_ref())
            .into_iter()
            .flatten();
        let ready: Vec<_> = conditions.filter(|condition| condition.type_ == "Ready").collect();
        let has_no_network = |message: &Option<String>| {
            state.options.network == Network::Vpc
                && message.as_ref().is_some_and(|text| text.contains("cni plugin not initialized"))
        };
        if !ready.iter().any(|condition| condition.status == "True" || has_no_network(&condition.message)) {
            let why = ready.first().and_then(|condition| condition.message.clone()).unwrap_or("not registered".into());
            missing.push(format!("node {name}: {why}"));
        } else if !state.loaded_file(name).exists() {
            missing.push(format!("node {name}: images are being imported"));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
}

/// Asks until it is so; what ended meanwhile, and the last answer, are told when it takes too long.
async fn until(
    what: &str,
    supervisor: &Supervisor,
    mut question: impl AsyncFnMut() -> Result<(), String>,
) -> Result<()> {
    let began = Instant::now();
    let deadline = began + LIMIT;
    loop {
        let Err(answer) = question().await else { return Ok(()) };
        let fallen = supervisor.fallen();
        if Instant::now() > deadline || supervisor.is_hopeless() {
            bail!("waited {} s for {what}: {answer}\n{fallen}", began.elapsed().as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A line for the driver, which may have gone.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
