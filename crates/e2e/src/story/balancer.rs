//! The cloud's balancers and metadata, and names: checks 9, 10, 16, 17, 18, and the refusal of IPv6.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use lab::balancer::model::{Mode, View};
use lab::gateway;
use lab::world::{CLUSTER_DNS, NODES, World};
use serde_json::json;

use super::probes::{self, field};
use super::{Family, PATIENCE, Stage, Story};
use crate::cluster::until;
use crate::report::Verdict;

/// How many requests the client makes.
const BALANCED: usize = 6;
/// What the cloud controller's complaints are called.
const FAILED: &str = lab::cloud::FAILED;

impl<S: Stage> Story<'_, S> {
    /// What the Services of type LoadBalancer are checked for.
    pub async fn balancers(&mut self) {
        let outcome = self.provider_ids().await;
        self.report.check("16", "metadata gives the provider id; the node is a backend once it has it", outcome);
        let outcome = self.external_addresses().await;
        self.show("kubectl get svc", "api/v1/namespaces/default/services", false).await;
        self.report.check("17", "EXTERNAL-IP, and L7 by annotation", outcome);
        let outcome = self.layer_four().await;
        self.report.check("9", "client -> L4 balancer, the pod sees the client", outcome);
        let outcome = self.layer_seven().await;
        self.report.check("10", "client -> L7 balancer", outcome);
    }

    async fn provider_ids(&mut self) -> Result<Verdict> {
        let service =
            self.cluster.services("default").get("tcp-service").await.context("cannot read Service tcp-service")?;
        let uid = service.uid().unwrap_or_default();
        let mut seen = Vec::new();
        for node in NODES {
            let left_out = format!("node {node} is left out");
            let (_, message) = until(Duration::from_secs(20), &format!("the event that {left_out}"), async || {
                let events = self.cluster.events_of(&uid).await?;
                Ok(events.into_iter().find(|(reason, message)| reason == FAILED && message.contains(&left_out)))
            })
            .await?;
            let backend = self.node_address(node, true)?;
            anyhow::ensure!(
                !self.backends("default/tcp-service")?.contains(&backend),
                "{node} is a backend before it has a providerID"
            );
            let id = self.tell_provider_id(node).await?;
            until(Duration::from_secs(20), &format!("the balancer to take {node} in"), async || {
                Ok(self.backends("default/tcp-service")?.contains(&backend).then_some(()))
            })
            .await?;
            seen.push(format!("{node}: event \"{message}\", then backend {backend} with {id}"));
        }
        Ok(Verdict::new(true, "an event leaves each node out, the patched node is taken in", seen.join("; ")))
    }

    /// Gives the node the id that the metadata service tells, and returns it.
    async fn tell_provider_id(&mut self, node: &str) -> Result<String> {
        let wanted = self.world.config().instance(node).context("no such machine")?.provider_id();
        if let Some(script) = self.world.provider_script().map(str::to_owned) {
            let printed = self.world.on_node(node)?.run(&["sh", "-euc", &script])?.expect_success()?;
            self.report.say(&format!("on {node}:"));
            self.report.shell(&script.replace('\n', "\n   "), &printed);
            let told = self.cluster.nodes().get(node).await.with_context(|| format!("cannot read node {node}"))?;
            let id = told.spec.and_then(|spec| spec.provider_id).unwrap_or_default();
            anyhow::ensure!(id == wanted, "node {node} got the provider id {id:?}, the cloud knows {wanted}");
            return Ok(id);
        }
        let id = format!("{}.{}", self.metadata(node, "region-id")?, self.metadata(node, "instance-id")?);
        anyhow::ensure!(id == wanted, "metadata on {node} says {id}, the cloud knows {wanted}");
        let patch = json!({"spec": {"providerID": id}});
        self.cluster
            .nodes()
            .patch(node, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("cannot patch node {node}"))?;
        self.report
            .shell(&format!("kubectl patch node {node} -p '{{\"spec\":{{\"providerID\":\"{id}\"}}}}'"), "patched");
        Ok(id)
    }

    /// A key of the metadata service, asked with `curl` on the node.
    fn metadata(&self, node: &str, key: &str) -> Result<String> {
        let url = format!("http://100.100.100.200/latest/meta-data/{key}");
        Ok(self
            .world
            .on_node(node)?
            .run(&["curl", "-sSf", "--max-time", "6", &url])?
            .expect_success()?
            .trim()
            .to_owned())
    }

    fn balanced(&self, name: &str) -> Result<Option<View>> {
        let views: Vec<View> = self.world.balancer().get("/services").context("the balancer does not tell")?;
        Ok(views.into_iter().find(|view| view.name == name))
    }

    fn backends(&self, name: &str) -> Result<BTreeSet<IpAddr>> {
        Ok(self.balanced(name)?.into_iter().flat_map(|view| view.service.backends).collect())
    }

    /// Waits until the balancer has found both nodes healthy.
    async fn until_healthy(&self, name: &str) -> Result<View> {
        until(PATIENCE, &format!("the balancer to find both nodes of {name} healthy"), async || {
            Ok(self.balanced(name)?.filter(|view| view.healthy.len() == NODES.len()))
        })
        .await
    }

    async fn external_addresses(&self) -> Result<Verdict> {
        let mut seen = Vec::new();
        let mut good = true;
        for (name, mode) in [("tcp-service", Mode::L4), ("http-service", Mode::L7)] {
            let address =
                until(Duration::from_secs(20), &format!("Service {name} to have an EXTERNAL-IP"), async || {
                    let service = self.cluster.services("default").get(name).await?;
                    let ingress = service.status.and_then(|status| status.load_balancer?.ingress).unwrap_or_default();
                    Ok(ingress.into_iter().find_map(|ingress| ingress.ip))
                })
                .await?;
            let view =
                self.balanced(&format!("default/{name}"))?.with_context(|| format!("the balancer has no {name}"))?;
            good &= view.service.mode == mode && view.address.to_string() == address;
            seen.push(format!("{name} {address} {:?}", view.service.mode));
        }
        Ok(Verdict::new(
            good,
            "tcp-service as L4, http-service as L7, each with its balancer's address",
            seen.join(", "),
        ))
    }

    /// Requests from the external client.
    pub(super) async fn layer_four(&self) -> Result<Verdict> {
        let view = self.until_healthy("default/tcp-service").await?;
        let output = self.world.in_cloud("client").run(&probes::curls(view.address.into(), 999, BALANCED))?;
        let values = |key: &str| {
            output
                .stdout
                .lines()
                .filter_map(|line| Some(line.strip_prefix(key)?.strip_prefix(": ")?.to_owned()))
                .collect::<Vec<_>>()
        };
        let answered = values("name").len();
        let (pods, peers): (BTreeSet<String>, BTreeSet<String>) =
            (values("name").into_iter().collect(), values("peer").into_iter().collect());
        let client = gateway::CLIENT[0];
        let good = output.succeeded() && answered == BALANCED && peers == BTreeSet::from([client.to_owned()]);
        let detail = if output.succeeded() { String::new() } else { format!("; {}", probes::last_line(&output)) };
        let seen = format!("{answered} of {BALANCED} answered by {pods:?}, which saw {peers:?}{detail}");
        Ok(Verdict::new(good, format!("all requests answered, the pods see {client}"), seen))
    }

    async fn layer_seven(&self) -> Result<Verdict> {
        let view = self.until_healthy("default/http-service").await?;
        let url = probes::url(view.address.into(), 80);
        let output = self.world.in_cloud("client").run(&[
            "curl",
            "-sS",
            "--max-time",
            "6",
            "-w",
            "code: %{http_code}\n",
            &url,
        ])?;
        let code = field(&output.stdout, "code").unwrap_or("none");
        let forwarded = field(&output.stdout, "forwarded-for").unwrap_or("nobody");
        let good = code == "200" && forwarded == gateway::CLIENT[0];
        let seen = format!(
            "{code}, for {forwarded}{}",
            if good { String::new() } else { format!(" ({})", probes::last_line(&output)) }
        );
        Ok(Verdict::new(good, format!("200, forwarded for {}", gateway::CLIENT[0]), seen))
    }
}

impl Story<'_, World> {
    /// In the dual-stack variant: the cloud refuses IPv6 backends and says so.
    pub(super) async fn ipv6_balancer(&mut self) -> Result<()> {
        self.report.chapter("A LoadBalancer Service of IPv6: refused by the cloud");
        self.apply("dual-stack/50-loadbalancer-v6.yaml").await?;
        let outcome = self.refusal().await;
        self.report.check("9-v6", "LoadBalancer Service with ipFamilies [IPv6]", outcome);
        Ok(())
    }

    async fn refusal(&self) -> Result<Verdict> {
        let service = self
            .cluster
            .services("default")
            .get("tcp-service-v6")
            .await
            .context("cannot read Service tcp-service-v6")?;
        let uid = service.uid().unwrap_or_default();
        let (reason, message) = until(Duration::from_secs(20), "an event about IPv6", async || {
            Ok(self
                .cluster
                .events_of(&uid)
                .await?
                .into_iter()
                .find(|(reason, message)| reason == FAILED && message.contains("IPv6")))
        })
        .await?;
        Ok(Verdict::new(true, format!("event {FAILED} that names IPv6"), format!("{reason}: {message}")))
    }

    /// Check 18: a name server behind a UDP ClusterIP of each family.
    pub(super) async fn names(&mut self, families: &[Family]) -> Result<()> {
        self.report.chapter("Names: a UDP ClusterIP");
        let served = self.name_server(families).await;
        for family in families {
            let outcome = match &served {
                Ok(()) => self.resolve(*family).await,
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            let title = family.title("a name through a UDP ClusterIP, and its address");
            self.report.check(&family.id("18"), &title, outcome);
        }
        self.cluster.delete_pods(&["dns".into()]).await
    }

    async fn name_server(&mut self, families: &[Family]) -> Result<()> {
        let mut pod = crate::cluster::bare_pod("dns", "master", "kube-system/ipvlan-eth1", json!({}));
        pod["spec"]["containers"] = json!([{
            "name": "dns", "image": "registry.k8s.io/coredns/coredns",
            "env": [{"name": "KUBECONFIG", "value": "/tmp/spiderpool/kubeconfig"}],
            "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]
        }]);
        self.cluster.run_pod(pod).await?;
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns", "namespace": "default"},
            "spec": {"clusterIP": CLUSTER_DNS, "selector": {"app": "dns"}, "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53}]}
        });
        if families.len() > 1 {
            service["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
        }
        let lines = self.cluster.apply_value(service).await?;
        self.report.shell("kubectl apply -f - # a name server and its Service", &lines);
        self.cluster.until_ready("app=dns", 1, PATIENCE).await?;
        Ok(())
    }

    /// A Service's ClusterIP of a family.
    async fn service_address(&self, name: &str, family: Family) -> Result<IpAddr> {
        let service =
            self.cluster.services("default").get(name).await.with_context(|| format!("cannot read Service {name}"))?;
        let all = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        all.iter()
            .filter_map(|address| address.parse().ok())
            .find(|address: &IpAddr| address.is_ipv4() == family.v4)
            .with_context(|| format!("Service {name} has no ClusterIP of {}", family.name()))
    }

    async fn resolve(&self, family: Family) -> Result<Verdict> {
        let server = self.service_address("dns", family).await?.to_string();
        let name = "test-svc.default.svc.cluster.local";
        let place = self.inside(self.app("test-app-1", "worker")?)?;
        let answer = until(Duration::from_secs(20), &format!("{name} to be resolved by {server}"), async || {
            let output = place.run(&["busybox", "nslookup", name, &server])?;
            Ok(output.succeeded().then_some(output.stdout))
        })
        .await?;
        let wanted = self.service_address("test-svc", family).await?;
        let resolved = answer
            .lines()
            .rev()
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(_, rest)| rest.trim().parse::<IpAddr>().ok())
            .find(|address| address.is_ipv4() == family.v4)
            .with_context(|| format!("{name} has no {} address: {answer}", family.name()))?;
        let host = if family.v4 { resolved.to_string() } else { format!("[{resolved}]") };
        let fetched = place.run(&[
            "curl",
            "-sS",
            "--max-time",
            "6",
            "--resolve",
            &format!("{name}:80:{host}"),
            &format!("http://{name}/"),
        ])?;
        let by = field(&fetched.stdout, "name").unwrap_or("nobody").to_owned();
        let good = resolved == wanted && fetched.succeeded() && by.starts_with("test-app-1");
        Ok(Verdict::new(
            good,
            format!("{name} is {wanted}, and test-app-1 answers there"),
            format!("{resolved}, answered by {by}"),
        ))
    }
}
