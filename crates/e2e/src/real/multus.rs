//! The same with Multus itself, which is what the chart installs if nothing else is said.

use anyhow::{Context, Result};

use super::product::{Product, ping};
use super::workloads::workload;
use super::{install, leaving};
use crate::report::{Report, Verdict};

/// A pod whose first network is the cluster's default, and which gets another interface.
const TWO: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: two
  annotations: {k8s.v1.cni.cncf.io/networks: kube-system/macvlan-eth1}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: spiderpool.test/busybox, imagePullPolicy: Never}]
";

/// The chapter.
pub fn tell(product: &Product<'_>, report: &mut Report) {
    report.chapter("Multus itself");
    report.check("M1", "helm install --wait", leaving::reinstall(product, "multus"));
    report.check("M2", "the network is declared", install::network(product.access));
    report.check("M3", "a Deployment of 10 pods rolls out, pods reach each other", deployment(product));
    report.check("M4", "a pod with a second interface", second_interface(product));
    report.check("M5", "API, kernel, pods and pools agree", product.agreement());
    report.check("M6", "with the uninstall values set nothing is left", leaving::uninstalled_with_files(product));
}

fn deployment(product: &Product<'_>) -> Result<Verdict> {
    product.access.apply(&workload("Deployment", "crew", 10))?;
    product.wait_for("deployment/crew")?;
    let pods = product.access.list("pods -l app=crew")?;
    let text = |at: usize, path: &str| pods.get(at).and_then(|pod| pod.pointer(path)?.as_str()).context("no pod");
    let mut line = String::new();
    for at in 1..pods.len() {
        line = ping(product.access, text(0, "/metadata/name")?, text(at, "/status/podIP")?)?;
    }
    Ok(Verdict::new(pods.len() == 10, "9 others answer", line))
}

fn second_interface(product: &Product<'_>) -> Result<Verdict> {
    product.access.apply(TWO)?;
    product.ready("two")?;
    let addresses = product.access.exec("two", "ip -o -4 addr show scope global")?;
    let count = addresses.lines().filter(|line| line.contains("10.50.100.")).count();
    product.access.kubectl("delete deployment/crew --wait")?;
    Ok(Verdict::new(count == 2, "two addresses of 10.50.100.x", addresses))
}
