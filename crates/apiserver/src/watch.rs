//! Watches: a stream of events from a version on.
//!
//! A watcher reads the shared history at its own pace; one that falls behind the kept history gets 410 and lists
//! again, so a slow client costs nobody else anything.
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::list::{Filter, version_option};
use crate::render::{self, ListMeta};
use crate::request::{Call, Shape};
use crate::schema::Cause;
use crate::status::{Failure, Outcome};
use crate::storage::{Event, Object, Store};

/// How often an idle watch that asked for bookmarks gets one.
const BOOKMARKS: Duration = Duration::from_secs(50);
/// How long a watch lasts when the client does not say.
const LIFETIME: Duration = Duration::from_secs(45 * 60);

/// Starts a watch.
pub fn watch(store: &Store, call: Call, stop: CancellationToken) -> Outcome<Response> {
    let filter = Filter::of(&call)?;
    let initial = initial_events(&call)?;
    let from = version_option(&call)?.unwrap_or(0);
    let lifetime = call.query.number("timeoutSeconds")?.filter(|s| *s > 0).map_or(LIFETIME, Duration::from_secs);
    let bookmarks = call.query.flag("allowWatchBookmarks").unwrap_or(false);
    let news = store.news(&call.resource().store);
    let mut timer = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watcher = Watcher {
        store: store.clone(),
        call,
        filter,
        seen: from,
        news,
        deadline: Instant::now() + lifetime,
        timer,
        bookmarks,
        headers: true,
        stop,
        over: false,
    };
    let first = watcher.start(initial)?;
    let stream = futures::stream::unfold((Some(first), watcher), |(first, mut watcher)| async move {
        let chunk = match first.filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => bytes,
            None => watcher.next().await?,
        };
        Some((Ok::<_, std::convert::Infallible>(chunk), (None, watcher)))
    });
    Ok(render::with_type(StatusCode::OK, Body::from_stream(stream), "application/json"))
}

/// Whether `sendInitialEvents` is set and true, false, or not set.
fn initial_events(call: &Call) -> Outcome<Option<bool>> {
    let initial = call.query.flag("sendInitialEvents");
    let field = "resourceVersionMatch";
    let refuse = |causes: &[Cause]| Err(Failure::invalid_options("ListOptions", causes));
    let unless = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
    let needs = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    match (initial, call.query.text(field)) {
        (None, Some(_)) => refuse(&[Cause::forbidden(field, unless)]),
        (Some(_), None) => refuse(&[Cause::forbidden(field, needs)]),
        (Some(_), Some(other)) if other != "NotOlderThan" => {
            refuse(&[Cause::forbidden(field, needs), Cause::not_supported(field, &other.into(), &["NotOlderThan"])])
        }
        _ => Ok(initial),
    }
}

struct Watcher {
    store: Store,
    call: Call,
    filter: Filter,
    /// All events up to this version are delivered.
    seen: u64,
    news: watch::Receiver<u64>,
    deadline: Instant,
    timer: Interval,
    bookmarks: bool,
    /// Whether the next table carries its column definitions.
    headers: bool,
    stop: CancellationToken,
    over: bool,
}

impl Watcher {
    /// The synthetic events that the start version asks for.
    fn start(&mut self, initial: Option<bool>) -> Outcome<Bytes> {
        let mut out = BytesMut::new();
        let wanted = initial.unwrap_or(self.seen == 0);
        let (current, objects) = {
            let state = self.store.read();
            let shard = state.shard(&self.call.resource().store).filter(|_| wanted);
            (state.version, shard.map(|s| self.filter.select(&s.objects, None)).unwrap_or_default())
        };
        if self.seen > current && wanted {
            return Err(Failure::version_too_large(self.seen, current));
        }
        if wanted || self.seen == 0 {
            self.seen = current;
        }
        for object in objects {
            self.encode(&mut out, "ADDED", &object);
        }
        if initial == Some(true) && self.bookmarks {
            self.bookmark(&mut out, true);
        }
        Ok(out.freeze())
    }

    /// The next chunk; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            self.news.mark_unchanged();
            let mut out = BytesMut::new();
            match self.take() {
                Ok(events) => events.iter().for_each(|event| self.deliver(&mut out, event)),
                Err(expired) => {
                    self.over = true;
                    envelope(&mut out, "ERROR", &render::to_json(&expired.body()));
                }
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
            tokio::select! {
                changed = self.news.changed() => self.over = changed.is_err(),
                () = self.stop.cancelled() => self.over = true,
                () = tokio::time::sleep_until(self.deadline) => self.over = true,
                _ = self.timer.tick(), if self.bookmarks => {
                    self.bookmark(&mut out, false);
                    return Some(out.freeze());
                }
            }
            if self.over && self.bookmarks && self.take().is_ok_and(|events| events.is_empty()) {
                self.bookmark(&mut out, false);
                return Some(out.freeze());
            }
        }
    }

    /// Events not yet delivered; `seen` moves on to the version of the store.
    fn take(&mut self) -> Outcome<Vec<Arc<Event>>> {
        let state = self.store.read();
        let Some(shard) = state.shard(&self.call.resource().store) else { return Ok(Vec::new()) };
        if self.seen < shard.compacted {
            let oldest = shard.compacted;
            return Err(Failure::expired(format!("too old resource version: {} ({oldest})", self.seen)));
        }
        let start = shard.history.partition_point(|e| e.version <= self.seen);
        self.seen = self.seen.max(state.version);
        Ok(shard.history.range(start..).cloned().collect())
    }

    fn deliver(&mut self, out: &mut BytesMut, event: &Event) {
        let before = event.old.as_ref().filter(|o| self.filter.matches(o));
        let after = !event.removed && self.filter.matches(&event.new);
        match (before, after) {
            (None, true) => self.encode(out, "ADDED", &event.new),
            (Some(_), true) => self.encode(out, "MODIFIED", &event.new),
            (Some(_), false) if event.removed => self.encode(out, "DELETED", &event.new),
            (Some(old), false) => {
                // The selector no longer matches: the old state at the new version, as kube-apiserver does.
                let mut value = render::value_of(self.call.resource(), old);
                value["metadata"]["resourceVersion"] = event.version.to_string().into();
                self.encode_value(out, "DELETED", value);
            }
            (None, false) => {}
        }
    }

    fn encode(&mut self, out: &mut BytesMut, kind: &str, object: &Object) {
        match self.call.accept.shape {
            Shape::Whole => envelope(out, kind, &render::json_of(self.call.resource(), object)),
            _ => self.encode_value(out, kind, render::value_of(self.call.resource(), object)),
        }
    }

    fn encode_value(&mut self, out: &mut BytesMut, kind: &str, value: Value) {
        let shaped = match self.call.accept.shape {
            Shape::Table => {
                let version = value["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0);
                let meta = ListMeta { version, ..ListMeta::default() };
                let table = render::table(&self.call, std::slice::from_ref(&value), &meta, self.headers);
                self.headers = false;
                table.unwrap_or_else(|failure| failure.body())
            }
            Shape::Partial => render::partial(&value),
            Shape::Whole | Shape::Discovery => value,
        };
        envelope(out, kind, &render::to_json(&shaped));
    }

    fn bookmark(&mut self, out: &mut BytesMut, initial: bool) {
        let resource = self.call.resource();
        let mut meta = json!({"resourceVersion": self.seen.to_string(), "creationTimestamp": null});
        if initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let bookmark = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": meta});
        self.encode_value(out, "BOOKMARK", bookmark);
    }
}

fn envelope(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}
