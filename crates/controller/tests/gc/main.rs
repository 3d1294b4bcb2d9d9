//! Garbage collection against an API server: what is released when, and what is not.

#![allow(clippy::unwrap_used)] // tests

mod cluster;
mod endpoints;
mod fixed;
mod nodes;
mod pods;
mod trouble;
#[path = "../world/mod.rs"]
mod world;
