//! The other pools, for the rules of admission: without a list of all pools at each create. Every replica watches them.
//!
//! What is admitted is admitted on the word of this watch and of our own memory: pools that this process has
//! admitted in the last moments and that the watch may not show yet, so two overlapping pools created at the same instant
//! do not pass. What is refused is refused on the word of the API itself: a watch may still show a pool that is gone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use daemon::Stop;
use futures::StreamExt as _;
use ipam::rules::{Peer, PoolSpec, Refusal};
use k8s_api::SpiderIPPool;
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::time::Instant;

use super::metrics::Metrics;
use crate::trouble::Explained;

/// By then the watch shows a pool that was admitted, or it was not stored.
const MEMORY: Duration = Duration::from_secs(10);

/// The other pools.
///
/// A pool moves from `admitted` to `watched` in this order: into `watched`, out of `admitted`. Who reads them in the
/// opposite order misses none.
#[derive(Debug, Default)]
pub struct Peers {
    /// One judgement at a time: of two pools that exclude each other the second sees the first.
    turn: tokio::sync::Mutex<()>,
    /// What the watch shows; `None` where there is no watch (yet).
    watched: RwLock<Option<HashMap<String, Peer>>>,
    /// What was admitted and the watch does not show yet.
    admitted: Mutex<HashMap<String, (Peer, Instant)>>,
}

/// Keeps `peers` current until `stop`, and counts them.
pub async fn follow(
    client: Client,
    peers: Arc<Peers>,
    metrics: Metrics,
    stop: Stop,
) -> Result<(), std::convert::Infallible> {
    let pools = Api::<SpiderIPPool>::all(client);
    let mut watch = watcher(pools, watcher::Config::default()).default_backoff().boxed();
    let mut listed = Vec::new();
    while let Some(Some(event)) = stop.run_until_cancelled(watch.next()).await {
        match event {
            Ok(Event::Apply(pool)) => peers.seen(&pool),
            Ok(Event::Delete(pool)) => peers.gone(&pool.name_any()),
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pool)) => listed.push(pool),
            Ok(Event::InitDone) => peers.replace(std::mem::take(&mut listed).iter()),
            Err(error) => tracing::warn!(what = "SpiderIPPools", error = %Explained(&error), "watch interrupted"),
        }
        metrics.count(peers.watched.read().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, HashMap::len));
    }
    Ok(())
}

impl Peers {
    /// The watch has been read from the start.
    pub fn replace<'a>(&self, pools: impl Iterator<Item = &'a SpiderIPPool>) {
        let peers = pools.filter_map(view).map(|peer| (peer.name.clone(), peer)).collect();
        *self.watched.write().unwrap_or_else(PoisonError::into_inner) = Some(peers);
    }

    /// The watch shows this pool.
    pub fn seen(&self, pool: &SpiderIPPool) {
        let name = pool.name_any();
        if let Some(watched) = self.watched.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            match view(pool) {
                Some(peer) => drop(watched.insert(name.clone(), peer)),
                None => drop(watched.remove(&name)),
            }
        }
        self.forget(&name);
    }

    /// The watch shows that this pool is gone.
    pub fn gone(&self, name: &str) {
        if let Some(watched) = self.watched.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            watched.remove(name);
        }
        self.forget(name);
    }

    fn forget(&self, name: &str) {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Judges the pool `name` by `rule`; remembers it if it is admitted and `remember` says so (not for a dry run).
    pub async fn judge(
        &self,
        client: &Client,
        name: &str,
        remember: Option<&PoolSpec>,
        rule: impl Fn(&[Peer]) -> Result<(), Refusal>,
    ) -> kube::Result<Result<(), Refusal>> {
        let _turn = self.turn.lock().await;
        // Before either list is read: a pool that is stored meanwhile is in this one or in that.
        let under_way = self.under_way(name);
        let mut verdict = self.watched().map(|watched| rule(&joined(watched, &under_way)));
        if !matches!(verdict, Some(Ok(()))) {
            let pools = Api::<SpiderIPPool>::all(client.clone()).list(&ListParams::default()).await?;
            verdict = Some(rule(&joined(pools.items.iter().filter_map(view).collect(), &under_way)));
        }
        let verdict = verdict.expect("set above where it was not");
        if verdict.is_ok()
            && let Some(peer) = remember.and_then(|spec| Peer::of(name, spec))
        {
            let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
            admitted.insert(name.to_owned(), (peer, Instant::now()));
        }
        Ok(verdict)
    }

    /// The pools that were admitted and may or may not be stored, other than `name`.
    fn under_way(&self, name: &str) -> Vec<Peer> {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.retain(|_, (_, since)| since.elapsed() < MEMORY);
        admitted.values().filter(|(peer, _)| peer.name != name).map(|(peer, _)| peer.clone()).collect()
    }

    fn watched(&self) -> Option<Vec<Peer>> {
        let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        Some(watched.as_ref()?.values().cloned().collect())
    }
}

/// `known`, but what is under way as it will be.
fn joined(mut known: Vec<Peer>, under_way: &[Peer]) -> Vec<Peer> {
    known.retain(|peer| !under_way.iter().any(|newer| newer.name == peer.name));
    known.extend_from_slice(under_way);
    known
}

fn view(pool: &SpiderIPPool) -> Option<Peer> {
    Peer::of(&pool.name_any(), &PoolSpec::from(&pool.spec))
}
