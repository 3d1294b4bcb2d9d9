//! Release of what nodes that are gone held: SpiderIPs, and the finalizers of SpiderEndpoints.
//!
//! The agent of a node is the authority on its addresses; this acts only where there is no agent any more, and never on
//! the word of a cache. Two proofs, both read from the API itself: the Node object does not exist, and no pod with the
//! UID of the holder does. A cache only says where to look. A node that is merely not ready keeps its addresses.
//!
//! A pod object outlives its node until Kubernetes collects it; until then its addresses stay, and are looked at again.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use daemon::{Chain, Stop};
use futures::StreamExt as _;
use k8s_api::{Holder, SpiderEndpoint, SpiderIP, labels};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PartialObjectMeta, Preconditions},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use prometheus_client::metrics::counter::Counter;
use store::{Failure, endpoints::Endpoints};
use tokio::time::Instant;

/// Endpoints read in one page.
const PAGE: u32 = 500;

/// What the collector needs.
pub struct Context {
    /// The API.
    pub client: Client,
    /// Between two searches for addresses of nodes that are not there.
    pub sweep: Duration,
    /// A node must have been missing for so long, and its leftovers are looked at so often.
    pub patience: Duration,
    /// Number of nodes, for others to know.
    pub nodes: Arc<AtomicUsize>,
    /// Counters.
    pub metrics: Metrics,
}

/// What was collected.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Addresses released, or tried to.
    pub released: Counter,
    /// Of these, failures.
    pub failed: Counter,
}

/// A read or write that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
struct Error {
    step: String,
    #[source]
    source: Failure,
}

fn failed(step: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let step = step.into();
    move |source| Error { step, source: source.into() }
}

/// Runs until `stop`.
pub async fn run(context: Context, stop: Stop) -> Result<(), std::convert::Infallible> {
    let nodes = Api::<PartialObjectMeta<Node>>::all(context.client.clone());
    let mut watch = watcher(nodes, watcher::Config::default()).default_backoff().boxed();
    let mut known = Known::default();
    let mut missing: HashMap<String, Instant> = HashMap::new();
    let mut sweep = tokio::time::interval(context.sweep.max(context.patience));
    let mut look = tokio::time::interval(context.patience);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(event) = watch.next() => match event {
                Ok(event) => {
                    let first = !known.complete;
                    if let Some(node) = known.take(event) {
                        missing.entry(node).or_insert_with(Instant::now);
                    }
                    if first && known.complete {
                        sweep.reset_immediately();
                    }
                    context.nodes.store(known.nodes.len(), Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(what = "Nodes", error = %Chain(&error), "watch interrupted"),
            },
            _ = sweep.tick(), if known.complete => match context.suspects(&known.nodes).await {
                Ok(suspects) => suspects.into_iter().for_each(|node| {
                    missing.entry(node).or_insert_with(Instant::now);
                }),
                Err(error) => tracing::warn!(error = %Chain(&error), "addresses of missing nodes not searched for"),
            },
            _ = look.tick(), if !missing.is_empty() => {
                missing.retain(|node, _| !known.nodes.contains(node));
                let patient = missing.iter().filter(|(_, since)| since.elapsed() >= context.patience);
                for node in patient.map(|(node, _)| node.clone()).collect::<Vec<_>>() {
                    match context.collect(&node).await {
                        Ok(0) => drop(missing.remove(&node)),
                        Ok(left) => tracing::debug!(node, left, "addresses of a missing node wait for their pods to go"),
                        Err(error) => tracing::warn!(node, error = %Chain(&error), "addresses of a missing node not released"),
                    }
                }
            }
        }
    }
}

/// The nodes that exist, as label values.
#[derive(Default)]
struct Known {
    nodes: HashSet<String>,
    listed: HashSet<String>,
    complete: bool,
}

impl Known {
    /// Takes an event in; returns a node that has gone.
    fn take(&mut self, event: Event<PartialObjectMeta<Node>>) -> Option<String> {
        let value = |node: PartialObjectMeta<Node>| labels::value(&node.name_any());
        match event {
            Event::Apply(node) => drop(self.nodes.insert(value(node))),
            Event::Delete(node) => {
                let node = value(node);
                self.nodes.remove(&node);
                return Some(node);
            }
            Event::Init => self.listed.clear(),
            Event::InitApply(node) => drop(self.listed.insert(value(node))),
            Event::InitDone => {
                self.nodes = std::mem::take(&mut self.listed);
                self.complete = true;
            }
        }
        None
    }
}

impl Context {
    /// The nodes that hold addresses and are not known, as label values.
    async fn suspects(&self, known: &HashSet<String>) -> Result<HashSet<String>, Error> {
        let api = Api::<SpiderIP>::all(self.client.clone());
        // The API server's own cache will do: what it names is proved before anything is done.
        let cached = ListParams::default().match_any();
        let ips = api.list_metadata(&cached).await.map_err(failed("list the SpiderIPs"))?;
        let nodes = ips.items.iter().filter_map(|ip| ip.labels().get(labels::IP_NODE));
        Ok(nodes.filter(|node| !known.contains(*node)).cloned().collect())
    }

    /// Releases what the node held if it is gone; returns how much must stay for now.
    async fn collect(&self, value: &str) -> Result<usize, Error> {
        let of_node = ListParams::default().labels(&format!("{}={value}", labels::IP_NODE));
        let ips = Api::<SpiderIP>::all(self.client.clone()).list(&of_node).await;
        let ips = ips.map_err(failed(format!("list the SpiderIPs of node {value}")))?.items;
        let mut names: HashSet<&str> = ips.iter().filter_map(|ip| ip.spec.holder.node()).collect();
        if names.is_empty() {
            names.insert(value);
        }
        let mut left = 0;
        for name in names {
            if self.node_exists(name).await? {
                continue;
            }
            for ip in ips.iter().filter(|ip| ip.spec.holder.node() == Some(name)) {
                left += usize::from(!self.release(name, ip).await?);
            }
            left += self.endpoints(name).await?;
        }
        Ok(left)
    }

    async fn node_exists(&self, name: &str) -> Result<bool, Error> {
        let nodes = Api::<Node>::all(self.client.clone());
        let node = nodes.get_metadata_opt(name).await.map_err(failed(format!("read Node {name}")))?;
        Ok(node.is_some())
    }

    async fn pod_exists(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, Error> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let pod = pods.get_metadata_opt(name).await.map_err(failed(format!("read Pod {namespace}/{name}")))?;
        Ok(pod.is_some_and(|pod| pod.uid().as_deref() == Some(uid)))
    }

    /// Deletes the SpiderIP if its holder is gone; tells whether it is done.
    async fn release(&self, node: &str, ip: &SpiderIP) -> Result<bool, Error> {
        match &ip.spec.holder {
            Holder::Pod(pod) if self.pod_exists(&pod.namespace, &pod.name, &pod.uid).await? => return Ok(false),
            Holder::Pod(_) | Holder::Node(_) => {}
            Holder::Other => return Ok(true),
        }
        let name = ip.name_any();
        let this_version = DeleteParams {
            preconditions: Some(Preconditions { uid: ip.uid(), resource_version: ip.resource_version() }),
            ..DeleteParams::default()
        };
        self.metrics.released.inc();
        match Api::<SpiderIP>::all(self.client.clone()).delete(&name, &this_version).await {
            Ok(_) => tracing::info!(
                address = ip.spec.address,
                pool = ip.spec.pool,
                node,
                "address of a missing node released"
            ),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            // Somebody is at it: look again.
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(false),
            Err(source) => {
                self.metrics.failed.inc();
                return Err(failed(format!("delete SpiderIP {name}"))(source));
            }
        }
        Ok(true)
    }

    /// Removes the endpoints of pods that ran on the node and are gone; returns how many must stay for now.
    async fn endpoints(&self, node: &str) -> Result<usize, Error> {
        let api = Api::<SpiderEndpoint>::all(self.client.clone());
        let remover = Endpoints::new(self.client.clone());
        let (mut page, mut left) = (ListParams::default().limit(PAGE), 0);
        loop {
            let list = api.list(&page).await.map_err(failed("list the SpiderEndpoints"))?;
            for endpoint in &list.items {
                let Some(current) = endpoint.status.as_ref().map(|status| &status.current) else { continue };
                if current.node != node {
                    continue;
                }
                let (namespace, name) = (endpoint.namespace().unwrap_or_default(), endpoint.name_any());
                if self.pod_exists(&namespace, &name, &current.uid).await? {
                    left += 1;
                    continue;
                }
                let removed = remover.remove(&namespace, &name, &current.uid, None).await;
                removed
                    .map_err(|source| Error { step: format!("remove SpiderEndpoint {namespace}/{name}"), source })?;
                tracing::info!(endpoint = format!("{namespace}/{name}"), node, "endpoint of a missing node removed");
            }
            match list.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page = page.continue_token(&next),
                None => return Ok(left),
            }
        }
    }
}
