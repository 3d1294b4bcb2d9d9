//! The agent's side of the move from upstream: see [`store::upstream`] for the protocol.
//!
//! It is kept to while an agent of upstream is at work somewhere, and beyond that for every pool whose `status.allocatedIPs` tells
//! allocations that the controller has not imported. Once neither is the case nothing of this costs anything.

use crate::agent::Agent;
use crate::caches::Caches;
use crate::metrics::Metrics;
use ipam::SpanSet;
use ipam::claim::Granted;
use ipam::pool::Source;
use k8s_api::records::Record;
use kube::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Failure;
use store::pods::Pod;
use store::pools::Snapshot;
use store::upstream::{Entered, Listed};

/// Pause between tries of the first look.
const PAUSE: Duration = Duration::from_secs(1);
/// How often pools are looked at, which costs nothing.
const GLANCE: Duration = Duration::from_millis(500);
/// How many glances until the API server is asked whether agents of upstream are left.
const LOOK: u32 = 60;

/// Which allocations must be booked with upstream.
pub struct Upstream {
    client: Client,
    component: String,
    listed: Listed,
    caches: Arc<Caches>,
    mixed: AtomicBool,
    /// Where an agent of upstream was found.
    namespace: Mutex<Option<String>>,
    /// What this agent found out by itself, because no controller did.
    seen: Mutex<Seen>,
}

/// New pools, and pools with new addresses, at which this agent looked itself.
#[derive(Clone, Default)]
struct Seen {
    pools: BTreeMap<String, SpanSet>,
    /// Addresses of running pods when it looked last. Those that were started since then have claims.
    in_use: Arc<SpanSet>,
}

impl Seen {
    fn covers(&self, pool: &ipam::Pool) -> bool {
        self.pools.get(&pool.name).is_some_and(|seen| seen.covers(&pool.addresses))
    }
}

/// Addresses of a pool cannot be booked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot book addresses of pool {pool} for agents of upstream Spiderpool")]
pub struct NotBooked {
    /// The pool.
    pub pool: String,
    /// Why not.
    #[source]
    pub source: Failure,
}

impl Upstream {
    /// Looks for agents of upstream, however long the API server takes. To be called before the pools are listed for the first time: what
    /// upstream's last agent wrote is in that list then.
    pub async fn begin(client: Client, component: &str, caches: Arc<Caches>) -> Arc<Self> {
        let listed = Listed::new(client.clone());
        let component = component.to_owned();
        let (mixed, namespace) = (AtomicBool::new(true), Mutex::default());
        let this = Arc::new(Self { client, component, listed, caches, mixed, namespace, seen: Mutex::default() });
        while let Err(error) = this.look().await {
            tracing::warn!(target: "IPAM", %error, "cannot look for agents of upstream, trying again");
            tokio::time::sleep(PAUSE).await;
        }
        this
    }

    /// Looks first where one was found before, because every agent does so: that costs the API server less than all pods.
    async fn look(&self) -> Result<(), Failure> {
        let before = self.namespace.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = None;
        if let Some(namespace) = &before {
            found = store::upstream::agent(&self.client, &self.component, Some(namespace)).await?;
        }
        if found.is_none() {
            found = store::upstream::agent(&self.client, &self.component, None).await?;
        }
        match &found {
            Some((namespace, pod)) if before.is_none() => {
                tracing::info!(target: "IPAM", namespace, pod, "an agent of upstream is at work: addresses are booked in status.allocatedIPs too");
            }
            Some(_) => {}
            None => tracing::info!(target: "IPAM", "no agent of upstream is at work"),
        }
        self.mixed.store(found.is_some(), Ordering::Release);
        *self.namespace.lock().unwrap_or_else(PoisonError::into_inner) = found.map(|(namespace, _)| namespace);
        Ok(())
    }

    /// Whether agents of upstream are at work.
    pub fn is_mixed(&self) -> bool {
        self.mixed.load(Ordering::Acquire)
    }

    /// Whether allocations of the pool must be booked in its status.
    pub fn is_listed(&self, pool: &str) -> bool {
        let source = || self.caches.pools.snapshot().pools.get(pool).map(|pool| pool.source);
        self.is_mixed() || source() == Some(Source::Listed)
    }

    /// Whether a pool may not be used yet: nobody looked whether running pods have any of its addresses.
    pub fn is_new(&self, pool: &ipam::Pool) -> bool {
        pool.source == Source::New && !self.is_mixed() && !self.seen().covers(pool)
    }

    /// Looks at new pools in the controller's place: it may be down, or there may be none. What running pods have is not given from now on.
    pub async fn look_at(&self, pools: &[Arc<ipam::Pool>]) -> Result<(), Failure> {
        let in_use = store::pods::addresses_in_use(&self.client).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for pool in pools.iter().filter(|pool| !seen.covers(pool)).collect::<Vec<_>>() {
            tracing::info!(target: "IPAM", pool = pool.name, "no controller looked at the new addresses of this pool: those of running pods are left alone");
            seen.pools.insert(pool.name.clone(), pool.addresses.clone());
        }
        seen.in_use = Arc::new(in_use);
        Ok(())
    }

    /// What is not to be given out of pools that nobody but this agent looked at.
    pub fn in_use(&self) -> Arc<SpanSet> {
        self.seen().in_use
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Books what a pod is about to be told. `Taken`: the addresses that are not to be had; the pod must be told none of them.
    pub async fn enter(&self, pod: &Pod, granted: &[Granted], metrics: &Metrics) -> Result<SpanSet, NotBooked> {
        let mut by_pool: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for claim in granted.iter().map(|one| &one.stored.claim) {
            by_pool.entry(&claim.pool).or_default().push(claim.address);
        }
        let record = Record::new(&pod.namespace, &pod.name, &pod.uid);
        let mut taken = SpanSet::new();
        for (pool, addresses) in by_pool.into_iter().filter(|(pool, _)| self.is_listed(pool)) {
            match self.listed.enter(pool, &addresses, &record, &|| metrics.claim_conflict()).await {
                Ok(Entered::Booked) => {}
                Ok(Entered::Taken(others)) => taken = taken.union(&others),
                Err(source) => return Err(NotBooked { pool: pool.to_owned(), source }),
            }
        }
        Ok(taken)
    }

    /// Takes the booking of an address away that is about to be freed.
    pub async fn leave(&self, pool: &str, address: IpAddr, uid: &str, metrics: &Metrics) -> Result<(), Failure> {
        if !self.is_listed(pool) {
            return Ok(());
        }
        self.listed.leave(pool, address, uid, &|| metrics.release_conflict()).await
    }

    fn open_pools(&self) -> BTreeSet<String> {
        let snapshot = self.caches.pools.snapshot();
        let open = snapshot.pools.values().filter(|pool| pool.source != Source::Claims);
        open.map(|pool| pool.name.clone()).collect()
    }
}

/// Whether pods of this node have addresses that their pools were given just now, and that the books do not know: the controller has made
/// their claims before it marked the pool.
fn has_unbooked(agent: &Agent, before: &Snapshot, now: &Snapshot) -> bool {
    let is_given = |pool: &&Arc<ipam::Pool>| {
        let old = before.pools.get(&pool.name).filter(|old| old.source == Source::Claims);
        pool.source == Source::Claims && old.is_none_or(|old| !old.addresses.covers(&pool.addresses))
    };
    let given: Vec<&Arc<ipam::Pool>> = now.pools.values().filter(is_given).collect();
    let is_unbooked = |pod: &Arc<Pod>| {
        let of_pool = |address: &IpAddr| given.iter().any(|pool| pool.addresses.contains(*address));
        let mut addresses = pod.addresses().into_iter().map(|(address, _)| address).filter(of_pool).peekable();
        let claims = if addresses.peek().is_some() { agent.books.of_pod(&pod.uid) } else { Vec::new() };
        addresses.any(|address| !claims.iter().any(|stored| stored.claim.address == address))
    };
    !given.is_empty() && agent.caches.pods.all().iter().any(is_unbooked)
}

/// Follows the move to its end, for as long as the process lives. Claims that the controller imported for pods of this node are taken into
/// the books: all of a pool's are made before the pool is marked as taken over.
pub async fn follow(agent: Arc<Agent>) {
    let upstream = &agent.upstream;
    let mut open = upstream.open_pools();
    let mut pools = agent.caches.pools.snapshot();
    // Not all agents at the same time.
    let mut glances = agent.settings.node.bytes().map(u32::from).sum::<u32>() % LOOK;
    let mut glance = tokio::time::interval(GLANCE);
    loop {
        glance.tick().await;
        let now = upstream.open_pools();
        let taken_over = !open.is_subset(&now);
        open = now;
        glances = if upstream.is_mixed() || !open.is_empty() { glances + 1 } else { 0 };
        if glances >= LOOK {
            glances = 0;
            if upstream.is_mixed()
                && let Err(error) = upstream.look().await
            {
                tracing::warn!(target: "IPAM", %error, "cannot look for agents of upstream");
            }
        }
        let before = std::mem::replace(&mut pools, agent.caches.pools.snapshot());
        let widened = !Arc::ptr_eq(&before, &pools) && has_unbooked(&agent, &before, &pools);
        if taken_over || widened || (glances == 0 && upstream.is_mixed()) {
            agent.books.reconcile();
        }
    }
}
