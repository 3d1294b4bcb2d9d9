//! What users are told in Events: on the pod while it is there; else on the pool, together for all pods that are gone.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use k8s_api::{SpiderIP, SpiderIPPool};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use store::failure::{bounded, optional};

use super::decide::Reason;
use crate::events::Events;

/// The reason of our events.
const COLLECTED: &str = "AddressesCollected";

/// Addresses that were released since the last report, by pool: how many, and one of them.
#[derive(Debug, Default)]
pub struct Report {
    released: Mutex<HashMap<String, (usize, String)>>,
}

impl Report {
    /// An address was released.
    pub async fn released(&self, events: &Events, ip: &SpiderIP, pod: Option<&Pod>, reason: &Reason) {
        let (address, pool) = (&ip.spec.address, &ip.spec.pool);
        let holder = ip.spec.holder.pod();
        match pod.filter(|pod| pod.metadata.uid.as_ref() == holder.map(|holder| &holder.uid)) {
            Some(pod) => {
                let text = format!("address {address} of pool {pool} was released: {reason}");
                events.normal(pod, COLLECTED, text).await;
            }
            None => {
                let of = holder.map(|pod| format!("{}/{}", pod.namespace, pod.name));
                let node = ip.spec.holder.node().unwrap_or_default();
                let example = format!("{address} of {} on node {node}: {reason}", of.as_deref().unwrap_or("no pod"));
                let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
                released.entry(pool.clone()).or_insert_with(|| (0, example)).0 += 1;
            }
        }
    }

    /// Tells the pools.
    pub async fn flush(&self, client: &Client, events: &Events) {
        let released = std::mem::take(&mut *self.released.lock().unwrap_or_else(PoisonError::into_inner));
        let pools = Api::<SpiderIPPool>::all(client.clone());
        for (name, (count, example)) in released {
            // A pool that is gone is told nothing.
            if let Ok(Some(pool)) = optional(bounded(pools.get(&name)).await) {
                let text = format!("{count} addresses that no pod uses any more were released (for example {example})");
                events.normal(&pool, COLLECTED, text).await;
            }
        }
    }
}
