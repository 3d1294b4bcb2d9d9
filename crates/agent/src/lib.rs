//! The node service: allocates and releases addresses for the plugins of its node, over a Unix socket.
//!
//! | question | answer |
//! |---|---|
//! | which pools, which address, what to claim, what to undo | `ipam`, pure |
//! | how a claim is written | `store::claims` |
//! | where effects are carried out | [`books`] |
//! | what an ADD does, in order | [`add`] |
//! | what a DEL does, and when it leaves a note | [`release`], [`notes`] |
//! | what is made good after a kill | [`recover`] |
//! | what the socket speaks | [`api`], `wire::agent` |
//! | what the image does to the node beside that | [`node`] |

pub mod add;
pub mod adopt;
pub mod agent;
pub mod api;
pub mod app;
pub mod books;
pub mod caches;
pub mod endpoints;
pub mod events;
pub mod metrics;
pub mod multinet;
pub mod node;
pub mod notes;
pub mod records;
pub mod recover;
pub mod release;
pub mod sandboxes;
pub mod settings;
pub mod socket;
pub mod statuses;
pub mod sysctl;
pub mod upstream;
pub mod views;
