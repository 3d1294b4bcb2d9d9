//! The embedded Kubernetes API server: one process, one file.
pub mod openapi;
pub mod schema;
pub mod strategic;
pub mod table;
