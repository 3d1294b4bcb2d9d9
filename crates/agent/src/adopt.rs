//! Takes over, before anything is allocated, what pods of this node have without a claim: given by upstream's agent, whose place this
//! one takes, or by an earlier installation of this product, which was removed while its pods went on running.
//!
//! Only pools that are not taken over yet are concerned; normally there is none and nothing is read. The controller does the same for
//! all nodes before it marks a pool as taken over, so that no agent gives an address of another node's pod meanwhile.

use crate::caches::Caches;
use crate::upstream::Upstream;
use futures::{StreamExt, stream};
use ipam::Pool;
use ipam::claim::{Claim, Holder, PodHolder, State};
use ipam::pool::Source;
use k8s_api::SpiderEndpoint;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use store::pods::Pod;
use store::pools::Snapshot;
use store::{Claims, Endpoints, Failure};

/// Pods looked at at a time.
const PARALLEL: usize = 8;
const PAUSE: Duration = Duration::from_secs(1);

/// An address that a pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    address: IpAddr,
    interface: String,
    /// The pool, where somebody tells it.
    pool: Option<String>,
}

/// Claims what pods of this node have, however long the API server takes.
pub async fn at_start(caches: &Caches, upstream: &Upstream, claims: &Claims, endpoints: &Endpoints) {
    let snapshot = caches.pools.snapshot();
    let is_open = |pool: &Arc<Pool>| upstream.is_mixed() || pool.source != Source::Claims;
    if !snapshot.pools.values().any(is_open) {
        return;
    }
    let adopted = AtomicUsize::new(0);
    let pods = caches.pods.all();
    stream::iter(pods.iter().filter(|pod| !pod.host_network && !pod.is_finished()))
        .for_each_concurrent(PARALLEL, |pod| async {
            for claim in wanted(pod, upstream, &snapshot, endpoints).await {
                adopted.fetch_add(usize::from(adopt(claims, &claim).await), Ordering::Relaxed);
            }
        })
        .await;
    tracing::info!(target: "IPAM", pods = pods.len(), claims = adopted.into_inner(), "addresses of running pods are taken over");
}

/// The claims that a pod should have.
async fn wanted(pod: &Pod, upstream: &Upstream, snapshot: &Snapshot, endpoints: &Endpoints) -> Vec<Claim> {
    let endpoint = loop {
        match endpoints.read(&pod.namespace, &pod.name).await {
            Ok(endpoint) => break endpoint,
            Err(failure @ Failure::Refused(_)) => {
                tracing::warn!(pod = %pod.name, namespace = %pod.namespace, error = %failure, "cannot read the endpoint of a pod");
                break None;
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    let found = found(pod, endpoint.as_ref());
    found.into_iter().filter_map(|found| claim(pod, found, upstream, snapshot)).collect()
}

/// What the endpoint tells, then what only the pod's own object does.
fn found(pod: &Pod, endpoint: Option<&SpiderEndpoint>) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    let told = endpoint.and_then(|endpoint| crate::records::of_endpoint(endpoint, &pod.uid)).unwrap_or_default();
    for nic in told {
        for (address, pool) in [(&nic.ipv4, &nic.ipv4_pool), (&nic.ipv6, &nic.ipv6_pool)] {
            let address = address.as_deref().and_then(|text| text.split('/').next()?.parse().ok());
            let interface = nic.interface.clone();
            all.extend(address.map(|address| Found { address, interface, pool: pool.clone() }));
        }
    }
    for (address, interface) in pod.addresses() {
        if !all.iter().any(|one| one.address == address) {
            all.push(Found { address, interface, pool: None });
        }
    }
    all
}

/// `None`: the address is of no pool that is open.
fn claim(pod: &Pod, found: Found, upstream: &Upstream, snapshot: &Snapshot) -> Option<Claim> {
    let of_pool = |pool: &&Arc<Pool>| pool.addresses.contains(found.address);
    let pool = match &found.pool {
        Some(pool) => snapshot.pools.get(pool),
        // Of several the one that is for this node.
        None => snapshot.pools.values().filter(of_pool).min_by_key(|pool| pool.node_names != [pod.node.clone()]),
    }?;
    if pool.source == Source::Claims && !upstream.is_mixed() {
        return None;
    }
    let holder = PodHolder {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        container: None,
        interface: found.interface,
        node: pod.node.clone(),
    };
    let (address, pool, holder) = (found.address, pool.name.clone(), Holder::Pod(holder));
    Some(Claim { address, pool, state: State::Allocated, holder, mac: None })
}

/// Makes a claim; false if somebody has it.
async fn adopt(claims: &Claims, claim: &Claim) -> bool {
    loop {
        match claims.create(claim).await {
            Ok(_) => return true,
            Err(Failure::AlreadyExists) => return false,
            Err(failure @ Failure::Refused(_)) => {
                tracing::warn!(target: "IPAM", address = %claim.address, pool = claim.pool, error = %failure, "an address in use cannot be claimed");
                return false;
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_tells_more_than_the_pod() {
        let endpoint = serde_json::json!({
            "metadata": {"namespace": "ns", "name": "web"},
            "status": {
                "ownerControllerType": "Pod", "ownerControllerName": "web",
                "current": {"uid": "u1", "node": "n", "ips": [{"interface": "net1", "ipv4": "10.0.0.2/24", "ipv4Pool": "p"}]}
            }
        });
        let endpoint: SpiderEndpoint = serde_json::from_value(endpoint).unwrap();
        let ips = ["10.0.0.2", "10.9.0.1"].map(|ip| ip.parse().unwrap()).to_vec();
        let mut pod = Pod { uid: "u1".into(), ips, ..Pod::default() };
        let shown = |pod: &Pod| {
            let all = found(pod, Some(&endpoint));
            all.into_iter().map(|one| format!("{} {} {:?}", one.interface, one.address, one.pool)).collect::<Vec<_>>()
        };
        assert_eq!(shown(&pod), [r#"net1 10.0.0.2 Some("p")"#, "eth0 10.9.0.1 None"]);
        pod.uid = "u2".into();
        assert_eq!(shown(&pod), ["eth0 10.0.0.2 None", "eth0 10.9.0.1 None"], "the endpoint is another pod's");
    }
}
