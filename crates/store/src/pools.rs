//! Pools that can concern a node, and reserved addresses.

use crate::cache::{Cache, Change};
use crate::failure::{Failure, bounded, optional};
use ipam::{Pool, SpanSet};
use k8s_api::{SpiderIPPool, SpiderReservedIP, labels};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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
    snapshot: Mutex<Option<(u64, Arc<Snapshot>)>>,
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
        if let Some((of, snapshot)) = kept.as_ref().filter(|(of, _)| *of == generation) {
            debug_assert_eq!(*of, generation);
            return snapshot.clone();
        }
        let snapshot = Arc::new(self.build());
        *kept = Some((generation, snapshot.clone()));
        snapshot
    }

    /// While a pool moves from one watch to the other it is in both for a moment: the one of its own node counts.
    fn build(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for view in self.shared.all().into_iter().chain(self.own.all()) {
            match &*view {
                Ok(pool) => drop(snapshot.pools.insert(pool.name.clone(), pool.clone())),
                Err(broken) => drop(snapshot.broken.insert(broken.name.clone(), broken.reason.clone())),
            }
        }
        snapshot.has_auto_created = snapshot.pools.values().any(|pool| pool.is_auto_created());
        snapshot
    }

    /// Keeps the pools of `node` alone.
    pub async fn follow_own(&self, client: Client, node: &str) {
        let selector = format!("{}={}", labels::POOL_NODE, labels::value(node));
        follow(client, "pools of this node", &selector, &self.own).await;
    }

    /// Keeps the pools of no single node.
    pub async fn follow_shared(&self, client: Client) {
        follow(client, "shared pools", &format!("!{}", labels::POOL_NODE), &self.shared).await;
    }
}

async fn follow(client: Client, what: &str, selector: &str, cache: &Cache<View>) {
    let config = watcher::Config::default().labels(selector);
    let events = watcher(Api::<SpiderIPPool>::all(client), config).default_backoff();
    let told = |change: Change<View>| {
        if let Change::Put(view) = change
            && let Err(broken) = &*view
        {
            tracing::warn!(pool = %broken.name, reason = %broken.reason, "pool cannot be used");
        }
    };
    cache.follow(what, events, view, told).await;
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
