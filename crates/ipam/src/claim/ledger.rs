//! What this node knows about the use of a pool by everybody.

use std::collections::HashSet;
use std::net::IpAddr;

use super::types::Op;
use crate::choice;
use crate::pool::Pool;
use crate::range::SpanSet;

/// Which slot of which piece of work.
pub(super) type SlotId = (u64, usize);

/// The next step of a search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// Try this address.
    Try(IpAddr),
    /// Ask what is used: from the cache, or exactly.
    List { fresh: bool },
}

/// A list under way.
#[derive(Debug)]
pub(super) struct Listing {
    pub fresh: bool,
    pub failures: u32,
    /// What was refused before it started: a fresh answer makes that obsolete.
    stale: SpanSet,
    /// Addresses that calls were about since it began: the list may be older than they.
    pub touched: HashSet<IpAddr>,
}

/// Knowledge about one pool. All of it may be out of date: the claim itself decides.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Where the next search starts.
    cursor: Option<IpAddr>,
    /// Names that were taken.
    refused: SpanSet,
    /// What the last list said.
    used: Option<SpanSet>,
    pub listing: Option<Listing>,
    pub waiters: Vec<SlotId>,
    /// The last consistent list.
    pub exact: Option<Op>,
    /// Addresses of our books that it did not show: until it is known what became of them the pool is not used up.
    pub suspects: HashSet<IpAddr>,
}

impl Ledger {
    /// Refused names in a row after which the pool is listed. A big pool stands more of them, as its list is dear.
    fn patience(pool: &Pool) -> u32 {
        if pool.addresses.size() > 4096 { 16 } else { 4 }
    }

    /// Chooses the next address. Without a list: on from the last choice, by what the pool's status shows as used, and
    /// at a random place once a name was refused. With one: any free address, each as likely as the others.
    pub fn pick(
        &mut self,
        node: &str,
        pool: &Pool,
        (reserved, busy): (&SpanSet, &SpanSet),
        refusals: u32,
        random: u64,
    ) -> Pick {
        let found = match &self.used {
            Some(used) => {
                let free = pool.addresses.difference(used).difference(&self.refused);
                choice::jump(&free.difference(reserved).difference(busy), random)
            }
            None if refusals >= Self::patience(pool) => None,
            None => {
                let place = if refusals > 0 { choice::jump(&pool.addresses, random) } else { self.cursor };
                let from = place.or_else(|| choice::start(node, &pool.name, &pool.addresses));
                let blocked = [&pool.used_hint, &self.refused, reserved, busy];
                from.and_then(|from| choice::next_free(&pool.addresses, from, &blocked))
            }
        };
        match found {
            Some(address) => {
                self.cursor = choice::after(address);
                Pick::Try(address)
            }
            None => Pick::List { fresh: self.used.is_some() },
        }
    }

    /// A name that is taken.
    pub fn refuse(&mut self, address: IpAddr) {
        self.refused.insert(address);
    }

    /// An address of ours that is free again.
    pub fn free(&mut self, address: IpAddr) {
        self.refused.remove(address);
        if let Some(used) = &mut self.used {
            used.remove(address);
        }
    }

    pub fn list_started(&mut self, fresh: bool, failures: u32, touched: HashSet<IpAddr>) {
        self.listing = Some(Listing { fresh, failures, stale: self.refused.clone(), touched });
    }

    /// Takes a list in. Of a fresh one: which addresses of ours, that no call was about since it began, it does not show.
    pub fn listed(&mut self, used: SpanSet, op: Op, ours: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let Some(listing) = self.listing.take() else { return Vec::new() };
        let missing = if listing.fresh {
            self.refused = self.refused.difference(&listing.stale);
            self.exact = Some(op);
            ours.filter(|address| !used.contains(*address) && !listing.touched.contains(address)).collect()
        } else {
            Vec::new()
        };
        self.used = Some(used);
        missing
    }
}
