//! Columns of pods and of the workloads that make them.

use super::builtin::{Printer, age_column, col, core, int, labels, list, name, number, text};
use super::duration::{age, human, object_age};
use super::{Definition, description};
use serde_json::Value;

const NAMES: &str = "Names of each container in the template.";
const IMAGES: &str = "Images referenced by each container in the template.";

/// The printer and columns of pods and workloads.
pub(super) fn columns(group: &str, kind: &str) -> Option<(Printer, Vec<Definition>)> {
    let apps = |type_: &str, field: &str| description(&format!("io.k8s.api.apps.v1.{type_}"), field);
    let with_template = |mut columns: Vec<Definition>, selector: Option<String>| {
        columns.extend([col("Containers", 1, NAMES), col("Images", 1, IMAGES)]);
        columns.extend(selector.map(|about| col("Selector", 1, about)));
        columns
    };
    Some(match (group, kind) {
        ("", "Pod") => (pod, pod_columns()),
        ("apps", "ReplicaSet") => {
            let own = vec![
                name(),
                int("Desired", apps("ReplicaSetSpec", "replicas")),
                int("Current", apps("ReplicaSetStatus", "replicas")),
                int("Ready", apps("ReplicaSetStatus", "readyReplicas")),
                age_column(),
            ];
            (replica_set, with_template(own, Some(apps("ReplicaSetSpec", "selector"))))
        }
        ("apps", "DaemonSet") => {
            let status = |field: &str| apps("DaemonSetStatus", field);
            let own = vec![
                name(),
                int("Desired", status("desiredNumberScheduled")),
                int("Current", status("currentNumberScheduled")),
                int("Ready", status("numberReady")),
                int("Up-to-date", status("updatedNumberScheduled")),
                int("Available", status("numberAvailable")),
                col("Node Selector", 0, core("PodSpec", "nodeSelector")),
                age_column(),
            ];
            (daemon_set, with_template(own, Some(apps("DaemonSetSpec", "selector"))))
        }
        ("apps", "Deployment") => {
            let own = vec![
                name(),
                col("Ready", 0, "Number of the pod with ready state"),
                col("Up-to-date", 0, apps("DeploymentStatus", "updatedReplicas")),
                col("Available", 0, apps("DeploymentStatus", "availableReplicas")),
                age_column(),
            ];
            (deployment, with_template(own, Some(apps("DeploymentSpec", "selector"))))
        }
        ("apps", "StatefulSet") => {
            let own = vec![name(), col("Ready", 0, "Number of the pod with ready state"), age_column()];
            (stateful_set, with_template(own, None))
        }
        ("batch", "Job") => {
            let about = |type_: &str, field: &str| description(&format!("io.k8s.api.batch.v1.{type_}"), field);
            let own = vec![
                name(),
                col("Status", 0, "Status of the job."),
                col("Completions", 0, about("JobStatus", "succeeded")),
                col("Duration", 0, "Time required to complete the job."),
                age_column(),
            ];
            (job, with_template(own, Some(about("JobSpec", "selector"))))
        }
        _ => return None,
    })
}

fn pod_columns() -> Vec<Definition> {
    vec![
        name(),
        col("Ready", 0, "The aggregate readiness state of this pod for accepting traffic."),
        col("Status", 0, "The aggregate status of the containers in this pod."),
        col(
            "Restarts",
            0,
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        age_column(),
        col("IP", 1, core("PodStatus", "podIP")),
        col("Node", 1, core("PodSpec", "nodeName")),
        col("Nominated Node", 1, core("PodStatus", "nominatedNodeName")),
        col("Readiness Gates", 1, core("PodSpec", "readinessGates")),
    ]
}

/// What the containers of a pod amount to.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<jiff::Timestamp>,
}

fn pod(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let summary = summarise(object);
    let (spec, status) = (&object["spec"], &object["status"]);
    let restarts = match summary.last_restart {
        Some(then) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, super::duration::since(now, then))
        }
        _ => summary.restarts.to_string(),
    };
    vec![
        object["metadata"]["name"].clone(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        object_age(object, now),
        text(&status["podIPs"][0]["ip"], "<none>").into(),
        text(&spec["nodeName"], "<none>").into(),
        text(&status["nominatedNodeName"], "<none>").into(),
        readiness_gates(object).into(),
    ]
}

fn condition_is_true(object: &Value, type_: &str) -> bool {
    list(&object["status"]["conditions"]).find(|c| c["type"] == type_).is_some_and(|c| c["status"] == "True")
}

fn readiness_gates(object: &Value) -> String {
    let gates = list(&object["spec"]["readinessGates"]);
    let total = gates.len();
    let met = gates.filter(|g| condition_is_true(object, text(&g["conditionType"], ""))).count();
    if total == 0 { "<none>".to_owned() } else { format!("{met}/{total}") }
}

fn summarise(object: &Value) -> Summary {
    let (spec, status) = (&object["spec"], &object["status"]);
    let phase = text(&status["phase"], "");
    let mut summary = Summary {
        reason: text(&status["reason"], phase).to_owned(),
        total: list(&spec["containers"]).len(),
        ..Summary::default()
    };
    if list(&status["conditions"]).any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let sidecars: Vec<&str> = list(&spec["initContainers"])
        .filter(|c| c["restartPolicy"] == "Always")
        .map(|c| text(&c["name"], ""))
        .collect();
    summary.total += sidecars.len();
    let initializing = init_containers(object, &sidecars, &mut summary);
    if !initializing || condition_is_true(object, "Initialized") {
        containers(object, &sidecars, &mut summary);
    }
    if !object["metadata"]["deletionTimestamp"].is_null() {
        if status["reason"] == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Whether initialisation is under way or failed, which then is the pod's status.
fn init_containers(object: &Value, sidecars: &[&str], summary: &mut Summary) -> bool {
    let total = list(&object["spec"]["initContainers"]).len();
    for (i, container) in list(&object["status"]["initContainerStatuses"]).enumerate() {
        summary.count_restarts(container);
        let (terminated, waiting) = (&container["state"]["terminated"], &container["state"]["waiting"]);
        let sidecar = sidecars.contains(&text(&container["name"], ""));
        if terminated.is_object() && terminated["exitCode"] == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            summary.ready += usize::from(container["ready"] == true);
            continue;
        }
        let waits = text(&waiting["reason"], "");
        summary.reason = if terminated.is_object() {
            format!("Init:{}", ending(terminated))
        } else if !waits.is_empty() && waits != "PodInitializing" {
            format!("Init:{waits}")
        } else {
            format!("Init:{i}/{total}")
        };
        return true;
    }
    false
}

/// How a container ended: its reason, or the signal, or the exit code.
fn ending(terminated: &Value) -> String {
    match (text(&terminated["reason"], ""), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn containers(object: &Value, sidecars: &[&str], summary: &mut Summary) {
    summary.restarts = 0;
    summary.last_restart = None;
    let status = &object["status"];
    for container in list(&status["initContainerStatuses"]).filter(|c| sidecars.contains(&text(&c["name"], ""))) {
        summary.count_restarts(container);
    }
    let (mut running, mut failure) = (false, String::new());
    for container in list(&status["containerStatuses"]).rev() {
        summary.count_restarts(container);
        let state = &container["state"];
        let waits = text(&state["waiting"]["reason"], "");
        if !waits.is_empty() {
            summary.reason = waits.to_owned();
        } else if state["terminated"].is_object() {
            summary.reason = ending(&state["terminated"]);
            if state["terminated"]["exitCode"] != 0 {
                failure.clone_from(&summary.reason);
            }
        } else if container["ready"] == true && state["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" {
        if running && condition_is_true(object, "Ready") {
            summary.reason = "Running".to_owned();
        } else if !failure.is_empty() {
            summary.reason = failure;
        } else if running {
            summary.reason = "NotReady".to_owned();
        }
    }
}

impl Summary {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts += container["restartCount"].as_i64().unwrap_or(0);
        let ended = &container["lastState"]["terminated"]["finishedAt"];
        self.last_restart = self.last_restart.max(ended.as_str().and_then(|t| t.parse().ok()));
    }
}

/// Names and images of the template's containers.
fn template(object: &Value) -> [Value; 2] {
    let containers = || list(&object["spec"]["template"]["spec"]["containers"]);
    let all = |field: &str| containers().map(|c| text(&c[field], "")).collect::<Vec<_>>().join(",");
    [all("name").into(), all("image").into()]
}

/// A label selector as kubectl writes it.
fn selector(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push((key.clone(), format!("{key}={}", text(value, ""))));
    }
    for expression in list(&selector["matchExpressions"]) {
        let key = text(&expression["key"], "");
        let mut values: Vec<_> = list(&expression["values"]).map(|v| text(v, "")).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push((
            key.to_owned(),
            match text(&expression["operator"], "") {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.to_owned(),
                _ => format!("!{key}"),
            },
        ));
    }
    parts.sort();
    let texts: Vec<_> = parts.into_iter().map(|(_, text)| text).collect();
    if texts.is_empty() { "<none>".to_owned() } else { texts.join(",") }
}

fn replica_set(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let mut row = vec![
        object["metadata"]["name"].clone(),
        number(&object["spec"]["replicas"]),
        number(&status["replicas"]),
        number(&status["readyReplicas"]),
        object_age(object, now),
    ];
    row.extend(template(object));
    row.push(selector(&object["spec"]["selector"]).into());
    row
}

fn daemon_set(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let mut row = vec![object["metadata"]["name"].clone()];
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    row.extend(counts.map(|field| number(&status[field])));
    row.push(labels(&object["spec"]["template"]["spec"]["nodeSelector"]).into());
    row.push(object_age(object, now));
    row.extend(template(object));
    row.push(selector(&object["spec"]["selector"]).into());
    row
}

fn ready_of(object: &Value) -> Value {
    let count = |value: &Value| value.as_i64().unwrap_or(0);
    format!("{}/{}", count(&object["status"]["readyReplicas"]), count(&object["spec"]["replicas"])).into()
}

fn deployment(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let mut row = vec![
        object["metadata"]["name"].clone(),
        ready_of(object),
        number(&status["updatedReplicas"]),
        number(&status["availableReplicas"]),
        object_age(object, now),
    ];
    row.extend(template(object));
    let selector = selector(&object["spec"]["selector"]);
    row.push(if selector == "<none>" { "".into() } else { selector.into() });
    row
}

fn stateful_set(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let mut row = vec![object["metadata"]["name"].clone(), ready_of(object), object_age(object, now)];
    row.extend(template(object));
    row
}

fn job(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let done = status["succeeded"].as_i64().unwrap_or(0);
    let completions = match (spec["completions"].as_i64(), spec["parallelism"].as_i64().unwrap_or(0)) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    };
    let time = |field: &str| status[field].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let duration = time("startTime").map(|start| {
        let end = time("completionTime").unwrap_or(now);
        human(end.as_nanosecond() - start.as_nanosecond())
    });
    let conditions = [("Complete", "Complete"), ("Failed", "Failed")];
    let later =
        [("Suspended", "Suspended"), ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet")];
    let found = |list: &[(&'static str, &'static str)]| {
        list.iter().find(|(type_, _)| condition_is_true(object, type_)).map(|(_, s)| *s)
    };
    let deleted = (!object["metadata"]["deletionTimestamp"].is_null()).then_some("Terminating");
    let state = found(&conditions).or(deleted).or_else(|| found(&later)).unwrap_or("Running");
    let mut row = vec![
        object["metadata"]["name"].clone(),
        state.into(),
        completions.into(),
        duration.unwrap_or_default().into(),
        age(&object["metadata"]["creationTimestamp"], now).into(),
    ];
    row.extend(template(object));
    row.push(selector(&spec["selector"]).into());
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(group: &str, kind: &str, object: Value) -> Vec<String> {
        let (printer, definitions) = columns(group, kind).unwrap();
        let row = printer(&object, "2026-01-02T00:00:00Z".parse().unwrap());
        assert_eq!(row.len(), definitions.len(), "{kind}");
        row.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect()
    }

    fn pod(status: Value) -> String {
        let row = cells(
            "",
            "Pod",
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}, "status": status}),
        );
        format!("{} {} {}", row[1], row[2], row[3])
    }

    #[test]
    fn a_pod_shows_what_its_containers_do() {
        let rows = [
            (json!({"phase": "Pending"}), "0/1 Pending 0"),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}),
                "1/1 Running 0",
            ),
            (
                json!({"phase": "Pending", "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}}]}),
                "0/1 ContainerCreating 0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                "0/1 Init:0/1 0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 3}}}]}),
                "0/1 Init:ExitCode:3 2",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"finishedAt": "2026-01-01T23:58:30Z"}}}]}),
                "0/1 CrashLoopBackOff 4 (90s ago)",
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                "0/1 Completed 0",
            ),
        ];
        for (status, text) in rows {
            assert_eq!(pod(status.clone()), text, "{status}");
        }
    }

    #[test]
    fn workloads_show_counts_images_and_selectors() {
        let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["y", "x"]}]},
            "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j:2"}]}}});
        let object =
            json!({"metadata": {"name": "w"}, "spec": spec, "status": {"readyReplicas": 1, "updatedReplicas": 2}});
        assert_eq!(
            cells("apps", "Deployment", object.clone()),
            ["w", "1/2", "2", "0", "<unknown>", "c,d", "i:1,j:2", "app=a,b in (x,y)"]
        );
        assert_eq!(
            cells("apps", "ReplicaSet", object.clone()),
            ["w", "2", "0", "1", "<unknown>", "c,d", "i:1,j:2", "app=a,b in (x,y)"]
        );
        assert_eq!(cells("apps", "StatefulSet", object.clone()), ["w", "1/2", "<unknown>", "c,d", "i:1,j:2"]);
        assert_eq!(cells("apps", "DaemonSet", object)[6], "<none>");
        let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 3}, "status": {"succeeded": 1, "startTime": "2026-01-01T23:59:50Z"}});
        assert_eq!(cells("batch", "Job", job)[..4], ["j", "Running", "1/3", "10s"]);
    }
}
