//! Container images without a container engine: writes and reads OCI image archives.
//!
//! An archive is a tar of an [OCI image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md) with Docker's
//! `manifest.json` beside it, so that `ctr images import`, `skopeo copy oci-archive:`, `podman load` and `docker load` all take it.
//!
//! # Guarantees
//! * The same content gives the same bytes: entries are sorted, owners and times are fixed, the compressor has no clock.
//! * An archive appears under its name complete or not at all.
//!
//! # Caveats
//! One platform per archive. Layers cannot delete what a lower one brought (there are no whiteouts).

mod archive;
mod config;
mod digest;
mod layer;
mod read;

pub use archive::{Image, Written};
pub use config::{Config, Healthcheck, Platform};
pub use digest::Digest;
pub use layer::{Blob, Layer};
pub use read::Archive;

use std::path::PathBuf;

/// Why an archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: cannot {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// A path that has no place in an image.
    #[error("image path {path:?}: {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name that no registry would take.
    #[error("image name {name:?}: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An archive that contradicts itself.
    #[error("{path}: {what}")]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { doing, path, source }
}
