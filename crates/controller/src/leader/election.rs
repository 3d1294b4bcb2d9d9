//! Who leads: the rules of the Lease. Pure: what was read and written, and the time, are arguments.
//!
//! A standby reads the Lease every retry period. It takes one that is free, or whose record has not changed for the
//! duration that the record itself names, measured from when this process first saw it. A leader renews every retry period; its term
//! lasts until the renew deadline after the *start* of the last renewal that succeeded, so it ends before anybody who
//! saw that renewal may take the lease. A record that this process did not write is somebody else's, even under its name.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::clock::Moment;

/// The times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Others wait so long after the last renewal they saw.
    pub duration: Duration,
    /// A leader that could not renew for so long stops.
    pub renew_deadline: Duration,
    /// Between two looks or renewals.
    pub retry_period: Duration,
    /// After a loss, before competing again.
    pub retry_gap: Duration,
}

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// `holderIdentity`; none when free.
    pub holder: Option<String>,
    /// `leaseDurationSeconds`.
    pub duration: Option<Duration>,
    /// `acquireTime`.
    pub acquired: Option<Timestamp>,
    /// `renewTime`.
    pub renewed: Option<Timestamp>,
    /// `leaseTransitions`.
    pub transitions: i32,
}

/// A stored Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Which object in which version.
    pub version: Version,
    /// What it says.
    pub record: Record,
}

/// The object and version that a write is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until then.
    Wait(Moment),
    /// Read the Lease and tell [`Election::read`].
    Read,
    /// Write this record over that version (create it if there is none) and tell [`Election::written`].
    Write(Option<Version>, Record),
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This is stored now.
    Stored(Stored),
    /// The object is not what it was: nothing was written.
    Conflict,
    /// It may have been written or not.
    Unknown,
}

/// The state of one candidate.
#[derive(Debug)]
pub struct Election {
    me: String,
    timing: Timing,
    /// What was read or written last, and since when it says the same.
    known: Option<(Stored, Moment)>,
    /// Writes of unknown outcome, and when they were begun: they are ours if they show up.
    attempts: Vec<(Record, Moment)>,
    /// The end of the term.
    until: Option<Moment>,
    /// Whether the Lease must be read before anything is decided.
    stale: bool,
    /// No request before.
    wake: Moment,
}

impl Election {
    /// A candidate that knows nothing yet.
    pub fn new(me: &str, timing: Timing) -> Self {
        let wake = Moment::ZERO;
        Self { me: me.to_owned(), timing, known: None, attempts: Vec::new(), until: None, stale: true, wake }
    }

    /// The end of the term, as far as it is known; `None` for a standby.
    pub fn leads_until(&self) -> Option<Moment> {
        self.until
    }

    /// Who holds the Lease, as far as it is known.
    pub fn holder(&self) -> Option<&str> {
        self.known.as_ref()?.0.record.holder.as_deref()
    }

    /// The next step; `wall` is what is written as the time, for people.
    pub fn next(&mut self, now: Moment, wall: Timestamp) -> Step {
        if self.until.is_some_and(|until| now >= until) {
            self.lose(now);
        }
        if now < self.wake {
            return Step::Wait(self.until.map_or(self.wake, |until| until.min(self.wake)));
        }
        if self.stale {
            return Step::Read;
        }
        let Some(free_at) = self.free_at() else { return self.write(now, wall) };
        if self.until.is_some() || now >= free_at {
            return self.write(now, wall);
        }
        self.stale = true;
        self.wake = free_at.min(now + self.timing.retry_period);
        Step::Wait(self.wake)
    }

    /// The Lease was read; the answer came at `now`.
    pub fn read(&mut self, stored: Option<Stored>, now: Moment) {
        self.stale = false;
        let Some(stored) = stored else {
            self.known = None;
            if self.until.is_some() {
                self.lose(now);
            }
            return;
        };
        if let Some((_, begun)) = self.attempts.iter().find(|(record, _)| *record == stored.record) {
            let begun = *begun;
            return self.holds(stored, begun, now);
        }
        match &mut self.known {
            // Somebody labelled it, say.
            Some((known, _)) if known.record == stored.record => *known = stored,
            _ => {
                if self.until.is_some() {
                    self.lose(now);
                }
                self.known = Some((stored, now));
            }
        }
    }

    /// The Lease could not be read.
    pub fn unread(&mut self, now: Moment) {
        self.stale = true;
        self.wake = now + self.timing.retry_period;
    }

    /// A write ended.
    pub fn written(&mut self, outcome: Outcome, now: Moment) {
        match outcome {
            Outcome::Stored(stored) => {
                let begun = self.attempts.last().map_or(now, |(_, begun)| *begun);
                self.holds(stored, begun, now);
            }
            Outcome::Conflict => {
                self.stale = true;
                self.wake = now;
            }
            Outcome::Unknown => {
                self.stale = true;
                self.wake = now + self.timing.retry_period;
            }
        }
    }

    /// What gives the Lease back.
    pub fn release(&self, wall: Timestamp) -> Option<(Version, Record)> {
        let (stored, _) = self.known.as_ref().filter(|_| self.until.is_some())?;
        let record = Record {
            holder: None,
            duration: Some(Duration::from_secs(1)),
            renewed: Some(wall),
            ..stored.record.clone()
        };
        Some((stored.version.clone(), record))
    }

    fn holds(&mut self, stored: Stored, begun: Moment, now: Moment) {
        self.attempts.clear();
        self.stale = false;
        self.known = Some((stored, now));
        self.until = Some(begun + self.timing.renew_deadline);
        self.wake = begun + self.timing.retry_period;
    }

    fn lose(&mut self, now: Moment) {
        self.until = None;
        self.attempts.clear();
        self.stale = true;
        self.wake = now + self.timing.retry_gap;
    }

    /// When somebody's Lease can be taken; `None` if it is nobody's.
    fn free_at(&self) -> Option<Moment> {
        let (stored, since) = self.known.as_ref()?;
        stored.record.holder.as_deref().filter(|holder| !holder.is_empty())?;
        Some(*since + stored.record.duration.unwrap_or(self.timing.duration).max(self.timing.duration))
    }

    fn write(&mut self, now: Moment, wall: Timestamp) -> Step {
        let known = self.known.as_ref().map(|(stored, _)| stored);
        let renewal = self.until.is_some();
        let (acquired, transitions) = match known {
            Some(stored) if renewal => (stored.record.acquired, stored.record.transitions),
            Some(stored) => (Some(wall), stored.record.transitions.saturating_add(1)),
            None => (Some(wall), 0),
        };
        let duration = Some(whole_seconds(self.timing.duration));
        let record = Record { holder: Some(self.me.clone()), duration, acquired, renewed: Some(wall), transitions };
        self.attempts.push((record.clone(), now));
        Step::Write(known.map(|stored| stored.version.clone()), record)
    }
}

/// A Lease counts in whole seconds; others may wait longer, not shorter.
fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests;
