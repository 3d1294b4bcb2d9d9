//! Works off the release notes that plugins, or this agent, left.

use crate::agent::Agent;
use crate::release;
use futures::{StreamExt, stream};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use wire::spool::Entry;

/// How often the directory is looked at: one `stat`.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a note that could not be worked off is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often the notes are listed although the directory looks unchanged: its time tells two changes within one tick of the kernel's
/// clock as one.
pub const RELOOK: Duration = Duration::from_secs(30);
/// Notes worked off at a time.
const PARALLEL: usize = 16;

/// Works off notes for as long as the process lives.
pub async fn work_off(agent: Arc<Agent>) {
    let mut damaged = HashSet::new();
    let mut seen: Option<SystemTime> = None;
    let mut again = Instant::now();
    loop {
        let changed = std::fs::metadata(agent.spool.dir()).and_then(|dir| dir.modified()).ok();
        if changed != seen || again <= Instant::now() {
            seen = changed;
            let left = work_off_once(&agent, &mut damaged).await;
            again = Instant::now() + if left > 0 { AGAIN.min(agent.settings.relook) } else { agent.settings.relook };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Works off the notes that are there; tells how many are left.
async fn work_off_once(agent: &Agent, damaged: &mut HashSet<PathBuf>) -> usize {
    let spool = agent.spool.clone();
    let listed = tokio::task::spawn_blocking(move || spool.notes()).await;
    let entries = match listed.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(dir = %agent.spool.dir().display(), %error, "release notes cannot be listed");
            return 1;
        }
    };
    let (notes, broken): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| entry.note.is_ok());
    for entry in broken {
        if damaged.insert(entry.path.clone())
            && let Err(error) = entry.note
        {
            tracing::error!(file = %entry.path.display(), %error, "release note cannot be read and is left where it is");
        }
    }
    stream::iter(notes)
        .map(|entry| work_off_note(agent, entry))
        .buffer_unordered(PARALLEL)
        .filter(|done| std::future::ready(!done))
        .count()
        .await
}

async fn work_off_note(agent: &Agent, entry: Entry) -> bool {
    let Ok(note) = entry.note else { return true };
    let release = note.release;
    if let Err(error) = release::attempt(agent, &release).await {
        tracing::warn!(file = %entry.path.display(), error = %daemon::Chain(&error), "release note is not worked off yet");
        return false;
    }
    match agent.spool.discard(&entry.path) {
        Ok(()) => {
            let pod = format!("{}/{}", release.pod_namespace, release.pod_name);
            tracing::info!(target: "IPAM", pod, container = %release.container_id, "release note is worked off");
            true
        }
        Err(error) => {
            tracing::warn!(file = %entry.path.display(), %error, "release note is worked off and cannot be removed");
            false
        }
    }
}
