//! The other pools, for the rules of admission: without a list of all pools at each create. Every replica watches them.
//!
//! What is admitted is admitted on the word of this watch and of our own memory: pools that this process has
//! admitted in the last moments and that the watch may not show yet, so two overlapping pools created at the same instant
//! through one replica do not pass. Through two replicas they do: neither knows what the other admits before the watch shows it. No
//! address is given twice even so, because its SpiderIP bears its name, and the keeper of pools tells of it. What is refused because
//! of another pool is refused on the word of the API itself: a watch may still show a pool that is gone. What is wrong with a pool by
//! itself is refused without asking anybody, and what the watch says is told beside it.

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
        if let Some(refusal) = self.refused_alone(&rule) {
            return Ok(Err(refusal));
        }
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

    /// What the rule says of the pool by itself, unless its name may be taken: that goes before everything else.
    fn refused_alone(&self, rule: impl Fn(&[Peer]) -> Result<(), Refusal>) -> Option<Refusal> {
        let refusal = rule(&[]).err()?;
        let beside = self.watched().and_then(|watched| rule(&watched).err());
        match (refusal, beside) {
            (_, Some(Refusal::AlreadyExists)) => None,
            (Refusal::Invalid(own), Some(Refusal::Invalid(all))) if own.iter().all(|error| all.contains(error)) => {
                Some(Refusal::Invalid(all))
            }
            (refusal, _) => Some(refusal),
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{Json, Router};
    use ipam::{
        Labels,
        rules::{Enabled, PoolContext, validate_pool_create},
    };
    use serde_json::{Value, json};

    use super::*;

    fn spec(subnet: &str, ips: &str) -> PoolSpec {
        let text = json!({"ipVersion": 4, "subnet": subnet, "ips": [ips]});
        serde_json::from_value(text).unwrap()
    }

    /// An API without pools, and how often it was asked.
    fn api() -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let answer = move || {
            count.fetch_add(1, Ordering::SeqCst);
            let list: Value = json!({
                "apiVersion": k8s_api::API_VERSION, "kind": "SpiderIPPoolList", "metadata": {"resourceVersion": "1"},
                "items": []
            });
            std::future::ready(Json(list))
        };
        (Client::new(Router::new().fallback(answer), "default"), asked)
    }

    /// What is wrong with a pool alone costs the API server nothing; what another pool makes wrong is read from it.
    #[tokio::test]
    async fn only_refusals_that_depend_on_other_pools_are_read_again() {
        let ((client, asked), peers) = (api(), Peers::default());
        let watched = Peer::of("gone", &spec("10.1.0.0/24", "10.1.0.1")).unwrap();
        *peers.watched.write().unwrap() = Some([(watched.name.clone(), watched)].into());
        let rows = [
            ("outside", "new", spec("10.1.0.0/24", "10.2.0.1"), "spec.ips[0]: Invalid", 0),
            (
                "both",
                "new",
                spec("10.1.0.0/24", "10.1.0.1-10.2.0.1"),
                "; spec.ips: Forbidden: overlap with IPPool gone",
                0,
            ),
            ("bad family", "new", spec("fd00::/64", "fd00::1"), "spec.subnet: Invalid", 0),
            ("an address of a pool that is gone", "new", spec("10.1.0.0/24", "10.1.0.1"), "admitted", 1),
            (
                "a subnet of a pool that is gone",
                "other",
                spec("10.1.0.0/16", "10.1.0.1"),
                "overlap with IPPool new which",
                1,
            ),
            ("a name that is free again", "gone", spec("10.3.0.0/24", "10.4.0.1"), "spec.ips[0]: Invalid", 1),
        ];
        for (what, name, spec, expected, lists) in rows {
            let before = asked.load(Ordering::SeqCst);
            let rule = |peers: &[Peer]| {
                let context = PoolContext { enabled: Enabled::BOTH, peers, owner: None };
                validate_pool_create(name, &spec, &Labels::new(), &context)
            };
            let told = match peers.judge(&client, name, Some(&spec), rule).await.unwrap() {
                Ok(()) => "admitted".to_owned(),
                Err(Refusal::Invalid(errors)) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                Err(other) => format!("{other:?}"),
            };
            assert!(told.contains(expected), "{what}: {told}");
            assert_eq!(asked.load(Ordering::SeqCst) - before, lists, "{what}");
        }
    }
}
