//! The store: every current object in memory, and the same on disk in one redb file.
//!
//! One writer thread decides all writes in order. It takes what has queued up while the last commit was being
//! synced, checks each write's expectation, commits the batch with one fsync, then publishes it to readers and
//! watchers and only then answers. So whatever a client has seen survives `kill -9`, and readers never wait for a disk.
//! A commit that fails is refused; [`disk`] says how the file is brought back.
mod disk;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use disk::{Acknowledged, Disk, Row};

/// Writes that share one fsync at most.
const BATCH: usize = 512;
/// Events kept per resource for watches to catch up, unless told otherwise.
pub const HISTORY: usize = 8192;

/// Bytes that the events of a resource hold beside its current objects.
const HISTORY_BYTES: usize = 64 << 20;
/// Bytes of the JSON of an object at most: what etcd takes by default.
pub const LARGEST: usize = 3 << 19;

/// Where definitions are stored.
pub const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// Where Events are stored.
pub const EVENTS: &str = "/events";

/// Which resource an object is stored under: `group/plural`.
pub type StoreId = Arc<str>;

/// One stored object at one version.
#[derive(Debug)]
pub struct Object {
    /// `namespace/name`, or `name` for cluster-scoped kinds.
    pub key: Arc<str>,
    /// Resource version.
    pub version: u64,
    /// `metadata.uid`.
    pub uid: String,
    /// `apiVersion` in which it is stored.
    pub api_version: String,
    /// The object as JSON.
    pub json: Bytes,
    /// `metadata.labels`.
    pub labels: Vec<(String, String)>,
    /// Values of the selectable fields that are set.
    pub fields: Vec<(String, String)>,
    /// UIDs of `metadata.ownerReferences`.
    pub owners: Vec<String>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// When it was written; of an Event read from the disk what it tells itself.
    pub written: Timestamp,
}

impl Object {
    /// From its JSON value.
    pub fn new(key: &str, version: u64, value: &Value, selectable: &[String]) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let meta = &value["metadata"];
        let labels = meta["labels"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect();
        let owners = meta["ownerReferences"].as_array().into_iter().flatten().map(|o| text(&o["uid"])).collect();
        let fields = selectable.iter().filter_map(|path| Some((path.clone(), field_text(value, path)?))).collect();
        let deleting = meta["deletionTimestamp"].is_string();
        let json = serde_json::to_vec(value).expect("a JSON value is always serialisable").into();
        Self {
            key: key.into(),
            version,
            uid: text(&meta["uid"]),
            api_version: text(&value["apiVersion"]),
            json,
            labels,
            fields,
            owners,
            deleting,
            written: Timestamp::now(),
        }
    }

    /// The object as a JSON value.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).expect("the store holds what it has serialised")
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// `metadata.namespace`, empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The value of a selectable field.
    pub fn field(&self, path: &str) -> Option<String> {
        match path {
            "metadata.name" => Some(self.name().to_owned()),
            "metadata.namespace" => Some(self.namespace().to_owned()),
            _ => self.fields.iter().find(|(p, _)| p == path).map(|(_, v)| v.clone()),
        }
    }
}

fn field_text(value: &Value, path: &str) -> Option<String> {
    match path.split('.').try_fold(value, |at, part| at.get(part))? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// One change of one object, as watchers see it.
#[derive(Debug)]
pub struct Event {
    /// Version of the store after the change.
    pub version: u64,
    /// The resource.
    pub store: StoreId,
    /// The object before; `None` when it was created.
    pub old: Option<Arc<Object>>,
    /// The object after. For a removal its last state, carrying the removal's version.
    pub new: Arc<Object>,
    /// Whether the object is gone.
    pub removed: bool,
}

impl Event {
    /// Bytes that are in memory for this event alone: each state that is no longer current is the old one of one event.
    fn held(&self) -> usize {
        let last = if self.removed { self.new.json.len() } else { 0 };
        self.old.as_ref().map_or(0, |old| old.json.len()) + last
    }
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expect {
    /// Nothing under this key.
    Absent,
    /// The object at this version.
    Version(u64),
}

/// A write that the writer thread decides.
#[derive(Debug)]
pub struct Write {
    /// The resource.
    pub store: StoreId,
    /// `namespace/name` or `name`.
    pub key: String,
    /// Condition.
    pub expect: Expect,
    /// The new state, or for a removal the last one; its resourceVersion is set here.
    pub value: Value,
    /// Whether the object goes away.
    pub remove: bool,
    /// Refuse unless this namespace exists and is not terminating.
    pub namespace: Option<String>,
    /// Refuse unless this definition exists and is not terminating.
    pub definition: Option<String>,
}

/// Why a write was refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Refused {
    /// Expected absence, found an object.
    Exists,
    /// Expected a version, found another.
    Changed,
    /// Expected an object, found none.
    Missing,
    /// The namespace does not exist.
    NoNamespace,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// The definition of the kind does not exist.
    NoDefinition,
    /// The definition of the kind is being deleted.
    DefinitionTerminating,
    /// The object would be larger than [`LARGEST`].
    TooLarge,
    /// The disk failed. Nothing was written, or it is taken back before the next write.
    Disk(String),
}

/// Current objects and recent events of one resource.
#[derive(Debug)]
pub struct Shard {
    /// By key; byte order of keys is the order of lists.
    pub objects: BTreeMap<Arc<str>, Arc<Object>>,
    /// Newest last.
    pub history: VecDeque<Arc<Event>>,
    /// Events up to and including this version are forgotten.
    pub compacted: u64,
    /// Bytes that the history holds.
    held: usize,
    selectable: Vec<String>,
    news: watch::Sender<u64>,
}

/// Everything in memory.
#[derive(Debug, Default)]
pub struct State {
    /// Version of the last write.
    pub version: u64,
    shards: HashMap<StoreId, Shard>,
    /// UID to resource and key.
    uids: HashMap<String, (StoreId, Arc<str>)>,
    /// Owner UID to the UIDs of its dependents.
    dependents: HashMap<String, BTreeSet<String>>,
    /// Compaction floor of resources that have not been seen yet.
    floor: u64,
}

impl State {
    /// Objects and events of a resource.
    pub fn shard(&self, store: &str) -> Option<&Shard> {
        self.shards.get(store)
    }

    /// One object.
    pub fn object(&self, store: &str, key: &str) -> Option<&Arc<Object>> {
        self.shards.get(store)?.objects.get(key)
    }

    /// The object with this UID and its resource.
    pub fn by_uid(&self, uid: &str) -> Option<(&StoreId, &Arc<Object>)> {
        let (store, key) = self.uids.get(uid)?;
        Some((store, self.object(store, key)?))
    }

    /// The objects that name this UID as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(StoreId, Arc<Object>)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.by_uid(uid)).map(|(s, o)| (s.clone(), o.clone())).collect()
    }

    /// Every resource that has had an object.
    pub fn stores(&self) -> impl Iterator<Item = (&StoreId, &Shard)> {
        self.shards.iter()
    }

    fn shard_mut(&mut self, store: &StoreId) -> &mut Shard {
        let compacted = self.floor;
        self.shards.entry(store.clone()).or_insert_with(|| Shard {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            compacted,
            held: 0,
            selectable: Vec::new(),
            news: watch::Sender::new(compacted),
        })
    }

    fn index(&mut self, store: &StoreId, object: &Arc<Object>) {
        self.uids.insert(object.uid.clone(), (store.clone(), object.key.clone()));
        for owner in &object.owners {
            self.dependents.entry(owner.clone()).or_default().insert(object.uid.clone());
        }
    }

    fn unindex(&mut self, object: &Object) {
        self.uids.remove(&object.uid);
        for owner in &object.owners {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(&object.uid);
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }

    fn apply(&mut self, event: Arc<Event>, keep: usize) {
        self.version = event.version;
        if let Some(old) = &event.old {
            self.unindex(old);
        }
        if !event.removed {
            self.index(&event.store, &event.new);
        }
        let shard = self.shard_mut(&event.store);
        match event.removed {
            true => shard.objects.remove(&event.new.key),
            false => shard.objects.insert(event.new.key.clone(), event.new.clone()),
        };
        shard.held += event.held();
        shard.history.push_back(event);
        while (shard.history.len() > keep || shard.held > HISTORY_BYTES)
            && let Some(oldest) = shard.history.pop_front()
        {
            shard.held -= oldest.held();
            shard.compacted = oldest.version;
        }
    }
}

struct Queued {
    write: Write,
    reply: oneshot::Sender<Result<Arc<Object>, Refused>>,
}

enum Message {
    Write(Box<Queued>),
    /// Answered when the file is closed.
    Close(oneshot::Sender<()>),
}

/// The handle that requests share.
#[derive(Debug, Clone)]
pub struct Store {
    state: Arc<RwLock<State>>,
    queue: mpsc::UnboundedSender<Message>,
    trouble: watch::Receiver<Option<String>>,
    #[cfg(test)]
    pub(crate) faults: Arc<disk::Faults>,
}

impl Store {
    /// Opens the file, or an empty store in memory when there is no path. Every event is also sent to `follow`.
    pub fn open(
        path: Option<&Path>,
        selectable: impl Fn(&str) -> Vec<String>,
        history: usize,
        follow: mpsc::UnboundedSender<Arc<Event>>,
    ) -> Result<Self, redb::Error> {
        let mut state = State::default();
        let (told, trouble) = watch::channel(None);
        let disk = path.map(|path| Disk::open(path, &mut state, selectable, told)).transpose()?;
        #[cfg(test)]
        let faults = disk.as_ref().map(|disk| disk.faults.clone()).unwrap_or_default();
        let state = Arc::new(RwLock::new(state));
        let (queue, receiver) = mpsc::unbounded_channel();
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(redb::Error::Io)?;
        let writer = Writer { state: state.clone(), disk, timer, history: history.max(1), follow };
        let spawned = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(receiver));
        spawned.map_err(redb::Error::Io)?;
        Ok(Self {
            state,
            queue,
            trouble,
            #[cfg(test)]
            faults,
        })
    }

    /// Why writes are refused, while they are.
    pub fn trouble(&self) -> Option<String> {
        let stopped = || self.queue.is_closed().then(|| "the store has stopped".to_owned());
        self.trouble.borrow().clone().or_else(stopped)
    }

    /// Tells when [`Store::trouble`] changes.
    pub fn health(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }

    /// The state to read from; keep the guard short and never across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing panics while it holds the state")
    }

    /// One object.
    pub fn get(&self, store: &str, key: &str) -> Option<Arc<Object>> {
        self.read().object(store, key).cloned()
    }

    /// All objects of a resource.
    pub fn all(&self, store: &str) -> Vec<Arc<Object>> {
        self.read().shard(store).map(|s| s.objects.values().cloned().collect()).unwrap_or_default()
    }

    /// Wakes at every change of the resource.
    pub fn news(&self, store: &StoreId) -> watch::Receiver<u64> {
        if let Some(shard) = self.read().shard(store) {
            return shard.news.subscribe();
        }
        self.state.write().expect("nothing panics while it holds the state").shard_mut(store).news.subscribe()
    }

    /// Sets the selectable fields of a resource and indexes what is there already.
    pub fn set_selectable(&self, store: &StoreId, paths: Vec<String>) {
        let mut state = self.state.write().expect("nothing panics while it holds the state");
        let shard = state.shard_mut(store);
        if shard.selectable == paths {
            return;
        }
        for object in shard.objects.values_mut() {
            let indexed = Object::new(&object.key, object.version, &object.value(), &paths);
            *object = Arc::new(Object { written: object.written, ..indexed });
        }
        shard.selectable = paths;
    }

    /// Carries out a write; the answer comes after it is on disk and visible to readers.
    pub async fn write(&self, write: Write) -> Result<Arc<Object>, Refused> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Refused::Disk("the store has stopped".into());
        self.queue.send(Message::Write(Box::new(Queued { write, reply }))).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Closes the file after the writes that are queued; later ones fail.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.queue.send(Message::Close(reply)).is_ok() {
            let _ = closed.await;
        }
    }
}

struct Writer {
    state: Arc<RwLock<State>>,
    disk: Option<Disk>,
    /// Waits for the next write or the next attempt to open the file.
    timer: tokio::runtime::Runtime,
    history: usize,
    follow: mpsc::UnboundedSender<Arc<Event>>,
}

type Staged = (Arc<Event>, oneshot::Sender<Result<Arc<Object>, Refused>>);

impl Writer {
    fn run(mut self, mut queue: mpsc::UnboundedReceiver<Message>) {
        let mut closing = None;
        while closing.is_none()
            && let Some(first) = self.next(&mut queue)
        {
            let mut batch = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Write(queued) => batch.push(*queued),
                    Message::Close(reply) => {
                        closing = Some(reply);
                        break;
                    }
                }
                next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
            }
            self.commit(batch);
        }
        drop(queue);
        drop(self); // closes the file
        if let Some(reply) = closing {
            let _ = reply.send(());
        }
    }

    /// The next message, `None` when nobody can send one any more. Meanwhile a disk that failed is looked after.
    fn next(&mut self, queue: &mut mpsc::UnboundedReceiver<Message>) -> Option<Message> {
        while let Some(due) = self.disk.as_ref().and_then(Disk::due) {
            if std::time::Instant::now() < due {
                let wait = async { tokio::time::timeout_at(due.into(), queue.recv()).await };
                if let Ok(message) = self.timer.block_on(wait) {
                    return message;
                }
            }
            self.mend();
        }
        queue.blocking_recv()
    }

    fn mend(&mut self) {
        let state = &self.state;
        if let Some(disk) = &mut self.disk {
            disk.mend(|| Acknowledged::of(&state.read().expect("nothing panics while it holds the state")));
        }
    }

    fn commit(&mut self, batch: Vec<Queued>) {
        let staged = self.stage(batch);
        if staged.is_empty() {
            return;
        }
        if let Err(why) = self.persist(&staged) {
            // If it is due, so that the refusal holds: after it nothing of the batch is in the file.
            if self.disk.as_ref().and_then(Disk::due).is_some_and(|due| due <= std::time::Instant::now()) {
                self.mend();
            }
            for (_, reply) in staged {
                let _ = reply.send(Err(Refused::Disk(why.clone())));
            }
            return;
        }
        let mut state = self.state.write().expect("nothing panics while it holds the state");
        for (event, _) in &staged {
            state.apply(event.clone(), self.history);
        }
        let version = state.version;
        let touched: BTreeSet<_> = staged.iter().map(|(event, _)| event.store.clone()).collect();
        for store in touched {
            state.shard_mut(&store).news.send_replace(version);
        }
        drop(state);
        for (event, reply) in staged {
            let _ = reply.send(Ok(event.new.clone()));
            let _ = self.follow.send(event); // nobody follows in tests
        }
    }

    /// Decides each write against the state as the earlier ones of this batch leave it.
    fn stage(&self, batch: Vec<Queued>) -> Vec<Staged> {
        let state = self.state.read().expect("nothing panics while it holds the state");
        let mut overlay: HashMap<(StoreId, String), Option<Arc<Object>>> = HashMap::new();
        let mut version = state.version;
        let mut staged = Vec::with_capacity(batch.len());
        for Queued { mut write, reply } in batch {
            let find = |store: &StoreId, key: &str| match overlay.get(&(store.clone(), key.to_owned())) {
                Some(found) => found.clone(),
                None => state.object(store, key).cloned(),
            };
            let current = find(&write.store, &write.key);
            let namespace = write.namespace.as_ref().map(|name| find(&"/namespaces".into(), name));
            let definition = write.definition.as_ref().map(|name| find(&DEFINITIONS.into(), name));
            if let Err(refused) = check(&write, current.as_deref(), namespace, definition) {
                let _ = reply.send(Err(refused));
                continue;
            }
            version += 1;
            write.value["metadata"]["resourceVersion"] = version.to_string().into();
            let selectable = state.shard(&write.store).map_or(&[][..], |s| &s.selectable);
            let new = Arc::new(Object::new(&write.key, version, &write.value, selectable));
            if !write.remove && outgrows(&new, current.as_deref()) {
                version -= 1;
                let _ = reply.send(Err(Refused::TooLarge));
                continue;
            }
            let event =
                Event { version, store: write.store.clone(), old: current, new: new.clone(), removed: write.remove };
            overlay.insert((write.store, write.key), (!write.remove).then_some(new));
            staged.push((Arc::new(event), reply));
        }
        staged
    }

    fn persist(&mut self, staged: &[Staged]) -> Result<(), String> {
        let (Some(disk), Some((last, _))) = (&mut self.disk, staged.last()) else { return Ok(()) };
        let row = |(event, _): &Staged| -> Row {
            (disk::path_of(&event.store, &event.new.key), (!event.removed).then(|| event.new.json.clone()))
        };
        disk.persist(&staged.iter().map(row).collect::<Vec<_>>(), last.version)
    }
}

/// Whether an object becomes larger than is stored. The mark of its deletion always has room, and what is too large may be changed.
fn outgrows(new: &Object, current: Option<&Object>) -> bool {
    let excused = current.is_some_and(|old| old.json.len() > LARGEST || (new.deleting && !old.deleting));
    new.json.len() > LARGEST && !excused
}

fn check(
    write: &Write,
    current: Option<&Object>,
    namespace: Option<Option<Arc<Object>>>,
    definition: Option<Option<Arc<Object>>>,
) -> Result<(), Refused> {
    match definition {
        Some(None) => return Err(Refused::NoDefinition),
        Some(Some(found)) if found.deleting => return Err(Refused::DefinitionTerminating),
        _ => {}
    }
    match namespace {
        Some(None) => return Err(Refused::NoNamespace),
        Some(Some(found)) if found.deleting => return Err(Refused::NamespaceTerminating),
        _ => {}
    }
    match (write.expect, current) {
        (Expect::Absent, Some(_)) => Err(Refused::Exists),
        (Expect::Version(_), None) => Err(Refused::Missing),
        (Expect::Version(wanted), Some(found)) if wanted != found.version => Err(Refused::Changed),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
