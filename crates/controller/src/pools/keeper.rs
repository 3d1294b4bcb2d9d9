//! The one writer of SpiderIPPools' status, node label and finalizer.
//!
//! Flow: two watches (pools, SpiderIPs) say which pools are to be looked at; `pace` says when; a pool that
//! is due is compared with what it should be and patched where it differs. Nothing is written before both watches have
//! been read once: a ledger that is half full would show addresses in use as free.
//!
//! A status is a view of SpiderIPs only where it says so itself (`status.source`); of other pools, and while agents of upstream are at
//! work, no more than the total is written, until [`crate::upstream`] has taken the pool over.
//!
//! The finalizer of a terminating pool is removed when a list of its SpiderIPs, read from the API itself, is empty.
//!
//! Every write names the UID and the version of the pool that it was decided on. If the pool has changed meanwhile nothing is
//! written, and the pool is looked at again when the watch shows the change.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use daemon::{Stop, health::Guard};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use ipam::{Pool, pool::Source};
use k8s_api::{FINALIZER, SpiderIP, SpiderIPPool, SpiderIPPoolStatus, labels, records::Records};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::{sync::watch, time::Instant};

use super::{metrics::Metrics, pace::Pace, view::Ledger};
use crate::{
    events::Events,
    trouble::Explained,
    upstream::{
        Phase,
        import::{self, Known},
        sources::Sources,
    },
};

/// Pools that are written at the same time.
const PARALLEL: usize = 16;

/// What the keeper needs.
pub struct Context {
    /// The API.
    pub client: Client,
    /// For users.
    pub events: Arc<Events>,
    /// Entries of `status.allocatedIPs`.
    pub max_allocated_ips: usize,
    /// Number of nodes: each has an agent that watches shared pools.
    pub nodes: Arc<AtomicUsize>,
    /// Counters.
    pub metrics: Metrics,
    /// Which agents are at work.
    pub phase: watch::Receiver<Phase>,
    /// Who is who, for the import.
    pub sources: Sources,
}

/// A write or read that failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot {step} SpiderIPPool {pool}")]
    Pool {
        step: &'static str,
        pool: String,
        #[source]
        source: kube::Error,
    },
    #[error(transparent)]
    Import(#[from] import::Error),
}

/// Runs until `stop`; `synced` is dropped once both watches have been read.
pub async fn run(context: Context, stop: Stop, synced: Guard) -> Result<(), std::convert::Infallible> {
    let config = watcher::Config::default;
    let mut ips = watcher(Api::<SpiderIP>::all(context.client.clone()), config()).default_backoff().boxed();
    let mut pools = watcher(Api::<SpiderIPPool>::all(context.client.clone()), config()).default_backoff().boxed();
    let mut phase = context.phase.clone();
    let mut keeper = Keeper::new(context, synced);
    let mut writes = FuturesUnordered::new();
    loop {
        let wake = keeper.wake(writes.len());
        tokio::select! {
            () = stop.cancelled() => break,
            Some(event) = ips.next() => keeper.heard("SpiderIPs", event, Keeper::ip),
            Some(event) = pools.next() => keeper.heard("SpiderIPPools", event, Keeper::pool),
            Ok(()) = phase.changed() => keeper.all_changed(),
            Some((pool, outcome)) = writes.next(), if !writes.is_empty() => keeper.wrote(&pool, outcome),
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                writes.extend(keeper.due());
            }
        }
    }
    // What is under way is finished: an answer lost here would only be repeated work.
    while writes.next().await.is_some() {}
    Ok(())
}

/// A pool and how its write ended: true when nothing is left to be done.
type Written = (Arc<str>, Result<bool, Error>);

struct Keeper {
    context: Arc<Context>,
    ledger: Ledger,
    rebuilt: Option<Ledger>,
    pools: HashMap<Arc<str>, Arc<SpiderIPPool>>,
    listed: HashMap<Arc<str>, Arc<SpiderIPPool>>,
    /// When pools changed that changed since `listed_at`.
    changed_at: HashMap<Arc<str>, Instant>,
    listed_at: Instant,
    /// Pools that are new, or whose spec has changed: whether they overlap is not known yet.
    respecified: HashSet<Arc<str>>,
    pace: Pace,
    busy: HashMap<Arc<str>, bool>,
    unsynced: (bool, bool),
    synced: Option<Guard>,
}

impl Keeper {
    fn new(context: Context, synced: Guard) -> Self {
        Self {
            context: Arc::new(context),
            ledger: Ledger::default(),
            rebuilt: None,
            pools: HashMap::new(),
            listed: HashMap::new(),
            changed_at: HashMap::new(),
            listed_at: Instant::now(),
            respecified: HashSet::new(),
            pace: Pace::new(Instant::now()),
            busy: HashMap::new(),
            unsynced: (true, true),
            synced: Some(synced),
        }
    }

    fn heard<K>(&mut self, what: &str, event: Result<Event<K>, watcher::Error>, take: impl Fn(&mut Self, Event<K>)) {
        match event {
            Ok(event) => take(self, event),
            Err(error) => tracing::warn!(what, error = %Explained(&error), "watch interrupted"),
        }
        if self.unsynced == (false, false) && self.synced.take().is_some() {
            tracing::info!(pools = self.pools.len(), "pool views rebuilt");
        }
    }

    fn ip(&mut self, event: Event<SpiderIP>) {
        let changed = match event {
            Event::Apply(ip) => self.ledger.apply(&ip),
            Event::Delete(ip) => self.ledger.remove(&ip),
            Event::Init => {
                self.rebuilt = Some(Ledger::default());
                return;
            }
            Event::InitApply(ip) => {
                self.rebuilt.get_or_insert_default().apply(&ip);
                return;
            }
            Event::InitDone => {
                let rebuilt = self.rebuilt.take().unwrap_or_default();
                let differing = self.ledger.differing(&rebuilt);
                self.ledger = rebuilt;
                self.unsynced.0 = false;
                differing.into_iter().collect()
            }
        };
        self.changed(changed);
    }

    fn pool(&mut self, event: Event<SpiderIPPool>) {
        match event {
            Event::Apply(pool) => {
                let name: Arc<str> = pool.name_any().into();
                let pool = Arc::new(pool);
                let before = self.pools.insert(Arc::clone(&name), Arc::clone(&pool));
                if before.is_none_or(|before| before.spec != pool.spec) {
                    self.respecified.insert(Arc::clone(&name));
                }
                self.changed_at.insert(Arc::clone(&name), Instant::now());
                self.changed([name]);
            }
            Event::Delete(pool) => {
                let name = pool.name_any();
                self.pools.remove(name.as_str());
                self.changed_at.remove(name.as_str());
                self.respecified.remove(name.as_str());
                self.pace.forget(&name);
                self.context.metrics.gone(&name);
            }
            Event::Init => self.listed.clear(),
            Event::InitApply(pool) => {
                self.listed.insert(pool.name_any().into(), Arc::new(pool));
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut self.pools, std::mem::take(&mut self.listed));
                for name in before.keys().filter(|name| !self.pools.contains_key(*name)) {
                    self.pace.forget(name);
                    self.context.metrics.gone(name);
                }
                self.unsynced.1 = false;
                self.all_changed();
            }
        }
    }

    /// The pools were listed, or other agents are at work: what is known of pods is to be younger than this.
    fn all_changed(&mut self) {
        self.changed_at.clear();
        self.listed_at = Instant::now();
        self.changed(self.pools.keys().cloned().collect::<Vec<_>>());
    }

    fn changed(&mut self, pools: impl IntoIterator<Item = Arc<str>>) {
        let now = Instant::now();
        for pool in pools {
            match self.busy.get_mut(&pool) {
                Some(again) => *again = true,
                None => self.pace.changed(&pool, now),
            }
        }
    }

    fn wake(&mut self, writing: usize) -> Option<Instant> {
        if self.unsynced != (false, false) || writing >= PARALLEL {
            return None;
        }
        self.pace.wake()
    }

    /// The write of a pool that is due, if it differs from what it should be.
    fn due(&mut self) -> Option<BoxFuture<'static, Written>> {
        let name = self.pace.next(Instant::now())?;
        let Some(pool) = self.pools.get(&name) else {
            // It went while its last write failed: what failed is not its successor's.
            self.pace.forget(&name);
            return None;
        };
        let overlap = if self.respecified.remove(&name) { self.overlap(pool) } else { None };
        let phase = *self.context.phase.borrow();
        let status = self.ledger.status(pool, self.context.max_allocated_ips);
        let work = Work {
            import: self.import(pool, phase),
            overlap,
            phase,
            status,
            changed_at: self.changed_at.get(&name).copied().unwrap_or(self.listed_at),
            used: self.ledger.count(&name),
            example: self.ledger.example(&name).map(|(address, pod)| format!("{address} of {pod}")),
            pool: Arc::clone(pool),
        };
        self.context.metrics.status(&name, &work.status);
        let deliveries = work.deliveries();
        if deliveries == 0
            && work.import.is_none()
            && work.overlap.is_none()
            && pool.metadata.deletion_timestamp.is_none()
        {
            self.pace.succeeded(&name);
            return None;
        }
        let agents = if pool.spec.node_name.len() == 1 { 1 } else { self.context.nodes.load(Ordering::Relaxed) };
        self.pace.delivered(deliveries * agents, work.bytes());
        self.busy.insert(Arc::clone(&name), false);
        let context = Arc::clone(&self.context);
        Some(async move { (name, work.settle(&context).await) }.boxed())
    }

    /// What a pool shares with another one: admission refuses that, but of two pools that come at the same instant through two replicas.
    fn overlap(&self, pool: &SpiderIPPool) -> Option<String> {
        let (name, net) = (pool.name_any(), pool.spec.subnet.parse::<ipnet::IpNet>().ok()?);
        let addresses = Pool::try_from(pool).ok()?.addresses;
        let shared = |other: &Arc<SpiderIPPool>| {
            let of: ipnet::IpNet = other.spec.subnet.parse().ok()?;
            if other.name_any() == name || !(of.contains(&net) || net.contains(&of)) {
                return None;
            }
            let shared = addresses.intersection(&Pool::try_from(other.as_ref()).ok()?.addresses);
            (!shared.is_empty())
                .then(|| format!("{} with SpiderIPPool {}", shared.texts().join(", "), other.name_any()))
        };
        self.pools.values().find_map(shared)
    }

    /// What is to be imported, if anything is.
    fn import(&self, pool: &SpiderIPPool, phase: Phase) -> Option<Known> {
        if pool.source() == Source::Claims && phase != Phase::Mixed {
            return None;
        }
        let widened = import::is_widened(pool, phase);
        let records = if widened { Records::default() } else { pool.records().unwrap_or_default() };
        let known = self.ledger.compare(&pool.name_any(), &records);
        import::is_due(pool, phase, &known).then_some(known)
    }

    fn wrote(&mut self, pool: &Arc<str>, outcome: Result<bool, Error>) {
        let again = self.busy.remove(pool).unwrap_or_default();
        match outcome {
            Ok(true) => self.pace.succeeded(pool),
            // To be looked at again.
            Ok(false) => self.pace.failed(pool, Instant::now()),
            Err(error) => {
                tracing::warn!(pool = &**pool, error = %Explained(&error), "pool not written");
                self.pace.failed(pool, Instant::now());
            }
        }
        if again {
            self.changed([Arc::clone(pool)]);
        }
    }
}

/// A pool and what it should be.
struct Work {
    pool: Arc<SpiderIPPool>,
    status: SpiderIPPoolStatus,
    /// When the pool became what it is, or was found so.
    changed_at: Instant,
    used: usize,
    example: Option<String>,
    phase: Phase,
    import: Option<Known>,
    overlap: Option<String>,
}

impl Work {
    /// How many writes bring it about.
    fn deliveries(&self) -> usize {
        usize::from(self.metadata().is_some()) + usize::from(self.status_patch(&self.pool).is_some())
    }

    /// About how big the pool is that is delivered.
    fn bytes(&self) -> usize {
        size(&self.pool.metadata) + size(&self.pool.spec) + size(&self.status)
    }

    async fn settle(&self, context: &Context) -> Result<bool, Error> {
        let name = self.pool.name_any();
        let api = Api::<SpiderIPPool>::all(context.client.clone());
        let params = PatchParams::default();
        let mut pool = Arc::clone(&self.pool);
        if let Some(shared) = &self.overlap {
            tracing::warn!(pool = name, shared, "pools overlap");
            let text = format!("shares {shared}: no address is given twice, but take it out of one of them");
            context.events.warning(self.pool.as_ref(), "IPPoolsOverlap", text).await;
        }
        if let Some(patch) = self.metadata() {
            let patch = Patch::Merge(self.decided_on(json!({"metadata": patch}), &pool));
            let written = done(api.patch(&name, &params, &patch).await, "label", &name)?;
            match written {
                Some(written) if written.status == pool.status && written.spec == pool.spec => pool = Arc::new(written),
                // What was decided is out of date: the watch brings the pool again.
                _ => return Ok(true),
            }
        }
        if let Some(patch) = self.status_patch(&pool) {
            let written = api.patch_status(&name, &params, &Patch::Merge(patch)).await;
            match done(written, "write the status of", &name)? {
                Some(written) => pool = Arc::new(written),
                None => return Ok(true),
            }
        }
        let mut settled = true;
        if let Some(known) = &self.import {
            let import = import::Context {
                client: context.client.clone(),
                events: &context.events,
                sources: &context.sources,
                phase: self.phase,
                changed_at: self.changed_at.into_std(),
            };
            settled = import::settle(&import, &pool, known).await?;
        }
        self.tell_if_exhausted(context).await;
        if self.pool.metadata.deletion_timestamp.is_some() {
            self.let_go(context, &api, &pool).await?;
        }
        Ok(settled)
    }

    /// The patch, which only changes this very pool in the version that it has in `read`.
    fn decided_on(&self, mut patch: Value, read: &SpiderIPPool) -> Value {
        patch["metadata"]["uid"] = json!(self.pool.uid());
        patch["metadata"]["resourceVersion"] = json!(read.resource_version());
        patch
    }

    /// The patch of label and finalizer: also for pools that no webhook has touched.
    fn metadata(&self) -> Option<Value> {
        if self.pool.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let mut metadata = Map::new();
        let wanted = match self.pool.spec.node_name.as_slice() {
            [only] => Some(labels::value(only)),
            _ => None,
        };
        if self.pool.labels().get(labels::POOL_NODE) != wanted.as_ref() {
            metadata.insert("labels".to_owned(), json!({labels::POOL_NODE: wanted}));
        }
        let finalizers = self.pool.finalizers();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            let all: Vec<&str> = finalizers.iter().map(String::as_str).chain([FINALIZER]).collect();
            metadata.insert("finalizers".to_owned(), json!(all));
        }
        (!metadata.is_empty()).then_some(Value::Object(metadata))
    }

    fn status_patch(&self, pool: &SpiderIPPool) -> Option<Value> {
        let stored = pool.status.clone().unwrap_or_default();
        let wanted = &self.status;
        let status = if import::is_widened(pool, self.phase) {
            let used_ranges = Some(&wanted.used_ranges).filter(|ranges| !ranges.is_empty());
            let status = json!({
                "allocatedIPs": wanted.allocated_ips,
                "allocatedIPCount": wanted.allocated_ip_count,
                "totalIPCount": wanted.total_ip_count,
                "usedRanges": used_ranges,
            });
            (stored != *wanted).then_some(status)
        } else {
            (stored.total_ip_count != wanted.total_ip_count).then(|| json!({"totalIPCount": wanted.total_ip_count}))
        }?;
        Some(self.decided_on(json!({"status": status}), pool))
    }

    /// Whoever starts the next pod wants to know before.
    async fn tell_if_exhausted(&self, context: &Context) {
        let before = self.pool.status.as_ref().and_then(|status| status.allocated_ip_count).unwrap_or_default();
        let (total, used) =
            (self.status.total_ip_count.unwrap_or_default(), self.status.allocated_ip_count.unwrap_or_default());
        let ours = self.phase == Phase::Ours;
        if ours && total > 0 && used >= total && before < used && self.pool.metadata.deletion_timestamp.is_none() {
            let text = format!(
                "all {total} addresses are in use: the next pod that may use no other pool does not start; add addresses \
                 to spec.ips or make another pool"
            );
            context.events.warning(self.pool.as_ref(), "IPPoolExhausted", text).await;
        }
    }

    /// Removes the finalizer of a terminating pool that nobody uses.
    async fn let_go(&self, context: &Context, api: &Api<SpiderIPPool>, read: &SpiderIPPool) -> Result<(), Error> {
        let name = self.pool.name_any();
        if !self.pool.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(());
        }
        if !self.pool.is_view() && !self.pool.records().is_ok_and(|records| records.is_empty()) {
            return Ok(()); // not before what upstream recorded is imported
        }
        if self.used > 0 {
            let example = self.example.as_deref().unwrap_or_default();
            let text = format!(
                "the pool is deleted when its {} addresses in use are released (for example {example}): delete their pods",
                self.used
            );
            context.events.normal(self.pool.as_ref(), "IPPoolInUse", text).await;
            return Ok(());
        }
        let of_pool = ListParams::default().labels(&format!("{}={}", labels::IP_POOL, labels::value(&name)));
        let ips = Api::<SpiderIP>::all(context.client.clone()).list(&of_pool).await;
        let ips = ips.map_err(|source| Error::Pool { step: "list the SpiderIPs of", pool: name.clone(), source })?;
        if ips.items.iter().any(|ip| ip.spec.pool == name) {
            return Ok(()); // the watch will tell when they are gone
        }
        let rest: Vec<_> = self.pool.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        let patch = Patch::Merge(self.decided_on(json!({"metadata": {"finalizers": rest}}), read));
        let written = done(api.patch(&name, &PatchParams::default(), &patch).await, "remove the finalizer of", &name)?;
        if written.is_some() {
            tracing::info!(pool = name, "pool is deleted and unused: let go");
        }
        Ok(())
    }
}

/// Length of the JSON text.
fn size(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0 += text.len();
            Ok(text.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => 0, // it will not be sent either
    }
}

/// A pool that is gone needs nothing; of one that has changed the watch will tell.
fn done<T>(outcome: kube::Result<T>, step: &'static str, pool: &str) -> Result<Option<T>, Error> {
    match outcome {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(source) => Err(Error::Pool { step, pool: pool.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_pool_is_that_of_its_text() {
        let status = SpiderIPPoolStatus { allocated_ips: Some("\"x\"".repeat(9000)), ..SpiderIPPoolStatus::default() };
        assert_eq!(size(&status), serde_json::to_string(&status).unwrap().len());
    }
}
