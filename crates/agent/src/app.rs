//! Brings an agent up and down.
//!
//! Order of the start: ports (the readiness probe says what is waited for, the others pass) → whether agents of upstream are at work → caches → claims for pods that
//! have none → the node's claims, all however long the API server takes → notes and claims of the previous process → the socket. While there is no socket, plugins leave release notes. At the end running requests are
//! finished, then what they left to be written.

use crate::agent::Agent;
use crate::books::Books;
use crate::caches::Caches;
use crate::endpoints::EndpointQueue;
use crate::metrics::Metrics;
use crate::records::{Kept, Records};
use crate::sandboxes::Sandboxes;
use crate::settings::Settings;
use crate::statuses::StatusQueue;
use crate::upstream::{self, Upstream};
use crate::{adopt, api, events, notes, recover, socket};
use anyhow::Context;
use daemon::{Readiness, Stop, Tasks};
use ipam::claim::{PodKey, Stored};
use kube::Client;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use store::events::Events;
use store::{Change, Endpoints, pods::Pod};
use tokio::net::TcpListener;
use wire::spool::Spool;

/// Time for running requests after a stop was requested; kubelet gives 30 s.
pub const GRACE: Duration = Duration::from_secs(25);
/// How long the agent's own socket may take to answer a probe, which itself may take 1 s.
const PROBE_LIMIT: Duration = Duration::from_millis(800);

/// Ports that are open.
pub struct Ports {
    health: TcpListener,
    metrics: Option<TcpListener>,
}

impl Ports {
    /// Opens what the settings name; port 0 takes any.
    pub async fn open(settings: &Settings) -> Result<Self, socket::ListenError> {
        let metrics = match settings.metric_port {
            Some(port) => Some(socket::listen_tcp(port).await?),
            None => None,
        };
        Ok(Self { health: socket::listen_tcp(settings.health_port).await?, metrics })
    }

    /// Address of the health port.
    pub fn health(&self) -> std::io::Result<SocketAddr> {
        self.health.local_addr()
    }

    /// Address of the metrics port.
    pub fn metrics(&self) -> Option<std::io::Result<SocketAddr>> {
        self.metrics.as_ref().map(TcpListener::local_addr)
    }
}

/// Runs an agent until it is stopped. `readiness` has a pending step from this call on, also before the future is
/// polled, until the socket is served.
pub fn run(
    settings: Settings,
    client: Client,
    ports: Ports,
    readiness: Readiness,
    mut tasks: Tasks,
) -> impl Future<Output = anyhow::Result<()>> + Send {
    let started = readiness.hold("API server");
    async move {
        let stop = tasks.stop();
        let mut registry = daemon::metrics::registry("spiderpool-agent", env!("CARGO_PKG_VERSION"));
        let metrics = Arc::new(Metrics::new(&mut registry));
        serve_ports(&mut tasks, &settings, ports, readiness, registry);
        tasks.spawn("agent", async move { serve(settings, client, metrics, stop, started).await });
        tasks.run(GRACE).await.context("agent")
    }
}

fn serve_ports(
    tasks: &mut Tasks,
    settings: &Settings,
    ports: Ports,
    readiness: Readiness,
    registry: prometheus_client::registry::Registry,
) {
    let socket = settings.socket.clone();
    let alive = move || {
        let client = wire::agent::Client::new(socket.clone()).within(PROBE_LIMIT);
        async move {
            let asked = tokio::task::spawn_blocking(move || client.healthy()).await;
            asked.map_err(|error| error.to_string())?.map_err(|error| daemon::Chain(&error).to_string())
        }
    };
    let router = api::elsewhere(daemon::health::router(readiness, alive));
    let stop = tasks.stop();
    tasks.spawn(
        "health server",
        axum::serve(ports.health, router).with_graceful_shutdown(stop.cancelled_owned()).into_future(),
    );
    if let Some(listener) = ports.metrics {
        let (router, stop) = (daemon::metrics::router(Arc::new(registry)), tasks.stop());
        tasks.spawn(
            "metrics server",
            axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).into_future(),
        );
    }
}

/// The agent proper. Watches outlive requests: they end after the last one is answered.
async fn serve(
    settings: Settings,
    client: Client,
    metrics: Arc<Metrics>,
    stop: Stop,
    started: daemon::health::Guard,
) -> anyhow::Result<()> {
    let mut background = tokio::task::JoinSet::new();
    let ended = Stop::new();
    let _ends_background = ended.clone().drop_guard();
    let caches = Arc::new(Caches::default());
    let begun = Upstream::begin(client.clone(), &settings, caches.clone());
    let upstream = tokio::select! {
        upstream = begun => upstream,
        () = stop.cancelled() => return Ok(()),
    };
    let (changes, mut changed) = tokio::sync::mpsc::unbounded_channel();
    let told = move |change: Change<Pod>| drop(changes.send(change));
    background.spawn(caches.clone().follow(client.clone(), settings.node.clone(), told, ended.clone()));

    let records = Arc::new(Records::default());
    let endpoints = EndpointQueue::new(client.clone(), settings.stateful_set);
    let freed = {
        let (records, endpoints) = (records.clone(), endpoints.clone());
        move |pod: PodKey, left: &dyn Fn() -> Vec<Stored>| {
            records.keep_claimed(&pod.uid, left, |kept| match kept {
                Kept::Nothing => endpoints.remove(&pod.namespace, &pod.name, &pod.uid),
                Kept::Less(record) => endpoints.shrink(record),
                Kept::All => {}
            });
        }
    };
    let claims = store::Claims::new(client.clone());
    let opened = async {
        caches.synced().await;
        adopt::at_start(&caches, &upstream, &claims, &Endpoints::new(client.clone())).await;
        Books::open(claims, &settings.node, upstream.clone(), metrics.clone(), freed).await
    };
    let books = tokio::select! {
        books = opened => books,
        () = stop.cancelled() => return Ok(()),
    };
    let (queue, writer) = events::queue();
    background.spawn(writer.run(Events::new(client.clone(), "spiderpool-agent", &settings.node), ended.clone()));
    let spool = Spool::below(&settings.spool_root, &settings.socket);
    let sandboxes = Sandboxes::begin(&settings.cni_dir, &settings.boot_id, &spool, &books.all());
    let statuses = StatusQueue::new(client.clone(), caches.clone());
    let agent = Arc::new(Agent {
        settings,
        client,
        caches,
        books,
        sandboxes,
        records,
        upstream,
        endpoints,
        statuses,
        events: queue,
        spool,
        metrics,
    });

    let (listener, file) = socket::listen(&agent.settings.socket)?;
    let watching = agent.clone();
    background.spawn(async move {
        while let Some(change) = changed.recv().await {
            pod_changed(&watching, &change);
        }
    });
    let (recovering, noting, watching) = (agent.clone(), agent.clone(), agent.clone());
    background.spawn(recover::at_start(recovering));
    background.spawn(notes::work_off(noting));
    background.spawn(recover::watch_over(watching));
    background.spawn(upstream::follow(agent.clone()));
    background.spawn(upstream::look_ahead(agent.clone()));
    drop(started);
    tracing::info!(socket = %agent.settings.socket.display(), node = %agent.settings.node, "serving");

    axum::serve(listener, api::socket(agent.clone())).with_graceful_shutdown(stop.cancelled_owned()).await?;
    drop(file);
    agent.books.settle().await;
    agent.endpoints.settle().await;
    agent.statuses.settle().await;
    tracing::info!("stopped");
    Ok(())
}

/// The end of a pod frees what its sandboxes have ended to use.
fn pod_changed(agent: &Agent, change: &Change<Pod>) {
    match change {
        Change::Put(pod) if pod.is_alive() => {}
        Change::Put(pod) | Change::Gone(pod) => agent.books.pod_gone(&pod.uid, false),
    }
}
