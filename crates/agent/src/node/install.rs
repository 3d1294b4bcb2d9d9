//! `spiderpool-agent install`: puts plugin files into the node's CNI folder.
//!
//! # Expected flow
//! Under the folder's lock: leftovers of a killed run go; every new file is written completely beside its place; then all of them get
//! their names. So a full disk is noticed before the first plugin changes, and a crash leaves old and new plugins, each of them complete.
//!
//! # Guarantees
//! * A plugin that is there stays callable at every instant; calls that run keep the file they began with.
//! * A file that is as it should be is not touched.
//! * Every name is a file of its own: an installer that overwrites one in place (upstream's does, when a cluster goes back to it) must not
//!   change the others, as it would through links.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use daemon::Env;

use super::file::{self, FileError, Staged, failed};
use super::ledger::Ledger;

/// The file in the image that plays all our plugins.
const PROGRAM: &str = "spiderpool";
/// How long another installer of the same folder may take.
const LOCK_LIMIT: Duration = Duration::from_secs(120);
const EXECUTABLE: u32 = 0o755;

/// Sets of plugins by other projects: the variable that asks for one (as upstream's image has them) and its folder. Later ones win.
const SETS: [(&str, &str); 7] = [
    ("INSTALL_CNI_PLUGINS", "cni"),
    ("INSTALL_OVS_PLUGIN", "ovs"),
    ("INSTALL_RDMA_PLUGIN", "rdma"),
    ("INSTALL_SRIOV_PLUGIN", "sriov"),
    ("INSTALL_IB_SRIOV_PLUGIN", "ib-sriov"),
    ("INSTALL_IPOIB_PLUGIN", "ipoib"),
    ("INSTALL_VLAN_PLUGIN", "vlan"),
];

/// Flags of `install`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The node's CNI folder, as it is mounted here.
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,
    /// Where the plugins are. With --sets: the folder that has a folder for each set.
    #[arg(long, value_name = "FOLDER", default_value = "/usr/bin")]
    pub from: PathBuf,
    /// Install the sets of plugins that INSTALL_CNI_PLUGINS, INSTALL_VLAN_PLUGIN, ... ask for, instead of Spiderpool's own plugins.
    #[arg(long)]
    pub sets: bool,
}

/// Why plugins cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Nothing is mounted there.
    #[error("--to {0}: no such folder; mount the node's CNI folder there")]
    NoTarget(PathBuf),
    /// A file or folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// A variable that is no boolean.
    #[error(transparent)]
    Env(#[from] daemon::env::Error),
    /// A set that was asked for is not in the image.
    #[error("environment variable {variable}: true, but this image has no such plugins (no folder {folder})")]
    NoSet {
        /// The variable.
        variable: &'static str,
        /// Where the set would be.
        folder: PathBuf,
    },
    /// Something else installs and does not come to an end.
    #[error("{folder}: another installer holds the lock of this folder since {LOCK_LIMIT:?}")]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
}

/// What became of each name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// New or changed.
    pub installed: Vec<String>,
    /// As they should be.
    pub unchanged: Vec<String>,
}

/// Installs what the flags and the environment ask for.
pub fn run(args: &Args, env: &Env) -> Result<Outcome, InstallError> {
    let plugins = if args.sets { sets(&args.from, env)? } else { own(&args.from)? };
    install(&args.to, &plugins)
}

/// Our plugins: one file under each of its names.
fn own(from: &Path) -> Result<BTreeMap<String, Vec<u8>>, InstallError> {
    let path = from.join(PROGRAM);
    let program = fs::read(&path).map_err(failed("read", &path))?;
    Ok(wire::PLUGIN_NAMES.iter().map(|name| ((*name).to_owned(), program.clone())).collect())
}

/// The plugins of all sets that are asked for.
fn sets(from: &Path, env: &Env) -> Result<BTreeMap<String, Vec<u8>>, InstallError> {
    let mut plugins = BTreeMap::new();
    for (variable, set) in SETS {
        if !env.flag(variable, false)? {
            continue;
        }
        let folder = from.join(set);
        if !folder.is_dir() {
            return Err(InstallError::NoSet { variable, folder });
        }
        for entry in fs::read_dir(&folder).map_err(failed("list folder", &folder))? {
            let path = entry.map_err(failed("list folder", &folder))?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_file()) {
                plugins.insert(name.to_owned(), fs::read(&path).map_err(failed("read", &path))?);
            }
        }
    }
    Ok(plugins)
}

/// Brings the folder's files to these contents.
pub fn install(to: &Path, plugins: &BTreeMap<String, Vec<u8>>) -> Result<Outcome, InstallError> {
    let _lock = lock(to)?;
    file::clear_leftovers(to)?;
    let mut ledger = Ledger::read(to)?;
    let mut outcome = Outcome::default();
    let mut staged = Vec::new();
    for (name, content) in plugins {
        let there = fs::symlink_metadata(to.join(name)).is_ok();
        if !there || ledger.knows(name) || wire::PLUGIN_NAMES.contains(&name.as_str()) {
            ledger.record(name, content);
        }
        if file::is(&to.join(name), content, EXECUTABLE)? {
            outcome.unchanged.push(name.clone());
        } else {
            staged.push(Staged::new(to, name, content, EXECUTABLE)?);
            outcome.installed.push(name.clone());
        }
    }
    // First the list: a file that it names and that is missing does no harm, the reverse would stay on the node for ever.
    ledger.write(to)?;
    for one in staged {
        one.commit()?;
    }
    file::sync(to)?;
    Ok(outcome)
}

/// Keeps other installers out of a folder while the returned value lives.
pub fn lock(folder: &Path) -> Result<File, InstallError> {
    if !folder.is_dir() {
        return Err(InstallError::NoTarget(folder.to_owned()));
    }
    let handle = File::open(folder).map_err(failed("open", folder))?;
    let started = Instant::now();
    loop {
        match handle.try_lock() {
            Ok(()) => return Ok(handle),
            Err(TryLockError::Error(error)) => return Err(failed("lock", folder)(error).into()),
            Err(TryLockError::WouldBlock) if started.elapsed() >= LOCK_LIMIT => {
                return Err(InstallError::Locked { folder: folder.to_owned() });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[cfg(test)]
mod tests;
