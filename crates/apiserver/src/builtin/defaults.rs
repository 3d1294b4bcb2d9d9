//! Defaults of the built-in kinds, as kube-apiserver 1.36 fills them in (`pkg/apis/*/v1/defaults.go`).

use serde_json::{Map, Value, json};

/// Fills in the defaults of a kind.
pub(super) fn apply(group: &str, kind: &str, object: &mut Value) {
    match (group, kind) {
        ("", "Pod") => pod(object),
        ("", "Service") => service(object),
        ("", "Endpoints") => {
            each(object, &["subsets"], |subset| each(subset, &["ports"], |port| set(port, "protocol", "TCP")))
        }
        ("", "Secret") => set(object, "type", "Opaque"),
        ("", "Namespace") => namespace(object),
        ("", "Node") => node(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "Deployment") => deployment(object),
        ("apps", "ReplicaSet") => with_spec(object, |spec| set(spec, "replicas", 1)),
        ("apps", "StatefulSet") => stateful_set(object),
        ("batch", "Job") => job(object),
        ("discovery.k8s.io", "EndpointSlice") => each(object, &["ports"], |port| {
            set(port, "name", "");
            set(port, "protocol", "TCP");
        }),
        ("admissionregistration.k8s.io", kind) => webhooks(object, kind),
        ("apiextensions.k8s.io", _) => crate::schema::crd::default(object),
        _ => {}
    }
    if matches!((group, kind), ("apps", _) | ("batch", "Job")) {
        with_spec(object, |spec| pod_template(nested(spec, "template")));
    }
}

/// Sets a field that is absent or empty.
fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    let value = value.into();
    let unset = |present: &Value| present.is_null() || (present == "" && value.is_string());
    if map.get(field).is_none_or(unset) {
        map.insert(field.to_owned(), value);
    }
}

/// Runs `act` on each item of the list at a path.
fn each(object: &mut Value, path: &[&str], mut act: impl FnMut(&mut Value)) {
    let found = path.iter().try_fold(object, |value, step| value.get_mut(*step));
    found.and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut act);
}

fn with_spec(object: &mut Value, act: impl FnOnce(&mut Value)) {
    if object["spec"].is_null()
        && let Some(map) = object.as_object_mut()
    {
        map.insert("spec".into(), Value::Object(Map::new()));
    }
    act(&mut object["spec"]);
}

/// A nested object, made if it is absent.
fn nested<'a>(object: &'a mut Value, field: &str) -> &'a mut Value {
    set(object, field, json!({}));
    &mut object[field]
}

fn namespace(object: &mut Value) {
    let Some(name) = object["metadata"]["name"].as_str().filter(|n| !n.is_empty()).map(str::to_owned) else { return };
    nested(&mut object["metadata"], "labels")["kubernetes.io/metadata.name"] = name.into();
}

fn node(object: &mut Value) {
    let capacity = object["status"]["capacity"].clone();
    if capacity.is_object() {
        set(&mut object["status"], "allocatable", capacity);
    }
}

fn pod(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    set(spec, "enableServiceLinks", true);
    pod_spec(spec);
    let host_network = spec["hostNetwork"] == true;
    for list in ["containers", "initContainers"] {
        each(spec, &[list], |container| {
            requests_from_limits(container);
            if host_network {
                each(container, &["ports"], |port| {
                    let number = port["containerPort"].clone();
                    if port["hostPort"].as_i64().unwrap_or(0) == 0 {
                        port["hostPort"] = number;
                    }
                });
            }
        });
    }
}

/// A limit without a request is the request.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    let requests = nested(&mut container["resources"], "requests");
    for (resource, amount) in limits {
        set(requests, &resource, amount);
    }
}

fn pod_template(template: &mut Value) {
    pod_spec(nested(template, "spec"));
}

fn pod_spec(spec: &mut Value) {
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    // The two names of one field.
    let name = [&spec["serviceAccountName"], &spec["serviceAccount"]]
        .into_iter()
        .find(|n| n.as_str().is_some_and(|n| !n.is_empty()))
        .cloned();
    if let Some(name) = name {
        set(spec, "serviceAccountName", name.clone());
        set(spec, "serviceAccount", name);
    }
    each(spec, &["volumes"], volume);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, &[list], container);
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    set(container, "imagePullPolicy", policy);
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    set(container, "resources", json!({}));
    each(container, &["ports"], |port| set(port, "protocol", "TCP"));
    each(container, &["env"], |env| {
        if env["valueFrom"]["fieldRef"].is_object() {
            set(&mut env["valueFrom"]["fieldRef"], "apiVersion", "v1");
        }
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            probe(&mut container[name]);
        }
    }
    for name in ["postStart", "preStop"] {
        if container["lifecycle"][name].is_object() {
            http_get(&mut container["lifecycle"][name]);
        }
    }
}

/// `latest`, also when it is implied, is pulled always.
fn pull_policy(image: &str) -> &'static str {
    let name = image.split('@').next().unwrap_or_default();
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match tag {
        Some("latest") => "Always",
        None if !image.contains('@') => "Always",
        _ => "IfNotPresent",
    }
}

fn probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe[field].as_i64().unwrap_or(0) == 0 {
            probe[field] = value.into();
        }
    }
    http_get(probe);
    if probe["grpc"].is_object() {
        set(&mut probe["grpc"], "service", "");
    }
}

fn http_get(handler: &mut Value) {
    if handler["httpGet"].is_object() {
        set(&mut handler["httpGet"], "path", "/");
        set(&mut handler["httpGet"], "scheme", "HTTP");
    }
}

fn volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if map.keys().all(|key| key == "name") {
        map.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = map.get_mut(source).filter(|s| s.is_object()) {
            set(source, "defaultMode", 0o644);
        }
    }
    if let Some(host_path) = map.get_mut("hostPath").filter(|s| s.is_object() && s["type"].is_null()) {
        host_path["type"] = "".into();
    }
    each(volume, &["projected", "sources"], |source| {
        if source["serviceAccountToken"].is_object() {
            set(&mut source["serviceAccountToken"], "expirationSeconds", 3600);
        }
        each(source, &["downwardAPI", "items"], field_ref);
    });
    each(volume, &["downwardAPI", "items"], field_ref);
}

fn field_ref(item: &mut Value) {
    if item["fieldRef"].is_object() {
        set(&mut item["fieldRef"], "apiVersion", "v1");
    }
}

fn service(object: &mut Value) {
    with_spec(object, |spec| {
        set(spec, "sessionAffinity", "None");
        set(spec, "type", "ClusterIP");
        if spec["sessionAffinity"] == "ClientIP"
            && spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].is_null()
        {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10_800}});
        }
        if let (true, Some(map)) = (spec["sessionAffinity"] == "None", spec.as_object_mut()) {
            map.remove("sessionAffinityConfig");
        }
        each(spec, &["ports"], |port| {
            set(port, "protocol", "TCP");
            if port["targetPort"].is_null() || port["targetPort"] == 0 || port["targetPort"] == "" {
                let number = port["port"].clone();
                set(port, "targetPort", number);
            }
        });
        let type_ = spec["type"].as_str().unwrap_or_default().to_owned();
        let has_external_ips = spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
        let outside =
            matches!(type_.as_str(), "NodePort" | "LoadBalancer") || (type_ == "ClusterIP" && has_external_ips);
        if outside {
            set(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(type_.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set(spec, "internalTrafficPolicy", "Cluster");
        }
        if type_ == "LoadBalancer" {
            set(spec, "allocateLoadBalancerNodePorts", true);
        }
    });
    if object["spec"]["type"] == "LoadBalancer" {
        each(object, &["status", "loadBalancer", "ingress"], |ingress| {
            if ingress["ip"].as_str().is_some_and(|ip| !ip.is_empty()) {
                set(ingress, "ipMode", "VIP");
            }
        });
    }
}

fn deployment(object: &mut Value) {
    with_spec(object, |spec| {
        set(spec, "replicas", 1);
        let strategy = nested(spec, "strategy");
        set(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = nested(strategy, "rollingUpdate");
            set(rolling, "maxUnavailable", "25%");
            set(rolling, "maxSurge", "25%");
        }
        set(spec, "revisionHistoryLimit", 10);
        set(spec, "progressDeadlineSeconds", 600);
    });
}

fn daemon_set(object: &mut Value) {
    with_spec(object, |spec| {
        let strategy = nested(spec, "updateStrategy");
        set(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = nested(strategy, "rollingUpdate");
            set(rolling, "maxUnavailable", 1);
            set(rolling, "maxSurge", 0);
        }
        set(spec, "revisionHistoryLimit", 10);
    });
}

fn stateful_set(object: &mut Value) {
    with_spec(object, |spec| {
        set(spec, "podManagementPolicy", "OrderedReady");
        let strategy = nested(spec, "updateStrategy");
        if strategy["type"].as_str().unwrap_or_default().is_empty() {
            set(strategy, "type", "RollingUpdate");
            set(strategy, "rollingUpdate", json!({}));
        }
        if strategy["type"] == "RollingUpdate" && strategy["rollingUpdate"].is_object() {
            set(&mut strategy["rollingUpdate"], "partition", 0);
        }
        let retention = nested(spec, "persistentVolumeClaimRetentionPolicy");
        set(retention, "whenDeleted", "Retain");
        set(retention, "whenScaled", "Retain");
        set(spec, "replicas", 1);
        set(spec, "revisionHistoryLimit", 10);
        each(spec, &["volumeClaimTemplates"], |claim| {
            set(claim, "apiVersion", "v1");
            set(claim, "kind", "PersistentVolumeClaim");
            if claim["spec"].is_object() {
                set(&mut claim["spec"], "volumeMode", "Filesystem");
            }
            set(claim, "status", json!({"phase": "Pending"}));
        });
    });
}

fn job(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() && object["metadata"]["labels"].as_object().is_none_or(Map::is_empty) {
        object["metadata"]["labels"] = labels;
    }
    with_spec(object, |spec| {
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            spec["completions"] = 1.into();
        }
        set(spec, "parallelism", 1);
        let limit = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i32::MAX };
        set(spec, "backoffLimit", limit);
        set(spec, "completionMode", "NonIndexed");
        set(spec, "suspend", false);
        let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
        set(spec, "podReplacementPolicy", replacement);
        set(spec, "manualSelector", false);
    });
}

fn webhooks(object: &mut Value, kind: &str) {
    each(object, &["webhooks"], |webhook| {
        set(webhook, "failurePolicy", "Fail");
        set(webhook, "matchPolicy", "Equivalent");
        set(webhook, "namespaceSelector", json!({}));
        set(webhook, "objectSelector", json!({}));
        set(webhook, "timeoutSeconds", 10);
        if kind == "MutatingWebhookConfiguration" {
            set(webhook, "reinvocationPolicy", "Never");
        }
        each(webhook, &["rules"], |rule| set(rule, "scope", "*"));
        if webhook["clientConfig"]["service"].is_object() {
            set(&mut webhook["clientConfig"]["service"], "port", 443);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaulted(group: &str, kind: &str, mut object: Value) -> Value {
        apply(group, kind, &mut object);
        object
    }

    #[test]
    fn a_minimal_pod_gets_what_kubernetes_gives_it() {
        let pod = defaulted(
            "",
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "x:1", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "s"}}]}}),
        );
        assert_eq!(
            pod,
            json!({"spec": {
                "containers": [{"name": "a", "image": "x:1", "imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                        "successThreshold": 1, "failureThreshold": 3}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "terminationGracePeriodSeconds": 30,
                "schedulerName": "default-scheduler", "enableServiceLinks": true}})
        );
    }

    #[test]
    fn images_without_a_fixed_tag_are_pulled_always() {
        for (image, policy) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("r:5000/a", "Always"),
            ("r:5000/a:1", "IfNotPresent"),
            ("a@sha256:0", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn services_and_workloads() {
        let service = defaulted("", "Service", json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}));
        assert_eq!(
            service["spec"],
            json!({"type": "LoadBalancer", "sessionAffinity": "None", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true})
        );
        let set = defaulted("apps", "DaemonSet", json!({"spec": {"template": {"spec": {"containers": []}}}}));
        assert_eq!(
            set["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        assert_eq!(set["spec"]["template"]["spec"]["restartPolicy"], "Always");
        let deployment = defaulted(
            "apps",
            "Deployment",
            json!({"spec": {"strategy": {"type": "Recreate"}, "template": {"spec": {}}}}),
        );
        assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
        assert_eq!(deployment["spec"]["replicas"], 1);
    }

    #[test]
    fn defaulting_twice_changes_nothing() {
        for (group, kind) in
            [("", "Pod"), ("", "Service"), ("apps", "Deployment"), ("apps", "StatefulSet"), ("batch", "Job")]
        {
            let once = defaulted(
                group,
                kind,
                json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [{"name": "a"}]}}, "ports": [{"port": 1}]}}),
            );
            assert_eq!(defaulted(group, kind, once.clone()), once, "{kind}");
        }
    }
}
