//! An ADD: all its addresses or none.

use std::net::IpAddr;

use super::book::{Book, Known, Use};
use super::job::Job;
use super::slot::{Phase, Slot};
use super::types::{Add, AddError, Answer, Effect, Granted, Note, Stored, Want};
use super::{Claims, Context, Kind};
use crate::family::Family;

/// An ADD under way.
#[derive(Debug)]
pub(super) struct AddState {
    pub add: Add,
    pub slots: Vec<Slot>,
    /// Claims of the pod that are answered as they are.
    kept: Vec<IpAddr>,
    /// Whether the end is decided. From then on slots in flight are only awaited, to be undone.
    pub answered: bool,
}

impl AddState {
    /// What must be done: take over the claims of this NIC that name another sandbox, and find an address for every want
    /// that the pod has no claim for yet.
    ///
    /// There can be two claims for one use only when a create of a former process landed late. The other sandboxes of the pod
    /// are over when a new one is made, so those of their claims that are surplus are returned, to be given back.
    pub fn new(add: Add, book: &Book) -> (Self, Vec<Stored>) {
        let (mut slots, mut surplus, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut covered: Vec<(&str, Family)> = Vec::new();
        for known in preferred(book.of_pod(&add.pod.uid), &add.container) {
            let Some(holder) = known.stored.claim.pod() else { continue };
            // An imported claim that no NIC is known of is for the NIC that first comes for it.
            let interface = if is_for_any(&add, &known.stored) { &add.interface } else { &holder.interface };
            let use_of = (interface.as_str(), Family::of(known.stored.claim.address));
            let foreign = holder.container.as_deref() != Some(add.container.as_str());
            let of_nic = *interface == add.interface;
            match (covered.contains(&use_of), of_nic && foreign) {
                (true, true) => surplus.push(known.stored.clone()),
                (true, false) => {}
                (false, true) => {
                    let want = add.wants.iter().find(|want| (want.interface.as_str(), want.family) == use_of);
                    let nothing = || Want {
                        interface: add.interface.clone(),
                        family: use_of.1,
                        pools: Vec::new(),
                        rejected: Vec::new(),
                    };
                    let want = want.cloned().unwrap_or_else(nothing);
                    slots.push(Slot::take_over(want, &known.stored, &add.container, &add.interface));
                    covered.push(use_of);
                }
                (false, false) => {
                    kept.push(known.stored.claim.address);
                    covered.push(use_of);
                }
            }
        }
        let missing = add.wants.iter().filter(|want| !covered.contains(&(want.interface.as_str(), want.family)));
        slots.extend(missing.cloned().map(Slot::seek));
        (Self { add, slots, kept, answered: false }, surplus)
    }

    /// Whether the end is decided and no call of a slot is in flight.
    pub fn is_over(&self) -> bool {
        self.answered && self.slots.iter().all(|slot| matches!(slot.phase, Phase::Done { .. } | Phase::Dropped))
    }
}

/// Whether a claim without NIC may serve the NIC of an ADD: the ADD wants an address of that pool, or no pool was selected.
fn is_for_any(add: &Add, stored: &Stored) -> bool {
    let (claim, family) = (&stored.claim, Family::of(stored.claim.address));
    let wants = |want: &Want| {
        let pools = &want.pools;
        want.interface == add.interface && want.family == family && pools.iter().any(|pool| pool.name == claim.pool)
    };
    let is_open = claim.pod().is_some_and(|pod| pod.interface.is_empty());
    is_open && (add.wants.is_empty() || add.wants.iter().any(wants))
}

/// Claims of the sandbox itself first: of two for one use they are the ones to keep.
fn preferred<'a>(mut claims: Vec<&'a Known>, container: &str) -> Vec<&'a Known> {
    claims.sort_by_key(|known| known.stored.claim.pod().is_none_or(|pod| pod.container.as_deref() != Some(container)));
    claims
}

impl Claims {
    /// Answers an ADD whose slots are all done.
    pub(super) fn progress_add(&mut self, id: u64, context: &mut Context<'_>) {
        let Some(work) = self.work.get_mut(&id) else { return };
        let Kind::Add(state) = &mut work.kind else { return };
        if state.answered || !state.slots.iter().all(|slot| matches!(slot.phase, Phase::Done { .. })) {
            return;
        }
        let done = |address, fresh| state.slots.iter().any(|slot| slot.phase == Phase::Done { address, fresh });
        let mut granted = Vec::new();
        let mut of_nic = Vec::new();
        for known in self.book.of_pod(&work.uid) {
            let address = known.stored.claim.address;
            if !(done(address, true) || done(address, false) || state.kept.contains(&address)) {
                continue;
            }
            if known.stored.claim.pod().is_some_and(|pod| pod.interface == state.add.interface) {
                of_nic.push(address);
            }
            granted.push(Granted { stored: known.stored.clone(), fresh: done(address, true) });
        }
        if of_nic.is_empty() {
            let (pod, interface) = (state.add.pod.clone(), state.add.interface.clone());
            let error = AddError::Nothing { namespace: pod.namespace, name: pod.name, uid: pod.uid, interface };
            return self.fail_add(id, error, context);
        }
        state.answered = true;
        if let Some(ticket) = work.ticket.take() {
            context.effects.push(Effect::Answer(ticket, Answer::Added(Ok(granted))));
        }
        for address in of_nic {
            self.book.set_usage(address, Use::Open);
        }
    }

    /// Ends an ADD without success: answers, gives back what is claimed, and lets what is in flight come to an end.
    pub(super) fn fail_add(&mut self, id: u64, error: AddError, context: &mut Context<'_>) {
        let Some(work) = self.work.get_mut(&id) else { return };
        let Kind::Add(state) = &mut work.kind else { return };
        if state.answered {
            return;
        }
        state.answered = true;
        if let Some(ticket) = work.ticket.take() {
            context.effects.push(Effect::Answer(ticket, Answer::Added(Err(error))));
        }
        let mut give_back = Vec::new();
        for slot in &mut state.slots {
            match slot.phase {
                Phase::Done { address, fresh: true } => {
                    give_back.extend(self.book.get(address).map(|known| known.stored.clone()));
                    slot.phase = Phase::Dropped;
                }
                Phase::Done { address, fresh: false } => self.book.set_usage(address, Use::Ended),
                Phase::Listing | Phase::Seeking => slot.phase = Phase::Dropped,
                _ => {}
            }
        }
        for stored in give_back {
            context.effects.push(Effect::Note(Note::GaveBack(stored.claim.clone())));
            self.push_job(id, Job::free(&stored), context);
        }
        self.progress(id, context);
    }

    /// Adds a job to a piece of work and starts it.
    pub(super) fn push_job(&mut self, id: u64, job: Job, context: &mut Context<'_>) {
        let Some(work) = self.work.get_mut(&id) else { return };
        work.jobs.push(job);
        let index = work.jobs.len() - 1;
        self.run_job(id, index, context);
    }
}
