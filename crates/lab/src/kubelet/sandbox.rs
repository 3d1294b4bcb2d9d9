//! A pod's sandbox: its network namespace, joined to the network by CNI.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::record::Record;
use crate::cni::Attachment;

/// The interface that a pod's default network gets.
const IFNAME: &str = "eth0";

/// A name that no other sandbox has: 64 hexadecimal digits.
pub fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("cannot get random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The file for a sandbox's network namespace, named as containerd names it.
pub fn netns_path(dir: &Path, sandbox: &str) -> PathBuf {
    let hex = &sandbox[..32];
    dir.join(format!("cni-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// What CNI is told about a sandbox: the arguments that containerd passes, in its order.
pub fn attachment(record: &Record, netns: &Path, pod: Option<&Pod>) -> Attachment {
    let args = [
        ("K8S_POD_INFRA_CONTAINER_ID", &record.sandbox),
        ("K8S_POD_UID", &record.uid),
        ("IgnoreUnknown", &"1".to_owned()),
        ("K8S_POD_NAMESPACE", &record.namespace),
        ("K8S_POD_NAME", &record.name),
    ];
    Attachment {
        container_id: record.sandbox.clone(),
        netns: netns.display().to_string(),
        ifname: IFNAME.into(),
        args: args.map(|(key, value)| (key.to_owned(), value.clone())).to_vec(),
        capabilities: pod.map(capabilities).unwrap_or_default(),
    }
}

/// Capability arguments: host ports, bandwidth annotations, and the pod's annotations, as containerd passes them.
fn capabilities(pod: &Pod) -> Map<String, Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|port| port > 0));
    let mappings: Vec<Value> = ports
        .map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
            json!({"hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol, "hostIP": port.host_ip.clone().unwrap_or_default()})
        })
        .collect();
    let mut capabilities = Map::new();
    if !mappings.is_empty() {
        capabilities.insert("portMappings".into(), mappings.into());
    }
    if !pod.annotations().is_empty() {
        capabilities.insert("io.kubernetes.cri.pod-annotations".into(), json!(pod.annotations()));
    }
    capabilities
}

/// The addresses of `eth0` in a CNI result, IPv4 first.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let of_sandbox = |ip: &Value| match ip.get("interface").and_then(Value::as_u64) {
        Some(index) => result["interfaces"][index as usize]["name"] == IFNAME,
        None => true,
    };
    let ips = result["ips"].as_array().into_iter().flatten().filter(|ip| of_sandbox(ip));
    let mut found: Vec<IpAddr> = ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found.dedup();
    found
}

/// Leaves a short name for a pod's namespace, so that `ip netns exec NAMESPACE_POD` works on the node.
pub fn name_netns(netns: &Path, namespace: &str, pod: &str) {
    if let Some(dir) = netns.parent() {
        let link = dir.join(format!("{namespace}_{pod}"));
        let _ = fs::remove_file(&link);
        // For people only: nothing depends on it.
        let _ = symlink(netns, link);
    }
}

/// Removes the short name.
pub fn unname_netns(netns: &Path, namespace: &str, pod: &str) {
    if let Some(dir) = netns.parent() {
        let link = dir.join(format!("{namespace}_{pod}"));
        if fs::read_link(&link).is_ok_and(|target| target == netns) {
            let _ = fs::remove_file(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_eth0_come_ipv4_first() {
        let result = json!({
            "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [{"address": "fd00::5/64", "interface": 1}, {"address": "10.0.0.5/24", "interface": 1}, {"address": "10.9.9.9/24", "interface": 0}],
        });
        let expected: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
        assert_eq!(addresses(&json!({"ips": [{"address": "10.0.0.5/24"}]})), expected[..1]);
    }

    #[test]
    fn a_namespace_is_named_after_the_sandbox() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        assert_eq!(
            netns_path(Path::new("/run/netns"), id),
            Path::new("/run/netns/cni-01234567-89ab-cdef-0123-456789abcdef")
        );
        assert_eq!(new_id().unwrap().len(), 64);
    }
}
