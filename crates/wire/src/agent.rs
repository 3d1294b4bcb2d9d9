//! The agent's socket: bodies of its HTTP API and a blocking client.
//!
//! Paths, members and statuses are those of upstream Spiderpool 1.2, so that its plugins work against our agent and ours
//! against its agent; the `/v1/multinet` calls are our own. Types here carry no behaviour but their JSON form: what
//! a request means is the agent's business.
//!
//! # Rules of the wire
//! * HTTP/1.1 over a Unix socket, JSON both ways, `Connection: close`, bodies also on `GET` and `DELETE`.
//! * A handler's error is status 500 (521, 522 for [`BatchReleaseArgs`]) with a JSON string as body.
//! * An error of the framework is `{"code", "message"}`: malformed JSON 400, a required member missing or null 422, unknown path 404,
//!   wrong method 405.
//! * "Required" strings may be empty, but not absent: [`Request::REQUIRED`].

mod client;
mod http;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

pub use client::{Client, Error};

/// Where the agent listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/spidernet/spiderpool.sock";

/// Status of a refused conflict release: switched off by `SPIDERPOOL_ENABLED_RELEASE_CONFLICT_IPS`.
pub const STATUS_CONFLICT_RELEASE_DISABLED: u16 = 521;
/// Status of a refused conflict release: the pod keeps its addresses (StatefulSet, KubeVirt).
pub const STATUS_STATEFUL_POD: u16 = 522;

/// Paths of the API, with the base path.
pub mod path {
    /// `GET`: 200 as soon as the agent listens.
    pub const HEALTHY: &str = "/v1/ipam/healthy";
    /// `POST` allocates, `DELETE` releases.
    pub const IP: &str = "/v1/ipam/ip";
    /// `DELETE` gives back the addresses of a pod whose probing failed; `POST` does nothing.
    pub const IPS: &str = "/v1/ipam/ips";
    /// `GET` with `podNamespace` and `podName` in the query.
    pub const WORKLOAD_ENDPOINT: &str = "/v1/workloadendpoint";
    /// `GET` with a body.
    pub const COORDINATOR_CONFIG: &str = "/v1/coordinator/config";
    /// `POST`: the networks a pod asks for. Our own.
    pub const MULTINET_NETWORKS: &str = "/v1/multinet/networks";
    /// `POST`: has the pod's `network-status` annotation written, afterwards. Our own.
    pub const MULTINET_STATUS: &str = "/v1/multinet/status";
    /// `GET` on the health port.
    pub const STARTUP: &str = "/v1/runtime/startup";
    /// `GET` on the health port.
    pub const READINESS: &str = "/v1/runtime/readiness";
    /// `GET` on the health port.
    pub const LIVENESS: &str = "/v1/runtime/liveness";
}

/// A request body.
pub trait Request: Serialize + DeserializeOwned {
    /// Name that errors of the framework use for the body.
    const NAME: &'static str;
    /// Members that must be there and not be null.
    const REQUIRED: &'static [&'static str];
}

/// Go decodes null as the zero value.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(source: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(source)?.unwrap_or_default())
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Body of `POST /v1/ipam/ip`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddArgs {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub if_name: String,
    /// `CNI_NETNS`.
    pub net_namespace: String,
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// `K8S_POD_UID`; empty when the runtime does not pass it.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// Pools of the CNI configuration.
    #[serde(rename = "defaultIPv4IPPool", default)]
    pub default_ipv4_ippool: Option<Vec<String>>,
    /// Pools of the CNI configuration.
    #[serde(rename = "defaultIPv6IPPool", default)]
    pub default_ipv6_ippool: Option<Vec<String>>,
    /// No default route by this NIC.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub clean_gateway: bool,
    /// The pool's subnet must be one of the parent NIC (SR-IOV).
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub match_master_subnet: bool,
}

impl Request for AddArgs {
    const NAME: &'static str = "ipam-add-args";
    const REQUIRED: &'static [&'static str] =
        &["containerID", "ifName", "netNamespace", "podName", "podNamespace", "podUID"];
}

/// Body of `DELETE /v1/ipam/ip`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseArgs {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub if_name: String,
    /// `CNI_NETNS`; empty when the namespace is gone.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub net_namespace: String,
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// `K8S_POD_UID`; empty when the runtime does not pass it.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
}

impl Request for ReleaseArgs {
    const NAME: &'static str = "ipam-del-args";
    const REQUIRED: &'static [&'static str] = &["containerID", "ifName", "podName", "podNamespace", "podUID"];
}

/// Body of `DELETE /v1/ipam/ips`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchReleaseArgs {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The addresses are given back because somebody else uses one of them.
    #[serde(
        rename = "isReleaseConflictIPs",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "is_false"
    )]
    pub is_release_conflict_ips: bool,
    /// `CNI_NETNS`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub net_namespace: String,
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// `K8S_POD_UID`; empty when the runtime does not pass it.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
}

impl Request for BatchReleaseArgs {
    const NAME: &'static str = "ipam-batch-del-args";
    const REQUIRED: &'static [&'static str] = &["containerID", "podName", "podNamespace", "podUID"];
}

/// Answer to `POST /v1/ipam/ip`: the allocations of **all** NICs of the pod known at that moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResponse {
    /// Always absent in practice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// The addresses; null is an error.
    pub ips: Vec<IpConfig>,
    /// Routes of all NICs, the default routes among them.
    #[serde(default, deserialize_with = "null_is_default")]
    pub routes: Vec<Route>,
}

/// Resolver configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Servers, in order.
    #[serde(default, deserialize_with = "null_is_default")]
    pub nameservers: Vec<String>,
    /// Options of the resolver.
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: Vec<String>,
    /// Search list.
    #[serde(default, deserialize_with = "null_is_default")]
    pub search: Vec<String>,
}

/// One address of one NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpConfig {
    /// `address/prefix length`.
    pub address: String,
    /// The plugin shall see whether the gateway answers before the pod starts.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub enable_gateway_detection: bool,
    /// The plugin shall see whether somebody else answers for the address.
    #[serde(
        rename = "enableIPConflictDetection",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "is_false"
    )]
    pub enable_ip_conflict_detection: bool,
    /// The pool's gateway, also when the NIC gets no default route.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// Name of the pool.
    #[serde(
        rename = "ipPool",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub ip_pool: String,
    /// Only from a cloud provider.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The interface inside the pod.
    pub nic: String,
    /// 4 or 6.
    pub version: i64,
    /// Only from a cloud provider.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub vlan: i64,
}

/// A route of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The interface inside the pod. Upstream leaves it null in [`WorkloadEndpoint`].
    #[serde(default, deserialize_with = "null_is_default")]
    pub if_name: String,
    /// Destination as CIDR.
    pub dst: String,
    /// Next hop.
    pub gw: String,
}

/// Answer to `GET /v1/workloadendpoint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEndpoint {
    /// One entry per NIC.
    pub interfaces: Vec<EndpointInterface>,
    /// Node of the pod.
    pub node: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// UID of the pod.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
}

/// One NIC of a [`WorkloadEndpoint`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointInterface {
    /// The interface inside the pod.
    pub interface: String,
    /// `address/prefix length`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// The pool's gateway.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub ipv4_gateway: String,
    /// Name of the pool.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub ipv4_pool: String,
    /// `address/prefix length`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
    /// The pool's gateway.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub ipv6_gateway: String,
    /// Name of the pool.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub ipv6_pool: String,
    /// Only from a cloud provider.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Routes of this NIC.
    #[serde(default, deserialize_with = "null_is_default")]
    pub routes: Vec<Route>,
    /// Only from a cloud provider.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub vlan: i64,
}

/// Body of `GET /v1/coordinator/config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorArgs {
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod.
    pub pod_namespace: String,
}

impl Request for CoordinatorArgs {
    const NAME: &'static str = "get-coordinator-config";
    const REQUIRED: &'static [&'static str] = &["podName", "podNamespace"];
}

/// Answer to `GET /v1/coordinator/config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorConfig {
    /// Destinations forced through the node.
    #[serde(rename = "hijackCIDR", default, deserialize_with = "null_is_default")]
    pub hijack_cidr: Vec<String>,
    /// Routing table of the node.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub host_rule_table: i64,
    /// `auto`, `underlay`, `overlay`, `disabled`.
    pub mode: String,
    /// CIDRs of the pods of the default CNI.
    #[serde(rename = "overlayPodCIDR", deserialize_with = "null_is_default")]
    pub overlay_pod_cidr: Vec<String>,
    /// NIC that keeps the default route.
    #[serde(
        rename = "podDefaultRouteNIC",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub pod_default_route_nic: String,
    /// The pod's NICs in the order in which they are attached. Our own member: upstream's agent does not tell, its plugin does not look.
    #[serde(rename = "podNICs", default, skip_serializing_if = "Option::is_none")]
    pub pod_nics: Option<Vec<String>>,
    /// First two bytes of the pod's MAC.
    #[serde(
        rename = "podMACPrefix",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub pod_mac_prefix: String,
    /// `rp_filter` inside the pod: negative leaves it alone.
    #[serde(rename = "podRPFilter", default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub pod_rp_filter: i64,
    /// Routes of the NIC's policy table.
    #[serde(default, deserialize_with = "null_is_default")]
    pub policy_routes: Vec<PolicyRoute>,
    /// CIDRs of Services.
    #[serde(rename = "serviceCIDR", deserialize_with = "null_is_default")]
    pub service_cidr: Vec<String>,
    /// Tune the routes of pods with several NICs.
    pub tune_pod_routes: bool,
    /// Queue length of the NIC: 0 leaves it alone.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub tx_queue_len: i64,
    /// Link-local address of veth0.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub veth_link_address: String,
    /// MTU of veth0: 0 leaves it alone.
    #[serde(rename = "vethMTU", default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub veth_mtu: i64,
}

/// A route of a policy table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRoute {
    /// Destination as CIDR.
    pub dst: String,
    /// Next hop.
    pub gw: String,
}

/// Body of `POST /v1/multinet/networks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworksArgs {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// `K8S_POD_UID`; empty when the runtime does not pass it.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// Network of pods without the annotation `v1.multus-cni.io/default-network`, as `namespace/name` or `name`; empty: the agent's
    /// `MULTUS_CLUSTER_NETWORK`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub cluster_network: String,
    /// Namespace of default networks that name none; empty: the agent's own.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub multus_namespace: String,
    /// The plugin has a default network of its own: only the pod's annotation beats it.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub local_default: bool,
    /// Networks that the pod gets beside those of its annotation, each as `namespace/name[@interface]` or `name`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub default_networks: Vec<String>,
}

impl Request for NetworksArgs {
    const NAME: &'static str = "multinet-networks-args";
    const REQUIRED: &'static [&'static str] = &["containerID", "podName", "podNamespace", "podUID"];
}

/// Answer to `POST /v1/multinet/networks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Networks {
    /// The network of the first NIC; absent when neither the pod nor the configuration names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Network>,
    /// Further networks, in the order of the annotation.
    #[serde(default, deserialize_with = "null_is_default")]
    pub networks: Vec<Network>,
    /// UID of the pod that was meant.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
}

/// One network of a pod: the attachment as stored and what the pod asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Namespace of the NetworkAttachmentDefinition.
    pub namespace: String,
    /// Name of the NetworkAttachmentDefinition.
    pub name: String,
    /// The interface inside the pod: for the default network empty (the runtime's choice).
    pub interface: String,
    /// `spec.config` of the NetworkAttachmentDefinition as stored; empty: the plugin looks for a file of that name.
    pub config: String,
    /// Annotation `k8s.v1.cni.cncf.io/resourceName` of the NetworkAttachmentDefinition.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub resource_name: String,
    /// What the pod's annotation says beyond the name.
    #[serde(default, deserialize_with = "null_is_default")]
    pub selection: Selection,
}

/// The members of a network selection element that are passed on to the delegate (NPWG standard v1.3, section 4.1.2.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// Addresses asked for (capability `ips`).
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// MAC asked for (capability `mac`).
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// GUID asked for (capability `infinibandGUID`).
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub infiniband_guid: String,
    /// Gateways of the default route by this NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<Vec<String>>,
    /// Members for the delegate's `args.cni`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni_args: Option<serde_json::Map<String, serde_json::Value>>,
    /// Port mappings (capability `portMappings`), as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_mappings: Option<serde_json::Value>,
    /// Bandwidth (capability `bandwidth`), as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<serde_json::Value>,
}

/// Body of `POST /v1/multinet/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusArgs {
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// UID of the pod; the annotation is written to no other. Empty when the runtime does not pass it.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// Text of the annotation `k8s.v1.cni.cncf.io/network-status`: a JSON array.
    pub network_status: String,
}

impl Request for StatusArgs {
    const NAME: &'static str = "multinet-status-args";
    const REQUIRED: &'static [&'static str] = &["networkStatus", "podName", "podNamespace", "podUID"];
}

/// Body of an error of the framework.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkError {
    /// Status, or a finer code above 600.
    pub code: i64,
    /// What is wrong.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_upstreams_plugin_is_understood() {
        let text = r#"{"cleanGateway":true,"containerID":"c1","defaultIPv4IPPool":null,"defaultIPv6IPPool":["p6"],"ifName":"eth0","netNamespace":"/proc/1/ns/net","podName":"web","podNamespace":"ns1","podUID":""}"#;
        let args: AddArgs = serde_json::from_str(text).unwrap();
        assert!(args.clean_gateway && !args.match_master_subnet && args.default_ipv4_ippool.is_none());
        assert_eq!(args.default_ipv6_ippool.as_deref(), Some(&["p6".to_owned()][..]));
    }

    #[test]
    fn zero_values_are_left_out_as_upstream_does() {
        let ip = IpConfig { address: "10.0.0.2/24".into(), nic: "eth0".into(), version: 4, ..Default::default() };
        assert_eq!(serde_json::to_string(&ip).unwrap(), r#"{"address":"10.0.0.2/24","nic":"eth0","version":4}"#);
    }

    #[test]
    fn an_answer_without_addresses_is_no_answer() {
        assert!(serde_json::from_str::<AddResponse>(r#"{"ips":null,"routes":null}"#).is_err());
        let empty: AddResponse = serde_json::from_str(r#"{"ips":[],"routes":null}"#).unwrap();
        assert!(empty.routes.is_empty());
    }

    #[test]
    fn cidrs_that_upstreams_agent_leaves_null_are_none() {
        let text = r#"{"mode":"auto","overlayPodCIDR":null,"serviceCIDR":null,"tunePodRoutes":true}"#;
        let config: CoordinatorConfig = serde_json::from_str(text).unwrap();
        assert!(config.overlay_pod_cidr.is_empty() && config.service_cidr.is_empty() && config.pod_nics.is_none());
        assert!(serde_json::from_str::<CoordinatorConfig>(r#"{"mode":"auto","tunePodRoutes":true}"#).is_err());
    }

    #[test]
    fn every_required_member_is_one_of_the_type() {
        fn check<T: Request>(sample: T) {
            let value = serde_json::to_value(&sample).unwrap();
            for member in T::REQUIRED {
                assert!(value.get(member).is_some(), "{}: {member}", T::NAME);
            }
        }
        check(AddArgs::default());
        check(ReleaseArgs::default());
        check(BatchReleaseArgs::default());
        check(CoordinatorArgs::default());
        check(NetworksArgs::default());
        check(StatusArgs::default());
    }

    /// Reads `text` and writes it again: no member may be lost or renamed.
    fn keeps<T: Serialize + DeserializeOwned>(text: &str) {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let read: T = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), value);
    }

    #[test]
    fn every_member_has_upstreams_spelling() {
        keeps::<AddArgs>(
            r#"{"cleanGateway":true,"containerID":"c","defaultIPv4IPPool":["a"],"defaultIPv6IPPool":["b"],"ifName":"e",
            "matchMasterSubnet":true,"netNamespace":"n","podName":"p","podNamespace":"s","podUID":"u"}"#,
        );
        keeps::<ReleaseArgs>(
            r#"{"containerID":"c","ifName":"e","netNamespace":"n","podName":"p","podNamespace":"s","podUID":"u"}"#,
        );
        keeps::<BatchReleaseArgs>(
            r#"{"containerID":"c","isReleaseConflictIPs":true,"netNamespace":"n","podName":"p","podNamespace":"s",
            "podUID":"u"}"#,
        );
        keeps::<AddResponse>(
            r#"{"dns":{"domain":"d","nameservers":["n"],"options":["o"],"search":["s"]},
            "ips":[{"address":"a","enableGatewayDetection":true,"enableIPConflictDetection":true,"gateway":"g","ipPool":"p",
            "mac":"m","nic":"e","version":4,"vlan":5}],"routes":[{"dst":"d","gw":"g","ifName":"e"}]}"#,
        );
        keeps::<WorkloadEndpoint>(
            r#"{"interfaces":[{"interface":"e","ipv4":"a","ipv4Gateway":"b","ipv4Pool":"c","ipv6":"d","ipv6Gateway":"e",
            "ipv6Pool":"f","mac":"m","routes":[{"dst":"d","gw":"g","ifName":"e"}],"vlan":5}],"node":"n","podName":"p",
            "podNamespace":"s","podUID":"u"}"#,
        );
        keeps::<CoordinatorArgs>(r#"{"podName":"p","podNamespace":"s"}"#);
        keeps::<CoordinatorConfig>(
            r#"{"hijackCIDR":["h"],"hostRuleTable":500,"mode":"auto","overlayPodCIDR":["o"],"podDefaultRouteNIC":"e",
            "podMACPrefix":"0a:1b","podRPFilter":2,"policyRoutes":[{"dst":"d","gw":"g"}],"serviceCIDR":["s"],
            "tunePodRoutes":true,"txQueueLen":1,"vethLinkAddress":"l","vethMTU":1500}"#,
        );
        keeps::<CoordinatorConfig>(
            r#"{"hijackCIDR":[],"mode":"auto","overlayPodCIDR":[],"podNICs":["eth0","net1"],"policyRoutes":[],
            "serviceCIDR":[],"tunePodRoutes":true}"#,
        );
    }
}
