//! The agent's side of the move from upstream: see [`store::upstream`] for the protocol.
//!
//! It is kept to while an agent of upstream is at work somewhere, and beyond that for every pool whose `status.allocatedIPs` tells
//! allocations that the controller has not imported. Once neither is the case nothing of this costs anything.
//!
//! Pools that are new belong here as well: nobody knows whether pods of an earlier installation use their addresses. That is the
//! controller's to find out, once for all agents; where none is at work each agent does it for itself ([`look_ahead`]).

use crate::agent::Agent;
use crate::caches::Caches;
use crate::metrics::Metrics;
use crate::settings::Settings;
use ipam::claim::{Granted, Want};
use ipam::pool::Source;
use ipam::{Pool, SpanSet};
use k8s_api::records::Record;
use kube::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
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
/// How long a new pool waits for a controller that is at work, before the agent looks at it itself.
pub const NEW_POOLS: Duration = Duration::from_secs(2);
/// How long it is believed that a controller is at work, or that none is.
const BELIEF: Duration = Duration::from_secs(2);
/// Least time between two looks at running pods for the sake of a pool that is used up, or after a look that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Which allocations must be booked with upstream.
pub struct Upstream {
    client: Client,
    component: String,
    listed: Listed,
    caches: Arc<Caches>,
    mixed: AtomicBool,
    /// Where an agent of upstream was found.
    namespace: Mutex<Option<String>>,
    /// Namespace of the controller's Lease.
    release: String,
    patience: Duration,
    /// Whether a controller was at work, and when that was asked.
    controller: tokio::sync::Mutex<Option<(bool, Instant)>>,
    /// What this agent found out by itself, because no controller did.
    seen: Mutex<Seen>,
    /// Held by who looks at running pods.
    looking: tokio::sync::Mutex<()>,
}

/// New pools, and pools with new addresses, at which this agent looked itself.
#[derive(Default)]
struct Seen {
    /// Addresses that were looked at.
    pools: BTreeMap<String, SpanSet>,
    /// Since when a pool is known to be new.
    since: BTreeMap<String, Instant>,
    /// Addresses of new pools that running pods had without a claim when it looked last. Who has a claim is protected by it, for as long as
    /// that is there.
    in_use: Arc<SpanSet>,
    /// When that was.
    looked: Option<Instant>,
}

impl Seen {
    fn covers(&self, pool: &Pool) -> bool {
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
    pub async fn begin(client: Client, settings: &Settings, caches: Arc<Caches>) -> Arc<Self> {
        let this = Arc::new(Self {
            listed: Listed::new(client.clone()),
            client,
            component: settings.component.clone(),
            caches,
            mixed: AtomicBool::new(true),
            namespace: Mutex::default(),
            release: settings.namespace.clone(),
            patience: settings.new_pools,
            controller: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        });
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
    pub fn is_new(&self, pool: &Pool) -> bool {
        pool.source == Source::New && !self.is_mixed() && !self.seen().covers(pool)
    }

    /// Whether these new pools are still the controller's to look at: one is at work, and has not had its time for each.
    pub async fn is_expected(&self, pools: impl Iterator<Item = &Arc<Pool>>) -> bool {
        let is_young = {
            let (now, mut seen) = (Instant::now(), self.seen());
            pools.fold(false, |is_young, pool| {
                let since = *seen.since.entry(pool.name.clone()).or_insert(now);
                is_young || since.elapsed() < self.patience
            })
        };
        is_young && self.has_controller().await
    }

    /// Whether a controller is at work. If that cannot be told, one may be.
    async fn has_controller(&self) -> bool {
        let mut known = self.controller.lock().await;
        if let Some((known, _)) = known.filter(|(_, asked)| asked.elapsed() < BELIEF) {
            return known;
        }
        let found = store::leader::is_at_work(&self.client, &self.release).await.unwrap_or_else(|error| {
            tracing::warn!(target: "IPAM", %error, "cannot read the Lease of the controller");
            true
        });
        *known = Some((found, Instant::now()));
        found
    }

    /// Looks at new pools in the controller's place: it may be down, or there may be none. What running pods have without a claim is not given
    /// from now on.
    pub async fn look_at(&self, pools: &[Arc<Pool>]) -> Result<(), Failure> {
        let _alone = self.looking.lock().await;
        if pools.iter().any(|pool| self.is_new(pool)) { self.look_now(pools).await } else { Ok(()) }
    }

    /// First the pods, then the claims: a pod that got its claim between is found to have one.
    async fn look_now(&self, pools: &[Arc<Pool>]) -> Result<(), Failure> {
        let snapshot = self.caches.pools.snapshot();
        let open = snapshot.pools.values().filter(|pool| pool.source == Source::New);
        let all = pools.iter().chain(open).fold(SpanSet::new(), |all, pool| all.union(&pool.addresses));
        let mut running = store::pods::addresses_in_use(&self.client).await?;
        running.retain(|(address, _)| all.contains(*address));
        if !running.is_empty() {
            let addresses = running.iter().map(|(address, _)| *address).collect();
            let holders = store::Claims::new(self.client.clone()).holders(&addresses).await?;
            running.retain(|(address, uid)| holders.get(address) != Some(uid));
        }
        let in_use: SpanSet = running.into_iter().map(|(address, _)| address).collect();
        let mut seen = self.seen();
        for pool in pools {
            if !seen.covers(pool) {
                tracing::info!(target: "IPAM", pool = pool.name, left_alone = in_use.intersection(&pool.addresses).count(), "no controller looked at the new addresses of this pool: those that running pods have without a claim are left alone");
            }
            seen.pools.insert(pool.name.clone(), pool.addresses.clone());
        }
        if *seen.in_use != in_use {
            seen.in_use = Arc::new(in_use);
        }
        seen.looked = Some(Instant::now());
        Ok(())
    }

    /// Looks once more before it is said that all addresses are in use: a pod that had one without a claim may be gone. Whether what is left
    /// alone, of which `before` was known to the ADD, is something else now.
    pub async fn look_again(&self, wants: &[Want], before: &Arc<SpanSet>) -> bool {
        let new = new_pools(wants).filter(|pool| !pool.addresses.intersection(before).is_empty());
        let pools: Vec<Arc<Pool>> = new.cloned().collect();
        if pools.is_empty() {
            return false;
        }
        let _alone = self.looking.lock().await;
        let is_another = || !Arc::ptr_eq(&self.in_use(), before);
        let is_due = self.seen().looked.is_none_or(|looked| looked.elapsed() >= AGAIN);
        if !is_another()
            && is_due
            && let Err(error) = self.look_now(&pools).await
        {
            tracing::warn!(target: "IPAM", %error, "cannot look at running pods once more");
        }
        is_another()
    }

    /// Addresses of new pools that running pods have without a claim.
    pub fn in_use(&self) -> Arc<SpanSet> {
        self.seen().in_use.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New pools that a node can be served from. What was known of pools that are new no more is forgotten.
    fn new_pools(&self, node: &str) -> Vec<Arc<Pool>> {
        let snapshot = self.caches.pools.snapshot();
        let mut new: Vec<Arc<Pool>> = snapshot.pools.values().filter(|pool| self.is_new(pool)).cloned().collect();
        let mut seen = self.seen();
        let is_open = |name: &String| snapshot.pools.get(name).is_some_and(|pool| pool.source == Source::New);
        seen.pools.retain(|name, _| is_open(name));
        seen.since.retain(|name, _| new.iter().any(|pool| pool.name == *name));
        for pool in &new {
            seen.since.entry(pool.name.clone()).or_insert_with(Instant::now);
        }
        new.retain(|pool| pool.node_names.is_empty() || pool.node_names.iter().any(|one| one == node));
        new
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

/// The pools of these wants at which no controller has looked.
pub fn new_pools(wants: &[Want]) -> impl Iterator<Item = &Arc<Pool>> {
    wants.iter().flat_map(|want| &want.pools).filter(|pool| pool.source == Source::New)
}

/// Whether pods of this node have addresses that their pools were given just now, and that the books do not know: the controller has made
/// their claims before it marked the pool.
fn has_unbooked(agent: &Agent, before: &Snapshot, now: &Snapshot) -> bool {
    let is_given = |pool: &&Arc<Pool>| {
        let old = before.pools.get(&pool.name).filter(|old| old.source == Source::Claims);
        pool.source == Source::Claims && old.is_none_or(|old| !old.addresses.covers(&pool.addresses))
    };
    let given: Vec<&Arc<Pool>> = now.pools.values().filter(is_given).collect();
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

/// Where no controller is at work looks at new pools before the first pod asks for them, for as long as the process lives. A pool gets one
/// glance's time: a controller that is at work has marked it by then, and nobody is asked anything.
pub async fn look_ahead(agent: Arc<Agent>) {
    let upstream = &agent.upstream;
    let (mut before, mut left) = (BTreeSet::new(), BTreeSet::new());
    let mut glance = tokio::time::interval(GLANCE);
    glance.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        glance.tick().await;
        let new = upstream.new_pools(&agent.settings.node);
        let names: BTreeSet<String> = new.iter().map(|pool| pool.name.clone()).collect();
        left.retain(|name| names.contains(name));
        let is_due = |pool: &Arc<Pool>| before.contains(&pool.name) && !left.contains(&pool.name);
        let due: Vec<Arc<Pool>> = new.into_iter().filter(is_due).collect();
        before = names;
        if due.is_empty() {
            continue;
        }
        if upstream.has_controller().await {
            // Its task; an ADD that it does not get done in time for will see.
            left.extend(due.iter().map(|pool| pool.name.clone()));
        } else if let Err(error) = upstream.look_at(&due).await {
            tracing::warn!(target: "IPAM", %error, "cannot look at running pods for the sake of new pools");
            tokio::time::sleep(AGAIN).await;
        }
    }
}
