//! The walk-through itself: what is applied, shown and checked, in order.
//!
//! Chapters that need no more than a [`Stage`] are told of a real Kubernetes as well ([`crate::real`]).

mod balancer;
mod controls;
mod faults;
mod lifecycle;
mod probes;
mod setup;
mod traffic;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use lab::control;
use lab::vpc::config::Config;
use lab::vpc::counters;
use lab::world::{Exec, Output, World};
use serde_json::json;

use crate::cluster::{AppPod, Cluster};
use crate::report::{Report, Verdict};

/// How long pods may take to be ready.
const PATIENCE: Duration = Duration::from_secs(90);

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    v4: bool,
}

/// The chapter of the balancers.
pub const BALANCERS: &str = "Load balancers: provider ids from the metadata service, L4 and L7";
/// IPv4.
pub const V4: Family = Family { v4: true };
/// IPv6.
const V6: Family = Family { v4: false };

impl Family {
    fn name(self) -> &'static str {
        if self.v4 { "IPv4" } else { "IPv6" }
    }

    /// A check's number: plain for IPv4, `-v6` for IPv6.
    fn id(self, number: &str) -> String {
        if self.v4 { number.to_owned() } else { format!("{number}-v6") }
    }

    fn title(self, text: &str) -> String {
        if self.v4 { text.to_owned() } else { format!("{text}, IPv6") }
    }
}

/// Where the story takes place: what it reaches beside the API.
pub trait Stage {
    /// A pod's inside.
    fn inside(&self, pod: &AppPod) -> Result<Exec>;
    /// A node.
    fn on_node(&self, node: &str) -> Result<Exec>;
    /// One of the cloud's namespaces.
    fn in_cloud(&self, name: &str) -> Exec;
    /// The switch's control API.
    fn vpc(&self) -> control::Client;
    /// The balancer's control API.
    fn balancer(&self) -> control::Client;
    /// The cloud as it was set up.
    fn config(&self) -> &Config;
    /// Where `kubectl` runs, if what it prints is to be shown; without it the server's tables are.
    fn kubectl(&self) -> Option<Exec>;
    /// The guide's script that tells the API a node's provider id, to be run on the node; without it the story does so itself.
    fn provider_script(&self) -> Option<&str>;
}

impl Stage for World {
    fn inside(&self, pod: &AppPod) -> Result<Exec> {
        self.in_pod(&pod.node, &pod.uid)
    }

    fn on_node(&self, node: &str) -> Result<Exec> {
        self.on_node(node)
    }

    fn in_cloud(&self, name: &str) -> Exec {
        self.in_cloud(name)
    }

    fn vpc(&self) -> control::Client {
        self.vpc()
    }

    fn balancer(&self) -> control::Client {
        self.balancer()
    }

    fn config(&self) -> &Config {
        self.config()
    }

    fn kubectl(&self) -> Option<Exec> {
        None
    }

    fn provider_script(&self) -> Option<&str> {
        None
    }
}

/// Everything that the chapters share.
pub struct Story<'a, S = World> {
    world: &'a mut S,
    cluster: Cluster,
    report: &'a mut Report,
    scenario: PathBuf,
    apps: Vec<AppPod>,
    before: counters::Report,
}

/// Tells the whole story. An error is what ends it early; failed checks do not.
pub async fn tell(world: &mut World, report: &mut Report, repository: &Path, dual_stack: bool) -> Result<()> {
    let client = world.client().await?;
    let mut story = Story::begin(world, client, report, repository)?;
    story.set_up(dual_stack).await?;
    let families: &[Family] = if dual_stack { &[V4, V6] } else { &[V4] };
    for family in families {
        story.traffic(*family).await?;
    }
    if dual_stack {
        story.ipv6_balancer().await?;
        story.names(families).await?;
        story.no_drops(families);
        story.lifecycle().await?;
        return story.faults(families).await;
    }
    story.report.chapter(BALANCERS);
    story.apply("50-loadbalancers.yaml").await?;
    story.balancers().await;
    story.names(families).await?;
    story.no_drops(families);
    story.controls().await?;
    story.lifecycle().await?;
    story.faults(families).await
}

impl<'a, S: Stage> Story<'a, S> {
    /// Nothing is applied yet, or somebody else did.
    pub fn begin(world: &'a mut S, client: Client, report: &'a mut Report, repository: &Path) -> Result<Self> {
        let before = world.vpc().get("/counters").context("the VPC does not tell its counters")?;
        let scenario = repository.join("scenarios/alicloud");
        Ok(Self { world, cluster: Cluster { client }, report, scenario, apps: Vec::new(), before })
    }

    /// Where it is written down.
    pub fn report(&mut self) -> &mut Report {
        self.report
    }

    /// The stage.
    pub fn stage(&self) -> &S {
        self.world
    }

    /// A file of the scenario.
    fn file(&self, name: &str) -> PathBuf {
        self.scenario.join(name)
    }

    /// Applies a file of the scenario and shows it.
    async fn apply(&mut self, name: &str) -> Result<()> {
        let lines = self.cluster.apply_file(&self.file(name)).await?;
        self.report.shell(&format!("kubectl apply -f scenarios/alicloud/{name}"), &lines);
        Ok(())
    }

    /// Shows what `kubectl get` prints.
    async fn show(&mut self, command: &str, path: &str, wide: bool) {
        let words: Vec<&str> = command.split(' ').collect();
        let output = match self.world.kubectl() {
            Some(place) => place.run(&words).and_then(Output::expect_success),
            None => self.cluster.table(path, wide).await,
        };
        let output = output.unwrap_or_else(|error| format!("{error:#}"));
        self.report.shell(command, &output);
    }

    fn counters(&self) -> Result<counters::Report> {
        self.world.vpc().get("/counters").context("the VPC does not tell its counters")
    }

    /// The apps' pods again, after something changed them.
    pub async fn refresh_apps(&mut self) -> Result<()> {
        self.apps = self.cluster.until_ready("app in (test-app-1,test-app-2)", 4, PATIENCE).await?;
        Ok(())
    }

    /// The pod of an app on a node.
    fn app(&self, app: &str, node: &str) -> Result<&AppPod> {
        self.apps
            .iter()
            .find(|pod| pod.app == app && pod.node == node)
            .with_context(|| format!("no pod of {app} on {node}"))
    }

    /// Check 11, and the counters it is about.
    pub fn no_drops(&mut self, families: &[Family]) {
        let outcome = self.counters().map(|now| {
            let dropped = now.unicast_drops - self.before.unicast_drops;
            let samples: Vec<String> = now
                .samples
                .values()
                .flatten()
                .filter(|sample| sample.class == counters::Class::Unicast)
                .map(|sample| sample.frame.clone())
                .collect();
            let reasons: Vec<String> = now
                .drops
                .iter()
                .map(|(reason, dropped)| {
                    format!(
                        "{}: unicast {}, questions {}, group {}",
                        json!(reason).as_str().unwrap_or_default(),
                        dropped.unicast,
                        dropped.question,
                        dropped.group
                    )
                })
                .collect();
            self.report.shell(
                "curl --unix-socket vpc.sock http://vpc/counters",
                &format!(
                    "delivered {}, answered {}\ndrops: {}",
                    now.delivered,
                    now.answered,
                    if reasons.is_empty() { "none".into() } else { reasons.join("; ") }
                ),
            );
            let seen = if dropped == 0 {
                format!("0 dropped, {} delivered", now.delivered)
            } else {
                format!("{dropped} dropped: {}", samples.join("; "))
            };
            Verdict::new(dropped == 0, "no unicast frame dropped by the VPC so far", seen)
        });
        let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
        self.report.check("11", &format!("VPC drops ({})", names.join(" and ")), outcome);
    }
}
