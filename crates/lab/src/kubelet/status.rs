//! A pod's status out of what the worker knows. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Not running yet, or not again.
    Waiting {
        /// `ContainerCreating`, `CrashLoopBackOff`, ...
        reason: &'static str,
        /// For people.
        message: Option<String>,
    },
    /// Running.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Ended for good.
    Ended(End),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// Its exit code.
    pub code: i32,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// What the worker knows about a container.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Stage.
    pub stage: Stage,
    /// The probe's verdict, or true without one.
    pub ready: bool,
    /// Times started again.
    pub restarts: i32,
    /// The end before the last start.
    pub last: Option<End>,
}

/// What the worker knows about the pod.
pub struct Known<'a> {
    /// The node's addresses.
    pub node_addresses: &'a [IpAddr],
    /// The pod's addresses; none before ADD.
    pub addresses: &'a [IpAddr],
    /// Sandbox id, for container ids.
    pub sandbox: Option<&'a str>,
    /// Containers in the order of the spec.
    pub containers: &'a [(&'a Container, View)],
    /// The time for conditions that turned.
    pub now: Timestamp,
}

/// The status to write. Conditions that did not turn keep their time.
pub fn of(pod: &Pod, known: &Known<'_>) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let sandbox_up = !known.addresses.is_empty();
    let all_ready = !known.containers.is_empty()
        && known.containers.iter().all(|(_, view)| view.ready && matches!(view.stage, Stage::Running { .. }));
    let waiting_for: Vec<&str> = known
        .containers
        .iter()
        .filter(|(_, view)| !view.ready || !matches!(view.stage, Stage::Running { .. }))
        .map(|(c, _)| c.name.as_str())
        .collect();
    let mut conditions: Vec<PodCondition> =
        old.conditions.iter().flatten().filter(|condition| condition.type_ == "PodScheduled").cloned().collect();
    let mut set = |kind: &str, good: bool, why: Option<(&str, String)>| {
        let status = if good { "True" } else { "False" };
        let same =
            old.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == status);
        conditions.push(PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: same
                .and_then(|condition| condition.last_transition_time.clone())
                .or(Some(Time(known.now))),
            reason: why.as_ref().map(|(reason, _)| (*reason).to_owned()),
            message: why.map(|(_, message)| message),
            ..Default::default()
        });
    };
    let unready =
        || Some(("ContainersNotReady", format!("containers with unready status: [{}]", waiting_for.join(" "))));
    set("PodReadyToStartContainers", sandbox_up, None);
    set("Initialized", true, None);
    set("ContainersReady", all_ready, if all_ready { None } else { unready() });
    set("Ready", all_ready, if all_ready { None } else { unready() });
    let host = |address: &IpAddr| HostIP { ip: address.to_string() };
    let own = |address: &IpAddr| PodIP { ip: address.to_string() };
    PodStatus {
        phase: Some(phase(pod, known.containers).to_owned()),
        conditions: Some(conditions),
        host_ip: known.node_addresses.first().map(ToString::to_string),
        host_ips: Some(known.node_addresses.iter().map(host).collect()),
        pod_ip: known.addresses.first().map(ToString::to_string),
        pod_ips: (!known.addresses.is_empty()).then(|| known.addresses.iter().map(own).collect()),
        start_time: old.start_time.or(Some(Time(known.now))),
        container_statuses: Some(
            known.containers.iter().map(|(container, view)| container_status(container, view, known.sandbox)).collect(),
        ),
        qos_class: Some("BestEffort".into()),
        observed_generation: old.observed_generation,
        ..Default::default()
    }
}

/// The phase (Kubernetes documentation, "Pod Lifecycle").
fn phase(pod: &Pod, containers: &[(&Container, View)]) -> &'static str {
    let ended = |view: &View| matches!(view.stage, Stage::Ended(_));
    let restarts = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always") == "Always";
    if !containers.is_empty()
        && containers.iter().all(|(_, view)| ended(view))
        && (!restarts || pod.metadata.deletion_timestamp.is_some())
    {
        let failed = |view: &View| matches!(&view.stage, Stage::Ended(end) if end.code != 0);
        return if containers.iter().any(|(_, view)| failed(view)) { "Failed" } else { "Succeeded" };
    }
    let started = |view: &View| !matches!(view.stage, Stage::Waiting { .. }) || view.last.is_some();
    if !containers.is_empty() && containers.iter().all(|(_, view)| started(view)) { "Running" } else { "Pending" }
}

fn container_status(container: &Container, view: &View, sandbox: Option<&str>) -> ContainerStatus {
    let terminated = |end: &End| ContainerStateTerminated {
        exit_code: end.code,
        reason: Some(if end.code == 0 { "Completed" } else { "Error" }.into()),
        started_at: Some(Time(end.started)),
        finished_at: Some(Time(end.finished)),
        ..Default::default()
    };
    let mut state = ContainerState::default();
    match &view.stage {
        Stage::Waiting { reason, message } => {
            state.waiting = Some(ContainerStateWaiting { reason: Some((*reason).into()), message: message.clone() });
        }
        Stage::Running { since } => state.running = Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
        Stage::Ended(end) => state.terminated = Some(terminated(end)),
    }
    let running = matches!(view.stage, Stage::Running { .. });
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: container.image.clone().unwrap_or_default(),
        container_id: sandbox.filter(|_| running).map(|id| format!("lab://{id}/{}/{}", container.name, view.restarts)),
        ready: view.ready && running,
        started: Some(running),
        restart_count: view.restarts,
        state: Some(state),
        last_state: view
            .last
            .as_ref()
            .map(|end| ContainerState { terminated: Some(terminated(end)), ..Default::default() }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(stages: &[(Stage, bool)], policy: &str) -> PodStatus {
        let spec = k8s_openapi::api::core::v1::PodSpec { restart_policy: Some(policy.into()), ..Default::default() };
        let pod = Pod { spec: Some(spec), ..Default::default() };
        let container = Container { name: "c".into(), ..Default::default() };
        let views: Vec<_> = stages
            .iter()
            .map(|(stage, ready)| (&container, View { stage: stage.clone(), ready: *ready, restarts: 0, last: None }))
            .collect();
        let addresses = ["10.0.0.1".parse().unwrap()];
        of(
            &pod,
            &Known {
                node_addresses: &[],
                addresses: &addresses,
                sandbox: None,
                containers: &views,
                now: Timestamp::UNIX_EPOCH,
            },
        )
    }

    #[test]
    fn phase_and_readiness_follow_the_containers() {
        let since = Timestamp::UNIX_EPOCH;
        let running = Stage::Running { since };
        let waiting = Stage::Waiting { reason: "ContainerCreating", message: None };
        let ended = |code| Stage::Ended(End { code, started: since, finished: since });
        // Containers with their verdicts, restart policy; phase and condition `Ready`.
        type Row<'a> = (&'a [(Stage, bool)], &'a str, &'a str, &'a str);
        let rows: [Row<'_>; 6] = [
            (&[(running.clone(), true)], "Always", "Running", "True"),
            (&[(running.clone(), false)], "Always", "Running", "False"),
            (&[(running.clone(), true), (waiting.clone(), true)], "Always", "Pending", "False"),
            (&[(ended(0), false)], "Never", "Succeeded", "False"),
            (&[(ended(1), false)], "Never", "Failed", "False"),
            (&[(ended(1), false), (running, true)], "Never", "Running", "False"),
        ];
        for (stages, policy, phase, ready) in rows {
            let status = judged(stages, policy);
            let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap();
            assert_eq!((status.phase.as_deref(), condition.status.as_str()), (Some(phase), ready), "{stages:?}");
        }
    }
}
