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
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::gauge::ConstGauge,
    registry::Registry,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use crate::{
    admission,
    certificates::{self, Served, Trust, authority::Policy, files::Files},
    gc,
    leader::{self, Candidate},
    pools,
    selfcheck::SelfCheck,
    serve,
    settings::{Flags, Settings},
    webhooks::Target,
};

/// Time for what is under way when the process is to end.
const GRACE: Duration = Duration::from_secs(10);
/// The Lease of the leader.
pub const LEASE: &str = k8s_api::access::LEASE;

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
            "the SpiderSubnet feature is not available in this version: SpiderSubnets are checked and stored, nothing is made of them"
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
    /// Metrics of admission.
    pub admission: admission::metrics::Metrics,
    /// Metrics of pools.
    pub pools: pools::metrics::Metrics,
    /// Metrics of what was collected.
    pub collected: gc::Metrics,
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
        metrics: shared.admission.clone(),
        peers: Arc::clone(&shared.peers),
        enabled: Enabled { ipv4: settings.config.enable_ipv4, ipv6: settings.config.enable_ipv6 },
        guard_deletion: settings.config.enable_validating_resources_deleted_webhook,
        coordinator: settings.coordinator.is_some(),
        subnet: settings.config.enable_spider_subnet,
        multus: settings.multus_resync.is_some(),
    };
    let stop = tasks.stop();
    let served = Served::default();
    let names = certificates::names(
        &settings.deployment,
        &settings.namespace,
        &settings.tls.domain,
        settings.flags.webhook_url.as_deref(),
        &settings.tls.extra_names,
    );
    let (trusted, trusts) = watch::channel(None);
    let bundle_changed = Arc::new(Notify::new());
    let check = SelfCheck {
        socket: sockets.webhook.local_addr()?,
        name: names.first().cloned().unwrap_or_default(),
        trusted: trusts,
        served: served.clone(),
        untrusted: Arc::clone(&bundle_changed),
        readiness: readiness.clone(),
    };
    let target = Target {
        client: client.clone(),
        name: settings.deployment.clone(),
        url: settings.flags.webhook_url.clone(),
        trust: trust(settings, client),
        bundle_changed: Arc::clone(&bundle_changed),
        trusted,
        former: certificates::Former::default(),
        kinds: admission::kinds(&context),
    };
    tasks.spawn(
        "webhook server",
        serve::https(sockets.webhook, served.server(), admission::router(&context), stop.clone()),
    );
    let first = readiness.hold("a webhook certificate");
    match files(&settings.flags) {
        Some(files) => {
            let (served, stop) = (served.clone(), stop.clone());
            tasks.spawn("webhook certificate", async move { files.follow(served, &bundle_changed, first, stop).await });
        }
        None => {
            let keeper = certificates::secret::Keeper {
                client: client.clone(),
                namespace: settings.namespace.clone(),
                name: settings.tls.secret.clone(),
                configurations: settings.deployment.clone(),
                policy: Policy {
                    names,
                    ca_validity: settings.tls.ca_validity,
                    leaf_validity: settings.tls.leaf_validity.min(settings.tls.ca_validity),
                    settle: settings.tls.settle,
                },
                bundle_changed,
            };
            tasks.spawn("webhook certificate", keeper.run(served.clone(), first, stop.clone()));
        }
    }
    tasks.spawn("webhook self-check", check.run(stop.clone()));
    tasks.spawn(
        "webhook configurations",
        target.keep(stop.clone(), shared.admitting.clone(), readiness.hold("webhook configurations")),
    );
    let peers = pools::peers::follow(client.clone(), Arc::clone(&shared.peers), shared.pools.clone(), stop.clone());
    tasks.spawn("pools for admission", peers);
    tasks.spawn("probes", serve::http(sockets.health, probes(readiness.clone()), stop.clone()));
    if let Some(socket) = sockets.metrics {
        let registry = Arc::new(registry(shared, served, settings.debug_metrics));
        tasks.spawn("metrics", serve::http(socket, metrics::router(registry), stop));
    }
    Ok(())
}

/// The operator's files, if there are any.
fn files(flags: &Flags) -> Option<Files> {
    Some(Files { cert: flags.tls_server_cert.clone()?, key: flags.tls_server_key.clone()? })
}

/// With files, the CA is the file `ca.crt` beside the certificate; with a URL and without that file, the certificate itself.
fn trust(settings: &Settings, client: &Client) -> Trust {
    match files(&settings.flags) {
        _ if settings.tls.ca_injected => Trust::Injected,
        Some(files) => {
            let itself = settings.flags.webhook_url.is_some().then(|| files.cert.clone());
            Trust::Files(std::iter::once(files.ca()).chain(itself).collect())
        }
        None => Trust::in_secret(client, &settings.namespace, &settings.tls.secret),
    }
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

fn registry(shared: &Shared, served: Served, debug: bool) -> Registry {
    let mut registry = metrics::registry(crate::NAME, env!("CARGO_PKG_VERSION"));
    shared.collected.register(&mut registry);
    shared.pools.register(&mut registry, debug);
    shared.admission.register(&mut registry);
    registry.register_collector(Box::new(Expiry(served)));
    registry.register_collector(Box::new(metrics::Counts {
        name: store::failure::ERRORS_NAME,
        help: store::failure::ERRORS_HELP,
        label: "code",
        read: store::failure::errors,
    }));
    registry.register("spiderpool_leader", "1 while this replica leads", shared.leader.leads.clone());
    registry.register("spiderpool_leader_terms", "Times that this replica began to lead", shared.leader.terms.clone());
    registry
}

/// When the webhook certificate expires, read at each scrape.
#[derive(Debug)]
struct Expiry(Served);

impl Collector for Expiry {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let gauge = ConstGauge::new(self.0.expires());
        let help = "When the certificate of the webhook server expires, in seconds since 1970; 0 without one";
        let name = "spiderpool_webhook_certificate_expiry_seconds";
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_in_the_guides() {
        let shared = Shared::default();
        shared.admission.answered("SpiderIPPool", "create", "allowed", Duration::ZERO);
        shared.pools.status("p", &k8s_api::SpiderIPPoolStatus::default());
        let mut text = String::new();
        let registry = registry(&shared, Served::default(), true);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .chain([store::failure::ERRORS_NAME])
            .collect();
        assert!(names.len() >= 15, "{names:?}");
        for guide in [include_str!("../../../docs/metrics.md"), include_str!("../../../docs/metrics-zh_CN.md")] {
            let absent = [
                "spiderpool_debug_subnet_ippool_counts",
                "spiderpool_debug_subnet_total_ip_counts",
                "spiderpool_debug_subnet_available_ip_counts",
                "spiderpool_debug_auto_pool_waited_for_available_counts",
            ];
            let named = names.iter().chain(&absent);
            let missing: Vec<&&str> = named.filter(|name| !guide.contains(**name)).collect();
            assert!(missing.is_empty(), "{missing:?}");
            assert!(!absent.iter().any(|name| names.contains(name)), "{names:?}");
        }
    }
}
