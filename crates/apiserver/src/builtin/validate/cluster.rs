//! Services, endpoints, configuration, nodes, leases, events and webhook configurations.

use super::{Cause, Value, child, choice, immutable, index, list, names, not_negative, port_number, selectors, text};
use kube_cel::cel::Program;
use std::net::IpAddr;

/// Checks an object of one of these kinds.
pub(super) fn object(group: &str, kind: &str, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    match (group, kind) {
        ("", "Service") => service(new, causes),
        ("", "ConfigMap") => config_map(new, old, causes),
        ("", "Secret") => secret(new, old, causes),
        ("", "Node") => node(new, causes),
        ("", "Endpoints") => endpoints(new, causes),
        ("", "Event") => event(&new["involvedObject"], "involvedObject", new, causes),
        ("coordination.k8s.io", "Lease") => lease(&new["spec"], causes),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(new, old, causes),
        ("admissionregistration.k8s.io", _) => webhooks(kind, new, causes),
        _ => {}
    }
}

/// Types, ports, affinity, external addresses; addresses and node ports are checked where they are given out.
fn service(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let type_ = text(spec, "type");
    let headless = spec["clusterIP"] == "None";
    if list(&spec["ports"]).next().is_none() && !headless && type_ != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if type_ == "LoadBalancer" && headless {
        causes.push(Cause::invalid_text(
            "spec.clusterIPs[0]",
            "None",
            "may not be set to 'None' for LoadBalancer services",
        ));
    }
    if type_ == "ExternalName" && text(spec, "externalName").is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    choice("spec.type".into(), &spec["type"], &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], causes);
    choice("spec.sessionAffinity".into(), &spec["sessionAffinity"], &["ClientIP", "None"], causes);
    let only_one = spec["ports"].as_array().is_some_and(|p| p.len() == 1);
    let mut seen_names = Vec::new();
    let (mut seen_ports, mut seen_node_ports) = (Vec::new(), Vec::new());
    for (i, port) in list(&spec["ports"]) {
        service_port(&index("spec.ports", i), port, only_one, type_, &mut seen_names, causes);
    }
    for (i, port) in list(&spec["ports"]).filter(|(_, port)| port["nodePort"].as_u64().is_some_and(|n| n > 0)) {
        let key = (&port["protocol"], &port["nodePort"]);
        if seen_node_ports.contains(&key) {
            causes.push(Cause::duplicate(child(&index("spec.ports", i), "nodePort"), key.1));
        }
        seen_node_ports.push(key);
    }
    for (i, port) in list(&spec["ports"]) {
        let at = index("spec.ports", i);
        let key = (port["protocol"].clone(), port["port"].clone());
        if seen_ports.contains(&key) {
            let shown = serde_json::json!({"protocol": key.0, "port": key.1});
            causes.push(Cause::duplicate(at, &shown));
        }
        seen_ports.push(key);
    }
    super::meta::labels("spec.selector", spec["selector"].as_object(), causes);
    for (i, ip) in list(&spec["externalIPs"]) {
        address(&index("spec.externalIPs", i), ip.as_str().unwrap_or_default(), causes);
    }
    policies(spec, type_, causes);
}

fn service_port<'a>(
    at: &str,
    port: &'a Value,
    only_one: bool,
    type_: &str,
    seen: &mut Vec<&'a str>,
    causes: &mut Vec<Cause>,
) {
    let name = text(port, "name");
    if name.is_empty() && !only_one {
        causes.push(Cause::required(child(at, "name"), ""));
    } else if !name.is_empty() {
        causes.extend(names::dns1123_label(name).iter().map(|p| Cause::invalid_text(child(at, "name"), name, p)));
        if seen.contains(&name) {
            causes.push(Cause::duplicate(child(at, "name"), &name.into()));
        }
        seen.push(name);
    }
    port_number(child(at, "port"), &port["port"], causes);
    choice(child(at, "protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"], causes);
    match &port["targetPort"] {
        Value::String(target) => {
            causes.extend(
                names::port_name(target).iter().map(|p| Cause::invalid_text(child(at, "targetPort"), target, p)),
            );
        }
        target => port_number(child(at, "targetPort"), target, causes),
    }
    if port["nodePort"].as_i64().unwrap_or(0) != 0 && !["NodePort", "LoadBalancer"].contains(&type_) {
        causes.push(Cause::forbidden(child(at, "nodePort"), "may not be used when `type` is 'ClusterIP'"));
    }
}

fn policies(spec: &Value, type_: &str, causes: &mut Vec<Cause>) {
    let outside = ["NodePort", "LoadBalancer"].contains(&type_)
        || (type_ == "ClusterIP" && list(&spec["externalIPs"]).next().is_some());
    let external = &spec["externalTrafficPolicy"];
    if !outside && !text(spec, "externalTrafficPolicy").is_empty() {
        let detail = "may only be set for externally-accessible services";
        causes.push(Cause::invalid("spec.externalTrafficPolicy", external, detail));
    } else if outside {
        choice("spec.externalTrafficPolicy".into(), external, &["Cluster", "Local"], causes);
    }
    if !spec["internalTrafficPolicy"].is_null() {
        choice("spec.internalTrafficPolicy".into(), &spec["internalTrafficPolicy"], &["Cluster", "Local"], causes);
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !spec[field].is_null() && type_ != "LoadBalancer" {
            causes.push(Cause::forbidden(child("spec", field), "may only be used when `type` is 'LoadBalancer'"));
        }
    }
    for (i, range) in list(&spec["loadBalancerSourceRanges"]) {
        if range.as_str().is_none_or(|r| r.trim().parse::<ipnet::IpNet>().is_err()) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(index("spec.LoadBalancerSourceRanges", i), range, detail));
        }
    }
}

fn address(path: &str, text: &str, causes: &mut Vec<Cause>) {
    if text.parse::<IpAddr>().is_err() {
        causes.push(Cause::invalid_text(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
    }
}

/// Keys of a map of data, and the size of everything.
fn data(object: &Value, fields: [&str; 2], causes: &mut Vec<Cause>) -> usize {
    let mut size = 0;
    for field in fields {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            let at = crate::schema::cause::key(field, key);
            causes.extend(names::config_key(key).iter().map(|p| Cause::invalid_text(&at, key, p)));
            size += value.as_str().map_or(0, str::len);
        }
    }
    size
}

const DATA_LIMIT: usize = 1024 * 1024;

fn config_map(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let size = data(new, ["data", "binaryData"], causes);
    for key in new["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if !new["binaryData"][key.as_str()].is_null() {
            causes.push(Cause::invalid_text(
                crate::schema::cause::key("data", key),
                key,
                "duplicate of key present in binaryData",
            ));
        }
    }
    if size > DATA_LIMIT {
        causes.push(Cause::too_long("", DATA_LIMIT as u64));
    }
    frozen(new, old, &["data", "binaryData"], causes);
}

/// What is marked immutable stays as it is.
fn frozen(new: &Value, old: Option<&Value>, fields: &[&str], causes: &mut Vec<Cause>) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else { return };
    if new["immutable"] != true {
        causes.push(Cause::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for field in fields.iter().filter(|field| new[**field] != old[**field]) {
        causes.push(Cause::forbidden(*field, "field is immutable when `immutable` is set"));
    }
}

fn secret(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if data(new, ["data", "stringData"], causes) > DATA_LIMIT * 4 / 3 {
        causes.push(Cause::too_long("data", DATA_LIMIT as u64));
    }
    let needed: &[&str] = match text(new, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        _ => &[],
    };
    for key in needed.iter().filter(|key| new["data"][**key].is_null()) {
        causes.push(Cause::required(crate::schema::cause::key("data", key), ""));
    }
    if let Some(old) = old {
        immutable("type", &new["type"], &old["type"], causes);
    }
    frozen(new, old, &["data"], causes);
}

fn node(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    for (i, range) in list(&spec["podCIDRs"]) {
        if range.as_str().is_none_or(|r| r.parse::<ipnet::IpNet>().is_err()) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(index("spec.podCIDRs", i), range, detail));
        }
    }
    for (i, taint) in list(&spec["taints"]) {
        let at = index("metadata.taints", i); // kube-apiserver calls it so
        let key = text(taint, "key");
        causes.extend(names::qualified_name(key).iter().map(|p| Cause::invalid_text(child(&at, "key"), key, p)));
        choice(child(&at, "effect"), &taint["effect"], &["NoSchedule", "PreferNoSchedule", "NoExecute"], causes);
    }
}

fn endpoints(object: &Value, causes: &mut Vec<Cause>) {
    for (i, subset) in list(&object["subsets"]) {
        let at = index("subsets", i);
        let empty = |field: &str| list(&subset[field]).next().is_none();
        if empty("addresses") && empty("notReadyAddresses") {
            causes.push(Cause::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (j, entry) in list(&subset[field]) {
                address(&child(&index(&child(&at, field), j), "ip"), text(entry, "ip"), causes);
            }
        }
        for (j, port) in list(&subset["ports"]) {
            let at = index(&child(&at, "ports"), j);
            port_number(child(&at, "port"), &port["port"], causes);
            choice(child(&at, "protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"], causes);
        }
    }
}

fn event(about: &Value, field: &str, object: &Value, causes: &mut Vec<Cause>) {
    let namespace = text(&object["metadata"], "namespace");
    let target = text(about, "namespace");
    let cluster_scoped = target.is_empty() && namespace == "default";
    if target != namespace && !cluster_scoped {
        causes.push(Cause::invalid_text(child(field, "namespace"), target, "does not match event.namespace"));
    }
}

fn lease(spec: &Value, causes: &mut Vec<Cause>) {
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|s| s <= 0) {
        causes.push(Cause::invalid(
            "spec.leaseDurationSeconds",
            &spec["leaseDurationSeconds"],
            "must be greater than 0",
        ));
    }
    if spec["leaseTransitions"].as_i64().is_some_and(|s| s < 0) {
        causes.push(Cause::invalid(
            "spec.leaseTransitions",
            &spec["leaseTransitions"],
            "must be greater than or equal to 0",
        ));
    }
}

fn endpoint_slice(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let type_ = text(new, "addressType");
    choice("addressType".into(), &new["addressType"], &["FQDN", "IPv4", "IPv6"], causes);
    for (i, endpoint) in list(&new["endpoints"]) {
        let path = child(&index("endpoints", i), "addresses");
        if list(&endpoint["addresses"]).next().is_none() {
            causes.push(Cause::required(&path, "must contain at least 1 address"));
        }
        for (j, entry) in list(&endpoint["addresses"]) {
            let entry = entry.as_str().unwrap_or_default();
            let at = index(&path, j);
            match (type_, entry.parse::<IpAddr>()) {
                ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) | ("FQDN", _) => {}
                ("IPv4", Ok(_)) => causes.push(Cause::invalid_text(at, entry, "must be an IPv4 address")),
                ("IPv6", Ok(_)) => causes.push(Cause::invalid_text(at, entry, "must be an IPv6 address")),
                _ => address(&at, entry, causes),
            }
        }
    }
    let mut seen = Vec::new();
    for (i, port) in list(&new["ports"]) {
        let at = index("ports", i);
        let name = text(port, "name");
        if !name.is_empty() {
            causes.extend(names::dns1123_label(name).iter().map(|p| Cause::invalid_text(child(&at, "name"), name, p)));
        }
        if seen.contains(&name) {
            causes.push(Cause::duplicate(child(&at, "name"), &name.into()));
        }
        seen.push(name);
        choice(child(&at, "protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"], causes);
    }
    if let Some(old) = old {
        immutable("addressType", &new["addressType"], &old["addressType"], causes);
    }
}

fn webhooks(kind: &str, object: &Value, causes: &mut Vec<Cause>) {
    let mut seen = Vec::new();
    for (i, webhook) in list(&object["webhooks"]) {
        let at = index("webhooks", i);
        let name = text(webhook, "name");
        if name.is_empty() {
            causes.push(Cause::required(child(&at, "name"), ""));
        } else if !names::dns1123_subdomain(name).is_empty() {
            causes.push(Cause::invalid_text(child(&at, "name"), name, names::dns1123_subdomain(name).join(",")));
        } else if name.split('.').count() < 3 {
            causes.push(Cause::invalid_text(
                child(&at, "name"),
                name,
                "should be a domain with at least three segments separated by dots",
            ));
        }
        if seen.contains(&name) {
            causes.push(Cause::duplicate(child(&at, "name"), &name.into()));
        }
        seen.push(name);
        webhook_settings(kind, &at, webhook, causes);
        client(&child(&at, "clientConfig"), &webhook["clientConfig"], causes);
        for (j, rule) in list(&webhook["rules"]) {
            rule_lists(&index(&child(&at, "rules"), j), rule, causes);
        }
        for field in ["namespaceSelector", "objectSelector"] {
            selectors::check(&child(&at, field), &webhook[field], causes);
        }
        match_conditions(&child(&at, "matchConditions"), &webhook["matchConditions"], causes);
    }
}

/// Names and syntax; whether a name in an expression is known shows when it is evaluated.
fn match_conditions(path: &str, conditions: &Value, causes: &mut Vec<Cause>) {
    let mut seen = Vec::new();
    for (i, condition) in list(conditions) {
        let at = index(path, i);
        let (name, expression) = (text(condition, "name"), text(condition, "expression").trim());
        if expression.is_empty() {
            causes.push(Cause::required(child(&at, "expression"), ""));
        } else if let Err(error) = Program::compile(expression) {
            let detail = format!("compilation failed: {error}");
            causes.push(Cause::invalid_text(child(&at, "expression"), expression, detail));
        }
        if name.is_empty() {
            causes.push(Cause::required(child(&at, "name"), ""));
        }
        let problems = if name.is_empty() { Vec::new() } else { names::qualified_name(name) };
        causes.extend(problems.iter().map(|problem| Cause::invalid_text(child(&at, "name"), name, problem)));
        if seen.contains(&name) && !name.is_empty() {
            causes.push(Cause::duplicate(child(&at, "name"), &name.into()));
        }
        seen.push(name);
    }
}

fn webhook_settings(kind: &str, at: &str, webhook: &Value, causes: &mut Vec<Cause>) {
    let versions: Vec<&str> = list(&webhook["admissionReviewVersions"]).filter_map(|(_, v)| v.as_str()).collect();
    let path = child(at, "admissionReviewVersions");
    if versions.is_empty() {
        causes.push(Cause::required(path, "must specify one of v1, v1beta1"));
    } else if !versions.iter().any(|v| ["v1", "v1beta1"].contains(v)) {
        causes.push(Cause::invalid(
            path,
            &webhook["admissionReviewVersions"],
            "must include at least one of v1, v1beta1",
        ));
    }
    choice(child(at, "failurePolicy"), &webhook["failurePolicy"], &["Fail", "Ignore"], causes);
    choice(child(at, "matchPolicy"), &webhook["matchPolicy"], &["Equivalent", "Exact"], causes);
    match webhook["sideEffects"].as_str() {
        None => causes.push(Cause::required(child(at, "sideEffects"), "must specify one of None, NoneOnDryRun")),
        Some("None" | "NoneOnDryRun") => {}
        Some(_) => causes.push(Cause::not_supported(
            child(at, "sideEffects"),
            &webhook["sideEffects"],
            &["None", "NoneOnDryRun"],
        )),
    }
    if !webhook["timeoutSeconds"].as_i64().is_some_and(|s| (1..=30).contains(&s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        causes.push(Cause::invalid(child(at, "timeoutSeconds"), &webhook["timeoutSeconds"], detail));
    }
    if kind == "MutatingWebhookConfiguration" {
        choice(child(at, "reinvocationPolicy"), &webhook["reinvocationPolicy"], &["Never", "IfNeeded"], causes);
    }
}

fn client(path: &str, config: &Value, causes: &mut Vec<Cause>) {
    let (url, service) = (&config["url"], &config["service"]);
    if url.is_null() == service.is_null() {
        causes.push(Cause::required(path, "exactly one of url or service is required"));
    } else if let Some(text) = url.as_str() {
        if !text.starts_with("https://") {
            let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
            let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
            causes.push(Cause::invalid_text(child(path, "url"), scheme, detail));
        } else if text.contains(['?', '#']) {
            let detail = "query parameters are not permitted; desired format: https://host[/path]";
            causes.push(Cause::invalid_text(child(path, "url"), text, detail));
        }
    } else {
        for (field, detail) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
            if text(service, field).is_empty() {
                causes.push(Cause::required(child(&child(path, "service"), field), detail));
            }
        }
        not_negative(child(path, "service.port"), &service["port"], causes);
    }
}

fn rule_lists(path: &str, rule: &Value, causes: &mut Vec<Cause>) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        let values: Vec<&str> = list(&rule[field]).filter_map(|(_, v)| v.as_str()).collect();
        if values.is_empty() {
            causes.push(Cause::required(child(path, field), ""));
        }
        if values.len() > 1 && values.contains(&"*") {
            let detail = match field {
                "operations" => "if '*' is present, must not specify other operations",
                "apiGroups" => "if '*' is present, must not specify other API groups",
                "apiVersions" => "if '*' is present, must not specify other API versions",
                _ => "if '*' is present, must not specify other resources without subresources",
            };
            if field != "resources" || values.iter().any(|v| *v != "*" && !v.contains('/')) {
                causes.push(Cause::invalid(child(path, field), &rule[field], detail));
            }
        }
    }
    for (i, operation) in list(&rule["operations"]) {
        choice(
            index(&child(path, "operations"), i),
            operation,
            &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"],
            causes,
        );
    }
    choice(child(path, "scope"), &rule["scope"], &["*", "Cluster", "Namespaced"], causes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(group: &str, kind: &str, mut new: Value) -> Vec<String> {
        super::super::super::defaults::apply(group, kind, &mut new);
        let mut causes = Vec::new();
        object(group, kind, &new, None, &mut causes);
        causes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn services_need_ports_with_names_and_numbers() {
        let service = |spec: Value| texts("", "Service", json!({"spec": spec}));
        assert_eq!(service(json!({"ports": [{"port": 80}]})), [""; 0]);
        assert_eq!(service(json!({})), ["spec.ports: Required value"]);
        assert_eq!(
            service(json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]})),
            ["spec.ports[0].name: Required value"]
        );
        assert_eq!(
            service(json!({"type": "Else", "ports": [{"port": 1}]})),
            [
                "spec.type: Unsupported value: \"Else\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
            ]
        );
        assert_eq!(
            service(json!({"ports": [{"port": 0, "targetPort": 1}]})),
            ["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"]
        );
    }

    #[test]
    fn webhooks_need_one_address_and_a_promise_about_side_effects() {
        let webhook = |change: &dyn Fn(&mut Value)| {
            let mut webhook = json!({"name": "a.example.org", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://127.0.0.1:1"}, "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
            change(&mut webhook);
            texts("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", json!({"webhooks": [webhook]}))
        };
        assert_eq!(webhook(&|_| {}), [""; 0]);
        assert_eq!(
            webhook(&|w| w["clientConfig"] = json!({})),
            ["webhooks[0].clientConfig: Required value: exactly one of url or service is required"]
        );
        assert_eq!(
            webhook(&|w| w["sideEffects"] = Value::Null),
            ["webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"]
        );
        assert_eq!(
            webhook(&|w| w["name"] = json!("short")),
            [
                "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots"
            ]
        );
    }

    #[test]
    fn configuration_keys_and_slices() {
        let seen = texts("", "ConfigMap", json!({"data": {"a b": "x"}}));
        assert!(
            seen[0].starts_with("data[a b]: Invalid value: \"a b\": a valid config key must consist of"),
            "{seen:?}"
        );
        assert_eq!(
            texts(
                "discovery.k8s.io",
                "EndpointSlice",
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}]})
            ),
            ["endpoints[0].addresses[0]: Invalid value: \"::1\": must be an IPv4 address"]
        );
        assert_eq!(
            texts("coordination.k8s.io", "Lease", json!({"spec": {"leaseDurationSeconds": 0}})),
            ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
        );
    }
}
