//! The other pools, for the rules of admission: without a list of all pools at each create.
//!
//! What is admitted is admitted on the word of the keeper's watch and of our own memory: pools that this process has
//! admitted in the last moments and that the watch may not show yet, so two overlapping pools created at the same instant
//! do not pass. What is refused is refused on the word of the API itself: a watch may still show a pool that is gone.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError, RwLock},
    time::Duration,
};

use ipam::rules::{Peer, PoolSpec, Refusal};
use k8s_api::SpiderIPPool;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use tokio::time::Instant;

/// By then the watch shows a pool that was admitted, or it was not stored.
const MEMORY: Duration = Duration::from_secs(10);

/// The other pools.
#[derive(Debug, Default)]
pub struct Peers {
    /// What the watch shows; `None` where there is no watch (yet).
    watched: RwLock<Option<HashMap<String, Peer>>>,
    admitted: Mutex<HashMap<String, (Peer, Instant)>>,
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
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        if let Some(watched) = self.watched.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            match view(pool) {
                Some(peer) => drop(watched.insert(name, peer)),
                None => drop(watched.remove(&name)),
            }
        }
    }

    /// The watch shows that this pool is gone.
    pub fn gone(&self, name: &str) {
        if let Some(watched) = self.watched.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            watched.remove(name);
        }
    }

    /// Judges the pool `name` by `rule`; remembers it if it is admitted and `remember` says so (not for a dry run).
    pub async fn judge(
        &self,
        client: &Client,
        name: &str,
        remember: Option<&PoolSpec>,
        rule: impl Fn(&[Peer]) -> Result<(), Refusal>,
    ) -> kube::Result<Result<(), Refusal>> {
        if let Some(watched) = self.watched()
            && self.admit(name, remember, watched, &rule).is_ok()
        {
            return Ok(Ok(()));
        }
        let pools = Api::<SpiderIPPool>::all(client.clone()).list(&ListParams::default()).await?;
        let live = pools.items.iter().filter_map(view).map(|peer| (peer.name.clone(), peer)).collect();
        Ok(self.admit(name, remember, live, &rule))
    }

    fn watched(&self) -> Option<HashMap<String, Peer>> {
        self.watched.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One judgement at a time: of two pools that exclude each other the second sees the first.
    fn admit(
        &self,
        name: &str,
        remember: Option<&PoolSpec>,
        mut peers: HashMap<String, Peer>,
        rule: impl Fn(&[Peer]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.retain(|_, (_, since)| since.elapsed() < MEMORY);
        for (other, (peer, _)) in admitted.iter().filter(|(other, _)| *other != name) {
            peers.entry(other.clone()).or_insert_with(|| peer.clone());
        }
        let peers: Vec<Peer> = peers.into_values().collect();
        rule(&peers)?;
        if let Some(peer) = remember.and_then(|spec| Peer::of(name, spec)) {
            admitted.insert(name.to_owned(), (peer, Instant::now()));
        }
        Ok(())
    }
}

fn view(pool: &SpiderIPPool) -> Option<Peer> {
    Peer::of(&pool.name_any(), &PoolSpec::from(&pool.spec))
}
