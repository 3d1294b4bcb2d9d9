//! What is made good after a stop, clean or not, and from time to time.
//!
//! | left behind by a kill | made good by |
//! |---|---|
//! | claims whose ADD was never answered | the repeated ADD finds them; if the pod goes instead, its end frees them |
//! | claims of pods that are gone | their `DEL`, and where none comes [`watch_over`]; after a start of the machine [`at_start`] |
//! | that a sandbox has ended, and its claim waits for the pod's end | [`watch_over`], once the pod is gone or finished |
//! | creates that land after they were given up | [`at_start`], afterwards for as long as the process lives |
//! | claims that somebody else removed or made | the same, also when nothing tells of it; a pool that is used up is looked at before that is said |
//! | endpoints that were not written | [`at_start`] |
//! | endpoints of pods that have nothing any more | [`at_start`] |

use crate::agent::Agent;
use crate::records::{self, Record};
use crate::release;
use futures::{StreamExt, stream};
use ipam::claim::{Claim, PodFate, PodKey};
use ipam::detail::{Allocation, NicDetail};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::pods::Pod;
use store::{Endpoints, Failure, pods};

/// Pods looked after at a time.
const PARALLEL: usize = 8;
/// How often pods with claims are looked at; costs no request but for pods that the cache does not know.
const LOOK: Duration = Duration::from_secs(30);
/// How long a pod may be gone or finished before its addresses are taken without a `DEL` (upstream's garbage collection: 10 minutes).
pub const NO_DEL: Duration = Duration::from_secs(600);
/// Wait before a create of unknown outcome must have landed or not.
const LANDED: Duration = Duration::from_secs(30);
/// How often the books are compared with what the API server has when nothing calls for it. Every node does so, and an API server that looks
/// through all claims for each of them has 3 such lists a second with 5,000 nodes.
const COMPARE: Duration = Duration::from_secs(1800);
const PAUSE: Duration = Duration::from_secs(2);

/// Makes good what the previous process left, then looks for creates that landed late. Called once the caches are synced.
///
/// First of all it is known of every pod with claims whether it lives: what somebody else frees of one that does not is not claimed
/// again.
pub async fn at_start(agent: Arc<Agent>) {
    let pods = agent.books.pods();
    stream::iter(&pods).for_each_concurrent(PARALLEL, |pod| settle(&agent, pod, Waited::No)).await;
    tokio::join!(orphans(&agent), doubt(&agent));
}

/// Removes the endpoints of this node's pods that are gone.
async fn orphans(agent: &Agent) {
    let orphans = loop {
        match Endpoints::new(agent.client.clone()).of_node(&agent.settings.node).await {
            Ok(endpoints) => break endpoints,
            Err(failure @ Failure::Refused(_)) => {
                tracing::warn!(error = %failure, "cannot list the endpoints of this node");
                return;
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    for endpoint in orphans {
        let (namespace, name) =
            (endpoint.metadata.namespace.unwrap_or_default(), endpoint.metadata.name.unwrap_or_default());
        let uid = endpoint.status.unwrap_or_default().current.uid;
        if agent.books.of_pod(&uid).is_empty() && is_gone(agent, &namespace, &name, &uid).await {
            tracing::info!(endpoint = %format_args!("{namespace}/{name}"), "endpoint of a pod that is gone is removed");
            agent.endpoints.remove(&namespace, &name, &uid);
        }
    }
}

/// Whether a pod that is gone or finished had the time that its `DEL` may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// It went while no agent was at work, who knows when.
    No,
    /// It was seen to be gone or finished that long.
    Yes,
}

/// Sees to the claims of a pod that is gone, and that a living one has its endpoint.
async fn settle(agent: &Agent, pod: &PodKey, waited: Waited) {
    loop {
        match found(agent, pod).await {
            Ok(Some(found)) => {
                let is_over = found.is_finished() && is_over(agent, pod, "finished", waited);
                if is_over || !found.is_alive() {
                    agent.books.pod_gone(&pod.uid, is_over);
                }
                if is_over || waited == Waited::Yes {
                    return;
                }
                match record(agent, &found, |record| agent.endpoints.shrink(record)).await {
                    Ok(_) => return,
                    Err(failure @ Failure::Refused(_)) => {
                        tracing::warn!(target: "IPAM", error = %failure, "cannot read the endpoint of a pod that has addresses");
                        return;
                    }
                    Err(failure) => {
                        tracing::warn!(target: "IPAM", error = %failure, "cannot read the endpoint of a pod that has addresses, trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            Ok(None) => return agent.books.pod_gone(&pod.uid, is_over(agent, pod, "gone", waited)),
            Err(failure) => {
                tracing::warn!(target: "IPAM", error = %failure, "cannot read a pod that has addresses, trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A pod's object is gone, or the pod has finished: its addresses are free once its sandbox is gone, too. What a sandbox has ended to use is
/// freed in any case, but which one that was is not known after a restart.
fn is_over(agent: &Agent, pod: &PodKey, state: &str, waited: Waited) -> bool {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let claims = agent.books.of_pod(&pod.uid);
    let sign = agent.sandboxes.sign(&claims);
    let is_over = sign.is_none() && (waited == Waited::Yes || agent.sandboxes.are_of_earlier_boot(&claims));
    match sign {
        None if is_over => {
            tracing::info!(target: "IPAM", pod = name, uid = %pod.uid, "pod is {state}, its addresses are freed");
        }
        None => {
            tracing::info!(target: "IPAM", pod = name, uid = %pod.uid, "pod is {state}, its addresses are kept until its DEL, or for {:?}", agent.settings.no_del);
        }
        Some(sign) => {
            tracing::warn!(target: "IPAM", pod = name, uid = %pod.uid, sign, "pod is {state}, but not its sandbox: its addresses are kept");
        }
    }
    is_over
}

/// The object of this UID, alive or not; `None` is proof that it is gone.
async fn found(agent: &Agent, pod: &PodKey) -> Result<Option<Arc<Pod>>, Failure> {
    if agent.caches.gone.contains(&pod.uid) {
        return Ok(None);
    }
    let cached = agent.caches.pods.get(&store::cache::key(Some(&pod.namespace), &pod.name));
    if let Some(cached) = cached.filter(|cached| cached.uid == pod.uid) {
        return Ok(Some(cached));
    }
    let live = pods::read(&agent.client, &pod.namespace, &pod.name).await?;
    Ok(live.filter(|live| live.uid == pod.uid).map(Arc::new))
}

async fn is_gone(agent: &Agent, namespace: &str, name: &str, uid: &str) -> bool {
    matches!(release::fate(agent, namespace, name, Some(uid)).await, Ok(PodFate::Gone))
}

/// What a pod was told before this process started: its endpoint tells. Where it does not, an entry is guessed from claims and pools, so
/// that the pod can be found. `None` when it has no claims (any more), or neither endpoint nor pool tells anything of them. `kept` is told of
/// the record before anything can become of its claims.
pub async fn record(agent: &Agent, pod: &Pod, kept: impl FnOnce(Arc<Record>)) -> Result<Option<Arc<Record>>, Failure> {
    let claims = agent.books.of_pod(&pod.uid);
    if claims.is_empty() {
        return Ok(None);
    }
    let endpoint = Endpoints::new(agent.client.clone()).read(&pod.namespace, &pod.name).await?;
    let told = endpoint.and_then(|endpoint| records::of_endpoint(&endpoint, &pod.uid)).unwrap_or_default();
    let claims: Vec<&Claim> = claims.iter().map(|stored| &stored.claim).collect();
    let told = records::still_true(&told, &claims);
    let guesses: Vec<Allocation> = claims.iter().filter_map(|claim| guess(agent, pod, &told, claim)).collect();
    if told.is_empty() && guesses.is_empty() {
        return Ok(None);
    }
    let routes = pod.annotations.get(ipam::annotation::POD_ROUTES);
    let routes = routes.and_then(|value| ipam::annotation::routes(value).ok()).unwrap_or_default();
    let guessed = guesses.iter().map(|one| one.nic.clone()).collect();
    let (nics, _) = records::merge(told, &guesses, &routes);
    let record = Record {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
        controller: pod.controller.clone(),
        nics,
        guessed,
    };
    // The endpoint was waited for: who has what is asked again.
    Ok(agent.records.put_if_absent(record, || agent.books.of_pod(&pod.uid), kept))
}

/// What an ADD of now would be told of a claim for which no entry is kept. How the plugin is configured is known only to its calls.
fn guess(agent: &Agent, pod: &Pod, kept: &[NicDetail], claim: &Claim) -> Option<Allocation> {
    let nic = &claim.pod()?.interface;
    if kept.iter().any(|one| one.interface == *nic) {
        return None;
    }
    let pool = agent.caches.pools.snapshot().pools.get(&claim.pool).cloned()?;
    let clean_gateway = ipam::select::clean_gateway(&pod.annotations, &pod.namespace, nic, None);
    Some(Allocation::new(nic, claim.address, &pool, clean_gateway))
}

/// Looks after pods that went or finished without a `DEL`, or with one of which a former process was told, for as long as the process lives.
pub async fn watch_over(agent: Arc<Agent>) {
    let mut missing: HashMap<String, Instant> = HashMap::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        look_at_pods(&agent, &mut missing).await;
    }
}

/// Lists the claims of the node again when a create may have landed after the books were opened or after it was given up: one of
/// the previous process, or one of unknown outcome. Otherwise seldom, because such a list is dear on a big cluster.
async fn doubt(agent: &Agent) {
    loop {
        tokio::time::sleep(LANDED).await;
        agent.books.reconcile();
        let _ = tokio::time::timeout(compare_after(&agent.settings.node), agent.books.doubted()).await;
    }
}

/// Not all nodes at the same time: a tenth more or less than [`COMPARE`].
fn compare_after(node: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    COMPARE.mul_f64(0.9 + f64::from(u8::try_from(hasher.finish() & 0xff).unwrap_or_default()) / 1275.0)
}

async fn look_at_pods(agent: &Agent, missing: &mut HashMap<String, Instant>) {
    let known = agent.caches.pools.snapshot();
    agent.books.retain_pools(|pool| known.pools.contains_key(pool));
    let pods = agent.books.pods();
    missing.retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
    for pod in pods {
        let cached = agent.caches.pods.get(&store::cache::key(Some(&pod.namespace), &pod.name));
        if cached.is_some_and(|cached| cached.uid == pod.uid && !cached.is_finished()) {
            missing.remove(&pod.uid);
        } else if missing.entry(pod.uid.clone()).or_insert_with(Instant::now).elapsed() >= agent.settings.no_del {
            settle(agent, &pod, Waited::Yes).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_compare_at_different_times() {
        let times: std::collections::BTreeSet<Duration> =
            (0..100).map(|n| compare_after(&format!("node-{n}"))).collect();
        assert!(times.len() > 50, "{times:?}");
        let (least, most) = (COMPARE.mul_f64(0.9), COMPARE.mul_f64(1.1));
        assert!(times.iter().all(|time| (least..=most).contains(time)), "{times:?}");
    }
}
