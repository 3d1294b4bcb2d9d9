//! Processes die in the middle of it: checks 14 and 15.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::vpc::api::Registration;
use lab::vpc::fabric::NicView;
use lab::world::{Signal, World};
use serde_json::json;

use super::{Family, PATIENCE, Story};
use crate::cluster::{bare_pod, until};
use crate::report::Verdict;

/// How many pods start at once.
const BURST: usize = 20;

/// A pool with room for them.
struct BurstPool {
    name: &'static str,
    addresses: &'static str,
    file: &'static str,
}

/// Of IPv4 and IPv6.
const BURST_POOLS: [BurstPool; 2] = [
    BurstPool { name: "burst-172", addresses: "172.31.200.1-172.31.200.32", file: "extra/burst-pool.yaml" },
    BurstPool {
        name: "burst-172-v6",
        addresses: "fd00:172:31::2001-fd00:172:31::2020",
        file: "extra/burst-pool-v6.yaml",
    },
];

impl Story<'_, World> {
    pub(super) async fn faults(&mut self, families: &[Family]) -> Result<()> {
        self.report.chapter("An agent is killed in the middle of many starts");
        let outcome = self.killed_agent(families).await;
        self.report.check("14", "kill -9 of an agent amid 20 ADDs", outcome);
        self.report.chapter("The API server is killed");
        let outcome = self.killed_server(families).await;
        self.report.check("15", "kill -9 of the API server", outcome);
        Ok(())
    }

    async fn killed_agent(&mut self, families: &[Family]) -> Result<Verdict> {
        let nic = self.nic("worker", 0)?;
        let pools: Vec<&BurstPool> = families.iter().map(|family| &BURST_POOLS[usize::from(!family.v4)]).collect();
        for pool in &pools {
            let registration = Registration { addresses: vec![pool.addresses.parse()?] };
            let _: NicView = self.world.vpc().post(&format!("/nics/{nic}/addresses"), &registration)?;
            self.report.say(&format!("VPC: {} assigned to {nic} (worker's eth0)", pool.addresses));
            self.apply(pool.file).await?;
        }
        let names: Vec<String> = (1..=BURST).map(|number| format!("burst-{number}")).collect();
        let outcome = self.survive_burst(&names, families).await;
        self.cluster.delete_pods(&names).await?;
        for pool in pools {
            self.cluster.delete_product("SpiderIPPool", None, pool.name).await?;
        }
        outcome
    }

    /// Asks for the pods, and kills the agent as soon as some of them have addresses: on a fast machine that is before the last is asked for.
    async fn killed_amid(&mut self, names: &[String]) -> Result<usize> {
        let mut amid = None;
        for name in names {
            let mut pod = bare_pod(name, "worker", "kube-system/ipvlan-eth0", json!({}));
            pod["metadata"]["labels"] = json!({"burst": "true"});
            self.cluster.run_pod(pod).await?;
            if amid.is_none() {
                amid = self.killed_if_some_claimed().await?;
            }
        }
        match amid {
            Some(claimed) => Ok(claimed),
            None => {
                until(PATIENCE, "some of the addresses to be claimed", async || self.killed_if_some_claimed().await)
                    .await
            }
        }
    }

    async fn killed_if_some_claimed(&mut self) -> Result<Option<usize>> {
        // Each of the four applications has one, or one of each family.
        let claims = self.cluster.claims().await?;
        let claimed = claims.keys().filter(|address| address.is_ipv4()).count().saturating_sub(4);
        if claimed < 3 {
            return Ok(None);
        }
        self.world.signal("agent-worker", Signal::KILL)?;
        Ok(Some(claimed))
    }

    async fn survive_burst(&mut self, names: &[String], families: &[Family]) -> Result<Verdict> {
        let claimed = self.killed_amid(names).await?;
        ensure!(claimed < BURST, "all {BURST} pods had addresses before the agent could be killed");
        self.world.restart("agent-worker")?;
        self.report.shell(
            "kill -9 $(pidof spiderpool-agent) # on worker, then started again",
            &format!("{claimed} of {BURST} IPv4 addresses were claimed"),
        );
        let pods = self.cluster.until_ready("burst=true", BURST, Duration::from_secs(150)).await?;
        let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        // Claims of ADDs that the crash cut off are given back by the agent's clean-up.
        let equal = until(Duration::from_secs(30), "SpiderIPs to equal what ip shows", async || {
            let (claimed, shown) = (self.claimed_on("worker").await?, self.shown_on("worker")?);
            Ok((claimed == shown).then_some(shown.len()))
        })
        .await;
        let wanted = BURST * families.len();
        let seen = match &equal {
            Ok(count) => format!(
                "{} pods, {} addresses; {count} SpiderIPs of worker = {count} addresses that ip shows",
                pods.len(),
                addresses.len()
            ),
            Err(_) => {
                let (claimed, shown) = (self.claimed_on("worker").await?, self.shown_on("worker")?);
                let only = |one: &BTreeSet<IpAddr>, other: &BTreeSet<IpAddr>| {
                    one.difference(other).map(ToString::to_string).collect::<Vec<_>>().join(" ")
                };
                format!("only in SpiderIPs: [{}]; only in ip: [{}]", only(&claimed, &shown), only(&shown, &claimed))
            }
        };
        Ok(Verdict::new(
            equal.is_ok() && addresses.len() == wanted,
            format!("{BURST} pods with {wanted} addresses, SpiderIPs = ip"),
            seen,
        ))
    }

    async fn claimed_on(&self, node: &str) -> Result<BTreeSet<IpAddr>> {
        let claims = self.cluster.claims().await?;
        Ok(claims
            .into_iter()
            .filter(|(_, (pool, spec))| spec["pod"]["node"] == node || (pool.starts_with("burst") && node == "worker"))
            .map(|(address, _)| address)
            .collect())
    }

    /// The addresses that `ip` shows on the underlay NIC of every pod of a node.
    fn shown_on(&self, node: &str) -> Result<BTreeSet<IpAddr>> {
        let mut shown = BTreeSet::new();
        for record in self.world.sandboxes(node)?.into_iter().filter(|record| record.netns.is_some()) {
            let output = self.world.in_pod(node, &record.uid)?.run(&["ip", "-br", "addr", "show", "dev", "eth0"])?;
            let addresses =
                output.stdout.split_whitespace().filter_map(|word| word.split('/').next()?.parse::<IpAddr>().ok());
            // The kernel gives every NIC a link-local address.
            shown.extend(addresses.filter(|address| match address {
                IpAddr::V4(_) => true,
                IpAddr::V6(address) => !address.is_unicast_link_local(),
            }));
        }
        Ok(shown)
    }

    /// The id of a machine's NIC.
    pub(super) fn nic(&self, node: &str, number: usize) -> Result<String> {
        Ok(self.world.config().instance(node).with_context(|| format!("the cloud has no machine {node}"))?.nics[number]
            .id
            .clone())
    }

    async fn killed_server(&mut self, families: &[Family]) -> Result<Verdict> {
        let (from, to) = (self.app("test-app-1", "worker")?, self.app("test-app-1", "master")?);
        let mut traffic = Vec::new();
        for family in families {
            let address = to.address(family.v4)?.to_string();
            let mut ping = self.inside(from)?.command(&["ping", "-n", "-i", "0.2", "-w", "6", &address]);
            traffic.push(ping.stdout(std::process::Stdio::piped()).spawn().context("cannot start ping")?);
        }
        self.world.signal("apiserver", Signal::KILL)?;
        self.report.shell("kill -9 $(pidof spiderpool-apiserver)", "");
        ensure!(
            self.cluster.nodes().list(&Default::default()).await.is_err(),
            "the API server answers though it was killed"
        );
        let mut losses = Vec::new();
        for ping in traffic {
            let output = ping.wait_with_output().context("cannot wait for ping")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            losses.push(text.lines().find(|line| line.contains("packet loss")).unwrap_or("no statistics").to_owned());
        }
        let kept = losses.iter().all(|losses| losses.contains(" 0% packet loss"));
        let losses = losses.join("; ");
        self.world.restart("apiserver")?;
        self.report.say("API server started again");
        until(PATIENCE, "the API server to answer", async || {
            Ok(self.cluster.nodes().list(&Default::default()).await.ok())
        })
        .await?;
        self.cluster.run_pod(bare_pod("afterwards", "worker", "kube-system/ipvlan-eth0", json!({}))).await?;
        let started = self.cluster.until_ready("app=afterwards", 1, PATIENCE).await;
        let seen = match &started {
            Ok(pods) => format!("ping meanwhile: {losses}; afterwards a new pod has {}", pods[0].address(true)?),
            Err(error) => format!("ping meanwhile: {losses}; no new pod: {error:#}"),
        };
        self.cluster.delete_pods(&["afterwards".into()]).await?;
        Ok(Verdict::new(
            kept && started.is_ok(),
            "no packet lost without the API server, new pods once it is back",
            seen,
        ))
    }
}
