//! Services: addresses and ports (kubernetes `pkg/registry/core/service/storage`).
//!
//! Writes of Services are serialised, so what the other Services hold is all there is to know; nothing is reserved
//! beside the objects themselves, and an abandoned write leaves nothing behind.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::schema::Cause;
use crate::status::{Failure, Outcome};

mod ranges;

pub use ranges::{Held, Ranges};
use ranges::{family_of, free_address, is_assignable, random};

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn spec<'a>(service: &'a Value, key: &str) -> &'a str {
    service["spec"][key].as_str().unwrap_or_default()
}

fn put(service: &mut Value, key: &str, value: Value) {
    let Some(spec) = service["spec"].as_object_mut() else { return };
    let empty = value.is_null() || value == "" || value == 0 || value.as_array().is_some_and(Vec::is_empty);
    if empty {
        spec.remove(key)
    } else {
        spec.insert(key.to_owned(), value)
    };
}

fn is_external_name(service: &Value) -> bool {
    spec(service, "type") == "ExternalName"
}

fn is_headless(service: &Value) -> bool {
    spec(service, "clusterIP") == "None"
}

fn is_selectorless(service: &Value) -> bool {
    service["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty)
}

fn has_node_ports(service: &Value) -> bool {
    match spec(service, "type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

fn is_reachable_from_outside(service: &Value) -> bool {
    let ips = service["spec"]["externalIPs"].as_array().is_some_and(|l| !l.is_empty());
    matches!(spec(service, "type"), "NodePort" | "LoadBalancer") || (spec(service, "type") == "ClusterIP" && ips)
}

fn needs_health_check(service: &Value) -> bool {
    spec(service, "type") == "LoadBalancer" && spec(service, "externalTrafficPolicy") == "Local"
}

fn node_ports(service: &Value) -> Vec<u64> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.filter_map(|p| p["nodePort"].as_u64().filter(|n| *n > 0)).collect()
}

/// The node ports of a Service, that of its health check too.
fn all_ports(service: &Value) -> BTreeSet<u64> {
    let check = service["spec"]["healthCheckNodePort"].as_u64().filter(|p| *p > 0);
    node_ports(service).into_iter().chain(check).collect()
}

/// Fills in addresses and ports of a Service that is created or updated; the errors are those of its fields.
pub fn allocate(ranges: &Ranges, held: &Held, new: &mut Value, old: Option<&Value>) -> Outcome<Result<(), Vec<Cause>>> {
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    if let Some(old) = old {
        keep_allocated(new, old);
    }
    normalize(new, old);
    let (kept, asked) = (old.map(all_ports).unwrap_or_default(), all_ports(new));
    let mut work = Allocation { ranges, held, kept, asked, taken: BTreeSet::new(), causes: Vec::new() };
    work.families(new, old);
    if work.causes.is_empty() {
        work.addresses(new, old)?;
        work.ports(new, old)?;
        work.health_check(new, old)?;
    }
    if let Some(old) = old {
        drop_unneeded(new, old);
    }
    Ok(if work.causes.is_empty() { Ok(()) } else { Err(work.causes) })
}

/// A client may send its own YAML again, without what was allocated for it.
fn keep_allocated(new: &mut Value, old: &Value) {
    if !is_external_name(old) && !is_external_name(new) {
        if spec(new, "clusterIP").is_empty() {
            put(new, "clusterIP", old["spec"]["clusterIP"].clone());
        }
        if texts(&new["spec"]["clusterIPs"]).is_empty() {
            put(new, "clusterIPs", old["spec"]["clusterIPs"].clone());
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        let both: Vec<_> = node_ports(old).into_iter().filter(|p| node_ports(new).contains(p)).collect();
        let before = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        for port in new["spec"]["ports"]
            .as_array_mut()
            .into_iter()
            .flatten()
            .filter(|p| p["nodePort"].as_u64().unwrap_or(0) == 0)
        {
            let same = before.iter().rfind(|p| p["name"] == port["name"]).and_then(|p| p["nodePort"].as_u64());
            if let Some(known) = same.filter(|p| *p > 0 && !both.contains(p)) {
                port["nodePort"] = known.into();
            }
        }
    }
    if needs_health_check(old)
        && needs_health_check(new)
        && new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0
    {
        put(new, "healthCheckNodePort", old["spec"]["healthCheckNodePort"].clone());
    }
}

/// `clusterIP` and `clusterIPs` say the same, whichever the client set.
fn normalize(new: &mut Value, old: Option<&Value>) {
    let plural = texts(&new["spec"]["clusterIPs"]);
    let Some(old) = old else {
        if !spec(new, "clusterIP").is_empty() && plural.is_empty() {
            put(new, "clusterIPs", json!([spec(new, "clusterIP")]));
        }
        return;
    };
    let (before, now) = (spec(old, "clusterIP").to_owned(), spec(new, "clusterIP").to_owned());
    let same = texts(&old["spec"]["clusterIPs"]) == plural;
    if before != now && same {
        put(new, "clusterIPs", if now.is_empty() { Value::Null } else { json!([now]) });
    }
}

struct Allocation<'a> {
    ranges: &'a Ranges,
    held: &'a Held,
    /// Ports that the Service has had before this write.
    kept: BTreeSet<u64>,
    /// Ports that it asks for.
    asked: BTreeSet<u64>,
    /// Ports given out in this write.
    taken: BTreeSet<u64>,
    causes: Vec<Cause>,
}

impl Allocation<'_> {
    fn refuse(&mut self, field: &str, value: &Value, why: impl AsRef<str>) {
        self.causes.push(Cause::invalid(field, value, why));
    }

    /// Sets `ipFamilyPolicy` and `ipFamilies`.
    fn families(&mut self, new: &mut Value, old: Option<&Value>) {
        if is_external_name(new) || old.is_some_and(|old| is_settled(new, old)) {
            return;
        }
        if spec(new, "ipFamilyPolicy").is_empty() {
            let before = old.map(|o| spec(o, "ipFamilyPolicy")).unwrap_or_default();
            let headless = is_headless(new) && is_selectorless(new);
            let policy = if !before.is_empty() {
                before
            } else if headless {
                "RequireDualStack"
            } else {
                "SingleStack"
            };
            put(new, "ipFamilyPolicy", policy.into());
        }
        self.check_addresses(new);
        if !self.causes.is_empty() {
            return;
        }
        let policy = spec(new, "ipFamilyPolicy").to_owned();
        if let Some(old) = old {
            self.reduce(new, old, &policy);
        }
        let (ips, mut families) = (texts(&new["spec"]["clusterIPs"]), texts(&new["spec"]["ipFamilies"]));
        let given: Value = policy.as_str().into();
        if policy == "SingleStack" {
            for (count, what) in [(ips.len(), "cluster IPs"), (families.len(), "IP families")] {
                if count == 2 {
                    self.refuse(
                        "spec.ipFamilyPolicy",
                        &given,
                        format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"),
                    );
                }
            }
        }
        for (at, ip) in ips.iter().enumerate().skip(families.len()) {
            let Ok(ip) = ip.parse::<IpAddr>() else { break };
            match self.ranges.network(family_of(ip)) {
                Some(_) => families.push(family_of(ip).to_owned()),
                None => self.refuse(
                    &format!("spec.clusterIPs[{at}]"),
                    &new["spec"]["clusterIPs"],
                    format!("{} is not configured on this cluster", family_of(ip)),
                ),
            }
        }
        let anything = is_headless(new) && is_selectorless(new);
        if !anything {
            if policy == "RequireDualStack" && self.ranges.networks.len() < 2 {
                self.refuse("spec.ipFamilyPolicy", &given, "this cluster is not configured for dual-stack services");
            }
            for (at, family) in families.iter().enumerate() {
                if self.ranges.network(family).is_none() {
                    self.refuse(
                        &format!("spec.ipFamilies[{at}]"),
                        &family.as_str().into(),
                        "not configured on this cluster",
                    );
                }
            }
        }
        if families.is_empty() {
            families.push(self.ranges.primary().to_owned());
        }
        if policy != "SingleStack" && families.len() == 1 && (anything || self.ranges.networks.len() == 2) {
            families.push(other(&families[0]).to_owned());
        }
        put(new, "ipFamilies", families.into());
    }

    /// Form and agreement of the address fields.
    fn check_addresses(&mut self, new: &Value) {
        let spec_value = &new["spec"];
        let (single, ips, families) =
            (spec(new, "clusterIP"), texts(&spec_value["clusterIPs"]), texts(&spec_value["ipFamilies"]));
        let given = &spec_value["clusterIPs"];
        match (single, ips.first()) {
            ("", Some(_)) => self.refuse("spec.clusterIPs", given, "must be empty when `clusterIP` is not specified"),
            (single, Some(first)) if first != single => {
                self.refuse("spec.clusterIPs", given, "first value must match `clusterIP`")
            }
            _ => {}
        }
        for (at, family) in families.iter().enumerate() {
            let field = format!("spec.ipFamilies[{at}]");
            if !matches!(family.as_str(), "IPv4" | "IPv6") {
                self.causes.push(Cause::not_supported(field, &family.as_str().into(), &["IPv4", "IPv6"]));
            } else if families[..at].contains(family) {
                self.causes.push(Cause::duplicate(field, &family.as_str().into()));
            }
        }
        let policy = spec(new, "ipFamilyPolicy");
        if !matches!(policy, "SingleStack" | "PreferDualStack" | "RequireDualStack") {
            let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
            self.causes.push(Cause::not_supported("spec.ipFamilyPolicy", &policy.into(), &known));
        }
        let mut parsed = Vec::new();
        for (at, ip) in ips.iter().enumerate() {
            match ip.parse::<IpAddr>() {
                Ok(ip) => parsed.push(ip),
                Err(_) if at == 0 && ip == "None" && ips.len() > 1 => {
                    self.refuse("spec.clusterIPs", given, "'None' must be the first and only value")
                }
                Err(_) if at == 0 && ip == "None" => return,
                Err(_) => self.refuse(
                    &format!("spec.clusterIPs[{at}]"),
                    &ip.as_str().into(),
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ),
            }
        }
        if ips.len() > 2 {
            self.refuse("spec.clusterIPs", given, "may only hold up to 2 values");
        }
        if parsed.len() == 2 && parsed[0].is_ipv4() == parsed[1].is_ipv4() {
            self.refuse("spec.clusterIPs", given, "may specify no more than one IP for each IP family");
        }
        for (at, (ip, family)) in parsed.iter().zip(&families).enumerate() {
            if family_of(*ip) != family {
                let article = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
                self.refuse(&format!("spec.clusterIPs[{at}]"), &ip.to_string().into(), article);
            }
        }
    }

    /// Going back to one family must be asked for by the policy.
    fn reduce(&mut self, new: &mut Value, old: &Value, policy: &str) {
        for (key, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
            let (before, now) = (texts(&old["spec"][key]), texts(&new["spec"][key]));
            if policy == "SingleStack" {
                if before == now && now.len() > 1 {
                    put(new, key, json!([now[0]]));
                }
            } else if !now.is_empty() && now.len() < before.len() && before.starts_with(&now) {
                let why = format!("must be 'SingleStack' to release the secondary {what}");
                self.refuse("spec.ipFamilyPolicy", &policy.into(), why);
            }
        }
    }

    /// Sets `clusterIPs` where they are missing.
    fn addresses(&mut self, new: &mut Value, old: Option<&Value>) -> Outcome<()> {
        if is_external_name(new) || is_headless(new) {
            return Ok(());
        }
        let kept = old.filter(|o| !is_external_name(o)).map(|o| texts(&o["spec"]["clusterIPs"])).unwrap_or_default();
        let given = new["spec"]["clusterIPs"].clone();
        let mut ips = texts(&given);
        for (at, family) in texts(&new["spec"]["ipFamilies"]).iter().enumerate() {
            let Some(network) = self.ranges.network(family) else { continue };
            match ips.get(at) {
                Some(ip) if kept.contains(ip) => {}
                Some(ip) => {
                    let Ok(parsed) = ip.parse() else { continue };
                    let fault = if !is_assignable(network, parsed) {
                        "the provided network does not match the current range"
                    } else if self.held.addresses.contains(&parsed) {
                        "provided IP is already allocated"
                    } else {
                        continue;
                    };
                    self.refuse("spec.clusterIPs", &given, format!("failed to allocate IP {ip}: {fault}"));
                }
                None => {
                    let free = free_address(network, &self.held.addresses);
                    let name = new["metadata"]["name"].as_str().unwrap_or_default();
                    let full = || {
                        Failure::internal(format!("failed to allocate a serviceIP for Service {name:?}: range is full"))
                    };
                    ips.push(free.ok_or_else(full)?.to_string());
                }
            }
        }
        put(new, "clusterIP", ips.first().map_or(Value::Null, |ip| ip.as_str().into()));
        put(new, "clusterIPs", ips.into());
        Ok(())
    }

    /// Sets `nodePort`s where they are missing; ports with the same number share one (TCP and UDP).
    fn ports(&mut self, new: &mut Value, old: Option<&Value>) -> Outcome<()> {
        if !matches!(spec(new, "type"), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let allocates = has_node_ports(new);
        let mut ports = new["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let asked_for = |port: &Value| port["nodePort"].as_u64().filter(|n| *n > 0);
        let own = old.map(node_ports).unwrap_or_default();
        // Of a new Service: the node port of each port number, which its protocols share.
        let mut shared: BTreeMap<u64, u64> = BTreeMap::new();
        for at in 0..ports.len() {
            let number = ports[at]["port"].as_u64().unwrap_or(0);
            let known = shared.get(&number).copied().filter(|_| old.is_none());
            let wanted = || ports.iter().filter(|p| p["port"] == number).find_map(asked_for);
            let asked = match asked_for(&ports[at]) {
                None if !allocates => continue,
                None if old.is_some() => None,
                None => known.or_else(wanted),
                asked => asked,
            };
            let port = match asked {
                None => self.free_port("failed to allocate a nodePort")?,
                Some(port) if known == Some(port) => port,
                Some(port) if old.is_some() && (own.contains(&port) || self.taken.contains(&port)) => port,
                Some(port) => {
                    if let Some(fault) = self.port_fault(port) {
                        self.refuse(&format!("spec.ports[{at}].nodePort"), &port.into(), fault);
                    }
                    port
                }
            };
            self.taken.insert(port);
            shared.entry(number).or_insert(port);
            ports[at]["nodePort"] = port.into();
        }
        put(new, "ports", ports.into());
        Ok(())
    }

    fn health_check(&mut self, new: &mut Value, old: Option<&Value>) -> Outcome<()> {
        if !needs_health_check(new) || old.is_some_and(needs_health_check) {
            return Ok(());
        }
        let port = match new["spec"]["healthCheckNodePort"].as_u64().filter(|p| *p > 0) {
            None => self.free_port("failed to allocate a HealthCheck NodePort 0")?,
            Some(port) => match self.port_fault(port) {
                None => port,
                Some(fault) => {
                    return Err(Failure::internal(format!(
                        "failed to allocate requested HealthCheck NodePort {port}: {fault}"
                    )));
                }
            },
        };
        put(new, "healthCheckNodePort", port.into());
        Ok(())
    }

    fn port_fault(&self, port: u64) -> Option<String> {
        let (first, last) = self.ranges.ports;
        if !(u64::from(first)..=u64::from(last)).contains(&port) {
            return Some(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            ));
        }
        let held = [&self.held.ports, &self.kept, &self.taken].iter().any(|ports| ports.contains(&port));
        held.then(|| "provided port is already allocated".to_owned())
    }

    fn free_port(&mut self, what: &str) -> Outcome<u64> {
        let (first, last) = (u64::from(self.ranges.ports.0), u64::from(self.ranges.ports.1));
        let size = last - first + 1;
        let start = random() % size;
        let is_free = |port: &u64| !self.asked.contains(port) && self.port_fault(*port).is_none();
        let free = (0..size).map(|i| first + (start + i) % size).find(is_free);
        let port = free.ok_or_else(|| Failure::internal(format!("{what}: range is full")))?;
        self.taken.insert(port);
        Ok(port)
    }
}

/// A PreferDualStack Service whose addresses did not change keeps them, whatever the cluster has become.
fn is_settled(new: &Value, old: &Value) -> bool {
    ["ipFamilyPolicy", "type", "clusterIP", "clusterIPs", "ipFamilies"].iter().all(|k| new["spec"][k] == old["spec"][k])
        && spec(new, "ipFamilyPolicy") == "PreferDualStack"
}

/// Fields that the new type does not use go, unless the client changed them (then validation refuses them).
fn drop_unneeded(new: &mut Value, old: &Value) {
    let same = |new: &Value, key: &str| new["spec"][key] == old["spec"][key];
    if !is_external_name(old) && is_external_name(new) {
        let addresses = same(new, "clusterIP") && same(new, "clusterIPs");
        for (key, drop) in [
            ("clusterIP", addresses),
            ("clusterIPs", addresses),
            ("ipFamilies", same(new, "ipFamilies")),
            ("ipFamilyPolicy", same(new, "ipFamilyPolicy")),
        ] {
            if drop {
                put(new, key, Value::Null);
            }
        }
    }
    let before = node_ports(old);
    if matches!(spec(old, "type"), "NodePort" | "LoadBalancer")
        && !matches!(spec(new, "type"), "NodePort" | "LoadBalancer")
        && node_ports(new).iter().all(|p| before.contains(p))
    {
        for port in new["spec"]["ports"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
    }
    if needs_health_check(old) && !needs_health_check(new) && same(new, "healthCheckNodePort") {
        put(new, "healthCheckNodePort", Value::Null);
    }
    let balancer = |s: &Value| spec(s, "type") == "LoadBalancer";
    if balancer(old) && !balancer(new) {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(new, key) {
                put(new, key, Value::Null);
            }
        }
    }
    if is_reachable_from_outside(old) && !is_reachable_from_outside(new) && same(new, "externalTrafficPolicy") {
        put(new, "externalTrafficPolicy", Value::Null);
    }
    if !balancer(new) {
        new["status"] = json!({"loadBalancer": {}});
    }
}

/// What must not change, and fields that do not fit the type.
pub fn validate(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if is_external_name(new) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if !new["spec"][key].is_null() {
                causes.push(Cause::forbidden(format!("spec.{key}"), "may not be set for ExternalName services"));
            }
        }
        return causes;
    }
    let check = new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
    if check > 0 && !needs_health_check(new) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.push(Cause::invalid("spec.healthCheckNodePort", &check.into(), why));
    }
    let Some(old) = old.filter(|o| !is_external_name(o)) else { return causes };
    let (before, now) = (texts(&old["spec"]["clusterIPs"]), texts(&new["spec"]["clusterIPs"]));
    if !(is_headless(old) && is_headless(new)) {
        for (at, ip) in before.iter().enumerate() {
            if now.get(at).is_some_and(|n| n != ip) {
                causes.push(Cause::invalid(
                    format!("spec.clusterIPs[{at}]"),
                    &new["spec"]["clusterIPs"],
                    "may not change once set",
                ));
            }
        }
    }
    let (before, now) = (texts(&old["spec"]["ipFamilies"]), texts(&new["spec"]["ipFamilies"]));
    if !is_headless(old) && !is_headless(new) && before.first() != now.first() {
        causes.push(Cause::invalid("spec.ipFamilies[0]", &new["spec"]["ipFamilies"], "may not change once set"));
    }
    if needs_health_check(old)
        && needs_health_check(new)
        && old["spec"]["healthCheckNodePort"] != new["spec"]["healthCheckNodePort"]
    {
        causes.push(Cause::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Ranges {
        Ranges::new(&["10.233.0.0/18".into(), "fd00:10:233::/116".into()], (30000, 30003)).unwrap()
    }

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    fn made(spec: Value, held: &Held) -> Value {
        let mut new = service(spec);
        allocate(&ranges(), held, &mut new, None).unwrap().unwrap();
        new
    }

    #[test]
    fn a_single_stack_service_gets_one_address_of_the_primary_family() {
        let made = made(json!({"type": "ClusterIP", "selector": {"a": "b"}}), &Held::default());
        assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
        let ip: IpAddr = spec(&made, "clusterIP").parse().unwrap();
        assert!(ranges().networks[0].contains(&ip), "{ip}");
        assert_eq!(made["spec"]["clusterIPs"], json!([ip.to_string()]));
    }

    #[test]
    fn prefer_dual_stack_gets_both_families() {
        let made = made(json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}), &Held::default());
        assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(texts(&made["spec"]["clusterIPs"]).len(), 2);
    }

    #[test]
    fn an_address_that_is_held_is_refused_with_kubernetes_text() {
        let held = Held { addresses: ["10.233.0.10".parse().unwrap()].into(), ports: BTreeSet::new() };
        let mut new = service(json!({"type": "ClusterIP", "clusterIP": "10.233.0.10"}));
        let causes = allocate(&ranges(), &held, &mut new, None).unwrap().unwrap_err();
        assert_eq!(causes[0].field, "spec.clusterIPs");
        assert!(
            causes[0].message.ends_with("failed to allocate IP 10.233.0.10: provided IP is already allocated"),
            "{}",
            causes[0].message
        );
    }

    #[test]
    fn a_full_range_is_an_error_and_not_a_duplicate() {
        let held = Held { addresses: BTreeSet::new(), ports: (30000..30003).collect() };
        let last = made(json!({"type": "NodePort", "ports": [{"port": 80}]}), &held);
        assert_eq!(last["spec"]["ports"][0]["nodePort"], 30003);
        let held = Held::by([&last].into_iter());
        let held = Held { ports: (30000..30004).collect(), ..held };
        let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        assert_eq!(allocate(&ranges(), &held, &mut new, None).unwrap_err().reason, "InternalError");
    }

    #[test]
    fn a_local_load_balancer_gets_a_health_check_port_and_loses_it_with_its_type() {
        let made = made(
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}),
            &Held::default(),
        );
        assert!(made["spec"]["healthCheckNodePort"].as_u64().unwrap() >= 30000);
        let mut new = made.clone();
        new["spec"]["type"] = "ClusterIP".into();
        allocate(&ranges(), &Held::default(), &mut new, Some(&made)).unwrap().unwrap();
        assert!(new["spec"]["healthCheckNodePort"].is_null() && new["spec"]["ports"][0]["nodePort"].is_null(), "{new}");
        assert_eq!(new["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    }

    #[test]
    fn a_free_port_is_one_that_nobody_asks_for_or_has() {
        for _ in 0..20 {
            let ports = json!([{"port": 80}, {"port": 81, "nodePort": 30002}, {"port": 82}]);
            let balancer = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001, "ports": ports});
            let first = made(balancer, &Held::default());
            let given: BTreeSet<u64> = node_ports(&first).into_iter().collect();
            assert_eq!((given.len(), given.contains(&30001)), (3, false), "{first}");

            let before =
                made(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}), &Held::default());
            let mut after = before.clone();
            after["spec"]["ports"] = json!([{"name": "a", "port": 81}, {"name": "b", "port": 82}, {"name": "c", "port": 80, "nodePort": 30000}]);
            allocate(&ranges(), &Held::default(), &mut after, Some(&before)).unwrap().unwrap();
            let given: BTreeSet<u64> = node_ports(&after).into_iter().collect();
            assert_eq!((given.len(), node_ports(&after)[2]), (3, 30000), "{after}");
        }
        let mut new = service(
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}, {"port": 81, "nodePort": 30001}]}),
        );
        let causes = allocate(&ranges(), &Held::default(), &mut new, None).unwrap().unwrap_err();
        assert_eq!(causes[0].field, "spec.ports[1].nodePort");
    }

    #[test]
    fn sending_the_own_manifest_again_keeps_what_was_allocated() {
        let manifest = json!({"type": "NodePort", "ports": [{"port": 80}]});
        let first = made(manifest.clone(), &Held::default());
        let mut again = service(manifest);
        allocate(&ranges(), &Held::default(), &mut again, Some(&first)).unwrap().unwrap();
        assert_eq!(again["spec"], first["spec"]);
    }
}
