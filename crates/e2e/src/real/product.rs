//! The product on the cluster: installed, used, disturbed, upgraded and removed as an operator would, with `helm` and `kubectl` alone.
//!
//! Pods get macvlan interfaces on the second network (`eth1` of the nodes), which every kernel has.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::world::Output;

use super::{Access, addresses, install, leaving, multus, trouble, upgrade, upheaval, workloads};
use crate::report::{Report, Verdict};

/// The release's namespace.
pub const NAMESPACE: &str = "kube-system";
/// What is changed at every installation, beside the choice of who plays Multus.
const VALUES: [&str; 8] = [
    "--set",
    "ipam.enableStatefulSet=false",
    "--set",
    "multus.multusCNI.defaultCniCRName=macvlan-eth1",
    "--set",
    "plugins.installCNI=true",
    "--set",
    "coordinator.podCIDRType=cluster",
];
/// The network and its addresses. The installation has made an empty network of that name.
pub const NETWORK: &str = "
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: macvlan-eth1, namespace: kube-system}
spec:
  cniType: macvlan
  macvlan: {master: [eth1]}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: rack}
spec:
  default: true
  subnet: 10.50.0.0/16
  ips: [10.50.100.1-10.50.100.99]
  gateway: 10.50.0.1
";

/// A cluster, and the chart that comes into it.
pub struct Product<'a> {
    /// The way into the cluster.
    pub access: &'a Access,
    /// The repository.
    pub repository: PathBuf,
    /// For files that last as long as the lane.
    pub scratch: PathBuf,
}

/// The whole story of the product.
pub fn tell(product: &Product<'_>, report: &mut Report) {
    install::tell(product, report);
    workloads::tell(product, report);
    upheaval::tell(product, report);
    trouble::tell(product, report);
    upgrade::tell(product, report);
    leaving::tell(product, report);
    multus::tell(product, report);
}

impl Product<'_> {
    /// The chart of this commit.
    pub fn chart(&self) -> PathBuf {
        self.repository.join("charts/spiderpool")
    }

    /// Runs helm, which may fail. Its own files stay in the cluster.
    pub fn helm(&self, words: &[&str]) -> Result<Output> {
        let homes = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|home| format!("{home}=/run/helm"));
        let begin = std::iter::once("env").chain(homes.iter().map(String::as_str)).chain(["helm"]);
        self.access.outcome(&begin.chain(words.iter().copied()).collect::<Vec<_>>())
    }

    /// `helm install spiderpool CHART ... --wait` with further words; returns how long it took.
    pub fn install(&self, chart: &Path, further: &[&str]) -> Result<Duration> {
        self.release("install", chart, &[&VALUES, further].concat())
    }

    /// `helm upgrade spiderpool CHART --reset-then-reuse-values ... --wait` with further words; returns how long it took.
    pub fn upgrade(&self, chart: &Path, further: &[&str]) -> Result<Duration> {
        self.release("upgrade", chart, &[&["--reset-then-reuse-values"], further].concat())
    }

    fn release(&self, what: &str, chart: &Path, further: &[&str]) -> Result<Duration> {
        let started = Instant::now();
        let chart = chart.display().to_string();
        let begin = [what, "spiderpool", &chart, "--namespace", NAMESPACE, "--wait", "--timeout=150s"];
        let outcome = self.helm(&[&begin, further].concat())?.expect_success();
        outcome.map_err(|error| error.context(self.pods_of_release()))?;
        Ok(started.elapsed())
    }

    /// `helm uninstall spiderpool`; returns how long it took.
    pub fn uninstall(&self) -> Result<Duration> {
        let started = Instant::now();
        self.helm(&["uninstall", "spiderpool", "--namespace", NAMESPACE, "--wait", "--timeout=150s"])?
            .expect_success()?;
        Ok(started.elapsed())
    }

    /// What an operator looks at first when something of the release does not run.
    fn pods_of_release(&self) -> String {
        let selector = "-n kube-system -l app.kubernetes.io/instance=spiderpool";
        let pods = self.access.kubectl(&format!("get pods -o wide {selector}")).unwrap_or_default();
        let words = self.access.kubectl("get events -n kube-system --field-selector type=Warning").unwrap_or_default();
        let logs = self.access.kubectl(&format!("logs {selector} --all-containers --tail=20 --prefix"));
        format!("{pods}\n{words}\n{}", logs.unwrap_or_default())
    }

    /// Waits for the release's processes, all of them as they are declared now.
    pub fn rolled_out(&self) -> Result<()> {
        self.roll_out("deployment/spiderpool-controller")?;
        self.roll_out("daemonset/spiderpool-agent")
    }

    /// Waits for one of them.
    pub fn roll_out(&self, what: &str) -> Result<()> {
        let outcome = self.access.kubectl(&format!("-n {NAMESPACE} rollout status {what} --timeout=100s"));
        outcome.map(drop).map_err(|error| error.context(self.pods_of_release()))
    }

    /// Waits for an application; an error tells why its pods do not run.
    pub fn wait_for(&self, what: &str) -> Result<()> {
        let outcome = self.access.kubectl(&format!("rollout status {what} --timeout=100s"));
        outcome.map(drop).map_err(|error| error.context(self.what_pods_say()))
    }

    /// Waits for pods to be ready, by name or selector; an error tells why not.
    pub fn ready(&self, pods: &str) -> Result<()> {
        let outcome = self.access.kubectl(&format!("wait pod {pods} --for=condition=Ready --timeout=60s"));
        outcome.map(drop).map_err(|error| error.context(self.what_pods_say()))
    }

    fn what_pods_say(&self) -> String {
        let pods = self.access.kubectl("get pods -o wide").unwrap_or_default();
        let events = self.access.kubectl("get events --field-selector type=Warning --sort-by=.lastTimestamp");
        let events = events.unwrap_or_default();
        let last: Vec<&str> = events.lines().rev().take(8).collect();
        format!("{pods}\n{}", last.join("\n"))
    }

    /// The check that closes most chapters: who has which address is the same for API, kernel, pods and pools.
    pub fn agreement(&self) -> Result<Verdict> {
        addresses::agreement(self.access)
    }

    /// The name of an agent's pod on a node.
    pub fn agent_on(&self, node: &str) -> Result<String> {
        let selector = "-l app.kubernetes.io/component=spiderpool-agent";
        let line = format!("pods -n {NAMESPACE} {selector} --field-selector spec.nodeName={node}");
        let pods = self.access.list(&line)?;
        let alive = pods.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let name = alive.and_then(|pod| pod["metadata"]["name"].as_str());
        Ok(name.with_context(|| format!("no agent on {node}"))?.to_owned())
    }
}

/// Pings from a pod; the verdict's text for one that answers.
pub fn ping(access: &Access, pod: &str, to: &str) -> Result<String> {
    let answer = access.exec(pod, &format!("ping -c 2 -W 2 {to}"))?;
    let line = answer.lines().find(|line| line.contains("packet loss")).context("ping tells no loss")?;
    ensure!(line.contains(" 0% packet loss"), "{pod} -> {to}: {line}");
    Ok(line.trim().to_owned())
}

/// A duration as the story tells it.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f32())
}
