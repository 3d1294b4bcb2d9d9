//! The test lab: a small public cloud and a two-node cluster made of network namespaces.
//!
//! Half of it is the cloud, which knows nothing of the product under test: [`vpc`] (the switch with its rules),
//! [`gateway`] (NAT, IPv6 and the world outside), [`balancer`], [`metadata`] and [`app`] (what runs in pods).
//! The other half is the cluster that lives in it.

pub mod app;
pub mod balancer;
pub mod control;
pub mod gateway;
pub mod metadata;
pub mod netns;
pub mod vpc;
