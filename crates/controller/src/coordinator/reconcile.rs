//! Keeps the default SpiderCoordinator in existence and the cluster's CIDRs in its status.
//!
//! Sources: ServiceCIDRs, ConfigMap `kube-system/kubeadm-config`, the command line of kube-controller-manager, Calico's and
//! Cilium's pools, in this order. What a type does not need, or an earlier source tells, is not read. A source that fails makes the status NotReady with a reason that
//! says what to do, and is tried again; agents refuse coordinator plugins until the status is Synced.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use daemon::{Chain, Stop};
use futures::StreamExt as _;
use k8s_api::{FINALIZER, SpiderCoordinator, SpiderCoordinatorStatus, coordinator::PodCidrType};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Resource as _, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::ObjectRef,
        watcher,
    },
};
use serde_json::{Value, json};

use super::cidrs::{self, Cidrs, Cilium};
use crate::{events::Events, settings::CoordinatorSettings, trouble::Explained};

/// How soon a failure is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How soon it is seen that the default object is gone.
const LOOK: Duration = Duration::from_secs(5);
/// How soon an object that somebody changed meanwhile is looked at again.
const AGAIN: Duration = Duration::from_millis(200);

/// What the reconciler needs.
pub struct Context {
    /// The API.
    pub client: Client,
    /// For users.
    pub events: Arc<Events>,
    /// Settings.
    pub settings: CoordinatorSettings,
    last_type: Mutex<Option<PodCidrType>>,
}

impl Context {
    /// A context that has seen nothing yet.
    pub fn new(client: Client, events: Arc<Events>, settings: CoordinatorSettings) -> Self {
        Self { client, events, settings, last_type: Mutex::default() }
    }
}

/// A write that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} SpiderCoordinator {name}")]
pub struct Error {
    step: &'static str,
    name: String,
    #[source]
    source: kube::Error,
}

/// Why the CIDRs are not known.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error("{0}")]
    Unknown(String),
    #[error("cannot read {what}")]
    Unreadable {
        what: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot read CNI configuration directory {dir}")]
    Directory {
        dir: String,
        #[source]
        source: std::io::Error,
    },
}

/// Runs until `stop`.
pub async fn run(context: Context, stop: Stop) -> Result<(), std::convert::Infallible> {
    let context = Arc::new(context);
    let client = &context.client;
    let name = context.settings.name.clone();
    let of_cluster = move |_: ConfigMap| Some(ObjectRef::new(&name));
    let kubeadm = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    let (namespace, cilium) = &context.settings.cilium_config;
    let of_cilium = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let only = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let creation = Arc::clone(&context);
    let create = async {
        let stop = stop.clone();
        let mut pause = Duration::ZERO;
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            pause = match ensure_default(&creation).await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::warn!(error = %Explained(&error), "default SpiderCoordinator not written");
                    RETRY
                }
            };
        }
    };
    let reconcile = Controller::new(Api::<SpiderCoordinator>::all(client.clone()), watcher::Config::default())
        .watches(kubeadm, only("kubeadm-config"), of_cluster.clone())
        .watches(of_cilium, only(cilium), of_cluster)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, |_, _, _| Action::requeue(RETRY), Arc::clone(&context))
        .for_each(async |outcome| match outcome {
            Ok(_) => {}
            Err(controller::Error::QueueError(error)) => {
                tracing::warn!(what = "SpiderCoordinators", error = %Explained(&error), "watch interrupted");
            }
            Err(error) => tracing::debug!(error = %Chain(&error), "SpiderCoordinator to be tried again"),
        });
    tokio::join!(create, reconcile);
    Ok(())
}

/// Creates the default object where there is none. Its absence stops every pod with a coordinator plugin.
async fn ensure_default(context: &Context) -> Result<(), Error> {
    let name = &context.settings.name;
    let api = Api::<SpiderCoordinator>::all(context.client.clone());
    let failed = |step| {
        let name = name.clone();
        move |source| Error { step, name, source }
    };
    if api.get_opt(name).await.map_err(failed("read"))?.is_some() {
        return Ok(());
    }
    let default = SpiderCoordinator::new(name, context.settings.default.clone());
    match api.create(&PostParams::default(), &default).await {
        Ok(_) => tracing::info!(name, "default SpiderCoordinator created"),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(source) => return Err(failed("create")(source)),
    }
    Ok(())
}

async fn reconcile(coordinator: Arc<SpiderCoordinator>, context: Arc<Context>) -> Result<Action, Error> {
    let name = coordinator.name_any();
    if coordinator.metadata.deletion_timestamp.is_some() {
        return let_go(&coordinator, &context).await.map(|()| Action::await_change());
    }
    if name != context.settings.name {
        return Ok(Action::await_change());
    }
    note_type(&coordinator, &context).await;
    let outcome = find(&coordinator, &context).await;
    if let (Err(error @ (NotReady::Unreadable { .. } | NotReady::Directory { .. })), true) =
        (&outcome, is_synced(&coordinator))
    {
        // What was known is better than nothing: without it no pod starts.
        tracing::warn!(name, error = %Explained(error), "SpiderCoordinator status left as it is");
        return Ok(Action::requeue(RETRY));
    }
    let pause = if outcome.is_ok() { context.settings.resync } else { RETRY };
    let status = match outcome {
        Ok(cidrs) => SpiderCoordinatorStatus {
            phase: SpiderCoordinatorStatus::SYNCED.to_owned(),
            // Only possible with type none, which is for clusters that tell no CIDRs.
            reason: cidrs.services.is_empty().then(|| unknown("service").to_string()),
            overlay_pod_cidr: Some(cidrs.pods),
            service_cidr: Some(cidrs.services),
        },
        Err(error) => SpiderCoordinatorStatus {
            phase: SpiderCoordinatorStatus::NOT_READY.to_owned(),
            reason: Some(Chain(&error).to_string()),
            overlay_pod_cidr: Some(Vec::new()),
            service_cidr: Some(Vec::new()),
        },
    };
    if coordinator.status.as_ref() != Some(&status) {
        if let Err(error) = write(&context.client, &coordinator, &status).await {
            return match error.source {
                kube::Error::Api(status) if status.code == 409 => Ok(Action::requeue(AGAIN)), // it has changed meanwhile
                _ => {
                    tracing::warn!(name, error = %Explained(&error), "SpiderCoordinator status not written");
                    Err(error)
                }
            };
        }
        tracing::info!(name, phase = status.phase, reason = status.reason, overlay = ?status.overlay_pod_cidr, service = ?status.service_cidr, "SpiderCoordinator status written");
    }
    Ok(Action::requeue(pause))
}

fn is_synced(coordinator: &SpiderCoordinator) -> bool {
    coordinator.status.as_ref().is_some_and(|status| status.phase == SpiderCoordinatorStatus::SYNCED)
}

async fn write(client: &Client, read: &SpiderCoordinator, status: &SpiderCoordinatorStatus) -> Result<(), Error> {
    let name = read.name_any();
    let mut patch = json!({
        "metadata": {"uid": read.uid(), "resourceVersion": read.resource_version()},
        "status": status,
    });
    // Merging keeps what is not named.
    if status.reason.is_none() {
        patch["status"]["reason"] = Value::Null;
    }
    let api = Api::<SpiderCoordinator>::all(client.clone());
    let written = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    written.map(drop).map_err(|source| Error { step: "write the status of", name, source })
}

/// Nothing depends on the object but agents, which read the status of what is left: it may go at once.
async fn let_go(coordinator: &SpiderCoordinator, context: &Context) -> Result<(), Error> {
    let name = coordinator.name_any();
    if !coordinator.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(());
    }
    let rest: Vec<_> = coordinator.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let patch = json!({"metadata": {"resourceVersion": coordinator.resource_version(), "uid": coordinator.uid(), "finalizers": rest}});
    let api = Api::<SpiderCoordinator>::all(context.client.clone());
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(Error { step: "remove the finalizer of", name, source }),
    }
}

async fn note_type(coordinator: &SpiderCoordinator, context: &Context) {
    let now = coordinator.spec.pod_cidr_type;
    let before = std::mem::replace(&mut *context.last_type.lock().unwrap_or_else(PoisonError::into_inner), now);
    if let (Some(before), Some(now)) = (before, now)
        && before != now
    {
        let text = format!("podCIDRType changed from {} to {}", before.as_str(), now.as_str());
        context.events.normal(coordinator, "PodCIDRTypeChanged", text).await;
    }
}

async fn find(coordinator: &SpiderCoordinator, context: &Context) -> Result<Cidrs, NotReady> {
    let client = &context.client;
    let kind = match coordinator.spec.pod_cidr_type {
        Some(PodCidrType::Auto) => detected(context).await?,
        Some(kind) => kind,
        None => {
            return Err(NotReady::Unknown(
                "spec.podCIDRType is not set; set it to auto, cluster, calico, cilium or none".to_owned(),
            ));
        }
    };
    let mut cluster = OfCluster { client, read: None };
    let services = match service_cidrs(client).await? {
        Some(services) => services,
        None => cluster.cidrs().await?.services,
    };
    let pods = match kind {
        PodCidrType::None | PodCidrType::Auto => Vec::new(),
        PodCidrType::Cluster => cluster.cidrs().await?.pods,
        PodCidrType::Calico => calico(client).await?.ok_or_else(|| {
            NotReady::Unknown(
                "Calico's IPPools are not there: install Calico, or choose another spec.podCIDRType".to_owned(),
            )
        })?,
        PodCidrType::Cilium => cilium(coordinator, context, &mut cluster).await?,
    };
    let missing = match kind {
        PodCidrType::None | PodCidrType::Auto => None,
        _ if services.is_empty() => Some("service"),
        PodCidrType::Cluster if pods.is_empty() => Some("pod"),
        _ => None,
    };
    if let Some(what) = missing {
        let error = unknown(what);
        context.events.warning(coordinator, "ClusterNotReady", error.to_string()).await;
        return Err(error);
    }
    Ok(Cidrs { pods, services })
}

/// What `auto` stands for: the network that this node's CNI configuration names. Where there is none (not every node that a
/// controller runs on has pods of the cluster's network) the API tells.
async fn detected(context: &Context) -> Result<PodCidrType, NotReady> {
    let dir = &context.settings.cni_dir;
    let failed = |source| NotReady::Directory { dir: dir.display().to_string(), source };
    if let Some(network) = default_network(dir).await.map_err(failed)? {
        return Ok(cidrs::type_of_network(&network));
    }
    if calico(&context.client).await?.is_some_and(|cidrs| !cidrs.is_empty()) {
        return Ok(PodCidrType::Calico);
    }
    Ok(if cilium_config(context).await?.is_some() { PodCidrType::Cilium } else { PodCidrType::None })
}

/// The cluster's own CIDRs, read when they are first asked for.
struct OfCluster<'a> {
    client: &'a Client,
    read: Option<Cidrs>,
}

impl OfCluster<'_> {
    async fn cidrs(&mut self) -> Result<Cidrs, NotReady> {
        if let Some(read) = &self.read {
            return Ok(read.clone());
        }
        let read = of_cluster(self.client).await?;
        self.read = Some(read.clone());
        Ok(read)
    }
}

fn unknown(what: &str) -> NotReady {
    NotReady::Unknown(format!(
        "the cluster's {what} CIDRs are not known: ConfigMap kube-system/kubeadm-config and Pods labelled \
         component=kube-controller-manager do not tell them; create the ConfigMap with podSubnet and serviceSubnet; \
         spec.podCIDRType none does without"
    ))
}

/// What kubeadm says, completed by what kube-controller-manager was started with.
async fn of_cluster(client: &Client) -> Result<Cidrs, NotReady> {
    let unreadable = |what: &str| {
        let what = what.to_owned();
        move |source| NotReady::Unreadable { what, source }
    };
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    let map = maps.get_opt("kubeadm-config").await.map_err(unreadable("ConfigMap kube-system/kubeadm-config"))?;
    let found = map.and_then(|map| map.data).map(|data| cidrs::of_kubeadm(&data)).unwrap_or_default();
    if !found.incomplete() {
        return Ok(found);
    }
    let managers = ListParams::default().labels("component=kube-controller-manager").limit(1);
    let pods = Api::<Pod>::all(client.clone())
        .list(&managers)
        .await
        .map_err(unreadable("the kube-controller-manager Pods"))?;
    let containers = pods.items.iter().filter_map(|pod| pod.spec.as_ref()).flat_map(|spec| &spec.containers);
    let words = containers.flat_map(|container| container.command.iter().chain(&container.args).flatten());
    Ok(found.or(cidrs::of_controller_manager(words.map(String::as_str))))
}

/// The CIDRs of ServiceCIDR objects; `None` where the API has no such kind, or none of them.
async fn service_cidrs(client: &Client) -> Result<Option<Vec<String>>, NotReady> {
    for version in ["v1", "v1beta1", "v1alpha1"] {
        let Some(objects) = foreign(client, "networking.k8s.io", version, "ServiceCIDR", "servicecidrs").await? else {
            continue;
        };
        let cidrs = objects.iter().flat_map(|object| object.data["spec"]["cidrs"].as_array().into_iter().flatten());
        let cidrs: Vec<String> = cidrs.filter_map(|cidr| cidr.as_str().map(str::to_owned)).collect();
        return Ok(Some(cidrs).filter(|cidrs| !cidrs.is_empty()));
    }
    Ok(None)
}

/// Calico's pod CIDRs; `None` where the API does not know its kind.
async fn calico(client: &Client) -> Result<Option<Vec<String>>, NotReady> {
    let pools = foreign(client, "crd.projectcalico.org", "v1", "IPPool", "ippools").await?;
    Ok(pools.map(|pools| {
        let enabled = pools.iter().filter(|pool| pool.data["spec"]["disabled"] != json!(true));
        enabled.filter_map(|pool| pool.data["spec"]["cidr"].as_str().map(str::to_owned)).collect()
    }))
}

async fn cilium_config(context: &Context) -> Result<Option<ConfigMap>, NotReady> {
    let (namespace, name) = &context.settings.cilium_config;
    let map = Api::<ConfigMap>::namespaced(context.client.clone(), namespace).get_opt(name).await;
    map.map_err(|source| NotReady::Unreadable { what: format!("ConfigMap {namespace}/{name}"), source })
}

async fn cilium(
    coordinator: &SpiderCoordinator,
    context: &Context,
    cluster: &mut OfCluster<'_>,
) -> Result<Vec<String>, NotReady> {
    let (namespace, name) = &context.settings.cilium_config;
    let what = format!("ConfigMap {namespace}/{name}");
    let Some(map) = cilium_config(context).await? else {
        let text = format!("{what} is not there: install Cilium, or choose another spec.podCIDRType");
        context.events.warning(coordinator, "CiliumNotReady", text.clone()).await;
        return Err(NotReady::Unknown(text));
    };
    match cidrs::of_cilium(&map.data.unwrap_or_default()) {
        Cilium::Given(cidrs) => Ok(cidrs),
        Cilium::Kubernetes => match cluster.cidrs().await?.pods {
            pods if pods.is_empty() => Err(unknown("pod")),
            pods => Ok(pods),
        },
        Cilium::Pools => {
            let pools =
                foreign(&context.client, "cilium.io", "v2alpha1", "CiliumPodIPPool", "ciliumpodippools").await?;
            let lists = pools
                .iter()
                .flatten()
                .flat_map(|pool| ["ipv4", "ipv6"].map(|family| pool.data["spec"][family]["cidrs"].clone()));
            let texts = lists.flat_map(|list| list.as_array().cloned().unwrap_or_default());
            Ok(texts.filter_map(|cidr| cidr.as_str().map(str::to_owned)).collect())
        }
        Cilium::Unknown(mode) => {
            Err(NotReady::Unknown(format!("{what} names IPAM mode '{mode}', whose pod CIDRs are not known")))
        }
    }
}

/// The living objects of a kind we have no type for, oldest first; `None` where the API does not know the kind.
async fn foreign(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
) -> Result<Option<Vec<DynamicObject>>, NotReady> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    match api.list(&ListParams::default()).await {
        Ok(list) => {
            let mut objects = list.items;
            objects.retain(|object| object.meta().deletion_timestamp.is_none());
            objects.sort_by_key(|object| object.creation_timestamp().map(|created| created.0));
            Ok(Some(objects))
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(source) => Err(NotReady::Unreadable { what: format!("{plural}.{group}"), source }),
    }
}

/// The network of the first CNI configuration file that is not a meta plugin's.
pub(crate) async fn default_network(dir: &Path) -> std::io::Result<Option<String>> {
    let mut entries = match tokio::fs::read_dir(dir).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut files = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        files.push(entry.path());
    }
    files.sort();
    for file in files {
        let named = matches!(file.extension().and_then(|extension| extension.to_str()), Some("conf" | "conflist"));
        let meta = file.file_name().is_some_and(|name| name.to_string_lossy().contains("00-multus"));
        if !named || meta {
            continue;
        }
        let text = tokio::fs::read(&file).await?;
        let Ok(network) = serde_json::from_slice::<Value>(&text) else { continue };
        let first = network.pointer("/plugins/0/type").or(network.get("type")).and_then(Value::as_str);
        if matches!(first, Some("multus" | "multus-shim" | "multinet")) {
            continue;
        }
        return Ok(network["name"].as_str().map(str::to_owned));
    }
    Ok(None)
}
