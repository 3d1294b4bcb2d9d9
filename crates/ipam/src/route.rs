//! Routes of pools and pods.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::family::Family;

/// A route as pools, annotations and endpoints write it: text, so that it is passed on unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Destination CIDR.
    pub dst: String,
    /// Gateway address.
    pub gw: String,
}

/// Why a route is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid route format '{{dst: {dst}, gw: {gw}}}': {reason}")]
pub struct RouteError {
    /// Destination as given.
    pub dst: String,
    /// Gateway as given.
    pub gw: String,
    /// What is wrong.
    pub reason: String,
}

impl Route {
    /// A route.
    pub fn new(dst: impl Into<String>, gw: impl Into<String>) -> Self {
        Self { dst: dst.into(), gw: gw.into() }
    }

    /// The default route of a family through `gateway`.
    pub fn default_via(gateway: IpAddr) -> Self {
        Self::new(default_destination(Family::of(gateway)), gateway.to_string())
    }

    /// Destination and gateway, which must parse and be of one family.
    pub fn parsed(&self) -> Result<(IpNet, IpAddr), RouteError> {
        let wrong = |reason: &str| RouteError { dst: self.dst.clone(), gw: self.gw.clone(), reason: reason.to_owned() };
        let dst: IpNet = self.dst.parse().map_err(|_| wrong("dst is not a CIDR"))?;
        let gw: IpAddr = self.gw.parse().map_err(|_| wrong("gw is not an IP address"))?;
        if Family::of(dst.addr()) != Family::of(gw) {
            return Err(wrong("dst and gw are of different families"));
        }
        Ok((dst, gw))
    }
}

/// `0.0.0.0/0` or `::/0`.
pub fn default_destination(family: Family) -> &'static str {
    match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    }
}
