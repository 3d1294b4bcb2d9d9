//! Durable release notes: what a plugin leaves when the agent cannot be asked, and the agent works off later.
//!
//! A CNI `DEL` must not fail because the agent or the API server is down, or pods would never terminate; and the address must not leak.
//! The plugin therefore writes down what was to be released and reports success.
//!
//! # Expected flow
//! 1. The plugin's release call fails with [`crate::agent::Error::is_down`]; it calls [`Spool::leave`] and succeeds once that returned.
//! 2. The agent lists [`Spool::notes`] at start and whenever the directory changes, releases, and calls [`Spool::discard`].
//!
//! # Guarantees
//! * A note that [`Spool::leave`] returned for survives a crash of the machine: file and directory are fsynced.
//! * A note is seen whole or not at all: it is renamed into place.
//! * A repeated `DEL` of the same container and NIC rewrites its note instead of adding one.
//! * Notes of agents with different sockets never meet: each socket has its own directory.
//!
//! A file that cannot be read as a note is reported by the listing and left where it is.

use crate::agent::ReleaseArgs;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Where the directories of all agents are.
pub const DEFAULT_ROOT: &str = "/var/lib/spidernet/release";

const SUFFIX: &str = ".json";
/// A note is a few hundred bytes.
const MAX_NOTE: u64 = 64 << 10;
/// Part of the container's ID that a file name shows.
const SHOWN: usize = 64;

/// One release that is still to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// What was to be released.
    pub release: ReleaseArgs,
    /// When the note was written, in seconds since 1970.
    pub written: u64,
}

/// A file of the spool.
#[derive(Debug)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// Its content, or why it is none.
    pub note: io::Result<Note>,
}

/// The notes for one agent.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// The spool of the agent that listens at `socket`, below [`DEFAULT_ROOT`].
    pub fn of_socket(socket: &Path) -> Self {
        Self::below(Path::new(DEFAULT_ROOT), socket)
    }

    /// The spool of the agent that listens at `socket`, below another directory.
    pub fn below(root: &Path, socket: &Path) -> Self {
        Self { dir: root.join(socket.to_string_lossy().replace('/', "_")) }
    }

    /// The directory of the notes. It need not exist.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the directory, durably, unless it is there.
    pub fn create(&self) -> io::Result<()> {
        create_durably(&self.dir)
    }

    /// Writes a note and makes it durable.
    pub fn leave(&self, note: &Note) -> io::Result<PathBuf> {
        self.create()?;
        let path = self.dir.join(file_name(&note.release));
        // The process's ID keeps two plugins with the same note apart while they write.
        let draft = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = write_durably(&draft, &serde_json::to_vec(note)?).and_then(|()| fs::rename(&draft, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&draft);
            return Err(error);
        }
        sync_dir(&self.dir)?;
        Ok(path)
    }

    /// All notes, in the order of their file names; none when there is no directory.
    pub fn notes(&self) -> io::Result<Vec<Entry>> {
        let files = match fs::read_dir(&self.dir) {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut paths = files.map(|file| file.map(|file| file.path())).collect::<io::Result<Vec<_>>>()?;
        paths.retain(|path| path.to_string_lossy().ends_with(SUFFIX));
        paths.sort();
        let entry = |path: PathBuf| match read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None, // worked off meanwhile
            note => Some(Entry { path, note }),
        };
        Ok(paths.into_iter().filter_map(entry).collect())
    }

    /// Removes a note that is worked off. One that is gone already is fine.
    pub fn discard(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

fn read(path: &Path) -> io::Result<Note> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_NOTE).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates the directory and fsyncs each one that got a new entry.
fn create_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_durably(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    parent.map_or(Ok(()), sync_dir)
}

/// The readable beginning of the container's ID, and a hash of everything that makes the release.
fn file_name(release: &ReleaseArgs) -> String {
    let shown = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let head: String = release.container_id.chars().take(SHOWN).map(shown).collect();
    let parts = [&release.container_id, &release.if_name, &release.pod_namespace, &release.pod_name, &release.pod_uid];
    format!("{head}-{:016x}{SUFFIX}", fnv1a(parts.iter().flat_map(|part| part.bytes().chain([0]))))
}

/// FNV-1a, 64 bit: stable over versions of the program, unlike the standard library's hash.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed with the value.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("spiderpool-spool-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn spool(&self) -> Spool {
            Spool::below(&self.0.join("a/b"), Path::new("/run/x.sock"))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn note(container: &str, nic: &str) -> Note {
        let release = ReleaseArgs {
            container_id: container.into(),
            if_name: nic.into(),
            pod_namespace: "ns1".into(),
            pod_name: "web".into(),
            pod_uid: "u1".into(),
            ..Default::default()
        };
        Note { release, written: 7 }
    }

    #[test]
    fn a_note_is_read_as_it_was_left_and_gone_once_discarded() {
        let scratch = Scratch::new("roundtrip");
        let spool = scratch.spool();
        assert!(spool.notes().unwrap().is_empty(), "no directory yet");
        let path = spool.leave(&note("c1", "eth0")).unwrap();
        let notes = spool.notes().unwrap();
        assert_eq!((notes.len(), notes[0].note.as_ref().unwrap()), (1, &note("c1", "eth0")));
        spool.discard(&path).unwrap();
        spool.discard(&path).unwrap();
        assert!(spool.notes().unwrap().is_empty());
    }

    #[test]
    fn a_repeated_release_is_one_note_and_another_nic_a_second() {
        let scratch = Scratch::new("repeat");
        let spool = scratch.spool();
        for nic in ["eth0", "eth0", "net1"] {
            spool.leave(&note("c1", nic)).unwrap();
        }
        assert_eq!(spool.notes().unwrap().len(), 2);
    }

    #[test]
    fn strange_container_ids_stay_inside_the_directory() {
        let scratch = Scratch::new("strange");
        let spool = scratch.spool();
        for id in ["../../etc/passwd", "", &"x".repeat(4000), "a/b\0c", "ü.json"] {
            let path = spool.leave(&note(id, "eth0")).unwrap();
            assert_eq!(path.parent(), Some(spool.dir()), "{id:?}");
        }
        assert_eq!(spool.notes().unwrap().iter().filter(|entry| entry.note.is_ok()).count(), 5);
    }

    #[test]
    fn a_damaged_note_is_reported_and_the_others_are_read() {
        let scratch = Scratch::new("damaged");
        let spool = scratch.spool();
        spool.leave(&note("c1", "eth0")).unwrap();
        fs::write(spool.dir().join("a.json"), "{\"release\":").unwrap();
        fs::write(spool.dir().join("draft.1.tmp"), "{").unwrap();
        let notes = spool.notes().unwrap();
        assert_eq!((notes.len(), notes[0].note.is_err(), notes[1].note.is_ok()), (2, true, true));
    }

    #[test]
    fn sockets_do_not_share_a_directory() {
        let dir = |socket| Spool::of_socket(Path::new(socket)).dir().to_owned();
        assert_eq!(
            dir("/var/run/spidernet/spiderpool.sock"),
            Path::new("/var/lib/spidernet/release/_var_run_spidernet_spiderpool.sock")
        );
        assert_ne!(dir("/run/a.sock"), dir("/run/b.sock"));
    }
}
