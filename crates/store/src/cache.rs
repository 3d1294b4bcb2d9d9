//! Compact views of objects, kept current by a watch.
//!
//! kube's reflector keeps whole objects; an agent needs a fraction of each, and its memory counts on every node. A [`Cache`] keeps what a
//! conversion makes of an object at its arrival, so that parsing happens once and nobody parses again.

use crate::failure::Failure;
use futures::{Stream, StreamExt};
use kube::ResourceExt;
use kube::runtime::watcher;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// Views by `namespace/name` (by `name` for cluster-scoped kinds).
#[derive(Debug)]
pub struct Cache<T> {
    views: RwLock<HashMap<String, Arc<T>>>,
    generation: AtomicU64,
    synced: watch::Sender<bool>,
}

/// What happened to a view.
#[derive(Debug)]
pub enum Change<T> {
    /// New or changed.
    Put(Arc<T>),
    /// The object was deleted: its last view.
    Gone(Arc<T>),
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { views: RwLock::default(), generation: AtomicU64::new(0), synced: watch::Sender::new(false) }
    }
}

/// The key of an object in a cache.
pub fn key(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

impl<T> Cache<T> {
    /// The view of an object.
    pub fn get(&self, key: &str) -> Option<Arc<T>> {
        self.read().get(key).cloned()
    }

    /// All views, in no order.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.read().values().cloned().collect()
    }

    /// Number of views.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is no view.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes whenever a view changes.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Waits for the first complete list.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in `self`, which is borrowed: it cannot be dropped meanwhile.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<T>>> {
        self.views.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<T>>> {
        self.views.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, key: String, view: Arc<T>) {
        self.write().insert(key, view);
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn remove(&self, key: &str) -> Option<Arc<T>> {
        let view = self.write().remove(key);
        self.generation.fetch_add(1, Ordering::Release);
        view
    }

    /// Follows a watch until the stream ends. `what` names it in logs; `changed` is told of every change after it is visible.
    ///
    /// An interrupted watch goes on by itself; after a gap the whole list is compared, so that no deletion is missed.
    pub async fn follow<K, S>(&self, what: &str, events: S, view: impl Fn(K) -> T, changed: impl FnMut(Change<T>))
    where
        K: ResourceExt + Debug,
        S: Stream<Item = watcher::Result<watcher::Event<K>>>,
    {
        self.follow_leaving(what, events, view, |_| {}, changed).await;
    }

    /// As [`Cache::follow`]; `leaving` is told of a last view before it is gone from here.
    pub async fn follow_leaving<K, S>(
        &self,
        what: &str,
        events: S,
        view: impl Fn(K) -> T,
        leaving: impl Fn(&Arc<T>),
        mut changed: impl FnMut(Change<T>),
    ) where
        K: ResourceExt + Debug,
        S: Stream<Item = watcher::Result<watcher::Event<K>>>,
    {
        let mut events = pin!(events);
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    let key = key(object.namespace().as_deref(), &object.name_any());
                    listed.insert(key.clone());
                    changed(self.apply(key, view(object)));
                }
                Ok(watcher::Event::InitDone) => {
                    self.keep_only(&listed, &leaving).into_iter().for_each(|gone| changed(Change::Gone(gone)));
                    listed = HashSet::new();
                    self.synced.send_replace(true);
                }
                Ok(watcher::Event::Apply(object)) => {
                    let key = key(object.namespace().as_deref(), &object.name_any());
                    changed(self.apply(key, view(object)));
                }
                Ok(watcher::Event::Delete(object)) => {
                    let key = key(object.namespace().as_deref(), &object.name_any());
                    // The last view of the object may say more than the one we had.
                    let last = Arc::new(view(object));
                    leaving(&last);
                    drop(self.remove(&key));
                    changed(Change::Gone(last));
                }
                Err(error) => tracing::warn!(what, error = %interruption(error), "watch interrupted"),
            }
        }
    }

    fn apply(&self, key: String, view: T) -> Change<T> {
        let view = Arc::new(view);
        self.put(key, view.clone());
        Change::Put(view)
    }

    fn keep_only(&self, listed: &HashSet<String>, leaving: impl Fn(&Arc<T>)) -> Vec<Arc<T>> {
        let gone: Vec<String> = self.read().keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().filter_map(|key| self.get(key)).for_each(|last| leaving(&last));
        gone.iter().filter_map(|key| self.remove(key)).collect()
    }
}

/// kube's watch errors print whole statuses; the reason is enough.
fn interruption(error: watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(source)
        | watcher::Error::WatchStartFailed(source)
        | watcher::Error::WatchFailed(source) => Failure::from(source).to_string(),
        watcher::Error::WatchError(status) => Failure::from(kube::Error::Api(status)).to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, stream};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    fn map(name: &str, value: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some("ns".into());
        map.metadata.name = Some(name.into());
        map.data = Some([("v".to_owned(), value.to_owned())].into());
        map
    }

    fn follow(cache: &Cache<String>, events: Vec<watcher::Event<ConfigMap>>) -> Vec<String> {
        let mut changes = Vec::new();
        let view = |map: ConfigMap| map.data.unwrap_or_default().remove("v").unwrap_or_default();
        let told = |change: Change<String>| match change {
            Change::Put(view) => changes.push(format!("+{view}")),
            Change::Gone(view) => changes.push(format!("-{view}")),
        };
        cache.follow("maps", stream::iter(events.into_iter().map(Ok)), view, told).now_or_never().unwrap();
        changes
    }

    #[test]
    fn changes_are_seen_and_told() {
        let cache = Cache::default();
        assert!(cache.synced().now_or_never().is_none());
        let changes =
            follow(&cache, vec![Init, InitApply(map("a", "1")), InitDone, Apply(map("b", "2")), Delete(map("a", "3"))]);
        assert_eq!(changes, ["+1", "+2", "-3"]);
        assert!(cache.synced().now_or_never().is_some());
        assert_eq!((cache.get("ns/a"), cache.get("ns/b").as_deref()), (None, Some(&"2".to_owned())));
    }

    #[test]
    fn what_is_missing_after_a_new_list_is_gone() {
        let cache = Cache::default();
        follow(&cache, vec![Init, InitApply(map("a", "1")), InitApply(map("b", "2")), InitDone]);
        let before = cache.generation();
        let changes = follow(&cache, vec![Init, InitApply(map("b", "2")), InitDone]);
        assert_eq!(changes, ["+2", "-1"]);
        assert!(cache.len() == 1 && cache.generation() > before);
    }

    #[test]
    fn a_broken_list_removes_nothing() {
        let cache = Cache::default();
        follow(&cache, vec![Init, InitApply(map("a", "1")), InitDone, Init, InitApply(map("b", "2")), Init]);
        assert_eq!(cache.len(), 2);
    }
}
