//! Comparing the books with what the API server has.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::book::Use;
use super::job::{Job, same_use};
use super::types::{Call, Effect, Note, Outcome, Stored};
use super::{Claims, Context, Pending, Target, Task};
use crate::family::Family;

/// Reconciliations after which a create that was given up is no longer expected to land.
const DOUBT_ENDS_AFTER: u32 = 10;

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Reconciling {
    /// Addresses that calls were about since the list began: the list may be older than they.
    pub touched: HashSet<IpAddr>,
}

impl Claims {
    pub(super) fn reconcile(&mut self, context: &mut Context<'_>) {
        if self.reconciling.is_some() {
            return;
        }
        let touched = self.ops.values().filter_map(|(_, address)| *address).collect();
        self.reconciling = Some(Reconciling { touched });
        self.call(Target::Node, Call::ListNode, std::time::Duration::ZERO, context);
    }

    pub(super) fn node_reply(&mut self, outcome: Outcome, context: &mut Context<'_>) {
        let Some(Reconciling { touched }) = self.reconciling.take() else { return };
        // Any other outcome: the next reconciliation tries again.
        let Outcome::Claims(listed) = outcome else { return };
        let listed: HashMap<IpAddr, Stored> = listed.into_iter().map(|stored| (stored.claim.address, stored)).collect();
        let missing: Vec<Stored> =
            self.all().filter(|known| !listed.contains_key(&known.claim.address)).cloned().collect();
        for stored in listed.into_values().filter(|stored| !touched.contains(&stored.claim.address)) {
            self.compare(stored, context);
        }
        for stored in missing.into_iter().filter(|stored| !touched.contains(&stored.claim.address)) {
            match stored.claim.pod().map(|pod| pod.uid.clone()) {
                Some(uid) => self.jobs_of_pod(uid, Job::settle(stored.claim), context),
                None => drop(self.book.remove(stored.claim.address)),
            }
        }
        self.doubtful.retain(|_, (_, seen)| {
            *seen += 1;
            *seen < DOUBT_ENDS_AFTER
        });
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
