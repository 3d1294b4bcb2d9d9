//! `spiderpool-lab kube-proxy`: Services by nftables, as the real kube-proxy's nftables mode does them.
//!
//! ClusterIP, NodePort, LoadBalancer and external addresses, both families, `externalTrafficPolicy` and `internalTrafficPolicy`, health check
//! node ports. Sources outside `clusterCIDR`, hairpins and external traffic of policy `Cluster` are masqueraded; packets that connection
//! tracking calls invalid are not forwarded (that is why asymmetric ways show). What is left out: session affinity, topology hints.
//!
//! [`model`] turns the caches into a list of ports, [`rules`] turns that into one ruleset, which replaces the last one in one transaction.

mod health;
mod model;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Notify;

use model::{Port, Protocol};

/// How the proxy runs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Credentials for the API server
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// This node's name
    #[arg(long)]
    node_name: String,
    /// Ranges of pods: traffic from elsewhere to a ClusterIP is masqueraded
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
}

/// Runs until it is stopped; the rules stay.
pub fn run(args: Args) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let client = crate::client::from_kubeconfig(&args.kubeconfig).await?;
    let changed = Arc::new(Notify::new());
    let (one, other) = (changed.clone(), changed.clone());
    let (services, watch_services) =
        crate::client::cached::<Service>(Api::all(client.clone()), watcher::Config::default(), move || {
            one.notify_one()
        });
    let (slices, watch_slices) =
        crate::client::cached::<EndpointSlice>(Api::all(client), watcher::Config::default(), move || {
            other.notify_one()
        });
    let mut proxy = Proxy { args, applied: String::new(), ports: Vec::new(), health: health::Servers::default() };
    let work = async {
        tokio::try_join!(services.wait_until_ready(), slices.wait_until_ready())
            .context("a watch ended before its first list")?;
        loop {
            let ports = model::ports(&services.state(), &slices.state(), &proxy.args.node_name);
            let pause = match proxy.apply(ports).await {
                Ok(()) => Duration::from_secs(3600),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "cannot apply the rules; trying again");
                    Duration::from_secs(1)
                }
            };
            let _ = tokio::time::timeout(pause, changed.notified()).await;
            // Changes come in bunches.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = work => ended,
        () = watch_services => bail!("the watch of services ended"),
        () = watch_slices => bail!("the watch of endpoint slices ended"),
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// What is in force.
struct Proxy {
    args: Args,
    applied: String,
    ports: Vec<Port>,
    health: health::Servers,
}

impl Proxy {
    async fn apply(&mut self, ports: Vec<Port>) -> Result<()> {
        let ruleset = rules::ruleset(&ports, &self.args.cluster_cidr);
        if ruleset != self.applied {
            load(&ruleset).await?;
            self.applied = ruleset;
        }
        self.health.set(&local_endpoints(&ports)).await;
        forget_stale_flows(&self.ports, &ports).await;
        self.ports = ports;
        Ok(())
    }
}

/// Loads a ruleset, all or nothing.
async fn load(ruleset: &str) -> Result<()> {
    let mut nft = Command::new("nft");
    let mut child =
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start nft")?;
    child.stdin.take().expect("stdin is piped").write_all(ruleset.as_bytes()).await.context("nft does not read")?;
    let output = child.wait_with_output().await.context("nft")?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Per health check node port: whose it is, and how many endpoints this node has.
fn local_endpoints(ports: &[Port]) -> BTreeMap<u16, (String, usize)> {
    let with_check = ports.iter().filter_map(|port| Some((port.health_check?, port)));
    let mut found: BTreeMap<u16, (String, BTreeSet<_>)> = BTreeMap::new();
    for (number, port) in with_check {
        let (_, addresses) = found.entry(number).or_insert_with(|| (port.service.clone(), BTreeSet::new()));
        addresses.extend(port.local().map(|endpoint| endpoint.address));
    }
    found.into_iter().map(|(number, (service, addresses))| (number, (service, addresses.len()))).collect()
}

/// UDP has no end of a connection: flows to endpoints that are gone, and flows from before there were any, must be forgotten.
async fn forget_stale_flows(old: &[Port], new: &[Port]) {
    for port in new.iter().filter(|port| port.protocol == Protocol::Udp) {
        let before = old.iter().find(|other| other.name() == port.name());
        let gone = before
            .into_iter()
            .flat_map(|before| &before.endpoints)
            .filter(|endpoint| !port.endpoints.contains(endpoint));
        for endpoint in gone {
            forget(port, Some(endpoint.address)).await;
        }
        if before.is_none_or(|before| before.endpoints.is_empty()) && !port.endpoints.is_empty() {
            forget(port, None).await;
        }
    }
}

async fn forget(port: &Port, endpoint: Option<std::net::IpAddr>) {
    let mut conntrack = Command::new("conntrack");
    conntrack.args(["-D", "-f", if port.cluster_ip.is_ipv4() { "ipv4" } else { "ipv6" }, "-p", "udp"]);
    conntrack.args(["--orig-dst", &port.cluster_ip.to_string(), "--orig-port-dst", &port.port.to_string()]);
    if let Some(endpoint) = endpoint {
        conntrack.args(["--reply-src", &endpoint.to_string()]);
    }
    // Exit code 1 means that there was nothing to forget.
    let _ = conntrack.stdout(Stdio::null()).stderr(Stdio::null()).status().await;
}

#[cfg(test)]
mod tests;
