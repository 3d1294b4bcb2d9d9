//! The cluster as `kubectl` would use it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, Client, ResourceExt};
use lab::world::objects::{self, Applied};
use serde::Deserialize;
use serde_json::{Value, json};

/// The product's API group with version.
const GROUP: (&str, &str) = ("spiderpool.spidernet.io", "v2beta1");

/// A pod of the scenario.
#[derive(Debug, Clone)]
pub struct AppPod {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// UID.
    pub uid: String,
    /// Node.
    pub node: String,
    /// Its label `app`.
    pub app: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it is ready.
    pub ready: bool,
}

impl AppPod {
    /// What of the API's object the checks need.
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        Self {
            name: pod.name_any(),
            namespace: pod.namespace().unwrap_or_default(),
            uid: pod.uid().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            app: pod.labels().get("app").cloned().unwrap_or_default(),
            addresses: status.pod_ips.unwrap_or_default().iter().filter_map(|ip| ip.ip.parse().ok()).collect(),
            ready: ready && pod.metadata.deletion_timestamp.is_none(),
        }
    }

    /// Its address of a family.
    pub fn address(&self, v4: bool) -> Result<IpAddr> {
        let family = if v4 { "IPv4" } else { "IPv6" };
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4)
            .with_context(|| format!("pod {} has no {family} address", self.name))
    }
}

/// A client with the questions of the checks.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
}

impl Cluster {
    /// `kubectl apply -f FILE`; returns its lines.
    pub async fn apply_file(&self, path: &Path) -> Result<String> {
        self.apply(&objects::of_file(path)?).await
    }

    /// `kubectl apply` of one object.
    pub async fn apply_value(&self, value: Value) -> Result<String> {
        self.apply(&[DynamicObject::deserialize(value).context("not a Kubernetes object")?]).await
    }

    async fn apply(&self, list: &[DynamicObject]) -> Result<String> {
        let mut text = String::new();
        for object in list {
            let (shown, applied) = objects::apply(&self.client, object).await?;
            let done = match applied {
                Applied::Created => "created",
                Applied::Configured => "configured",
                Applied::Unchanged => "unchanged",
            };
            text.push_str(&format!("{shown} {done}\n"));
        }
        Ok(text)
    }

    /// The interface to one of the product's kinds.
    pub fn product(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP.0, GROUP.1, kind));
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// NetworkAttachmentDefinitions.
    pub fn attachments(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition");
        let resource = ApiResource::from_gvk_with_plural(&kind, "network-attachment-definitions");
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// Pods of a namespace.
    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Services of a namespace.
    pub fn services(&self, namespace: &str) -> Api<Service> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Nodes.
    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Pods that a label selects, by name.
    pub async fn pods_with(&self, labels: &str) -> Result<Vec<AppPod>> {
        let list = self
            .pods("default")
            .list(&ListParams::default().labels(labels))
            .await
            .with_context(|| format!("cannot list pods {labels}"))?;
        Ok(list.items.iter().map(AppPod::of).collect())
    }

    /// Waits until as many pods of a label are ready and no other is left.
    pub async fn until_ready(&self, labels: &str, count: usize, limit: Duration) -> Result<Vec<AppPod>> {
        let what = format!("{count} pods {labels} to be ready");
        let ready = until(limit, &what, async || {
            let pods = self.pods_with(labels).await?;
            Ok((pods.len() == count && pods.iter().all(|pod| pod.ready)).then_some(pods))
        });
        match ready.await {
            Ok(pods) => Ok(pods),
            Err(error) => Err(error.context(self.why_not_ready(labels).await)),
        }
    }

    async fn why_not_ready(&self, labels: &str) -> String {
        let mut text = String::new();
        for pod in self.pods_with(labels).await.unwrap_or_default().iter().filter(|pod| !pod.ready) {
            let last = self.events_of(&pod.uid).await.unwrap_or_default().pop();
            let event = last.map_or_else(|| "no event".to_owned(), |(reason, message)| format!("{reason}: {message}"));
            text.push_str(&format!("pod {} on {:?}: {event}; ", pod.name, pod.node));
        }
        text
    }

    /// Reason and message of the events about an object, oldest first.
    pub async fn events_of(&self, uid: &str) -> Result<Vec<(String, String)>> {
        let events: Api<Event> = Api::all(self.client.clone());
        let list = events.list(&ListParams::default()).await.context("cannot list events")?;
        let mut about: Vec<Event> =
            list.items.into_iter().filter(|event| event.involved_object.uid.as_deref() == Some(uid)).collect();
        about.sort_by_key(|event| event.last_timestamp.clone());
        Ok(about
            .into_iter()
            .map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
            .collect())
    }

    /// All SpiderIPs: address -> (pool, object).
    pub async fn claims(&self) -> Result<BTreeMap<IpAddr, (String, Value)>> {
        let list =
            self.product("SpiderIP", None).list(&ListParams::default()).await.context("cannot list SpiderIPs")?;
        let claims = list.items.into_iter().filter_map(|object| {
            let spec = object.data.get("spec")?.clone();
            let address = spec["address"].as_str()?.split('/').next()?.parse().ok()?;
            Some((address, (spec["pool"].as_str().unwrap_or_default().to_owned(), spec)))
        });
        Ok(claims.collect())
    }

    /// Used and total addresses of a pool, as its status says.
    pub async fn usage(&self, pool: &str) -> Result<(i64, i64)> {
        let object = self
            .product("SpiderIPPool", None)
            .get(pool)
            .await
            .with_context(|| format!("cannot read SpiderIPPool {pool}"))?;
        let number = |key: &str| object.data["status"][key].as_i64().unwrap_or(0);
        Ok((number("allocatedIPCount"), number("totalIPCount")))
    }

    /// Merges into one of the product's objects.
    pub async fn patch_product(&self, kind: &str, namespace: Option<&str>, name: &str, patch: Value) -> Result<()> {
        let api = self.product(kind, namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("cannot patch {kind} {name}"))
            .map(drop)
    }

    /// Deletes one of the product's objects and waits until it is gone.
    pub async fn delete_product(&self, kind: &str, namespace: Option<&str>, name: &str) -> Result<()> {
        let api = self.product(kind, namespace);
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot delete {kind} {name}")),
        }
        until(Duration::from_secs(30), &format!("{kind} {name} to be gone"), async || {
            Ok(api.get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    /// Creates a bare pod.
    pub async fn run_pod(&self, pod: Value) -> Result<AppPod> {
        let pod: Pod = serde_json::from_value(pod).context("not a pod")?;
        let name = pod.name_any();
        let made = self
            .pods("default")
            .create(&PostParams::default(), &pod)
            .await
            .with_context(|| format!("cannot create pod {name}"))?;
        Ok(AppPod::of(&made))
    }

    /// Deletes pods by name and waits until they are gone.
    pub async fn delete_pods(&self, names: &[String]) -> Result<()> {
        let api = self.pods("default");
        for name in names {
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error).with_context(|| format!("cannot delete pod {name}")),
            }
        }
        until(Duration::from_secs(60), &format!("pods {} to be gone", names.join(", ")), async || {
            let list = api.list(&ListParams::default()).await?;
            Ok((!list.items.iter().any(|pod| names.contains(&pod.name_any()))).then_some(()))
        })
        .await
    }

    /// What `kubectl get` prints: the server's own table. `path` as in the API, e.g. `api/v1/namespaces/default/pods`.
    pub async fn table(&self, path: &str, wide: bool) -> Result<String> {
        let request = http::Request::get(format!("/{path}"))
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
            .body(Vec::new())
            .context("not a request")?;
        let table: Value = self.client.request(request).await.with_context(|| format!("cannot get {path}"))?;
        if table["kind"] != "Table" {
            bail!("{path}: the server gives no table but {}", table["kind"]);
        }
        Ok(rendered(&table, wide))
    }
}

/// Columns as kubectl aligns them.
fn rendered(table: &Value, wide: bool) -> String {
    let columns: Vec<&Value> = table["columnDefinitions"].as_array().into_iter().flatten().collect();
    let shown: Vec<usize> =
        (0..columns.len()).filter(|at| wide || columns[*at]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let cell = |value: &Value| match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut lines = vec![
        shown.iter().map(|at| columns[*at]["name"].as_str().unwrap_or_default().to_uppercase()).collect::<Vec<_>>(),
    ];
    for row in table["rows"].as_array().into_iter().flatten() {
        lines.push(shown.iter().map(|at| cell(&row["cells"][*at])).collect());
    }
    let widths: Vec<usize> = (0..shown.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let aligned = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
        cells.join("   ").trim_end().to_owned()
    };
    lines.iter().map(aligned).collect::<Vec<_>>().join("\n")
}

/// Asks again and again until there is an answer; errors of the question are shown if it never comes.
pub async fn until<T>(limit: Duration, what: &str, mut question: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = question().await;
        match answer {
            Ok(Some(answer)) => return Ok(answer),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
            }
            Ok(None) if Instant::now() > deadline => bail!("waited {} s for {what}", limit.as_secs()),
            _ => tokio::time::sleep(Duration::from_millis(150)).await,
        }
    }
}

/// A pod by itself with the stand-in application, on a node and a network.
pub fn bare_pod(name: &str, node: &str, network: &str, annotations: Value) -> Value {
    let mut all = json!({"v1.multus-cni.io/default-network": network});
    if let (Some(all), Some(more)) = (all.as_object_mut(), annotations.as_object()) {
        all.extend(more.clone());
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"bare": "true", "app": name}, "annotations": all},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{"name": "app", "image": "docker.io/centos/tools", "readinessProbe": {"httpGet": {"path": "/", "port": 80}}}]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_narrow_by_default() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Age", "priority": 0}, {"name": "Node", "priority": 1}],
            "rows": [{"cells": ["a", "5s", "n1"]}, {"cells": ["long-name", null, "n2"]}]
        });
        assert_eq!(rendered(&table, false), "NAME        AGE\na           5s\nlong-name   <none>");
        assert!(rendered(&table, true).starts_with("NAME        AGE      NODE\n"));
    }
}
