//! The loop: watches in, looks out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use daemon::{Chain, Stop};
use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use k8s_api::{SpiderEndpoint, SpiderIP};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use store::{Endpoints, Failure, failure::bounded};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    Metrics, Settings,
    decide::Rules,
    facts::Kind,
    index::Index,
    look::look,
    mirror::key,
    queue::{Outcome, Queue, Subject},
    report::Report,
};
use crate::events::Events;

/// Pods whose containers are not and will not be running, as the API server selects them.
const FINISHED: &str = "status.phase!=Pending,status.phase!=Running";
/// Pods that should have addresses and have none.
const WITHOUT_IPS: &str = "status.phase=Running,status.podIP=";
/// Suspects of a scan are looked at one after the other, so far apart.
const SPACING: Duration = Duration::from_millis(20);
/// Between two reports to pools.
const REPORT: Duration = Duration::from_secs(30);
/// Objects read in one page of a list.
const PAGE: u32 = 500;

/// What the collector needs.
pub struct Context {
    /// The API.
    pub client: Client,
    /// How it collects.
    pub settings: Settings,
    /// For users.
    pub events: Arc<Events>,
    /// Number of nodes, for others to know.
    pub nodes: Arc<AtomicUsize>,
    /// Counters.
    pub metrics: Metrics,
}

/// What every look needs.
pub(super) struct Shared {
    pub client: Client,
    pub endpoints: Endpoints,
    pub settings: Settings,
    pub rules: Rules,
    pub events: Arc<Events>,
    pub metrics: Metrics,
    pub report: Report,
}

/// Runs until `stop`. Only one may run in a cluster, but several do no harm: what each deletes it has judged itself.
pub async fn run(context: Context, stop: Stop) -> Result<(), std::convert::Infallible> {
    let Context { client, settings, events, nodes: count, metrics } = context;
    let config = watcher::Config::default;
    let mut ips = watcher(Api::<SpiderIP>::all(client.clone()), config()).default_backoff().boxed();
    // Of all the others the metadata will do, and only they are sent.
    let endpoints = Api::<PartialObjectMeta<SpiderEndpoint>>::all(client.clone());
    let mut endpoints = watcher(endpoints, config()).default_backoff().boxed();
    let nodes = Api::<PartialObjectMeta<Node>>::all(client.clone());
    let mut nodes = watcher(nodes, config()).default_backoff().boxed();
    let pods = Api::<PartialObjectMeta<Pod>>::all(client.clone());
    let mut finished = watcher(pods.clone(), config().fields(FINISHED)).default_backoff().boxed();
    let mut pods = watcher(pods, config()).default_backoff().boxed();
    let rules = Rules { switches: settings.switches, timing: settings.timing };
    let mut collector = Collector {
        shared: Arc::new(Shared {
            endpoints: Endpoints::new(client.clone()),
            client,
            settings,
            rules,
            events,
            metrics,
            report: Report::default(),
        }),
        index: Index::new(settings.switches.clean_outdated),
        queue: Queue::new(settings.tries, settings.interval),
    };
    let mut scan = every(settings.interval);
    let mut report = every(REPORT.min(settings.interval));
    let (mut looks, mut others) = (FuturesUnordered::new(), FuturesUnordered::new());
    loop {
        let complete = collector.index.is_complete();
        collector.shared.metrics.queued.set(i64::try_from(collector.queue.depth()).unwrap_or(i64::MAX));
        let wake = collector.queue.wake().filter(|_| complete && looks.len() < settings.workers);
        tokio::select! {
            () = stop.cancelled() => break,
            event = next("SpiderIPs", &mut ips) => {
                let concerned = collector.index.claim(event);
                collector.concerned(concerned);
            }
            event = next("Pods", &mut pods) => {
                let concerned = collector.index.pod(event);
                collector.concerned(concerned);
            }
            event = next("finished Pods", &mut finished) => {
                let concerned = collector.index.finished(event);
                collector.concerned(concerned);
            }
            event = next("SpiderEndpoints", &mut endpoints) => {
                let concerned = collector.index.endpoint(event);
                collector.concerned(concerned);
            }
            event = next("Nodes", &mut nodes) => {
                collector.nodes(event);
                count.store(collector.index.nodes(), Ordering::Relaxed);
            }
            _ = scan.tick(), if complete => {
                match settings.switches.empty_ips {
                    true => others.push(collector.without_ips()),
                    false => collector.scan(),
                }
            }
            _ = report.tick() => others.push(collector.report()),
            Some(pods) = others.next(), if !others.is_empty() => if let Some(pods) = pods {
                collector.index.runs_without_ips(pods.into_iter());
                collector.scan();
            },
            Some((subject, outcome)) = looks.next(), if !looks.is_empty() => {
                collector.queue.ended(subject, outcome, Instant::now());
            }
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                looks.extend(collector.due());
            }
        }
    }
    collector.shared.metrics.queued.set(0);
    // What is under way is finished, so that what was released is also reported.
    while looks.next().await.is_some() {}
    collector.shared.report.flush(&collector.shared.client, &collector.shared.events).await;
    Ok(())
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next event of a watch. Interruptions are logged; the watch goes on by itself and never ends.
async fn next<K>(what: &str, watch: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin)) -> Event<K> {
    loop {
        match watch.next().await {
            Some(Ok(event)) => return event,
            Some(Err(error)) => tracing::warn!(what, error = %Chain(&error), "watch interrupted"),
            None => std::future::pending().await,
        }
    }
}

struct Collector {
    shared: Arc<Shared>,
    index: Index,
    queue: Queue,
}

impl Collector {
    /// Something has changed under these pod names: what does not look healthy is looked at when its time has come.
    fn concerned(&mut self, keys: Vec<Arc<str>>) {
        if !self.index.is_complete() {
            return; // the first scan will see it
        }
        let now = Instant::now();
        for key in keys {
            let Some(sight) = self.index.sight(&key, now) else { continue };
            let Settings { timing, switches, gap, .. } = self.shared.settings;
            // By then the agent will mostly have done it: then nothing needs to be read.
            let waits = sight.since.iter().map(|(_, kind, since)| {
                let grace = if *kind == Kind::Ending { sight.grace + switches.delay } else { Duration::ZERO };
                *since + (grace + timing.settled).max(gap)
            });
            let due = waits.min().unwrap_or(now + gap).max(now + gap);
            self.queue.put(Subject::Pod(key), due);
        }
    }

    fn nodes(&mut self, event: Event<PartialObjectMeta<Node>>) {
        let now = Instant::now();
        let held = self.index.node(event, now);
        if self.index.is_complete() {
            self.spread(held, now + self.shared.settings.timing.settled);
        }
    }

    fn spread(&mut self, subjects: Vec<Subject>, from: Instant) {
        for (subject, number) in subjects.into_iter().zip(0u32..) {
            self.queue.put(subject, from + SPACING * number);
        }
    }

    /// The full scan: whatever does not look healthy is queued.
    fn scan(&mut self) {
        let now = Instant::now();
        let suspects = self.index.suspects(now);
        tracing::debug!(suspects = suspects.len(), "scanned");
        for subject in &suspects {
            if let Subject::Pod(key) = subject {
                // Its state has been watched from now on at the latest.
                let _ = self.index.sight(key, now);
            }
        }
        self.spread(suspects, now);
    }

    /// Looks that are due and still needed.
    fn due(&mut self) -> Option<BoxFuture<'static, (Subject, Outcome)>> {
        let now = Instant::now();
        let subject = self.queue.next(now)?;
        let sight = match &subject {
            Subject::Pod(key) => self.index.sight(key, now),
            Subject::Held(name) => self.index.held(name),
        };
        let Some(sight) = sight else {
            self.queue.ended(subject, Outcome::Done, now);
            return None;
        };
        let shared = Arc::clone(&self.shared);
        Some(async move { (subject.clone(), look(&shared, &subject, sight).await) }.boxed())
    }

    /// The pods that run without addresses.
    fn without_ips(&self) -> BoxFuture<'static, Option<Vec<Arc<str>>>> {
        let pods = Api::<Pod>::all(self.shared.client.clone());
        async move {
            match list(&pods).await {
                Ok(pods) => Some(pods),
                Err(error) => {
                    tracing::warn!(%error, "pods without addresses not listed");
                    Some(Vec::new())
                }
            }
        }
        .boxed()
    }

    fn report(&self) -> BoxFuture<'static, Option<Vec<Arc<str>>>> {
        let shared = Arc::clone(&self.shared);
        async move {
            shared.report.flush(&shared.client, &shared.events).await;
            None
        }
        .boxed()
    }
}

async fn list(pods: &Api<Pod>) -> Result<Vec<Arc<str>>, Failure> {
    let mut params = ListParams::default().fields(WITHOUT_IPS).limit(PAGE);
    let mut keys = Vec::new();
    loop {
        let page = bounded(pods.list_metadata(&params)).await?;
        keys.extend(page.items.iter().map(|pod| key(pod.namespace().as_deref(), &pod.name_any())));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(keys),
        }
    }
}
