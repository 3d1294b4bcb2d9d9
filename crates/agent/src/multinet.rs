//! `/v1/multinet/...`: which networks a pod asks for, and what it got.

use crate::agent::{Agent, PodError};
use crate::statuses::NetworkStatus;
use ipam::annotation::{Network as Selected, parse_networks};
use ipam::nad::{self, NadDefaults, NadError};
use std::sync::Arc;
use store::networks::{self, Attachment};
use store::{Failure, pods};
use wire::agent::{Network, Networks, NetworksArgs, Selection, StatusArgs};

/// Why the networks of a pod are unknown.
#[derive(Debug, thiserror::Error)]
pub enum NetworksError {
    /// The pod cannot be told.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// Its annotations.
    #[error("Pod {namespace}/{name}")]
    Annotation {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// What is wrong.
        #[source]
        source: NadError,
    },
    /// No such attachment.
    #[error("NetworkAttachmentDefinition {namespace}/{name}, which Pod {pod} asks for, does not exist")]
    Absent {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// The pod.
        pod: String,
    },
    /// The API server does not say.
    #[error("cannot read NetworkAttachmentDefinition {namespace}/{name}")]
    Unreadable {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Why not.
        #[source]
        source: Failure,
    },
    /// The text of the status is no JSON array.
    #[error("networkStatus of Pod {namespace}/{name} is not a JSON array")]
    Status {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
}

/// The networks of a pod, with their configurations.
pub async fn networks(agent: &Agent, args: NetworksArgs) -> Result<Networks, NetworksError> {
    let pod = agent.pod(&args.pod_namespace, &args.pod_name, &args.pod_uid).await?;
    let wrong = |source| NetworksError::Annotation { namespace: pod.namespace.clone(), name: pod.name.clone(), source };
    let mut defaults: NadDefaults = agent.settings.select.nad.clone();
    if args.local_default {
        defaults.cluster_network = None;
    } else if !args.cluster_network.is_empty() {
        defaults.cluster_network = Some(args.cluster_network);
    }
    if !args.multus_namespace.is_empty() {
        defaults.agent_namespace = args.multus_namespace;
    }
    let default = match nad::default_network(&pod.annotations, &defaults) {
        Ok(selected) => Some(network(agent, &pod, selected, "").await?),
        Err(NadError::NoClusterNetwork) => None,
        Err(error) => return Err(wrong(error)),
    };
    let mut further = Vec::new();
    for (nic, selected) in nad::networks(&pod.annotations, &pod.namespace).map_err(wrong)? {
        further.push(network(agent, &pod, selected, &nic).await?);
    }
    for text in &args.default_networks {
        let unusable = |source| wrong(NadError::Annotation { key: "defaultNetworks", source });
        for selected in parse_networks(text, &defaults.agent_namespace).map_err(unusable)? {
            let nic = selected.interface.clone().unwrap_or_else(|| format!("net{}", further.len() + 1));
            further.push(network(agent, &pod, selected, &nic).await?);
        }
    }
    Ok(Networks { default, networks: further, pod_uid: pod.uid.clone() })
}

async fn network(agent: &Agent, pod: &pods::Pod, selected: Selected, nic: &str) -> Result<Network, NetworksError> {
    let attachment = attachment(agent, pod, &selected).await?;
    let json = |text: &String| serde_json::from_str(text).ok();
    Ok(Network {
        interface: nic.to_owned(),
        config: attachment.config.clone(),
        resource_name: attachment.resource_name.clone(),
        selection: Selection {
            ips: selected.ips,
            mac: selected.mac.unwrap_or_default(),
            infiniband_guid: selected.infiniband_guid.unwrap_or_default(),
            default_route: Some(selected.default_route).filter(|gateways| !gateways.is_empty()),
            cni_args: selected.cni_args.as_ref().and_then(|text| serde_json::from_str(text).ok()),
            port_mappings: selected.port_mappings.as_ref().and_then(json),
            bandwidth: selected.bandwidth.as_ref().and_then(json),
        },
        namespace: selected.namespace,
        name: selected.name,
    })
}

/// From the cache; one that was only just made is read live.
async fn attachment(agent: &Agent, pod: &pods::Pod, selected: &Selected) -> Result<Arc<Attachment>, NetworksError> {
    let (namespace, name) = (selected.namespace.clone(), selected.name.clone());
    if let Some(found) = agent.caches.attachments.get(&store::cache::key(Some(&namespace), &name)) {
        return Ok(found);
    }
    match networks::read_attachment(&agent.client, &namespace, &name).await {
        Ok(Some(found)) => Ok(Arc::new(found)),
        Ok(None) => Err(NetworksError::Absent { namespace, name, pod: format!("{}/{}", pod.namespace, pod.name) }),
        Err(source) => Err(NetworksError::Unreadable { namespace, name, source }),
    }
}

/// Has the pod's `network-status` written. Nobody waits for that: a pod does not need it to run, and the API server may be away.
pub async fn status(agent: &Agent, args: StatusArgs) -> Result<(), NetworksError> {
    let (namespace, name, text) = (args.pod_namespace, args.pod_name, args.network_status);
    if serde_json::from_str::<Vec<serde_json::Value>>(&text).is_err() {
        return Err(NetworksError::Status { namespace, name });
    }
    // Known from the cache but in the first moments of a pod's life, so that this asks nobody.
    let uid = match agent.caches.pods.get(&store::cache::key(Some(&namespace), &name)) {
        Some(pod) if pod.is_called(&args.pod_uid) => pod.uid.clone(),
        _ if !args.pod_uid.is_empty() => args.pod_uid,
        _ => agent.pod(&namespace, &name, "").await?.uid.clone(),
    };
    agent.statuses.put(NetworkStatus { namespace, name, uid, text });
    Ok(())
}
