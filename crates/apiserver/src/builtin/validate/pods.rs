//! Pods and the pod specs inside templates.

use super::{Cause, Value, child, choice, index, list, names, not_negative, port_number, text};
use regex::Regex;
use std::sync::LazyLock;

/// Checks a pod.
pub(super) fn pod(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    spec("spec", &new["spec"], causes);
    if let Some(old) = old {
        update(&new["spec"], &old["spec"], causes);
    }
}

/// What of a running pod may change.
fn update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let mut new = new.clone();
    for list in ["containers", "initContainers"] {
        let before = old[list].as_array().map(Vec::len);
        if new[list].as_array().map(Vec::len) != before {
            causes.push(Cause::forbidden(child("spec", list), "pod updates may not add or remove containers"));
            return;
        }
        for (i, container) in new.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
            put(container, "image", &old[list][i]["image"]);
        }
    }
    put(&mut new, "activeDeadlineSeconds", &old["activeDeadlineSeconds"]);
    put(&mut new, "tolerations", &old["tolerations"]);
    if old["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) && new["terminationGracePeriodSeconds"] == 1
    {
        put(&mut new, "terminationGracePeriodSeconds", &old["terminationGracePeriodSeconds"]);
    }
    if list(&old["schedulingGates"]).next().is_some() {
        put(&mut new, "schedulingGates", &old["schedulingGates"]);
        put(&mut new, "nodeSelector", &old["nodeSelector"]);
        put(&mut new, "affinity", &old["affinity"]);
    }
    if new != *old {
        let text = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", text));
    }
}

fn put(object: &mut Value, field: &str, value: &Value) {
    let Some(map) = object.as_object_mut() else { return };
    if value.is_null() {
        map.remove(field);
    } else {
        map.insert(field.to_owned(), value.clone());
    }
}

/// Checks a pod spec at `path`.
pub(super) fn spec(path: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let volumes = volumes(&child(path, "volumes"), &spec["volumes"], causes);
    let mut seen = Vec::new();
    containers(&child(path, "containers"), &spec["containers"], &volumes, &mut seen, causes);
    if list(&spec["containers"]).next().is_none() {
        causes.push(Cause::required(child(path, "containers"), ""));
    }
    containers(&child(path, "initContainers"), &spec["initContainers"], &volumes, &mut seen, causes);
    choice(child(path, "restartPolicy"), &spec["restartPolicy"], &["Always", "OnFailure", "Never"], causes);
    choice(
        child(path, "dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        causes,
    );
    if spec["dnsPolicy"] == "None" && list(&spec["dnsConfig"]["nameservers"]).next().is_none() {
        causes.push(Cause::required(
            child(path, "dnsConfig.nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        ));
    }
    not_negative(child(path, "terminationGracePeriodSeconds"), &spec["terminationGracePeriodSeconds"], causes);
    super::meta::labels(&child(path, "nodeSelector"), spec["nodeSelector"].as_object(), causes);
    for (field, check) in [
        ("nodeName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        let value = text(spec, field);
        if !value.is_empty() {
            causes.extend(check(value).iter().map(|p| Cause::invalid_text(child(path, field), value, p)));
        }
    }
    if spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s < 1) {
        let detail = "must be between 1 and 2147483647, inclusive";
        causes.push(Cause::invalid(child(path, "activeDeadlineSeconds"), &spec["activeDeadlineSeconds"], detail));
    }
    tolerations(&child(path, "tolerations"), &spec["tolerations"], causes);
}

/// The names of the volumes.
fn volumes<'a>(path: &str, volumes: &'a Value, causes: &mut Vec<Cause>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for (i, volume) in list(volumes) {
        let at = index(path, i);
        let name = text(volume, "name");
        let problems = names::dns1123_label(name);
        if name.is_empty() {
            causes.push(Cause::required(child(&at, "name"), ""));
        } else if !problems.is_empty() {
            causes.extend(problems.iter().map(|p| Cause::invalid_text(child(&at, "name"), name, p)));
        } else if seen.contains(&name) {
            causes.push(Cause::duplicate(child(&at, "name"), &name.into()));
        }
        seen.push(name);
        let sources: Vec<&String> =
            volume.as_object().into_iter().flatten().map(|(key, _)| key).filter(|k| *k != "name").collect();
        if let [_, second, ..] = sources.as_slice() {
            causes.push(Cause::forbidden(child(&at, second), "may not specify more than 1 volume type"));
        }
        for (source, field) in [
            ("hostPath", "path"),
            ("secret", "secretName"),
            ("configMap", "name"),
            ("persistentVolumeClaim", "claimName"),
        ] {
            if volume[source].is_object() && text(&volume[source], field).is_empty() {
                causes.push(Cause::required(child(&child(&at, source), field), ""));
            }
        }
    }
    seen
}

fn containers<'a>(
    path: &str,
    containers: &'a Value,
    volumes: &[&str],
    seen: &mut Vec<&'a str>,
    causes: &mut Vec<Cause>,
) {
    for (i, container) in list(containers) {
        let at = index(path, i);
        let name = text(container, "name");
        if name.is_empty() {
            causes.push(Cause::required(child(&at, "name"), ""));
        } else {
            causes.extend(names::dns1123_label(name).iter().map(|p| Cause::invalid_text(child(&at, "name"), name, p)));
        }
        if text(container, "image").is_empty() {
            causes.push(Cause::required(child(&at, "image"), ""));
        }
        let at_policy = child(&at, "terminationMessagePolicy");
        choice(at_policy, &container["terminationMessagePolicy"], &["File", "FallbackToLogsOnError"], causes);
        ports(&child(&at, "ports"), &container["ports"], causes);
        environment(&child(&at, "env"), &container["env"], causes);
        mounts(&child(&at, "volumeMounts"), &container["volumeMounts"], volumes, causes);
        choice(
            child(&at, "imagePullPolicy"),
            &container["imagePullPolicy"],
            &["Always", "IfNotPresent", "Never"],
            causes,
        );
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            handler(&child(&at, probe), &container[probe], causes);
        }
        if seen.contains(&name) {
            causes.push(Cause::duplicate(child(&at, "name"), &name.into()));
        }
        seen.push(name);
    }
}

fn ports(path: &str, ports: &Value, causes: &mut Vec<Cause>) {
    let mut seen = Vec::new();
    for (i, port) in list(ports) {
        let at = index(path, i);
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            if problems.is_empty() && seen.contains(&name) {
                causes.push(Cause::duplicate(child(&at, "name"), &name.into()));
            }
            causes.extend(problems.iter().map(|p| Cause::invalid_text(child(&at, "name"), name, p)));
            seen.push(name);
        }
        if port["containerPort"].as_i64().unwrap_or(0) == 0 {
            causes.push(Cause::required(child(&at, "containerPort"), ""));
        } else {
            port_number(child(&at, "containerPort"), &port["containerPort"], causes);
        }
        if port["hostPort"].as_i64().unwrap_or(0) != 0 {
            port_number(child(&at, "hostPort"), &port["hostPort"], causes);
        }
        choice(child(&at, "protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"], causes);
    }
}

static ENV_NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[ -<>-~]+$").expect("a literal pattern"));

fn environment(path: &str, variables: &Value, causes: &mut Vec<Cause>) {
    for (i, variable) in list(variables) {
        let at = index(path, i);
        let name = text(variable, "name");
        if name.is_empty() {
            causes.push(Cause::required(child(&at, "name"), ""));
        } else if !ENV_NAME.is_match(name) {
            let detail =
                "a valid environment variable name must consist only of printable ASCII characters other than '='";
            causes.push(Cause::invalid_text(child(&at, "name"), name, detail));
        }
        let from = &variable["valueFrom"];
        if from.is_object() && !text(variable, "value").is_empty() {
            causes.push(Cause::invalid_text(
                child(&at, "valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ));
        } else if from.as_object().is_some_and(serde_json::Map::is_empty) {
            let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            causes.push(Cause::invalid_text(child(&at, "valueFrom"), "", detail));
        }
    }
}

fn mounts(path: &str, mounts: &Value, volumes: &[&str], causes: &mut Vec<Cause>) {
    let mut seen = Vec::new();
    for (i, mount) in list(mounts) {
        let at = index(path, i);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            causes.push(Cause::required(child(&at, "name"), ""));
        }
        if !volumes.contains(&name) {
            causes.push(Cause::not_found(child(&at, "name"), &name.into()));
        }
        if target.is_empty() {
            causes.push(Cause::required(child(&at, "mountPath"), ""));
        }
        if seen.contains(&target) {
            causes.push(Cause::invalid_text(child(&at, "mountPath"), target, "must be unique"));
        }
        seen.push(target);
    }
}

fn handler(path: &str, probe: &Value, causes: &mut Vec<Cause>) {
    if !probe.is_object() {
        return;
    }
    let kinds: Vec<_> = ["exec", "httpGet", "tcpSocket", "grpc"].into_iter().filter(|k| probe[k].is_object()).collect();
    match kinds.as_slice() {
        [] => causes.push(Cause::required(path, "must specify a handler type")),
        [_] => {}
        [_, second, ..] => {
            causes.push(Cause::forbidden(child(path, second), "may not specify more than 1 handler type"))
        }
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(child(path, field), &probe[field], causes);
    }
    for kind in ["httpGet", "tcpSocket"] {
        if probe[kind].is_object() && probe[kind]["port"].is_number() {
            port_number(child(&child(path, kind), "port"), &probe[kind]["port"], causes);
        }
    }
}

fn tolerations(path: &str, tolerations: &Value, causes: &mut Vec<Cause>) {
    for (i, toleration) in list(tolerations) {
        let at = index(path, i);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        if !key.is_empty() {
            causes.extend(names::qualified_name(key).iter().map(|p| Cause::invalid_text(child(&at, "key"), key, p)));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.push(Cause::invalid_text(child(&at, "operator"), operator, detail));
        }
        match operator {
            "" | "Equal" => {}
            "Exists" if !text(toleration, "value").is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                causes.push(Cause::invalid(child(&at, "operator"), toleration, detail));
            }
            "Exists" => {}
            _ => {
                causes.push(Cause::not_supported(child(&at, "operator"), &toleration["operator"], &["Equal", "Exists"]))
            }
        }
        if toleration["effect"]
            .as_str()
            .is_some_and(|e| !e.is_empty() && !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&e))
        {
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            causes.push(Cause::not_supported(child(&at, "effect"), &toleration["effect"], &effects));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}]}});
        change(&mut object);
        super::super::super::defaults::apply("", "Pod", &mut object);
        let mut causes = Vec::new();
        pod(&object, None, &mut causes);
        causes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_pod_passes_and_each_fault_is_named() {
        assert_eq!(texts(|_| {}), [""; 0]);
        let container =
            |field: &'static str, value: Value| texts(move |pod| pod["spec"]["containers"][0][field] = value);
        assert_eq!(texts(|pod| pod["spec"]["containers"] = json!([])), ["spec.containers: Required value"]);
        assert_eq!(container("image", json!("")), ["spec.containers[0].image: Required value"]);
        assert_eq!(
            container("ports", json!([{"containerPort": 70000}])),
            ["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"]
        );
        assert_eq!(
            container("volumeMounts", json!([{"name": "v", "mountPath": "/v"}])),
            ["spec.containers[0].volumeMounts[0].name: Not found: \"v\""]
        );
        assert_eq!(
            container("imagePullPolicy", json!("Never again")),
            [
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Never again\": supported values: \"Always\", \"IfNotPresent\", \"Never\""
            ]
        );
        assert_eq!(
            texts(|pod| pod["spec"]["restartPolicy"] = json!("Maybe")),
            [
                "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\""
            ]
        );
        assert_eq!(
            texts(|pod| pod["spec"]["containers"] = json!([{"name": "a", "image": "x"}, {"name": "a", "image": "x"}])),
            ["spec.containers[1].name: Duplicate value: \"a\""]
        );
        assert_eq!(
            container("livenessProbe", json!({})),
            ["spec.containers[0].livenessProbe: Required value: must specify a handler type"]
        );
    }

    #[test]
    fn a_running_pod_keeps_its_spec() {
        let old = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}], "nodeName": "n"}});
        let mut causes = Vec::new();
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("x:2");
        update(&new["spec"], &old["spec"], &mut causes);
        assert_eq!(causes, []);
        new["spec"]["nodeName"] = json!("m");
        update(&new["spec"], &old["spec"], &mut causes);
        assert!(
            causes[0].to_string().starts_with(
                "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
            )
        );
    }
}
