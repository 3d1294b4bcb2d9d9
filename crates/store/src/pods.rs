//! Pods of the node: what allocation needs of each.

use crate::cache::{Cache, Change};
use crate::failure::{Failure, bounded, optional};
use crate::meta;
use ipam::Labels;
use ipam::liveness::{PodPhase, is_alive};
use ipam::nad::FIRST_NIC;
use ipam::owner::OwnerRef;
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::Deserialize;
use std::net::IpAddr;

/// Annotations of a static pod's mirror that hold the UID which the runtime knows the pod by.
const STATIC_UIDS: [&str; 2] = ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"];

/// What is kept of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`.
    pub node: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// What its liveness depends on.
    pub phase: PodPhase,
    /// Its controller.
    pub controller: Option<OwnerRef>,
    /// Whether it is in its node's own network, so that its addresses are the node's.
    pub host_network: bool,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
}

/// One network of annotation `k8s.v1.cni.cncf.io/network-status`.
#[derive(Deserialize)]
struct NetworkStatus {
    #[serde(default)]
    interface: String,
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default)]
    default: bool,
}

impl Pod {
    /// Does it live?
    pub fn is_alive(&self) -> bool {
        is_alive(Some(&self.phase))
    }

    /// Has it come to its end, so that no sandbox of it will run again?
    pub fn is_finished(&self) -> bool {
        matches!(self.phase.phase.as_str(), "Succeeded" | "Failed")
    }

    /// The addresses that the pod's object tells, with their NICs: those of annotation `network-status`, and `status.podIPs`, which are
    /// those of `eth0`. None of a pod in its node's own network, and none of a finished one: it shows what may be another's by now.
    pub fn addresses(&self) -> Vec<(IpAddr, String)> {
        if self.host_network || self.is_finished() {
            return Vec::new();
        }
        let text = self.annotations.get(ipam::annotation::NETWORK_STATUS);
        let networks: Vec<NetworkStatus> = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let mut addresses: Vec<(IpAddr, String)> = Vec::new();
        for network in networks {
            let first = network.default && network.interface.is_empty();
            let nic = if first { FIRST_NIC.to_owned() } else { network.interface };
            let parsed = network.ips.iter().filter_map(|ip| ip.split('/').next()?.parse().ok());
            addresses.extend(parsed.map(|ip: IpAddr| (ip, nic.clone())));
        }
        for ip in &self.ips {
            if !addresses.iter().any(|(known, _)| known == ip) {
                addresses.push((*ip, FIRST_NIC.to_owned()));
            }
        }
        addresses
    }

    /// Is this the pod that the runtime calls by `uid`? A runtime that passes no UID means whichever pod has the name.
    pub fn is_called(&self, uid: &str) -> bool {
        let is_static = || STATIC_UIDS.iter().any(|key| self.annotations.get(*key).is_some_and(|one| one == uid));
        uid.is_empty() || self.uid == uid || is_static()
    }
}

impl From<ApiPod> for Pod {
    fn from(pod: ApiPod) -> Self {
        let (meta, spec, status) = (pod.metadata, pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
        Self {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            node: spec.node_name.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            annotations: meta::annotations(meta.annotations),
            phase: PodPhase {
                terminating: meta.deletion_timestamp.is_some(),
                phase: status.phase.unwrap_or_default(),
                reason: status.reason.unwrap_or_default(),
                restart_policy: spec.restart_policy.unwrap_or_default(),
            },
            controller: meta::controller(meta.owner_references.as_ref()),
            host_network: spec.host_network.unwrap_or(false),
            ips: status.pod_ips.into_iter().flatten().filter_map(|one| one.ip.parse().ok()).collect(),
        }
    }
}

/// Keeps the pods of one node; `changed` is told of every change.
pub async fn follow(client: Client, node: &str, cache: &Cache<Pod>, changed: impl FnMut(Change<Pod>)) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let events = watcher(Api::<ApiPod>::all(client), config).default_backoff();
    cache.follow("pods", events, Pod::from, changed).await;
}

/// A pod, not from a cache.
pub async fn read(client: &Client, namespace: &str, name: &str) -> Result<Option<Pod>, Failure> {
    let api: Api<ApiPod> = Api::namespaced(client.clone(), namespace);
    Ok(optional(bounded(api.get(name)).await)?.map(Pod::from))
}

/// Pods per page of [`addresses_in_use`]: with 500 an agent needs twice as much memory for the moment as it does otherwise.
const PAGE: u32 = 100;

/// Addresses of all running pods of the cluster, as their own objects tell them, with the pods' UIDs.
pub async fn addresses_in_use(client: &Client) -> Result<Vec<(IpAddr, String)>, Failure> {
    let api: Api<ApiPod> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut addresses = Vec::new();
    loop {
        let page = bounded(api.list(&params)).await?;
        for pod in page.items.into_iter().map(Pod::from) {
            addresses.extend(pod.addresses().into_iter().map(|(address, _)| (address, pod.uid.clone())));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(addresses),
        }
    }
}

/// Sets an annotation of the pod with this UID, as Multus does: by its status, so that no right to change pods is needed. Refused if the name
/// belongs to another pod by now.
pub async fn annotate(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
    key: &str,
    value: &str,
) -> Result<(), Failure> {
    let api: Api<ApiPod> = Api::namespaced(client.clone(), namespace);
    // A UID in a patch is a precondition: the API server refuses to change it.
    let patch = serde_json::json!({"metadata": {"uid": uid, "annotations": {key: value}}});
    bounded(api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotation: &str, ips: &[&str], host_network: bool) -> Vec<String> {
        let object = serde_json::json!({
            "metadata": {"annotations": {"k8s.v1.cni.cncf.io/network-status": annotation}},
            "spec": {"hostNetwork": host_network, "containers": []},
            "status": {"podIPs": ips.iter().map(|ip| serde_json::json!({"ip": ip})).collect::<Vec<_>>()},
        });
        let pod = Pod::from(serde_json::from_value::<ApiPod>(object).unwrap());
        pod.addresses().into_iter().map(|(ip, nic)| format!("{nic}={ip}")).collect()
    }

    #[test]
    fn a_pods_object_tells_its_addresses() {
        let status = r#"[{"name":"a","ips":["10.0.0.1","fd00::1"],"default":true},{"name":"b","interface":"net1","ips":["10.1.0.1/24"]}]"#;
        assert_eq!(pod(status, &["10.0.0.1", "fd00::1"], false), ["eth0=10.0.0.1", "eth0=fd00::1", "net1=10.1.0.1"]);
        assert_eq!(pod("nonsense", &["10.0.0.1", "no address"], false), ["eth0=10.0.0.1"]);
        assert_eq!(pod(status, &["192.168.0.1"], true), [""; 0], "those are the node's");
        let mut finished = Pod { ips: vec!["10.0.0.1".parse().unwrap()], ..Pod::default() };
        assert_eq!(finished.addresses().len(), 1);
        finished.phase.phase = "Failed".into();
        assert_eq!(finished.addresses(), []);
    }
}
