//! A node's root: the machine's own, with everything that is written kept in memory.
//!
//! An overlay over `/` lets the node use the machine's programs and write wherever it likes, `/opt/cni/bin` or `/etc/cni/net.d` included,
//! while the machine sees none of it. Directories of which the machine may have its own content begin empty.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::{chdir, pivot_root};

/// Begin empty. The disk of the container runtime must not be an overlay itself, so `/var/lib` is here as well.
const OWN: [&str; 5] = ["var/lib", "var/log", "opt", "etc/cni", "tmp"];

/// Settings of the whole machine that a kubelet would change; it finds its own wish there instead.
const PRETENDED: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1\n"),
    ("vm/panic_on_oom", "0\n"),
    ("kernel/panic", "10\n"),
    ("kernel/panic_on_oops", "1\n"),
    ("kernel/keys/root_maxkeys", "1000000\n"),
    ("kernel/keys/root_maxbytes", "25000000\n"),
];

/// Makes the calling process, whose mounts are its own, live in the node's root. What is written lies in `keep`, which must be in memory;
/// `shared` are directories that are the same inside and outside.
pub fn enter(keep: &Path, shared: &[PathBuf]) -> Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make the mounts private")?;
    let root = keep.join("root");
    for dir in ["root", "upper", "work", "own"] {
        make(&keep.join(dir))?;
    }
    let data = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", keep.display());
    let data = CString::new(data).context("a path with a zero byte")?;
    mount("overlay", &root, "overlay", MountFlags::empty(), Some(data.as_c_str()))
        .with_context(|| format!("cannot mount an overlay of / at {}", root.display()))?;
    for dir in OWN {
        let own = keep.join("own").join(dir.replace('/', "-"));
        make(&own)?;
        bind(&own, &root.join(dir))?;
    }
    let nothing = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", root.join("proc"), "proc", nothing, None).context("cannot mount /proc")?;
    // Shows this network namespace's devices instead of the machine's.
    mount("sysfs", root.join("sys"), "sysfs", nothing, None).context("cannot mount /sys")?;
    mount_bind_recursive("/sys/fs/cgroup", root.join("sys/fs/cgroup")).context("cannot bind the control groups")?;
    mount_bind_recursive("/dev", root.join("dev")).context("cannot bind /dev")?;
    let state = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", root.join("run"), "tmpfs", state, Some(c"mode=755")).context("cannot mount /run")?;
    make(&root.join("run/lock"))?;
    for dir in shared {
        let inside = root.join(dir.strip_prefix("/").unwrap_or(dir));
        make(&inside)?;
        bind(dir, &inside)?;
    }
    pretend(keep, &root)?;
    chdir(&root).with_context(|| format!("cannot enter {}", root.display()))?;
    // The old root ends up over the new one, and goes at once (pivot_root(2)).
    pivot_root(".", ".").context("cannot change the root")?;
    unmount(".", UnmountFlags::DETACH).context("cannot let go of the old root")?;
    chdir("/").context("cannot enter /")?;
    // For volumes with mountPropagation: Bidirectional.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).context("cannot make the mounts shared")
}

fn pretend(keep: &Path, root: &Path) -> Result<()> {
    for (name, value) in PRETENDED {
        let target = root.join("proc/sys").join(name);
        if target.exists() {
            let file = keep.join("own").join(name.replace('/', "-"));
            fs::write(&file, value).with_context(|| format!("cannot write {}", file.display()))?;
            bind(&file, &target)?;
        }
    }
    Ok(())
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    // The directory may be absent on this machine; a file is never.
    if from.is_dir() {
        make(to)?;
    }
    mount_bind(from, to).with_context(|| format!("cannot bind {} to {}", from.display(), to.display()))
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}
