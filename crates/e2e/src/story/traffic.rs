//! Pods and nodes talk to each other and to the world: checks 3 to 8.

use std::net::IpAddr;

use anyhow::{Context, Result};
use kube::ResourceExt;
use lab::gateway;
use lab::world::{Exec, NODES};

use super::probes::{self, Found, Probe, all_answered, curl, field, ping};
use super::{Family, Stage, Story};
use crate::cluster::AppPod;
use crate::report::Verdict;

impl<S: Stage> Story<'_, S> {
    /// The chapter.
    pub async fn traffic(&mut self, family: Family) -> Result<()> {
        self.report.chapter(&format!("Traffic over {}", family.name()));
        let outcome = self.pod_to_own_node(family);
        self.report.check(&family.id("3"), &family.title("pod -> own node"), outcome);
        let outcome = self.node_to_pod(family);
        self.report.check(&family.id("4"), &family.title("node -> pod (as its kubelet probes)"), outcome);
        let outcome = self.same_subnet(family);
        self.report.check(&family.id("5"), &family.title("pod -> pod on the other node, same subnet"), outcome);
        let outcome = self.other_subnet(family);
        self.report.check(
            &family.id("6"),
            &family.title("pod -> pod of the other NIC's subnet, same and other node"),
            outcome,
        );
        let outcome = self.cluster_ip(family).await;
        self.report.check(&family.id("7"), &family.title("pod -> ClusterIP, backends local and remote"), outcome);
        let outcome = self.outside(family);
        let title = if family.v4 {
            "pod -> outside through the NAT gateway"
        } else {
            "pod -> outside through the IPv6 gateway"
        };
        self.report.check(&family.id("8"), title, outcome);
        Ok(())
    }

    pub(super) fn inside(&self, pod: &AppPod) -> Result<Exec> {
        self.world.inside(pod)
    }

    /// A node's address on its first NIC.
    pub(super) fn node_address(&self, node: &str, v4: bool) -> Result<IpAddr> {
        let instance =
            self.world.config().instance(node).with_context(|| format!("the cloud has no machine {node}"))?;
        instance.nics[0]
            .primary
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4)
            .with_context(|| format!("{node} has no address of that family"))
    }

    fn pings(&self, pairs: &[(&AppPod, IpAddr, String)]) -> Result<Vec<Found>> {
        let mut list = Vec::new();
        for (from, to, name) in pairs {
            list.push(Probe {
                what: format!("{} -> {name} {to}", from.name),
                place: self.inside(from)?,
                words: ping(*to),
            });
        }
        Ok(probes::run(list))
    }

    fn pod_to_own_node(&self, family: Family) -> Result<Verdict> {
        let mut pairs = Vec::new();
        for pod in &self.apps {
            pairs.push((pod, self.node_address(&pod.node, family.v4)?, pod.node.clone()));
        }
        Ok(all_answered(&self.pings(&pairs)?, "pings"))
    }

    fn node_to_pod(&self, family: Family) -> Result<Verdict> {
        let mut list = Vec::new();
        for pod in &self.apps {
            let to = pod.address(family.v4)?;
            list.push(Probe {
                what: format!("{} -> {} {to}", pod.node, pod.name),
                place: self.world.on_node(&pod.node)?,
                words: curl(to, 80),
            });
        }
        Ok(all_answered(&probes::run(list), "requests"))
    }

    /// Both directions, both apps.
    fn same_subnet(&self, family: Family) -> Result<Verdict> {
        let mut pairs = Vec::new();
        for app in ["test-app-1", "test-app-2"] {
            let (one, other) = (self.app(app, NODES[0])?, self.app(app, NODES[1])?);
            pairs.push((one, other.address(family.v4)?, other.name.clone()));
            pairs.push((other, one.address(family.v4)?, one.name.clone()));
        }
        Ok(all_answered(&self.pings(&pairs)?, "pings"))
    }

    fn other_subnet(&self, family: Family) -> Result<Verdict> {
        let mut pairs = Vec::new();
        for from in &self.apps {
            for to in self.apps.iter().filter(|to| to.app != from.app) {
                pairs.push((from, to.address(family.v4)?, to.name.clone()));
            }
        }
        Ok(all_answered(&self.pings(&pairs)?, "pings"))
    }

    async fn cluster_ip(&self, family: Family) -> Result<Verdict> {
        let service = self.cluster.services("default").get("test-svc").await.context("cannot read Service test-svc")?;
        let addresses = service.spec.as_ref().and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
        let address: IpAddr = addresses
            .iter()
            .filter_map(|address| address.parse().ok())
            .find(|address: &IpAddr| address.is_ipv4() == family.v4)
            .with_context(|| format!("Service {} has no ClusterIP of {}", service.name_any(), family.name()))?;
        // Which backend is asked is chance; eight requests miss one of two once in 128 runs, three rounds practically never.
        let requests = probes::curls(address, 80, 8);
        let (mut wrong, mut reached) = (Vec::new(), 0);
        let mut waiting: Vec<&AppPod> = self.apps.iter().collect();
        for _ in 0..3 {
            let mut list = Vec::new();
            for pod in &waiting {
                list.push(Probe { what: pod.name.clone(), place: self.inside(pod)?, words: requests.clone() });
            }
            let found = probes::run(list);
            wrong.extend(found.iter().filter(|found| !found.answered()).map(Found::failure));
            let complete: Vec<String> = found
                .iter()
                .filter(|found| self.reached_both(found.stdout()))
                .map(|found| found.what.clone())
                .collect();
            reached += complete.len();
            waiting.retain(|pod| !complete.contains(&pod.name));
            if waiting.is_empty() || !wrong.is_empty() {
                break;
            }
        }
        let late: Vec<&str> = waiting.iter().map(|pod| pod.name.as_str()).collect();
        let seen = if wrong.is_empty() {
            format!(
                "{reached} of 4{}",
                if late.is_empty() { String::new() } else { format!("; not: {}", late.join(", ")) }
            )
        } else {
            wrong.join("; ")
        };
        Ok(Verdict::new(wrong.is_empty() && late.is_empty(), format!("4 pods reach both backends of {address}"), seen))
    }

    fn reached_both(&self, pages: &str) -> bool {
        let backends = self.apps.iter().filter(|pod| pod.app == "test-app-1");
        backends.into_iter().all(|backend| pages.lines().any(|line| line == format!("name: {}", backend.name)))
    }

    /// Over IPv4 the outside sees the NAT gateway, over IPv6 the pod itself.
    fn outside(&self, family: Family) -> Result<Verdict> {
        let to: IpAddr = gateway::OUTSIDE[usize::from(!family.v4)].parse()?;
        let mut list = Vec::new();
        for pod in &self.apps {
            list.push(Probe { what: pod.name.clone(), place: self.inside(pod)?, words: curl(to, 80) });
        }
        let found = probes::run(list);
        let mut wrong: Vec<String> = found.iter().filter(|found| !found.answered()).map(Found::failure).collect();
        for found in found.iter().filter(|found| found.answered()) {
            let pod = self.apps.iter().find(|pod| pod.name == found.what).context("a probe of no pod")?;
            let own = pod.address(family.v4)?.to_string();
            let expected = if family.v4 { gateway::NAT_ADDRESS } else { &own };
            let peer = field(found.stdout(), "peer").unwrap_or("nobody");
            if peer != expected {
                wrong.push(format!("{} was seen as {peer}", pod.name));
            }
        }
        let who = if family.v4 {
            format!("the NAT gateway {}", gateway::NAT_ADDRESS)
        } else {
            "the pod's own address".into()
        };
        let seen = if wrong.is_empty() { format!("4 of 4 seen as {who}") } else { wrong.join("; ") };
        Ok(Verdict::new(wrong.is_empty(), format!("{to} answers 4 pods and sees {who}"), seen))
    }
}
