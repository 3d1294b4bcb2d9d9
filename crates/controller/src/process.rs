//! The process: what starts in which order, what runs on every replica and what on the leader alone, and the end.
//!
//! Order: sockets → webhook server → webhook configurations → reconcilers. The webhook configurations send the API server
//! to us, so nothing of ours that is admitted is written before they are in place. On stop all tasks finish what is under
//! way, then the lease is given back. What the leader runs is in [`reconcilers`].

pub mod reconcilers;

use std::{
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
    gone,
    leader::{self, Candidate},
    pools, serve,
    settings::{Flags, Settings},
    webhooks::Target,
};

/// Time for what is under way when the process is to end.
const GRACE: Duration = Duration::from_secs(10);
/// The Lease of the leader, as upstream calls it.
pub const LEASE: &str = "spiderpool-controller-leases";

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
    let stop = tasks.stop();
    let candidate = Candidate {
        client: client.clone(),
        namespace: settings.namespace.clone(),
        lease: LEASE.to_owned(),
        identity: settings.pod.clone(),
        timing: settings.leader,
        metrics: shared.leader.clone(),
    };
    let known = readiness.hold("a leader");
    let leading = reconcilers::Leading { settings, client, readiness: readiness.clone(), shared };
    tasks.spawn("leadership", candidate.run(stop, known, async move |term| leading.term(term).await));
    Ok(readiness)
}

/// What tasks tell each other.
#[derive(Default)]
pub struct Shared {
    /// Opens when the webhook configurations are in place.
    pub admitting: Stop,
    /// Number of nodes.
    pub nodes: Arc<AtomicUsize>,
    /// The pools, for admission.
    pub peers: Arc<pools::peers::Peers>,
    /// Metrics of pools.
    pub pools: pools::metrics::Metrics,
    /// Metrics of what was collected.
    pub collected: gone::Metrics,
    /// Metrics of the election.
    pub leader: leader::candidate::Metrics,
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
    let peers = pools::peers::follow(client.clone(), Arc::clone(&shared.peers), shared.pools.clone(), stop.clone());
    tasks.spawn("pools for admission", peers);
    tasks.spawn("probes", serve::http(sockets.health, probes(readiness.clone()), stop.clone()));
    if let Some(socket) = sockets.metrics {
        let registry = Arc::new(registry(shared, settings.debug_metrics));
        tasks.spawn("metrics", serve::http(socket, metrics::router(registry), stop));
    }
    Ok(())
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
    registry.register("spiderpool_leader", "1 while this replica leads", shared.leader.leads.clone());
    registry.register("spiderpool_leader_terms", "Times that this replica began to lead", shared.leader.terms.clone());
    registry
}
