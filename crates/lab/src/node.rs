//! A node: a network namespace, mounts and a host name, held by one process that does nothing (`spiderpool-lab node`).
//!
//! Everything else on the node enters through that process ([`crate::enter`]). Directories that a node keeps for itself are
//! bind-mounted over the usual paths, so that all default paths of the product work on both nodes of one machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use crate::isolate;

/// The directories that are a node's own.
pub const OWN_DIRS: [&str; 10] = [
    "/run/netns",
    "/run/spidernet",
    "/var/lib/spidernet",
    "/var/log/spidernet",
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/pods",
    "/tmp/spiderpool",
];

/// The node to become.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Host name
    #[arg(long)]
    name: String,
    /// Directory for what the node keeps
    #[arg(long)]
    root: PathBuf,
}

/// The place below a node's root that stands for `dir`.
pub fn kept(root: &Path, dir: &str) -> PathBuf {
    root.join(dir.trim_start_matches('/').replace('/', "-"))
}

/// The file whose existence says that the node is ready to be entered.
pub fn ready_file(root: &Path) -> PathBuf {
    root.join("ready")
}

/// Makes the mount points that are missing; returns those that it made, outermost first, for whoever cleans up.
pub fn make_mount_points() -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for dir in OWN_DIRS {
        let missing: Vec<&Path> = Path::new(dir).ancestors().take_while(|path| !path.exists()).collect();
        for path in missing.into_iter().rev() {
            fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
            made.push(path.to_owned());
        }
    }
    Ok(made)
}

/// Becomes the node's first process. The caller has put it into the network namespace.
pub fn run(args: Args) -> Result<()> {
    isolate::own_mounts_and_name().context("cannot separate mounts and host name")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make the mounts private")?;
    rustix::system::sethostname(args.name.as_bytes())
        .with_context(|| format!("cannot set the host name {}", args.name))?;
    // Shows this network namespace's devices instead of the host's.
    mount("sysfs", "/sys", "sysfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .context("cannot mount /sys")?;
    for dir in OWN_DIRS {
        let own = kept(&args.root, dir);
        fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
        mount_bind(&own, dir).with_context(|| format!("cannot bind {} to {dir}", own.display()))?;
    }
    fs::write(ready_file(&args.root), "").context("cannot say that the node is ready")?;
    loop {
        std::thread::park();
    }
}
