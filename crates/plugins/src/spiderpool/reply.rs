//! The agent's answer as a CNI result.

use std::net::IpAddr;

use ipnet::IpNet;
use wire::agent::{AddResponse, IpConfig, Route, WorkloadEndpoint};
use wire::cni::{self, CniError, CniResult, code};

/// The part of the answer that is about this NIC. The agent tells of all NICs of the pod; upstream's also of addresses
/// that no NIC came for yet, without a name.
pub(super) fn result(answer: &AddResponse, nic: &str) -> Result<CniResult, CniError> {
    let mut result = CniResult::default();
    for (index, ip) in answer.ips.iter().enumerate() {
        let config = ip_config(ip).map_err(|why| wrong(&format!("ips[{index}].{why}")))?;
        if ip.nic == nic {
            refuse_detection(ip)?;
            result.ips.push(config);
        }
    }
    if result.ips.is_empty() {
        return Err(CniError::new(
            code::AGENT,
            format!("no Interface {nic} IP allocation found in the agent's answer"),
        ));
    }
    for (index, route) in answer.routes.iter().enumerate().filter(|(_, route)| route.if_name == nic) {
        result.routes.push(cni_route(route).map_err(|why| wrong(&format!("routes[{index}].{why}")))?);
    }
    if let Some(dns) = &answer.dns {
        result.dns = cni::Dns {
            nameservers: dns.nameservers.clone(),
            domain: dns.domain.clone(),
            search: dns.search.clone(),
            options: dns.options.clone(),
        };
    }
    Ok(result)
}

fn ip_config(ip: &IpConfig) -> Result<cni::IpConfig, String> {
    let address: IpNet =
        ip.address.parse().map_err(|_| format!("address {:?} is not an address with prefix length", ip.address))?;
    let family = if address.addr().is_ipv4() { 4 } else { 6 };
    if ip.version != family {
        return Err(format!("version {} does not fit address {:?}", ip.version, ip.address));
    }
    if !ip.mac.is_empty() && !is_mac(&ip.mac) {
        return Err(format!("mac {:?} is not a MAC address", ip.mac));
    }
    let gateway = Some(&ip.gateway).filter(|text| !text.is_empty()).map(|text| address_of("gateway", text));
    Ok(cni::IpConfig { interface: None, address, gateway: gateway.transpose()? })
}

fn cni_route(route: &Route) -> Result<cni::Route, String> {
    let dst = route.dst.parse().map_err(|_| format!("dst {:?} is not a CIDR", route.dst))?;
    let gw = Some(&route.gw).filter(|text| !text.is_empty()).map(|text| address_of("gw", text));
    Ok(cni::Route::new(dst, gw.transpose()?))
}

fn address_of(field: &str, text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{field} {text:?} is not an address"))
}

fn is_mac(text: &str) -> bool {
    let groups: Vec<&str> = text.split(':').collect();
    groups.len() == 6
        && groups.iter().all(|group| group.len() == 2 && group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The agent asks for probes that this version cannot make; an address that was to be probed is not used unprobed.
fn refuse_detection(ip: &IpConfig) -> Result<(), CniError> {
    let asked: Vec<&str> = [
        (ip.enable_ip_conflict_detection, "enableIPConflictDetection"),
        (ip.enable_gateway_detection, "enableGatewayDetection"),
    ]
    .into_iter()
    .filter_map(|(asked, name)| asked.then_some(name))
    .collect();
    if asked.is_empty() {
        return Ok(());
    }
    let msg = format!(
        "the agent asks for {} of {} on NIC {}, which this version of the plugin cannot do: switch it off in the agent's configuration",
        asked.join(" and "),
        ip.address,
        ip.nic
    );
    Err(CniError::new(code::UNSUPPORTED_FIELD, msg))
}

fn wrong(what: &str) -> CniError {
    CniError::new(code::AGENT, format!("spiderpool IP allocation error: the agent's answer is wrong: {what}"))
}

/// The addresses of an earlier result must be on record for the NIC.
pub(super) fn check(previous: &CniResult, endpoint: &WorkloadEndpoint, nic: &str) -> Result<(), CniError> {
    let recorded: Vec<&str> = endpoint
        .interfaces
        .iter()
        .filter(|interface| interface.interface == nic)
        .flat_map(|interface| [interface.ipv4.as_str(), interface.ipv6.as_str()])
        .filter(|address| !address.is_empty())
        .collect();
    let of_nic = |ip: &&cni::IpConfig| {
        let interface = ip.interface.and_then(|index| previous.interfaces.get(index));
        interface.is_none_or(|interface| interface.name == nic)
    };
    let missing = previous.ips.iter().filter(of_nic).find(|ip| !recorded.contains(&ip.address.to_string().as_str()));
    match missing {
        None => Ok(()),
        Some(ip) => {
            let msg = format!(
                "spiderpool: NIC {nic} of pod {}/{} has {}, on record is [{}]",
                endpoint.pod_namespace,
                endpoint.pod_name,
                ip.address,
                recorded.join(", ")
            );
            Err(CniError::new(code::CHECK_FAILED, msg))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::agent::EndpointInterface;

    fn ip(nic: &str, address: &str) -> IpConfig {
        let version = if address.contains(':') { 6 } else { 4 };
        IpConfig { nic: nic.into(), address: address.into(), version, ..IpConfig::default() }
    }

    #[test]
    fn only_this_nic_is_told_to_the_main_plugin() {
        let route = |nic: &str, dst: &str, gw: &str| Route { if_name: nic.into(), dst: dst.into(), gw: gw.into() };
        let answer = AddResponse {
            ips: vec![
                ip("eth0", "10.0.0.5/24"),
                IpConfig { gateway: "10.1.0.1".into(), ..ip("net1", "10.1.0.5/16") },
                ip("net1", "fd00::5/64"),
            ],
            routes: vec![
                route("eth0", "0.0.0.0/0", "10.0.0.1"),
                route("net1", "10.9.0.0/16", "10.1.0.2"),
                route("net1", "fd09::/64", ""),
            ],
            dns: None,
        };
        let result = result(&answer, "net1").unwrap();
        let text = result.to_json(cni::SpecVersion::V0_3_1);
        let expected = r#"{"cniVersion":"0.3.1","dns":{},"ips":[{"address":"10.1.0.5/16","gateway":"10.1.0.1","version":"4"},{"address":"fd00::5/64","version":"6"}],"routes":[{"dst":"10.9.0.0/16","gw":"10.1.0.2"},{"dst":"fd09::/64"}]}"#;
        let (found, expected): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&text).unwrap(), serde_json::from_str(expected).unwrap());
        let without_dns = |mut value: serde_json::Value| {
            value.as_object_mut().unwrap().remove("dns");
            value
        };
        assert_eq!(without_dns(found), without_dns(expected));
    }

    #[test]
    fn wrong_answers_are_named_by_field_and_value() {
        let with = |ip: IpConfig| AddResponse { ips: vec![ip], ..AddResponse::default() };
        let rows = [
            (with(ip("net1", "10.0.0.5/24")), "no Interface eth0 IP allocation found"),
            (AddResponse::default(), "no Interface eth0 IP allocation found"),
            (with(ip("eth0", "10.0.0.5")), "ips[0].address \"10.0.0.5\""),
            (with(IpConfig { version: 6, ..ip("eth0", "10.0.0.5/24") }), "ips[0].version 6 does not fit"),
            (with(IpConfig { gateway: "x".into(), ..ip("eth0", "10.0.0.5/24") }), "gateway \"x\""),
            (with(IpConfig { mac: "02:00".into(), ..ip("eth0", "10.0.0.5/24") }), "mac \"02:00\""),
            (with(ip("", "10.0.0.5/24")), "no Interface eth0 IP allocation found"),
            (
                with(IpConfig { enable_ip_conflict_detection: true, ..ip("eth0", "10.0.0.5/24") }),
                "asks for enableIPConflictDetection of 10.0.0.5/24 on NIC eth0",
            ),
            (with(IpConfig { enable_gateway_detection: true, ..ip("eth0", "10.0.0.5/24") }), "enableGatewayDetection"),
        ];
        for (answer, expected) in rows {
            let error = result(&answer, "eth0").unwrap_err();
            assert!(error.msg.contains(expected), "{error}");
        }
        let foreign = AddResponse {
            ips: vec![
                ip("eth0", "10.0.0.5/24"),
                IpConfig { enable_gateway_detection: true, ..ip("net1", "10.1.0.5/24") },
            ],
            ..AddResponse::default()
        };
        assert!(result(&foreign, "eth0").is_ok(), "another NIC's probes are another call's business");
    }

    #[test]
    fn an_address_that_no_nic_came_for_yet_is_not_of_this_one() {
        let answer =
            AddResponse { ips: vec![ip("", "10.0.0.6/24"), ip("eth0", "10.0.0.5/24")], ..AddResponse::default() };
        let ips = result(&answer, "eth0").unwrap().ips;
        assert_eq!(ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>(), ["10.0.0.5/24"]);
    }

    #[test]
    fn check_compares_with_the_record() {
        let previous =
            result(&AddResponse { ips: vec![ip("eth0", "10.0.0.5/24")], ..AddResponse::default() }, "eth0").unwrap();
        let record = |address: &str| WorkloadEndpoint {
            interfaces: vec![EndpointInterface {
                interface: "eth0".into(),
                ipv4: address.into(),
                ..EndpointInterface::default()
            }],
            ..WorkloadEndpoint::default()
        };
        assert!(check(&previous, &record("10.0.0.5/24"), "eth0").is_ok());
        let error = check(&previous, &record("10.0.0.6/24"), "eth0").unwrap_err();
        assert!(error.msg.contains("has 10.0.0.5/24, on record is [10.0.0.6/24]"), "{error}");
    }
}
