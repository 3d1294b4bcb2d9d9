//! What is known of a cluster on disk: enough for anybody to enter it, steer it, or clear it away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::{Options, cgroup, guest, images, pki};
use crate::kubelet::start_ticks;
use crate::shell;

/// Where clusters are kept.
const ROOT: &str = "/run/spiderpool-cluster";

/// The directory of a cluster.
pub fn dir(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// The names of all clusters that were begun and not cleared away.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A process of this machine, safe against an id that was given to somebody else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: u32,
    ticks: u64,
}

impl Process {
    /// A process that runs now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, ticks: start_ticks(pid)? })
    }

    /// Its id.
    pub fn pid(self) -> u32 {
        self.pid
    }

    fn is_alive(self) -> bool {
        self.pid != 0 && start_ticks(self.pid) == Some(self.ticks)
    }

    fn kill(self) {
        if let Some(pid) = Pid::from_raw(self.pid as i32)
            && self.is_alive()
        {
            // It may have ended this very moment.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A cluster on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// What it is made of.
    pub options: Options,
    /// The process on this machine that clears up.
    pub keeper: Process,
    /// The first process of the cluster's namespaces.
    pub first: Process,
}

impl State {
    /// Begins a cluster's directory.
    pub fn create(options: &Options) -> Result<Self> {
        let state = Self { options: options.clone(), keeper: Process::default(), first: Process::default() };
        let dir = state.dir();
        for sub in ["", "images", "nodes"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("cannot make {}", sub.display()))?;
        }
        state.save()?;
        pki::write(&dir, options.network, &options.nodes)?;
        fresh(&options.log_dir)?;
        remove(&state.etcd_dir())?;
        if options.guests {
            shell::new_secret(&guest::secret(&state))?;
        }
        images::write(&options.app, &dir.join("images"))?;
        if !options.images.is_empty() && options.kubernetes_dir.join("multus").is_file() {
            // For the product, which installs it unless told otherwise.
            images::write_multus(&options.kubernetes_dir, &dir.join("images/multus.tar"))?;
        }
        for archive in &options.images {
            let name = archive.file_name().with_context(|| format!("{} is no archive", archive.display()))?;
            fs::copy(archive, dir.join("images").join(name))
                .with_context(|| format!("cannot read {}", archive.display()))?;
        }
        Ok(state)
    }

    /// What there is of that name.
    pub fn load(name: &str) -> Result<Option<Self>> {
        let file = dir(name).join("state.json");
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is no state of a cluster", file.display()))
    }

    /// Writes it in one step.
    pub fn save(&self) -> Result<()> {
        let file = self.dir().join("state.json");
        let part = file.with_extension("part");
        let text = serde_json::to_vec_pretty(self).context("cannot write the state")?;
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Where etcd keeps its data when it is to be durable.
    pub fn etcd_dir(&self) -> PathBuf {
        self.options.log_dir.join("etcd")
    }

    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        dir(&self.options.name)
    }

    /// What a node sees under the same path as this machine, and may write to.
    pub fn shared(&self) -> Vec<PathBuf> {
        let Options { kubernetes_dir, bin_dir, log_dir, .. } = &self.options;
        vec![self.dir(), kubernetes_dir.clone(), bin_dir.clone(), log_dir.clone()]
    }

    /// The control groups of its nodes on this machine.
    pub fn cgroups(&self) -> Vec<String> {
        // A node with a kernel of its own has its own.
        let nodes = self.options.nodes.iter().filter(|_| !self.options.guests);
        nodes.map(|node| cgroup::name(&self.options.name, node)).collect()
    }

    /// The log of a process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.options.log_dir.join(format!("{process}.log"))
    }

    /// The kubeconfig of a user.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        pki::kubeconfig_file(&self.dir(), user)
    }

    /// Where the first process of a node, or of the control plane, takes orders.
    pub fn socket(&self, node: Option<&str>) -> PathBuf {
        match node {
            Some(node) => self.dir().join("nodes").join(format!("{node}.sock")),
            None => self.dir().join("control.sock"),
        }
    }

    /// Where a node's first process is found: its id among the control plane's.
    pub fn pid_file(&self, node: &str) -> PathBuf {
        self.dir().join("nodes").join(format!("{node}.pid"))
    }

    /// Whose existence says that a node has its images.
    pub fn loaded_file(&self, node: &str) -> PathBuf {
        self.dir().join("nodes").join(format!("{node}.loaded"))
    }

    /// A node's place in the list.
    pub fn node_at(&self, node: &str) -> Result<usize> {
        let known = &self.options.nodes;
        let at = known.iter().position(|name| name == node);
        at.with_context(|| format!("the cluster has no node {node}, but: {}", known.join(", ")))
    }

    /// The id of a node's first process among the control plane's.
    pub fn node_pid(&self, node: &str) -> Result<u32> {
        self.node_at(node)?;
        let text = fs::read_to_string(self.pid_file(node)).with_context(|| format!("node {node} does not run"))?;
        text.trim().parse().with_context(|| format!("node {node} does not run"))
    }

    /// The id of the first process on this machine.
    pub fn first_pid(&self) -> u32 {
        self.first.pid
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.first.is_alive()
    }

    /// Ends it: its processes, then what it left. Its keeper does that, if there is one.
    pub fn end(&self) -> Result<()> {
        // The keeper may have noted the first process since this state was read.
        let now = Self::load(&self.options.name)?.unwrap_or_else(|| self.clone());
        now.first.kill();
        let deadline = Instant::now() + Duration::from_secs(10);
        while (now.keeper.is_alive() || now.first.is_alive()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        ensure!(!now.keeper.is_alive() && !now.first.is_alive(), "cluster {} does not end", self.options.name);
        self.clear()
    }

    /// Removes what is left when all processes are gone.
    pub fn clear(&self) -> Result<()> {
        self.cgroups().iter().try_for_each(|name| cgroup::remove(name))?;
        remove(&self.etcd_dir())?;
        remove(&self.dir())?;
        // Not empty: there are other clusters.
        let _ = fs::remove_dir(ROOT);
        Ok(())
    }
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// A directory without logs of an earlier cluster, which would be taken for this one's.
fn fresh(dir: &Path) -> Result<()> {
    let what = || format!("cannot make {}", dir.display());
    fs::create_dir_all(dir).with_context(what)?;
    for entry in fs::read_dir(dir).with_context(what)? {
        let path = entry.with_context(what)?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
