//! The keeper of pools alone: no webhook, no lease, no collector.

use std::{convert::Infallible, sync::Arc};

use controller::{
    events::Events,
    pools::{
        keeper::{self, Context},
        metrics::Metrics,
    },
    upstream::{Phase, sources::Sources},
};
use daemon::{Readiness, Stop};
use kube::Client;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{sync::watch, task::JoinHandle};

pub struct Keeper {
    metrics: Metrics,
    stop: Stop,
    running: JoinHandle<Result<(), Infallible>>,
    _phase: watch::Sender<Phase>,
}

impl Keeper {
    /// Starts one; agents of this phase are at work.
    pub fn start(client: &Client, phase: Phase) -> Self {
        let (metrics, stop) = (Metrics::default(), Stop::new());
        let (tell_phase, phase) = watch::channel(phase);
        let context = Context {
            client: client.clone(),
            events: Arc::new(Events::new(client.clone(), "controller-0")),
            max_allocated_ips: 5000,
            nodes: Arc::default(),
            metrics: metrics.clone(),
            phase,
            sources: Sources::new(client.clone()),
        };
        let synced = Readiness::default().hold("pool views");
        let running = tokio::spawn(keeper::run(context, stop.clone(), synced));
        Self { metrics, stop, running, _phase: tell_phase }
    }

    /// What tells whether it knows the pool.
    pub fn knows(&self) -> impl Fn(&str) -> bool + Send + 'static {
        let metrics = self.metrics.clone();
        move |pool| {
            let (mut registry, mut text) = (Registry::default(), String::new());
            metrics.register(&mut registry, true);
            encode(&mut text, &registry).unwrap();
            text.contains(&format!("SpiderIPPool=\"{pool}\""))
        }
    }

    /// Ends it as the process does.
    pub async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}
