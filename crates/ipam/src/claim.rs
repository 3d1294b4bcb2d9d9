//! The allocation protocol as a pure state machine.
//!
//! # Expected flow
//!
//! One [`Claims`] per agent. It is made with the node's claims, listed **consistently** (not from a cache) at start. The agent
//! feeds [`Event`]s and carries the [`Effect`]s out: calls to the API server, whose ends it reports as
//! [`Event::Reply`], and answers. Nothing here waits, blocks or reads a clock.
//!
//! An ADD claims all its addresses concurrently; creating the `SpiderIP` of an address *is* the claim. A name that is taken
//! makes the machine try another address; when what it knows of the pool runs out it lists the pool, first from the
//! cache as a hint, then consistently, and only an exact list without a free address makes the pool
//! *used up* and the next one tried. If one want fails, what the others got is given back.
//!
//! # Guarantees
//!
//! * An address is answered only after the API server confirmed an object that names this pod interface.
//! * At most one address per (pod UID, interface, family): requests of one pod run one after the other, and a
//!   repeated ADD finds the claim of the first.
//! * A release changes nothing unless it names the container that uses the address. Writes carry UID and version.
//! * A write with unknown outcome is read back, and tried again, before anything is answered or forgotten.
//! * A claim that was removed while a living pod uses it is made again; one of a pod that is gone or finished is not.
//! * What an answer did not name does not stay: failed and cancelled ADDs give back; a create that lands after it was given up
//!   is found by [`Event::Reconcile`].
//!
//! # Assumptions
//!
//! * This machine is the only ordinary writer of claims of its node. Foreign writes show up as conflicts and are read back.
//! * [`PodFate::Gone`] is final: a pod UID never comes back to life.
//!
//! # Caveats
//!
//! State is lost with the process. A new one must be given the node's claims, and treats each as possibly in use until
//! a release or [`Event::PodGone`] says otherwise.

mod add;
mod book;
mod job;
mod ledger;
mod reconcile;
mod release;
mod slot;
mod types;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

pub use types::*;

use add::AddState;
use book::{Book, Known, Use};
use job::Job;
use ledger::Ledger;
use reconcile::Reconciling;

/// The claims of one node and the requests under way.
#[derive(Debug)]
pub struct Claims {
    node: String,
    book: Book,
    ledgers: HashMap<String, Ledger>,
    /// Work under way, at most one piece per pod UID.
    work: HashMap<u64, Work>,
    active: HashMap<String, u64>,
    /// What waits for the pod's current work to end.
    queues: HashMap<String, VecDeque<Pending>>,
    ops: HashMap<Op, (Target, Option<IpAddr>)>,
    last_op: u64,
    last_work: u64,
    /// Creates that were given up although they may still land, with the number of reconciliations seen since.
    doubtful: HashMap<IpAddr, (Claim, u32)>,
    reconciling: Option<Reconciling>,
}

/// A piece of work for one pod.
#[derive(Debug)]
struct Work {
    uid: String,
    ticket: Option<Ticket>,
    kind: Kind,
    jobs: Vec<Job>,
}

#[derive(Debug)]
enum Kind {
    Add(Box<AddState>),
    Release(Released),
    Background,
}

/// A request that waits for its turn.
#[derive(Debug)]
struct Pending {
    ticket: Option<Ticket>,
    task: Task,
}

#[derive(Debug)]
enum Task {
    Add(Add),
    Release(Release),
    Gone { interfaces_gone: bool },
    Jobs(Vec<Job>),
}

/// Whom a reply is for.
#[derive(Clone, Debug)]
enum Target {
    Slot(u64, usize),
    Job(u64, usize),
    List(String),
    Node,
}

/// What a step needs and makes.
struct Context<'a> {
    random: &'a mut dyn FnMut() -> u64,
    effects: Vec<Effect>,
}

impl Claims {
    /// A machine for `node` that knows these claims (every `SpiderIP` whose node is this one).
    pub fn new(node: impl Into<String>, known: Vec<Stored>) -> Self {
        let mut book = Book::default();
        for stored in known {
            book.insert(stored, Use::Open);
        }
        Self {
            node: node.into(),
            book,
            ledgers: HashMap::new(),
            work: HashMap::new(),
            active: HashMap::new(),
            queues: HashMap::new(),
            ops: HashMap::new(),
            last_op: 0,
            last_work: 0,
            doubtful: HashMap::new(),
            reconciling: None,
        }
    }

    /// Takes an event in; what comes out is to be carried out in any order. `random` is a source of random numbers.
    pub fn step(&mut self, event: Event, random: &mut dyn FnMut() -> u64) -> Vec<Effect> {
        let mut context = Context { random, effects: Vec::new() };
        match event {
            Event::Add(ticket, add) => {
                let uid = add.pod.uid.clone();
                self.enqueue(uid, Pending { ticket: Some(ticket), task: Task::Add(add) }, &mut context);
            }
            Event::Release(ticket, release) => self.release(ticket, release, &mut context),
            Event::Cancel(ticket) => self.cancel(ticket, &mut context),
            Event::PodGone { uid, interfaces_gone } => {
                if !self.book.of_pod(&uid).is_empty() || self.active.contains_key(&uid) {
                    self.enqueue(uid, Pending { ticket: None, task: Task::Gone { interfaces_gone } }, &mut context);
                }
            }
            Event::Reply(op, outcome) => self.reply(op, outcome, &mut context),
            Event::Reconcile => self.reconcile(&mut context),
        }
        context.effects
    }

    /// The claims of a pod, `eth0` first.
    pub fn of_pod(&self, uid: &str) -> Vec<&Stored> {
        self.book.of_pod(uid).into_iter().map(|known| &known.stored).collect()
    }

    /// All pods that have claims here: what the agent checks for liveness from time to time.
    pub fn pods(&self) -> Vec<PodKey> {
        self.book.pods()
    }

    /// All claims of this node.
    pub fn all(&self) -> impl Iterator<Item = &Stored> {
        self.book.all().map(|known| &known.stored)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.work.is_empty() && self.ops.is_empty()
    }

    /// Drops what is known of the use of pools that are gone.
    pub fn retain_pools(&mut self, exists: impl Fn(&str) -> bool) {
        self.ledgers.retain(|pool, ledger| ledger.listing.is_some() || !ledger.waiters.is_empty() || exists(pool));
    }

    fn reply(&mut self, op: Op, outcome: Outcome, context: &mut Context<'_>) {
        let Some((target, address)) = self.ops.remove(&op) else { return };
        self.touch(address);
        match target {
            Target::Slot(work, slot) => self.slot_reply((work, slot), outcome, context),
            Target::Job(work, job) => self.job_reply((work, job), outcome, context),
            Target::List(pool) => self.list_reply(&pool, op, outcome, context),
            Target::Node => self.node_reply(outcome, context),
        }
    }

    /// Sends a call.
    fn call(&mut self, target: Target, call: Call, after: Duration, context: &mut Context<'_>) {
        let op = self.next_op();
        let address = match &call {
            Call::Create(claim) | Call::Update { claim, .. } => Some(claim.address),
            Call::Delete { address, .. } | Call::Read(address) => Some(*address),
            Call::List { .. } | Call::ListNode => None,
        };
        self.touch(address);
        self.ops.insert(op, (target, address));
        context.effects.push(Effect::Call { op, after, call });
    }

    /// A call about an address begins or ends: lists under way may be older than that.
    fn touch(&mut self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        if let Some(reconciling) = &mut self.reconciling {
            reconciling.touched.insert(address);
        }
        for listing in self.ledgers.values_mut().filter_map(|ledger| ledger.listing.as_mut()) {
            listing.touched.insert(address);
        }
    }

    /// Takes a claim out of the books, for whatever reason.
    fn forget(&mut self, address: IpAddr, context: &mut Context<'_>) -> Option<Known> {
        let known = self.book.remove(address)?;
        if let Some(PodHolder { namespace, name, uid, .. }) = known.stored.claim.pod().cloned() {
            context.effects.push(Effect::Freed(PodKey { namespace, name, uid }));
        }
        Some(known)
    }

    /// Begins a task, or lets it wait for the pod's current work.
    fn enqueue(&mut self, uid: String, pending: Pending, context: &mut Context<'_>) {
        if self.active.contains_key(&uid) {
            let queue = self.queues.entry(uid).or_default();
            if let Some(pending) = merge(queue, pending) {
                queue.push_back(pending);
            }
        } else {
            self.begin(uid, pending, context);
        }
    }

    fn begin(&mut self, uid: String, Pending { ticket, task }: Pending, context: &mut Context<'_>) {
        self.last_work += 1;
        let id = self.last_work;
        let (kind, jobs) = match task {
            Task::Add(add) => {
                let (state, surplus) = AddState::new(add, &self.book);
                (Kind::Add(Box::new(state)), surplus.iter().map(Job::free).collect())
            }
            Task::Release(release) => {
                let (released, jobs) = self.releases(&uid, &release);
                (Kind::Release(released), jobs)
            }
            Task::Gone { interfaces_gone } => (Kind::Background, self.releases_of_gone(&uid, interfaces_gone)),
            Task::Jobs(jobs) => (Kind::Background, jobs.into_iter().filter(|job| job.is_due(&self.book)).collect()),
        };
        let (slots, jobs_count) = (if let Kind::Add(state) = &kind { state.slots.len() } else { 0 }, jobs.len());
        self.active.insert(uid.clone(), id);
        self.work.insert(id, Work { uid, ticket, kind, jobs });
        for slot in 0..slots {
            self.run_slot((id, slot), context);
        }
        for job in 0..jobs_count {
            self.run_job(id, job, context);
        }
        self.progress(id, context);
    }

    /// Answers what can be answered, and ends the work when nothing of it is left.
    fn progress(&mut self, id: u64, context: &mut Context<'_>) {
        let Some(work) = self.work.get(&id) else { return };
        match &work.kind {
            Kind::Add(_) => self.progress_add(id, context),
            Kind::Release(_) => self.progress_release(id, context),
            Kind::Background => {}
        }
        let Some(work) = self.work.get(&id) else { return };
        let busy = matches!(&work.kind, Kind::Add(state) if !state.is_over());
        if busy || work.jobs.iter().any(|job| !job.is_finished()) {
            return;
        }
        let Some(Work { uid, .. }) = self.work.remove(&id) else { return };
        self.active.remove(&uid);
        let next = self.queues.get_mut(&uid).and_then(VecDeque::pop_front);
        match next {
            Some(pending) => self.begin(uid, pending, context),
            None => {
                self.queues.remove(&uid);
            }
        }
    }

    fn cancel(&mut self, ticket: Ticket, context: &mut Context<'_>) {
        for queue in self.queues.values_mut() {
            for pending in queue.iter_mut().filter(|pending| pending.ticket == Some(ticket)) {
                pending.ticket = None;
            }
            // A release is worked off unattended; an ADD that nobody waits for is not begun.
            queue.retain(|pending| pending.ticket.is_some() || !matches!(pending.task, Task::Add(_)));
        }
        let Some((id, work)) = self.work.iter_mut().find(|(_, work)| work.ticket == Some(ticket)) else { return };
        let id = *id;
        work.ticket = None;
        if matches!(work.kind, Kind::Add(_)) {
            self.fail_add(id, AddError::Cancelled, context);
        }
    }
}

/// Lets what waits already do for a request, so that a queue is bounded however long its pod's work takes; returns a request for which
/// nothing does. What is behind an ADD stays behind it.
fn merge(queue: &mut VecDeque<Pending>, mut pending: Pending) -> Option<Pending> {
    for waiting in queue.iter_mut().rev() {
        match (&mut waiting.task, &mut pending.task) {
            (Task::Add(_), _) => break,
            (Task::Gone { interfaces_gone }, Task::Gone { interfaces_gone: also }) => {
                *interfaces_gone |= *also;
                return None;
            }
            (Task::Release(release), Task::Release(same)) if release == same && waiting.ticket.is_none() => {
                waiting.ticket = pending.ticket;
                return None;
            }
            (Task::Jobs(jobs), Task::Jobs(more)) => {
                more.retain(|one| !jobs.iter().any(|job| job.is_like(one)));
                if more.is_empty() {
                    return None;
                }
            }
            _ => {}
        }
    }
    Some(pending)
}

/// How long to wait before the next attempt: 50 ms doubled up to 5 s, a quarter of it random.
fn backoff(failures: u32, random: &mut dyn FnMut() -> u64) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let millis = 50_u64.saturating_mul(1 << (failures - 1).min(10)).min(5000);
    Duration::from_millis(millis - millis / 4 + random() % (millis / 4 + 1))
}
