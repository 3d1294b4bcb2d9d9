//! Address ranges as sorted interval sets.
//!
//! Every operation works on the ends of intervals, never on single addresses, so an IPv6 `/64` costs as much as
//! one address. Text rules: elements are `A` or `A-B` (no blanks, same family, `A <= B`), CIDR notation is not an
//! element. A reversed range is an error everywhere, so nothing can be admitted that cannot be read later.

mod set;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::family::Family;

pub use set::SpanSet;

/// Why a text is not a range, an address or a CIDR.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Neither `A` nor `A-B`.
    #[error("invalid IP range format '{0}': expect an address or 'first-last' without blanks")]
    Format(String),
    /// One end does not parse as an address.
    #[error("invalid IP range format '{range}': invalid IP '{end}'")]
    Address {
        /// The whole element.
        range: String,
        /// The end that does not parse.
        end: String,
    },
    /// `A > B`.
    #[error("invalid IP range format '{0}': the first address is greater than the last one")]
    Backwards(String),
    /// The two ends, or the element and its list, are of different families.
    #[error("invalid IP range format '{range}': expect {expected} addresses")]
    Family {
        /// The whole element.
        range: String,
        /// The family that was expected.
        expected: Family,
    },
    /// Not a CIDR, of the wrong family, or not in its canonical form.
    #[error("invalid CIDR format '{text}': {reason}")]
    Cidr {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// An inclusive run of addresses of one family; `first <= last` holds by construction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    family: Family,
    first: u128,
    last: u128,
}

impl Span {
    /// The run from `first` to `last`; `None` when the families differ or the order is reversed.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let family = Family::of(first);
        let span = Self { family, first: to_number(first), last: to_number(last) };
        (family == Family::of(last) && span.first <= span.last).then_some(span)
    }

    /// One address.
    pub fn single(address: IpAddr) -> Self {
        let number = to_number(address);
        Self { family: Family::of(address), first: number, last: number }
    }

    /// All addresses of a network, its first and last one included.
    pub fn network(net: IpNet) -> Self {
        Self { family: Family::of(net.addr()), first: to_number(net.network()), last: to_number(net.broadcast()) }
    }

    fn of_numbers(family: Family, first: u128, last: u128) -> Self {
        debug_assert!(first <= last);
        Self { family, first, last }
    }

    /// The lowest address.
    pub fn first(self) -> IpAddr {
        to_address(self.family, self.first)
    }

    /// The highest address.
    pub fn last(self) -> IpAddr {
        to_address(self.family, self.last)
    }

    /// Its family.
    pub fn family(self) -> Family {
        self.family
    }

    /// Whether `address` lies within.
    pub fn contains(self, address: IpAddr) -> bool {
        self.family == Family::of(address) && (self.first..=self.last).contains(&to_number(address))
    }

    /// Whether both runs share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    /// Number of addresses, `u128::MAX` for the whole IPv6 space.
    pub fn size(self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// Parses `A` or `A-B` of the given family.
    pub fn parse(text: &str, family: Family) -> Result<Self, RangeError> {
        let span: Self = text.parse()?;
        if span.family == family {
            Ok(span)
        } else {
            Err(RangeError::Family { range: text.to_owned(), expected: family })
        }
    }
}

impl FromStr for Span {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let mut ends = text.split('-');
        let (first, last) = match (ends.next(), ends.next(), ends.next()) {
            (Some(one), None, _) => (one, one),
            (Some(first), Some(last), None) => (first, last),
            _ => return Err(RangeError::Format(text.to_owned())),
        };
        let parse = |end: &str| -> Result<IpAddr, RangeError> {
            if end.is_empty() || end.contains(char::is_whitespace) {
                return Err(RangeError::Format(text.to_owned()));
            }
            end.parse().map_err(|_| RangeError::Address { range: text.to_owned(), end: end.to_owned() })
        };
        let (first, last) = (parse(first)?, parse(last)?);
        if Family::of(first) != Family::of(last) {
            return Err(RangeError::Family { range: text.to_owned(), expected: Family::of(first) });
        }
        Self::new(first, last).ok_or_else(|| RangeError::Backwards(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first())
        } else {
            write!(f, "{}-{}", self.first(), self.last())
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Parses a list of elements of one family into a set.
pub fn parse_ranges<S: AsRef<str>>(elements: &[S], family: Family) -> Result<SpanSet, RangeError> {
    elements.iter().map(|element| Span::parse(element.as_ref(), family)).collect()
}

/// The merged, canonical text of a list of ranges: sorted, joined, `A` or `A-B` each.
pub fn merge_ranges<S: AsRef<str>>(elements: &[S], family: Family) -> Result<Vec<String>, RangeError> {
    Ok(parse_ranges(elements, family)?.texts())
}

/// Parses a CIDR and insists on its canonical text: host bits zero, canonical IPv6, right family.
pub fn canonical_cidr(text: &str, family: Family) -> Result<IpNet, RangeError> {
    let wrong = |reason: String| RangeError::Cidr { text: text.to_owned(), reason };
    let net: IpNet = text.parse().map_err(|_| wrong("expect address/prefix length".to_owned()))?;
    if Family::of(net.addr()) != family {
        return Err(wrong(format!("expect an {family} CIDR")));
    }
    let canonical = net.trunc().to_string();
    if canonical == text { Ok(net) } else { Err(wrong(format!("expect the network form '{canonical}'"))) }
}

/// The number behind an address.
pub(crate) fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The address behind a number of `family`.
pub(crate) fn to_address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(u32::try_from(number).expect("IPv4 numbers come from IPv4 addresses")).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}
