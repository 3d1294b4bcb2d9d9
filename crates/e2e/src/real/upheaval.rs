//! Parts of the cluster and of the product go away while pods start and stop.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::kubernetes::control::Order;

use super::addresses::{agreement_without_pools, of_kernel};
use super::product::{NAMESPACE, Product, seconds};
use super::workloads::workload;
use crate::report::{Report, Verdict};

/// Pods that take their whole grace period: `sleep` as first process heeds no SIGTERM.
const SLOW: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: slow}
spec:
  replicas: 8
  selector: {matchLabels: {app: slow}}
  template:
    metadata: {labels: {app: slow}}
    spec:
      terminationGracePeriodSeconds: 6
      containers: [{name: c, image: spiderpool.test/busybox, imagePullPolicy: Never}]
";

/// The chapter.
pub fn tell(product: &Product<'_>, report: &mut Report) {
    report.chapter("Parts go away while pods start and stop");
    let restart = |process: &str| restarted(product, process);
    report.check("U1", "a kubelet is restarted while pods start", restart("kubelet"));
    report.check("U2", "containerd is restarted while pods start", restart("containerd"));
    report.check("U3", "the agents are rolled while pods start", agents_rolled(product));
    report.check("U4", "no controller: pods start and stop", without_controller(product));
    report.check("U5", "the controller is back: the pools' views follow", controller_back(product));
    report.check("U6", "no API server for 30 s while pods stop", without_api(product));
    report.check("U7", "the Deployments go; API, kernel, pods and pools agree", cleared(product));
}

fn replicas(product: &Product<'_>, replicas: usize) -> Result<()> {
    product.access.kubectl(&format!("scale deployment/crowd --replicas={replicas}")).map(drop)
}

/// Pods are asked for, and the process goes at once.
fn restarted(product: &Product<'_>, process: &str) -> Result<Verdict> {
    replicas(product, 4)?;
    let cluster = product.access.cluster()?;
    let started = Instant::now();
    replicas(product, 16)?;
    std::thread::sleep(Duration::from_millis(700));
    cluster.steer(Some("worker"), Order::Kill, process)?;
    cluster.steer(Some("worker"), Order::Start, process)?;
    product.wait_for("deployment/crowd")?;
    let took = started.elapsed();
    let verdict = product.agreement()?;
    Ok(Verdict { seen: format!("16 pods run after {}; {}", seconds(took), verdict.seen), ..verdict })
}

fn agents_rolled(product: &Product<'_>) -> Result<Verdict> {
    replicas(product, 4)?;
    let agents = [product.agent_on("master")?, product.agent_on("worker")?];
    let started = Instant::now();
    product.access.kubectl(&format!("-n {NAMESPACE} rollout restart daemonset/spiderpool-agent"))?;
    replicas(product, 24)?;
    product.wait_for("deployment/crowd")?;
    let took = started.elapsed();
    product.roll_out("daemonset/spiderpool-agent")?;
    let new = [product.agent_on("master")?, product.agent_on("worker")?];
    ensure!(agents.iter().all(|name| !new.contains(name)), "agents before: {agents:?}, after: {new:?}");
    let verdict = product.agreement()?;
    Ok(Verdict { seen: format!("24 pods run after {}; {}", seconds(took), verdict.seen), ..verdict })
}

fn controllers(product: &Product<'_>, replicas: usize) -> Result<()> {
    let line = format!("-n {NAMESPACE} scale deployment/spiderpool-controller --replicas={replicas}");
    product.access.kubectl(&line)?;
    let selector = "-l app.kubernetes.io/component=spiderpool-controller";
    product.access.until("the controllers", Duration::from_secs(60), || {
        Ok((product.access.list(&format!("pods -n {NAMESPACE} {selector}"))?.len() == replicas).then_some(()))
    })
}

fn without_controller(product: &Product<'_>) -> Result<Verdict> {
    controllers(product, 0)?;
    product.access.apply(&workload("Deployment", "orphan", 6))?;
    product.wait_for("deployment/orphan")?;
    replicas(product, 3)?;
    let verdict = agreement_without_pools(product.access)?;
    Ok(Verdict { seen: format!("6 pods started, 21 stopped; {}", verdict.seen), ..verdict })
}

fn controller_back(product: &Product<'_>) -> Result<Verdict> {
    controllers(product, 1)?;
    product.roll_out("deployment/spiderpool-controller")?;
    product.agreement()
}

/// The kubelets know that the pods are to end, and end them while nobody can be told.
fn without_api(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    access.apply(SLOW)?;
    product.wait_for("deployment/slow")?;
    let before = of_kernel(access)?.len();
    let cluster = access.cluster()?;
    access.kubectl("delete deployment/slow --wait=false")?;
    access.until("the pods to be told", Duration::from_secs(10), || {
        let pods = access.list("pods -l app=slow")?;
        Ok(pods.iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null()).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(2));
    cluster.steer(None, Order::Kill, "kube-apiserver")?;
    std::thread::sleep(Duration::from_secs(30));
    let meanwhile = of_kernel(access)?.len();
    cluster.steer(None, Order::Start, "kube-apiserver")?;
    access.until("the API server", Duration::from_secs(60), || access.kubectl("get --raw /readyz").map(Some))?;
    access.until("the pods to go", Duration::from_secs(60), || {
        Ok(access.list("pods -l app=slow")?.is_empty().then_some(()))
    })?;
    let verdict = product.agreement()?;
    Ok(Verdict {
        passed: verdict.passed && meanwhile + 8 == before,
        expected: format!("8 pods fewer in the kernel meanwhile; {}", verdict.expected),
        seen: format!("{before} -> {meanwhile} addresses in the kernel; {}", verdict.seen),
    })
}

fn cleared(product: &Product<'_>) -> Result<Verdict> {
    product.access.kubectl("delete deployment/crowd deployment/orphan statefulset/store --wait")?;
    product.access.until("the pods to go", Duration::from_secs(60), || {
        Ok(product.access.list("pods -l app,app!=first")?.is_empty().then_some(()))
    })?;
    product.agreement()
}
