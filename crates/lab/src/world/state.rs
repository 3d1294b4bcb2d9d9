//! What a world consists of, as a file: enough for anybody to enter it, steer it, or clear it away.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::{Options, processes};
use crate::kubelet::start_ticks;
use crate::netns::Netns;

/// What the names of all namespaces begin with.
pub const PREFIX: &str = "spiderpool-";
/// The nodes.
pub const NODES: [&str; 2] = ["master", "worker"];

/// A process of the world, with all that it takes to start it again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Its name; its log is called so, too.
    pub name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Runs on this node.
    node: Option<String>,
    /// Runs in this network namespace, named without prefix.
    net: Option<String>,
    pid: u32,
    ticks: u64,
}

impl Process {
    /// A process that is not started yet.
    pub fn new(name: &str, program: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            node: None,
            net: None,
            pid: 0,
            ticks: 0,
        }
    }

    /// On a node: its network, mounts and name.
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// In a network namespace of the world.
    pub fn net(mut self, name: &str) -> Self {
        self.net = Some(name.to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, path: &Path) -> Self {
        self.args.push(path.display().to_string());
        self
    }

    /// Adds a variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.pid != 0 && start_ticks(self.pid) == Some(self.ticks)
    }
}

/// The world's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Where it is kept.
    pub dir: PathBuf,
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// Where the processes' logs are.
    pub log_dir: PathBuf,
    /// Whether it was left up on purpose.
    #[serde(default)]
    pub kept: bool,
    /// Directories that were made as mount points, outermost first.
    pub mount_points: Vec<PathBuf>,
    /// In the order of their start.
    pub processes: Vec<Process>,
}

impl State {
    pub fn new(options: &Options) -> Self {
        Self {
            dir: options.state_dir.clone(),
            bin_dir: options.bin_dir.clone(),
            log_dir: options.log_dir.clone(),
            kept: false,
            mount_points: Vec::new(),
            processes: Vec::new(),
        }
    }

    fn file(dir: &Path) -> PathBuf {
        dir.join("state.json")
    }

    /// The state in that directory; none if there is no world.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let file = Self::file(dir);
        let text = match fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", file.display()))?,
        };
        serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is no state of a world", file.display()))
    }

    /// Writes it in one step.
    pub fn save(&self) -> Result<()> {
        let file = Self::file(&self.dir);
        let part = file.with_extension("part");
        let text = serde_json::to_vec_pretty(self).context("cannot write the state")?;
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// A program of the product or the lab.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// What a node keeps.
    pub fn node_root(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node)
    }

    /// The process of that name.
    pub fn process(&self, name: &str) -> Result<&Process> {
        self.processes
            .iter()
            .find(|process| process.name == name)
            .with_context(|| format!("the world has no process {name}"))
    }

    /// The id of a node's first process.
    pub fn anchor(&self, node: &str) -> Result<u32> {
        Ok(self.process(&format!("node-{node}"))?.pid)
    }

    /// Starts a process, or one of that name again. It leads a session's group of its own and outlives this process.
    ///
    /// Refused when the world ends: what starts then would be in no state that is cleared away.
    pub fn start(&mut self, mut process: Process) -> Result<()> {
        let _building = super::building()?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file(&process.name))
            .context("cannot open a log")?;
        let net = process.net.as_ref().map(|name| Netns::named(format!("{PREFIX}{name}")).path());
        let anchor = process.node.as_ref().map(|node| self.anchor(node)).transpose()?;
        let mut command = Command::new(self.program("spiderpool-lab"));
        command.args(crate::enter::words(anchor, net.as_deref())).arg(&process.program).args(&process.args);
        command.envs(process.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).current_dir("/");
        let child = command.spawn().with_context(|| format!("cannot start {}", process.name))?;
        process.pid = child.id();
        process.ticks = start_ticks(process.pid)
            .with_context(|| format!("{} ended at once: {}", process.name, self.tail(&process.name)))?;
        processes::reap(child);
        self.processes.retain(|other| other.name != process.name);
        self.processes.push(process);
        self.save()
    }

    /// Sends a signal; one that ends processes is waited for.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let process = self.process(name)?;
        if !process.is_alive() {
            bail!("process {name} does not run");
        }
        send(process, signal);
        if signal == Signal::KILL || signal == Signal::TERM {
            super::wait_until(Duration::from_secs(20), &format!("{name} to end"), || !process.is_alive())?;
        }
        Ok(())
    }

    /// Ends all processes and everything else that lives in the nodes' mounts; returns what could not be ended.
    pub fn end_processes(&self) -> Vec<anyhow::Error> {
        let inside: Vec<u32> = super::NODES
            .iter()
            .filter_map(|node| self.anchor(node).ok())
            .flat_map(processes::sharing_mounts_with)
            .collect();
        let (nodes, others): (Vec<&Process>, Vec<&Process>) =
            self.processes.iter().partition(|process| process.name.starts_with("node-"));
        for process in others.iter().rev() {
            send(process, Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        while others.iter().any(|process| process.is_alive()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        others.iter().chain(&nodes).for_each(|process| send(process, Signal::KILL));
        inside.iter().for_each(|pid| processes::kill(*pid));
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.processes.iter().any(Process::is_alive) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = self.processes.iter().filter(|process| process.is_alive());
        left.map(|process| anyhow::anyhow!("process {} ({}) does not end", process.name, process.pid)).collect()
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.log_dir.join(format!("{name}.log"))
    }

    /// What a process has printed.
    pub fn log_of(&self, name: &str) -> String {
        fs::read(self.log_file(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines that it has printed.
    pub fn tail(&self, name: &str) -> String {
        let log = self.log_of(name);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// The last lines of processes that ended though nobody asked.
    pub fn last_words(&self) -> String {
        let dead = self.processes.iter().filter(|process| !process.is_alive());
        dead.map(|process| format!("-- {} has ended:\n{}\n", process.name, self.tail(&process.name))).collect()
    }
}

fn send(process: &Process, signal: Signal) {
    if process.is_alive()
        && let Some(pid) = Pid::from_raw(process.pid as i32)
    {
        // It may have ended this very moment.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_started_once_the_world_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut state = State {
            dir: path("state"),
            bin_dir: path("bin"),
            log_dir: path("logs"),
            kept: false,
            mount_points: Vec::new(),
            processes: Vec::new(),
        };
        for dir in [&state.dir, &state.bin_dir, &state.log_dir] {
            fs::create_dir(dir).unwrap();
        }
        std::os::unix::fs::symlink("/bin/true", state.program("spiderpool-lab")).unwrap();
        assert!(!super::super::end_for_good(&state.dir).unwrap(), "there is no world yet");
        let refusal = state.start(Process::new("late", Path::new("/bin/true"))).unwrap_err();
        assert_eq!(refusal.to_string(), "this world ends");
        assert!(!state.dir.join("state.json").exists() && fs::read_dir(&state.log_dir).unwrap().count() == 0);
    }
}
