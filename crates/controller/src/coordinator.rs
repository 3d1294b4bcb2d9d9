//! SpiderCoordinator: admission rules, the default object, and the cluster's CIDRs in its status.
//!
//! [`rules`] and [`cidrs`] are pure; [`reconcile`] reads the cluster and writes the status.

pub mod cidrs;
pub mod reconcile;
pub mod rules;
