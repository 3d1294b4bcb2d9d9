use super::*;
use serde_json::{Value, json};

fn service(spec: Value) -> Arc<Service> {
    let object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

/// A slice; each endpoint is (address, node, ready, serving, terminating).
fn slice(family: &str, endpoints: &[(&str, &str, bool, bool, bool)]) -> Arc<EndpointSlice> {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node, ready, serving, terminating)| {
            let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
            json!({"addresses": [address], "nodeName": node, "conditions": conditions})
        })
        .collect();
    let object = json!({
        "metadata": {"name": "web-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family, "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn web(extra: Value) -> Arc<Service> {
    let mut spec = json!({"clusterIPs": ["10.233.0.9"], "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    service(spec)
}

const READY: (bool, bool, bool) = (true, true, false);

fn two() -> Arc<EndpointSlice> {
    let (ready, serving, terminating) = READY;
    slice("IPv4", &[("10.0.0.1", "n1", ready, serving, terminating), ("10.0.0.2", "n2", ready, serving, terminating)])
}

fn rules_for(service: Arc<Service>, slices: &[Arc<EndpointSlice>]) -> String {
    let cidr = ["10.233.64.0/18".parse().unwrap()];
    rules::ruleset(&model::ports(&[service], slices, "n1"), &cidr)
}

#[test]
fn a_cluster_ip_leads_to_every_endpoint_and_strangers_are_masqueraded() {
    let rules = rules_for(web(json!({})), &[two()]);
    for wanted in [
        "ip daddr 10.233.0.9 tcp dport 80 goto cluster-0",
        "ip saddr != 10.233.64.0/18 meta mark set meta mark | 0x4000",
        "numgen random mod 2 vmap { 0 : goto endpoint-0-0, 1 : goto endpoint-0-1 }",
        "ip saddr 10.0.0.1 meta mark set meta mark | 0x4000\n\t\tmeta l4proto tcp dnat to 10.0.0.1:8080",
    ] {
        assert!(rules.contains(wanted), "{wanted} in\n{rules}");
    }
}

#[test]
fn policy_local_keeps_external_traffic_on_the_node_and_its_source() {
    let rules = rules_for(web(json!({"externalTrafficPolicy": "Local"})), &[two()]);
    let external = rules.split("chain external-0 {").nth(1).unwrap().split("\n\t}").next().unwrap();
    assert!(external.trim_end().ends_with("goto endpoint-0-0"), "{external}");
    assert!(external.contains("fib saddr type local meta mark set meta mark | 0x4000 goto all-0"));
    let away = slice("IPv4", &[("10.0.0.2", "n2", true, true, false)]);
    let rules = rules_for(web(json!({"externalTrafficPolicy": "Local"})), &[away]);
    assert!(rules.contains("fib daddr type local tcp dport 30080 drop"), "{rules}");
}

#[test]
fn without_endpoints_the_client_is_refused() {
    let rules = rules_for(web(json!({})), &[]);
    assert!(rules.contains("ip daddr 10.233.0.9 tcp dport 80 reject") && !rules.contains("goto cluster-0"), "{rules}");
}

#[test]
fn endpoints_on_their_way_out_serve_only_when_there_is_no_other() {
    let leaving = ("10.0.0.1", "n1", false, true, true);
    let ports = |endpoints: &[_]| model::ports(&[web(json!({}))], &[slice("IPv4", endpoints)], "n1");
    assert_eq!(ports(&[leaving])[0].endpoints.len(), 1);
    let both = ports(&[leaving, ("10.0.0.2", "n2", true, true, false)]);
    assert_eq!(both[0].endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>(), ["10.0.0.2"]);
    assert!(ports(&[("10.0.0.1", "n1", false, false, false)])[0].endpoints.is_empty());
}

#[test]
fn families_do_not_mix() {
    let both =
        service(json!({"clusterIPs": ["10.233.0.9", "fd00:10:233::9"], "ports": [{"name": "http", "port": 80}]}));
    let six = slice("IPv6", &[("fd00::1", "n1", true, true, false)]);
    let ports = model::ports(&[both], &[two(), six], "n1");
    let shown: Vec<(String, usize)> =
        ports.iter().map(|port| (port.cluster_ip.to_string(), port.endpoints.len())).collect();
    assert_eq!(shown, [("10.233.0.9".to_owned(), 2), ("fd00:10:233::9".to_owned(), 1)]);
    assert!(rules::ruleset(&ports, &[]).contains("dnat to [fd00::1]:8080"));
}

#[test]
fn the_health_check_counts_endpoints_of_this_node() {
    let ports =
        model::ports(&[web(json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}))], &[two()], "n1");
    assert_eq!(local_endpoints(&ports), BTreeMap::from([(31000, ("default/web".to_owned(), 1))]));
}

#[test]
#[ignore = "netns"]
fn nft_takes_the_ruleset_twice() {
    let both = service(json!({
        "clusterIPs": ["10.233.0.9", "fd00:10:233::9"], "externalTrafficPolicy": "Local", "externalIPs": ["203.0.113.9"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "none", "port": 81, "nodePort": 30081}]
    }));
    let six = slice("IPv6", &[("fd00::1", "n2", true, true, false)]);
    let cidrs = ["10.233.64.0/18".parse().unwrap(), "fd00:10:233:64::/60".parse().unwrap()];
    let rules = rules::ruleset(&model::ports(&[both], &[two(), six], "n1"), &cidrs);
    for _ in 0..2 {
        let loaded = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(load(&rules));
        loaded.unwrap_or_else(|error| panic!("{error:#}\n{rules}"));
    }
}
