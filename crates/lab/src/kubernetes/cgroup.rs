//! A control group per node in every hierarchy of this machine; the kubelet makes those of its pods below it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const ROOT: &str = "/sys/fs/cgroup";

/// The name of a node's group, seen from the root of a hierarchy.
pub fn name(cluster: &str, node: &str) -> String {
    format!("spiderpool-cluster-{cluster}-{node}")
}

/// The roots of all hierarchies: one with cgroup v2 alone, several with v1 or both.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join("cgroup.procs").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let entries = fs::read_dir(root).with_context(|| format!("cannot read {ROOT}"))?;
    let dirs = entries.filter_map(|entry| Some(entry.ok()?.path()));
    // `cpu` and `cpuacct` may be two names of one hierarchy.
    let found: Vec<PathBuf> = dirs.filter(|dir| dir.join("cgroup.procs").exists() && !dir.is_symlink()).collect();
    if found.is_empty() {
        bail!("{ROOT} has no control groups: the kubelet needs them");
    }
    Ok(found)
}

/// Makes a group in every hierarchy.
pub fn make(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        if hierarchy == Path::new(ROOT) {
            // v2 alone: a group has the controllers that the root hands down; init systems do that, a bare kernel does not.
            hand_down(&hierarchy)?;
        }
        let dir = hierarchy.join(name);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make {}", dir.display()));
            }
            _ => {}
        }
        // v1: a new group has no CPUs and no memory, and nothing can be put into it. In this order.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(inherited) = fs::read(hierarchy.join(file))
                && hierarchy.join("cgroup.clone_children").exists()
            {
                fs::write(dir.join(file), inherited)
                    .with_context(|| format!("cannot write {}", dir.join(file).display()))?;
            }
        }
        hand_down(&dir)?;
    }
    Ok(())
}

/// Gives the groups below a group of v2 its controllers.
fn hand_down(dir: &Path) -> Result<()> {
    let Ok(controllers) = fs::read_to_string(dir.join("cgroup.controllers")) else { return Ok(()) };
    let now = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let given: Vec<&str> = now.split_whitespace().collect();
    let missing = controllers.split_whitespace().filter(|name| !given.contains(name));
    let missing: Vec<String> = missing.map(|name| format!("+{name}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::write(dir.join("cgroup.subtree_control"), missing.join(" "))
        .with_context(|| format!("cannot hand the controllers of {} down", dir.display()))
}

/// Removes a group with all below it from every hierarchy; its last processes may take a moment to go.
pub fn remove(name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    for hierarchy in hierarchies()? {
        let dir = hierarchy.join(name);
        loop {
            match remove_tree(&dir) {
                Ok(()) => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}
