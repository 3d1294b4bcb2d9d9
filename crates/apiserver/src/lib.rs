//! The embedded Kubernetes API server: one process, one file.
mod builtin;
pub mod openapi;
pub mod schema;
pub mod strategic;
pub mod table;
