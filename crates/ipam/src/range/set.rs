//! Sorted sets of spans.

use std::fmt;
use std::net::IpAddr;

use crate::family::Family;
use crate::range::{Span, to_address, to_number};

/// A set of addresses, kept as sorted, disjoint runs with a gap between neighbours. Both families may be mixed;
/// IPv4 comes first.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct SpanSet {
    spans: Vec<Span>,
}

impl SpanSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { spans: Vec::new() }
    }

    /// Its runs, sorted.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whether it has no address.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Number of addresses; saturates at `u128::MAX`.
    pub fn size(&self) -> u128 {
        self.spans.iter().fold(0, |sum, span| span.size().saturating_add(sum))
    }

    /// Number of addresses as the status fields show it: capped at `i64::MAX`.
    pub fn count(&self) -> i64 {
        i64::try_from(self.size()).unwrap_or(i64::MAX)
    }

    /// The runs as text, `A` or `A-B` each.
    pub fn texts(&self) -> Vec<String> {
        self.spans.iter().map(Span::to_string).collect()
    }

    /// Whether `address` is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.run_of(Family::of(address), to_number(address)).is_some()
    }

    /// Whether every address of `other` is in the set.
    pub fn covers(&self, other: &Self) -> bool {
        other.spans.iter().all(|span| self.run_of(span.family, span.first).is_some_and(|run| run.last >= span.last))
    }

    /// Adds one address; false when it was there already.
    pub fn insert(&mut self, address: IpAddr) -> bool {
        let new = !self.contains(address);
        if new {
            self.add(Span::single(address));
        }
        new
    }

    /// Adds a run, joining what touches.
    pub fn add(&mut self, span: Span) {
        let touches_left =
            |run: &Span| run.family == span.family && run.last.checked_add(1).is_none_or(|next| next >= span.first);
        let start =
            self.spans.partition_point(|run| (run.family, run.first) < (span.family, span.first) && !touches_left(run));
        let mut joined = span;
        let mut end = start;
        while let Some(run) = self.spans.get(end) {
            let touches = run.family == span.family
                && run.first <= joined.last.saturating_add(1)
                && joined.first <= run.last.saturating_add(1);
            if !touches {
                break;
            }
            joined.first = joined.first.min(run.first);
            joined.last = joined.last.max(run.last);
            end += 1;
        }
        self.spans.splice(start..end, [joined]);
    }

    /// Takes one address out; false when it was not there.
    pub fn remove(&mut self, address: IpAddr) -> bool {
        let (family, number) = (Family::of(address), to_number(address));
        let index = self.spans.partition_point(|run| (run.family, run.last) < (family, number));
        let Some(run) = self.spans.get(index).copied().filter(|run| run.contains(address)) else {
            return false;
        };
        let left = (run.first < number).then(|| Span::of_numbers(family, run.first, number - 1));
        let right = (number < run.last).then(|| Span::of_numbers(family, number + 1, run.last));
        self.spans.splice(index..=index, left.into_iter().chain(right));
        true
    }

    /// The addresses of either set.
    pub fn union(&self, other: &Self) -> Self {
        self.spans.iter().chain(&other.spans).copied().collect()
    }

    /// The addresses of this set that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.spans.len());
        let mut cuts = other.spans.iter().copied().peekable();
        for span in &self.spans {
            let mut rest = Some(*span);
            while let (Some(piece), Some(cut)) = (rest, cuts.peek().copied()) {
                if (cut.family, cut.last) < (piece.family, piece.first) {
                    cuts.next();
                } else if !cut.overlaps(piece) {
                    break;
                } else {
                    if piece.first < cut.first {
                        left.push(Span::of_numbers(piece.family, piece.first, cut.first - 1));
                    }
                    rest = (cut.last < piece.last).then(|| Span::of_numbers(piece.family, cut.last + 1, piece.last));
                }
            }
            left.extend(rest);
        }
        Self { spans: left }
    }

    /// The addresses that both sets have.
    pub fn intersection(&self, other: &Self) -> Self {
        self.difference(&self.difference(other))
    }

    /// The address at `index`, counted from the lowest one.
    pub fn nth(&self, mut index: u128) -> Option<IpAddr> {
        for span in &self.spans {
            if index < span.size() {
                return Some(to_address(span.family, span.first + index));
            }
            index -= span.size();
        }
        None
    }

    /// The lowest address that is at or above `from` (of the family of `from`).
    pub fn at_or_after(&self, from: IpAddr) -> Option<IpAddr> {
        let (family, number) = (Family::of(from), to_number(from));
        let index = self.spans.partition_point(|run| (run.family, run.last) < (family, number));
        let run = self.spans.get(index).filter(|run| run.family == family)?;
        Some(to_address(family, run.first.max(number)))
    }

    /// The run that holds a number.
    fn run_of(&self, family: Family, number: u128) -> Option<&Span> {
        let index = self.spans.partition_point(|run| (run.family, run.last) < (family, number));
        self.spans.get(index).filter(|run| run.family == family && run.first <= number)
    }

    /// The last address of the run that holds `address`.
    pub(crate) fn end_of_run(&self, address: IpAddr) -> Option<IpAddr> {
        self.run_of(Family::of(address), to_number(address)).map(|run| run.last())
    }
}

impl FromIterator<Span> for SpanSet {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut sorted: Vec<Span> = spans.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
        for span in sorted {
            match merged.last_mut() {
                Some(run) if run.family == span.family && span.first <= run.last.saturating_add(1) => {
                    run.last = run.last.max(span.last);
                }
                _ => merged.push(span),
            }
        }
        Self { spans: merged }
    }
}

impl FromIterator<IpAddr> for SpanSet {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().map(Span::single).collect()
    }
}

impl From<Span> for SpanSet {
    fn from(span: Span) -> Self {
        Self { spans: vec![span] }
    }
}

impl fmt::Display for SpanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(","))
    }
}

impl fmt::Debug for SpanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}
