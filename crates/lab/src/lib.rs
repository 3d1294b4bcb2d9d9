//! The test lab: a small public cloud and a two-node cluster made of network namespaces.
//!
//! Half of it is the cloud, which knows nothing of the product under test: [`vpc`] (the switch with its rules),
//! [`gateway`] (NAT, IPv6 and the world outside), [`balancer`], [`metadata`] and [`app`] (what runs in pods).
//! The other half is the cluster that lives in it: [`node`]s, a [`kubelet`] with its container runtime ([`cni`]).
//! A real [`kubernetes`] on the same machine is what the lab's own cluster is measured against.
//! Where the machine's kernel lacks ipvlan, all of it runs in a [`vm`].

pub mod app;
pub mod balancer;
pub mod client;
pub mod cloud;
pub mod cni;
pub mod control;
pub mod controllers;
pub mod enter;
pub mod events;
pub mod forward;
pub mod gateway;
mod isolate;
pub mod kubelet;
pub mod kubernetes;
mod links;
pub mod lock;
pub mod metadata;
pub mod netns;
pub mod node;
pub mod proxy;
pub mod secret;
pub mod shell;
pub mod uml;
pub mod vm;
pub mod vpc;
pub mod world;
