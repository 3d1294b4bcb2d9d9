//! The chart, rendered by the real Helm: `cargo xtask test chart`, or `cargo test -p xtask --test chart -- --ignored`.
//!
//! No cluster is needed. Helm is the program that `SPIDERPOOL_HELM` names, the one of `cargo xtask kube`, or that of `PATH`.
#![allow(clippy::unwrap_used)]

mod before;
mod consistent;
mod defects;
mod helm;
mod names;
mod objects;
mod refusals;
mod values;
