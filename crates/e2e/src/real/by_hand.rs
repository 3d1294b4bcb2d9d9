//! The rest of the guides' commands: two controllers, another Multus, another certificate, the way back, a chart that is rendered and
//! applied, and a removal by hand.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::certificates::{self, refusal};
use super::install;
use super::leaving::{self, left};
use super::product::{NAMESPACE, Product, seconds};
use super::workloads::workload;
use crate::report::{Report, Verdict};

const CONTROLLERS: &str = "-l app.kubernetes.io/component=spiderpool-controller";
const LEASE: &str = "lease/spiderpool-controller-leases";

/// The chapter.
pub fn tell(product: &Product<'_>, report: &mut Report) {
    report.chapter("Two controllers, and what operators do by hand");
    report.check("H1", "helm install with two controllers", installed(product));
    report.check("H2", "the network is declared", install::network(product.access));
    report.check("H3", "the leader goes: the other leads, and admission answers all the time", leader_goes(product));
    report.check("H4", "helm upgrade changes who plays Multus; pods start", other_multus(product));
    report.check("H5", "helm upgrade to a certificate of the operator's", certificates::provided(product));
    report.check("H6", "helm rollback", certificates::rolled_back(product));
    report.check("H6b", "the same for cert-manager's, and back", certificates::of_cert_manager(product));
    report.check("H6c", "controllers in the cluster's own network, and back", own_network(product));
    report.check("H7", "the chart rendered and applied, without hooks", applied(product));
    report.check("H8", "API, kernel, pods and pools agree", product.agreement());
    report.check("H9", "removed by hand, without controller and hooks: nothing is left", removed(product));
    report.check("H10", "and on the nodes", removed_on_nodes(product));
}

fn installed(product: &Product<'_>) -> Result<Verdict> {
    ensure!(left(product.access)?.is_empty(), "something of the last installation is left");
    let values = ["--set", "multus.implementation=multinet", "--set", "spiderpoolController.replicas=2"];
    let took = product.install(&product.chart(), &values)?;
    let pods = product.access.list(&format!("pods -n {NAMESPACE} {CONTROLLERS}"))?;
    let nodes: Vec<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    let seen = format!("controllers on {}; ready after {}", nodes.join(", "), seconds(took));
    Ok(Verdict::new(nodes.len() == 2, "two controllers", seen))
}

fn leader(product: &Product<'_>) -> Result<String> {
    product.access.words(&["kubectl", "-n", NAMESPACE, "get", LEASE, "-o", "jsonpath={.spec.holderIdentity}"])
}

fn leader_goes(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    let before = leader(product)?;
    let pods = access.list(&format!("pods -n {NAMESPACE} {CONTROLLERS}"))?;
    let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    let name = names.into_iter().find(|name| before.contains(*name)).context("the leader is none of the pods")?;
    let started = Instant::now();
    access.kubectl(&format!("-n {NAMESPACE} delete pod {name} --grace-period=0 --force"))?;
    let mut refused = 0;
    let after = access.until("another leader", Duration::from_secs(60), || {
        ensure!(refusal(product)?.contains("spec.gateway"), "a wrong pool was refused by something else");
        refused += 1;
        let now = leader(product)?;
        Ok((!now.is_empty() && now != before).then_some(now))
    })?;
    let took = started.elapsed();
    product.roll_out("deployment/spiderpool-controller")?;
    let seen = format!("{before} -> {after} after {}; {refused} wrong pools refused meanwhile", seconds(took));
    Ok(Verdict::new(refused > 0, "another leader; wrong pools refused by spec.gateway", seen))
}

fn other_multus(product: &Product<'_>) -> Result<Verdict> {
    product.access.apply(&workload("Deployment", "pair", 2))?;
    product.wait_for("deployment/pair")?;
    product.upgrade(&product.chart(), &["--set", "multus.implementation=multus"])?;
    product.rolled_out()?;
    product.access.kubectl("scale deployment/pair --replicas=6")?;
    product.wait_for("deployment/pair")?;
    product.agreement()
}

/// Controllers without the nodes' network, which pods have here by the cluster's own plugin.
fn own_network(product: &Product<'_>) -> Result<Verdict> {
    let values = ["--set", "spiderpoolController.hostnetwork=false", "--set", "multus.multusCNI.defaultCniCRName="];
    product.upgrade(&product.chart(), &values)?;
    product.rolled_out()?;
    let pods = product.access.list(&format!("pods -n {NAMESPACE} {CONTROLLERS}"))?;
    let addresses: Vec<&str> = pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
    let own = !addresses.is_empty() && addresses.iter().all(|address| address.starts_with("10.244."));
    let seen = format!("controllers at {}; {}", addresses.join(", "), refusal(product)?);
    let back = certificates::rolled_back(product)?;
    let passed = own && back.passed() && seen.contains("spec.gateway");
    Ok(Verdict::new(passed, "addresses of 10.244.x; a wrong pool refused by its field", seen))
}

/// As a tool does that renders and applies: with the values of the release in a file.
fn applied(product: &Product<'_>) -> Result<Verdict> {
    product.play("helm get values spiderpool --namespace kube-system -o yaml > values.yaml")?;
    let printed = product.play(product.guides.upgrade.script("Without hooks", 0)?)?;
    product.rolled_out()?;
    let objects = printed.lines().filter(|line| line.ends_with("configured") || line.ends_with("unchanged")).count();
    let refused = refusal(product)?;
    Ok(Verdict::new(
        objects > 15 && refused.contains("spec.gateway"),
        "objects applied, a wrong pool refused by its field",
        format!("{objects} objects; {refused}"),
    ))
}

fn removed(product: &Product<'_>) -> Result<Verdict> {
    product.access.kubectl("delete pods,deployments --all -n default --wait --timeout=60s")?;
    let took = product.remove(product.guides.uninstall.script("If it hangs", 1)?)?;
    product.play(product.guides.uninstall.script("If it hangs", 2)?)?;
    leaving::in_the_end(took, || left(product.access))
}

fn removed_on_nodes(product: &Product<'_>) -> Result<Verdict> {
    let script = product.guides.uninstall.script("If it hangs", 3)?;
    let (mut before, mut left) = (0, Vec::new());
    for node in &product.access.cluster()?.options().nodes {
        before += leaving::files(product, node)?.len();
        product.access.on(node, &["sh", "-euc", script])?.expect_success()?;
        left.extend(leaving::files(product, node)?.into_iter().map(|file| format!("{node}:{file}")));
    }
    let seen = format!("{before} files and folders before, now: {}", left.join(", "));
    Ok(Verdict::new(before > 0 && left.is_empty(), "none of the files", seen))
}
