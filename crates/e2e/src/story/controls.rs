//! Controls: what must fail, fails, for the reason that is named, and passes once the reason is gone.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{Patch, PatchParams};
use lab::vpc::api::Registration;
use lab::vpc::counters::Reason;
use lab::vpc::fabric::NicView;
use lab::world::{Exec, Output, World};
use serde_json::{Value, json};

use super::probes::{self, last_line};
use super::{PATIENCE, Story};
use crate::cluster::{AppPod, bare_pod, until};
use crate::report::Verdict;

impl Story<'_, World> {
    pub(super) async fn controls(&mut self) -> Result<()> {
        self.report.chapter("Controls: what must fail, and why");
        let outcome = self.macvlan().await;
        self.report.check("C1", "macvlan instead of ipvlan fails as it must", outcome);
        let outcome = self.foreign_address().await;
        self.report.check("C2", "an address that the NIC does not own fails as it must", outcome);
        let outcome = self.without_coordinator().await;
        self.report.check("C3", "without coordinator pod -> own node fails as it must", outcome);
        let outcome = self.without_marks().await;
        self.report.check("C4", "without reply marks the L4 balancer fails as it must", outcome);
        self.apps_are_back().await
    }

    fn ping_once(&self, place: &Exec, to: IpAddr) -> Result<Output> {
        place.run(&["ping", "-n", "-c", "2", "-i", "0.3", "-W", "1", &to.to_string()])
    }

    /// A ping that answers within a while: right after a pod's start the way may not be ready.
    async fn ping_works(&self, place: &Exec, to: IpAddr) -> Result<Output> {
        until(Duration::from_secs(10), &format!("{to} to answer"), async || {
            Ok(Some(self.ping_once(place, to)?).filter(Output::succeeded))
        })
        .await
    }

    /// worker's second NIC is cleared of ipvlan pods first: a parent cannot have both kinds of children.
    async fn macvlan(&mut self) -> Result<Verdict> {
        self.pin_second_app(Some("master")).await?;
        // The changed template has made a new pod on master.
        let to = self.cluster.until_ready("app=test-app-2", 1, PATIENCE).await?[0].address(true)?;
        let network = json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderMultusConfig",
            "metadata": {"name": "macvlan-eth1", "namespace": "kube-system"},
            "spec": {"cniType": "macvlan", "macvlan": {"master": ["eth1"]}, "enableCoordinator": true, "coordinator": {"mode": "underlay", "tunePodRoutes": true}}
        });
        self.cluster.apply_value(network).await?;
        self.admit_network("worker-192", &["kube-system/ipvlan-eth1", "kube-system/macvlan-eth1"]).await?;
        let verdict = self.compare_macvlan(to).await;
        self.cluster.delete_pods(&["control-macvlan".into(), "control-ipvlan".into()]).await?;
        self.admit_network("worker-192", &["kube-system/ipvlan-eth1"]).await?;
        self.cluster.delete_product("SpiderMultusConfig", Some("kube-system"), "macvlan-eth1").await?;
        self.pin_second_app(None).await?;
        self.apps_are_back().await?;
        verdict
    }

    async fn compare_macvlan(&mut self, to: IpAddr) -> Result<Verdict> {
        let pod = self.started("control-macvlan", "kube-system/macvlan-eth1", json!({})).await?;
        let before = self.dropped(Reason::UnknownSourceMac)?;
        let output = self.ping_once(&self.inside(&pod)?, to)?;
        let after = self.dropped(Reason::UnknownSourceMac)?;
        self.cluster.delete_pods(&["control-macvlan".into()]).await?;
        let pod = self.started("control-ipvlan", "kube-system/ipvlan-eth1", json!({})).await?;
        let cured = self.ping_works(&self.inside(&pod)?, to).await;
        Ok(judged("unknown_source_mac", &output, (before, after), "ipvlan on the same NIC", cured))
    }

    async fn foreign_address(&mut self) -> Result<Verdict> {
        let pool = json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": "foreign-192"},
            "spec": {"subnet": "192.168.0.0/24", "ips": ["192.168.0.200"], "gateway": "192.168.0.253", "nodeName": ["worker"], "multusName": ["kube-system/ipvlan-eth1"]}
        });
        self.cluster.apply_value(pool).await?;
        let verdict = self.compare_foreign().await;
        self.cluster.delete_pods(&["control-foreign".into()]).await?;
        self.cluster.delete_product("SpiderIPPool", None, "foreign-192").await?;
        verdict
    }

    async fn compare_foreign(&mut self) -> Result<Verdict> {
        let to = self.app("test-app-2", "master")?.address(true)?;
        let annotation = json!({"ipam.spidernet.io/ippool": "{\"ipv4\":[\"foreign-192\"]}"});
        let pod = self.started("control-foreign", "kube-system/ipvlan-eth1", annotation).await?;
        let before = self.dropped(Reason::UnknownSourceAddress)?;
        let output = self.ping_once(&self.inside(&pod)?, to)?;
        let after = self.dropped(Reason::UnknownSourceAddress)?;
        let nic = self.nic("worker", 1)?;
        let own = Registration { addresses: vec!["192.168.0.200".parse()?] };
        let _: NicView = self.world.vpc().post(&format!("/nics/{nic}/addresses"), &own)?;
        let cured = self.ping_works(&self.inside(&pod)?, to).await;
        let _: NicView = self.world.vpc().delete(&format!("/nics/{nic}/addresses/192.168.0.200"))?;
        Ok(judged("unknown_source_address", &output, (before, after), "the address assigned to the NIC", cured))
    }

    /// The pod asks the VPC for its node's address; that is an address of the asking NIC, so nobody answers.
    async fn without_coordinator(&mut self) -> Result<Verdict> {
        let network = json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderMultusConfig",
            "metadata": {"name": "ipvlan-plain", "namespace": "kube-system"},
            "spec": {"cniType": "ipvlan", "ipvlan": {"master": ["eth0"]}, "enableCoordinator": false}
        });
        self.cluster.apply_value(network).await?;
        self.admit_network("worker-172", &["kube-system/ipvlan-eth0", "kube-system/ipvlan-plain"]).await?;
        let verdict = self.compare_plain().await;
        self.cluster.delete_pods(&["control-plain".into()]).await?;
        self.admit_network("worker-172", &["kube-system/ipvlan-eth0"]).await?;
        self.cluster.delete_product("SpiderMultusConfig", Some("kube-system"), "ipvlan-plain").await?;
        verdict
    }

    async fn compare_plain(&mut self) -> Result<Verdict> {
        let to = self.node_address("worker", true)?;
        let mut pod = bare_pod("control-plain", "worker", "kube-system/ipvlan-plain", json!({}));
        // Its node cannot reach it, so a probe from there would never succeed.
        pod["spec"]["containers"][0].as_object_mut().context("built above")?.remove("readinessProbe");
        self.cluster.run_pod(pod).await?;
        let pod = self.cluster.until_ready("app=control-plain", 1, PATIENCE).await?.pop().context("no pod")?;
        let unanswered =
            |report: &lab::vpc::counters::Report| report.ports.get("worker/eth0").map_or(0, |port| port.unanswered);
        let before = unanswered(&self.counters()?);
        let output = self.ping_once(&self.inside(&pod)?, to)?;
        let after = unanswered(&self.counters()?);
        let with = self.app("test-app-1", "worker")?.clone();
        let cured = self.ping_works(&self.inside(&with)?, to).await;
        Ok(judged(
            "questions of worker/eth0 for its own address, left unanswered",
            &output,
            (before, after),
            "the coordinator in the chain",
            cured,
        ))
    }

    /// Without marks the reply leaves by the pod's own NIC and reaches the NAT gateway, which knows no such flow.
    async fn without_marks(&mut self) -> Result<Verdict> {
        let pods: Vec<AppPod> = self.apps.iter().filter(|pod| pod.app == "test-app-2").cloned().collect();
        let mut deleted = Vec::new();
        for pod in &pods {
            let place = self.inside(pod)?;
            let tables = place.run(&["nft", "list", "tables"])?.expect_success()?;
            for table in tables.lines().filter_map(|line| line.strip_prefix("table ")) {
                let words: Vec<&str> = ["nft", "delete", "table"].into_iter().chain(table.split_whitespace()).collect();
                place.run(&words)?.expect_success()?;
                deleted.push(table.to_owned());
            }
        }
        ensure!(!deleted.is_empty(), "the pods of test-app-2 have no nft table to delete");
        let view: Vec<lab::balancer::model::View> = self.world.balancer().get("/services")?;
        let address = view
            .iter()
            .find(|view| view.name == "default/tcp-service")
            .context("the balancer has no tcp-service")?
            .address;
        let to_nat = |report: &lab::vpc::counters::Report| report.ports.get("nat").map_or(0, |port| port.received);
        let before = to_nat(&self.counters()?);
        let output = self.world.in_cloud("client").run(&[
            "curl",
            "-sS",
            "--max-time",
            "4",
            &probes::url(IpAddr::V4(address), 999),
        ])?;
        let after = to_nat(&self.counters()?);
        let names: Vec<String> = pods.iter().map(|pod| pod.name.clone()).collect();
        self.cluster.delete_pods(&names).await?;
        self.apps_are_back().await?;
        // The balancer may still count nodes as healthy for the pods that were there.
        let mut last = self.layer_four().await;
        for _ in 0..5 {
            if last.as_ref().is_ok_and(|verdict| verdict.passed) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            last = self.layer_four().await;
        }
        let cured = last.and_then(|verdict| {
            ensure!(verdict.passed, "{}", verdict.seen);
            Ok(verdict.seen)
        });
        let dead = !output.succeeded();
        let strayed = after > before;
        let seen = format!(
            "deleted nft {}; `{}`: {}; frames that strayed to the NAT gateway {before} -> {after}; new pods with marks: {}",
            deleted.join(", "),
            output.command,
            last_line(&output),
            cured.as_ref().map_or_else(|error| format!("{error:#}"), Clone::clone)
        );
        Ok(Verdict::new(
            dead && strayed && cured.is_ok(),
            "no answer while replies leave by the pod's NIC, answered again with marks",
            seen,
        ))
    }

    async fn started(&self, name: &str, network: &str, annotations: Value) -> Result<AppPod> {
        self.cluster.run_pod(bare_pod(name, "worker", network, annotations)).await?;
        self.cluster.until_ready(&format!("app={name}"), 1, PATIENCE).await?.pop().context("no pod")
    }

    fn dropped(&self, reason: Reason) -> Result<u64> {
        Ok(self.counters()?.dropped(reason))
    }

    async fn admit_network(&self, pool: &str, networks: &[&str]) -> Result<()> {
        self.cluster.patch_product("SpiderIPPool", None, pool, json!({"spec": {"multusName": networks}})).await
    }

    /// Keeps test-app-2 on one node, or lets it on all again, and waits until its pods are those of the changed template.
    async fn pin_second_app(&self, node: Option<&str>) -> Result<()> {
        let api: kube::Api<DaemonSet> = kube::Api::namespaced(self.cluster.client.clone(), "default");
        let patch = json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": node}}}}});
        let patched = api.patch("test-app-2", &PatchParams::default(), &Patch::Merge(patch)).await;
        let generation = patched.context("cannot patch DaemonSet test-app-2")?.metadata.generation;
        until(PATIENCE, "DaemonSet test-app-2 to be rolled out", async || {
            let status = api.get("test-app-2").await?.status.unwrap_or_default();
            let wanted = status.desired_number_scheduled;
            let done = status.observed_generation == generation
                && status.updated_number_scheduled == Some(wanted)
                && (status.current_number_scheduled, status.number_ready) == (wanted, wanted);
            Ok(done.then_some(()))
        })
        .await
    }
}

/// A control's verdict: it failed, the counter of the cause moved, and without the cause it works.
fn judged(cause: &str, output: &Output, (before, after): (u64, u64), cure: &str, cured: Result<Output>) -> Verdict {
    let failed = !output.succeeded();
    let cured_shown = match &cured {
        Ok(output) => last_line(output),
        Err(error) => format!("{error:#}"),
    };
    let seen =
        format!("`{}`: {}; {cause} {before} -> {after}; with {cure}: {cured_shown}", output.command, last_line(output));
    Verdict::new(
        failed && after > before && cured.is_ok(),
        format!("no answer because of {cause}, answered with {cure}"),
        seen,
    )
}
