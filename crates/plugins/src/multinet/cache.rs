//! What is attached, written down for DEL, CHECK and GC: one file per container and interface.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wire::cni::{Call, CniError, code};

use super::delegate::Delegate;

/// The attachments of one container by one call of this plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Name of this plugin's network configuration.
    pub network: String,
    pub container_id: String,
    pub ifname: String,
    /// `CNI_ARGS` of the ADD.
    pub args: String,
    pub delegates: Vec<Delegate>,
    /// Whether ADD succeeded.
    pub complete: bool,
}

impl Entry {
    pub fn new(call: &Call, delegates: Vec<Delegate>) -> Self {
        Self {
            network: call.conf.name.clone(),
            container_id: call.env.container_id.clone(),
            ifname: call.env.ifname.clone(),
            args: call.env.args.to_string(),
            delegates,
            complete: false,
        }
    }
}

/// The folder of the entries. Runtimes' container IDs and interface names are safe as file names: the call's environment was checked.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn file(&self, container: &str, ifname: &str, suffix: &str) -> PathBuf {
        self.folder.join(format!("{container}-{ifname}.{suffix}"))
    }

    /// Takes the lock of a container and interface, waiting up to `limit` for another call.
    pub fn lock(&self, container: &str, ifname: &str, limit: Duration) -> Result<Lock, CniError> {
        let path = self.file(container, ifname, "lock");
        fs::create_dir_all(&self.folder).map_err(|error| io(&self.folder, &error))?;
        let started = Instant::now();
        loop {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(|error| io(&path, &error))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Lock { _file: file, path }),
                Ok(()) => continue, // its last holder removed it
                Err(TryLockError::Error(error)) => return Err(io(&path, &error)),
                Err(TryLockError::WouldBlock) if started.elapsed() < limit => thread::sleep(Duration::from_millis(5)),
                Err(TryLockError::WouldBlock) => {
                    let msg = format!("multinet: another call for container {container} interface {ifname} is running");
                    return Err(CniError::new(code::TRY_AGAIN_LATER, msg));
                }
            }
        }
    }

    /// Writes an entry; readers see the old one or the new one, also after a crash of the node.
    pub fn store(&self, entry: &Entry) -> Result<(), CniError> {
        let path = self.file(&entry.container_id, &entry.ifname, "json");
        let draft = self.file(&entry.container_id, &entry.ifname, "tmp");
        let text =
            serde_json::to_vec(entry).map_err(|error| CniError::new(code::INTERNAL, format!("multinet: {error}")))?;
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&draft, &path)).map_err(|error| io(&path, &error))
    }

    pub fn load(&self, container: &str, ifname: &str) -> Result<Option<Entry>, CniError> {
        read(&self.file(container, ifname, "json"))
    }

    /// All entries; files that are none are passed over.
    pub fn entries(&self) -> Result<Vec<Entry>, CniError> {
        let files = match fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(&self.folder, &error)),
        };
        let paths = files.filter_map(Result::ok).map(|file| file.path());
        let paths = paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "json"));
        Ok(paths.filter_map(|path| read(&path).ok().flatten()).collect())
    }

    pub fn remove(&self, entry: &Entry) -> Result<(), CniError> {
        self.forget(&entry.container_id, &entry.ifname)
    }

    /// Removes the file of a container and interface, whatever is in it.
    pub fn forget(&self, container: &str, ifname: &str) -> Result<(), CniError> {
        let path = self.file(container, ifname, "json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io(&path, &error)),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Option<Entry>, CniError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(path, &error)),
    };
    // A file cut short by a crash of the node tells nothing; its container is gone with the node's memory.
    Ok(serde_json::from_slice(&text).ok())
}

fn is_at(file: &File, path: &Path) -> bool {
    let inode = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(ours), Ok(theirs)) if inode(&ours) == inode(&theirs))
}

/// An exclusive right to a container and interface. The file stays, for it is locked again by DEL.
pub(super) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Removes the file: nothing of the container is left.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn io(path: &Path, error: &std::io::Error) -> CniError {
    CniError::new(code::IO_FAILURE, format!("multinet: {}: {error}", path.display()))
}
