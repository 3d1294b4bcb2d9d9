//! `spiderpool-lab controller-manager`: scheduler and the controllers of pods, workloads, endpoints and nodes in miniature.
//!
//! All of them are pure functions from a [`Snapshot`] of the caches to a list of [`Action`]s. The loop here takes a snapshot whenever
//! something changed, carries the actions out, and waits until the caches show what it created before it plans again, so that a stale cache
//! never makes a second pod.

mod action;
mod daemonset;
mod deployment;
mod endpoints;
mod node;
mod replicaset;
mod scheduler;
mod template;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::sync::Notify;

use crate::events::Recorder;
use action::Action;

/// How the controllers run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Credentials for the API server
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
}

/// The state of the cluster at one instant, as the caches have it.
#[derive(Default)]
pub(crate) struct Snapshot {
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    daemonsets: Vec<Arc<DaemonSet>>,
    deployments: Vec<Arc<Deployment>>,
    replicasets: Vec<Arc<ReplicaSet>>,
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    endpoints: Vec<Arc<Endpoints>>,
    leases: Vec<Arc<Lease>>,
    now: Timestamp,
}

impl Snapshot {
    /// Everything that is to be done now.
    fn plan(&self) -> Vec<Action> {
        let controllers =
            [node::plan, scheduler::plan, daemonset::plan, deployment::plan, replicaset::plan, endpoints::plan];
        controllers.iter().flat_map(|plan| plan(self)).collect()
    }

    /// The pods that are controlled by the owner of that UID.
    fn pods_of<'a>(&'a self, owner: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.iter().filter(move |pod| owner.is_some() && template::controller_uid(&pod.metadata) == owner)
    }
}

/// Runs until it is stopped.
pub fn run(args: Args) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let client = crate::client::from_kubeconfig(&args.kubeconfig).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = Manager::new(client).work() => ended.context("the controllers ended"),
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Caches, and the loop over them.
struct Manager {
    client: Client,
    recorder: Recorder,
    changed: Arc<Notify>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    daemonsets: Store<DaemonSet>,
    deployments: Store<Deployment>,
    replicasets: Store<ReplicaSet>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    endpoints: Store<Endpoints>,
    leases: Store<Lease>,
    watches: tokio::task::JoinSet<()>,
}

impl Manager {
    fn new(client: Client) -> Self {
        let changed = Arc::new(Notify::new());
        let mut watches = tokio::task::JoinSet::new();
        macro_rules! cache {
            ($api:expr) => {{
                let wake = changed.clone();
                let (store, run) = crate::client::cached($api, watcher::Config::default(), move || wake.notify_one());
                watches.spawn(run);
                store
            }};
        }
        Self {
            nodes: cache!(Api::all(client.clone())),
            pods: cache!(Api::all(client.clone())),
            daemonsets: cache!(Api::all(client.clone())),
            deployments: cache!(Api::all(client.clone())),
            replicasets: cache!(Api::all(client.clone())),
            services: cache!(Api::all(client.clone())),
            slices: cache!(Api::all(client.clone())),
            endpoints: cache!(Api::all(client.clone())),
            leases: cache!(Api::namespaced(client.clone(), crate::kubelet::LEASES)),
            recorder: Recorder::new(client.clone(), "controller-manager", None),
            client,
            changed: changed.clone(),
            watches,
        }
    }

    async fn work(mut self) -> Result<()> {
        let filled = async {
            let (pods, nodes) = (self.pods.wait_until_ready(), self.nodes.wait_until_ready());
            let workloads = (
                self.daemonsets.wait_until_ready(),
                self.deployments.wait_until_ready(),
                self.replicasets.wait_until_ready(),
            );
            let network =
                (self.services.wait_until_ready(), self.slices.wait_until_ready(), self.endpoints.wait_until_ready());
            tokio::try_join!(
                pods,
                nodes,
                workloads.0,
                workloads.1,
                workloads.2,
                network.0,
                network.1,
                network.2,
                self.leases.wait_until_ready()
            )
        };
        filled.await.context("a watch ended before its first list")?;
        loop {
            let actions = self.snapshot().plan();
            let mut failed = false;
            for action in &actions {
                match action.carry_out(&self.client, &self.recorder).await {
                    Ok(()) => self.until_visible(action).await,
                    Err(error) => {
                        failed = true;
                        tracing::info!(%error, action = %action, "action failed; planning again");
                    }
                }
            }
            // A lease runs out without an event, hence the long pause; a failure is tried again soon.
            let pause = if failed { Duration::from_millis(300) } else { Duration::from_secs(10) };
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
                _ = self.watches.join_next() => anyhow::bail!("a watch ended"),
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            nodes: self.nodes.state(),
            pods: self.pods.state(),
            daemonsets: self.daemonsets.state(),
            deployments: self.deployments.state(),
            replicasets: self.replicasets.state(),
            services: self.services.state(),
            slices: self.slices.state(),
            endpoints: self.endpoints.state(),
            leases: self.leases.state(),
            now: Timestamp::now(),
        }
    }

    /// Waits until the caches show what an action made, at most a few seconds.
    async fn until_visible(&self, action: &Action) {
        let limit = Instant::now() + Duration::from_secs(5);
        while !self.shows(action) && Instant::now() < limit {
            let _ = tokio::time::timeout(Duration::from_millis(50), self.changed.notified()).await;
        }
        // What woke this wait is still to be looked at.
        self.changed.notify_one();
    }

    fn shows(&self, action: &Action) -> bool {
        let Some((namespace, name)) = action.made() else { return true };
        let named = |object: &kube::api::ObjectMeta| {
            object.namespace.as_deref() == Some(namespace) && object.name.as_deref() == Some(name)
        };
        match action.kind() {
            "Pod" => self.pods.find(|object| named(&object.metadata)).is_some(),
            "ReplicaSet" => self.replicasets.find(|object| named(&object.metadata)).is_some(),
            "EndpointSlice" => self.slices.find(|object| named(&object.metadata)).is_some(),
            "Endpoints" => self.endpoints.find(|object| named(&object.metadata)).is_some(),
            _ => true,
        }
    }
}

/// Whether a pod counts: it neither is on its way out nor has ended.
fn is_active(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod's condition `Ready` is true.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// `namespace/name` for messages.
fn key<K: ResourceExt>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests;
