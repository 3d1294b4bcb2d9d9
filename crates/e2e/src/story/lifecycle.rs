//! What pods leave behind (nothing), and what happens when addresses run out: checks 12 and 13.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::world::{NODES, World};
use serde_json::json;

use super::{PATIENCE, Story};
use crate::cluster::{AppPod, bare_pod, until};
use crate::report::Verdict;

impl Story<'_, World> {
    pub(super) async fn lifecycle(&mut self) -> Result<()> {
        self.report.chapter("A pod goes: nothing stays");
        let outcome = self.leaves_nothing().await;
        self.report.check("12", "pod deleted: address, counts, namespaces, conntrack, API", outcome);
        self.report.chapter("More pods than addresses");
        let outcome = self.exhaustion().await;
        self.report.check("13", "five pods, four addresses", outcome);
        Ok(())
    }

    async fn leaves_nothing(&mut self) -> Result<Verdict> {
        let made = self.cluster.run_pod(bare_pod("passing", "worker", "kube-system/ipvlan-eth1", json!({}))).await?;
        let pod = self.cluster.until_ready("app=passing", 1, PATIENCE).await?.pop().context("no pod")?;
        // Traffic that leaves entries in the node's connection tracking and neighbour tables.
        let service = self
            .cluster
            .services("default")
            .get("test-svc")
            .await?
            .spec
            .and_then(|spec| spec.cluster_ip)
            .unwrap_or_default();
        self.inside(&pod)?.run(&["curl", "-sS", "--max-time", "6", &format!("http://{service}/")])?.expect_success()?;
        let before = self.traces(&pod).await?;
        anyhow::ensure!(before.len() >= 5, "a running pod should leave more traces than {before:?}");
        let record = self.world.sandbox("worker", &made.uid)?;
        self.cluster.delete_pods(&["passing".into()]).await?;
        let left = until(Duration::from_secs(20), "all traces to be gone", async || {
            let left = self.traces(&pod).await?;
            Ok(left.is_empty().then_some(left))
        })
        .await;
        let mut left = match left {
            Ok(left) => left,
            Err(_) => self.traces(&pod).await?,
        };
        if let Some(netns) = record.netns.filter(|netns| {
            self.world.kept("worker", "/run/netns").join(netns.file_name().unwrap_or_default()).exists()
        }) {
            left.push(format!("namespace {}", netns.display()));
        }
        let seen =
            if left.is_empty() { format!("gone: {}", before.join(", ")) } else { format!("left: {}", left.join(", ")) };
        Ok(Verdict::new(left.is_empty(), "nothing of the pod is left", seen))
    }

    /// Everything that names a pod or its addresses, on its node and in the API.
    async fn traces(&self, pod: &AppPod) -> Result<Vec<String>> {
        let mut traces = Vec::new();
        let node = self.world.on_node(&pod.node)?;
        let claims = self.cluster.claims().await?;
        for address in &pod.addresses {
            let text = address.to_string();
            if let Some((pool, _)) = claims.get(address) {
                traces.push(format!("SpiderIP {text} of {pool}"));
            }
            let family = if address.is_ipv4() { "-4" } else { "-6" };
            let routes = node.run(&["ip", family, "route", "show", "table", "all"])?.stdout;
            traces.extend(
                routes.lines().filter(|line| names(line, address)).map(|line| format!("route \"{}\"", line.trim())),
            );
            let neighbours = node.run(&["ip", family, "neigh", "show"])?.stdout;
            traces.extend(
                neighbours
                    .lines()
                    .filter(|line| line.contains("PERMANENT") && names(line, address))
                    .map(|line| format!("neighbour \"{}\"", line.trim())),
            );
            let flows = node.run(&["conntrack", "-L", "-f", if address.is_ipv4() { "ipv4" } else { "ipv6" }])?.stdout;
            let count = flows.lines().filter(|line| line.split([' ', '=']).any(|word| word == text)).count();
            if count > 0 {
                traces.push(format!("{count} conntrack entries of {text}"));
            }
        }
        let endpoint = self.cluster.product("SpiderEndpoint", Some(&pod.namespace)).get_opt(&pod.name).await?;
        traces.extend(endpoint.map(|_| format!("SpiderEndpoint {}", pod.name)));
        let object = self.cluster.pods(&pod.namespace).get_opt(&pod.name).await?;
        traces.extend(object.map(|_| format!("Pod {}", pod.name)));
        traces.extend(
            self.world.sandbox(&pod.node, &pod.uid).ok().map(|record| format!("sandbox {}", &record.sandbox[..11])),
        );
        if let Some(pool) = self.pool_of(pod)? {
            let (used, _) = self.cluster.usage(&pool).await?;
            if used != 1 {
                traces.push(format!("pool {pool} counts {used} used"));
            }
        }
        Ok(traces)
    }

    /// The pool of the first address's subnet on the pod's node.
    fn pool_of(&self, pod: &AppPod) -> Result<Option<String>> {
        let Some(address) = pod.addresses.iter().find(|address| address.is_ipv4()) else { return Ok(None) };
        let subnet = if address.to_string().starts_with("172.") { "172" } else { "192" };
        Ok(NODES.contains(&pod.node.as_str()).then(|| format!("{}-{subnet}", pod.node)))
    }

    async fn exhaustion(&mut self) -> Result<Verdict> {
        let names: Vec<String> = (1..=5).map(|number| format!("crowd-{number}")).collect();
        for name in &names {
            let mut pod = bare_pod(name, "worker", "kube-system/ipvlan-eth0", json!({}));
            pod["metadata"]["labels"] = json!({"crowd": "true"});
            self.cluster.run_pod(pod).await?;
        }
        let outcome = self.four_of_five().await;
        self.cluster.delete_pods(&names).await?;
        outcome
    }

    async fn four_of_five(&mut self) -> Result<Verdict> {
        let waiting = until(PATIENCE, "four pods to run and the fifth to have an event", async || {
            let pods = self.cluster.pods_with("crowd=true").await?;
            let (ready, others): (Vec<AppPod>, Vec<AppPod>) = pods.into_iter().partition(|pod| pod.ready);
            let [fifth] = others.as_slice() else { return Ok(None) };
            let events = self.cluster.events_of(&fifth.uid).await?;
            let refusal = events
                .into_iter()
                .rev()
                .find(|(reason, _)| reason == "FailedCreatePodSandBox")
                .map(|(_, message)| message);
            Ok(refusal.filter(|_| ready.len() == 4).map(|message| (ready, fifth.clone(), message)))
        });
        let (ready, fifth, message) = waiting.await?;
        self.report.shell(&format!("kubectl describe pod {} # last event", fifth.name), &message);
        // An agent looks at pools that may concern its node: those bound to it and those bound to no single one.
        // With two families either may be the one that the message is about.
        let missing_of = |suffix: &str| -> Vec<String> {
            let reasons = [
                format!("pool worker-172{suffix}: all its 5 IP addresses are in use"),
                format!("pool worker-192{suffix}: unmatched multus name: NIC eth0"),
            ];
            reasons.into_iter().filter(|reason| !message.contains(reason)).collect()
        };
        let missing = [missing_of(""), missing_of("-v6")].into_iter().min_by_key(Vec::len).unwrap_or_default();
        let victim = &ready[0];
        self.cluster.delete_pods(std::slice::from_ref(&victim.name)).await?;
        let started = until(PATIENCE, &format!("{} to start", fifth.name), async || {
            Ok(self.cluster.pods_with("crowd=true").await?.into_iter().find(|pod| pod.name == fifth.name && pod.ready))
        })
        .await?;
        let address: IpAddr = started.address(true)?;
        let seen = if missing.is_empty() {
            format!(
                "4 run; {} waited, its event says why each pool of the node does not serve; after {} went it got {address}",
                fifth.name, victim.name
            )
        } else {
            format!("the event does not say \"{}\": {message}", missing.join("\", \""))
        };
        Ok(Verdict::new(
            missing.is_empty(),
            "four run, the fifth's event says why each pool does not serve, and it starts when one goes",
            seen,
        ))
    }
}

/// Whether a line of `ip` names exactly this address.
fn names(line: &str, address: &IpAddr) -> bool {
    let text = address.to_string();
    line.split_whitespace().any(|word| word.split('/').next() == Some(&text))
}
