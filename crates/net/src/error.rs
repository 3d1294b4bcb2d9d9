//! What can go wrong between this program and the kernel.

use std::io;
use std::path::PathBuf;

/// A failed operation. The text names the operation and its objects, and the reason in the kernel's own words where it
/// has any (extended acknowledgements).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("{doing}: {}", refusal(*errno, said.as_deref()))]
    Refused {
        /// The operation and its objects.
        doing: String,
        /// The error number.
        errno: i32,
        /// The kernel's explanation.
        said: Option<String>,
    },
    /// A system call failed.
    #[error("{doing}: {source}")]
    Io {
        /// The operation and its objects.
        doing: String,
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("{doing}: the kernel's answer is not understood: {why}")]
    Malformed {
        /// The operation and its objects.
        doing: String,
        why: String,
    },
    /// There is no link of this name.
    #[error("there is no interface {name}")]
    NoLink {
        /// The name that was looked for.
        name: String,
    },
    /// The path of a namespace leads nowhere, or to something else.
    #[error("network namespace {}: {why}", path.display())]
    NoNamespace {
        /// The path that was opened.
        path: PathBuf,
        why: String,
    },
    /// Neither nftables nor iptables can be used.
    #[error("neither nftables nor iptables can be used: {nftables}; {iptables}")]
    NoPacketFilter {
        /// Why nftables cannot.
        nftables: String,
        /// Why iptables cannot.
        iptables: String,
    },
}

fn refusal(errno: i32, said: Option<&str>) -> String {
    let error = io::Error::from_raw_os_error(errno);
    match said {
        Some(said) => format!("{error}: {said}"),
        None => error.to_string(),
    }
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { doing: doing.into(), source: source.into() }
    }

    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// What was to be made is there already.
    pub fn already_there(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// What was to be removed or looked at is not there.
    pub fn not_there(&self) -> bool {
        matches!(self, Self::NoLink { .. })
            || matches!(self.errno(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL))
    }

    /// The kernel lacks what the operation needs, for instance a protocol family.
    pub fn unsupported(&self) -> bool {
        matches!(self.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EPFNOSUPPORT))
    }
}
