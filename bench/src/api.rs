//! What the measurements do at the API themselves: objects to measure with, and bare calls to compare with.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::stream::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node as KubeNode, Pod as KubePod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api as KubeApi, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};

use crate::socket::Pod;

/// The group and version of the product's kinds.
const API_VERSION: &str = "spiderpool.spidernet.io/v2beta1";

/// A client of the API server under measurement.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

impl Api {
    /// Connects and asks for the version once.
    pub async fn connect(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        client.apiserver_version().await?;
        Ok(Self { client })
    }

    /// Creates the CRDs of a directory and waits until they are served.
    pub async fn install_crds(&self, dir: &Path) -> Result<()> {
        let crds: KubeApi<CustomResourceDefinition> = KubeApi::all(self.client.clone());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
            let text = std::fs::read_to_string(entry?.path())?;
            let crd: CustomResourceDefinition = serde_saphyr::from_str(&text)?;
            names.push(crd.metadata.name.clone().unwrap_or_default());
            match crds.create(&PostParams::default(), &crd).await {
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
                outcome => drop(outcome?),
            }
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        for name in names {
            loop {
                let crd = crds.get(&name).await?;
                let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
                if conditions.iter().any(|c| c.type_ == "Established" && c.status == "True") {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("CRD {name} is not established");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    fn of(&self, kind: &str) -> KubeApi<DynamicObject> {
        KubeApi::all_with(self.client.clone(), &resource(kind))
    }

    /// A pool that is everybody's default.
    pub async fn create_pool(&self, name: &str, subnet: &str, ips: &str) -> Result<()> {
        let pool = json!({
            "apiVersion": API_VERSION, "kind": "SpiderIPPool", "metadata": {"name": name},
            "spec": {"ipVersion": 4, "subnet": subnet, "ips": [ips], "default": true},
        });
        let pools = self.of("SpiderIPPool");
        pools.create(&PostParams::default(), &serde_json::from_value(pool)?).await?;
        Ok(())
    }

    /// The cluster's coordinator, already synchronised: no controller runs here.
    pub async fn create_coordinator(&self, service_cidr: &str) -> Result<()> {
        let coordinator = json!({
            "apiVersion": API_VERSION, "kind": "SpiderCoordinator", "metadata": {"name": "default"},
            "spec": {"mode": "underlay", "podCIDRType": "none"},
        });
        let api = self.of("SpiderCoordinator");
        api.create(&PostParams::default(), &serde_json::from_value(coordinator)?).await?;
        let status = json!({"status": {"phase": "Synced", "overlayPodCIDR": [], "serviceCIDR": [service_cidr]}});
        api.patch_status("default", &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Waits until the pool's status counts this many addresses.
    pub async fn pool_counts(&self, name: &str, count: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let pool = self.of("SpiderIPPool").get(name).await?;
            if pool.data["status"]["allocatedIPCount"].as_u64() == Some(count as u64) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("status of pool {name} does not count {count}: {}", pool.data["status"]["allocatedIPCount"]);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Creates `SpiderIP`s as an agent does, `in_flight` at a time, and returns how long it took.
    pub async fn create_addresses(&self, pool: &str, addresses: &[Ipv4Addr], in_flight: usize) -> Result<Duration> {
        let api = self.of("SpiderIP");
        let started = Instant::now();
        futures::stream::iter(addresses)
            .map(|address| {
                let object = spider_ip(pool, *address);
                let api = &api;
                async move {
                    api.create(&PostParams::default(), &serde_json::from_value(object)?)
                        .await
                        .map_err(anyhow::Error::from)
                }
            })
            .buffer_unordered(in_flight)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(started.elapsed())
    }

    /// Deletes `SpiderIP`s, `in_flight` at a time, and returns how long it took.
    pub async fn delete_addresses(&self, addresses: &[Ipv4Addr], in_flight: usize) -> Result<Duration> {
        let api = self.of("SpiderIP");
        let started = Instant::now();
        futures::stream::iter(addresses)
            .map(|address| {
                let api = &api;
                async move { api.delete(&address.to_string(), &DeleteParams::default()).await }
            })
            .buffer_unordered(in_flight)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(started.elapsed())
    }

    /// How many objects of one of the product's kinds there are; asked so that it costs the server little.
    pub async fn count(&self, kind: &str) -> Result<usize> {
        let one = self.of(kind).list(&ListParams::default().limit(1)).await?;
        let more = usize::try_from(one.metadata.remaining_item_count.unwrap_or_default())?;
        Ok(one.items.len() + more)
    }

    /// Removes what earlier measurements left.
    pub async fn clear(&self) -> Result<()> {
        let all = ListParams::default();
        let now = DeleteParams::default().grace_period(0);
        delete_all(&KubeApi::<KubePod>::namespaced(self.client.clone(), "default"), &now).await?;
        delete_all(&self.of("SpiderIP"), &now).await?;
        let endpoints =
            KubeApi::<DynamicObject>::namespaced_with(self.client.clone(), "default", &resource("SpiderEndpoint"));
        for api in [endpoints, self.of("SpiderIPPool")] {
            delete_pages(&api, &now).await?;
            let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            for object in api.list(&all).await? {
                api.patch(&object.name_any(), &PatchParams::default(), &free).await?;
            }
        }
        for kind in ["SpiderEndpoint", "SpiderIPPool", "SpiderIP"] {
            self.counts(kind, 0).await?;
        }
        Ok(())
    }

    /// A node that nobody plays: without it a real cluster removes the pods that are bound to it.
    async fn create_node(&self, name: &str) -> Result<()> {
        let api: KubeApi<KubeNode> = KubeApi::all(self.client.clone());
        let node = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            outcome => {
                outcome?;
                Ok(())
            }
        }
    }

    /// Waits until there are this many objects of a kind.
    pub async fn counts(&self, kind: &str, count: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let seen = self.count(kind).await?;
            if seen == count {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{seen} objects of kind {kind}, expected {count}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Creates pods that are bound to a node, 100 at a time.
    pub async fn create_pods(&self, node: &str, names: impl Iterator<Item = String>) -> Result<Vec<Pod>> {
        self.create_node(node).await?;
        let api: KubeApi<KubePod> = KubeApi::namespaced(self.client.clone(), "default");
        futures::stream::iter(names)
            .map(|name| {
                let api = &api;
                async move {
                    let made = api.create(&PostParams::default(), &serde_json::from_value(pod(node, &name))?).await?;
                    let uid = made.metadata.uid.context("the API server gave no UID")?;
                    Ok(Pod { container: format!("sandbox-{uid}"), name, uid })
                }
            })
            .buffer_unordered(100)
            .try_collect()
            .await
    }

    /// Deletes pods at once, without grace.
    pub async fn delete_pods(&self, pods: &[Pod]) -> Result<()> {
        let api: KubeApi<KubePod> = KubeApi::namespaced(self.client.clone(), "default");
        futures::stream::iter(pods)
            .map(|pod| {
                let api = &api;
                async move { api.delete(&pod.name, &DeleteParams::default().grace_period(0)).await }
            })
            .buffer_unordered(100)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(())
    }
}

/// One of the product's kinds.
fn resource(kind: &str) -> ApiResource {
    let gvk = GroupVersionKind::gvk("spiderpool.spidernet.io", "v2beta1", kind);
    ApiResource::from_gvk_with_plural(&gvk, &format!("{}s", kind.to_lowercase()))
}

/// The object that an agent creates for one address.
fn spider_ip(pool: &str, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "SpiderIP",
        "metadata": {"name": address.to_string(), "labels": {"ipam.spidernet.io/ippool": pool, "ipam.spidernet.io/node": "bench"}},
        "spec": {
            "address": address.to_string(), "pool": pool, "state": "Allocated", "since": "2026-01-01T00:00:00Z",
            "pod": {
                "namespace": "default", "name": format!("web-{address}"), "uid": "0d9f7a5e-0000-4000-8000-000000000001",
                "containerID": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "interface": "eth0", "node": "bench",
            },
        },
    })
}

/// A pod of about the size that pods have.
fn pod(node: &str, name: &str) -> Value {
    let environment: Vec<Value> =
        (0..16).map(|n| json!({"name": format!("SETTING_{n}"), "value": "x".repeat(48)})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "bench", "pod-template-hash": "6c9d8f7b5"}},
        "spec": {
            "nodeName": node,
            // Nobody says that the node is well: the pod is to stay nevertheless.
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "app", "image": "docker.io/centos/tools", "env": environment,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}],
        },
    })
}

/// `count` addresses from `first` on.
pub fn addresses(first: Ipv4Addr, count: u32) -> Vec<Ipv4Addr> {
    (0..count).map(|n| Ipv4Addr::from(u32::from(first) + n)).collect()
}

/// Deletes all objects of a kind that no finalizer holds.
async fn delete_all<K>(api: &KubeApi<K>, how: &DeleteParams) -> Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    while !api.list(&ListParams::default().limit(1)).await?.items.is_empty() {
        delete_pages(api, how).await?;
    }
    Ok(())
}

/// Deletes the objects of a kind one by one: a request for all of many thousands would last longer than the server allows.
async fn delete_pages<K>(api: &KubeApi<K>, how: &DeleteParams) -> Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut page = ListParams::default().limit(500);
    loop {
        let list = api.list_metadata(&page).await?;
        futures::stream::iter(list.items.into_iter().filter_map(|object| object.metadata.name))
            .map(|name| async move {
                match api.delete(&name, how).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    outcome => outcome.map(drop),
                }
            })
            .buffer_unordered(50)
            .try_collect::<()>()
            .await?;
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(()),
        }
    }
}
