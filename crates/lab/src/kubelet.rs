//! `spiderpool-lab kubelet`: kubelet and container runtime in miniature.
//!
//! Per pod of its node one worker ([`pod`]) that makes the sandbox (network namespace and CNI, [`sandbox`]), runs the containers as
//! processes in it ([`container`]), probes them ([`probe`]) and writes the status ([`status`]). What runs is recorded on disk
//! ([`record`]), so that a kubelet that is killed takes up its pods again. Deviations from a real one are those of scale: no cgroups, no
//! images (a container is a program of the host, [`image`]), no volumes, shorter pauses between retries.

mod container;
mod image;
mod node;
mod pod;
mod probe;
mod record;
mod sandbox;
mod status;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use crate::cni;
use crate::events::Recorder;

pub use node::LEASES;
pub use record::{Record, start_ticks};

/// How the kubelet runs.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Credentials for the API server
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// This node's name
    #[arg(long)]
    node_name: String,
    /// This node's addresses, IPv4 first
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Where the state of pods is kept
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// Where containers write what they print
    #[arg(long, default_value = "/var/log/pods")]
    pod_logs_dir: PathBuf,
    /// CNI configurations
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// CNI plugins
    #[arg(long, value_delimiter = ',', default_value = "/opt/cni/bin")]
    cni_bin_dir: Vec<PathBuf>,
    /// CNI results
    #[arg(long, default_value = "/var/lib/cni")]
    cni_cache_dir: PathBuf,
    /// Network namespaces of pods
    #[arg(long, default_value = "/run/netns")]
    netns_dir: PathBuf,
    /// Name servers that pods see in the variable DNS_SERVER
    #[arg(long)]
    cluster_dns: Option<IpAddr>,
}

/// What all workers share.
pub(crate) struct Shared {
    args: Args,
    client: Client,
    runtime: cni::Runtime,
    recorder: Recorder,
    /// Sandboxes that are made or ended at the same time: a slow machine that does all at once finishes none in time.
    hands: tokio::sync::Semaphore,
}

/// How many sandboxes are worked on at once.
const HANDS: usize = 6;

/// Runs until it is stopped; the pods go on without it.
pub fn run(args: Args) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let client = crate::client::from_kubeconfig(&args.kubeconfig).await?;
    let runtime = cni::Runtime {
        conf_dir: args.cni_conf_dir.clone(),
        bin_dirs: args.cni_bin_dir.clone(),
        cache_dir: args.cni_cache_dir.clone(),
    };
    let recorder = Recorder::new(client.clone(), "kubelet", Some(&args.node_name));
    let records = Record::all(&args.root_dir).context("cannot read the state of pods")?;
    let shared = Arc::new(Shared { args, client, runtime, recorder, hands: tokio::sync::Semaphore::new(HANDS) });
    let mut heart = tokio::spawn(node::keep_alive(shared.clone()));
    let mut pods = tokio::spawn(Pods { shared, workers: HashMap::new() }.follow(records));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = &mut heart => ended.context("the heartbeat ended"),
        ended = &mut pods => ended.context("the watch of pods ended"),
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// The workers of this node's pods, by UID.
struct Pods {
    shared: Arc<Shared>,
    workers: HashMap<String, watch::Sender<Option<Arc<Pod>>>>,
}

impl Pods {
    async fn follow(mut self, records: Vec<Record>) {
        let api: Api<Pod> = Api::all(self.shared.client.clone());
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.shared.args.node_name));
        let mut events = std::pin::pin!(crate::client::watch(api, mine));
        let mut kept: HashMap<String, Record> =
            records.into_iter().map(|record| (record.uid.clone(), record)).collect();
        let mut listed = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.push(pod.uid().unwrap_or_default());
                    self.tell(pod, &mut kept);
                }
                Ok(watcher::Event::InitDone) => self.drop_all_but(&listed, &mut kept),
                Ok(watcher::Event::Apply(pod)) => self.tell(pod, &mut kept),
                Ok(watcher::Event::Delete(pod)) => self.end(&pod.uid().unwrap_or_default()),
                Err(error) => tracing::warn!(%error, "the watch of pods was interrupted"),
            }
            self.workers.retain(|_, worker| !worker.is_closed());
        }
    }

    /// Gives a worker the newest state of its pod; makes the worker if there is none.
    fn tell(&mut self, pod: Pod, kept: &mut HashMap<String, Record>) {
        let uid = pod.uid().unwrap_or_default();
        let pod = Arc::new(pod);
        if let Some(worker) = self.workers.get(&uid)
            && worker.send(Some(pod.clone())).is_ok()
        {
            return;
        }
        let (sender, receiver) = watch::channel(Some(pod));
        tokio::spawn(pod::Worker::new(self.shared.clone(), receiver, kept.remove(&uid)).run());
        self.workers.insert(uid, sender);
    }

    fn end(&mut self, uid: &str) {
        if let Some(worker) = self.workers.get(uid) {
            // A worker that has ended needs no word.
            let _ = worker.send(None);
        }
    }

    /// After a full list: pods that are gone are ended, also those that only the records know.
    fn drop_all_but(&mut self, listed: &[String], kept: &mut HashMap<String, Record>) {
        let gone: Vec<String> = self.workers.keys().filter(|uid| !listed.contains(uid)).cloned().collect();
        for uid in gone {
            self.end(&uid);
        }
        for (uid, record) in kept.drain() {
            let (sender, receiver) = watch::channel(None);
            tokio::spawn(pod::Worker::new(self.shared.clone(), receiver, Some(record)).run());
            self.workers.insert(uid, sender);
        }
    }
}
