//! An API server with a collector on it, and a spy between the two.

use std::{net::IpAddr, sync::Arc, time::Duration};

use controller::{events::Events, gc};
use daemon::Stop;
use k8s_api::{
    FINALIZER, Holder, IpState, SpiderEndpoint, SpiderEndpointStatus, SpiderIP,
    endpoint::{IPAllocationDetail, PodIPAllocation},
    ip::PodHolder,
};
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::world::{api_server, create, create_in, eventually, spy::Spy};

/// Namespace of everything.
pub const NAMESPACE: &str = "default";

/// A cluster without collector.
pub struct Cluster {
    /// Not spied upon.
    pub client: Client,
    pub spy: Arc<Spy>,
    spied: Client,
    _server: apiserver::Server,
}

/// A collector at work.
pub struct Collector {
    pub metrics: gc::Metrics,
    stop: Stop,
    running: JoinHandle<Result<(), std::convert::Infallible>>,
}

impl Collector {
    /// Ends it as the process does.
    pub async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// What [`gc::Settings`] are in tests: everything quick.
pub fn settings() -> gc::Settings {
    gc::Settings {
        interval: Duration::from_millis(150),
        workers: 3,
        gap: Duration::from_millis(10),
        tries: 3,
        stateful_set: true,
        kubevirt: true,
        switches: gc::facts::Switches::default(),
        timing: gc::facts::Timing {
            young: Duration::ZERO,
            settled: Duration::from_millis(100),
            agent: Duration::from_millis(400),
        },
    }
}

impl Cluster {
    pub async fn start() -> Self {
        let (client, server) = api_server().await;
        let (spied, spy) = Spy::on(&server);
        Self { client, spy, spied, _server: server }
    }

    pub fn collect(&self, settings: gc::Settings) -> Collector {
        let (stop, metrics) = (Stop::new(), gc::Metrics::default());
        let context = gc::Context {
            client: self.spied.clone(),
            settings,
            events: Arc::new(Events::new(self.client.clone(), "controller-0")),
            nodes: Arc::default(),
            metrics: metrics.clone(),
        };
        Collector { metrics, running: tokio::spawn(gc::run(context, stop.clone())), stop }
    }

    /// A node; `Ready` or not.
    pub async fn node(&self, name: &str, ready: bool) {
        create::<Node>(&self.client, name, json!({})).await.unwrap();
        let ready = if ready { "True" } else { "Unknown" };
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let nodes = Api::<Node>::all(self.client.clone());
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    pub async fn no_node(&self, name: &str) {
        Api::<Node>::all(self.client.clone()).delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn ips(&self) -> Api<SpiderIP> {
        Api::all(self.client.clone())
    }

    /// A running pod with an address of the cluster's network; `more` is merged into it.
    pub async fn pod(&self, name: &str, node: &str, more: Value) -> Pod {
        self.starting_pod(name, node, more).await;
        self.status(name, json!({"phase": "Running", "podIPs": [{"ip": "10.244.0.9"}], "podIP": "10.244.0.9"})).await
    }

    /// A pod that has no address yet.
    pub async fn starting_pod(&self, name: &str, node: &str, more: Value) -> Pod {
        let mut pod = json!({"spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}],
        }});
        json_patch::merge(&mut pod, &more);
        create_in::<Pod>(&self.client, NAMESPACE, name, pod).await.unwrap()
    }

    pub async fn status(&self, pod: &str, status: Value) -> Pod {
        let patch = Patch::Merge(json!({"status": status}));
        self.pods().patch_status(pod, &PatchParams::default(), &patch).await.unwrap()
    }

    /// `kubectl delete pod --force --grace-period=0`.
    pub async fn force_delete(&self, pod: &str) {
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods().delete(pod, &at_once).await.unwrap();
    }

    /// A claim of a pod with this UID.
    pub async fn claim(&self, address: &str, pod: &str, uid: &str, node: &str) -> SpiderIP {
        self.claim_for(address, pod_holder(pod, uid, node)).await
    }

    pub async fn claim_for(&self, address: &str, holder: Holder) -> SpiderIP {
        self.ips().create(&PostParams::default(), &claim(address, holder)).await.unwrap()
    }

    pub async fn is_claimed(&self, address: &str) -> bool {
        self.ips().get_opt(address).await.unwrap().is_some()
    }

    pub async fn freed(&self, address: &str) {
        eventually(&format!("{address} released"), async || (!self.is_claimed(address).await).then_some(())).await;
    }

    /// Names of all claims.
    pub async fn claims(&self) -> Vec<String> {
        let list = self.ips().list(&ListParams::default()).await.unwrap();
        let mut names: Vec<_> = list.iter().map(ResourceExt::name_any).collect();
        names.sort();
        names
    }

    /// Waits until the collector has read this pod from the API itself a few times more: so it had reason to look, and
    /// time to do what it does.
    pub async fn looked_at(&self, pod: &str) {
        let request = format!("GET /api/v1/namespaces/{NAMESPACE}/pods/{pod}");
        let before = self.spy.count(&request);
        eventually(&format!("{request} three times more"), async || {
            (self.spy.count(&request) >= before + 3).then_some(())
        })
        .await;
    }

    /// How often the collector has read this pool from the API itself.
    pub fn pool_reads(&self, pool: &str) -> usize {
        self.spy.count(&format!("GET /apis/{}/spiderippools/{pool}", k8s_api::API_VERSION))
    }

    /// Whether the collector has ever read this pod from the API itself.
    pub fn was_looked_at(&self, pod: &str) -> bool {
        self.spy.count(&format!("GET /api/v1/namespaces/{NAMESPACE}/pods/{pod}")) > 0
    }

    pub fn endpoints(&self) -> Api<SpiderEndpoint> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The endpoint of a pod with this UID and address, as an agent writes it.
    pub async fn endpoint(&self, pod: &str, uid: &str, owner: (&str, &str), address: &str, node: &str) {
        let ip = IPAllocationDetail {
            interface: "eth0".into(),
            ipv4: Some(format!("{address}/24")),
            ipv4_pool: Some("p".into()),
            ..IPAllocationDetail::default()
        };
        let current = PodIPAllocation { uid: uid.into(), node: node.into(), ips: vec![ip] };
        let (kind, name) = (owner.0.into(), owner.1.into());
        let status = SpiderEndpointStatus { current, owner_controller_type: kind, owner_controller_name: name };
        let mut endpoint = SpiderEndpoint::new(NAMESPACE, pod, status);
        endpoint.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        endpoint.metadata.owner_references = (owner.0 == "Pod").then(|| {
            vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Pod".into(),
                name: pod.into(),
                uid: uid.into(),
                ..OwnerReference::default()
            }]
        });
        self.endpoints().create(&PostParams::default(), &endpoint).await.unwrap();
    }

    pub async fn has_endpoint(&self, pod: &str) -> bool {
        self.endpoints().get_opt(pod).await.unwrap().is_some()
    }

    pub async fn endpoint_gone(&self, pod: &str) {
        eventually(&format!("endpoint {pod} gone"), async || (!self.has_endpoint(pod).await).then_some(())).await;
    }
}

pub fn pod_holder(pod: &str, uid: &str, node: &str) -> Holder {
    Holder::Pod(PodHolder {
        namespace: NAMESPACE.into(),
        name: pod.into(),
        uid: uid.into(),
        container_id: Some("c1".into()),
        interface: "eth0".into(),
        node: node.into(),
    })
}

/// A claim out of pool `p`.
pub fn claim(address: &str, holder: Holder) -> SpiderIP {
    let ip: IpAddr = address.parse().unwrap();
    let state = if holder.pod().is_some() { IpState::Allocated } else { IpState::Held };
    SpiderIP::claim(address, ip, "p", state, holder, Time(Timestamp::now()))
}

pub fn uid(pod: &Pod) -> String {
    pod.uid().unwrap()
}
