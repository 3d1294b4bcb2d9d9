//! One address of an ADD: the search for it, its claim, or its take-over from the pod's former sandbox.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::book::Use;
use super::job::{Job, same_use};
use super::ledger::{Pick, SlotId};
use super::types::{
    AddError, Call, Claim, Effect, Holder, Note, Op, Outcome, PodHolder, Rejection, State, Stored, Want,
};
use super::{Claims, Context, Kind, Pending, Target, Task, backoff};
use crate::pool::Pool;
use crate::range::SpanSet;

/// Failed calls in a row after which an ADD gives up.
const MAX_FAILURES: u32 = 4;

/// Where a slot stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// About to choose an address.
    Seeking,
    /// Waits for a list of its pool.
    Listing,
    /// Create in flight.
    Creating(Claim),
    /// Read in flight, after a create of unknown outcome.
    Checking(Claim),
    /// Update in flight.
    TakingOver(Stored),
    /// Read in flight, after an update that did not go through.
    CheckingTakeOver(Claim),
    /// Claimed.
    Done { address: IpAddr, fresh: bool },
    /// Given up.
    Dropped,
}

/// One address of an ADD.
#[derive(Debug)]
pub(super) struct Slot {
    want: Want,
    pub phase: Phase,
    /// Index of the pool that is tried.
    place: usize,
    /// Calls up to this one were made before the pool was tried first.
    since: Op,
    /// Names refused in this pool since then.
    refusals: u32,
    /// These names.
    refused: SpanSet,
    /// Names refused again although a list between did not show them: they belong to an overlapping pool, whose claims
    /// no list of this pool tells.
    hidden: SpanSet,
    failures: u32,
    /// Whether an earlier create of the same address may have gone through.
    uncertain: bool,
    tried: Vec<Rejection>,
}

impl Slot {
    /// A slot that must find an address.
    pub fn seek(want: Want) -> Self {
        Self {
            want,
            phase: Phase::Seeking,
            place: 0,
            since: Op(0),
            refusals: 0,
            refused: SpanSet::new(),
            hidden: SpanSet::new(),
            failures: 0,
            uncertain: false,
            tried: Vec::new(),
        }
    }

    /// On to the next pool.
    fn move_on(&mut self, reason: Rejection) {
        self.tried.push(reason);
        self.place += 1;
        (self.since, self.refusals) = (Op(0), 0);
        (self.refused, self.hidden) = (SpanSet::new(), SpanSet::new());
    }

    fn refuse(&mut self, address: IpAddr) {
        self.refusals += 1;
        if !self.refused.insert(address) {
            self.hidden.insert(address);
        }
    }

    /// A slot that takes an address over for another sandbox of the same pod.
    pub fn take_over(want: Want, stored: &Stored, container: &str, interface: &str) -> Self {
        let mut stored = stored.clone();
        if let Holder::Pod(pod) = &mut stored.claim.holder {
            pod.container = Some(container.to_owned());
            interface.clone_into(&mut pod.interface);
        }
        Self { phase: Phase::TakingOver(stored), ..Self::seek(want) }
    }

    fn used_out(&self) -> AddError {
        let tried = self.tried.iter().chain(&self.want.rejected).cloned().collect();
        AddError::UsedOut { interface: self.want.interface.clone(), family: self.want.family, tried }
    }
}

impl Claims {
    fn slot(&mut self, (work, slot): SlotId) -> Option<&mut Slot> {
        match &mut self.work.get_mut(&work)?.kind {
            Kind::Add(state) => state.slots.get_mut(slot),
            Kind::Release(_) | Kind::Background => None,
        }
    }

    fn is_failing(&self, work: u64) -> bool {
        matches!(self.work.get(&work).map(|work| &work.kind), Some(Kind::Add(state)) if state.answered)
    }

    /// Starts the next call of a slot.
    pub(super) fn run_slot(&mut self, id: SlotId, context: &mut Context<'_>) {
        let Some(slot) = self.slot(id) else { return };
        let after = backoff(slot.failures, context.random);
        let call = match &slot.phase {
            Phase::Seeking => {
                slot.since = Op(0);
                return self.seek(id, None, context);
            }
            Phase::Creating(claim) => Call::Create(claim.clone()),
            Phase::Checking(claim) | Phase::CheckingTakeOver(claim) => Call::Read(claim.address),
            Phase::TakingOver(Stored { claim, uid, version }) => {
                Call::Update { claim: claim.clone(), uid: uid.clone(), version: version.clone() }
            }
            Phase::Listing | Phase::Done { .. } | Phase::Dropped => return,
        };
        self.call(Target::Slot(id.0, id.1), call, after, context);
    }

    /// Chooses the next address of the current pool, or the next pool. `exact`: the consistent list that was just taken in.
    pub(super) fn seek(&mut self, id: SlotId, exact: Option<Op>, context: &mut Context<'_>) {
        loop {
            let last_op = Op(self.last_op);
            let Some(Kind::Add(state)) = self.work.get_mut(&id.0).map(|work| &mut work.kind) else { return };
            let (reserved, pod, container) =
                (Arc::clone(&state.add.reserved), state.add.pod.clone(), state.add.container.clone());
            let Some(slot) = state.slots.get_mut(id.1) else { return };
            let Some(pool) = slot.want.pools.get(slot.place).cloned() else {
                let error = slot.used_out();
                slot.phase = Phase::Dropped;
                return self.fail_add(id.0, error, context);
            };
            if slot.since == Op(0) {
                slot.since = last_op;
            }
            let (since, refusals, interface) = (slot.since, slot.refusals, slot.want.interface.clone());
            let ledger = self.ledgers.entry(pool.name.clone()).or_default();
            let barred = if slot.hidden.is_empty() { None } else { Some(reserved.union(&slot.hidden)) };
            let barred = barred.as_ref().unwrap_or(&reserved);
            let pick = ledger.pick(&self.node, &pool, (barred, self.book.busy()), refusals, (context.random)());
            match pick {
                Pick::Try(address) => {
                    let holder = PodHolder {
                        namespace: pod.namespace,
                        name: pod.name,
                        uid: pod.uid,
                        container: Some(container),
                        interface,
                        node: self.node.clone(),
                    };
                    let claim = Claim {
                        address,
                        pool: pool.name.clone(),
                        state: State::Allocated,
                        holder: Holder::Pod(holder),
                        mac: None,
                    };
                    slot.phase = Phase::Creating(claim);
                    (slot.uncertain, slot.failures) = (false, 0);
                    self.book.occupy(address);
                    return self.run_slot(id, context);
                }
                // Only a consistent list that began after this slot came to the pool proves it used up.
                Pick::List { fresh: true } if exact.is_some_and(|op| op > since) => {
                    if !ledger.suspects.is_empty() {
                        ledger.waiters.push(id);
                        slot.phase = Phase::Listing;
                        return;
                    }
                    slot.move_on(Rejection { pool: pool.name.clone(), reason: full(&pool, &reserved) });
                }
                Pick::List { fresh } => {
                    slot.phase = Phase::Listing;
                    return self.await_list(id, &pool, fresh, context);
                }
            }
        }
    }

    fn await_list(&mut self, id: SlotId, pool: &Pool, fresh: bool, context: &mut Context<'_>) {
        let Some(ledger) = self.ledgers.get_mut(&pool.name) else { return };
        ledger.waiters.push(id);
        if ledger.listing.is_none() {
            self.list(pool.name.clone(), fresh, 0, context);
        }
    }

    fn list(&mut self, pool: String, fresh: bool, failures: u32, context: &mut Context<'_>) {
        let after = backoff(failures, context.random);
        self.call(Target::List(pool.clone()), Call::List { pool: pool.clone(), fresh }, after, context);
        let touched = self.ops.values().filter_map(|(_, address)| *address).collect();
        self.ledgers.entry(pool).or_default().list_started(fresh, failures, touched);
    }

    pub(super) fn list_reply(&mut self, pool: &str, op: Op, outcome: Outcome, context: &mut Context<'_>) {
        let Some(ledger) = self.ledgers.get_mut(pool) else { return };
        let Some((fresh, failures)) = ledger.listing.as_ref().map(|listing| (listing.fresh, listing.failures)) else {
            return;
        };
        let (used, reason) = match outcome {
            Outcome::Used(used) => (Some(used), String::new()),
            Outcome::Unknown(reason) | Outcome::Refused(reason) => (None, reason),
            other => (None, format!("unexpected answer to a list: {other:?}")),
        };
        let waiters = std::mem::take(&mut ledger.waiters);
        let waits = |id: &SlotId, claims: &mut Self| claims.slot(*id).is_some_and(|slot| slot.phase == Phase::Listing);
        let waiters: Vec<SlotId> = waiters.into_iter().filter(|id| waits(id, self)).collect();
        let Some(ledger) = self.ledgers.get_mut(pool) else { return };
        match used {
            Some(used) => {
                let of_pool = self.book.all().map(|known| &known.stored.claim).filter(|claim| claim.pool == pool);
                let missing = ledger.listed(used, op, of_pool.map(|claim| claim.address));
                let exact = ledger.exact.filter(|_| fresh);
                self.suspect(pool, &missing, context);
                waiters.into_iter().for_each(|id| self.seek(id, exact, context));
            }
            None if failures + 1 < MAX_FAILURES && !waiters.is_empty() => {
                ledger.waiters = waiters;
                self.list(pool.to_owned(), fresh, failures + 1, context);
            }
            None => {
                ledger.listing = None;
                for id in waiters {
                    let error = AddError::Unreachable {
                        action: format!("listing the addresses of pool {pool}"),
                        reason: reason.clone(),
                    };
                    if let Some(slot) = self.slot(id) {
                        slot.phase = Phase::Dropped;
                    }
                    self.fail_add(id.0, error, context);
                }
            }
        }
    }

    /// Finds out what became of claims of ours that a pool does not show. Who needs an address waits for that, unless the pod of the claim is
    /// being worked on: that might wait for the pool itself.
    fn suspect(&mut self, pool: &str, missing: &[IpAddr], context: &mut Context<'_>) {
        let mut of_pods: BTreeMap<String, Vec<Job>> = BTreeMap::new();
        for address in missing {
            let Some(claim) = self.book.get(*address).map(|known| known.stored.claim.clone()) else { continue };
            match claim.pod().map(|pod| pod.uid.clone()) {
                Some(uid) => of_pods.entry(uid).or_default().push(Job::settle(claim)),
                None => drop(self.forget(*address, context)),
            }
        }
        for (uid, jobs) in of_pods {
            if let Some(ledger) = self.ledgers.get_mut(pool).filter(|_| !self.active.contains_key(&uid)) {
                ledger.suspects.extend(jobs.iter().map(|job| job.claim.address));
            }
            self.enqueue(uid, Pending { ticket: None, task: Task::Jobs(jobs) }, context);
        }
    }

    /// It is known what became of an address, or it cannot be told for now: who waits for that goes on.
    pub(super) fn cleared(&mut self, claim: &Claim, context: &mut Context<'_>) {
        let Some(ledger) = self.ledgers.get_mut(&claim.pool) else { return };
        if ledger.suspects.remove(&claim.address) && ledger.listing.is_none() {
            let exact = ledger.exact;
            let waiters = std::mem::take(&mut ledger.waiters);
            for id in waiters {
                if self.slot(id).is_some_and(|slot| slot.phase == Phase::Listing) {
                    self.seek(id, exact, context);
                }
            }
        }
    }

    pub(super) fn slot_reply(&mut self, id: SlotId, outcome: Outcome, context: &mut Context<'_>) {
        if self.is_failing(id.0) {
            self.undo_slot(id, outcome, context);
            return self.progress(id.0, context);
        }
        let Some(slot) = self.slot(id) else { return };
        match (slot.phase.clone(), outcome) {
            (Phase::Creating(claim) | Phase::Checking(claim), Outcome::Unknown(reason)) => {
                self.create_failed(id, claim, (true, reason), context);
            }
            (Phase::TakingOver(Stored { claim, .. }) | Phase::CheckingTakeOver(claim), Outcome::Unknown(reason)) => {
                self.take_over_unknown(id, claim, reason, context);
            }
            (Phase::Creating(claim), outcome) => self.create_reply(id, claim, outcome, context),
            (Phase::Checking(claim), outcome) => self.check_reply(id, claim, outcome, context),
            (Phase::TakingOver(Stored { claim, .. }), outcome) => self.take_over_reply(id, claim, outcome, context),
            (Phase::CheckingTakeOver(claim), outcome) => self.check_take_over_reply(id, claim, outcome, context),
            (Phase::Seeking | Phase::Listing | Phase::Done { .. } | Phase::Dropped, _) => {}
        }
        self.progress(id.0, context);
    }

    fn create_reply(&mut self, id: SlotId, claim: Claim, outcome: Outcome, context: &mut Context<'_>) {
        let Some(slot) = self.slot(id) else { return };
        match outcome {
            Outcome::Stored(stored) => self.claimed(id, stored, Use::Unused, true),
            Outcome::Refused(reason) => {
                let uncertain = slot.uncertain;
                slot.phase = Phase::Dropped;
                let error = AddError::Refused { address: claim.address, pool: claim.pool.clone(), reason };
                self.drop_create(id, claim, uncertain, context);
                self.fail_add(id.0, error, context);
            }
            Outcome::Exists if !slot.uncertain => self.taken(id, &claim, context),
            // Perhaps by an earlier try.
            Outcome::Exists => {
                slot.failures += 1;
                slot.phase = Phase::Checking(claim);
                self.run_slot(id, context);
            }
            other => {
                self.create_failed(id, claim, (false, format!("unexpected answer to a create: {other:?}")), context)
            }
        }
    }

    /// A create that has no result. `silent`: the API server did not answer, so it may have happened.
    fn create_failed(&mut self, id: SlotId, claim: Claim, (silent, reason): (bool, String), context: &mut Context<'_>) {
        let Some(slot) = self.slot(id) else { return };
        slot.failures += 1;
        slot.uncertain |= silent;
        if slot.failures < MAX_FAILURES {
            slot.phase = Phase::Checking(claim);
            return self.run_slot(id, context);
        }
        self.give_create_up(id, claim, (silent, reason), context);
    }

    fn give_create_up(
        &mut self,
        id: SlotId,
        claim: Claim,
        (silent, reason): (bool, String),
        context: &mut Context<'_>,
    ) {
        let Some(slot) = self.slot(id) else { return };
        let uncertain = slot.uncertain;
        slot.phase = Phase::Dropped;
        let error = if silent {
            AddError::Unreachable { action: format!("claiming {} of pool {}", claim.address, claim.pool), reason }
        } else {
            AddError::Refused { address: claim.address, pool: claim.pool.clone(), reason }
        };
        self.drop_create(id, claim, uncertain, context);
        self.fail_add(id.0, error, context);
    }

    /// The name was read after a create of unknown outcome.
    fn check_reply(&mut self, id: SlotId, claim: Claim, outcome: Outcome, context: &mut Context<'_>) {
        match outcome {
            Outcome::Stored(stored) if same_use(&stored.claim, &claim) => self.claimed(id, stored, Use::Unused, true),
            Outcome::Stored(_) => self.taken(id, &claim, context),
            Outcome::NotFound if self.slot(id).is_some_and(|slot| slot.failures >= MAX_FAILURES) => {
                let reason = "the name is taken, and nobody has it".to_owned();
                self.give_create_up(id, claim, (false, reason), context);
            }
            Outcome::NotFound => {
                // The create may still be on its way, so the same address is tried again, never another one beside it.
                self.doubt(claim.clone());
                if let Some(slot) = self.slot(id) {
                    slot.phase = Phase::Creating(claim);
                }
                self.run_slot(id, context);
            }
            other => self.create_failed(id, claim, (true, format!("unexpected answer to a read: {other:?}")), context),
        }
    }

    fn take_over_reply(&mut self, id: SlotId, claim: Claim, outcome: Outcome, context: &mut Context<'_>) {
        let Some(slot) = self.slot(id) else { return };
        match outcome {
            Outcome::Stored(stored) => self.claimed(id, stored, Use::Open, false),
            Outcome::NotFound => self.lost(id, &claim, claim.clone(), context),
            Outcome::Refused(reason) => {
                slot.phase = Phase::Dropped;
                self.fail_add(id.0, AddError::Refused { address: claim.address, pool: claim.pool, reason }, context);
            }
            other => self.take_over_unknown(id, claim, format!("unexpected answer to an update: {other:?}"), context),
        }
    }

    fn take_over_unknown(&mut self, id: SlotId, claim: Claim, reason: String, context: &mut Context<'_>) {
        let Some(slot) = self.slot(id) else { return };
        slot.failures += 1;
        if slot.failures < MAX_FAILURES {
            slot.phase = Phase::CheckingTakeOver(claim);
            return self.run_slot(id, context);
        }
        slot.phase = Phase::Dropped;
        let error = AddError::Unreachable { action: format!("taking {} over", claim.address), reason };
        self.book.set_usage(claim.address, Use::Ended);
        self.push_job(id.0, Job::settle(claim), context);
        self.fail_add(id.0, error, context);
    }

    /// The claim was read after an update that did not go through.
    fn check_take_over_reply(&mut self, id: SlotId, claim: Claim, outcome: Outcome, context: &mut Context<'_>) {
        let same_pod = |found: &Claim| match (found.pod(), claim.pod()) {
            (Some(found), Some(ours)) => {
                found.uid == ours.uid && (found.interface == ours.interface || found.interface.is_empty())
            }
            _ => false,
        };
        match outcome {
            Outcome::Stored(stored) if same_use(&stored.claim, &claim) => self.claimed(id, stored, Use::Open, false),
            Outcome::Stored(stored) if same_pod(&stored.claim) => {
                self.book.refresh(stored.clone());
                if let Some(slot) = self.slot(id) {
                    slot.phase = Phase::TakingOver(Stored { claim, ..stored });
                }
                self.run_slot(id, context);
            }
            Outcome::Stored(stored) => self.lost(id, &claim, stored.claim, context),
            Outcome::NotFound => self.lost(id, &claim, claim.clone(), context),
            other => self.take_over_unknown(id, claim, format!("unexpected answer to a read: {other:?}"), context),
        }
    }

    fn claimed(&mut self, id: SlotId, stored: Stored, usage: Use, fresh: bool) {
        let address = stored.claim.address;
        self.book.insert(stored, usage);
        if let Some(slot) = self.slot(id) {
            slot.phase = Phase::Done { address, fresh };
        }
    }

    /// The name belongs to somebody else: on to another one.
    fn taken(&mut self, id: SlotId, claim: &Claim, context: &mut Context<'_>) {
        self.book.vacate(claim.address);
        if let Some(ledger) = self.ledgers.get_mut(&claim.pool) {
            ledger.refuse(claim.address);
        }
        if let Some(slot) = self.slot(id) {
            slot.refuse(claim.address);
            slot.phase = Phase::Seeking;
        }
        self.seek(id, None, context);
    }

    /// A claim of the pod was taken away by somebody else: the slot must find another address.
    fn lost(&mut self, id: SlotId, claim: &Claim, found: Claim, context: &mut Context<'_>) {
        self.forget(claim.address, context);
        context.effects.push(Effect::Note(Note::Foreign(found)));
        if let Some(slot) = self.slot(id) {
            slot.phase = Phase::Seeking;
        }
        self.seek(id, None, context);
    }

    /// Gives up an address that was being created.
    fn drop_create(&mut self, id: SlotId, claim: Claim, uncertain: bool, context: &mut Context<'_>) {
        if uncertain {
            self.push_job(id.0, Job::undo_create(claim), context);
        } else {
            self.book.vacate(claim.address);
        }
    }

    /// A reply for a slot of an ADD that has failed: what it made is undone.
    fn undo_slot(&mut self, id: SlotId, outcome: Outcome, context: &mut Context<'_>) {
        let Some(slot) = self.slot(id) else { return };
        let uncertain = slot.uncertain;
        match (std::mem::replace(&mut slot.phase, Phase::Dropped), outcome) {
            (Phase::Creating(_), Outcome::Stored(stored)) => {
                context.effects.push(Effect::Note(Note::GaveBack(stored.claim.clone())));
                self.push_job(id.0, Job::free(&stored), context);
            }
            (Phase::Creating(claim), Outcome::Exists | Outcome::Refused(_)) => {
                self.drop_create(id, claim, uncertain, context)
            }
            (Phase::Creating(claim) | Phase::Checking(claim), _) => self.drop_create(id, claim, true, context),
            (Phase::TakingOver(_), Outcome::Stored(stored)) => self.book.insert(stored, Use::Ended),
            (Phase::TakingOver(Stored { claim, .. }) | Phase::CheckingTakeOver(claim), _) => {
                self.book.set_usage(claim.address, Use::Ended);
                self.push_job(id.0, Job::settle(claim), context);
            }
            (done, _) => slot_phase(self.slot(id), done),
        }
    }
}

fn slot_phase(slot: Option<&mut Slot>, phase: Phase) {
    if let Some(slot) = slot {
        slot.phase = phase;
    }
}

/// Why a pool that was searched to the end does not serve.
fn full(pool: &Pool, reserved: &SpanSet) -> String {
    let usable = pool.addresses.difference(reserved).size();
    match (pool.addresses.size(), usable) {
        (0, _) => "it has no IP addresses".to_owned(),
        (all, 0) => format!("all its {all} IP addresses are reserved"),
        (all, usable) if all == usable => format!("all its {all} IP addresses are in use"),
        (all, usable) => format!("all its {usable} IP addresses are in use ({} more are reserved)", all - usable),
    }
}
