//! NetworkAttachmentDefinition of the Network Plumbing Working Group: a foreign kind that ships with the chart.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::custom_resource;

/// The API group of NetworkAttachmentDefinition.
pub const GROUP: &str = "k8s.cni.cncf.io";

custom_resource! {
    /// NetworkAttachmentDefinition is a network that pods may be attached to, as the Network Plumbing Working Group
    /// specifies it: <https://github.com/k8snetworkplumbingwg/multi-net-spec>
    NetworkAttachmentDefinition(crate::nad::GROUP, "v1", "network-attachment-definitions", NamespaceResourceScope),
    spec: NetworkAttachmentDefinitionSpec
}

/// NetworkAttachmentDefinitionSpec defines the desired state of a network attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkAttachmentDefinitionSpec {
    /// A JSON-formatted CNI configuration. Without it the network is the file of that network name on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}
