//! The CNI plugins. One module per plugin: its configuration, a pure plan, and the plan carried out.
//!
//! A plugin is a function from one [`wire::cni::Call`] to one reply ([`Plugin`]); [`run()`] does the rest of a process.
//! Everything blocks, and the dependencies are few on purpose: a call is a process start and part of every pod's
//! latency.

pub mod coordinator;
pub mod multinet;
mod run;
pub mod spiderpool;

pub use run::{Plugin, answer, plugin_named, run, usage};
