//! The Container Network Interface as a plugin sees it: environment, configuration on stdin, result or error object on
//! stdout; protocol versions 0.3.0 to 1.1.0 (<https://github.com/containernetworking/cni/blob/main/SPEC.md>).
//!
//! A plugin reads one [`Call`], answers with a [`CniResult`], nothing, or a [`CniError`]. Inside the process a result has
//! the shape of 1.1.0; it is converted once, when it is printed in the version that the configuration asks for.

mod args;
mod call;
mod conf;
mod env;
mod error;
mod result;
mod version;

pub use args::{Args, PodArgs};
pub use call::{Call, Received, STDIN_LIMIT, read_bounded};
pub use conf::{Attachment, NetConf, parse_json};
pub use env::{Command, Env};
pub use error::{CniError, code};
pub use result::{CniResult, Dns, Interface, IpConfig, Route};
pub use version::{SpecVersion, UnsupportedVersion, version_reply};

/// The node's end of the pair of interfaces by which the coordinator connects a container to its node. It goes with the container's network
/// namespace.
pub fn host_veth(container_id: &str) -> String {
    format!("veth{}", container_id.get(..11).unwrap_or(container_id))
}
