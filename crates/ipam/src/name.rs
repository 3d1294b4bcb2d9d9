//! Names derived from addresses: the `SpiderIP` object of an address, the label of a CIDR.

use std::net::{IpAddr, Ipv6Addr};

/// The name of the `SpiderIP` of `address`: IPv4 dotted as it is; IPv6 expanded, lower-case, eight groups of
/// four digits joined by `-`, so that one address has exactly one name.
///
/// ```
/// assert_eq!(ipam::address_name("172.31.199.187".parse().unwrap()), "172.31.199.187");
/// assert_eq!(ipam::address_name("fd00::1".parse().unwrap()), "fd00-0000-0000-0000-0000-0000-0000-0001");
/// ```
pub fn address_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.segments().map(|group| format!("{group:04x}")).join("-"),
    }
}

/// The address that a `SpiderIP` is named after; `None` when the name is not one that [`address_name`] makes.
pub fn address_from_name(name: &str) -> Option<IpAddr> {
    let address = match name.parse() {
        Ok(v4) => IpAddr::V4(v4),
        Err(_) => IpAddr::V6(v6_from_name(name)?),
    };
    (address_name(address) == name).then_some(address)
}

fn v6_from_name(name: &str) -> Option<Ipv6Addr> {
    let mut groups = [0u16; 8];
    let mut parts = name.split('-');
    for group in &mut groups {
        *group = u16::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then(|| groups.into())
}

/// The value of the labels `ippool-cidr` and `subnet-cidr` for a CIDR text: the first three `.`, the first seven
/// `:` and the first `/` become `-`.
///
/// ```
/// assert_eq!(ipam::cidr_label("172.18.40.0/24"), "172-18-40-0-24");
/// assert_eq!(ipam::cidr_label("fd00:db8::/64"), "fd00-db8---64");
/// ```
pub fn cidr_label(cidr: &str) -> String {
    cidr.replacen('.', "-", 3).replacen(':', "-", 7).replacen('/', "-", 1)
}
