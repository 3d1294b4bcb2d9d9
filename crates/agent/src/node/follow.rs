//! `spiderpool-agent multus-config`: writes the meta plugin's configuration and keeps it true while tokens, authorities and the default
//! network change.
//!
//! # Expected flow
//! What should be there is computed anew every few seconds and compared with what is there, so that changes by hand are undone too. The
//! kubeconfig comes first, the configuration last: a runtime that sees the configuration can use it.
//!
//! # Guarantees
//! * On a new node the configuration appears only when the agent can serve; one that is there already is kept true from the start, because
//!   the token in it ends with the pod that wrote it.
//! * A default network that disappears does not take the configuration with it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use daemon::probe::{self, Probe};
use daemon::{Chain, Stop};

use super::default_network;
use super::file::{self, FileError, failed};
use super::kubeconfig::{self, ApiServer, KubeconfigError};
use super::meta::{Implementation, KUBECONFIG_FILE, MULTINET_FILE, MULTUS_FILE, MULTUS_FOLDER, Options};

/// How often readiness of the agent and the default network are looked at before there is a configuration.
const WAIT: Duration = Duration::from_millis(500);
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Flags of `multus-config`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The node's CNI configuration folder, as it is mounted here.
    #[arg(long, value_name = "FOLDER", default_value = "/host/etc/cni/net.d")]
    pub cni_dir: PathBuf,
    /// The cluster's default network: a NetworkAttachmentDefinition, namespace/name or name. Without it: the first CNI configuration of the node.
    #[arg(long, env = "MULTUS_CLUSTER_NETWORK", value_name = "NETWORK", default_value = "")]
    pub cluster_network: String,
    /// What the configuration says.
    #[command(flatten)]
    pub options: Options,
    /// Where the API server is.
    #[command(flatten)]
    pub server: ApiServer,
    /// Token and authority for Multus.
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    pub service_account: PathBuf,
    /// Port on which the agent answers probes.
    #[arg(long, env = "SPIDERPOOL_HEALTH_PORT", value_name = "PORT", default_value_t = 5710)]
    pub agent_port: u16,
    /// Do not wait for the agent before the first configuration is written.
    #[arg(long)]
    pub no_wait: bool,
    /// End when the configuration is written.
    #[arg(long)]
    pub once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,
}

/// Why the configuration cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A file or folder of the node.
    #[error(transparent)]
    File(#[from] FileError),
    /// No kubeconfig.
    #[error("no kubeconfig for Multus")]
    Kubeconfig(#[from] KubeconfigError),
}

/// What one look led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything is as it should be; these files were changed or removed for that.
    Settled(Vec<PathBuf>),
    /// There is no configuration yet, or it cannot follow now.
    Waiting(String),
}

/// Writes and follows until `stop`. An error before the first configuration ends it; later ones are logged, and it tries again.
pub async fn run(args: Args, stop: Stop) -> Result<(), FollowError> {
    let mut settled = false;
    let mut said = String::new();
    loop {
        let looking = args.clone();
        let step = tokio::task::spawn_blocking(move || step(&looking)).await.unwrap_or_else(|panic| {
            std::panic::resume_unwind(panic.into_panic()) // it is never aborted
        });
        let saying = match step {
            Ok(Step::Settled(changed)) => {
                for path in &changed {
                    tracing::info!(path = %path.display(), "changed");
                }
                settled = true;
                String::new()
            }
            Ok(Step::Waiting(what)) => what,
            Err(error) if !settled => return Err(error),
            Err(error) => Chain(&error).to_string(),
        };
        if !saying.is_empty() && saying != said {
            tracing::warn!(reason = saying, "the meta plugin's configuration cannot be brought up to date");
        }
        if settled && args.once {
            return Ok(());
        }
        let pause = if settled && saying.is_empty() { Duration::from_secs(args.interval) } else { WAIT };
        said = saying;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Brings the folder to what it should be now.
pub fn step(args: &Args) -> Result<Step, FollowError> {
    let mut changed = Vec::new();
    if args.options.implementation == Implementation::Multus {
        let text = kubeconfig::render(&args.service_account, &args.server, &args.options.namespace)?;
        let folder = args.cni_dir.join(MULTUS_FOLDER);
        if !folder.is_dir() {
            DirBuilder::new().mode(0o700).create(&folder).map_err(failed("create folder", &folder))?;
            file::sync(&args.cni_dir)?;
        }
        if file::put(&folder, KUBECONFIG_FILE, text.as_bytes(), 0o600)? {
            changed.push(folder.join(KUBECONFIG_FILE));
        }
    }
    let network = match args.cluster_network.as_str() {
        "" => {
            let found = default_network::find(&args.cni_dir)?;
            match found.network {
                Some((name, _)) => name,
                None => return Ok(Step::Waiting(nothing_found(args, &found.unusable))),
            }
        }
        name => name.to_owned(),
    };
    let place = args.cni_dir.join(args.options.file());
    if !args.no_wait
        && file::read(&place)?.is_none()
        && let Err(error) = probe::ask(args.agent_port, Probe::Readiness, PROBE_LIMIT)
    {
        return Ok(Step::Waiting(format!("the agent is not ready: {}", Chain(&error))));
    }
    if file::put(&args.cni_dir, args.options.file(), args.options.render(&network).as_bytes(), 0o644)? {
        changed.push(place);
    }
    changed.extend(remove_the_other(args)?);
    Ok(Step::Settled(changed))
}

fn nothing_found(args: &Args, unusable: &[String]) -> String {
    let folder = args.options.host_cni_dir.display();
    let mut text = format!(
        "no cluster network is given (MULTUS_CLUSTER_NETWORK), and {folder} of the node has no CNI configuration yet"
    );
    if !unusable.is_empty() {
        text.push_str(&format!(" that can be used ({})", unusable.join("; ")));
    }
    text
}

/// After a change of implementation the runtime must not find both: the first by name would win.
fn remove_the_other(args: &Args) -> Result<Vec<PathBuf>, FileError> {
    match args.options.implementation {
        Implementation::Multus => {
            let place = args.cni_dir.join(MULTINET_FILE);
            Ok(file::remove(&place)?.then_some(place).into_iter().collect())
        }
        Implementation::Multinet => {
            let place = args.cni_dir.join(MULTUS_FILE);
            let ours = file::read(&place)?.is_some_and(|text| args.options.is_ours(&text));
            if ours { remove_multus(&args.cni_dir) } else { Ok(Vec::new()) }
        }
    }
}

/// Removes Multus' configuration and kubeconfig.
pub(super) fn remove_multus(cni_dir: &std::path::Path) -> Result<Vec<PathBuf>, FileError> {
    let folder = cni_dir.join(MULTUS_FOLDER);
    let mut removed = Vec::new();
    for path in [cni_dir.join(MULTUS_FILE), folder.join(KUBECONFIG_FILE)] {
        if file::remove(&path)? {
            removed.push(path);
        }
    }
    match std::fs::remove_dir(&folder) {
        Ok(()) => removed.push(folder),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty) => {}
        Err(error) => return Err(failed("remove folder", &folder)(error)),
    }
    Ok(removed)
}

#[cfg(test)]
mod tests;
