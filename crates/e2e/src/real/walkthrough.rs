//! The walk-through of the public-cloud guide on a real Kubernetes whose nodes are machines of the lab's cloud.
//!
//! The commands are the guide's own ([`Guide`]); the checks are those of [`crate::story`], asked by `kubectl exec` in the pods.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::control;
use lab::kubernetes::vpc::{Cloud, NODES};
use lab::kubernetes::{Cluster, Options};
use lab::vpc::config::Config;
use lab::world::Exec;

use super::access::run as run_command;
use super::guide::Guide;
use crate::cluster::AppPod;
use crate::report::{Report, Verdict};
use crate::story::{BALANCERS, Stage, Story, V4};

/// A script of the guide may wait for images to be unpacked and pods to start, on nodes in guests without hardware support.
const LIMIT: Duration = Duration::from_secs(600);
/// The registry in the names of the images that the nodes are given: there is none, so nothing can come from elsewhere.
const REGISTRY: &str = "registry.test";

/// Where and how.
pub struct Walk<'a> {
    /// The cluster's; its network is the VPC.
    pub options: &'a Options,
    /// The repository.
    pub repository: &'a Path,
}

impl Walk<'_> {
    /// Tells the whole story; the result is whether every check passed.
    pub fn run(&self) -> Result<bool> {
        let mut report = Report::new(false);
        report.chapter("1. A real Kubernetes on two machines of a VPC, as kubeadm leaves it");
        if self.options.guests {
            report.say("This kernel has no ipvlan: each node is a guest with a kernel of its own (User Mode Linux).");
        }
        let cluster = Cluster::up(self.options, &mut |line| report.step(line))?;
        // A thread of its own goes into the cluster's network, where the API server is.
        let told = std::thread::scope(|scope| scope.spawn(|| self.tell(&cluster, &mut report)).join());
        let told = told.unwrap_or_else(|_| Err(anyhow::anyhow!("the story panicked")));
        if let Err(error) = told {
            report.check("-", "the story goes to its end", Err(error));
        }
        if !report.is_good() {
            self.explain(&cluster, &mut report);
        }
        report.chapter("The cluster ends");
        drop(cluster);
        report.finish();
        Ok(report.is_good())
    }

    fn tell(&self, cluster: &Cluster, report: &mut Report) -> Result<()> {
        cluster.enter_network()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        runtime.block_on(self.story(cluster, report))
    }

    async fn story(&self, cluster: &Cluster, report: &mut Report) -> Result<()> {
        let client = lab::client::from_kubeconfig(&cluster.kubeconfig()).await?;
        let guide = Guide::read(self.repository)?;
        let mut stage = Kubernetes::of(cluster, &guide)?;
        let place = cluster.place();
        let mut story = Story::begin(&mut stage, client, report, self.repository)?;
        self.play(&place, "kubectl get nodes -o wide", story.report())?;

        story.report().chapter("2. Install");
        let install = self.with_local_images(&guide.install)?;
        let outcome = self.install(&place, &install, story.report());
        story.report().check("W1", "helm install, as the guide has it", outcome);
        let outcome = self.nodes_ready(&place, story.report());
        story.report().check("W2", "the nodes were not ready without a network; now they are", outcome);

        story.report().chapter("3. Networks, pools, applications");
        let outcome = self.play(&place, &guide.apply, story.report()).map(|printed| rolled_out(&printed));
        story.report().check("W3", "kubectl apply, and the DaemonSets roll out", outcome);
        story.attachments().await;
        story.applications(&[V4]).await?;
        self.play(&place, &guide.look, story.report())?;

        story.report().chapter("4. Try it");
        let outcome = self.play(&place, &guide.try_out, story.report()).map(|printed| answered(&printed));
        story.report().check("W4", "the guide's own pings and its curl", outcome);
        story.traffic(V4).await?;

        story.report().chapter(&format!("5. {BALANCERS}"));
        story.balancers().await;
        self.play(&place, &guide.balancers, story.report())?;

        story.report().chapter("6. What the VPC saw");
        story.no_drops(&[V4]);

        story.report().chapter("7. A node whose clock is wrong");
        let what = "an hour ahead: a pod goes and its successor starts";
        if self.options.guests {
            let outcome = self.wrong_clock(cluster);
            story.report().check("W5", what, outcome);
        } else {
            story.report().skip(
                "W5",
                what,
                "nodes on this kernel share the machine's clock; --guests gives them their own",
            );
        }
        Ok(())
    }

    /// Only a node with a kernel of its own has a clock of its own.
    fn wrong_clock(&self, cluster: &Cluster) -> Result<Verdict> {
        let (place, worker) = (cluster.place(), cluster.place_on("worker")?);
        let turn = |hours: i64| worker.run(&["sh", "-c", &format!("date -s @$(($(date +%s) + {}))", hours * 3600)]);
        turn(1)?.expect_success()?;
        let outcome = replaced(&place);
        turn(-1)?.expect_success()?;
        outcome
    }

    /// The guide's command with what only this place needs: where its images are, and that there is none of Multus.
    fn with_local_images(&self, script: &str) -> Result<String> {
        let first = "helm install spiderpool charts/spiderpool --namespace kube-system";
        ensure!(script.contains(first), "the guide does not install by `{first}`");
        let more = format!("--set global.imageRegistryOverride={REGISTRY} --set multus.implementation=multinet");
        Ok(script.replacen(first, &format!("{first} \\\n  {more}"), 1))
    }

    fn install(&self, place: &Exec, script: &str, report: &mut Report) -> Result<Verdict> {
        let started = Instant::now();
        let printed = self.play(place, script, report)?;
        let took = started.elapsed().as_secs();
        let rolled = printed.lines().filter(|line| line.contains("successfully rolled out")).count();
        let images = ask(place, &["kubectl", "-n", "kube-system", "get", "pods", "-o", "jsonpath={..image}"])?;
        let foreign: Vec<&str> =
            images.split_whitespace().filter(|image| !image.starts_with(&format!("{REGISTRY}/"))).collect();
        ensure!(foreign.is_empty(), "global.imageRegistryOverride is not heeded for {}", foreign.join(", "));
        Ok(Verdict::new(
            rolled == 2,
            format!("Deployment and DaemonSet roll out, all images from {REGISTRY}"),
            format!("{rolled} rolled out, ready after {took} s"),
        ))
    }

    fn nodes_ready(&self, place: &Exec, report: &mut Report) -> Result<Verdict> {
        let wait = "kubectl wait nodes --all --for=condition=Ready --timeout=300s";
        let printed = self.play(place, wait, report)?;
        let ready = printed.lines().filter(|line| line.ends_with("condition met")).count();
        Ok(Verdict::new(ready == NODES.len(), format!("{} nodes ready", NODES.len()), format!("{ready} ready")))
    }

    /// Runs a script in the repository's folder and shows it with what it printed.
    fn play(&self, place: &Exec, script: &str, report: &mut Report) -> Result<String> {
        let script = script.trim_end();
        let repository = self.repository.display().to_string();
        let command = place.command(&["sh", "-euc", "cd \"$0\" && eval \"$1\"", &repository, script]);
        let output = run_command(command, None, script, LIMIT)?;
        let shown = script.replace('\n', "\n     ");
        report.shell(&shown, &format!("{}{}", output.stdout, output.stderr));
        output.expect_success()
    }

    /// What a reader wants to see when something failed.
    fn explain(&self, cluster: &Cluster, report: &mut Report) {
        report.chapter("What the cluster says");
        let place = cluster.place();
        let agent = "-l app.kubernetes.io/component=spiderpool-agent";
        for line in [
            "kubectl get pods -A -o wide",
            "kubectl get events -A --sort-by=.lastTimestamp",
            "kubectl -n kube-system logs deployment/spiderpool-controller --tail=30",
            &format!("kubectl -n kube-system logs {agent} --all-containers --prefix --tail=40"),
        ] {
            // Shown, whatever became of it.
            let _ = self.play(&place, line, report);
        }
        report.say(&format!("logs of all processes: {}", cluster.options().log_dir.display()));
    }
}

fn ask(place: &Exec, words: &[&str]) -> Result<String> {
    run_command(place.command(words), None, &words.join(" "), LIMIT)?.expect_success()
}

/// The pod of test-app-1 on worker goes; the next one must have an address of the same pool, and no other may be left.
fn replaced(place: &Exec) -> Result<Verdict> {
    let pod =
        ["kubectl", "get", "pods", "-l", "app=test-app-1", "--field-selector", "spec.nodeName=worker", "-o", "name"];
    let before = ask(place, &pod)?;
    ask(place, &["kubectl", "delete", before.trim(), "--timeout=120s"])?;
    ask(place, &["kubectl", "rollout", "status", "daemonset/test-app-1", "--timeout=240s"])?;
    let after = ask(place, &pod)?;
    let (_, name) = after.trim().split_once('/').context("no pod of test-app-1 on worker")?;
    let columns = "custom-columns=:.spec.pool,:.spec.state,:.spec.address,:.spec.pod.name";
    let claims = ask(place, &["kubectl", "get", "spiderips", "--no-headers", "-o", columns])?;
    let claims = claims.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_worker: Vec<_> = claims.filter(|claim| claim.starts_with(&["worker-172", "Allocated"])).collect();
    Ok(Verdict::new(
        before != after && of_worker.iter().map(|claim| claim.last()).eq([Some(&name)]),
        "a new pod, and one address of worker-172 in use, its own",
        format!("{name}; {}", of_worker.iter().map(|claim| claim.join(" ")).collect::<Vec<_>>().join(", ")),
    ))
}

fn rolled_out(printed: &str) -> Verdict {
    let rolled = printed.lines().filter(|line| line.contains("successfully rolled out")).count();
    Verdict::new(rolled == 2, "2 DaemonSets rolled out", format!("{rolled} rolled out"))
}

/// Three pings without loss, and the application's page.
fn answered(printed: &str) -> Verdict {
    let whole = printed.lines().filter(|line| line.contains(" 0% packet loss")).count();
    let page = printed.lines().any(|line| line.starts_with("name: test-app-1-"));
    let page = if page { "test-app-1's page" } else { "no page of test-app-1" };
    Verdict::new(
        whole == 3 && page.starts_with("test"),
        "3 pings without loss, test-app-1's page",
        format!("{whole} pings without loss, {page}"),
    )
}

/// The cluster as the story's stage.
struct Kubernetes {
    place: Exec,
    nodes: BTreeMap<String, Exec>,
    cloud: Cloud,
    provider: String,
}

impl Kubernetes {
    fn of(cluster: &Cluster, guide: &Guide) -> Result<Self> {
        let nodes = NODES.iter().map(|node| Ok(((*node).to_owned(), cluster.place_on(node)?)));
        Ok(Self {
            place: cluster.place(),
            nodes: nodes.collect::<Result<_>>()?,
            cloud: cluster.cloud()?,
            provider: guide.provider.trim_end().to_owned(),
        })
    }
}

impl Stage for Kubernetes {
    fn inside(&self, pod: &AppPod) -> Result<Exec> {
        Ok(self.place.then(&["kubectl", "--namespace", &pod.namespace, "exec", &pod.name, "--"]))
    }

    fn on_node(&self, node: &str) -> Result<Exec> {
        self.nodes.get(node).cloned().with_context(|| format!("the cluster has no node {node}"))
    }

    fn in_cloud(&self, name: &str) -> Exec {
        self.cloud.place(&self.place, name)
    }

    fn vpc(&self) -> control::Client {
        self.cloud.vpc()
    }

    fn balancer(&self) -> control::Client {
        self.cloud.balancer()
    }

    fn config(&self) -> &Config {
        self.cloud.config()
    }

    fn kubectl(&self) -> Option<Exec> {
        Some(self.place.clone())
    }

    fn provider_script(&self) -> Option<&str> {
        Some(&self.provider)
    }
}
