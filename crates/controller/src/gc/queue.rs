//! When to look at what: each subject at most once at a time, the earliest wish counts, failures put it off. No clock.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// Wait after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait between quick tries.
const LONGEST: Duration = Duration::from_secs(60);

/// What is looked at in one go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// All that is held under a pod's name: its claims and its endpoint.
    Pod(Arc<str>),
    /// A claim that a node holds.
    Held(Arc<str>),
}

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do until something changes, or the next scan.
    Done,
    /// To be looked at again.
    Again(Duration),
    /// Something could not be read or written.
    Failed,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    due: BTreeSet<(Instant, Subject)>,
    entries: HashMap<Subject, Entry>,
    tries: u32,
    interval: Duration,
}

#[derive(Debug, Default)]
struct Entry {
    due: Option<Instant>,
    running: bool,
    failures: u32,
}

impl Queue {
    /// An empty queue: after `tries` failures in a row one try each `interval`.
    pub fn new(tries: u32, interval: Duration) -> Self {
        Self { due: BTreeSet::new(), entries: HashMap::new(), tries, interval }
    }

    /// Looks at the subject at this time at the latest. While it fails it waits its time.
    pub fn put(&mut self, subject: Subject, at: Instant) {
        let entry = self.entries.entry(subject.clone()).or_default();
        match entry.due {
            Some(due) if due <= at || entry.failures > 0 => {}
            before => {
                entry.due = Some(at);
                if !entry.running {
                    if let Some(before) = before {
                        self.due.remove(&(before, subject.clone()));
                    }
                    self.due.insert((at, subject));
                }
            }
        }
    }

    /// How many subjects wait, or are being looked at.
    pub fn depth(&self) -> usize {
        self.entries.len()
    }

    /// When the next subject is due.
    pub fn wake(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A subject that is due. It runs until [`Queue::ended`].
    pub fn next(&mut self, now: Instant) -> Option<Subject> {
        let (at, _) = self.due.first()?;
        if *at > now {
            return None;
        }
        let (_, subject) = self.due.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&subject) {
            (entry.due, entry.running) = (None, true);
        }
        Some(subject)
    }

    /// The look at a subject has ended; a wish that came meanwhile counts too.
    pub fn ended(&mut self, subject: Subject, outcome: Outcome, now: Instant) {
        let Some(entry) = self.entries.get_mut(&subject) else { return };
        entry.running = false;
        let wanted = match outcome {
            Outcome::Done => None,
            Outcome::Again(wait) => Some(now + wait),
            Outcome::Failed => {
                entry.failures += 1;
                // Sooner would be in vain, whoever wishes it.
                entry.due = None;
                let wait = FIRST * 2u32.saturating_pow((entry.failures - 1).min(16));
                Some(now + if entry.failures > self.tries { self.interval } else { wait.min(LONGEST) })
            }
        };
        if outcome != Outcome::Failed {
            entry.failures = 0;
        }
        let due = match (entry.due, wanted) {
            (Some(wished), Some(wanted)) => Some(wished.min(wanted)),
            (wished, wanted) => wished.or(wanted),
        };
        entry.due = due;
        match due {
            Some(due) => drop(self.due.insert((due, subject))),
            None => drop(self.entries.remove(&subject)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Subject {
        Subject::Pod(name.into())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earliest_wish_counts() {
        let (mut queue, now) = (Queue::new(5, 600 * SECOND), Instant::now());
        queue.put(pod("a"), now + 9 * SECOND);
        queue.put(pod("a"), now + 3 * SECOND);
        queue.put(pod("a"), now + 5 * SECOND);
        assert_eq!((queue.next(now + 2 * SECOND), queue.wake()), (None, Some(now + 3 * SECOND)));
        assert_eq!(queue.next(now + 3 * SECOND), Some(pod("a")));
        assert_eq!(queue.wake(), None);
    }

    #[test]
    fn nothing_is_looked_at_twice_at_a_time() {
        let (mut queue, now) = (Queue::new(5, 600 * SECOND), Instant::now());
        queue.put(pod("a"), now);
        assert_eq!(queue.next(now), Some(pod("a")));
        queue.put(pod("a"), now);
        assert_eq!((queue.next(now), queue.depth()), (None, 1));
        queue.ended(pod("a"), Outcome::Again(9 * SECOND), now);
        assert_eq!(queue.next(now), Some(pod("a")), "the wish that came meanwhile");
        queue.ended(pod("a"), Outcome::Done, now);
        assert!(queue.depth() == 0 && queue.due.is_empty());
    }

    /// Mend G12: nothing is forgotten.
    #[test]
    fn failures_put_off_and_never_end() {
        let (mut queue, mut now) = (Queue::new(5, 600 * SECOND), Instant::now());
        queue.put(pod("a"), now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(queue.next(now), Some(pod("a")));
            queue.put(pod("a"), now);
            queue.ended(pod("a"), Outcome::Failed, now);
            queue.put(pod("a"), now);
            let wake = queue.wake().unwrap();
            waits.push((wake - now).as_secs());
            now = wake;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 600, 600, 600]);
        queue.next(now).unwrap();
        queue.ended(pod("a"), Outcome::Again(SECOND), now);
        queue.next(now + SECOND).unwrap();
        queue.ended(pod("a"), Outcome::Failed, now);
        assert_eq!(queue.wake(), Some(now + SECOND), "a success in between counts");
    }
}
