//! Bringing one address to a definite end: given back, or settled when it is not known what became of a write.
//!
//! A job never gives up: it goes on, backing off, until the API server has said what is.

use super::book::Book;
use super::types::{Call, Claim, Effect, Note, Op, Outcome, Stored};
use super::{Claims, Context, Target, backoff};

/// Attempts after which somebody who waits for a job is told so.
pub(super) const UNCONFIRMED_AFTER: u32 = 4;

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The claim is to be gone.
    Free,
    /// Find out what the claim is; make it again if it was removed while a living pod uses it.
    Settle,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Deleting { uid: String, version: String },
    Reading,
    Creating,
    Finished,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The address is free.
    Gone,
    /// The address is somebody else's.
    Foreign,
    /// The claim is what the books say.
    Kept,
    /// The claim had been removed and was made again.
    Restored,
}

/// What a job does after a reply.
#[allow(clippy::large_enum_variant)] // lives for one call
enum Next {
    Phase(Phase),
    End(End, Option<Stored>),
}

/// A job for one address.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// What the claim looks like, or was meant to look like.
    pub claim: Claim,
    purpose: Purpose,
    phase: Phase,
    failures: u32,
    /// Whether the claim was a create whose outcome is unknown.
    doubtful: bool,
    pub end: Option<End>,
    pub last_failure: String,
}

impl Job {
    /// Gives a claim back whose UID and version are known.
    pub fn free(stored: &Stored) -> Self {
        let phase = Phase::Deleting { uid: stored.uid.clone(), version: stored.version.clone() };
        Self::new(stored.claim.clone(), Purpose::Free, phase)
    }

    /// Gives back what a create of unknown outcome may have made.
    pub fn undo_create(claim: Claim) -> Self {
        Self { doubtful: true, ..Self::new(claim, Purpose::Free, Phase::Reading) }
    }

    /// Finds out what a claim is.
    pub fn settle(claim: Claim) -> Self {
        Self::new(claim, Purpose::Settle, Phase::Reading)
    }

    fn new(claim: Claim, purpose: Purpose, phase: Phase) -> Self {
        Self { claim, purpose, phase, failures: 0, doubtful: false, end: None, last_failure: String::new() }
    }

    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// Whether a job that had to wait is still to be done: what was unknown may have become a claim, and what was known
    /// may be gone.
    pub fn is_due(&self, book: &Book) -> bool {
        let known = book.get(self.claim.address).is_some();
        match self.purpose {
            Purpose::Free => !known,
            Purpose::Settle => known,
        }
    }

    /// Whether another job is for the same end.
    pub fn is_like(&self, other: &Self) -> bool {
        self.claim.address == other.claim.address && self.purpose == other.purpose
    }

    pub fn is_late(&self) -> bool {
        self.failures >= UNCONFIRMED_AFTER
    }

    fn call(&self) -> Option<Call> {
        let address = self.claim.address;
        match &self.phase {
            Phase::Deleting { uid, version } => {
                Some(Call::Delete { address, uid: uid.clone(), version: version.clone() })
            }
            Phase::Reading => Some(Call::Read(address)),
            Phase::Creating => Some(Call::Create(self.claim.clone())),
            Phase::Finished => None,
        }
    }

    /// What follows from the end of the current call.
    fn next(&mut self, outcome: Outcome, in_use: bool) -> Next {
        match (&self.phase, outcome) {
            (phase, Outcome::Unknown(reason) | Outcome::Refused(reason)) => {
                self.failures += 1;
                self.last_failure = reason;
                Next::Phase(phase.clone())
            }
            (Phase::Deleting { .. }, Outcome::Done | Outcome::NotFound) => Next::End(End::Gone, None),
            (Phase::Creating, Outcome::Stored(stored)) => Next::End(End::Restored, Some(stored)),
            (Phase::Reading, Outcome::Stored(stored)) if !self.is_about(&stored.claim) => {
                Next::End(End::Foreign, Some(stored))
            }
            (Phase::Reading, Outcome::Stored(stored)) => match self.purpose {
                Purpose::Free => Next::Phase(Phase::Deleting { uid: stored.uid, version: stored.version }),
                Purpose::Settle => Next::End(End::Kept, Some(stored)),
            },
            (Phase::Reading, _) if self.purpose == Purpose::Settle && in_use => Next::Phase(Phase::Creating),
            (Phase::Reading, _) => Next::End(End::Gone, None),
            (_, other) => {
                self.failures += 1;
                self.last_failure = format!("unexpected answer: {other:?}");
                Next::Phase(Phase::Reading)
            }
        }
    }

    /// Whether an object is the claim that the job is about: the same pod interface.
    fn is_about(&self, found: &Claim) -> bool {
        match (self.claim.pod(), found.pod()) {
            (Some(ours), Some(theirs)) => {
                let open = ours.interface.is_empty() || theirs.interface.is_empty();
                ours.uid == theirs.uid && (open || ours.interface == theirs.interface)
            }
            _ => false,
        }
    }
}

impl Claims {
    /// Starts a job, or its next call.
    pub(super) fn run_job(&mut self, work: u64, index: usize, context: &mut Context<'_>) {
        let Some(job) = self.work.get(&work).and_then(|work| work.jobs.get(index)) else { return };
        let Some(call) = job.call() else { return };
        let after = backoff(job.failures, context.random);
        self.book.occupy(job.claim.address);
        self.call(Target::Job(work, index), call, after, context);
    }

    pub(super) fn job_reply(&mut self, (work, index): (u64, usize), outcome: Outcome, context: &mut Context<'_>) {
        let Some(job) = self.work.get_mut(&work).and_then(|work| work.jobs.get_mut(index)) else { return };
        let in_use = self.book.is_in_use(job.claim.address);
        match job.next(outcome, in_use) {
            Next::Phase(phase) => {
                job.phase = phase;
                let late = job.is_late().then(|| job.claim.clone());
                self.run_job(work, index, context);
                if let Some(claim) = late {
                    self.cleared(&claim, context);
                }
            }
            Next::End(end, found) => {
                job.phase = Phase::Finished;
                job.end = Some(end);
                let (claim, doubtful) = (job.claim.clone(), job.doubtful);
                self.job_ended(claim.clone(), doubtful, (end, found), context);
                self.cleared(&claim, context);
            }
        }
        self.progress(work, context);
    }

    /// Books the end of a job.
    fn job_ended(
        &mut self,
        claim: Claim,
        doubtful: bool,
        (end, found): (End, Option<Stored>),
        context: &mut Context<'_>,
    ) {
        let address = claim.address;
        match (end, found) {
            (End::Kept, Some(stored)) => self.book.refresh(stored),
            (End::Restored, Some(stored)) => {
                context.effects.push(Effect::Note(Note::Restored(stored.claim.clone())));
                self.book.refresh(stored);
            }
            (End::Kept | End::Restored, None) => {}
            (End::Gone, _) => {
                self.forget(address, context);
                if let Some(ledger) = self.ledgers.get_mut(&claim.pool) {
                    ledger.free(address);
                }
                if doubtful {
                    self.doubt(claim);
                }
            }
            (End::Foreign, found) => {
                let known = self.forget(address, context);
                if let Some(claim) = known.and(found).map(|stored| stored.claim) {
                    context.effects.push(Effect::Note(Note::Foreign(claim)));
                }
                if let Some(ledger) = self.ledgers.get_mut(&claim.pool) {
                    ledger.refuse(address);
                }
            }
        }
    }

    /// Remembers a create that was given up although it may still land.
    pub(super) fn doubt(&mut self, claim: Claim) {
        self.doubtful.insert(claim.address, (claim, 0));
    }

    /// The next number of a call.
    pub(super) fn next_op(&mut self) -> Op {
        self.last_op += 1;
        Op(self.last_op)
    }
}

/// Whether two claims name the same use: pod, interface and sandbox.
pub(super) fn same_use(a: &Claim, b: &Claim) -> bool {
    a.holder == b.holder && a.address == b.address && a.state == b.state
}
