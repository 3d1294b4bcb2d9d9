//! One pod's life: sandbox, containers, probes, status, and the way out.
//!
//! Expected flow: the worker wakes up when the pod changes, a process ends, a probe has news or a pause is over, does what is missing and
//! writes the status if it differs from the last one written. It ends when the pod is gone from the node *and* from the API.
//! A sandbox whose ADD fails is undone by DEL and tried again under a new id, as containerd and kubelet do together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Probe};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::probe::{self, Finding, Judge};
use super::record::{Process, Record};
use super::status::{self, End, Stage, View};
use super::{Shared, container, image, sandbox};
use crate::events::Kind::{Normal, Warning};
use crate::events::now;
use crate::netns;

/// News from the tasks of a worker.
enum News {
    /// A container's process has ended.
    Ended { name: String, pid: u32, code: i32 },
    /// A probe has found something.
    Probed { name: String, pid: u32, liveness: bool, finding: Finding },
}

/// A container as the worker keeps it.
struct Running {
    view: View,
    process: Option<Process>,
    /// When to start it (again).
    due: Option<Timestamp>,
    readiness: Option<Judge>,
    liveness: Option<Judge>,
    /// Watch and probes; they end with the value.
    tasks: JoinSet<()>,
}

/// The worker of one pod.
pub(super) struct Worker {
    shared: Arc<Shared>,
    pods: watch::Receiver<Option<Arc<Pod>>>,
    record: Option<Record>,
    containers: BTreeMap<String, Running>,
    news: mpsc::UnboundedReceiver<News>,
    sender: mpsc::UnboundedSender<News>,
    written: Option<PodStatus>,
    failures: u32,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, pods: watch::Receiver<Option<Arc<Pod>>>, record: Option<Record>) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        Self { shared, pods, record, containers: BTreeMap::new(), news, sender, written: None, failures: 0 }
    }

    pub(super) async fn run(mut self) {
        let mut last = None;
        loop {
            let pod = self.pods.borrow_and_update().clone();
            let Some(pod) = pod else {
                return self.leave(last.as_deref()).await;
            };
            last = Some(pod.clone());
            if pod.metadata.deletion_timestamp.is_some() {
                return self.leave(Some(&pod)).await;
            }
            let pause = self.step(&pod).await;
            tokio::select! {
                changed = self.pods.changed() => if changed.is_err() {
                    return; // the kubelet stops; the pod goes on
                },
                Some(news) = self.news.recv() => self.take(&pod, news),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does what is missing; returns how long nothing needs to be done.
    async fn step(&mut self, pod: &Arc<Pod>) -> Duration {
        if is_over(pod) && self.record.is_none() {
            return Duration::from_secs(3600);
        }
        if !self.record.as_ref().is_some_and(|record| record.connected)
            && let Err(message) = self.connect_in_turn(pod).await
        {
            self.failures += 1;
            tracing::warn!(pod = pod.name_any(), message, "sandbox failed");
            self.shared.recorder.note(&**pod, Warning, "FailedCreatePodSandBox", message);
            self.write_status(pod).await;
            return Duration::from_millis(500 << self.failures.min(4)); // 1 s to 8 s
        }
        self.failures = 0;
        self.adopt(pod);
        let mut pause = Duration::from_secs(3600);
        for spec in containers(pod) {
            if let Some(wait) = self.start_if_due(pod, spec) {
                pause = pause.min(wait);
            }
        }
        if !self.write_status(pod).await {
            pause = Duration::from_millis(300);
        }
        pause
    }

    async fn connect_in_turn(&mut self, pod: &Pod) -> Result<(), String> {
        let shared = self.shared.clone();
        let _turn = shared.hands.acquire().await.map_err(|error| error.to_string())?;
        self.connect(pod).await
    }

    async fn disconnect_in_turn(&mut self, pod: Option<&Pod>) -> Result<(), String> {
        let shared = self.shared.clone();
        let _turn = shared.hands.acquire().await.map_err(|error| error.to_string())?;
        self.disconnect(pod).await
    }

    /// Makes the sandbox and connects it. The message is the one that a real kubelet puts into the event.
    async fn connect(&mut self, pod: &Pod) -> Result<(), String> {
        if self.record.is_some() {
            // A crash between making the sandbox and the end of its ADD.
            self.disconnect(Some(pod)).await?;
        }
        let id = sandbox::new_id().map_err(|error| format!("{error:#}"))?;
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        let shared = self.shared.clone();
        let netns = (!host_network).then(|| sandbox::netns_path(&shared.args.netns_dir, &id));
        let mut record = Record {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            sandbox: id.clone(),
            netns: netns.clone(),
            connected: false,
            addresses: Vec::new(),
            created: now(),
            containers: BTreeMap::new(),
        };
        self.keep(record.clone())?;
        match &netns {
            None => record.addresses = shared.args.node_ip.clone(),
            Some(netns) => match self.add(pod, &record, netns).await {
                Ok(addresses) => record.addresses = addresses,
                Err(error) => {
                    let undone = self.disconnect(Some(pod)).await;
                    let also = undone
                        .err()
                        .map(|error| format!(", failed to clean up sandbox container: {error}"))
                        .unwrap_or_default();
                    return Err(format!(
                        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox \"{id}\": {error}{also}"
                    ));
                }
            },
        }
        record.connected = true;
        self.keep(record)
    }

    async fn add(&self, pod: &Pod, record: &Record, netns: &std::path::Path) -> Result<Vec<std::net::IpAddr>, String> {
        let list = self.shared.runtime.network().map_err(|error| error.to_string())?;
        let path = netns.to_owned();
        let made = tokio::task::spawn_blocking(move || netns::make(&path)).await.map_err(|error| error.to_string())?;
        made.map_err(|error| format!("{error:#}"))?;
        sandbox::name_netns(netns, &record.namespace, &record.name);
        let attachment = sandbox::attachment(record, netns, Some(pod));
        let result = self.shared.runtime.add(&list, &attachment).await.map_err(|error| error.to_string())?;
        let addresses = sandbox::addresses(&result);
        if addresses.is_empty() {
            return Err(format!(
                "failed to find network info for sandbox: the result has no address for eth0: {result}"
            ));
        }
        Ok(addresses)
    }

    /// DEL and the end of the namespace; what is done stays done when a later step fails.
    async fn disconnect(&mut self, pod: Option<&Pod>) -> Result<(), String> {
        let Some(record) = &self.record else { return Ok(()) };
        if let Some(netns) = &record.netns {
            let list = self.shared.runtime.network().map_err(|error| error.to_string())?;
            let attachment = sandbox::attachment(record, netns, pod);
            self.shared.runtime.del(&list, &attachment).await.map_err(|error| error.to_string())?;
            sandbox::unname_netns(netns, &record.namespace, &record.name);
            netns::remove(netns).map_err(|error| format!("{error:#}"))?;
        }
        record.remove(&self.shared.args.root_dir);
        self.record = None;
        Ok(())
    }

    fn keep(&mut self, record: Record) -> Result<(), String> {
        record.save(&self.shared.args.root_dir).map_err(|error| format!("cannot keep the pod's record: {error}"))?;
        self.record = Some(record);
        Ok(())
    }

    /// After a restart of the kubelet: takes up the containers that the record knows.
    fn adopt(&mut self, pod: &Arc<Pod>) {
        let Some(record) = &self.record else { return };
        let known: Vec<(String, Process)> =
            record.containers.iter().map(|(name, process)| (name.clone(), process.clone())).collect();
        for (name, process) in known {
            if !self.containers.contains_key(&name)
                && let Some(spec) = containers(pod).iter().find(|container| container.name == name)
            {
                self.follow(spec, process, None);
            }
        }
    }

    /// Starts a container whose time has come; returns how long to wait for one whose has not.
    fn start_if_due(&mut self, pod: &Arc<Pod>, spec: &Container) -> Option<Duration> {
        let (restarts, last) = match self.containers.get(&spec.name) {
            None => (0, None),
            Some(Running { due: None, .. }) => return None,
            Some(Running { due: Some(due), view, .. }) => {
                let wait = due.as_millisecond() - Timestamp::now().as_millisecond();
                if wait > 0 {
                    return Some(Duration::from_millis(wait as u64));
                }
                (view.restarts + 1, view.last.clone())
            }
        };
        match self.start(pod, spec, restarts) {
            Ok(process) => {
                self.shared.recorder.note(&**pod, Normal, "Started", format!("Started container {}", spec.name));
                self.follow(spec, process, last);
                None
            }
            Err((reason, message)) => {
                self.shared.recorder.note(&**pod, Warning, "Failed", format!("Error: {message}"));
                let stage = Stage::Waiting { reason, message: Some(message) };
                let due = Timestamp::now() + jiff::SignedDuration::from_secs(5);
                let view = View { stage, ready: false, restarts: restarts - 1, last };
                self.containers.insert(spec.name.clone(), Running { view, due: Some(due), ..Running::idle() });
                Some(Duration::from_secs(5))
            }
        }
    }

    fn start(&mut self, pod: &Pod, spec: &Container, restarts: i32) -> Result<Process, (&'static str, String)> {
        let args = &self.shared.args;
        let command = image::command(spec).map_err(|message| ("ErrImagePull", message))?;
        let record = self.record.as_mut().ok_or(("RunContainerError", "no sandbox".to_owned()))?;
        let mut environment = image::environment(pod, spec, &record.addresses, &args.node_name);
        environment.extend(args.cluster_dns.map(|server| ("DNS_SERVER".to_owned(), server.to_string())));
        let log = args
            .pod_logs_dir
            .join(format!("{}_{}_{}/{}/{restarts}.log", record.namespace, record.name, record.uid, spec.name));
        let hostname: String = record.name.chars().take(63).collect();
        let what = container::Spec {
            command,
            environment,
            netns: record.netns.as_deref(),
            hostname: &hostname,
            log: &log,
            restarts,
        };
        let process = container::start(&what).map_err(|error| ("RunContainerError", format!("{error:#}")))?;
        record.containers.insert(spec.name.clone(), process.clone());
        let record = record.clone();
        self.keep(record).map_err(|message| ("RunContainerError", message))?;
        Ok(process)
    }

    /// Watches a process and probes it.
    fn follow(&mut self, spec: &Container, process: Process, last: Option<End>) {
        let mut running = Running {
            view: View {
                stage: Stage::Running { since: process.started },
                ready: spec.readiness_probe.is_none(),
                restarts: process.restarts,
                last,
            },
            process: Some(process.clone()),
            readiness: spec.readiness_probe.as_ref().map(|probe| Judge::new(probe, false)),
            liveness: spec.liveness_probe.as_ref().map(|probe| Judge::new(probe, true)),
            ..Running::idle()
        };
        let (sender, name, pid) = (self.sender.clone(), spec.name.clone(), process.pid);
        running.tasks.spawn(async move {
            let code = container::ended(&process).await;
            let _ = sender.send(News::Ended { name, pid, code });
        });
        for (probe, liveness) in [(&spec.readiness_probe, false), (&spec.liveness_probe, true)] {
            if let (Some(probe), Some(address)) = (probe, self.probe_address()) {
                let asking =
                    ask_again_and_again(probe.clone(), spec.clone(), address, pid, liveness, self.sender.clone());
                running.tasks.spawn(asking);
            }
        }
        self.containers.insert(spec.name.clone(), running);
    }

    fn probe_address(&self) -> Option<std::net::IpAddr> {
        self.record.as_ref()?.addresses.first().copied()
    }

    fn take(&mut self, pod: &Pod, news: News) {
        match news {
            News::Ended { name, pid, code } => self.take_end(pod, &name, pid, code),
            News::Probed { name, pid, liveness, finding } => self.take_finding(pod, &name, pid, liveness, finding),
        }
    }

    fn take_end(&mut self, pod: &Pod, name: &str, pid: u32, code: i32) {
        let Some(running) = self.containers.get_mut(name) else { return };
        let Some(process) = running.process.take_if(|process| process.pid == pid) else { return };
        running.tasks.abort_all();
        let end = End { code, started: process.started, finished: now() };
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
        let again = policy == "Always" || (policy == "OnFailure" && code != 0);
        running.view.ready = false;
        if !again {
            running.view.stage = Stage::Ended(end);
            return;
        }
        let pause = (1_i64 << running.view.restarts.clamp(0, 4)).min(10);
        running.due = Some(Timestamp::now() + jiff::SignedDuration::from_secs(pause));
        let message = format!(
            "back-off {pause}s restarting failed container={name} pod={}_{}",
            pod.name_any(),
            pod.namespace().unwrap_or_default()
        );
        self.shared.recorder.note(pod, Warning, "BackOff", message.clone());
        running.view.stage = Stage::Waiting { reason: "CrashLoopBackOff", message: Some(message) };
        running.view.last = Some(end);
    }

    fn take_finding(&mut self, pod: &Pod, name: &str, pid: u32, liveness: bool, finding: Finding) {
        let Some(running) = self.containers.get_mut(name) else { return };
        let Some(process) = running.process.clone().filter(|process| process.pid == pid) else { return };
        if let Err(message) = &finding {
            let kind = if liveness { "Liveness" } else { "Readiness" };
            self.shared.recorder.note(pod, Warning, "Unhealthy", format!("{kind} probe failed: {message}"));
        }
        let judge = if liveness { &mut running.liveness } else { &mut running.readiness };
        let Some(verdict) = judge.as_mut().and_then(|judge| judge.take(finding.is_ok())) else { return };
        if !liveness {
            running.view.ready = verdict;
        } else if !verdict {
            self.shared.recorder.note(
                pod,
                Normal,
                "Killing",
                format!("Container {name} failed liveness probe, will be restarted"),
            );
            tokio::spawn(async move { container::stop(&process, Duration::from_secs(2)).await });
        }
    }

    /// Writes the status if it is news; whether the API server has it.
    async fn write_status(&mut self, pod: &Pod) -> bool {
        let waiting = View {
            stage: Stage::Waiting { reason: "ContainerCreating", message: None },
            ready: false,
            restarts: 0,
            last: None,
        };
        let views: Vec<(&Container, View)> = containers(pod)
            .iter()
            .map(|container| {
                (
                    container,
                    self.containers
                        .get(&container.name)
                        .map_or_else(|| waiting.clone(), |running| running.view.clone()),
                )
            })
            .collect();
        let connected = self.record.as_ref().filter(|record| record.connected);
        let known = status::Known {
            node_addresses: &self.shared.args.node_ip,
            addresses: connected.map_or(&[], |record| &record.addresses),
            sandbox: connected.map(|record| record.sandbox.as_str()),
            containers: &views,
            now: now(),
        };
        let status = status::of(pod, &known);
        if self.written.as_ref().is_some_and(|written| same(written, &status)) {
            return true;
        }
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                self.written = Some(status);
                true
            }
            // Gone, or another pod by now: the watch will tell.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => true,
            Err(error) => {
                tracing::warn!(pod = pod.name_any(), %error, "cannot write the status");
                false
            }
        }
    }

    /// The way out: processes, network, namespace, record, and the object in the API if it is still there.
    async fn leave(mut self, pod: Option<&Pod>) {
        let grace = pod.and_then(|pod| {
            pod.metadata.deletion_grace_period_seconds.or(pod.spec.as_ref()?.termination_grace_period_seconds)
        });
        let grace = Duration::from_secs(grace.unwrap_or(2).clamp(1, 30) as u64);
        let running: Vec<Process> = self.record.iter().flat_map(|record| record.containers.values().cloned()).collect();
        if let Some(pod) = pod {
            for name in self.containers.keys() {
                self.shared.recorder.note(pod, Normal, "Killing", format!("Stopping container {name}"));
            }
        }
        self.containers.values_mut().for_each(|running| running.tasks.abort_all());
        let ends = running.iter().map(|process| container::stop(process, grace));
        futures::future::join_all(ends).await;
        for (name, running) in &mut self.containers {
            if let Some(process) = running.process.take() {
                tracing::debug!(container = name, "stopped");
                running.view.stage = Stage::Ended(End { code: 0, started: process.started, finished: now() });
                running.view.ready = false;
            }
        }
        if let Some(pod) = pod {
            self.write_status(pod).await;
        }
        while let Err(message) = self.disconnect_in_turn(pod).await {
            tracing::warn!(message, "cannot tear the sandbox down; trying again");
            if let Some(pod) = pod {
                self.shared.recorder.note(pod, Warning, "FailedKillPod", format!("error killing pod: {message}"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if let Some(pod) = pod {
            self.delete(pod).await;
        }
    }

    /// Removes the object, this very one, for good.
    async fn delete(&self, pod: &Pod) {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &pod.namespace().unwrap_or_default());
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let now =
            DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
        loop {
            match api.delete(&pod.name_any(), &now).await {
                Ok(_) => return,
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => return,
                Err(error) => {
                    tracing::warn!(pod = pod.name_any(), %error, "cannot delete the pod's object; trying again")
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

impl Running {
    fn idle() -> Self {
        let view = View {
            stage: Stage::Waiting { reason: "ContainerCreating", message: None },
            ready: false,
            restarts: 0,
            last: None,
        };
        Self { view, process: None, due: None, readiness: None, liveness: None, tasks: JoinSet::new() }
    }
}

/// The containers of the spec. Init containers and volumes are beyond this kubelet.
fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether two statuses say the same, times of conditions left aside.
fn same(one: &PodStatus, other: &PodStatus) -> bool {
    let timeless = |status: &PodStatus| {
        let mut status = status.clone();
        status.start_time = None;
        status.conditions.iter_mut().flatten().for_each(|condition| condition.last_transition_time = None);
        status
    };
    timeless(one) == timeless(other)
}

/// Probes until the task is ended. Until the first success it asks every half second: a real kubelet's period of 10 s would make the lab slow.
async fn ask_again_and_again(
    probe: Probe,
    spec: Container,
    address: std::net::IpAddr,
    pid: u32,
    liveness: bool,
    sender: mpsc::UnboundedSender<News>,
) {
    let second = |value: Option<i32>, default| Duration::from_secs(value.unwrap_or(default).max(0) as u64);
    tokio::time::sleep(second(probe.initial_delay_seconds, 0)).await;
    let period = second(probe.period_seconds, 10).max(Duration::from_secs(1));
    let mut pause = Duration::from_millis(500);
    let mut tries = 0;
    loop {
        let finding = probe::ask(&probe, &spec, address).await;
        tries += 1;
        if finding.is_ok() {
            pause = period;
        }
        // The first moments of a process are no news.
        let early = !liveness && finding.is_err() && tries <= 4 && pause < period;
        if !early && sender.send(News::Probed { name: spec.name.clone(), pid, liveness, finding }).is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}
