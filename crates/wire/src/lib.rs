//! The two process contracts of the plugins: the container network interface (stdin, environment, stdout) and the
//! agent socket, plus the spool of release notes that stands in for the socket when the agent is down.
//!
//! Owns the shapes and their exact spelling; decides nothing. Everything here blocks and starts instantly: a plugin is
//! a process per call.

pub mod agent;
pub mod cni;
pub mod spool;

/// The names by which runtimes call our plugins. One file plays them all; what it does is in the name.
pub const PLUGIN_NAMES: [&str; 3] = ["spiderpool", "coordinator", "multinet"];
