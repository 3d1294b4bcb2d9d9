//! Puts files into folders of the node: a reader, or a process that starts, finds the old file or the new one, never something between.
//!
//! # Guarantees
//! * A name changes from one complete content to another by a rename, after the new content is on the disk.
//! * Whoever runs or reads the old file keeps it.
//! * A crash leaves at most a temporary file, which nothing takes for a plugin or a configuration and which the next run removes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Begin and end of temporary names: runtimes look at names that end with `.conf`, `.conflist` or `.json` only.
const TEMPORARY: (&str, &str) = (".spiderpool-", ".tmp");

/// A file or folder of the node that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}")]
pub struct FileError {
    /// What was tried.
    pub doing: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What went wrong.
    #[source]
    pub source: io::Error,
}

/// Adds what was tried, and where, to an error of the file system.
pub fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { doing, path, source }
}

/// A new content, complete on the disk beside its place. Dropped before [`Staged::commit`] it is gone.
#[derive(Debug)]
pub struct Staged {
    temporary: PathBuf,
    place: PathBuf,
    committed: bool,
}

impl Staged {
    /// Writes `content` beside `folder/name` and waits until it is on the disk.
    pub fn new(folder: &Path, name: &str, content: &[u8], mode: u32) -> Result<Self, FileError> {
        let temporary = folder.join(format!("{}{name}{}", TEMPORARY.0, TEMPORARY.1));
        remove(&temporary)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .map_err(failed("create", &temporary))?;
        let staged = Self { place: folder.join(name), temporary, committed: false };
        let written = file
            .write_all(content)
            .and_then(|()| file.set_permissions(Permissions::from_mode(mode))) // whatever the umask is
            .and_then(|()| file.sync_all());
        written.map_err(failed("write", &staged.temporary))?;
        Ok(staged)
    }

    /// Gives the content its name. The folder is to be synced afterwards ([`sync`]).
    pub fn commit(mut self) -> Result<(), FileError> {
        fs::rename(&self.temporary, &self.place).map_err(failed("replace", &self.place))?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary); // the error that led here is the one to report
        }
    }
}

/// Brings `folder/name` to this content and these rights; whether that took a change.
pub fn put(folder: &Path, name: &str, content: &[u8], mode: u32) -> Result<bool, FileError> {
    if is(&folder.join(name), content, mode)? {
        return Ok(false);
    }
    Staged::new(folder, name, content, mode)?.commit()?;
    sync(folder)?;
    Ok(true)
}

/// Whether a regular file with this content and these rights is there. A folder, which no file could replace, is an error.
pub fn is(path: &Path, content: &[u8], mode: u32) -> Result<bool, FileError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Err(failed("replace", path)(io::ErrorKind::IsADirectory.into())),
        Ok(found) => {
            let alike = found.is_file()
                && found.len() == content.len() as u64
                && found.permissions().mode() & 0o7777 == mode
                && fs::read(path).map_err(failed("read", path))? == content;
            Ok(alike)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("examine", path)(error)),
    }
}

/// The content of a file, if it is there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Removes a file; whether it was there.
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// Makes names in a folder survive a power failure.
pub fn sync(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync folder", folder))
}

/// Removes what a killed run left in a folder. Only for who holds the folder's lock.
pub fn clear_leftovers(folder: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(failed("list folder", folder))? {
        let name = entry.map_err(failed("list folder", folder))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1) {
            remove(&folder.join(name.as_ref()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_equal_file_is_left_alone_and_another_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(put(dir.path(), "a", b"1", 0o600).unwrap());
        assert!(!put(dir.path(), "a", b"1", 0o600).unwrap());
        assert!(put(dir.path(), "a", b"1", 0o644).unwrap(), "other rights");
        assert!(put(dir.path(), "a", b"2", 0o644).unwrap(), "other content");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_link_is_replaced_and_what_it_points_to_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other"), "theirs").unwrap();
        std::os::unix::fs::symlink("other", dir.path().join("a")).unwrap();
        assert!(put(dir.path(), "a", b"theirs", 0o644).unwrap());
        put(dir.path(), "a", b"ours", 0o644).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("other")).unwrap(), "theirs");
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Staged::new(dir.path(), "a", b"1", 0o644).unwrap());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn leftovers_of_a_killed_run_go() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".spiderpool-a.tmp", ".spiderpool-plugins", "a.tmp"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        clear_leftovers(dir.path()).unwrap();
        assert_eq!(names(dir.path()), [".spiderpool-plugins", "a.tmp"]);
    }

    #[test]
    fn errors_name_what_was_tried_and_where() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let error = put(dir.path(), "a", b"1", 0o644).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot replace {}/a", dir.path().display()));
        assert_eq!(names(dir.path()), ["a"]);
    }
}
