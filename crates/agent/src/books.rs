//! Runs the allocation protocol: feeds [`ipam::claim::Claims`] and carries its effects out, concurrently.
//!
//! The machine decides under a lock and never waits; every call to the API server is a task of its own, so an ADD of several addresses
//! makes its claims at the same time and nothing queues behind anything else but what the machine puts in order.

use crate::metrics::Metrics;
use crate::upstream::Upstream;
use ipam::claim::{
    Add, AddError, Answer, Call, Claims, Effect, Event, Granted, Note, Outcome, PodKey, Release, ReleaseError,
    Released, Stored, Ticket,
};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Failure;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::TaskTracker;

/// Pause between tries of the first list.
const OPEN_PAUSE: Duration = Duration::from_secs(1);

/// The claims of this node.
#[derive(Clone)]
pub struct Books(Arc<Inner>);

struct Inner {
    node: String,
    store: store::Claims,
    upstream: Arc<Upstream>,
    machine: Mutex<Machine>,
    waiting: Mutex<HashMap<Ticket, oneshot::Sender<Answer>>>,
    next_ticket: AtomicU64,
    calls: TaskTracker,
    metrics: Arc<Metrics>,
    freed: Box<Freed>,
    doubt: AtomicBool,
    doubted: Notify,
}

/// Told of a pod that has a claim less, and how to find what it has left.
type Freed = dyn Fn(PodKey, &dyn Fn() -> Vec<Stored>) + Send + Sync;

struct Machine {
    claims: Claims,
    random: SplitMix,
}

impl Books {
    /// Lists the claims of the node, however long the API server takes, and begins with them.
    ///
    /// `freed` is told of a pod whenever it has a claim less, for whatever reason; beside it how to find the claims that are left.
    pub async fn open(
        store: store::Claims,
        node: &str,
        upstream: Arc<Upstream>,
        metrics: Arc<Metrics>,
        freed: impl Fn(PodKey, &dyn Fn() -> Vec<Stored>) + Send + Sync + 'static,
    ) -> Self {
        let known = loop {
            match store.of_node(node).await {
                Ok(known) => break known,
                Err(error) => {
                    tracing::warn!(target: "IPAM", %error, "cannot list the claims of this node, trying again");
                    tokio::time::sleep(OPEN_PAUSE).await;
                }
            }
        };
        tracing::info!(target: "IPAM", claims = known.len(), "claims of this node are known");
        Self(Arc::new(Inner {
            node: node.to_owned(),
            store,
            upstream,
            machine: Mutex::new(Machine { claims: Claims::new(node, known), random: SplitMix::seeded() }),
            waiting: Mutex::default(),
            next_ticket: AtomicU64::new(0),
            calls: TaskTracker::new(),
            metrics,
            freed: Box::new(freed),
            doubt: AtomicBool::new(false),
            doubted: Notify::new(),
        }))
    }

    /// Claims what an ADD needs. Dropping the future cancels the ADD: what it claimed is given back.
    pub async fn add(&self, add: Add) -> Result<Vec<Granted>, AddError> {
        let (ticket, answer) = self.0.ticket();
        let mut guard = CancelOnDrop { inner: &self.0, ticket, armed: true };
        self.0.feed(Event::Add(ticket, add));
        let answer = answer.await;
        guard.armed = false;
        match answer {
            Ok(Answer::Added(outcome)) => outcome,
            Ok(Answer::Released(_)) | Err(_) => Err(AddError::Cancelled),
        }
    }

    /// Ends a sandbox's use. Dropping the future does not stop it, but nobody is told of its end then.
    pub async fn release(&self, release: Release) -> Option<Result<Released, ReleaseError>> {
        let (ticket, answer) = self.0.ticket();
        let mut guard = CancelOnDrop { inner: &self.0, ticket, armed: true };
        self.0.feed(Event::Release(ticket, release));
        let answer = answer.await;
        guard.armed = false;
        match answer {
            Ok(Answer::Released(outcome)) => Some(outcome),
            Ok(Answer::Added(_)) | Err(_) => None,
        }
    }

    /// A pod is gone or finished; see [`Event::PodGone`].
    pub fn pod_gone(&self, uid: &str, interfaces_gone: bool) {
        if !self.of_pod(uid).is_empty() {
            self.0.feed(Event::PodGone { uid: uid.to_owned(), interfaces_gone });
        }
    }

    /// Compares with what the API server has.
    pub fn reconcile(&self) {
        self.0.feed(Event::Reconcile);
    }

    /// The claims of a pod.
    pub fn of_pod(&self, uid: &str) -> Vec<Stored> {
        self.0.of_pod(uid)
    }

    /// All claims.
    pub fn all(&self) -> Vec<Stored> {
        self.0.machine().claims.all().cloned().collect()
    }

    /// UID of the pod for whose container an address is claimed.
    pub fn pod_of_container(&self, namespace: &str, name: &str, container: &str) -> Option<String> {
        let machine = self.0.machine();
        let mut holders = machine.claims.all().filter_map(|stored| stored.claim.pod());
        let holder = holders.find(|pod| {
            pod.namespace == namespace && pod.name == name && pod.container.as_deref() == Some(container)
        })?;
        Some(holder.uid.clone())
    }

    /// Pods that have claims.
    pub fn pods(&self) -> Vec<PodKey> {
        self.0.machine().claims.pods()
    }

    /// Forgets what is known of the use of pools that are gone.
    pub fn retain_pools(&self, exists: impl Fn(&str) -> bool) {
        self.0.machine().claims.retain_pools(exists);
    }

    /// Waits until a create had an unknown outcome.
    pub async fn doubted(&self) {
        while !self.0.doubt.swap(false, Ordering::AcqRel) {
            self.0.doubted.notified().await;
        }
    }

    /// Waits for the calls under way and those that follow from them.
    pub async fn settle(&self) {
        self.0.calls.close();
        self.0.calls.wait().await;
    }
}

struct CancelOnDrop<'a> {
    inner: &'a Arc<Inner>,
    ticket: Ticket,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.inner.waiting().remove(&self.ticket);
            self.inner.feed(Event::Cancel(self.ticket));
        }
    }
}

impl Inner {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Ticket, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ticket(&self) -> (Ticket, oneshot::Receiver<Answer>) {
        let ticket = Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(ticket, sender);
        (ticket, receiver)
    }

    fn feed(self: &Arc<Self>, event: Event) {
        let effects = {
            let mut machine = self.machine();
            let Machine { claims, random } = &mut *machine;
            claims.step(event, &mut || random.next())
        };
        for effect in effects {
            match effect {
                Effect::Call { op, after, call } => {
                    let inner = self.clone();
                    // The end of the process waits for no comparison: that of the next one's start is as good.
                    let waited_for = call != Call::ListNode;
                    let call = async move {
                        if !after.is_zero() {
                            tokio::time::sleep(after).await;
                        }
                        let outcome = inner.carry_out(call).await;
                        inner.feed(Event::Reply(op, outcome));
                    };
                    drop(if waited_for { self.calls.spawn(call) } else { tokio::spawn(call) });
                }
                Effect::Answer(ticket, answer) => {
                    // Nobody waiting: the request was cancelled meanwhile.
                    if let Some(waiting) = self.waiting().remove(&ticket) {
                        let _ = waiting.send(answer);
                    }
                }
                Effect::Freed(pod) => {
                    let uid = pod.uid.clone();
                    (self.freed)(pod, &|| self.of_pod(&uid));
                }
                Effect::Note(note) => log(&note),
            }
        }
    }

    fn of_pod(&self, uid: &str) -> Vec<Stored> {
        self.machine().claims.of_pod(uid).into_iter().cloned().collect()
    }

    /// An address that is about to be freed is no longer booked with upstream.
    async fn leave(&self, address: std::net::IpAddr) -> Result<(), Failure> {
        let held = {
            let machine = self.machine();
            let claim = machine.claims.all().map(|stored| &stored.claim).find(|claim| claim.address == address);
            claim.and_then(|claim| Some((claim.pool.clone(), claim.pod()?.uid.clone())))
        };
        match held {
            Some((pool, uid)) => self.upstream.leave(&pool, address, &uid, &self.metrics).await,
            None => Ok(()),
        }
    }

    async fn carry_out(&self, call: Call) -> Outcome {
        match call {
            Call::Create(claim) => {
                let outcome = outcome(self.store.create(&claim).await, Outcome::Stored);
                match outcome {
                    Outcome::Exists => self.metrics.claim_conflict(),
                    Outcome::Unknown(_) => {
                        self.doubt.store(true, Ordering::Release);
                        self.doubted.notify_one();
                    }
                    _ => {}
                }
                outcome
            }
            Call::Update { claim, uid, version } => {
                outcome(self.store.update(&claim, &uid, &version).await, Outcome::Stored)
            }
            Call::Delete { address, uid, version } => {
                if let Err(failure) = self.leave(address).await {
                    return outcome(Err(failure), Outcome::Stored);
                }
                let outcome = outcome(self.store.delete(address, &uid, &version).await, |()| Outcome::Done);
                if outcome == Outcome::Conflict {
                    self.metrics.release_conflict();
                }
                outcome
            }
            Call::Read(address) => outcome(self.store.read(address).await, Outcome::Stored),
            Call::List { pool, fresh } => outcome(self.store.used(&pool, fresh).await, Outcome::Used),
            Call::ListNode => outcome(self.store.of_node(&self.node).await, Outcome::Claims),
        }
    }
}

fn outcome<T>(result: Result<T, Failure>, success: impl FnOnce(T) -> Outcome) -> Outcome {
    match result {
        Ok(value) => success(value),
        Err(Failure::AlreadyExists) => Outcome::Exists,
        Err(Failure::Conflict) => Outcome::Conflict,
        Err(Failure::NotFound) => Outcome::NotFound,
        Err(Failure::Refused(reason)) => Outcome::Refused(reason),
        Err(Failure::Unknown(reason)) => Outcome::Unknown(reason),
    }
}

fn log(note: &Note) {
    let (what, claim) = match note {
        Note::Foreign(claim) => ("a claim of this node was changed by somebody else", claim),
        Note::Adopted(claim) => ("a claim that no request of this process made was taken over", claim),
        Note::GaveBack(claim) => ("a claim that nobody was told of was given back", claim),
        Note::Restored(claim) => ("a claim in use had been removed and was made again", claim),
    };
    let pod = claim.pod().map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default();
    tracing::warn!(target: "IPAM", address = %claim.address, pool = %claim.pool, pod, "{what}");
}

/// SplitMix64: spreads choices, guards no secret.
struct SplitMix(u64);

impl SplitMix {
    fn seeded() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
