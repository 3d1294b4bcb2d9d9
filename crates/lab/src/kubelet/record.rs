//! What a pod has on this node, on disk: enough to take it up again or to clear it away after a crash.
//!
//! Written before the effect that it names (a sandbox before its ADD), so that nothing made is ever unknown.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A pod's sandbox and processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The sandbox's id, the `CNI_CONTAINERID`.
    pub sandbox: String,
    /// The network namespace; none with the host's network.
    pub netns: Option<PathBuf>,
    /// ADD has succeeded.
    pub connected: bool,
    /// The pod's addresses out of the CNI result.
    pub addresses: Vec<IpAddr>,
    /// When the sandbox was made.
    pub created: Timestamp,
    /// Running or ended containers by name.
    pub containers: BTreeMap<String, Process>,
}

/// A container's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks (`/proc/PID/stat`, field 22): a process id alone may have been given away again.
    pub ticks: u64,
    /// When it started.
    pub started: Timestamp,
    /// How often the container was started before.
    pub restarts: i32,
}

impl Process {
    /// Whether the process is still the one that was started.
    pub fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.ticks)
    }
}

/// The start time of a process that is neither gone nor a zombie.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets and may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl Record {
    fn dir(root: &Path) -> PathBuf {
        root.join("pods")
    }

    /// All records below `root`.
    pub fn all(root: &Path) -> io::Result<Vec<Self>> {
        let dir = Self::dir(root);
        fs::create_dir_all(&dir)?;
        let mut records = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                match serde_json::from_slice(&fs::read(&path)?) {
                    Ok(record) => records.push(record),
                    Err(error) => tracing::error!(%error, file = %path.display(), "a pod's record cannot be read"),
                }
            }
        }
        Ok(records)
    }

    /// Writes the record in one step.
    pub fn save(&self, root: &Path) -> io::Result<()> {
        let file = Self::dir(root).join(format!("{}.json", self.uid));
        let part = file.with_extension("part");
        fs::write(&part, serde_json::to_vec(self).expect("a record is plain data"))?;
        fs::rename(part, file)
    }

    /// Removes the record.
    pub fn remove(&self, root: &Path) {
        let _ = fs::remove_file(Self::dir(root).join(format!("{}.json", self.uid)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let own = std::process::id();
        let ticks = start_ticks(own).unwrap();
        let process = Process { pid: own, ticks, started: Timestamp::UNIX_EPOCH, restarts: 0 };
        assert!(process.is_alive());
        assert!(!Process { ticks: ticks + 1, ..process }.is_alive());
    }
}
