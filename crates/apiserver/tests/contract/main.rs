//! The contract: what clients of a Kubernetes API server may rely on, over HTTP.
//!
//! The suite knows nothing of the engine but a kubeconfig. Without `CONTRACT_KUBECONFIG` it starts the embedded
//! server; with it, it runs against that cluster (kube-apiserver 1.36 is the reference). A difference between the two
//! is a bug of ours, but for those that [`differences`] lists. Tests marked `kube-apiserver` are about what the embedded server does not have,
//! roles for example; they run against a cluster alone. Those marked `kubectl` need one in `PATH`. Each test has a namespace and, where it
//! needs one, an API group of its own. `cargo xtask test contract` runs the suite against both, with the same kubectl.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on")]

mod access;
mod admission;
mod definitions;
mod differences;
mod engine;
mod forgotten;
mod golden;
mod hooks;
mod kubectl;
mod objects;
mod patches;
mod schemas;
mod tables;
mod versions;
mod watches;
