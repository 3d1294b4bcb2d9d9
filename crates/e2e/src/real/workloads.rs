//! What a cluster does all day: Deployments, StatefulSets, Jobs, drains.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Access;
use super::addresses::claimed;
use super::product::{Product, seconds};
use crate::report::{Report, Verdict};

/// Pods that stop at once, in a controller of a kind.
pub fn workload(kind: &str, name: &str, replicas: usize) -> String {
    let service = if kind == "StatefulSet" {
        format!("  serviceName: {name}\n  podManagementPolicy: Parallel\n")
    } else {
        String::new()
    };
    format!(
        "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{service}  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 0\n      \
         containers: [{{name: c, image: spiderpool.test/busybox, imagePullPolicy: Never}}]\n"
    )
}

/// The chapter.
pub fn tell(product: &Product<'_>, report: &mut Report) {
    report.chapter("Workloads");
    report.check("W1", "a Deployment of 30 pods rolls out", rolls_out(product, "Deployment", "crowd", 30));
    report.check("W2", "and agrees", product.agreement());
    report.check("W3", "it is rolled: every pod is replaced", rolled(product));
    report.check("W4", "it is scaled to 5, and agrees", scaled(product, 5));
    report.check("W5", "a StatefulSet: a deleted pod comes back under its name", stateful(product));
    report.check("W6", "a Job's pods end: their addresses are free, though the pods are there", job(product));
    report.check("W7", "a node is drained: its pods run on the other", drained(product));
    report.check("W8", "the node is uncordoned and takes pods again", uncordoned(product));
    report.check("W9", "pods are deleted by force", forced(product));
    report.check("W10", "API, kernel, pods and pools agree", product.agreement());
}

fn rolls_out(product: &Product<'_>, kind: &str, name: &str, replicas: usize) -> Result<Verdict> {
    let started = Instant::now();
    product.access.apply(&workload(kind, name, replicas))?;
    product.wait_for(&format!("{}/{name}", kind.to_lowercase()))?;
    Ok(Verdict::new(
        true,
        "successfully rolled out",
        format!("{replicas} pods run after {}", seconds(started.elapsed())),
    ))
}

/// UIDs of an application's pods.
fn uids(access: &Access, app: &str) -> Result<BTreeSet<String>> {
    let pods = access.list(&format!("pods -l app={app}"))?;
    Ok(pods.iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned()).collect())
}

fn rolled(product: &Product<'_>) -> Result<Verdict> {
    let before = uids(product.access, "crowd")?;
    let started = Instant::now();
    product.access.kubectl("rollout restart deployment/crowd")?;
    product.wait_for("deployment/crowd")?;
    let took = started.elapsed();
    let gone = product.access.until("the old pods to go", Duration::from_secs(60), || {
        let now = uids(product.access, "crowd")?;
        Ok((now.len() == before.len() && now.is_disjoint(&before)).then_some(now.len()))
    })?;
    let verdict = product.agreement()?;
    Ok(Verdict { seen: format!("{gone} new pods after {}; {}", seconds(took), verdict.seen), ..verdict })
}

fn scaled(product: &Product<'_>, replicas: usize) -> Result<Verdict> {
    product.access.kubectl(&format!("scale deployment/crowd --replicas={replicas}"))?;
    product.access.until("the pods to go", Duration::from_secs(60), || {
        Ok((uids(product.access, "crowd")?.len() == replicas).then_some(()))
    })?;
    product.agreement()
}

fn stateful(product: &Product<'_>) -> Result<Verdict> {
    rolls_out(product, "StatefulSet", "store", 3)?;
    let before = uids(product.access, "store")?;
    product.access.kubectl("delete pod store-1 --wait")?;
    product.wait_for("statefulset/store")?;
    product.ready("store-1")?;
    let after = uids(product.access, "store")?;
    let address = product.access.field("pod/store-1", "{.status.podIP}")?;
    let verdict = product.agreement()?;
    let kept = before.intersection(&after).count();
    Ok(Verdict {
        passed: verdict.passed && kept == 2 && after.len() == 3,
        seen: format!("store-1 has {address}, {kept} pods kept; {}", verdict.seen),
        ..verdict
    })
}

fn job(product: &Product<'_>) -> Result<Verdict> {
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: batch}\nspec:\n  completions: 4\n  parallelism: 4\n  template:\n    spec:\n      \
               restartPolicy: Never\n      containers: [{name: c, image: spiderpool.test/busybox, imagePullPolicy: Never, command: [sh, -c, 'sleep 1']}]\n";
    product.access.apply(job)?;
    product.access.kubectl("wait job/batch --for=condition=Complete --timeout=60s")?;
    let pods = product.access.list("pods -l job-name=batch")?;
    ensure!(pods.len() == 4, "{} pods of the job are left", pods.len());
    let verdict = product.agreement()?;
    let holders = claimed(product.access)?;
    let left = holders.values().filter(|who| who.starts_with("default/batch-")).count();
    ensure!(left == 0, "{left} addresses of finished pods are in use");
    product.access.kubectl("delete job/batch --wait")?;
    Ok(Verdict { seen: format!("4 finished pods without address; {}", verdict.seen), ..verdict })
}

fn on(product: &Product<'_>, node: &str, app: &str) -> Result<usize> {
    Ok(product.access.list(&format!("pods -l app={app} --field-selector spec.nodeName={node}"))?.len())
}

fn drained(product: &Product<'_>) -> Result<Verdict> {
    let before = on(product, "worker", "crowd")? + on(product, "worker", "store")?;
    ensure!(before > 0, "worker has no pod of a Deployment or StatefulSet");
    product.access.kubectl("drain worker --ignore-daemonsets --force --timeout=90s")?;
    product.wait_for("deployment/crowd")?;
    product.wait_for("statefulset/store")?;
    let left = on(product, "worker", "crowd")? + on(product, "worker", "store")?;
    let verdict = product.agreement()?;
    Ok(Verdict {
        passed: verdict.passed && left == 0,
        seen: format!("{before} pods left worker; {}", verdict.seen),
        ..verdict
    })
}

fn uncordoned(product: &Product<'_>) -> Result<Verdict> {
    product.access.kubectl("uncordon worker")?;
    product.access.kubectl("scale deployment/crowd --replicas=12")?;
    product.wait_for("deployment/crowd")?;
    let pods = on(product, "worker", "crowd")?;
    Ok(Verdict::new(pods > 0, "pods on worker", format!("{pods} of 12 on worker")))
}

/// What is deleted by force is gone from the API before the node has done anything.
fn forced(product: &Product<'_>) -> Result<Verdict> {
    let pods = product.access.list("pods -l app=crowd")?;
    let names = pods.iter().take(6).map(|pod| pod["metadata"]["name"].as_str().context("a pod without a name"));
    let names = names.collect::<Result<Vec<_>>>()?;
    let words = [&["kubectl", "delete", "pod", "--force", "--grace-period=0"], names.as_slice()].concat();
    product.access.words(&words)?;
    product.wait_for("deployment/crowd")?;
    let verdict = product.agreement()?;
    Ok(Verdict { seen: format!("{} pods deleted by force; {}", names.len(), verdict.seen), ..verdict })
}
