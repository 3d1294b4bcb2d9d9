//! `DELETE /v1/ipam/ip` and `/ips`: end the use of addresses by one sandbox.
//!
//! A release never fails because the API server is away: what could not be confirmed is left as a note in the spool, which is durable,
//! and worked off later. What becomes of record and endpoint of the pod is told by the books (see [`crate::app`]), because addresses are
//! freed by the end of a pod as well.

use crate::agent::Agent;
use crate::metrics::{self, Class};
use ipam::claim::{PodFate, Release, ReleaseError, Released};
use std::time::{Duration, Instant, SystemTime};
use store::{Failure, pods};
use wire::agent::{BatchReleaseArgs, ReleaseArgs};
use wire::spool::Note;

/// Longest wait for the API server before a note is left instead. A plugin waits 100 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a release is not done.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseFailure {
    /// It cannot be told whether the pod lives.
    #[error("cannot read Pod {namespace}/{name}")]
    Pod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Why not.
        #[source]
        source: Failure,
    },
    /// The API server did not confirm.
    #[error(transparent)]
    Unconfirmed(#[from] ReleaseError),
    /// Nor did it answer.
    #[error("release is not confirmed within {PATIENCE:?}")]
    Late,
    /// The process ends.
    #[error("the agent is stopping")]
    Stopping,
}

/// Why a `DEL` is answered with an error: it is neither done nor noted.
#[derive(Debug, thiserror::Error)]
#[error("release is not done ({failure}) and no note of it can be left in {dir}")]
pub struct Lost {
    failure: ReleaseFailure,
    dir: String,
    #[source]
    source: std::io::Error,
}

/// Serves a `DEL`.
pub async fn release(agent: &Agent, args: ReleaseArgs) -> Result<(), Lost> {
    let started = Instant::now();
    let outcome = match attempt(agent, &args).await {
        Ok(()) => Ok(()),
        Err(failure) => leave_note(agent, args, failure).await,
    };
    agent.metrics.released(metrics::Command::Del, started.elapsed(), outcome.as_ref().err().map(|_| Class::Internal));
    outcome
}

async fn leave_note(agent: &Agent, release: ReleaseArgs, failure: ReleaseFailure) -> Result<(), Lost> {
    tracing::warn!(target: "IPAM", error = %daemon::Chain(&failure), "release is noted and will be worked off");
    let written = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let spool = agent.spool.clone();
    let left = tokio::task::spawn_blocking(move || spool.leave(&Note { release, written })).await;
    let dir = agent.spool.dir().display().to_string();
    match left.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(_) => Ok(()),
        Err(source) => Err(Lost { failure, dir, source }),
    }
}

/// Releases; nothing is noted on failure. What the spool's worker calls.
pub async fn attempt(agent: &Agent, args: &ReleaseArgs) -> Result<(), ReleaseFailure> {
    let uid = uid(agent, args);
    let fate = fate(agent, &args.pod_namespace, &args.pod_name, uid.as_deref()).await?;
    let release = Release {
        pod_uid: uid.clone(),
        container: args.container_id.clone(),
        interface: Some(args.if_name.clone()),
        fate,
    };
    let released = confirmed(agent, release).await?;
    tracing::debug!(target: "IPAM", freed = released.freed.len(), kept = released.kept.len(), "DEL answered");
    Ok(())
}

/// UID that claims are booked under. The runtime may call a pod by no UID or by that of a static pod.
fn uid(agent: &Agent, args: &ReleaseArgs) -> Option<String> {
    let (namespace, name) = (args.pod_namespace.as_str(), args.pod_name.as_str());
    if !args.pod_uid.is_empty() && !agent.books.of_pod(&args.pod_uid).is_empty() {
        return Some(args.pod_uid.clone());
    }
    if let Some(uid) = agent.books.pod_of_container(namespace, name, &args.container_id) {
        return Some(uid);
    }
    let cached = agent.caches.pods.get(&store::cache::key(Some(namespace), name));
    match cached.filter(|pod| !args.pod_uid.is_empty() && pod.is_called(&args.pod_uid)) {
        Some(pod) => Some(pod.uid.clone()),
        None => Some(args.pod_uid.clone()).filter(|uid| !uid.is_empty()),
    }
}

/// Does the pod with this UID live?
///
/// The cache may say "alive" too long, which does no harm: the watch tells of the end later, and what a sandbox has ended is freed then. It
/// cannot say "gone" too early. Only where it does not know the pod at all is the API server asked.
pub async fn fate(agent: &Agent, namespace: &str, name: &str, uid: Option<&str>) -> Result<PodFate, ReleaseFailure> {
    if uid.is_some_and(|uid| agent.caches.gone.contains(uid)) {
        return Ok(PodFate::Gone);
    }
    let of_pod = |alive: bool| if alive { PodFate::Alive } else { PodFate::Gone };
    let is_meant = |found: &str| uid.is_none_or(|uid| uid == found);
    let cached = agent.caches.pods.get(&store::cache::key(Some(namespace), name));
    if let Some(pod) = cached.filter(|pod| is_meant(&pod.uid)) {
        return Ok(of_pod(pod.is_alive()));
    }
    match pods::read(&agent.client, namespace, name).await {
        Ok(pod) => Ok(of_pod(pod.is_some_and(|pod| is_meant(&pod.uid) && pod.is_alive()))),
        Err(source) => Err(ReleaseFailure::Pod { namespace: namespace.to_owned(), name: name.to_owned(), source }),
    }
}

async fn confirmed(agent: &Agent, release: Release) -> Result<Released, ReleaseFailure> {
    match tokio::time::timeout(PATIENCE, agent.books.release(release)).await {
        Ok(Some(outcome)) => Ok(outcome?),
        Ok(None) => Err(ReleaseFailure::Stopping),
        Err(_) => Err(ReleaseFailure::Late),
    }
}

/// Why a batch release is refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum BatchFailure {
    /// Switched off (521).
    #[error("releasing conflicting IPs is disabled: forbid releasing IPs for stateless workload")]
    Disabled,
    /// The pod keeps its addresses (522).
    #[error("forbid releasing IPs for stateful workload")]
    Stateful,
    /// Anything else (500).
    #[error(transparent)]
    Failed(#[from] ReleaseFailure),
}

/// Serves the plugin that found an address in use or a gateway dead: all addresses of the sandbox are given back although the pod lives.
pub async fn release_batch(agent: &Agent, args: BatchReleaseArgs) -> Result<(), BatchFailure> {
    let started = Instant::now();
    let outcome = attempt_batch(agent, args).await;
    agent.metrics.released(
        metrics::Command::Release,
        started.elapsed(),
        outcome.as_ref().err().map(|_| Class::Internal),
    );
    outcome
}

async fn attempt_batch(agent: &Agent, args: BatchReleaseArgs) -> Result<(), BatchFailure> {
    if args.is_release_conflict_ips {
        let cached = agent.caches.pods.get(&store::cache::key(Some(&args.pod_namespace), &args.pod_name));
        let controller = cached.as_ref().and_then(|pod| pod.controller.as_ref());
        if agent.settings.stateful_set && controller.is_some_and(crate::endpoints::is_stateful_set) {
            return Err(BatchFailure::Stateful);
        }
        if !agent.settings.release_conflict_ips {
            return Err(BatchFailure::Disabled);
        }
    }
    let names = ReleaseArgs {
        container_id: args.container_id.clone(),
        pod_namespace: args.pod_namespace,
        pod_name: args.pod_name,
        pod_uid: args.pod_uid,
        ..ReleaseArgs::default()
    };
    let pod_uid = uid(agent, &names);
    let release = Release { pod_uid, container: args.container_id, interface: None, fate: PodFate::Rejected };
    confirmed(agent, release).await?;
    Ok(())
}
