//! The Linux data plane: network namespaces, routing netlink, nftables, connection tracking, sysctls, announcements.
//!
//! Everything blocks; nothing here decides. A [`Netlink`] socket stays in the namespace in which it was opened, so that
//! one thread can work on several namespaces without switching between them; what must happen inside a namespace
//! (sysctls, nftables, packet sockets) runs on a thread that ends there ([`Netns::run`]). No programs are started,
//! except `iptables` where the kernel has no nftables.
//!
//! Types are small and plain. The message types of the netlink crates do not leave this crate, because they change
//! with every release. This crate is the only home of unsafe code, in [`announce`].

pub mod announce;
mod conntrack;
mod error;
mod link;
mod mac;
pub mod marks;
mod neighbour;
mod netlink;
mod netns;
mod route;
mod rule;
mod socket;
pub mod sysctl;

pub use conntrack::forget;
pub use error::Error;
pub use link::{Address, Link, LinkChange, VethEnd};
pub use mac::{Mac, ParseMacError};
pub use neighbour::Neighbour;
pub use netlink::{Netlink, Request};
pub use netns::Netns;
pub use route::{Hop, MAIN_TABLE, Route, RouteKind, Scope};
pub use rule::Rule;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, in the order in which the kernel lists addresses.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The network that contains everything.
    pub fn everything(self) -> ipnet::IpNet {
        match self {
            Self::V4 => ipnet::Ipv4Net::default().into(),
            Self::V6 => ipnet::Ipv6Net::default().into(),
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The network that is this one address: /32 or /128.
pub fn host_net(address: std::net::IpAddr) -> ipnet::IpNet {
    ipnet::IpNet::from(address)
}
