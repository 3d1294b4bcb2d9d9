//! DEL: the use by one sandbox ends.

use super::book::{Known, Use};
use super::job::{End, Job};
use super::types::{AddError, Answer, Effect, PodFate, PodHolder, Release, ReleaseError, Released, Stored, Ticket};
use super::{Claims, Context, Kind, Pending, Task};

/// Whether a release is about the sandbox and the NIC of a holder.
fn names(release: &Release, holder: &PodHolder) -> bool {
    let container = holder.container.as_ref().is_none_or(|container| *container == release.container);
    let interface = release.interface.as_ref();
    container && interface.is_none_or(|interface| *interface == holder.interface || holder.interface.is_empty())
}

impl Claims {
    /// A DEL. The pod is found by its UID, or by the sandbox. An ADD of the same sandbox and NIC that still runs is over:
    /// the runtime has given it up.
    pub(super) fn release(&mut self, ticket: Ticket, release: Release, context: &mut Context<'_>) {
        let of_request = release.pod_uid.clone().filter(|uid| !uid.is_empty());
        let found = || self.book.pod_of_container(&release.container).map(str::to_owned);
        let Some(uid) = of_request.or_else(found).or_else(|| self.pod_of_running_add(&release.container)) else {
            return context.effects.push(Effect::Answer(ticket, Answer::Released(Ok(Released::default()))));
        };
        self.supersede(&uid, &release, context);
        self.enqueue(uid, Pending { ticket: Some(ticket), task: Task::Release(release) }, context);
    }

    fn pod_of_running_add(&self, container: &str) -> Option<String> {
        let of_container = |kind: &Kind| matches!(kind, Kind::Add(state) if state.add.container == container);
        self.work.values().find(|work| of_container(&work.kind)).map(|work| work.uid.clone())
    }

    /// Ends the ADDs that a release makes pointless.
    fn supersede(&mut self, uid: &str, release: &Release, context: &mut Context<'_>) {
        let same = |add: &super::Add| {
            let nic = release.interface.as_ref().is_none_or(|interface| *interface == add.interface);
            add.container == release.container && nic
        };
        if let Some(queue) = self.queues.get_mut(uid) {
            queue.retain(|pending| {
                let Task::Add(add) = &pending.task else { return true };
                if let Some(ticket) = pending.ticket.filter(|_| same(add)) {
                    context.effects.push(Effect::Answer(ticket, Answer::Added(Err(AddError::Cancelled))));
                }
                !same(add)
            });
        }
        let Some(id) = self.active.get(uid).copied() else { return };
        if self.work.get(&id).is_some_and(|work| matches!(&work.kind, Kind::Add(state) if same(&state.add))) {
            self.fail_add(id, AddError::Cancelled, context);
        }
    }

    /// What a release does to the claims of a pod.
    ///
    /// While the pod lives its claims stay and are marked as unused. Once it is gone those that this sandbox used on this
    /// NIC are freed, and those that nobody uses. A release by any other sandbox changes nothing.
    pub(super) fn releases(&mut self, uid: &str, release: &Release) -> (Released, Vec<Job>) {
        if release.fate == PodFate::Gone {
            self.book.set_gone(uid);
        }
        let (mut freed, mut kept) = (Vec::new(), Vec::new());
        for known in self.book.of_pod(uid) {
            let Some(holder) = known.stored.claim.pod() else { continue };
            let named = names(release, holder);
            match release.fate {
                PodFate::Alive if named => kept.push(known.stored.clone()),
                PodFate::Rejected if named => freed.push(known.stored.clone()),
                PodFate::Gone if named || known.usage != Use::Open => freed.push(known.stored.clone()),
                PodFate::Alive | PodFate::Rejected | PodFate::Gone => {}
            }
        }
        for stored in &kept {
            self.book.set_usage(stored.claim.address, Use::Ended);
        }
        let kept = kept.into_iter().map(|stored| stored.claim).collect();
        (Released { freed: Vec::new(), kept }, jobs(&freed))
    }

    /// Claims to be freed of a pod that is gone. The others stay until their interfaces are gone, but are not made again if somebody
    /// else frees them before.
    pub(super) fn releases_of_gone(&mut self, uid: &str, interfaces_gone: bool) -> Vec<Job> {
        self.book.set_gone(uid);
        let over = |known: &&Known| interfaces_gone || known.usage != Use::Open;
        let stored: Vec<Stored> =
            self.book.of_pod(uid).into_iter().filter(over).map(|known| known.stored.clone()).collect();
        jobs(&stored)
    }

    /// Answers a release whose jobs are finished, or are not getting on.
    pub(super) fn progress_release(&mut self, id: u64, context: &mut Context<'_>) {
        let Some(work) = self.work.get_mut(&id) else { return };
        let Kind::Release(released) = &mut work.kind else { return };
        let answer = if let Some(late) = work.jobs.iter().find(|job| !job.is_finished() && job.is_late()) {
            Err(ReleaseError::Unconfirmed { address: late.claim.address, reason: late.last_failure.clone() })
        } else if work.jobs.iter().all(Job::is_finished) {
            let gone = work.jobs.iter().filter(|job| job.end == Some(End::Gone));
            released.freed = gone.map(|job| job.claim.clone()).collect();
            Ok(std::mem::take(released))
        } else {
            return;
        };
        if let Some(ticket) = work.ticket.take() {
            context.effects.push(Effect::Answer(ticket, Answer::Released(answer)));
        }
    }
}

fn jobs(stored: &[Stored]) -> Vec<Job> {
    stored.iter().map(Job::free).collect()
}
