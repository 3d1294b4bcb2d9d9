//! Listening: the Unix socket that plugins call, and TCP ports on all addresses.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// The agent's socket file; removed with the value, unless another agent has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Why nobody can be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another agent is there.
    #[error("another process listens at {}", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The kernel refuses.
    #[error("cannot listen at {place}")]
    Io {
        /// Path or port.
        place: String,
        /// Its words.
        #[source]
        source: io::Error,
    },
}

/// Listens at a path; a file that a dead agent left is replaced.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |source| ListenError::Io { place: path.display().to_string(), source };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ListenError::Taken(path.to_owned()));
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    let inode = std::fs::metadata(path).map_err(failed)?.ino();
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at a TCP port of all addresses, both families where the kernel has both.
pub async fn listen_tcp(port: u16) -> Result<TcpListener, ListenError> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let failed = |source| ListenError::Io { place: format!("TCP port {port}"), source };
    match TcpListener::bind(both).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(failed(error)),
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_agents_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.sock");
        let (listener, file) = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::Taken(_))));
        drop(listener);
        std::mem::forget(file); // killed: the file stays
        let (_listener, file) = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(file);
        assert!(!path.exists());
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(listen(&path), Err(ListenError::NotASocket(_))));
    }

    #[tokio::test]
    async fn a_successors_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_first, file) = listen(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (_second, _file) = listen(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
