//! What the coordinator is to do: the network configuration over the agent's answer over built-in defaults.
//!
//! Per key, a value in the configuration wins, also an empty list; an absent key, an empty text and `null` do not. The
//! agent's answer is the SpiderCoordinator with the pod's annotation.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use wire::agent::{self, CoordinatorConfig};
use wire::cni::{CniError, code};

/// The table of the node's routes to its pods.
pub const DEFAULT_HOST_TABLE: u32 = 500;
const DEFAULT_NIC: &str = "eth0";
const DEFAULT_VETH_MTU: u32 = 1500;

/// The plugin's own keys, as written.
#[derive(Debug, Default, Deserialize)]
pub struct RawConf {
    mode: Option<String>,
    #[serde(rename = "podDefaultCniNic", alias = "podDefaultCniNIC")]
    pod_default_cni_nic: Option<String>,
    #[serde(rename = "serviceCIDR")]
    service_cidr: Option<Vec<String>>,
    #[serde(rename = "overlayPodCIDR")]
    overlay_pod_cidr: Option<Vec<String>>,
    #[serde(rename = "hijackCIDR")]
    hijack_cidr: Option<Vec<String>>,
    #[serde(rename = "policyRoutes")]
    policy_routes: Option<Vec<agent::PolicyRoute>>,
    #[serde(rename = "tunePodRoutes")]
    tune_pod_routes: Option<bool>,
    #[serde(rename = "podDefaultRouteNic", alias = "podDefaultRouteNIC")]
    pod_default_route_nic: Option<String>,
    #[serde(rename = "podMACPrefix")]
    pod_mac_prefix: Option<String>,
    #[serde(rename = "hostRuleTable")]
    host_rule_table: Option<i64>,
    #[serde(rename = "podRPFilter")]
    pod_rp_filter: Option<i64>,
    #[serde(rename = "txQueueLen")]
    tx_queue_len: Option<i64>,
    #[serde(rename = "vethLinkAddress")]
    veth_link_address: Option<String>,
    #[serde(rename = "vethMTU")]
    veth_mtu: Option<i64>,
    /// The agent's socket, for hosts with several agents.
    #[serde(rename = "ipam_unix_socket_path")]
    socket: Option<PathBuf>,
}

/// How traffic of the pod is coordinated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Find out: the first NIC, and any NIC of a pod that has veth0, is underlay.
    Auto,
    /// The first NIC is on the real network; veth0 connects the pod to its node.
    Underlay,
    /// The first NIC belongs to the cluster's default network.
    Overlay,
    /// Do nothing.
    Disabled,
}

/// A static route of the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRoute {
    pub destination: IpNet,
    pub gateway: IpAddr,
}

/// What the coordinator believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub mode: Mode,
    /// The name of the pod's first NIC.
    pub first_nic: String,
    /// Destinations that go through the node, in the order of pods, services, extra ones; none twice.
    pub hijack: Vec<IpNet>,
    pub policy_routes: Vec<PolicyRoute>,
    pub tune_routes: bool,
    pub default_route_nic: Option<String>,
    /// The pod's NICs in the order in which they are attached; absent when the agent does not tell.
    pub nics: Option<Vec<String>>,
    /// The first two bytes of the NIC's hardware address.
    pub mac_prefix: Option<[u8; 2]>,
    pub host_table: u32,
    /// Absent: leave it.
    pub rp_filter: Option<u8>,
    /// Absent: leave it.
    pub tx_queue_len: Option<u32>,
    pub veth_address: Option<Ipv4Addr>,
    pub veth_mtu: u32,
}

impl RawConf {
    /// The agent to ask.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| PathBuf::from(agent::DEFAULT_SOCKET))
    }

    /// The mode that the configuration itself names; the agent need not be asked when it is "disabled".
    pub fn mode(&self) -> Result<Option<Mode>, CniError> {
        text(self.mode.as_deref()).map(mode).transpose()
    }

    /// The name of the pod's first NIC, which no agent knows.
    pub fn first_nic(&self) -> &str {
        text(self.pod_default_cni_nic.as_deref()).unwrap_or(DEFAULT_NIC)
    }

    /// Merges the agent's answer in and checks everything.
    pub fn merge(&self, agent: &CoordinatorConfig) -> Result<Settings, CniError> {
        let mut hijack = networks("overlayPodCIDR", self.overlay_pod_cidr.as_deref(), &agent.overlay_pod_cidr)?;
        hijack.extend(networks("serviceCIDR", self.service_cidr.as_deref(), &agent.service_cidr)?);
        hijack.extend(networks("hijackCIDR", self.hijack_cidr.as_deref(), &agent.hijack_cidr)?);
        let mut seen = std::collections::BTreeSet::new();
        hijack.retain(|net| seen.insert(*net));

        let or_agent =
            |own: &Option<String>, agents: &str| text(own.as_deref()).or(text(Some(agents))).map(str::to_owned);
        let policy_routes = self.policy_routes.as_deref().unwrap_or(&agent.policy_routes);
        Ok(Settings {
            mode: self.mode()?.map_or_else(|| mode(&agent.mode), Ok)?,
            first_nic: self.first_nic().to_owned(),
            hijack,
            policy_routes: policy_routes.iter().map(policy_route).collect::<Result<_, _>>()?,
            tune_routes: self.tune_pod_routes.unwrap_or(agent.tune_pod_routes),
            default_route_nic: or_agent(&self.pod_default_route_nic, &agent.pod_default_route_nic),
            nics: agent.pod_nics.clone(),
            mac_prefix: or_agent(&self.pod_mac_prefix, &agent.pod_mac_prefix)
                .map(|text| mac_prefix(&text))
                .transpose()?,
            host_table: self.host_table(agent)?,
            rp_filter: rp_filter(self.pod_rp_filter.unwrap_or(agent.pod_rp_filter))?,
            tx_queue_len: positive("txQueueLen", self.tx_queue_len.unwrap_or(agent.tx_queue_len), 0)?,
            veth_address: or_agent(&self.veth_link_address, &agent.veth_link_address)
                .map(|text| veth_address(&text))
                .transpose()?
                .flatten(),
            veth_mtu: self.veth_mtu(agent)?,
        })
    }

    fn host_table(&self, agent: &CoordinatorConfig) -> Result<u32, CniError> {
        let value = self.host_rule_table.unwrap_or(agent.host_rule_table);
        let table = positive("hostRuleTable", value, 0)?.unwrap_or(DEFAULT_HOST_TABLE);
        if (253..=255).contains(&table) {
            return Err(invalid("hostRuleTable", &table, "is one of the kernel's own tables"));
        }
        Ok(table)
    }

    fn veth_mtu(&self, agent: &CoordinatorConfig) -> Result<u32, CniError> {
        let mtu = match self.veth_mtu {
            Some(own) => positive("vethMTU", own, 1)?,
            None => positive("vethMTU", agent.veth_mtu, 0)?,
        };
        Ok(mtu.unwrap_or(DEFAULT_VETH_MTU))
    }
}

fn text(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|text| !text.is_empty())
}

fn invalid(key: &str, value: &dyn std::fmt::Display, why: &str) -> CniError {
    CniError::new(code::INVALID_CONFIG, format!("coordinator: {key} {value}: {why}"))
}

fn mode(text: &str) -> Result<Mode, CniError> {
    match text {
        "auto" => Ok(Mode::Auto),
        "underlay" => Ok(Mode::Underlay),
        "overlay" => Ok(Mode::Overlay),
        // The custom resource says "disabled", older configurations say "disable".
        "disabled" | "disable" => Ok(Mode::Disabled),
        _ => Err(invalid("mode", &text, "is none of auto, underlay, overlay, disabled")),
    }
}

fn networks(key: &str, own: Option<&[String]>, agents: &[String]) -> Result<Vec<IpNet>, CniError> {
    own.unwrap_or(agents).iter().map(|text| network(key, text)).collect()
}

/// A network, or an address as a network of one; bits behind the prefix are cleared.
fn network(key: &str, text: &str) -> Result<IpNet, CniError> {
    let trimmed = text.trim();
    let parsed = trimmed.parse::<IpNet>().ok().or_else(|| trimmed.parse::<IpAddr>().ok().map(IpNet::from));
    parsed.map(|net| net.trunc()).ok_or_else(|| invalid(key, &text, "is neither a CIDR nor an IP address"))
}

fn policy_route(route: &agent::PolicyRoute) -> Result<PolicyRoute, CniError> {
    let destination = network("policyRoutes[].dst", &route.dst)?;
    let gateway: IpAddr =
        route.gw.trim().parse().map_err(|_| invalid("policyRoutes[].gw", &route.gw, "is no IP address"))?;
    if destination.addr().is_ipv4() != gateway.is_ipv4() {
        let both = format!("{} via {}", route.dst, route.gw);
        return Err(invalid("policyRoutes", &both, "destination and gateway are of different IP families"));
    }
    Ok(PolicyRoute { destination, gateway })
}

/// Two hexadecimal bytes, of a unicast address.
fn mac_prefix(text: &str) -> Result<[u8; 2], CniError> {
    let byte = |part: &str| {
        let hex = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    let parsed = text.split_once([':', '-']).and_then(|(a, b)| Some([byte(a)?, byte(b)?]));
    let prefix = parsed.ok_or_else(|| invalid("podMACPrefix", &text, "must be two bytes such as 0a:1b"))?;
    if prefix[0] & 1 == 1 {
        return Err(invalid("podMACPrefix", &text, "is the beginning of a multicast address"));
    }
    Ok(prefix)
}

fn rp_filter(value: i64) -> Result<Option<u8>, CniError> {
    match value {
        ..0 => Ok(None),
        0..=2 => Ok(u8::try_from(value).ok()),
        _ => Err(invalid("podRPFilter", &value, "is neither negative (leave it) nor 0, 1 or 2")),
    }
}

/// A number that is at least `least`; 0 stands for "not set".
fn positive(key: &str, value: i64, least: i64) -> Result<Option<u32>, CniError> {
    match u32::try_from(value) {
        Ok(0) if least == 0 => Ok(None),
        Ok(number) if value >= least => Ok(Some(number)),
        _ => Err(invalid(key, &value, "is out of range")),
    }
}

/// An IPv6 address is accepted, as the webhook does, and has no effect: veth0 has a link-local one anyway.
fn veth_address(text: &str) -> Result<Option<Ipv4Addr>, CniError> {
    match text.parse() {
        Ok(IpAddr::V4(address)) => Ok(Some(address)),
        Ok(IpAddr::V6(_)) => Ok(None),
        Err(_) => Err(invalid("vethLinkAddress", &text, "is no IP address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> RawConf {
        serde_json::from_str(json).unwrap()
    }

    fn agent() -> CoordinatorConfig {
        CoordinatorConfig {
            mode: "auto".to_owned(),
            overlay_pod_cidr: vec!["10.233.64.0/18".to_owned()],
            service_cidr: vec!["10.233.0.0/18".to_owned(), "fd00:10:233::/116".to_owned()],
            hijack_cidr: vec!["169.254.0.0/16".to_owned()],
            tune_pod_routes: true,
            pod_default_route_nic: "net1".to_owned(),
            host_rule_table: 500,
            ..CoordinatorConfig::default()
        }
    }

    #[test]
    fn an_empty_configuration_believes_the_agent() {
        let settings = raw("{}").merge(&agent()).unwrap();
        let hijack: Vec<String> = settings.hijack.iter().map(ToString::to_string).collect();
        assert_eq!(hijack, ["10.233.64.0/18", "10.233.0.0/18", "fd00:10:233::/116", "169.254.0.0/16"]);
        assert_eq!((settings.mode, settings.first_nic.as_str()), (Mode::Auto, "eth0"));
        assert_eq!((settings.host_table, settings.veth_mtu, settings.rp_filter), (500, 1500, Some(0)));
        assert_eq!((settings.tx_queue_len, settings.default_route_nic.as_deref()), (None, Some("net1")));
        assert!(settings.tune_routes);
    }

    #[test]
    fn the_configuration_wins_and_can_empty_a_list() {
        let json = r#"{"mode":"underlay","hijackCIDR":[],"serviceCIDR":["10.96.0.1/12"],"overlayPodCIDR":null,"tunePodRoutes":false,
            "podDefaultRouteNIC":"net2","hostRuleTable":600,"podRPFilter":-1,"vethMTU":1400,"txQueueLen":1000,"vethLinkAddress":"169.254.100.1",
            "podMACPrefix":"0A-1b","policyRoutes":[{"dst":" 10.9.0.1/16","gw":"10.6.0.9"}],"logOptions":{"logLevel":"debug"}}"#;
        let conf = raw(json);
        let settings = conf.merge(&agent()).unwrap();
        let hijack: Vec<String> = settings.hijack.iter().map(ToString::to_string).collect();
        assert_eq!(hijack, ["10.233.64.0/18", "10.96.0.0/12"]);
        assert_eq!((settings.mode, settings.tune_routes, settings.host_table), (Mode::Underlay, false, 600));
        assert_eq!((settings.rp_filter, settings.veth_mtu, settings.tx_queue_len), (None, 1400, Some(1000)));
        assert_eq!((settings.mac_prefix, settings.default_route_nic.as_deref()), (Some([0x0a, 0x1b]), Some("net2")));
        assert_eq!(settings.policy_routes[0].destination.to_string(), "10.9.0.0/16");
    }

    #[test]
    fn bad_values_are_named_with_their_key() {
        let rows = [
            (r#"{"mode":"tunnel"}"#, "mode tunnel"),
            (r#"{"serviceCIDR":["10.0.0.0/33"]}"#, "serviceCIDR 10.0.0.0/33"),
            (r#"{"hijackCIDR":["x"]}"#, "hijackCIDR x"),
            (r#"{"policyRoutes":[{"dst":"10.0.0.0/8","gw":"fd00::1"}]}"#, "policyRoutes 10.0.0.0/8 via fd00::1"),
            (r#"{"policyRoutes":[{"dst":"10.0.0.0/8","gw":""}]}"#, "policyRoutes[].gw"),
            (r#"{"podMACPrefix":"01:02"}"#, "podMACPrefix 01:02: is the beginning of a multicast address"),
            (r#"{"podMACPrefix":",a:02"}"#, "podMACPrefix ,a:02"),
            (r#"{"podRPFilter":3}"#, "podRPFilter 3"),
            (r#"{"vethMTU":0}"#, "vethMTU 0"),
            (r#"{"txQueueLen":-1}"#, "txQueueLen -1"),
            (r#"{"hostRuleTable":254}"#, "hostRuleTable 254"),
            (r#"{"vethLinkAddress":"169.254.1.1/32"}"#, "vethLinkAddress 169.254.1.1/32"),
        ];
        for (json, expected) in rows {
            let error = raw(json).merge(&agent()).unwrap_err();
            assert!(error.msg.contains(expected), "{json}: {error}");
            assert_eq!(error.code, code::INVALID_CONFIG, "{json}");
        }
    }

    #[test]
    fn an_ipv6_link_address_has_no_effect() {
        let both = CoordinatorConfig { veth_link_address: "fd00::1".to_owned(), ..agent() };
        let address = |json: &str, agent: &CoordinatorConfig| raw(json).merge(agent).unwrap().veth_address;
        assert_eq!(address("{}", &both), None);
        assert_eq!(address(r#"{"vethLinkAddress":"fd00::2"}"#, &agent()), None);
        assert_eq!(address(r#"{"vethLinkAddress":"169.254.1.1"}"#, &both), Some(Ipv4Addr::new(169, 254, 1, 1)));
    }

    #[test]
    fn both_words_for_off_are_understood() {
        for word in ["disable", "disabled"] {
            assert_eq!(raw(&format!(r#"{{"mode":"{word}"}}"#)).mode().unwrap(), Some(Mode::Disabled));
        }
    }

    #[test]
    fn retired_keys_of_old_attachments_are_ignored() {
        let json = r#"{"detectGateway":true,"detectIPConflict":true,"detectOptions":{"retry":3}}"#;
        assert_eq!(raw(json).merge(&agent()).unwrap(), raw("{}").merge(&agent()).unwrap());
    }
}
