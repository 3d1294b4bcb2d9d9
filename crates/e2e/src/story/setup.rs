//! Attachments, pools, applications: checks 1 and 2.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::world::World;
use serde_json::Value;

use super::{Family, PATIENCE, Stage, Story, V4, V6};
use crate::cluster::until;
use crate::report::Verdict;

/// The product's API path, for tables.
const API: &str = "apis/spiderpool.spidernet.io/v2beta1";

impl Story<'_, World> {
    pub(super) async fn set_up(&mut self, dual_stack: bool) -> Result<()> {
        self.report.chapter("Attachments: one ipvlan network per NIC");
        self.show("kubectl get nodes -o wide", "api/v1/nodes", true).await;
        self.apply("10-multus-configs.yaml").await?;
        self.attachments().await;

        self.report.chapter("Pools: bound to node and NIC");
        self.apply("20-ippools.yaml").await?;
        if dual_stack {
            self.apply("dual-stack/20-ippools-v6.yaml").await?;
        }
        self.report.chapter("Applications: two DaemonSets on different NICs, a ClusterIP");
        self.apply("30-apps.yaml").await?;
        self.apply(if dual_stack { "dual-stack/40-service.yaml" } else { "40-service.yaml" }).await?;
        self.applications(if dual_stack { &[V4, V6] } else { &[V4] }).await
    }

    /// Waits for nothing but the pods; used where a chapter changed them.
    pub(super) async fn apps_are_back(&mut self) -> Result<()> {
        self.cluster.until_ready("app in (test-app-1,test-app-2)", 4, PATIENCE).await?;
        self.refresh_apps().await
    }
}

impl<S: Stage> Story<'_, S> {
    /// What the attachments are checked for.
    pub async fn attachments(&mut self) {
        let outcome = self.chains().await;
        self.report.check("1", "SpiderMultusConfig -> NetworkAttachmentDefinition", outcome);
    }

    /// What the applications are checked for, once their pods run.
    pub async fn applications(&mut self, families: &[Family]) -> Result<()> {
        self.refresh_apps().await?;
        self.show("kubectl get pods -o wide", "api/v1/namespaces/default/pods", true).await;
        for family in families {
            let outcome = self.addresses(*family).await;
            self.report.check(&family.id("2"), &family.title("addresses out of the pool of node and NIC"), outcome);
        }
        self.show("kubectl get spiderippool", &format!("{API}/spiderippools"), false).await;
        self.show("kubectl get sip", &format!("{API}/spiderips"), false).await;
        self.show("kubectl get se -A", &format!("{API}/spiderendpoints"), false).await;
        Ok(())
    }

    /// Both attachments with the plugins and keys that upstream writes.
    async fn chains(&self) -> Result<Verdict> {
        let api = self.cluster.attachments("kube-system");
        let mut seen = BTreeMap::new();
        for name in ["ipvlan-eth0", "ipvlan-eth1"] {
            let object = until(
                Duration::from_secs(30),
                &format!("NetworkAttachmentDefinition kube-system/{name}"),
                async || Ok(api.get_opt(name).await?),
            )
            .await?;
            let config = object.data["spec"]["config"].as_str().context("spec.config is no text")?;
            let config: Value = serde_json::from_str(config).context("spec.config is not JSON")?;
            seen.insert(name, chain(&config));
        }
        let expected = |nic: &str| {
            format!(
                "ipvlan(master={nic} ipam=spiderpool) -> coordinator(mode=underlay tunePodRoutes=true podCIDRType=-) as ipvlan-{nic}"
            )
        };
        let wanted = BTreeMap::from([("ipvlan-eth0", expected("eth0")), ("ipvlan-eth1", expected("eth1"))]);
        let text = |map: &BTreeMap<&str, String>| map.values().cloned().collect::<Vec<_>>().join("; ");
        Ok(Verdict::new(seen == wanted, text(&wanted), text(&seen)))
    }

    /// Every pod's address belongs to the pool of its node and NIC, and each pool shows one in use.
    async fn addresses(&self, family: Family) -> Result<Verdict> {
        let claims = self.cluster.claims().await?;
        let mut wrong = Vec::new();
        let mut pools = Vec::new();
        for pod in &self.apps {
            let subnet = if pod.app == "test-app-1" { "172" } else { "192" };
            let pool = format!("{}-{subnet}{}", pod.node, if family.v4 { "" } else { "-v6" });
            let address = pod.address(family.v4)?;
            match claims.get(&address) {
                Some((of, _)) if *of == pool => {}
                Some((of, _)) => wrong.push(format!("{} has {address} of pool {of}, not of {pool}", pod.name)),
                None => wrong.push(format!("{} has {address} without a SpiderIP", pod.name)),
            }
            let shown = self.world.inside(pod)?.run(&["ip", "addr", "show", "dev", "eth0"])?;
            if !shown.stdout.contains(&format!("{address}/")) {
                wrong.push(format!("{}: `{}` shows {}", pod.name, shown.command, shown.stdout.trim()));
            }
            pools.push(pool);
        }
        let counted = until(Duration::from_secs(20), "the pools to show one address used", async || {
            let mut shown = Vec::new();
            for pool in &pools {
                let (used, total) = self.cluster.usage(pool).await?;
                shown.push((pool.clone(), used, total));
            }
            Ok(shown.iter().all(|(pool, used, total)| (*used, *total) == (1, size(pool))).then_some(shown))
        })
        .await;
        let usage = match counted {
            Ok(shown) => {
                shown.iter().map(|(pool, used, total)| format!("{pool} {used}/{total}")).collect::<Vec<_>>().join(", ")
            }
            Err(error) => {
                wrong.push(format!("{error:#}"));
                String::new()
            }
        };
        let addresses: Vec<String> =
            self.apps.iter().filter_map(|pod| Some(format!("{} {}", pod.name, pod.address(family.v4).ok()?))).collect();
        let seen = if wrong.is_empty() { format!("{}; {usage}", addresses.join(", ")) } else { wrong.join("; ") };
        Ok(Verdict::new(wrong.is_empty(), "4 pods with addresses of pool NODE-SUBNET, 4 pools with one in use", seen))
    }
}

/// How many addresses the scenario gives a pool: five, but `::156` to `::160` are eleven, the digits being hexadecimal.
fn size(pool: &str) -> i64 {
    if pool == "master-192-v6" { 11 } else { 5 }
}

/// The chain of a configuration, with the keys that the check is about.
fn chain(config: &Value) -> String {
    let shown = |plugin: &Value| {
        let text = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let kind = text(&plugin["type"]);
        match kind.as_str() {
            "coordinator" => format!(
                "coordinator(mode={} tunePodRoutes={} podCIDRType={})",
                text(&plugin["mode"]),
                text(&plugin["tunePodRoutes"]),
                text(&plugin["podCIDRType"])
            ),
            _ => format!("{kind}(master={} ipam={})", text(&plugin["master"]), text(&plugin["ipam"]["type"])),
        }
    };
    let plugins: Vec<String> = config["plugins"].as_array().into_iter().flatten().map(shown).collect();
    format!("{} as {}", plugins.join(" -> "), config["name"].as_str().unwrap_or("-"))
}
