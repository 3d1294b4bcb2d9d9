//! Network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// Where `ip netns` keeps the named ones.
const NAMED: &str = "/run/netns";

impl Netns {
    /// Opens a namespace by path, such as `CNI_NETNS` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// [`Error::NoNamespace`] if nothing is there, or something that is no network namespace.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let wrong = |why: String| Error::NoNamespace { path: path.clone(), why };
        let file = File::open(&path).map_err(|error| wrong(error.to_string()))?;
        let netns = Self { file, path: path.clone() };
        // Only setns tells a network namespace from other files and other kinds of namespaces.
        netns.run(|| ()).map_err(|_| wrong("is not a network namespace".to_owned()))?;
        Ok(netns)
    }

    /// Opens the namespace that `ip netns` knows by a name.
    pub fn named(name: &str) -> Result<Self, Error> {
        Self::open(Path::new(NAMED).join(name))
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let file =
            File::open(&path).map_err(|error| Error::NoNamespace { path: path.clone(), why: error.to_string() })?;
        Ok(Self { file, path })
    }

    /// The path by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether both are the same namespace.
    pub fn is(&self, other: &Self) -> io::Result<bool> {
        let (a, b) = (self.file.metadata()?, other.file.metadata()?);
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    }

    /// Runs `job` in this namespace on a thread that ends with it; the caller cannot be left in the wrong one.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> io::Result<T> {
        let body = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(job())
        };
        thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_refused_by_name() {
        let absent = Netns::open("/run/netns/spiderpool-absent").unwrap_err().to_string();
        assert!(absent.contains("/run/netns/spiderpool-absent") && absent.contains("No such file"), "{absent}");
        let file = Netns::open("/proc/self/status").unwrap_err().to_string();
        assert_eq!(file, "network namespace /proc/self/status: is not a network namespace");
    }

    #[test]
    fn the_current_namespace_is_itself() {
        let current = Netns::current().unwrap();
        assert!(current.is(&Netns::current().unwrap()).unwrap());
    }
}
