//! What this node holds.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::types::{PodHolder, PodKey, Stored};
use crate::family::Family;
use crate::range::SpanSet;

/// Whether a sandbox uses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It was answered, or may have been before this process started.
    Open,
    /// Claimed together with another NIC; no ADD of its own NIC was answered yet.
    Unused,
    /// The sandbox is gone; the address waits for the pod's next one, or for the pod's end.
    Ended,
}

/// A claim and its use.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub stored: Stored,
    pub usage: Use,
}

/// The claims of this node.
///
/// Holds always: `busy` contains every known address and every address that a call in flight is about, so that no
/// address is tried twice at a time.
#[derive(Debug, Default)]
pub(super) struct Book {
    known: HashMap<IpAddr, Known>,
    of_pod: HashMap<String, BTreeSet<IpAddr>>,
    /// UIDs of pods with claims that are known to be gone or finished.
    gone: HashSet<String>,
    busy: SpanSet,
}

impl Book {
    pub fn insert(&mut self, stored: Stored, usage: Use) {
        let address = stored.claim.address;
        let gone = stored.claim.pod().is_some_and(|pod| self.gone.contains(&pod.uid));
        self.remove(address);
        if let Some(pod) = stored.claim.pod() {
            self.of_pod.entry(pod.uid.clone()).or_default().insert(address);
            if gone {
                self.gone.insert(pod.uid.clone());
            }
        }
        self.busy.insert(address);
        self.known.insert(address, Known { stored, usage });
    }

    /// Forgets a claim; its address is no longer busy.
    pub fn remove(&mut self, address: IpAddr) -> Option<Known> {
        self.busy.remove(address);
        let known = self.known.remove(&address)?;
        if let Some(pod) = known.stored.claim.pod() {
            let left = self.of_pod.get_mut(&pod.uid).is_some_and(|of_pod| {
                of_pod.remove(&address);
                !of_pod.is_empty()
            });
            if !left {
                self.of_pod.remove(&pod.uid);
                self.gone.remove(&pod.uid);
            }
        }
        Some(known)
    }

    /// New content of a claim whose use stays as it is.
    pub fn refresh(&mut self, stored: Stored) {
        let usage = self.known.get(&stored.claim.address).map_or(Use::Open, |known| known.usage);
        self.insert(stored, usage);
    }

    pub fn set_usage(&mut self, address: IpAddr, usage: Use) {
        if let Some(known) = self.known.get_mut(&address) {
            known.usage = usage;
        }
    }

    /// The pod with this UID is gone or finished.
    pub fn set_gone(&mut self, uid: &str) {
        if self.of_pod.contains_key(uid) {
            self.gone.insert(uid.to_owned());
        }
    }

    /// Whether a sandbox of a living pod may use this address.
    pub fn is_in_use(&self, address: IpAddr) -> bool {
        let known = self.known.get(&address).filter(|known| known.usage == Use::Open);
        known.is_some_and(|known| holder(known).is_none_or(|pod| !self.gone.contains(&pod.uid)))
    }

    pub fn get(&self, address: IpAddr) -> Option<&Known> {
        self.known.get(&address)
    }

    pub fn all(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    /// Claims of a pod: `eth0` first, then by interface, IPv4 before IPv6.
    pub fn of_pod(&self, uid: &str) -> Vec<&Known> {
        let addresses = self.of_pod.get(uid).into_iter().flatten();
        let mut claims: Vec<&Known> = addresses.filter_map(|address| self.known.get(address)).collect();
        claims.sort_by_key(|known| {
            let interface = holder(known).map_or("", |pod| pod.interface.as_str());
            (interface != crate::nad::FIRST_NIC, interface, Family::of(known.stored.claim.address))
        });
        claims
    }

    /// UID of the pod that a container belongs to.
    pub fn pod_of_container(&self, container: &str) -> Option<&str> {
        let of_container =
            |known: &&Known| holder(known).is_some_and(|pod| pod.container.as_deref() == Some(container));
        let known = self.known.values().find(of_container)?;
        holder(known).map(|pod| pod.uid.as_str())
    }

    pub fn pods(&self) -> Vec<PodKey> {
        let first = |addresses: &BTreeSet<IpAddr>| {
            let pod = addresses.first().and_then(|address| holder(self.known.get(address)?))?;
            Some(PodKey { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() })
        };
        self.of_pod.values().filter_map(first).collect()
    }

    /// Marks an address as being worked on.
    pub fn occupy(&mut self, address: IpAddr) {
        self.busy.insert(address);
    }

    /// Unmarks an address that did not become a claim.
    pub fn vacate(&mut self, address: IpAddr) {
        if !self.known.contains_key(&address) {
            self.busy.remove(address);
        }
    }

    pub fn busy(&self) -> &SpanSet {
        &self.busy
    }
}

fn holder(known: &Known) -> Option<&PodHolder> {
    known.stored.claim.pod()
}
