//! How the cluster's parts and the cluster itself come to an end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::kubernetes::control::Order;
use lab::kubernetes::{Cluster, Options};

use super::Access;
use super::traces::{Traces, interfaces};
use crate::report::{Report, Verdict};

/// A pod that only a working kubelet starts.
fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: c, image: spiderpool.test/busybox, imagePullPolicy: Never}}]\n"
    )
}

/// Components that are restarted under running pods.
pub fn restarts(access: &Access, report: &mut Report) {
    report.chapter("Components are restarted");
    let checks: [(&str, &str, Option<&str>, &str); 4] = [
        ("R1", "kubelet", Some("worker"), "kubelet restarted: a pod before goes on, a pod after starts"),
        ("R2", "containerd", Some("worker"), "containerd restarted: the same"),
        ("R3", "kube-apiserver", None, "kube-apiserver restarted: the same"),
        ("R4", "node-worker", None, "a node that is switched off and on starts pods again"),
    ];
    for (id, process, node, title) in checks {
        report.check(id, title, restart(access, process, node, &id.to_lowercase()));
    }
}

fn restart(access: &Access, process: &str, node: Option<&str>, id: &str) -> Result<Verdict> {
    let (before, after) = (format!("before-{id}"), format!("after-{id}"));
    let wait = |name: &str| access.kubectl(&format!("wait pod/{name} --for=condition=Ready --timeout=50s"));
    access.apply(&pod(&before, "worker"))?;
    wait(&before)?;
    let is_node = process.starts_with("node-");
    let container = access.field(&format!("pod/{before}"), "{.status.containerStatuses[0].containerID}")?;
    let cluster = access.cluster()?;
    // Switched off is not shut down.
    cluster.steer(node, if is_node { Order::Kill } else { Order::Stop }, process)?;
    cluster.steer(node, Order::Start, process)?;
    let started = Instant::now();
    access.until("the API server", Duration::from_secs(40), || access.kubectl("get --raw /readyz").map(Some))?;
    access.apply(&pod(&after, "worker"))?;
    wait(&after)?;
    let took = started.elapsed().as_secs_f32();
    wait(&before)?;
    let now = access.field(&format!("pod/{before}"), "{.status.containerStatuses[0].containerID}")?;
    ensure!(is_node || now == container, "the container of pod {before} was replaced");
    access.kubectl(&format!("delete pod {before} {after} --wait"))?;
    Ok(Verdict::new(true, "both pods run", format!("a new pod ran {took:.1} s after the restart")))
}

/// The end, and what is left after it.
pub fn tell(access: Access, options: &Options, report: &mut Report) {
    report.chapter("The cluster ends");
    if let Some(cluster) = access.into_cluster() {
        report.check("E1", "down leaves no process, namespace, mount, control group or file", down(cluster));
    }
    report.check("E2", "the same when the driver is killed while the cluster comes up", killed_driver(options));
    report.check("E3", "the same after the keeper is killed and `down` was called", killed_keeper(options));
}

fn down(cluster: Cluster) -> Result<Verdict> {
    let traces = Traces::of(&cluster);
    let name = cluster.options().name.clone();
    let started = Instant::now();
    Cluster::down(&name)?;
    let took = started.elapsed().as_secs_f32();
    drop(cluster);
    Ok(nothing(&traces, &format!("gone after {took:.1} s: {}", traces.size())))
}

/// Waits a moment for the last of it to vanish.
fn nothing(traces: &Traces, seen: &str) -> Verdict {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !traces.left().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let left = traces.left();
    let seen = if left.is_empty() { seen.to_owned() } else { left.join("; ") };
    Verdict::new(left.is_empty(), "nothing", seen)
}

/// The same program brings up a small cluster of another name, and is killed once it has a first process.
fn killed_driver(options: &Options) -> Result<Verdict> {
    let name = format!("{}-killed", options.name);
    let before = interfaces();
    let mut driver = Command::new(std::env::current_exe().context("cannot find this program")?)
        .arg("--bin-dir")
        .arg(&options.bin_dir)
        .arg("--kubernetes-dir")
        .arg(&options.kubernetes_dir)
        .arg("--cache-dir")
        .arg(options.log_dir.parent().unwrap_or(&options.log_dir))
        .arg("--app")
        .arg(&options.app)
        .args(["up", "--name", &name, "--nodes", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start a driver")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let found = loop {
        if let Some(cluster) = Cluster::found(&name)? {
            break cluster;
        }
        ensure!(Instant::now() < deadline, "the driver made no cluster within 60 s");
        std::thread::sleep(Duration::from_millis(20));
    };
    // Far enough for a node and its control groups.
    let node = || found.command_on("master", &["true"]).is_ok();
    while !node() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let traces = Traces::of(&found);
    driver.kill().context("cannot kill the driver")?;
    driver.wait().context("cannot wait for the driver")?;
    let verdict = nothing(&traces, &format!("gone: {}", traces.size()));
    let after = interfaces();
    ensure!(before == after, "this machine's interfaces were {before:?} and are {after:?}");
    Ok(verdict)
}

fn killed_keeper(options: &Options) -> Result<Verdict> {
    let options = Options {
        name: format!("{}-keeper", options.name),
        nodes: vec!["master".into()],
        images: Vec::new(),
        ..options.clone()
    };
    let mut cluster = Cluster::up(&options, &mut |_| {})?;
    cluster.keep()?;
    let traces = Traces::of(&cluster);
    let keeper = rustix::process::Pid::from_raw(cluster.keeper_pid() as i32).context("no keeper")?;
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).context("cannot kill the keeper")?;
    ensure!(Cluster::down(&options.name)?, "down found nothing to clear away");
    Ok(nothing(&traces, &format!("gone: {}", traces.size())))
}
