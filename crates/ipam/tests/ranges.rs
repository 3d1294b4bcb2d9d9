//! Range arithmetic against a naive set of numbers, and the text rules as tables.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipam::range::{RangeError, canonical_cidr, merge_ranges, parse_ranges};
use ipam::{Family, Span, SpanSet, address_from_name, address_name, choice};
use proptest::prelude::*;

/// A small world of addresses, so that sets touch and overlap all the time; its ends lie at the ends of the family.
fn v4(number: u8) -> IpAddr {
    let base: u32 = if number < 32 { 0 } else { u32::MAX - 63 };
    Ipv4Addr::from(base + u32::from(number % 64)).into()
}

fn v6(number: u8) -> IpAddr {
    let base: u128 = if number < 32 { 0 } else { u128::MAX - 63 };
    Ipv6Addr::from(base + u128::from(number % 64)).into()
}

fn world() -> impl Iterator<Item = IpAddr> {
    (0..64).flat_map(|number| [v4(number), v6(number)])
}

fn span() -> impl Strategy<Value = Span> {
    (0_u8..64, 0_u8..8, any::<bool>()).prop_map(|(first, length, is_v4)| {
        let last = if first < 32 { (first + length).min(31) } else { (first + length).min(63) };
        let address = if is_v4 { v4 } else { v6 };
        Span::new(address(first), address(last)).unwrap()
    })
}

fn spans() -> impl Strategy<Value = Vec<Span>> {
    prop::collection::vec(span(), 0..12)
}

/// The oracle: membership of every address of the world, by the definition of a span.
fn naive(spans: &[Span]) -> BTreeSet<IpAddr> {
    world()
        .filter(|address| {
            spans.iter().any(|span| {
                span.first() <= *address && *address <= span.last() && span.first().is_ipv4() == address.is_ipv4()
            })
        })
        .collect()
}

fn members(set: &SpanSet) -> BTreeSet<IpAddr> {
    world().filter(|address| set.contains(*address)).collect()
}

/// Sorted, disjoint, with gaps: rebuilding a set from its own runs changes nothing, and neighbours do not touch.
fn assert_canonical(set: &SpanSet) {
    let rebuilt: SpanSet = set.spans().iter().copied().collect();
    assert_eq!(&rebuilt, set);
    for pair in set.spans().windows(2) {
        assert!(choice::after(pair[0].last()).is_none_or(|next| next != pair[1].first()), "{set} has touching runs");
    }
}

proptest! {
    #[test]
    fn sets_agree_with_the_naive_ones(a in spans(), b in spans()) {
        let (set_a, set_b): (SpanSet, SpanSet) = (a.iter().copied().collect(), b.iter().copied().collect());
        let (naive_a, naive_b) = (naive(&a), naive(&b));
        prop_assert_eq!(members(&set_a), naive_a.clone());
        prop_assert_eq!(set_a.size(), naive_a.len() as u128);
        for (set, expected) in [
            (set_a.union(&set_b), &naive_a | &naive_b),
            (set_a.difference(&set_b), &naive_a - &naive_b),
            (set_a.intersection(&set_b), &naive_a & &naive_b),
        ] {
            assert_canonical(&set);
            prop_assert_eq!(members(&set), expected);
        }
        prop_assert_eq!(set_a.covers(&set_b), naive_b.is_subset(&naive_a));
    }

    #[test]
    fn adding_and_removing_agree_with_the_naive_set(runs in spans(), changes in prop::collection::vec((any::<bool>(), 0_u8..64, any::<bool>()), 0..40)) {
        let mut set = SpanSet::new();
        for run in &runs {
            set.add(*run);
        }
        let mut expected = naive(&runs);
        for (insert, number, is_v4) in changes {
            let address = if is_v4 { v4(number) } else { v6(number) };
            if insert {
                prop_assert_eq!(set.insert(address), expected.insert(address));
            } else {
                prop_assert_eq!(set.remove(address), expected.remove(&address));
            }
            assert_canonical(&set);
        }
        prop_assert_eq!(members(&set), expected);
    }

    #[test]
    fn numbering_and_searching_agree_with_the_naive_set(runs in spans(), from in 0_u8..64, is_v4 in any::<bool>()) {
        let set: SpanSet = runs.iter().copied().collect();
        let sorted: Vec<IpAddr> = naive(&runs).into_iter().collect();
        for (index, address) in sorted.iter().enumerate() {
            prop_assert_eq!(set.nth(index as u128), Some(*address));
        }
        prop_assert_eq!(set.nth(sorted.len() as u128), None);
        let from = if is_v4 { v4(from) } else { v6(from) };
        let next = sorted.iter().find(|address| **address >= from && address.is_ipv4() == from.is_ipv4());
        prop_assert_eq!(set.at_or_after(from), next.copied());
    }

    #[test]
    fn texts_are_read_back_as_the_same_set(runs in spans()) {
        for family in Family::BOTH {
            let set: SpanSet = runs.iter().copied().filter(|span| span.family() == family).collect();
            prop_assert_eq!(parse_ranges(&set.texts(), family).unwrap(), set.clone());
            prop_assert_eq!(merge_ranges(&set.texts(), family).unwrap(), set.texts());
        }
    }

    #[test]
    fn every_free_address_is_found_once_from_any_start(runs in spans(), blocked in spans(), start in 0_u8..64) {
        let family = Family::V4;
        let pool: SpanSet = runs.iter().copied().filter(|span| span.family() == family).collect();
        let mut used: SpanSet = blocked.iter().copied().collect();
        let expected = pool.difference(&used);
        let mut found = BTreeSet::new();
        let mut from = v4(start);
        while let Some(address) = choice::next_free(&pool, from, &[&used]) {
            prop_assert!(found.insert(address), "{} twice", address);
            used.insert(address);
            from = choice::after(address).unwrap_or(address);
        }
        prop_assert_eq!(found, members(&expected));
    }

    #[test]
    fn a_jump_lands_on_a_free_address(runs in spans(), random in any::<u64>()) {
        let set: SpanSet = runs.iter().copied().collect();
        prop_assert_eq!(choice::jump(&set, random).is_some(), !set.is_empty());
        prop_assert!(choice::jump(&set, random).is_none_or(|address| set.contains(address)));
    }

    #[test]
    fn names_of_addresses_are_unique_and_read_back(number in any::<u128>()) {
        for address in [IpAddr::V6(number.into()), IpAddr::V4((number as u32).into())] {
            let name = address_name(address);
            prop_assert_eq!(address_from_name(&name), Some(address));
            prop_assert!(name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)));
        }
    }
}

#[test]
fn elements_are_an_address_or_two_joined_by_one_dash() {
    for good in
        ["10.0.0.1", "10.0.0.1-10.0.0.1", "10.0.0.1-10.0.0.9", "fd00::1", "fd00::1-fd00::ff", "0.0.0.0-255.255.255.255"]
    {
        good.parse::<Span>().unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    type Is = fn(&RangeError) -> bool;
    let rows: [(&str, Is); 14] = [
        ("", |error| matches!(error, RangeError::Format(_))),
        ("-", |error| matches!(error, RangeError::Format(_))),
        ("10.0.0.1-", |error| matches!(error, RangeError::Format(_))),
        ("10.0.0.1 - 10.0.0.9", |error| matches!(error, RangeError::Format(_))),
        (" 10.0.0.1", |error| matches!(error, RangeError::Format(_))),
        ("10.0.0.1-10.0.0.2-10.0.0.3", |error| matches!(error, RangeError::Format(_))),
        ("10.0.0.0/24", |error| matches!(error, RangeError::Address { .. })),
        ("10.0.0.01", |error| matches!(error, RangeError::Address { .. })),
        ("10.0.0.256", |error| matches!(error, RangeError::Address { .. })),
        ("10.0.0", |error| matches!(error, RangeError::Address { .. })),
        ("fe80::1%eth0", |error| matches!(error, RangeError::Address { .. })),
        ("10.0.0.9-10.0.0.1", |error| matches!(error, RangeError::Backwards(_))),
        ("fd00::2-fd00::1", |error| matches!(error, RangeError::Backwards(_))),
        ("10.0.0.1-fd00::1", |error| matches!(error, RangeError::Family { .. })),
    ];
    for (text, expected) in rows {
        let error = text.parse::<Span>().unwrap_err();
        assert!(expected(&error), "{text:?}: {error}");
        assert!(error.to_string().contains(text), "the error names the value: {error}");
    }
    assert!(matches!(Span::parse("fd00::1", Family::V4), Err(RangeError::Family { .. })));
}

#[test]
fn merging_sorts_joins_and_writes_canonical_text() {
    let rows: [(Family, &[&str], &[&str]); 4] = [
        (Family::V4, &["10.0.0.5", "10.0.0.1-10.0.0.3", "10.0.0.4"], &["10.0.0.1-10.0.0.5"]),
        (Family::V4, &["10.0.0.9", "10.0.0.1", "10.0.0.1"], &["10.0.0.1", "10.0.0.9"]),
        (Family::V6, &["FD00:0::2", "fd00::1"], &["fd00::1-fd00::2"]),
        (Family::V4, &[], &[]),
    ];
    for (family, given, expected) in rows {
        assert_eq!(merge_ranges(given, family).unwrap(), expected, "{given:?}");
    }
}

#[test]
fn cidrs_must_be_canonical() {
    for (family, text) in
        [(Family::V4, "10.0.0.0/24"), (Family::V4, "0.0.0.0/0"), (Family::V6, "fd00::/64"), (Family::V4, "10.0.0.1/32")]
    {
        canonical_cidr(text, family).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    for (family, text) in [
        (Family::V4, "10.0.0.1/24"),
        (Family::V4, "10.0.0.0"),
        (Family::V4, "10.0.0.0/33"),
        (Family::V4, "fd00::/64"),
        (Family::V6, "fd00:0::/64"),
        (Family::V6, "FD00::/64"),
        (Family::V6, "10.0.0.0/24"),
        (Family::V4, "10.0.0.0/024"),
        (Family::V4, ""),
    ] {
        assert!(canonical_cidr(text, family).is_err(), "{text}");
    }
}

#[test]
fn names_that_are_no_canonical_address_are_none() {
    for name in [
        "",
        "pool-a",
        "10.0.0",
        "10.0.0.01",
        "fd00::1",
        "fd00-0-0-0-0-0-0-1",
        "FD00-0000-0000-0000-0000-0000-0000-0001",
        "fd00-0000-0000-0000-0000-0000-0000",
        "fd00-0000-0000-0000-0000-0000-0000-0001-0000",
        "+d00-0000-0000-0000-0000-0000-0000-0001",
    ] {
        assert_eq!(address_from_name(name), None, "{name}");
    }
}

#[test]
fn huge_ipv6_ranges_cost_nothing() {
    let all: SpanSet = parse_ranges(&["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], Family::V6).unwrap();
    assert_eq!((all.size(), all.count()), (u128::MAX, i64::MAX));
    let holes =
        parse_ranges(&["::1", "fd00::-fd00::ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], Family::V6)
            .unwrap();
    let rest = all.difference(&holes);
    assert_eq!(
        rest.texts(),
        ["::", "::2-fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fd00::1:0:0:0-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"]
    );
    assert_eq!(rest.intersection(&holes), SpanSet::new());
    let prefix = parse_ranges(&["fd00::-fd00::ffff:ffff:ffff:ffff"], Family::V6).unwrap();
    assert_eq!(prefix.size(), 1 << 64);
    let (a, b) = (choice::start("node-a", "p", &prefix).unwrap(), choice::start("node-b", "p", &prefix).unwrap());
    assert!(a != b && prefix.contains(a) && prefix.contains(b));
    assert!(choice::start("node-a", "p", &all).is_some());
}

#[test]
fn nodes_start_at_places_that_never_change() {
    let pool = parse_ranges(&["10.0.0.0-10.0.3.255"], Family::V4).unwrap();
    let starts: Vec<String> = ["node-a", "node-b", "node-c"]
        .iter()
        .map(|node| choice::start(node, "pool", &pool).unwrap().to_string())
        .collect();
    assert_eq!(starts, EXPECTED_STARTS, "an upgrade must not move the nodes");
    assert_ne!(choice::start("node-a", "pool", &pool), choice::start("node-a", "other", &pool));
    assert_eq!(choice::start("node-a", "pool", &SpanSet::new()), None);
}

const EXPECTED_STARTS: [&str; 3] = ["10.0.3.252", "10.0.0.209", "10.0.0.61"];
