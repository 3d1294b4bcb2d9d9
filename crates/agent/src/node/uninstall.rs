//! `spiderpool-agent uninstall`: takes from the node what `install` and `multus-config` brought.
//!
//! Only folders that are named are touched, so that the default is to leave everything: pods that still run need the configuration by which
//! the runtime finds the plugins, and the plugins for their DEL, which succeed without agent and API server.
//!
//! # Caveats
//! Where the meta plugin's configuration was the only one, the runtime has no network until another one comes: it can neither start pods
//! nor end those that run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::Stop;

use super::file::{self, FileError};
use super::follow::remove_multus;
use super::install::{self, InstallError};
use super::ledger::Ledger;
use super::meta::MULTINET_FILE;
use super::removal::{Fate, Owner, RemovalError};

/// Plugins of this name are ours, whoever of our versions installed them. The last one is upstream's.
const OWN: [&str; 4] = [wire::PLUGIN_NAMES[0], wire::PLUGIN_NAMES[1], wire::PLUGIN_NAMES[2], "ifacer"];
/// Time for the pod's other containers to end, one of which writes the configuration.
const SETTLE: Duration = Duration::from_secs(1);

/// Flags of `uninstall`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Remove plugins from the node's CNI folder, as it is mounted here. DEL of pods that still run fails from then on.
    #[arg(long, value_name = "FOLDER", required_unless_present = "cni_dir")]
    pub plugins_dir: Option<PathBuf>,
    /// Further plugins to remove, which were installed for this product alone.
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "plugins_dir", value_parser = plugin_name)]
    pub plugin: Vec<String>,
    /// Remove the meta plugin's configuration from the node's CNI configuration folder, as it is mounted here.
    #[arg(long, value_name = "FOLDER")]
    pub cni_dir: Option<PathBuf>,
    /// Wait for SIGTERM, then remove the files if the DaemonSet is gone, and leave them if the pod only restarts.
    #[arg(long, requires_all = ["daemonset", "namespace"])]
    pub on_stop: bool,
    /// The DaemonSet of this pod.
    #[arg(long, env = "SPIDERPOOL_AGENT_NAME", value_name = "NAME")]
    pub daemonset: Option<String>,
    /// Its namespace.
    #[arg(long, env = "SPIDERPOOL_POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

fn plugin_name(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if plain { Ok(text.to_owned()) } else { Err("a plugin's name has letters, digits, - and _".to_owned()) }
}

/// Why files could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// A file or folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// The plugin folder.
    #[error("--plugins-dir")]
    Plugins(#[source] InstallError),
    /// Nothing is mounted there.
    #[error("--cni-dir {0}: no such folder; mount the node's CNI configuration folder there")]
    NoFolder(PathBuf),
    /// The end of the product cannot be noticed.
    #[error(transparent)]
    Removal(#[from] RemovalError),
}

/// What became of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Gone.
    pub removed: Vec<PathBuf>,
    /// Left, because somebody changed them since we installed them.
    pub kept: Vec<PathBuf>,
}

/// Removes what the flags name, now.
pub fn now(args: &Args) -> Result<Outcome, UninstallError> {
    let mut outcome = Outcome::default();
    // The configuration first: a runtime must not find one whose plugins are gone.
    if let Some(folder) = &args.cni_dir {
        if !folder.is_dir() {
            return Err(UninstallError::NoFolder(folder.clone()));
        }
        outcome.removed.extend(remove_multus(folder)?);
        let multinet = folder.join(MULTINET_FILE);
        if file::remove(&multinet)? {
            outcome.removed.push(multinet);
        }
        file::sync(folder)?;
    }
    if let Some(folder) = &args.plugins_dir {
        let _lock = install::lock(folder).map_err(UninstallError::Plugins)?;
        remove_plugins(folder, &args.plugin, &mut outcome)?;
    }
    Ok(outcome)
}

fn remove_plugins(folder: &Path, further: &[String], outcome: &mut Outcome) -> Result<(), FileError> {
    file::clear_leftovers(folder)?;
    let mut ledger = Ledger::read(folder)?;
    let by_name = OWN.into_iter().chain(further.iter().map(String::as_str));
    for name in by_name {
        if file::remove(&folder.join(name))? {
            outcome.removed.push(folder.join(name));
        }
        ledger.forget(name);
    }
    let listed: Vec<String> = ledger.names().map(str::to_owned).collect();
    for name in listed {
        let path = folder.join(&name);
        match file::read(&path)? {
            Some(content) if ledger.installed(&name, &content) => {
                file::remove(&path)?;
                outcome.removed.push(path);
            }
            Some(_) => outcome.kept.push(path),
            None => {}
        }
        ledger.forget(&name);
    }
    ledger.write(folder)?;
    file::sync(folder)
}

/// Waits for `stop`; then removes the files if the product is gone. `None`: they stay.
pub async fn on_stop(args: &Args, owner: &Owner, stop: Stop) -> Result<Option<Outcome>, UninstallError> {
    if !owner.make_sure(&stop).await? {
        tracing::info!("stopped before the API server answered; everything stays");
        return Ok(None);
    }
    stop.cancelled().await;
    match owner.fate().await {
        Fate::Removed(how) => {
            tracing::info!(reason = how, "the DaemonSet is gone: files are removed from the node");
            tokio::time::sleep(SETTLE).await;
            now(args).map(Some)
        }
        Fate::Stays => {
            tracing::info!("the DaemonSet is there: everything stays");
            Ok(None)
        }
        Fate::Unknown(why) => {
            tracing::warn!(reason = why, "the API server cannot be asked about the DaemonSet: everything stays");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;
