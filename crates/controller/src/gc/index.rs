//! Where to look: what watches show of claims, pods, nodes and endpoints, by pod name. Hints, never proof.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_api::{FINALIZER, SpiderEndpoint, SpiderIP};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{ResourceExt, api::PartialObjectMeta, runtime::watcher::Event};
use tokio::time::Instant;

use super::{
    facts::Kind,
    mirror::{Change, Mirror, key},
    queue::Subject,
};

/// A claim.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    /// The pod's name and UID, if a pod holds it.
    pod: Option<(Arc<str>, Arc<str>)>,
    node: Arc<str>,
}

/// A pod, of which only metadata is known.
#[derive(Debug, PartialEq, Eq)]
struct PodSeen {
    uid: Arc<str>,
    /// The grace period of a deletion that was requested.
    ending: Option<Duration>,
}

/// An endpoint, of which only metadata is known.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    /// UID of the pod that owns it; a pod with a fixed address does not.
    uid: Option<Arc<str>>,
    terminating: bool,
    ours: bool,
}

/// A pod's UID, its state, and since when it has been seen in it.
pub type Since = (Arc<str>, Kind, Instant);

/// What is to be looked at under a pod's name.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Names of the claims.
    pub claims: Vec<Arc<str>>,
    /// Since when the pods of these UIDs have been in this state.
    pub since: Vec<Since>,
    /// Since when nodes of these claims have been missing.
    pub missing: HashMap<Arc<str>, Instant>,
    /// The longest grace period of a deletion under way.
    pub grace: Duration,
}

impl Sight {
    /// How long the pod of this UID has been in this state.
    pub fn seen(&self, uid: &str, kind: Kind, now: Instant) -> Duration {
        let same = self.since.iter().find(|(known, as_seen, _)| &**known == uid && *as_seen == kind);
        same.map_or(Duration::ZERO, |(_, _, since)| now.saturating_duration_since(*since))
    }

    /// How long the node has been missing.
    pub fn missing(&self, node: &str, now: Instant) -> Duration {
        self.missing.get(node).map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }
}

/// The UID under which an endpoint without owner is booked.
pub const UNOWNED: &str = "";

/// The watches' view.
#[derive(Debug, Default)]
pub struct Index {
    claims: Mirror<Claim>,
    of_pod: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    pods: Mirror<PodSeen>,
    finished: Mirror<Arc<str>>,
    nodes: Mirror<()>,
    endpoints: Mirror<Endpoint>,
    missing: HashMap<Arc<str>, Instant>,
    sights: HashMap<Arc<str>, Vec<Since>>,
    without_ips: HashSet<Arc<str>>,
    outdated: bool,
}

impl Index {
    /// An empty index; `outdated` if endpoints of living pods without claims are of interest.
    pub fn new(outdated: bool) -> Self {
        Self { outdated, ..Self::default() }
    }

    /// Whether all watches have been read from the start. Before that, what is missing means nothing.
    pub fn is_complete(&self) -> bool {
        let pods = self.pods.is_complete() && self.finished.is_complete();
        pods && self.claims.is_complete() && self.nodes.is_complete() && self.endpoints.is_complete()
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Takes an event of SpiderIPs in; returns the pod names that it concerns.
    pub fn claim(&mut self, event: Event<SpiderIP>) -> Vec<Arc<str>> {
        let changes = self.claims.take(event, |ip| Claim {
            pod: ip.spec.holder.pod().map(|pod| (key(Some(&pod.namespace), &pod.name), pod.uid.as_str().into())),
            node: ip.spec.holder.node().unwrap_or_default().into(),
        });
        let mut concerned = Vec::new();
        for Change { key, before } in changes {
            if let Some((pod, _)) = before.and_then(|before| before.pod)
                && let Some(names) = self.of_pod.get_mut(&pod)
            {
                names.remove(&key);
                if names.is_empty() {
                    self.of_pod.remove(&pod);
                }
            }
            if let Some((pod, _)) = self.claims.get(&key).and_then(|claim| claim.pod.as_ref()) {
                self.of_pod.entry(Arc::clone(pod)).or_default().insert(key);
                concerned.push(Arc::clone(pod));
            }
        }
        concerned
    }

    /// Takes an event of all pods in.
    pub fn pod(&mut self, event: Event<PartialObjectMeta<Pod>>) -> Vec<Arc<str>> {
        let changes = self.pods.take(event, |pod| PodSeen {
            uid: pod.uid().unwrap_or_default().into(),
            ending: pod.metadata.deletion_timestamp.as_ref().map(|_| {
                let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
                Duration::from_secs(u64::try_from(grace).unwrap_or_default())
            }),
        });
        self.of_interest(changes)
    }

    /// Takes an event of the pods in that neither wait nor run.
    pub fn finished(&mut self, event: Event<PartialObjectMeta<Pod>>) -> Vec<Arc<str>> {
        let changes = self.finished.take(event, |pod| pod.uid().unwrap_or_default().into());
        self.of_interest(changes)
    }

    /// Takes an event of SpiderEndpoints in.
    pub fn endpoint(&mut self, event: Event<PartialObjectMeta<SpiderEndpoint>>) -> Vec<Arc<str>> {
        let changes = self.endpoints.take(event, |endpoint| {
            let owner = endpoint.owner_references().iter().find(|owner| owner.kind == "Pod");
            Endpoint {
                uid: owner.map(|owner| owner.uid.as_str().into()),
                terminating: endpoint.metadata.deletion_timestamp.is_some(),
                ours: endpoint.finalizers().iter().any(|one| one == FINALIZER),
            }
        });
        self.of_interest(changes)
    }

    fn of_interest<V>(&self, changes: Vec<Change<V>>) -> Vec<Arc<str>> {
        let concerns = |key: &Arc<str>| self.of_pod.contains_key(key) || self.endpoints.get(key).is_some();
        changes.into_iter().map(|change| change.key).filter(concerns).collect()
    }

    /// Takes an event of nodes in; returns what is held by nodes that have gone.
    pub fn node(&mut self, event: Event<PartialObjectMeta<Node>>, now: Instant) -> Vec<Subject> {
        let mut gone = HashSet::new();
        for Change { key, .. } in self.nodes.take(event, |_| ()) {
            if self.nodes.get(&key).is_some() {
                self.missing.remove(&key);
            } else {
                self.missing.insert(Arc::clone(&key), now);
                gone.insert(key);
            }
        }
        if gone.is_empty() {
            return Vec::new();
        }
        let held = self.claims.iter().filter(|(_, claim)| gone.contains(&claim.node));
        held.map(|(name, claim)| subject(name, claim)).collect::<HashSet<_>>().into_iter().collect()
    }

    /// Pods that run without addresses, as a list has just told.
    pub fn runs_without_ips(&mut self, pods: impl Iterator<Item = Arc<str>>) {
        self.without_ips = pods.collect();
    }

    /// Everything that does not look healthy.
    pub fn suspects(&mut self, now: Instant) -> Vec<Subject> {
        let mut nodes = HashSet::new();
        let mut suspects = Vec::new();
        for (name, claim) in self.claims.iter() {
            if !claim.node.is_empty() && self.nodes.get(&claim.node).is_none() {
                nodes.insert(Arc::clone(&claim.node));
                if claim.pod.is_none() {
                    suspects.push(Subject::Held(Arc::clone(name)));
                }
            }
        }
        self.missing.retain(|node, _| nodes.contains(node));
        for node in nodes {
            self.missing.entry(node).or_insert(now);
        }
        let keys: HashSet<&Arc<str>> = self.of_pod.keys().chain(self.endpoints.iter().map(|(key, _)| key)).collect();
        let unhealthy = keys.into_iter().filter(|key| !self.is_healthy(key));
        suspects.extend(unhealthy.map(|key| Subject::Pod(Arc::clone(key))));
        self.sights.retain(|key, _| self.of_pod.contains_key(key) || self.endpoints.get(key).is_some());
        suspects
    }

    fn is_healthy(&self, key: &str) -> bool {
        self.kinds(key).all(|(_, kind)| kind == Kind::Alive) && !self.is_odd(key)
    }

    /// Whether there is something to look at although the pod lives.
    fn is_odd(&self, key: &str) -> bool {
        let endpoint = self.endpoints.get(key).filter(|endpoint| endpoint.ours);
        let outdated = self.outdated && endpoint.is_some() && !self.of_pod.contains_key(key);
        let ending = endpoint.is_some_and(|endpoint| endpoint.terminating);
        outdated || ending || self.without_ips.contains(key)
    }

    /// The pods that have claims or an endpoint under this name.
    fn kinds(&self, key: &str) -> impl Iterator<Item = (Arc<str>, Kind)> {
        let claims = self.of_pod.get(key).into_iter().flatten();
        let claims = claims.filter_map(|name| self.claims.get(name)?.pod.as_ref().map(|(_, uid)| Arc::clone(uid)));
        // An endpoint that ends without our finalizer, or that nobody holds, is not our business.
        let endpoint = self.endpoints.get(key).filter(|endpoint| endpoint.ours || !endpoint.terminating);
        let endpoint = endpoint.map(|endpoint| endpoint.uid.clone().unwrap_or_else(|| UNOWNED.into()));
        claims.chain(endpoint).map(|uid| (Arc::clone(&uid), self.kind(key, &uid)))
    }

    fn kind(&self, key: &str, uid: &str) -> Kind {
        match self.pods.get(key) {
            Some(pod) if uid == UNOWNED || &*pod.uid == uid => match pod.ending {
                Some(_) => Kind::Ending,
                None if self.finished.get(key) == Some(&pod.uid) => Kind::Finished,
                None => Kind::Alive,
            },
            _ => Kind::Gone,
        }
    }

    /// What there is to look at under a pod's name; `None` if it looks healthy. A state that has changed begins anew.
    pub fn sight(&mut self, key: &Arc<str>, now: Instant) -> Option<Sight> {
        if self.is_healthy(key) {
            self.sights.remove(key);
            return None;
        }
        let before = self.sights.remove(key).unwrap_or_default();
        let mut since: Vec<Since> = Vec::new();
        for (uid, kind) in self.kinds(key) {
            if since.iter().all(|(known, ..)| *known != uid) {
                let same = before.iter().find(|(known, as_seen, _)| *known == uid && *as_seen == kind);
                let at = same.map_or(now, |(_, _, at)| *at);
                since.push((uid, kind, at));
            }
        }
        self.sights.insert(Arc::clone(key), since.clone());
        let claims: Vec<_> = self.of_pod.get(key).into_iter().flatten().cloned().collect();
        let nodes = claims.iter().filter_map(|name| self.claims.get(name).map(|claim| &claim.node));
        let missing = nodes.filter_map(|node| Some((Arc::clone(node), *self.missing.get(node)?))).collect();
        let grace = self.pods.get(key).and_then(|pod| pod.ending).unwrap_or_default();
        Some(Sight { claims, since, missing, grace })
    }

    /// A claim that a node holds which is missing.
    pub fn held(&self, name: &Arc<str>) -> Option<Sight> {
        let claim = self.claims.get(name).filter(|claim| claim.pod.is_none())?;
        let since = *self.missing.get(&claim.node)?;
        let missing = [(Arc::clone(&claim.node), since)].into();
        let gone = vec![(UNOWNED.into(), Kind::Gone, since)];
        Some(Sight { claims: vec![Arc::clone(name)], since: gone, missing, grace: Duration::ZERO })
    }
}

fn subject(name: &Arc<str>, claim: &Claim) -> Subject {
    match &claim.pod {
        Some((pod, _)) => Subject::Pod(Arc::clone(pod)),
        None => Subject::Held(Arc::clone(name)),
    }
}

#[cfg(test)]
mod tests;
