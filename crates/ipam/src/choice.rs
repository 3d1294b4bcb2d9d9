//! Which address to try next.
//!
//! Not the lowest free one: each node starts at its own place in the pool, goes on from its last choice and
//! wraps, so nodes do not race for the same address and a freed address rests longest.

use std::net::IpAddr;

use crate::range::{SpanSet, to_number};

/// Where a node starts in a pool: a stable hash of both names, spread over the pool's addresses.
pub fn start(node: &str, pool: &str, addresses: &SpanSet) -> Option<IpAddr> {
    let size = addresses.size();
    let hash = u128::from(stable_hash(&[node, pool]));
    // Pools of more than 2^64 addresses are spread by the high bits, so that nodes lie far apart in them as well.
    let index = if size > u128::from(u64::MAX) { hash * (size >> 64) } else { hash % size.max(1) };
    addresses.nth(index)
}

/// FNV-1a with a final mix; the value must never change, or a node's neighbours would all move.
fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The first address at or after `from`, wrapping, that is in `addresses` and in none of `blocked`.
///
/// Walks from blocked run to blocked run by binary search; nothing is enumerated or copied.
pub fn next_free(addresses: &SpanSet, from: IpAddr, blocked: &[&SpanSet]) -> Option<IpAddr> {
    let lowest = addresses.nth(0)?;
    free_from(addresses, from, blocked).or_else(|| free_from(addresses, lowest, blocked))
}

fn free_from(addresses: &SpanSet, from: IpAddr, blocked: &[&SpanSet]) -> Option<IpAddr> {
    let mut candidate = addresses.at_or_after(from)?;
    loop {
        match blocked.iter().find_map(|set| set.end_of_run(candidate)) {
            None => return Some(candidate),
            Some(end) => candidate = addresses.at_or_after(after(end)?)?,
        }
    }
}

/// The address after `address`; none after the last of its family.
pub fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(_) => to_number(address).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

/// A random address of `free`, each as likely as the others: the jump that fills a pool to its last address when
/// several nodes contend for the rest. `random` is any number.
pub fn jump(free: &SpanSet, random: u64) -> Option<IpAddr> {
    let size = free.size();
    let wide = u128::from(random);
    let index = if size > u128::from(u64::MAX) { wide * (size >> 64) } else { (wide * size) >> 64 };
    free.nth(index)
}
