//! What a cluster is on this machine, noted while it is up, to be looked for when it is gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lab::kubelet::start_ticks;
use lab::kubernetes::{Cluster, dir};

/// Processes and namespaces of a cluster.
pub struct Traces {
    name: String,
    processes: Vec<(u32, u64)>,
    namespaces: BTreeSet<String>,
}

impl Traces {
    /// Everything below the cluster's keeper.
    pub fn of(cluster: &Cluster) -> Self {
        let keeper = cluster.keeper_pid();
        let own: BTreeSet<String> = namespaces(std::process::id()).into_iter().collect();
        let mut processes = vec![keeper];
        let mut at = 0;
        while at < processes.len() {
            processes.extend(children(processes[at]));
            at += 1;
        }
        let namespaces = processes.iter().flat_map(|pid| namespaces(*pid)).filter(|ns| !own.contains(ns)).collect();
        let processes = processes.into_iter().filter_map(|pid| Some((pid, start_ticks(pid)?))).collect();
        Self { name: cluster.options().name.clone(), processes, namespaces }
    }

    /// How much there was.
    pub fn size(&self) -> String {
        format!("{} processes, {} namespaces", self.processes.len(), self.namespaces.len())
    }

    /// What is still there.
    pub fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        for (pid, ticks) in &self.processes {
            if start_ticks(*pid) == Some(*ticks) {
                let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
                left.push(format!("process {pid}: {words}"));
            }
        }
        for pid in processes() {
            let inside = namespaces(pid).into_iter().filter(|ns| self.namespaces.contains(ns));
            left.extend(inside.map(|ns| format!("process {pid} in {ns}")));
        }
        let state = dir(&self.name);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = |line: &&str| {
            line.contains(&format!("{}", state.display()))
                || self.namespaces.iter().any(|ns| line.contains(ns.as_str()))
        };
        left.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
        let group = format!("spiderpool-cluster-{}-", self.name);
        for hierarchy in entries(Path::new("/sys/fs/cgroup")).into_iter().chain(["/sys/fs/cgroup".into()]) {
            let ours = |path: &std::path::PathBuf| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&group))
            };
            left.extend(
                entries(&hierarchy).into_iter().filter(ours).map(|path| format!("control group {}", path.display())),
            );
        }
        if state.exists() {
            left.push(format!("directory {}", state.display()));
        }
        left
    }
}

/// The names of this machine's own interfaces.
pub fn interfaces() -> Vec<String> {
    let mut names: Vec<String> = entries(Path::new("/sys/class/net"))
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn processes() -> Vec<u32> {
    entries(Path::new("/proc")).iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect()
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = entries(Path::new(&format!("/proc/{pid}/task")));
    let lists = tasks.iter().filter_map(|task| fs::read_to_string(task.join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// `net:[4026531840]` and the like.
fn namespaces(pid: u32) -> Vec<String> {
    ["net", "pid", "mnt"]
        .iter()
        .filter_map(|kind| Some(fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?.display().to_string()))
        .collect()
}
