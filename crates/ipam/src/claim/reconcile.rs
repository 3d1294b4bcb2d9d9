//! Comparing the books with what the API server has.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::book::Use;
use super::job::{Job, same_use};
use super::types::{Call, Effect, Note, Outcome, Stored};
use super::{Claims, Context, Pending, Target, Task, backoff};
use crate::family::Family;

/// Reconciliations after which a create that was given up is no longer expected to land.
const DOUBT_ENDS_AFTER: u32 = 10;
/// A list that failed is asked for again this many times later than another call would be: it is dear, and nobody waits for it.
const PATIENCE: u32 = 10;

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Reconciling {
    /// Addresses that calls were about since the list began: the list may be older than they.
    pub touched: HashSet<IpAddr>,
    failures: u32,
    /// Whether another one was asked for since the list began: it may be older than the reason.
    again: bool,
}

impl Claims {
    /// Nobody repeats the request for a comparison: it lasts until one that began later has come to its end.
    pub(super) fn reconcile(&mut self, context: &mut Context<'_>) {
        match &mut self.reconciling {
            Some(reconciling) => reconciling.again = true,
            None => self.list_node(0, context),
        }
    }

    fn list_node(&mut self, failures: u32, context: &mut Context<'_>) {
        let touched = self.ops.values().filter_map(|(_, address)| *address).collect();
        self.reconciling = Some(Reconciling { touched, failures, again: false });
        let after = backoff(failures, context.random) * PATIENCE;
        self.call(Target::Node, Call::ListNode, after, context);
    }

    pub(super) fn node_reply(&mut self, outcome: Outcome, context: &mut Context<'_>) {
        let Some(Reconciling { touched, failures, again }) = self.reconciling.take() else { return };
        let Outcome::Claims(listed) = outcome else { return self.list_node(failures.saturating_add(1), context) };
        let listed: HashMap<IpAddr, Stored> = listed.into_iter().map(|stored| (stored.claim.address, stored)).collect();
        let missing: Vec<Stored> =
            self.all().filter(|known| !listed.contains_key(&known.claim.address)).cloned().collect();
        for stored in listed.into_values().filter(|stored| !touched.contains(&stored.claim.address)) {
            self.compare(stored, context);
        }
        for stored in missing.into_iter().filter(|stored| !touched.contains(&stored.claim.address)) {
            match stored.claim.pod().map(|pod| pod.uid.clone()) {
                Some(uid) => self.jobs_of_pod(uid, Job::settle(stored.claim), context),
                None => drop(self.forget(stored.claim.address, context)),
            }
        }
        self.doubtful.retain(|_, (_, seen)| {
            *seen += 1;
            *seen < DOUBT_ENDS_AFTER
        });
        if again {
            self.list_node(0, context);
        }
    }

    /// A claim that the API server has.
    fn compare(&mut self, stored: Stored, context: &mut Context<'_>) {
        let address = stored.claim.address;
        match self.book.get(address) {
            Some(known) if known.stored == stored => {}
            Some(known) if known.stored.claim.pod().map(|pod| &pod.uid) == stored.claim.pod().map(|pod| &pod.uid) => {
                self.book.refresh(stored);
            }
            Some(_) => {
                context.effects.push(Effect::Note(Note::Foreign(stored.claim.clone())));
                self.forget(address, context);
                self.book.insert(stored, Use::Open);
            }
            None => self.unknown(stored, context),
        }
    }

    /// A claim of this node that appeared after the books were opened, and that no request made: a create that landed after
    /// it was given up, here or by a former process, and nobody was told of it; or, without container, one that was imported for a pod
    /// that runs. It is kept for the pod's next ADD, unless the pod has an address for that use already.
    fn unknown(&mut self, stored: Stored, context: &mut Context<'_>) {
        let given_up =
            self.doubtful.get(&stored.claim.address).is_some_and(|(claim, _)| same_use(claim, &stored.claim));
        let surplus = stored.claim.pod().filter(|pod| {
            let same = |known: &&Stored| {
                let address = (Family::of(known.claim.address), known.claim.pod().map(|pod| &pod.interface));
                address == (Family::of(stored.claim.address), Some(&pod.interface))
            };
            given_up || self.of_pod(&pod.uid).iter().any(same)
        });
        match surplus.map(|pod| pod.uid.clone()) {
            Some(uid) => {
                context.effects.push(Effect::Note(Note::GaveBack(stored.claim.clone())));
                self.jobs_of_pod(uid, Job::free(&stored), context);
            }
            None => {
                context.effects.push(Effect::Note(Note::Adopted(stored.claim.clone())));
                let imported = stored.claim.pod().is_some_and(|pod| pod.container.is_none());
                self.book.insert(stored, if imported { Use::Open } else { Use::Ended });
            }
        }
    }

    fn jobs_of_pod(&mut self, uid: String, job: Job, context: &mut Context<'_>) {
        self.enqueue(uid, Pending { ticket: None, task: Task::Jobs(vec![job]) }, context);
    }
}
