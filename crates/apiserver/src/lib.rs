//! The embedded Kubernetes API server: one process, one file, for a single container host, for the demo and for tests.
//!
//! It serves a subset of the Kubernetes REST API to the same clients that talk to kube-apiserver, and refuses the rest
//! with a proper `Status`. Current objects live in memory, every write is synced to one database file before it is
//! acknowledged. There is one kind of user (a bearer token) and no replication.
//!
//! In process: `kube::Client::new(server.router(), "default")`. Over the network: [`listen::serve`].
mod admission;
mod builtin;
mod collect;
mod crd;
mod delete;
mod discovery;
mod kinds;
mod list;
pub mod listen;
mod meta;
pub mod openapi;
mod patch;
mod protobuf;
pub mod publish;
mod render;
mod request;
mod scale;
pub mod schema;
mod selector;
mod server;
mod service;
mod status;
mod storage;
pub mod strategic;
mod strategy;
pub mod table;
pub mod tls;
mod watch;
mod webhook;
mod write;

pub use server::{OpenError, Options, Server};
