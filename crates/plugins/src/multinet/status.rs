//! The annotation `k8s.v1.cni.cncf.io/network-status` (standard v1.3, section 5): one element per interface in the pod.

use serde_json::{Map, Value, json};
use wire::cni::{CniResult, Interface};

use super::delegate::Delegate;

/// The text of the annotation.
pub(super) fn text(delegates: &[Delegate]) -> String {
    let elements: Vec<Value> = delegates.iter().flat_map(elements_of).collect();
    serde_json::to_string_pretty(&elements).expect("a list of objects with text keys serialises")
}

fn elements_of(delegate: &Delegate) -> Vec<Value> {
    let nothing = CniResult::default();
    let result = delegate.result.as_ref().unwrap_or(&nothing);
    let in_pod = |interface: &Interface| !interface.sandbox.is_empty();
    let interfaces: Vec<(usize, &Interface)> =
        result.interfaces.iter().enumerate().filter(|(_, interface)| in_pod(interface)).collect();
    match interfaces.as_slice() {
        [] => vec![element(delegate, result, None, |_| true)],
        [(_, interface)] => vec![element(delegate, result, Some(interface), |_| true)],
        several => several
            .iter()
            .map(|(at, interface)| element(delegate, result, Some(interface), |of_ip| of_ip == Some(*at)))
            .collect(),
    }
}

fn element(
    delegate: &Delegate,
    result: &CniResult,
    interface: Option<&Interface>,
    is_own: impl Fn(Option<usize>) -> bool,
) -> Value {
    let mut element = Map::new();
    element.insert("name".into(), delegate.id.clone().into());
    let name = interface.map_or(delegate.ifname.as_str(), |interface| &interface.name);
    element.insert("interface".into(), name.into());
    let ips: Vec<Value> =
        result.ips.iter().filter(|ip| is_own(ip.interface)).map(|ip| ip.address.addr().to_string().into()).collect();
    if !ips.is_empty() {
        element.insert("ips".into(), ips.into());
    }
    if let Some(interface) = interface.filter(|interface| !interface.mac.is_empty()) {
        element.insert("mac".into(), interface.mac.clone().into());
    }
    if let Some(mtu) = interface.and_then(|interface| interface.mtu) {
        element.insert("mtu".into(), mtu.into());
    }
    if delegate.default {
        element.insert("default".into(), true.into());
    }
    element.insert("dns".into(), json!(result.dns));
    if !delegate.default_route.is_empty() {
        element.insert("gateway".into(), json!(delegate.default_route));
    }
    element.into()
}
