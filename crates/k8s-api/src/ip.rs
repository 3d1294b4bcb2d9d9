//! SpiderIP: one object per address in use. Creating it is the allocation: the API server's uniqueness of names makes
//! that no address is given twice.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{labels, resource::custom_resource};

custom_resource! {
    /// SpiderIP is one address in use. Its name is the address: IPv4 as it is, IPv6 expanded with its groups joined by "-".
    SpiderIP(crate::GROUP, crate::VERSION, "spiderips", ClusterResourceScope),
    spec: SpiderIPSpec
}

impl SpiderIP {
    /// A claim of `address` out of `pool`, named and labelled as every reader expects it.
    pub fn claim(name: &str, address: IpAddr, pool: &str, state: IpState, holder: Holder, since: Time) -> Self {
        let node = holder.node().map(labels::value);
        let spec = SpiderIPSpec {
            address: address.to_string(),
            pool: pool.to_owned(),
            state,
            holder,
            mac: None,
            since: Some(since),
        };
        let mut ip = Self::new(name, spec);
        let labels = ip.metadata.labels.get_or_insert_default();
        labels.insert(labels::IP_POOL.to_owned(), labels::value(pool));
        if let Some(node) = node {
            labels.insert(labels::IP_NODE.to_owned(), node);
        }
        ip
    }

    /// The address, or `None` where a foreign writer stored something else.
    pub fn address(&self) -> Option<IpAddr> {
        self.spec.address.parse().ok()
    }
}

/// SpiderIPSpec tells who holds the address, and in which state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct SpiderIPSpec {
    /// Canonical text, without prefix length.
    pub address: String,
    /// The pool the address was taken from.
    pub pool: String,
    /// What it is used for.
    pub state: IpState,
    /// Who holds it.
    pub holder: Holder,
    /// The MAC address that answered, in state [`IpState::Conflict`].
    pub mac: Option<String>,
    /// When the address came into this state.
    pub since: Option<Time>,
}

impl Default for SpiderIPSpec {
    fn default() -> Self {
        Stored::default().into()
    }
}

/// What an address in use is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IpState {
    /// In use by a pod.
    Allocated,
    /// Held by a node ahead of need, by no pod yet.
    Held,
    /// Released, not yet to be given to somebody else.
    Cooling,
    /// Somebody else on the wire uses it; quarantined.
    Conflict,
    /// A state of a later version: to be left alone.
    #[default]
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl IpState {
    /// The state's text in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allocated => "Allocated",
            Self::Held => "Held",
            Self::Cooling => "Cooling",
            Self::Conflict => "Conflict",
            Self::Unknown => "Unknown",
        }
    }
}

/// Who holds an address: exactly one of several, kept so by the CRD's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An interface of a pod.
    Pod(PodHolder),
    /// A node, ahead of need.
    Node(NodeHolder),
    /// A holder of a later version, to be left alone. Never written: the API server refuses an object without holder.
    Other,
}

impl Holder {
    /// The node whose agent is the authority on the address.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Pod(pod) => Some(&pod.node),
            Self::Node(node) => Some(&node.name),
            Self::Other => None,
        }
    }

    /// The pod, if one holds the address.
    pub fn pod(&self) -> Option<&PodHolder> {
        match self {
            Self::Pod(pod) => Some(pod),
            Self::Node(_) | Self::Other => None,
        }
    }
}

/// An interface of a pod that holds an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-required" = ["namespace", "name", "uid", "interface", "node"]))]
pub struct PodHolder {
    /// Namespace of the pod.
    #[serde(default)]
    pub namespace: String,
    /// Name of the pod.
    #[serde(default)]
    pub name: String,
    /// UID of the pod.
    #[serde(default)]
    pub uid: String,
    /// The sandbox that uses the address now.
    #[serde(default, rename = "containerID", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Name of the NIC in the pod.
    #[serde(default)]
    pub interface: String,
    /// Node of the pod.
    #[serde(default)]
    pub node: String,
}

/// A node that holds an address ahead of need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-required" = ["name"]))]
pub struct NodeHolder {
    /// Name of the node.
    #[serde(default)]
    pub name: String,
}

/// SpiderIPSpec tells who holds the address, and in which state.
// The stored form: the holder as one of several optional members.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend(
    "x-required" = ["address", "pool", "state", "since"],
    "x-kubernetes-validations" = [
        {"rule": "has(self.pod) != has(self.node)", "message": "exactly one of pod and node holds the address"},
        {"rule": "self.state != 'Allocated' || has(self.pod)", "message": "an allocated address is held by a pod"},
        {"rule": "self.state != 'Held' || has(self.node)", "message": "a held address is held by a node"},
        {"rule": "self.state == 'Conflict' || !has(self.mac)", "message": "mac is only for state Conflict"},
        {"rule": "self.address == oldSelf.address", "message": "address is immutable"},
    ]
))]
pub(crate) struct Stored {
    /// The address in canonical text, without prefix length.
    #[serde(default)]
    #[schemars(length(min = 2, max = 39))]
    address: String,
    /// The pool the address was taken from.
    #[serde(default)]
    #[schemars(length(min = 1, max = 253))]
    pool: String,
    /// Allocated: in use by a pod. Held: by a node ahead of need. Cooling: released, not yet to be given to somebody else.
    /// Conflict: somebody else on the wire uses it.
    #[serde(default)]
    state: IpState,
    /// The pod's NIC that holds the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<PodHolder>,
    /// The node that holds the address ahead of need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeHolder>,
    /// The MAC address that answered for the address in state Conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 17))]
    mac: Option<String>,
    /// When the address came into this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Time>,
}

impl From<Stored> for SpiderIPSpec {
    fn from(stored: Stored) -> Self {
        let holder = match (stored.pod, stored.node) {
            (Some(pod), _) => Holder::Pod(pod),
            (None, Some(node)) => Holder::Node(node),
            (None, None) => Holder::Other,
        };
        Self {
            address: stored.address,
            pool: stored.pool,
            state: stored.state,
            holder,
            mac: stored.mac,
            since: stored.since,
        }
    }
}

impl From<SpiderIPSpec> for Stored {
    fn from(spec: SpiderIPSpec) -> Self {
        let (pod, node) = match spec.holder {
            Holder::Pod(pod) => (Some(pod), None),
            Holder::Node(node) => (None, Some(node)),
            Holder::Other => (None, None),
        };
        Self { address: spec.address, pool: spec.pool, state: spec.state, pod, node, mac: spec.mac, since: spec.since }
    }
}
