//! The process: what starts in which order, what runs on every replica and what on the leader alone, and the end.
//!
//! Order: sockets → webhook server → webhook configurations → reconcilers. The webhook configurations send the API server
//! to us, so nothing of ours that is admitted is written before they are in place. On stop all tasks finish what is under way.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::any};
use daemon::{Env, Readiness, Stop, Tasks, metrics};
use ipam::rules::Enabled;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::{
    admission,
    certificates::{self, Certificate},
    coordinator,
    events::Events,
    gone, multus, pools, serve,
    settings::{Flags, Settings},
    webhooks::Target,
};

/// Time for what is under way when the process is to end.
const GRACE: Duration = Duration::from_secs(10);
/// How long a node must be missing before its addresses are looked at.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the controller as configured until it is stopped.
pub async fn daemon(flags: Flags, env: &Env) -> anyhow::Result<()> {
    let loaded = daemon::config::load(&flags.config_path)?;
    let settings = Settings::new(flags, loaded.config, env)?;
    daemon::log::start(daemon::log::level(&settings.log_level)?)?;
    for key in &loaded.unknown {
        tracing::warn!(key, file = %settings.flags.config_path.display(), "unknown configuration key ignored");
    }
    if settings.config.enable_spider_subnet {
        tracing::warn!(
            key = "enableSpiderSubnet",
            "the SpiderSubnet feature is not available in this version: SpiderSubnets are refused"
        );
    }
    if settings.config.pod_resource_inject.is_some() {
        tracing::warn!(
            key = "podResourceInject",
            "the injection of networks into pods is not available in this version"
        );
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?settings, "starting");
    let client = store::client::connect().await?;
    let sockets = Sockets::bind(&settings).await?;
    let mut tasks = Tasks::new(Stop::new());
    tasks.stop_on_signals()?;
    start(&mut tasks, settings, client, sockets)?;
    tasks.run(GRACE).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The sockets of the process.
pub struct Sockets {
    /// Probes.
    pub health: TcpListener,
    /// Webhooks.
    pub webhook: TcpListener,
    /// Metrics, if enabled.
    pub metrics: Option<TcpListener>,
}

impl Sockets {
    /// Binds the configured ports.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let listen = async |port: u16, what: &str| {
            serve::listen(port).await.with_context(|| format!("cannot listen on port {port} for {what}"))
        };
        Ok(Self {
            health: listen(settings.health_port, "probes (SPIDERPOOL_HEALTH_PORT)").await?,
            webhook: listen(settings.webhook_port, "webhooks (SPIDERPOOL_WEBHOOK_PORT)").await?,
            metrics: match settings.metrics_port {
                Some(port) => Some(listen(port, "metrics (SPIDERPOOL_METRIC_HTTP_PORT)").await?),
                None => None,
            },
        })
    }
}

/// Starts everything; the tasks belong to `tasks`.
pub fn start(tasks: &mut Tasks, settings: Settings, client: Client, sockets: Sockets) -> anyhow::Result<Readiness> {
    let readiness = Readiness::default();
    let shared = Shared::default();
    every_replica(tasks, &settings, &client, sockets, &readiness, &shared)?;
    // The place of the election: what follows may run on one replica only. As long as there is one, it leads.
    leader(tasks, settings, &client, &readiness, &shared);
    Ok(readiness)
}

/// What tasks tell each other.
#[derive(Default)]
struct Shared {
    /// Opens when the webhook configurations are in place.
    admitting: Stop,
    nodes: Arc<AtomicUsize>,
    peers: Arc<pools::peers::Peers>,
    pools: pools::metrics::Metrics,
    collected: gone::Metrics,
}

/// Probes, metrics, webhooks.
fn every_replica(
    tasks: &mut Tasks,
    settings: &Settings,
    client: &Client,
    sockets: Sockets,
    readiness: &Readiness,
    shared: &Shared,
) -> anyhow::Result<()> {
    let context = admission::Context {
        client: client.clone(),
        peers: Arc::clone(&shared.peers),
        enabled: Enabled { ipv4: settings.config.enable_ipv4, ipv6: settings.config.enable_ipv6 },
        guard_deletion: settings.config.enable_validating_resources_deleted_webhook,
        coordinator: settings.coordinator.is_some(),
        multus: settings.multus_resync.is_some(),
    };
    let certificate = certificate(settings)?;
    let target = Target {
        client: client.clone(),
        name: settings.deployment.clone(),
        url: settings.flags.webhook_url.clone(),
        ca: certificate.ca.clone().or_else(|| trusted(settings)),
        kinds: admission::kinds(&context),
    };
    let stop = tasks.stop();
    tasks.spawn(
        "webhook server",
        serve::https(sockets.webhook, certificate.server(), admission::router(&context), stop.clone()),
    );
    tasks.spawn("webhook certificate", certificate.follow(stop.clone()));
    tasks.spawn(
        "webhook configurations",
        target.keep(stop.clone(), shared.admitting.clone(), readiness.hold("webhook configurations")),
    );
    tasks.spawn("probes", serve::http(sockets.health, probes(readiness.clone()), stop.clone()));
    if let Some(socket) = sockets.metrics {
        let registry = Arc::new(registry(shared, settings.debug_metrics));
        tasks.spawn("metrics", serve::http(socket, metrics::router(registry), stop));
    }
    Ok(())
}

/// Reconcilers, once what they write is admitted.
fn leader(tasks: &mut Tasks, settings: Settings, client: &Client, readiness: &Readiness, shared: &Shared) {
    let stop = tasks.stop();
    let events = Arc::new(Events::new(client.clone(), &settings.pod));
    let pools = pools::keeper::Context {
        client: client.clone(),
        events: Arc::clone(&events),
        max_allocated_ips: settings.max_allocated_ips,
        nodes: Arc::clone(&shared.nodes),
        peers: Arc::clone(&shared.peers),
        metrics: shared.pools.clone(),
    };
    tasks.spawn(
        "pool views",
        once(&shared.admitting, &stop, pools::keeper::run(pools, stop.clone(), readiness.hold("pool views"))),
    );
    if settings.garbage_collection {
        let gone = gone::Context {
            client: client.clone(),
            sweep: settings.garbage_interval,
            patience: PATIENCE,
            nodes: Arc::clone(&shared.nodes),
            metrics: shared.collected.clone(),
        };
        tasks.spawn("missing nodes", once(&shared.admitting, &stop, gone::run(gone, stop.clone())));
    }
    if let Some(resync) = settings.multus_resync {
        let multus = multus::reconcile::Context { client: client.clone(), events: Arc::clone(&events), resync };
        tasks.spawn("networks", once(&shared.admitting, &stop, multus::reconcile::run(multus, stop.clone())));
    }
    if let Some(settings) = settings.coordinator {
        let coordinator = coordinator::reconcile::Context::new(client.clone(), events, settings);
        tasks.spawn(
            "coordinator",
            once(&shared.admitting, &stop, coordinator::reconcile::run(coordinator, stop.clone())),
        );
    }
}

/// `work`, once `gate` is open.
fn once<W>(gate: &Stop, stop: &Stop, work: W) -> impl Future<Output = Result<(), Infallible>> + use<W>
where
    W: Future<Output = Result<(), Infallible>>,
{
    let (gate, stop) = (gate.clone(), stop.clone());
    async move {
        match stop.run_until_cancelled(gate.cancelled()).await {
            Some(()) => work.await,
            None => Ok(()),
        }
    }
}

fn certificate(settings: &Settings) -> Result<Certificate, certificates::Error> {
    let flags = &settings.flags;
    match (&flags.tls_server_cert, &flags.tls_server_key) {
        (Some(cert), Some(key)) => Certificate::of_files(cert, key),
        _ => Certificate::made_for(&certificates::names(
            &settings.deployment,
            &settings.namespace,
            flags.webhook_url.as_deref(),
        )),
    }
}

/// With a URL and the operator's files, the CA is the file `ca.crt` beside the certificate, or the certificate itself.
fn trusted(settings: &Settings) -> Option<String> {
    settings.flags.webhook_url.as_ref()?;
    let cert = settings.flags.tls_server_cert.as_ref()?;
    std::fs::read_to_string(cert.with_file_name("ca.crt")).or_else(|_| std::fs::read_to_string(cert)).ok()
}

/// Probes; what upstream declares and does not do answers as there.
fn probes(readiness: Readiness) -> Router {
    // A dead task ends the process, so a process that answers is alive.
    let alive = || std::future::ready(Ok::<(), String>(()));
    let absent = || any(|| async { StatusCode::NOT_IMPLEMENTED });
    daemon::health::router(readiness, alive)
        .route("/v1/ipam/ip", absent())
        .route("/v1/ipam/gc_ips", absent())
        .route("/v1/ipam/status", absent())
}

fn registry(shared: &Shared, debug: bool) -> Registry {
    let mut registry = metrics::registry(crate::NAME, env!("CARGO_PKG_VERSION"));
    registry.register("spiderpool_ip_gc_counts", "Addresses that were collected", shared.collected.released.clone());
    registry.register(
        "spiderpool_ip_gc_failure_counts",
        "Addresses that could not be collected",
        shared.collected.failed.clone(),
    );
    shared.pools.register(&mut registry, debug);
    registry
}
