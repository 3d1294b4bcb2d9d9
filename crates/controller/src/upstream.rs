//! The move from upstream Spiderpool: allocations that only `status.allocatedIPs` tells, and pods that only their own objects tell,
//! become SpiderIPs.
//!
//! A pool begins without `status.source`. The keeper of pools hands it to [`import`], which makes SpiderIPs of
//!
//! * every entry of `status.allocatedIPs`, completed from the SpiderEndpoint and the pod;
//! * every address of the pool that a running pod has although nothing is recorded: pods that outlived an earlier installation.
//!
//! Only then, and only when no agent of upstream is left, is `status.source` written, by compare-and-swap with the version of the pool
//! that was looked at. Whatever upstream writes later takes the member away again, because upstream does not know it.
//!
//! Addresses that such a pool is given later are looked at in the same way: `status.sourceIPs` tells which were.
//!
//! Until then agents keep to the protocol of [`store::upstream`], and addresses of pools without any entry are not given at all.

pub mod import;
pub mod sources;

use std::{convert::Infallible, time::Duration};

use daemon::Stop;
use kube::Client;
use tokio::sync::watch;

/// How often to look for agents of upstream while there are some, or it is not known.
const LOOK: Duration = Duration::from_secs(5);
/// How often to look when there are none: somebody may go back to upstream.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Which agents are at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It is not known yet.
    #[default]
    Unknown,
    /// At least one of upstream: `status.allocatedIPs` is theirs.
    Mixed,
    /// Ours alone.
    Ours,
}

/// Tells which agents are at work until `stop`. `component` is the name of the agents' component.
pub async fn watch(
    client: Client,
    component: String,
    phase: watch::Sender<Phase>,
    stop: Stop,
) -> Result<(), Infallible> {
    loop {
        match store::upstream::agent(&client, &component, None).await {
            Ok(found) => {
                let now = if found.is_some() { Phase::Mixed } else { Phase::Ours };
                if phase.send_if_modified(|phase| std::mem::replace(phase, now) != now) {
                    match found {
                        Some((namespace, pod)) => tracing::info!(
                            namespace,
                            pod,
                            "agents of upstream are at work: their allocations are followed"
                        ),
                        None => tracing::info!("no agent of upstream is at work"),
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look for agents of upstream"),
        }
        let pause = if *phase.borrow() == Phase::Ours { LOOK_AGAIN } else { LOOK };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
    }
}
