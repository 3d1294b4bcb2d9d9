//! When a pool may be written. Pure: time is an argument.
//!
//! A pool waits a second after its last write, so that a burst of pods costs one write. Every write of a pool that all
//! agents watch is delivered to all of them: deliveries are bounded for all pools together, and a big object counts as many.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// Between two writes of one pool.
const APART: Duration = Duration::from_secs(1);
/// A change waits this long for others to join it.
const JOIN: Duration = Duration::from_millis(100);
/// Deliveries of written pools to agents, per second, all pools together.
const DELIVERIES: f64 = 1000.0;
/// What one delivery may weigh; a bigger one counts as several.
const BYTES: usize = 16 * 1024;
/// The longest pause after failures.
const LONGEST: Duration = Duration::from_secs(30);

/// Which pools are to be written, and when.
#[derive(Debug)]
pub struct Pace {
    due: HashMap<Arc<str>, Instant>,
    queue: BinaryHeap<Entry>,
    written: HashMap<Arc<str>, Instant>,
    failures: HashMap<Arc<str>, u32>,
    /// Deliveries that may be made now; negative while earlier ones are being paid off.
    credit: f64,
    counted: Instant,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    due: Instant,
    pool: Arc<str>,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.due.cmp(&self.due).then_with(|| other.pool.cmp(&self.pool)) // the earliest is the greatest
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Pace {
    /// Nothing to do yet.
    pub fn new(now: Instant) -> Self {
        Self {
            due: HashMap::new(),
            queue: BinaryHeap::new(),
            written: HashMap::new(),
            failures: HashMap::new(),
            credit: DELIVERIES,
            counted: now,
        }
    }

    /// The pool has changed.
    pub fn changed(&mut self, pool: &Arc<str>, now: Instant) {
        let rest = self.written.get(pool).map_or(now, |written| *written + APART);
        if !self.failures.contains_key(pool) {
            self.schedule(pool, rest.max(now + JOIN));
        }
    }

    /// The pool was written.
    pub fn succeeded(&mut self, pool: &Arc<str>) {
        self.failures.remove(pool);
    }

    /// The pool could not be written: it waits longer each time.
    pub fn failed(&mut self, pool: &Arc<str>, now: Instant) {
        let failures = self.failures.entry(Arc::clone(pool)).or_default();
        let pause = APART * 2u32.saturating_pow(*failures);
        *failures = failures.saturating_add(1);
        self.schedule(pool, now + pause.min(LONGEST));
    }

    /// The pool is no more.
    pub fn forget(&mut self, pool: &str) {
        self.due.remove(pool);
        self.written.remove(pool);
        self.failures.remove(pool);
    }

    fn schedule(&mut self, pool: &Arc<str>, due: Instant) {
        if self.due.get(pool).is_none_or(|earlier| due < *earlier) {
            self.due.insert(Arc::clone(pool), due);
            self.queue.push(Entry { due, pool: Arc::clone(pool) });
        }
    }

    /// When [`Self::next`] will have something.
    pub fn wake(&mut self) -> Option<Instant> {
        self.drop_stale();
        let due = self.queue.peek()?.due;
        let paid = self.counted + Duration::from_secs_f64((-self.credit).max(0.0) / DELIVERIES);
        Some(due.max(paid))
    }

    /// A pool to be written now.
    pub fn next(&mut self, now: Instant) -> Option<Arc<str>> {
        self.credit = (self.credit + (now - self.counted).as_secs_f64() * DELIVERIES).min(DELIVERIES);
        self.counted = now;
        self.drop_stale();
        if self.credit < 0.0 || self.queue.peek()?.due > now {
            return None;
        }
        let pool = self.queue.pop()?.pool;
        self.due.remove(&pool);
        self.written.insert(Arc::clone(&pool), now);
        Some(pool)
    }

    /// Writes of an object of this size are delivered so often.
    pub fn delivered(&mut self, deliveries: usize, bytes: usize) {
        #[allow(clippy::cast_precision_loss)] // a number of nodes, and a size in pieces
        let cost = deliveries.max(1) as f64 * (bytes / BYTES).max(1) as f64;
        self.credit -= cost;
    }

    fn drop_stale(&mut self) {
        while self.queue.peek().is_some_and(|entry| self.due.get(&entry.pool) != Some(&entry.due)) {
            self.queue.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn a_burst_is_one_write_and_the_next_waits_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for millis in [0, 20, 50] {
            pace.changed(&pool("p"), start + Duration::from_millis(millis));
        }
        assert_eq!(pace.next(start + Duration::from_millis(99)), None);
        let first = start + JOIN;
        assert_eq!((pace.wake(), pace.next(first), pace.next(first)), (Some(first), Some(pool("p")), None));
        pace.changed(&pool("p"), first);
        assert_eq!(pace.wake(), Some(first + APART));
        assert_eq!((pace.next(first + APART), pace.wake()), (Some(pool("p")), None));
    }

    #[test]
    fn shared_pools_of_a_big_cluster_are_written_slower() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let names: Vec<_> = (0..4).map(|index| pool(&format!("p{index}"))).collect();
        names.iter().for_each(|name| pace.changed(name, start));
        let mut writes = Vec::new();
        while let Some(wake) = pace.wake() {
            assert!(pace.next(wake).is_some(), "awake for nothing after {writes:?}");
            pace.delivered(5000, 900);
            writes.push((wake - start).as_secs());
        }
        assert_eq!(writes, [0, 4, 9, 14]);
    }

    #[test]
    fn big_pools_are_written_slower_than_small_ones() {
        let start = Instant::now();
        let second_write = |bytes| {
            let mut pace = Pace::new(start);
            for name in ["a", "b"] {
                pace.changed(&pool(name), start);
            }
            let first = pace.wake().unwrap();
            pace.next(first).unwrap();
            pace.delivered(1000, bytes);
            (pace.wake().unwrap() - first).as_secs()
        };
        assert_eq!([900, BYTES, 2 * BYTES - 1].map(second_write), [0, 0, 0], "the credit of a second");
        assert_eq!([2 * BYTES, 3 * BYTES, 33 * BYTES].map(second_write), [1, 2, 32]);
    }

    #[test]
    fn failures_wait_longer_each_time_and_a_change_does_not_hurry_them() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.changed(&pool("p"), start);
        let mut now = start + JOIN;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(pace.next(now), Some(pool("p")), "after {now:?}");
            pace.failed(&pool("p"), now);
            pace.changed(&pool("p"), now);
            assert_eq!(pace.wake(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        assert_eq!(pace.next(now), Some(pool("p")));
        pace.succeeded(&pool("p"));
        pace.changed(&pool("p"), now);
        assert_eq!(pace.wake(), Some(now + APART));
    }

    #[test]
    fn a_forgotten_pool_is_not_written() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.changed(&pool("p"), start);
        pace.forget("p");
        assert_eq!((pace.wake(), pace.next(start + APART)), (None, None));
    }
}
