//! The driver of the walk-through: makes the lab's world, applies the scenario's own YAML, and checks what the guide promises.
//!
//! It uses nothing of the product but its API objects, and judges by `ip`, `ping`, `curl`, `nft`, `conntrack` and the cloud's counters.

pub mod cluster;
pub mod guest;
pub mod host;
pub mod real;
pub mod report;
pub mod story;
