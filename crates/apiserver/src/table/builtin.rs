//! Columns of the built-in kinds: clusters' objects, services and the like; pods and workloads are in
//! [`super::workloads`].

use super::duration::{age, object_age};
use super::workloads;
use super::{Definition, META, description};
use serde_json::{Value, json};

/// Computes the cells of a row.
pub(crate) type Printer = fn(&Value, jiff::Timestamp) -> Vec<Value>;

pub(super) const CORE: &str = "io.k8s.api.core.v1";

/// A text column.
pub(super) fn col(name: &'static str, priority: u8, description: impl Into<String>) -> Definition {
    Definition { name, type_: "string", format: "", description: description.into(), priority }
}

/// An integer column.
pub(super) fn int(name: &'static str, description: impl Into<String>) -> Definition {
    Definition { name, type_: "integer", format: "", description: description.into(), priority: 0 }
}

pub(super) fn name() -> Definition {
    Definition { name: "Name", type_: "string", format: "name", description: description(META, "name"), priority: 0 }
}

pub(super) fn age_column() -> Definition {
    col("Age", 0, description(META, "creationTimestamp"))
}

/// The description of a field of a core type.
pub(super) fn core(type_: &str, field: &str) -> String {
    description(&format!("{CORE}.{type_}"), field)
}

/// The printer of a kind and its columns.
pub(crate) fn columns(group: &str, kind: &str) -> (Printer, Vec<Definition>) {
    let webhooks = "Webhooks indicates the number of webhooks registered in this configuration";
    match (group, kind) {
        ("", "Service") => (service, service_columns()),
        ("", "Node") => (node, node_columns()),
        ("", "Event") | ("events.k8s.io", "Event") => (event, event_columns()),
        ("", "Namespace") => (namespace, vec![name(), col("Status", 0, "The status of the namespace"), age_column()]),
        ("", "Secret") => (
            secret,
            vec![name(), col("Type", 0, core("Secret", "type")), col("Data", 0, core("Secret", "data")), age_column()],
        ),
        ("", "ConfigMap") => (config_map, vec![name(), col("Data", 0, core("ConfigMap", "data")), age_column()]),
        ("", "ServiceAccount") => (service_account, vec![name(), age_column()]),
        ("", "Endpoints") => (endpoints, vec![name(), col("Endpoints", 0, core("Endpoints", "subsets")), age_column()]),
        ("discovery.k8s.io", "EndpointSlice") => (endpoint_slice, slice_columns()),
        ("coordination.k8s.io", "Lease") => {
            let holder = description("io.k8s.api.coordination.v1.LeaseSpec", "holderIdentity");
            (lease, vec![name(), col("Holder", 0, holder), age_column()])
        }
        ("admissionregistration.k8s.io", _) => (webhook, vec![name(), int("Webhooks", webhooks), age_column()]),
        _ => workloads::columns(group, kind).unwrap_or_else(|| (plain, plain_columns())),
    }
}

pub(super) fn text<'a>(value: &'a Value, otherwise: &'a str) -> &'a str {
    value.as_str().filter(|t| !t.is_empty()).unwrap_or(otherwise)
}

pub(super) fn list(value: &Value) -> impl DoubleEndedIterator<Item = &Value> + ExactSizeIterator {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

pub(super) fn number(value: &Value) -> Value {
    value.as_i64().unwrap_or(0).into()
}

/// Labels as `a=b,c=d`, or `<none>`.
pub(super) fn labels(value: &Value) -> String {
    let pairs: Vec<_> = value.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v, ""))).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// The first `max` entries and how many more there are.
fn shortened(entries: &[String], max: usize) -> String {
    if entries.is_empty() {
        return "<unset>".to_owned();
    }
    let shown = entries[..entries.len().min(max)].join(",");
    if entries.len() > max { format!("{shown} + {} more...", entries.len() - max) } else { shown }
}

fn plain_columns() -> Vec<Definition> {
    let created = Definition {
        name: "Created At",
        type_: "date",
        format: "",
        description: description(META, "creationTimestamp"),
        priority: 0,
    };
    vec![name(), created]
}

fn plain(object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
    vec![object["metadata"]["name"].clone(), object["metadata"]["creationTimestamp"].clone()]
}

fn named(object: &Value, now: jiff::Timestamp, cells: Vec<Value>) -> Vec<Value> {
    let mut row = vec![object["metadata"]["name"].clone()];
    row.extend(cells);
    row.push(object_age(object, now));
    row
}

fn namespace(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    named(object, now, vec![text(&object["status"]["phase"], "").into()])
}

fn secret(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    named(object, now, vec![text(&object["type"], "").into(), size(&object["data"]).into()])
}

fn config_map(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    named(object, now, vec![(size(&object["data"]) + size(&object["binaryData"])).into()])
}

fn size(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn service_account(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    named(object, now, vec![])
}

fn lease(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    named(object, now, vec![text(&object["spec"]["holderIdentity"], "").into()])
}

fn webhook(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    named(object, now, vec![list(&object["webhooks"]).len().into()])
}

fn slice_columns() -> Vec<Definition> {
    let about = |field: &str| description("io.k8s.api.discovery.v1.EndpointSlice", field);
    vec![
        name(),
        col("AddressType", 0, about("addressType")),
        col("Ports", 0, about("ports")),
        col("Endpoints", 0, about("endpoints")),
        age_column(),
    ]
}

fn endpoint_slice(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let port = |port: &Value| match port["port"].as_i64() {
        Some(number) => number.to_string(),
        None => port["name"].as_str().unwrap_or("*").to_owned(),
    };
    let ports: Vec<_> = list(&object["ports"]).map(port).collect();
    let addresses: Vec<_> =
        list(&object["endpoints"]).flat_map(|e| list(&e["addresses"])).map(|a| text(a, "").to_owned()).collect();
    named(
        object,
        now,
        vec![text(&object["addressType"], "").into(), shortened(&ports, 3).into(), shortened(&addresses, 3).into()],
    )
}

fn endpoints(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(&object["subsets"]) {
        let addresses = || list(&subset["addresses"]).map(|a| text(&a["ip"], ""));
        if list(&subset["ports"]).len() == 0 {
            all.extend(addresses().map(str::to_owned));
        }
        for port in list(&subset["ports"]) {
            all.extend(addresses().map(|ip| join_host_port(ip, port["port"].as_i64().unwrap_or(0))));
        }
    }
    let shown = if list(&object["subsets"]).len() == 0 {
        "<none>".to_owned()
    } else if all.is_empty() {
        String::new()
    } else {
        shortened(&all, 3)
    };
    named(object, now, vec![shown.into()])
}

fn join_host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn service_columns() -> Vec<Definition> {
    let about = |field: &str| core("ServiceSpec", field);
    vec![
        name(),
        col("Type", 0, about("type")),
        col("Cluster-IP", 0, about("clusterIP")),
        col("External-IP", 0, about("externalIPs")),
        col("Port(s)", 0, about("ports")),
        age_column(),
        col("Selector", 1, about("selector")),
    ]
}

fn service(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let ports: Vec<_> = list(&spec["ports"]).map(service_port).collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![
        object["metadata"]["name"].clone(),
        text(&spec["type"], "").into(),
        text(&spec["clusterIPs"][0], "<none>").into(),
        external_ip(object).into(),
        ports.into(),
        object_age(object, now),
        labels(&spec["selector"]).into(),
    ]
}

fn service_port(port: &Value) -> String {
    let (number, protocol) = (port["port"].as_i64().unwrap_or(0), text(&port["protocol"], ""));
    match port["nodePort"].as_i64().filter(|p| *p > 0) {
        Some(node_port) => format!("{number}:{node_port}/{protocol}"),
        None => format!("{number}/{protocol}"),
    }
}

fn external_ip(object: &Value) -> String {
    let spec = &object["spec"];
    let external: Vec<String> = list(&spec["externalIPs"]).map(|ip| text(ip, "").to_owned()).collect();
    match text(&spec["type"], "") {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let ingress = list(&object["status"]["loadBalancer"]["ingress"]);
            let mut all: Vec<String> = ingress
                .map(|i| text(&i["ip"], text(&i["hostname"], "")).to_owned())
                .filter(|t| !t.is_empty())
                .collect();
            all.sort();
            all.dedup();
            all.extend(external);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => text(&spec["externalName"], "").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn node_columns() -> Vec<Definition> {
    let info = |field: &str| core("NodeSystemInfo", field);
    let addresses = core("NodeStatus", "addresses");
    vec![
        name(),
        col("Status", 0, "The status of the node"),
        col("Roles", 0, "The roles of the node"),
        age_column(),
        col("Version", 0, info("kubeletVersion")),
        col("Internal-IP", 1, addresses.clone()),
        col("External-IP", 1, addresses),
        col("OS-Image", 1, info("osImage")),
        col("Kernel-Version", 1, info("kernelVersion")),
        col("Container-Runtime", 1, info("containerRuntimeVersion")),
    ]
}

fn node(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let ready = list(&object["status"]["conditions"]).rfind(|c| c["type"] == "Ready");
    let mut status = match ready {
        Some(condition) if condition["status"] == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let info = &object["status"]["nodeInfo"];
    let address = |kind: &str| {
        let found = list(&object["status"]["addresses"]).find(|a| a["type"] == kind);
        found.map_or("<none>", |a| text(&a["address"], "")).to_owned()
    };
    let mut kernel = text(&info["kernelVersion"], "<unknown>").to_owned();
    if let Some(architecture) = info["architecture"].as_str().filter(|a| !a.is_empty()) {
        kernel = format!("{kernel} ({architecture})");
    }
    vec![
        object["metadata"]["name"].clone(),
        status.into(),
        roles(object).into(),
        object_age(object, now),
        text(&info["kubeletVersion"], "").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        text(&info["osImage"], "<unknown>").into(),
        kernel.into(),
        text(&info["containerRuntimeVersion"], "<unknown>").into(),
    ]
}

fn roles(object: &Value) -> String {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()).filter(|r| !r.is_empty()),
        None if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()).map(str::to_owned),
        None => None,
    };
    let mut roles: Vec<_> = object["metadata"]["labels"].as_object().into_iter().flatten().filter_map(role).collect();
    roles.sort();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn event_columns() -> Vec<Definition> {
    let about = |field: &str| core("Event", field);
    vec![
        col("Last Seen", 0, about("lastTimestamp")),
        col("Type", 0, about("type")),
        col("Reason", 0, about("reason")),
        col("Object", 0, about("involvedObject")),
        col("Subobject", 1, core("ObjectReference", "fieldPath")),
        col("Source", 1, about("source")),
        col("Message", 0, about("message")),
        col("First Seen", 1, about("firstTimestamp")),
        col("Count", 1, about("count")),
        Definition { priority: 1, ..name() },
    ]
}

/// Reads both forms: core names and those of events.k8s.io.
fn event(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let field = |core: &str, events: &str| if object[core].is_null() { &object[events] } else { &object[core] };
    let mut first = age(field("firstTimestamp", "deprecatedFirstTimestamp"), now);
    if first == "<unknown>" {
        first = age(&object["eventTime"], now);
    }
    let mut last = age(field("lastTimestamp", "deprecatedLastTimestamp"), now);
    if last == "<unknown>" {
        last.clone_from(&first);
    }
    let mut count = field("count", "deprecatedCount").as_i64().filter(|n| *n > 0).unwrap_or(1);
    if object["series"].is_object() {
        last = age(&object["series"]["lastObservedTime"], now);
        count = object["series"]["count"].as_i64().unwrap_or(0);
    }
    let about = field("involvedObject", "regarding");
    let kind = text(&about["kind"], "").to_lowercase();
    let target = match text(&about["name"], "") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = field("source", "deprecatedSource");
    let component = text(&source["component"], text(field("reportingComponent", "reportingController"), ""));
    let instance = text(&source["host"], text(&object["reportingInstance"], ""));
    let source = if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") };
    vec![
        last.into(),
        text(&object["type"], "").into(),
        text(&object["reason"], "").into(),
        target.into(),
        text(&about["fieldPath"], "").into(),
        source.into(),
        text(field("message", "note"), "").trim().into(),
        first.into(),
        count.into(),
        json!(object["metadata"]["name"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(group: &str, kind: &str, object: Value) -> Vec<String> {
        let (printer, definitions) = columns(group, kind);
        let row = printer(&object, "2026-01-02T00:00:00Z".parse().unwrap());
        assert_eq!(row.len(), definitions.len(), "{kind}");
        row.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect()
    }

    #[test]
    fn services_show_addresses_and_ports() {
        let meta = json!({"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let service = json!({"metadata": meta, "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "selector": {"app": "a"}, "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}});
        assert_eq!(
            cells("", "Service", service),
            ["s", "LoadBalancer", "10.0.0.1", "1.2.3.4", "80:30080/TCP,53/UDP", "24h", "app=a"]
        );
        let pending = json!({"metadata": meta, "spec": {"type": "LoadBalancer"}});
        assert_eq!(
            cells("", "Service", pending),
            ["s", "LoadBalancer", "<none>", "<pending>", "<none>", "24h", "<none>"]
        );
    }

    #[test]
    fn nodes_show_state_and_roles() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "kernelVersion": "6.1", "architecture": "amd64"}}});
        assert_eq!(
            cells("", "Node", node),
            [
                "n",
                "Ready,SchedulingDisabled",
                "control-plane",
                "<unknown>",
                "v1.36.0",
                "10.0.0.1",
                "<none>",
                "<unknown>",
                "6.1 (amd64)",
                "<unknown>"
            ]
        );
    }

    #[test]
    fn events_and_slices() {
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "Started",
            "message": " ok\n", "firstTimestamp": "2026-01-01T23:59:00Z", "lastTimestamp": "2026-01-01T23:59:30Z", "count": 3, "source": {"component": "kubelet", "host": "n"}});
        assert_eq!(
            cells("", "Event", event),
            ["30s", "Normal", "Started", "pod/p", "", "kubelet, n", "ok", "60s", "3", "e"]
        );
        let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["1.1.1.1"]}, {"addresses": ["1.1.1.2"]}, {"addresses": ["1.1.1.3"]}, {"addresses": ["1.1.1.4"]}]});
        assert_eq!(
            cells("discovery.k8s.io", "EndpointSlice", slice),
            ["s", "IPv4", "80", "1.1.1.1,1.1.1.2,1.1.1.3 + 1 more...", "<unknown>"]
        );
        assert_eq!(
            cells(
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"}})
            ),
            ["c", "2026-01-01T00:00:00Z"]
        );
    }
}
