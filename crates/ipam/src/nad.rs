//! Which NetworkAttachmentDefinition a NIC of a pod belongs to (upstream's contract: ipam, §5.2), and which name the n-th NIC has.

use crate::annotation::{DEFAULT_NETWORK, NETWORKS, Network, NetworkError, parse_networks};
use crate::selector::Labels;

/// The NIC that the pod's default network makes.
pub const FIRST_NIC: &str = "eth0";

/// Why the network of a NIC is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NadError {
    /// The first NIC, no annotation and no cluster network.
    #[error("cluster-network multus isn't set")]
    NoClusterNetwork,
    /// No entry of the networks annotation makes this NIC.
    #[error("no matched multus object for NIC {nic}")]
    NotFound {
        /// NIC.
        nic: String,
    },
    /// The annotation does not parse.
    #[error("Pod annotation '{key}': {source}")]
    Annotation {
        /// Annotation key.
        key: &'static str,
        /// Why not.
        source: NetworkError,
    },
}

/// What the agent's configuration says about networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NadDefaults {
    /// Namespace of the agent: the default for the default network and for `multusName` entries.
    pub agent_namespace: String,
    /// `MULTUS_CLUSTER_NETWORK`, `namespace/name`.
    pub cluster_network: Option<String>,
}

/// The network of the first NIC.
pub fn default_network(annotations: &Labels, defaults: &NadDefaults) -> Result<Network, NadError> {
    let annotated = annotations.get(DEFAULT_NETWORK);
    let text = annotated.or(defaults.cluster_network.as_ref()).filter(|text| !text.trim().is_empty());
    let text = text.ok_or(NadError::NoClusterNetwork)?;
    let networks = parse_networks(text, &defaults.agent_namespace)
        .map_err(|source| NadError::Annotation { key: DEFAULT_NETWORK, source })?;
    networks.into_iter().next().ok_or(NadError::NoClusterNetwork)
}

/// The further networks of a pod with the names of their NICs, in the order of the annotation.
pub fn networks(annotations: &Labels, pod_namespace: &str) -> Result<Vec<(String, Network)>, NadError> {
    let Some(text) = annotations.get(NETWORKS).filter(|text| !text.trim().is_empty()) else {
        return Ok(Vec::new());
    };
    let parsed =
        parse_networks(text, pod_namespace).map_err(|source| NadError::Annotation { key: NETWORKS, source })?;
    let named = |(index, network): (usize, Network)| {
        (network.interface.clone().unwrap_or_else(|| format!("net{}", index + 1)), network)
    };
    Ok(parsed.into_iter().enumerate().map(named).collect())
}

/// The NICs of a pod in the order in which they are attached.
pub fn nics(annotations: &Labels, pod_namespace: &str) -> Result<Vec<String>, NadError> {
    let further = networks(annotations, pod_namespace)?.into_iter().map(|(name, _)| name);
    Ok(std::iter::once(FIRST_NIC.to_owned()).chain(further).collect())
}

/// The network that makes `nic`.
pub fn network_of(
    nic: &str,
    annotations: &Labels,
    pod_namespace: &str,
    defaults: &NadDefaults,
) -> Result<Network, NadError> {
    if nic == FIRST_NIC {
        return default_network(annotations, defaults);
    }
    let found = networks(annotations, pod_namespace)?.into_iter().find(|(name, _)| name == nic);
    found.map(|(_, network)| network).ok_or_else(|| NadError::NotFound { nic: nic.to_owned() })
}
