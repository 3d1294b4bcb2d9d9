//! What the agent watches, and what it remembers of pods that are gone.

use daemon::Stop;
use futures::future::join_all;
use kube::Client;
use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use store::meta::Meta;
use store::networks::{Attachment, Coordinator};
use store::pods::Pod;
use store::pools::{Pools, Reserved};
use store::{Cache, Change, networks, pods};

/// Pods remembered as gone: more than a node deletes within the time a `DEL` can be late.
const REMEMBERED: usize = 10_000;

/// Views kept by watches.
#[derive(Default)]
pub struct Caches {
    /// Pods of this node.
    pub pods: Cache<Pod>,
    /// Pools that can concern this node.
    pub pools: Pools,
    /// Reserved addresses.
    pub reserved: Reserved,
    /// Metadata of namespaces.
    pub namespaces: Cache<Meta>,
    /// Metadata of this node.
    pub node: Cache<Meta>,
    /// NetworkAttachmentDefinitions.
    pub attachments: Cache<Attachment>,
    /// Coordinator configurations.
    pub coordinators: Cache<Coordinator>,
    /// UIDs of pods whose deletion was seen.
    pub gone: Gone,
}

impl Caches {
    /// Follows everything until stopped. `changed` is told of changes of pods.
    pub async fn follow(
        self: Arc<Self>,
        client: Client,
        node: String,
        changed: impl Fn(Change<Pod>) + Send + Sync + 'static,
        stop: Stop,
    ) {
        let told = |change: Change<Pod>| {
            if let Change::Gone(pod) = &change {
                self.gone.remember(&pod.uid);
            }
            changed(change);
        };
        let watches: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = vec![
            Box::pin(pods::follow(client.clone(), &node, &self.pods, told)),
            Box::pin(self.pools.follow_own(client.clone(), &node)),
            Box::pin(self.pools.follow_shared(client.clone())),
            Box::pin(self.reserved.follow(client.clone())),
            Box::pin(store::meta::follow_namespaces(client.clone(), &self.namespaces)),
            Box::pin(store::meta::follow_node(client.clone(), &node, &self.node)),
            Box::pin(networks::follow_attachments(client.clone(), &self.attachments)),
            Box::pin(networks::follow_coordinators(client, &self.coordinators)),
        ];
        tokio::select! {
            _ = join_all(watches) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Waits for what allocation needs. Attachments and coordinators are not waited for: a cluster may lack their definitions, and
    /// both are read live when missing.
    pub async fn synced(&self) {
        self.pods.synced().await;
        self.pools.synced().await;
        self.reserved.synced().await;
        self.namespaces.synced().await;
        self.node.synced().await;
    }
}

/// UIDs that were seen to go, bounded. A UID never comes back, so this is proof.
#[derive(Debug, Default)]
pub struct Gone(Mutex<(HashSet<String>, VecDeque<String>)>);

impl Gone {
    /// Remembers a UID.
    pub fn remember(&self, uid: &str) {
        let (known, order) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !uid.is_empty() && known.insert(uid.to_owned()) {
            order.push_back(uid.to_owned());
            if order.len() > REMEMBERED
                && let Some(oldest) = order.pop_front()
            {
                known.remove(&oldest);
            }
        }
    }

    /// Was this UID seen to go?
    pub fn contains(&self, uid: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.contains(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let gone = Gone::default();
        (0..REMEMBERED + 5).for_each(|n| gone.remember(&n.to_string()));
        gone.remember("");
        assert!(!gone.contains("4") && gone.contains("5") && gone.contains(&(REMEMBERED + 4).to_string()));
        assert!(!gone.contains(""));
    }
}
