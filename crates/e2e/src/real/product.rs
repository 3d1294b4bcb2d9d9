//! The product on the cluster: installed, used, disturbed, upgraded and removed as an operator would, with `helm` and `kubectl` alone.
//! Installation, upgrade and removal are the commands of `docs/` ([`Page`]), with what only this cluster needs added.
//!
//! Pods get macvlan interfaces on the second network (`eth1` of the nodes), which every kernel has.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::world::Output;

use super::guide::Page;
use super::{Access, addresses, by_hand, install, leaving, multus, trouble, upgrade, upheaval, workloads};
use crate::report::{Report, Verdict};

/// The release's namespace.
pub const NAMESPACE: &str = "kube-system";
/// What this cluster needs beside the values of the guide, and beside the choice of who plays Multus.
const VALUES: [&str; 4] = ["--set", "plugins.installCNI=true", "--set", "coordinator.podCIDRType=cluster"];
/// What the commands of the guides say of chart and namespace, and of a release alone.
const CHART: &str = "charts/spiderpool --namespace kube-system";
const RELEASE: &str = "spiderpool --namespace kube-system";
/// Where the guides' commands run: beside the chart, in the memory of the cluster's first machine.
const FOLDER: &str = "/run/operator";
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
    /// The guides.
    pub guides: Guides,
}

/// The guides whose commands the lane runs.
pub struct Guides {
    /// `docs/install.md`
    pub install: Page,
    /// `docs/upgrade.md`
    pub upgrade: Page,
    /// `docs/uninstall.md`
    pub uninstall: Page,
}

impl Guides {
    /// Those of the repository.
    pub fn read(repository: &Path) -> Result<Self> {
        let page = |name: &str| Page::read(repository, name);
        Ok(Self { install: page("install.md")?, upgrade: page("upgrade.md")?, uninstall: page("uninstall.md")? })
    }
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
    by_hand::tell(product, report);
}

impl Product<'_> {
    /// The chart of this commit.
    pub fn chart(&self) -> PathBuf {
        self.repository.join("charts/spiderpool")
    }

    /// Runs helm, which may fail. Its own files stay in the cluster.
    pub fn helm(&self, words: &[&str]) -> Result<Output> {
        self.access.outcome(
            &helm_at_home().iter().map(String::as_str).chain(["helm"]).chain(words.iter().copied()).collect::<Vec<_>>(),
        )
    }

    /// Runs a script of a guide, in a folder beside the chart; it ends with the first command that fails.
    pub fn play(&self, script: &str) -> Result<String> {
        let folder = format!(
            "mkdir -p {FOLDER} && cd {FOLDER} && ln -sfn {}/charts charts && eval \"$0\"",
            self.repository.display()
        );
        let begin = helm_at_home();
        let words = begin.iter().map(String::as_str).chain(["sh", "-euc", &folder, script]).collect::<Vec<_>>();
        self.access.outcome(&words)?.expect_success()
    }

    /// Writes a file into the folder of [`Product::play`].
    pub fn write(&self, name: &str, content: &str) -> Result<()> {
        self.play(&format!("printf %s '{content}' > {name}")).map(drop)
    }

    /// The guide's `helm install` with further words, waited for; returns how long it took.
    pub fn install(&self, chart: &Path, further: &[&str]) -> Result<Duration> {
        self.release(self.guides.install.script("Elsewhere", 0)?, chart, &[&VALUES, further].concat())
    }

    /// The guide's `helm upgrade` with further words, waited for; returns how long it took.
    pub fn upgrade(&self, chart: &Path, further: &[&str]) -> Result<Duration> {
        self.release(self.guides.upgrade.script("Upgrade", 0)?, chart, further)
    }

    /// A script whose first command is about the chart: with this one, and with further words for it.
    pub fn release(&self, script: &str, chart: &Path, further: &[&str]) -> Result<Duration> {
        let started = Instant::now();
        ensure!(script.contains(CHART), "the guide's command is not about `{CHART}`: {script}");
        let further: String = further.iter().map(|word| format!(" '{word}'")).collect();
        let mine = format!("{} --namespace {NAMESPACE} --wait --timeout=150s{further}", chart.display());
        self.play(&script.replacen(CHART, &mine, 1)).map_err(|error| error.context(self.pods_of_release()))?;
        Ok(started.elapsed())
    }

    /// The guide's `helm uninstall`, waited for; returns how long it took.
    pub fn uninstall(&self) -> Result<Duration> {
        self.remove(self.guides.uninstall.script("Uninstall", 0)?)
    }

    /// A script that ends the release, waited for.
    pub fn remove(&self, script: &str) -> Result<Duration> {
        let started = Instant::now();
        let first = format!("helm uninstall {RELEASE}");
        ensure!(script.contains(&first), "the guide's command is not `{first}`: {script}");
        self.play(&script.replacen(&first, &format!("{first} --wait --timeout=150s"), 1))
            .map_err(|error| error.context(self.pods_of_release()))?;
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

/// The beginning of a command for which helm keeps its files in memory.
fn helm_at_home() -> Vec<String> {
    let homes = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|home| format!("{home}=/run/helm"));
    std::iter::once("env".to_owned()).chain(homes).collect()
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
