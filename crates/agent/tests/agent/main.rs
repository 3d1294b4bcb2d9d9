//! The agent against the embedded API server, by its real socket.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod add;
mod books;
mod crowd;
mod faults;
mod process;
mod release;
mod removal;
mod upstream;
#[path = "../../../store/tests/upstream/agent.rs"]
mod upstream_agent;
mod views;
mod wire_format;
mod world;
