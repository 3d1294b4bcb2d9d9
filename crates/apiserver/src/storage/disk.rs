//! The file behind the store, and what becomes of it when the disk fails.
//!
//! After a failed commit redb refuses everything until the file is opened anew, and nobody knows whether that commit is in it. So the
//! file is dropped, opened again (at once, then with growing pauses), and made equal to what was acknowledged before anything else is
//! written. What is in memory is exactly that: a batch gets there only after its commit.
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use tokio::sync::watch;

use super::{EVENTS, Object, State, StoreId};

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const VERSION: &str = "resourceVersion";
/// Memory for pages of the file: only writes need them, reads are served from the objects in memory.
const CACHE: usize = 16 << 20;
/// Pause before the second attempt to open the file again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Room on the disk that is the least to call it well again.
const LEAST_ROOM: usize = 256 << 10;

/// One row to be written: the path of an object and its JSON, or nothing where it goes.
pub(super) type Row = (String, Option<Bytes>);

/// What was acknowledged: version of the last write, and every object by its path.
pub(super) struct Acknowledged {
    version: u64,
    objects: HashMap<String, Bytes>,
}

impl Acknowledged {
    pub(super) fn of(state: &State) -> Self {
        let rows = state.stores().flat_map(|(store, shard)| {
            shard.objects.values().map(move |object| (path_of(store, &object.key), object.json.clone()))
        });
        Self { version: state.version, objects: rows.collect() }
    }
}

/// Where an object is in the file.
pub(super) fn path_of(store: &str, key: &str) -> String {
    format!("{store}|{key}")
}

/// A failure that is not over.
struct Trouble {
    /// What a batch that failed takes.
    bytes: usize,
    pause: Duration,
    next: Instant,
}

/// The file.
pub(super) struct Disk {
    path: PathBuf,
    /// `None` from a failed commit until the file could be opened again.
    database: Option<Database>,
    trouble: Option<Trouble>,
    /// What is wrong, for health checks.
    told: watch::Sender<Option<String>>,
    #[cfg(test)]
    pub(super) faults: std::sync::Arc<Faults>,
}

/// Commits that succeed before the disk fails; it fails until this is raised again.
#[cfg(test)]
#[derive(Debug)]
pub struct Faults(pub std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl Default for Faults {
    fn default() -> Self {
        Self(usize::MAX.into())
    }
}

#[cfg(test)]
impl Faults {
    fn commit(&self) -> Result<(), redb::Error> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self.0.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| redb::Error::Io(std::io::ErrorKind::StorageFull.into()))
    }
}

impl Disk {
    /// Opens or makes the file and reads it into the state.
    pub(super) fn open(
        path: &Path,
        state: &mut State,
        selectable: impl Fn(&str) -> Vec<String>,
        told: watch::Sender<Option<String>>,
    ) -> Result<Self, redb::Error> {
        if !path.try_exists().map_err(redb::Error::Io)? {
            make(path)?;
        }
        let database = Database::builder().set_cache_size(CACHE).create(path)?;
        load(&database, state, selectable)?;
        Ok(Self {
            path: path.to_owned(),
            database: Some(database),
            trouble: None,
            told,
            #[cfg(test)]
            faults: Default::default(),
        })
    }

    /// Commits a batch. After a failure the file is closed, see [`Disk::mend`].
    pub(super) fn persist(&mut self, rows: &[Row], version: u64) -> Result<(), String> {
        let Some(database) = &self.database else {
            return Err(self.told.borrow().clone().unwrap_or_default());
        };
        #[cfg(test)]
        let committed = self.faults.commit().and_then(|()| commit(database, rows, version));
        #[cfg(not(test))]
        let committed = commit(database, rows, version);
        committed.map_err(|error| {
            let bytes = rows.iter().map(|(path, json)| path.len() + json.as_ref().map_or(0, Bytes::len)).sum();
            tracing::error!(%error, "commit failed");
            self.fail(bytes, &error.to_string())
        })
    }

    fn fail(&mut self, bytes: usize, error: &str) -> String {
        self.database = None;
        let why = format!("the database {} cannot be written: {error}", self.path.display());
        let trouble = self.trouble.get_or_insert(Trouble { bytes, pause: FIRST_PAUSE, next: Instant::now() });
        trouble.bytes = trouble.bytes.max(bytes);
        self.told.send_replace(Some(why.clone()));
        why
    }

    /// When [`Disk::mend`] is due, if at all.
    pub(super) fn due(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.next)
    }

    /// Opens the file again and makes it equal to what was acknowledged; the trouble is over when there is room for what failed. While
    /// there is not, smaller writes may succeed: deletions make room.
    pub(super) fn mend(&mut self, acknowledged: impl FnOnce() -> Acknowledged) {
        let Some(trouble) = &mut self.trouble else { return };
        trouble.next = Instant::now() + trouble.pause;
        trouble.pause = (trouble.pause * 2).min(LONGEST_PAUSE);
        let bytes = trouble.bytes;
        if self.database.is_none() {
            #[cfg(test)]
            let reopened = self.faults.commit().and_then(|()| reopen(&self.path, &acknowledged()));
            #[cfg(not(test))]
            let reopened = reopen(&self.path, &acknowledged());
            match reopened {
                Ok(database) => self.database = Some(database),
                Err(error) => {
                    tracing::warn!(%error, "database not opened again");
                    self.fail(bytes, &error.to_string());
                    return;
                }
            }
        }
        if let Err(error) = room(&self.path, bytes) {
            tracing::warn!(%error, bytes, "no room for what could not be written");
            return;
        }
        tracing::info!("database written again");
        self.trouble = None;
        self.told.send_replace(None);
    }
}

fn commit(database: &Database, rows: &[Row], version: u64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for (path, json) in rows {
            match json {
                None => objects.remove(path.as_str())?,
                Some(json) => objects.insert(path.as_str(), &json[..])?,
            };
        }
        transaction.open_table(META)?.insert(VERSION, version)?;
    }
    Ok(transaction.commit()?) // redb's default durability: synced when this returns
}

/// Makes an empty database. It gets its name when it is whole: redb refuses for ever what a start that was killed has left half made.
fn make(path: &Path) -> Result<(), redb::Error> {
    let partial = path.with_extension("redb.new");
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(redb::Error::Io(error)),
        _ => {}
    }
    let database = Database::builder().set_cache_size(CACHE).create(&partial)?;
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(META)?;
    transaction.commit()?;
    drop(database);
    std::fs::rename(&partial, path).map_err(redb::Error::Io)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(redb::Error::Io)
}

/// Opens the file, which must be there, and takes back what was never acknowledged.
fn reopen(path: &Path, acknowledged: &Acknowledged) -> Result<Database, redb::Error> {
    let database = Database::builder().set_cache_size(CACHE).open(path)?;
    let mut missing: HashMap<&String, &Bytes> = acknowledged.objects.iter().collect();
    let mut rows: Vec<Row> = Vec::new();
    {
        let transaction = database.begin_read()?;
        for row in transaction.open_table(OBJECTS)?.iter()? {
            let (path, json) = row?;
            let path = path.value().to_owned();
            match missing.remove(&path) {
                Some(wanted) if wanted[..] == *json.value() => {}
                wanted => rows.push((path, wanted.cloned())),
            }
        }
    }
    rows.extend(missing.into_iter().map(|(path, json)| (path.clone(), Some(json.clone()))));
    if !rows.is_empty() {
        tracing::warn!(objects = rows.len(), "what was not acknowledged is taken back");
    }
    commit(&database, &rows, acknowledged.version)?;
    Ok(database)
}

/// Whether the disk takes so much: a file beside the database is written, synced and removed.
fn room(database: &Path, bytes: usize) -> std::io::Result<()> {
    let path = database.with_extension("room");
    let write = || {
        let mut file = std::fs::File::create(&path)?;
        file.write_all(&vec![0x5a; bytes.saturating_mul(2).max(LEAST_ROOM)])?;
        file.sync_all()
    };
    let written = write();
    let _ = std::fs::remove_file(&path); // where it could not be made there is none
    written
}

fn load(database: &Database, state: &mut State, selectable: impl Fn(&str) -> Vec<String>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(META)?;
    transaction.commit()?;
    let transaction = database.begin_read()?;
    state.version = transaction.open_table(META)?.get(VERSION)?.map_or(0, |v| v.value());
    state.floor = state.version;
    for row in transaction.open_table(OBJECTS)?.iter()? {
        let (path, json) = row?;
        let (store, key) = path.value().split_once('|').ok_or_else(|| corrupt(path.value()))?;
        let value: Value = serde_json::from_slice(json.value()).map_err(|_| corrupt(path.value()))?;
        let version = value["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
        let version = version.ok_or_else(|| corrupt(path.value()))?;
        let store: StoreId = store.into();
        let shard = state.shard_mut(&store);
        if shard.selectable.is_empty() {
            shard.selectable = selectable(&store);
        }
        let mut object = Object::new(key, version, &value, &shard.selectable);
        if &*store == EVENTS {
            object.written = last_told(&value).unwrap_or(object.written).min(object.written);
        }
        let object = std::sync::Arc::new(object);
        shard.objects.insert(object.key.clone(), object.clone());
        state.index(&store, &object);
    }
    Ok(())
}

/// The latest time that an Event tells.
fn last_told(event: &Value) -> Option<Timestamp> {
    let told = [&event["metadata"]["creationTimestamp"], &event["lastTimestamp"], &event["series"]["lastObservedTime"]];
    told.into_iter().filter_map(|time| time.as_str()?.parse().ok()).max()
}

fn corrupt(path: &str) -> redb::Error {
    redb::Error::Corrupted(format!("object {path} is not readable"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn rows(texts: &[(&str, &'static str)]) -> Vec<Row> {
        texts.iter().map(|(path, json)| ((*path).to_owned(), Some(Bytes::from_static(json.as_bytes())))).collect()
    }

    fn content(database: &Database) -> (u64, BTreeMap<String, String>) {
        let transaction = database.begin_read().unwrap();
        let version = transaction.open_table(META).unwrap().get(VERSION).unwrap().unwrap().value();
        let table = transaction.open_table(OBJECTS).unwrap();
        let rows = table.iter().unwrap().map(|row| {
            let (path, json) = row.unwrap();
            (path.value().to_owned(), String::from_utf8(json.value().to_vec()).unwrap())
        });
        (version, rows.collect())
    }

    #[test]
    fn a_commit_that_landed_unacknowledged_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let database = Database::create(&path).unwrap();
        commit(&database, &rows(&[("s|kept", "1"), ("s|changed", "2"), ("s|removed", "3")]), 3).unwrap();
        let objects =
            rows(&[("s|kept", "1"), ("s|changed", "2"), ("s|removed", "3")]).into_iter().map(|(p, j)| (p, j.unwrap()));
        let acknowledged = Acknowledged { version: 3, objects: objects.collect() };
        let mut batch = rows(&[("s|changed", "20"), ("s|new", "4")]);
        batch.push(("s|removed".into(), None));
        commit(&database, &batch, 6).unwrap();
        drop(database);
        let (version, found) = content(&reopen(&path, &acknowledged).unwrap());
        let wanted = [("s|changed", "2"), ("s|kept", "1"), ("s|removed", "3")];
        assert_eq!(version, 3);
        assert_eq!(found, wanted.iter().map(|(p, j)| ((*p).to_owned(), (*j).to_owned())).collect());
    }

    fn open(path: &Path) -> Result<Disk, redb::Error> {
        Disk::open(path, &mut State::default(), |_| Vec::new(), watch::channel(None).0)
    }

    #[test]
    fn a_new_database_appears_whole() {
        const MAGIC: &[u8] = b"redb";
        let dir = tempfile::tempdir().unwrap();
        let path = |i: usize| dir.path().join(format!("{i}.redb"));
        std::fs::write(dir.path().join("0.redb.new"), [0; 4096]).unwrap(); // a start that was killed
        let made = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for i in 0..40 {
                    open(&path(i)).unwrap();
                    made.store(i + 1, std::sync::atomic::Ordering::SeqCst);
                }
            });
            loop {
                let i = made.load(std::sync::atomic::Ordering::SeqCst);
                if i == 40 {
                    break;
                }
                if let Ok(bytes) = std::fs::read(path(i)) {
                    assert!(bytes.starts_with(MAGIC), "database {i} is there with {} bytes and no header", bytes.len());
                }
            }
        });
        let left = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.filter(|name| name.to_string_lossy().ends_with(".new")).count(), 0);
    }

    #[test]
    fn a_file_that_is_gone_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let acknowledged = Acknowledged { version: 3, objects: HashMap::new() };
        assert!(reopen(&path, &acknowledged).is_err());
        assert!(!path.exists());
    }
}
