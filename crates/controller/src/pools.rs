//! SpiderIPPools: their status, the label of their node, their finalizer.
//!
//! The status is a view of the SpiderIPs ([`view`]), rebuilt from a watch of them at any time. One writer ([`keeper`]),
//! at most one write a second per pool, slower where many nodes watch the pool; nothing waits for it.

pub mod keeper;
pub mod metrics;
mod pace;
pub mod peers;
pub mod view;
