//! Pools that can concern a node, and reserved addresses.

use crate::cache::{Cache, Change};
use crate::failure::{Failure, bounded, optional};
use futures::Stream;
use ipam::{Pool, SpanSet};
use k8s_api::{SpiderIPPool, SpiderReservedIP, labels};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A pool that cannot be read: some field is wrong and no webhook refused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenPool {
    /// Its name.
    pub name: String,
    /// Which field and why.
    pub reason: String,
}

type View = Result<Arc<Pool>, BrokenPool>;

/// Pools by name.
pub type ByName = BTreeMap<String, Arc<Pool>>;

/// The pools that an agent sees: those of its node alone and those that the controller marked for no single node.
///
/// Two watches, because an agent must not be told of every pool of every other node. A pool without the controller's label counts as
/// shared, so that nothing depends on the controller.
#[derive(Debug, Default)]
pub struct Pools {
    own: Cache<View>,
    shared: Cache<View>,
    moving: Moving,
    snapshot: Mutex<Option<Built>>,
}

/// How long a pool that left one watch is waited for by the other.
const MOVE: Duration = Duration::from_secs(2);

/// Pools that left a watch without being deleted, as they were, and when. They may be about to come by the other watch.
#[derive(Debug, Default)]
struct Moving(Mutex<BTreeMap<String, (Instant, Arc<Pool>)>>);

impl Moving {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Arc<Pool>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pool is about to leave a watch.
    fn leaves(&self, view: &View) {
        match view {
            Ok(pool) if !pool.terminating => {
                drop(self.lock().insert(pool.name.clone(), (Instant::now(), pool.clone())))
            }
            Ok(pool) => drop(self.lock().remove(&pool.name)),
            Err(broken) => drop(self.lock().remove(&broken.name)),
        }
    }

    /// Those that are still waited for.
    fn all(&self) -> Vec<(Instant, Arc<Pool>)> {
        let mut moving = self.lock();
        moving.retain(|_, (left, _)| left.elapsed() < MOVE);
        moving.values().cloned().collect()
    }
}

/// A snapshot, of which state of the caches, and until when it is true of pools that move.
#[derive(Debug)]
struct Built {
    generation: u64,
    until: Option<Instant>,
    snapshot: Arc<Snapshot>,
}

/// All pools at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Those that can be used.
    pub pools: ByName,
    /// Those that cannot, and why.
    pub broken: BTreeMap<String, String>,
    /// Whether the controller made one of them for an application: only these ask for a pod's top controller.
    pub has_auto_created: bool,
}

impl Pools {
    /// Waits for the first complete lists.
    pub async fn synced(&self) {
        self.own.synced().await;
        self.shared.synced().await;
    }

    /// All pools, built anew only after a change.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let generation = self.own.generation().wrapping_add(self.shared.generation());
        let mut kept = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let is_true =
            |built: &&Built| built.generation == generation && built.until.is_none_or(|until| Instant::now() < until);
        if let Some(built) = kept.as_ref().filter(is_true) {
            return built.snapshot.clone();
        }
        let (snapshot, until) = self.build();
        let snapshot = Arc::new(snapshot);
        *kept = Some(Built { generation, until, snapshot: snapshot.clone() });
        snapshot
    }

    /// While a pool moves from one watch to the other it is in both for a moment, and the one of its own node counts; or in none, and it is
    /// what it was. Beside: until when that is so.
    fn build(&self) -> (Snapshot, Option<Instant>) {
        let mut snapshot = Snapshot::default();
        for view in self.shared.all().into_iter().chain(self.own.all()) {
            match &*view {
                Ok(pool) => drop(snapshot.pools.insert(pool.name.clone(), pool.clone())),
                Err(broken) => drop(snapshot.broken.insert(broken.name.clone(), broken.reason.clone())),
            }
        }
        let mut until = None;
        // Read after the caches: a pool is here before it leaves one of them.
        for (left, pool) in self.moving.all() {
            if !snapshot.pools.contains_key(&pool.name) && !snapshot.broken.contains_key(&pool.name) {
                until = until.into_iter().chain([left + MOVE]).min();
                snapshot.pools.insert(pool.name.clone(), pool);
            }
        }
        snapshot.has_auto_created = snapshot.pools.values().any(|pool| pool.is_auto_created());
        (snapshot, until)
    }

    /// Keeps the pools of `node` alone.
    pub async fn follow_own(&self, client: Client, node: &str) {
        let selector = format!("{}={}", labels::POOL_NODE, labels::value(node));
        self.keep("pools of this node", &self.own, watch(client, &selector)).await;
    }

    /// Keeps the pools of no single node.
    pub async fn follow_shared(&self, client: Client) {
        self.keep("shared pools", &self.shared, watch(client, &format!("!{}", labels::POOL_NODE))).await;
    }

    async fn keep(&self, what: &str, cache: &Cache<View>, events: impl Stream<Item = watcher::Result<Event>>) {
        let told = |change: Change<View>| {
            if let Change::Put(view) = change
                && let Err(broken) = &*view
            {
                tracing::warn!(pool = %broken.name, reason = %broken.reason, "pool cannot be used");
            }
        };
        cache.follow_leaving(what, events, view, |last| self.moving.leaves(last), told).await;
    }
}

type Event = watcher::Event<SpiderIPPool>;

fn watch(client: Client, selector: &str) -> impl Stream<Item = watcher::Result<Event>> + use<> {
    let config = watcher::Config::default().labels(selector);
    watcher(Api::<SpiderIPPool>::all(client), config).default_backoff()
}

fn view(object: SpiderIPPool) -> View {
    let name = object.name_any();
    Pool::try_from(&object).map(Arc::new).map_err(|error| BrokenPool { name, reason: error.to_string() })
}

/// A pool, not from a cache. One that cannot be used counts as absent.
pub async fn read(client: &Client, name: &str) -> Result<Option<Arc<Pool>>, Failure> {
    let api: Api<SpiderIPPool> = Api::all(client.clone());
    Ok(optional(bounded(api.get(name)).await)?.and_then(|object| view(object).ok()))
}

/// Addresses that no pool gives.
#[derive(Debug, Default)]
pub struct Reserved {
    cache: Cache<Vec<String>>,
    spans: Mutex<Option<(u64, Arc<SpanSet>)>>,
}

impl Reserved {
    /// Waits for the first complete list.
    pub async fn synced(&self) {
        self.cache.synced().await;
    }

    /// All reserved addresses. Elements that are no range are left out; they were logged at their arrival.
    pub fn addresses(&self) -> Arc<SpanSet> {
        let generation = self.cache.generation();
        let mut kept = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, spans)) = kept.as_ref().filter(|(of, _)| *of == generation) {
            return spans.clone();
        }
        let ranges: Vec<String> = self.cache.all().iter().flat_map(|ips| ips.iter().cloned()).collect();
        let spans = Arc::new(ipam::pool::reserved(&ranges).0);
        *kept = Some((generation, spans.clone()));
        spans
    }

    /// Keeps the reserved addresses.
    pub async fn follow(&self, client: Client) {
        let events = watcher(Api::<SpiderReservedIP>::all(client), watcher::Config::default()).default_backoff();
        self.cache.follow("reserved addresses", events, ranges, drop).await;
    }
}

fn ranges(object: SpiderReservedIP) -> Vec<String> {
    if object.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    for error in ipam::pool::reserved(&object.spec.ips).1 {
        tracing::warn!(reserved = %object.name_any(), %error, "element of spec.ips cannot be used");
    }
    object.spec.ips
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, stream};
    use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    fn pool(name: &str, node: Option<&str>) -> SpiderIPPool {
        let mut pool = SpiderIPPool::new(name, Default::default());
        pool.spec.subnet = "10.0.0.0/24".into();
        pool.metadata.labels = node.map(|node| [(labels::POOL_NODE.to_owned(), node.to_owned())].into());
        pool
    }

    fn told(pools: &Pools, cache: &Cache<View>, events: Vec<Event>) {
        pools.keep("pools", cache, stream::iter(events.into_iter().map(Ok))).now_or_never().unwrap();
    }

    fn names(pools: &Pools) -> Vec<String> {
        pools.snapshot().pools.keys().cloned().collect()
    }

    #[test]
    fn a_pool_that_moves_from_one_watch_to_the_other_is_there_all_the_time() {
        let pools = Pools::default();
        told(&pools, &pools.own, vec![Init, InitDone]);
        told(&pools, &pools.shared, vec![Init, InitApply(pool("p", None)), InitDone]);
        assert_eq!(names(&pools), ["p"]);
        told(&pools, &pools.shared, vec![Delete(pool("p", None))]);
        assert_eq!(names(&pools), ["p"], "between the two watches");
        told(&pools, &pools.own, vec![Apply(pool("p", Some("a")))]);
        assert_eq!(names(&pools), ["p"]);
        // The same when a list shows that it left.
        told(&pools, &pools.own, vec![Init, InitDone]);
        assert_eq!(names(&pools), ["p"], "missing in a new list");
        told(&pools, &pools.shared, vec![Apply(pool("p", None))]);
        assert_eq!(names(&pools), ["p"]);
    }

    #[test]
    fn a_pool_that_is_deleted_is_gone_at_once_and_one_that_comes_nowhere_soon() {
        let pools = Pools::default();
        told(&pools, &pools.own, vec![Init, InitApply(pool("mine", Some("a"))), InitDone]);
        told(&pools, &pools.shared, vec![Init, InitApply(pool("p", None)), InitDone]);
        let mut last = pool("p", None);
        last.metadata.deletion_timestamp = Some(serde_json::from_str(r#""2026-01-01T00:00:00Z""#).unwrap());
        told(&pools, &pools.shared, vec![Delete(pool("p", None)), Apply(pool("p", None)), Delete(last)]);
        assert_eq!(names(&pools), ["mine"]);
        told(&pools, &pools.own, vec![Delete(pool("mine", Some("a")))]);
        assert_eq!(names(&pools), ["mine"]);
        std::thread::sleep(MOVE);
        assert!(names(&pools).is_empty(), "another node has it, or nobody");
    }
}
