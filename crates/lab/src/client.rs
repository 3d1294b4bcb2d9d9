//! How the cluster's processes reach the API server.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{Stream, StreamExt, future};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;

/// A client with the credentials of a kubeconfig.
pub async fn from_kubeconfig(path: &Path) -> Result<Client> {
    let what = || format!("kubeconfig {}", path.display());
    let kubeconfig = Kubeconfig::read_from(path).with_context(what)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.with_context(what)?;
    Client::try_from(config).with_context(what)
}

/// A watch that comes back within a second after the API server did: the lab restarts it on purpose.
pub fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send
where
    K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, config).backoff(Patient)
}

/// Always the same short pause.
struct Patient;

impl Iterator for Patient {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(300))
    }
}

impl Backoff for Patient {
    fn reset(&mut self) {}
}

/// A cache of all objects of a kind that `config` selects, and what tells when something in it changed.
///
/// The returned future must run for the cache to live; `changed` is called after each event.
pub fn cached<K>(
    api: Api<K>,
    config: watcher::Config,
    changed: impl Fn() + Send + 'static,
) -> (Store<K>, impl Future<Output = ()> + Send)
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = watch(api, config).reflect(writer);
    let run = events.for_each(move |event| {
        match event {
            Ok(_) => changed(),
            Err(error) => tracing::debug!(%error, kind = K::kind(&()).as_ref(), "watch interrupted"),
        }
        future::ready(())
    });
    (store, run)
}
