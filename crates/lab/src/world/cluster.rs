//! The cluster's processes: control plane on `master`, and what runs on every node.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt};

use super::state::{NODES, PREFIX, Process};
use super::{API_SERVER, CLUSTER_DNS, CLUSTER_NETWORK, Options, POD_CIDRS, SERVICE_CIDRS, World, objects};
use crate::netns::Netns;
use crate::node::kept;
use crate::secret;

/// Where Debian's containernetworking-plugins are.
pub const MAIN_PLUGINS: &str = "/usr/lib/cni";
/// The product's plugins, all in one file.
const PLUGINS: [&str; 3] = ["spiderpool", "coordinator", "multinet"];
/// The product's configuration file on the nodes.
const CONFIG: &str = "/tmp/spiderpool/config-map/conf.yml";
/// The kubeconfig on the nodes.
const KUBECONFIG: &str = "/tmp/spiderpool/kubeconfig";

impl World {
    /// The API server with the custom resources and what kubeadm leaves in a cluster.
    pub(super) async fn api_server(&mut self, options: &Options) -> Result<()> {
        let root = self.state.node_root("master");
        let data = root.join("apiserver");
        {
            let _building = super::building()?;
            fs::create_dir_all(&data)?;
        }
        let server = Process::new("apiserver", &self.state.program("spiderpool-apiserver"))
            .on("master")
            .args(["--listen", "0.0.0.0:6443", "--advertise", API_SERVER, "--service-cluster-ip-range", SERVICE_CIDRS])
            .args(["--data-dir"])
            .arg(&data)
            .args(["--kubeconfig-out"])
            .arg(&data.join("kubeconfig"));
        self.start(server)?;
        self.until_printed("apiserver", "ready at")?;
        let inside = fs::read_to_string(data.join("kubeconfig")).context("the API server wrote no kubeconfig")?;
        for node in NODES {
            let _building = super::building()?;
            let file = kept(&self.state.node_root(node), "/tmp/spiderpool").join("kubeconfig");
            secret::write(&file, &inside)?;
        }
        self.forward(options, &inside)?;
        let client = self.client().await?;
        let crds = custom_resources(&options.repository)?;
        for object in &crds {
            objects::apply(&client, object).await?;
        }
        until_established(&client, &crds.iter().map(ResourceExt::name_any).collect::<Vec<_>>()).await?;
        for object in objects::of_text(&kubeadm_config())? {
            objects::apply(&client, &object).await?;
        }
        Ok(())
    }

    /// The way from this machine's own network to the API server, and the kubeconfig for it.
    fn forward(&mut self, options: &Options, inside: &str) -> Result<()> {
        let lab = self.state.program("spiderpool-lab");
        let net = Netns::named(format!("{PREFIX}master")).path();
        let listen = options.api_listen.to_string();
        let forward =
            Process::new("forward", &lab).args(["forward", "--listen", &listen, "--to", API_SERVER, "--net"]).arg(&net);
        self.start(forward)?;
        self.until_printed("forward", "forwarding")?;
        let here = inside
            .replace(&format!("https://{API_SERVER}"), &format!("https://127.0.0.1:{}", options.api_listen.port()));
        let _building = super::building()?;
        secret::write(&self.kubeconfig(), &here)
    }

    /// Everything that needs the API server.
    pub(super) async fn cluster(&mut self, options: &Options) -> Result<()> {
        for node in NODES {
            self.files_of(node, options)?;
        }
        let lab = self.state.program("spiderpool-lab");
        let controller = Process::new("controller", &self.state.program("spiderpool-controller"))
            .on("master")
            .args(["daemon", "--config-path", CONFIG, "--webhook-url", "https://127.0.0.1:5722"])
            .env("KUBECONFIG", KUBECONFIG)
            .env("SPIDERPOOL_POD_NAMESPACE", "kube-system")
            .env("SPIDERPOOL_POD_NAME", "spiderpool-controller-0")
            .env("SPIDERPOOL_MULTUS_CONFIG_ENABLED", "true")
            .env("SPIDERPOOL_COORDINATOR_ENABLED", "true");
        self.start(controller)?;
        let manager = Process::new("controller-manager", &lab).on("master").args([
            "controller-manager",
            "--kubeconfig",
            KUBECONFIG,
        ]);
        self.start(manager)?;
        let cloud = Process::new("cloud-controller", &lab)
            .on("master")
            .args(["cloud-controller", "--kubeconfig", KUBECONFIG, "--balancer"])
            .arg(&self.state.dir.join("balancer.sock"));
        self.start(cloud)?;
        for node in NODES {
            self.services_of(node)?;
        }
        Ok(())
    }

    /// CNI configuration and plugins, and the product's configuration file.
    fn files_of(&self, node: &str, options: &Options) -> Result<()> {
        let _building = super::building()?;
        let root = self.state.node_root(node);
        let config = kept(&root, "/tmp/spiderpool").join("config-map");
        fs::create_dir_all(&config)?;
        let text = format!(
            "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: {}\nenableStatefulSet: false\nenableKubevirtStaticIP: false\nenableSpiderSubnet: false\nenableIPConflictDetection: false\nenableGatewayDetection: false\ntuneSysctlConfig: true\n",
            options.ipv6
        );
        fs::write(config.join("conf.yml"), text)?;
        let bin = kept(&root, "/opt/cni/bin");
        let source = self.state.program("spiderpool");
        fs::copy(&source, bin.join(PLUGINS[0])).with_context(|| format!("cannot copy {}", source.display()))?;
        for name in &PLUGINS[1..] {
            symlink(PLUGINS[0], bin.join(name)).with_context(|| format!("cannot link {name}"))?;
        }
        for entry in fs::read_dir(MAIN_PLUGINS).with_context(|| format!("cannot read {MAIN_PLUGINS}"))? {
            let entry = entry?;
            symlink(entry.path(), bin.join(entry.file_name()))
                .with_context(|| format!("cannot link {}", entry.path().display()))?;
        }
        let list = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": "multinet",
            "plugins": [{"type": "multinet", "clusterNetwork": CLUSTER_NETWORK, "capabilities": {"portMappings": true}}],
        });
        fs::write(kept(&root, "/etc/cni/net.d").join("00-multinet.conflist"), list.to_string())?;
        Ok(())
    }

    /// Agent, kubelet and kube-proxy of a node.
    fn services_of(&mut self, node: &str) -> Result<()> {
        let lab = self.state.program("spiderpool-lab");
        let agent = Process::new(&format!("agent-{node}"), &self.state.program("spiderpool-agent"))
            .on(node)
            .args(["daemon", "--config-path", CONFIG])
            .env("KUBECONFIG", KUBECONFIG)
            .env("SPIDERPOOL_POD_NAMESPACE", "kube-system")
            .env("SPIDERPOOL_POD_NAME", format!("spiderpool-agent-{node}"))
            .env("SPIDERPOOL_NODE_NAME", node)
            .env("MULTUS_CLUSTER_NETWORK", CLUSTER_NETWORK);
        self.start(agent)?;
        let instance = self.config.instance(node).with_context(|| format!("the cloud has no instance {node}"))?;
        let addresses: Vec<String> = instance.nics[0].primary.iter().map(ToString::to_string).collect();
        let kubelet = Process::new(&format!("kubelet-{node}"), &lab).on(node).args([
            "kubelet",
            "--kubeconfig",
            KUBECONFIG,
            "--node-name",
            node,
            "--node-ip",
            &addresses.join(","),
            "--cluster-dns",
            CLUSTER_DNS,
        ]);
        self.start(kubelet)?;
        let proxy = Process::new(&format!("kube-proxy-{node}"), &lab).on(node).args([
            "kube-proxy",
            "--kubeconfig",
            KUBECONFIG,
            "--node-name",
            node,
            "--cluster-cidr",
            POD_CIDRS,
        ]);
        self.start(proxy)
    }

    /// Waits until the nodes are ready, the agents listen and the webhooks answer.
    pub(super) async fn until_ready(&self, options: &Options) -> Result<()> {
        let client = self.client().await?;
        let nodes: Api<Node> = Api::all(client.clone());
        let limit = Instant::now() + Duration::from_secs(90);
        loop {
            let missing = self.not_ready(&nodes, &client, options).await;
            if missing.is_empty() {
                return Ok(());
            }
            let dead = self.state.last_words();
            ensure!(dead.is_empty(), "{dead}");
            if Instant::now() > limit {
                bail!("after 90 s still waiting for: {}", missing.join(", "));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn not_ready(&self, nodes: &Api<Node>, client: &Client, _options: &Options) -> Vec<String> {
        let mut missing = Vec::new();
        let listed = nodes.list(&Default::default()).await.map(|list| list.items).unwrap_or_default();
        for name in NODES {
            let node = listed.iter().find(|node| node.name_any() == name);
            let conditions = node
                .and_then(|node| node.status.as_ref())
                .and_then(|status| status.conditions.as_ref())
                .into_iter()
                .flatten();
            if !conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
                missing.push(format!("node {name}"));
            }
            if !self.kept(name, "/run/spidernet").join("spiderpool.sock").exists() {
                missing.push(format!("agent on {name}"));
            }
        }
        if !webhooks_answer(client).await {
            missing.push("webhooks of the controller".into());
        }
        missing
    }
}

/// Whether a wrong pool is refused by the webhook: a dry run that changes nothing.
async fn webhooks_answer(client: &Client) -> bool {
    let text = "apiVersion: spiderpool.spidernet.io/v2beta1\nkind: SpiderIPPool\nmetadata: {name: lab-probe}\nspec: {subnet: 192.0.2.0/24, ips: [198.51.100.1]}\n";
    let Ok(objects) = objects::of_text(text) else { return false };
    let Ok(api) = objects::api_of(client, &objects[0]) else { return false };
    let params = kube::api::PostParams { dry_run: true, ..Default::default() };
    match api.create(&params, &objects[0]).await {
        Err(kube::Error::Api(status)) => status.message.contains("198.51.100.1"),
        _ => false,
    }
}

fn custom_resources(repository: &Path) -> Result<Vec<kube::api::DynamicObject>> {
    let dir = repository.join("charts/spiderpool/crds");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let mut objects = Vec::new();
    for file in files {
        objects.extend(objects::of_file(&file)?);
    }
    Ok(objects)
}

async fn until_established(client: &Client, names: &[String]) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let list = api.list(&Default::default()).await?.items;
        let established = |name: &&String| {
            let conditions = list
                .iter()
                .find(|crd| crd.name_any() == **name)
                .and_then(|crd| crd.status.as_ref()?.conditions.clone());
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Established" && condition.status == "True")
        };
        let waiting: Vec<&String> = names.iter().filter(|name| !established(name)).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < limit, "custom resources are not established after 20 s: {waiting:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What kubeadm leaves for others to read.
fn kubeadm_config() -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: kubeadm-config\n  namespace: kube-system\ndata:\n  ClusterConfiguration: |\n    apiVersion: kubeadm.k8s.io/v1beta3\n    kind: ClusterConfiguration\n    clusterName: kubernetes\n    controlPlaneEndpoint: {API_SERVER}\n    kubernetesVersion: v1.33.0\n    networking:\n      dnsDomain: cluster.local\n      podSubnet: {POD_CIDRS}\n      serviceSubnet: {SERVICE_CIDRS}\n"
    )
}
