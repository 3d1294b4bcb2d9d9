//! The number of nodes, where nothing else watches them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use daemon::Stop;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use store::Cache;

/// Keeps `count` at the number of nodes until `stop`.
pub async fn count(client: Client, count: Arc<AtomicUsize>, stop: Stop) -> Result<(), std::convert::Infallible> {
    let nodes = Api::<PartialObjectMeta<Node>>::all(client);
    let nodes = watcher(nodes, watcher::Config::default()).default_backoff();
    let cache = Cache::default();
    let changed = |_| count.store(cache.len(), Ordering::Relaxed);
    stop.run_until_cancelled(cache.follow("nodes", nodes, drop, changed)).await;
    Ok(())
}
