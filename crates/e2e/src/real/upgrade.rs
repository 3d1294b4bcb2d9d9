//! `helm upgrade` under running pods.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::product::{NAMESPACE, Product, ping, seconds};
use crate::report::{Report, Verdict};

/// Where the images are under another registry's name.
const REGISTRY: &str = "registry.example.org";

/// The chapter.
pub fn tell(product: &Product<'_>, report: &mut Report) {
    report.chapter("Upgrade");
    report.check("G1", "a changed value rolls the agents, and pods go on", changed_value(product));
    report.check("G2", "global.imageRegistryOverride names the registry of all images", other_registry(product));
    report.check("G3", "a value is taken back; API, kernel, pods and pools agree", back(product));
}

fn containers(product: &Product<'_>) -> Result<Vec<String>> {
    let pods = product.access.list("pods -l app=first")?;
    Ok(pods.iter().map(|pod| pod["status"]["containerStatuses"][0]["containerID"].to_string()).collect())
}

fn changed_value(product: &Product<'_>) -> Result<Verdict> {
    let before = containers(product)?;
    let agents = [product.agent_on("master")?, product.agent_on("worker")?];
    let took = product.upgrade(&product.chart(), &["--set", "spiderpoolAgent.debug.logLevel=debug"])?;
    product.rolled_out()?;
    let new = [product.agent_on("master")?, product.agent_on("worker")?];
    ensure!(agents.iter().all(|name| !new.contains(name)), "the agents were not replaced: {new:?}");
    ensure!(containers(product)? == before, "containers of pods were replaced");
    let pods = product.access.list("pods -l app=first")?;
    let name = |at: usize| pods.get(at).and_then(|pod| pod["metadata"]["name"].as_str()).context("no pod");
    let address = pods.get(1).and_then(|pod| pod["status"]["podIP"].as_str()).context("no address")?;
    let line = ping(product.access, name(0)?, address)?;
    Ok(Verdict::new(true, "new agents, same containers, 0% packet loss", format!("after {}; {line}", seconds(took))))
}

/// The images get a second name on the nodes: nothing can be pulled here.
fn other_registry(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    for node in &access.cluster()?.options().nodes {
        let list = access.on(node, &["ctr", "-n", "k8s.io", "images", "ls", "-q"])?.expect_success()?;
        for image in list.lines().filter(|name| name.starts_with("ghcr.io/")) {
            let name = image.replacen("ghcr.io", REGISTRY, 1);
            access.on(node, &["ctr", "-n", "k8s.io", "images", "tag", "--force", image, &name])?.expect_success()?;
        }
    }
    let value = format!("global.imageRegistryOverride={REGISTRY}");
    product.upgrade(&product.chart(), &["--set", &value])?;
    product.rolled_out()?;
    let path = "{range .items[*]}{.spec['initContainers','containers'][*].image}{\"\\n\"}{end}";
    let selector = "-l app.kubernetes.io/instance=spiderpool";
    let words = ["kubectl", "-n", NAMESPACE, "get", "pods", selector, "--field-selector=status.phase=Running"];
    let images = access.words(&[&words[..], &["-o", &format!("jsonpath={path}")]].concat())?;
    let mut images: Vec<&str> = images.split_whitespace().collect();
    images.sort_unstable();
    images.dedup();
    let good = images.len() > 2 && images.iter().all(|image| image.starts_with(REGISTRY));
    Ok(Verdict::new(good, format!("all images from {REGISTRY}"), images.join(", ")))
}

fn back(product: &Product<'_>) -> Result<Verdict> {
    let values = ["--set", "global.imageRegistryOverride=", "--set", "spiderpoolAgent.debug.logLevel=info"];
    product.upgrade(&product.chart(), &values)?;
    product.rolled_out()?;
    product.agreement()
}

/// The chart of the commit before this one, unpacked; or why there is none.
pub fn previous_chart(product: &Product<'_>) -> Result<Result<std::path::PathBuf, String>> {
    let dir = product.scratch.join("previous-chart");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let archive = dir.join("chart.tar");
    let outcome = Command::new("git")
        .arg("-C")
        .arg(&product.repository)
        .args(["archive", "--format=tar", "--output"])
        .arg(&archive)
        .args(["HEAD~1", "charts/spiderpool"])
        .output();
    match outcome {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Ok(Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) => return Ok(Err(format!("git: {error}"))),
    }
    lab::netns::run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&dir))?;
    Ok(Ok(dir.join("charts/spiderpool")))
}
