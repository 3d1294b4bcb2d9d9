//! An API server in process with the chart's CRDs, and the controller on it, its webhooks called over real TLS.

#![allow(dead_code)] // every test file uses a part

pub mod keeper;
pub mod spy;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::http;
use clap::Parser as _;
use controller::{
    process::{self, Sockets},
    settings::{Cli, Command, Settings},
};
use daemon::{Env, Readiness, Stop, Tasks};
use k8s_openapi::{
    api::core::v1::Event, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// The configuration file with both families.
pub const BOTH: &str = "enableIPv4: true\nenableIPv6: true\n";

/// The world of one test.
pub struct World {
    pub client: Client,
    replica: Option<Replica>,
    server: Option<apiserver::Server>,
}

/// One controller.
pub struct Replica {
    pub readiness: Readiness,
    pub webhook: SocketAddr,
    pub health: SocketAddr,
    stop: Stop,
    task: Option<JoinHandle<Result<(), daemon::tasks::TaskError>>>,
    _files: tempfile::TempDir,
}

/// A world without controller.
pub async fn api_server() -> (Client, apiserver::Server) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = apiserver::Server::open(apiserver::Options::default()).await.unwrap();
    let client = Client::new(server.router(), "default");
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for (_, definition) in k8s_api::all_crds() {
        definitions.create(&PostParams::default(), &definition).await.unwrap();
    }
    for (_, definition) in k8s_api::all_crds() {
        let name = definition.metadata.name.unwrap();
        eventually(&format!("{name} established"), || async {
            let conditions = definitions.get(&name).await.unwrap().status?.conditions?;
            conditions.iter().any(|one| one.type_ == "Established" && one.status == "True").then_some(())
        })
        .await;
    }
    (client, server)
}

impl World {
    /// The usual one.
    pub async fn start() -> Self {
        Self::with(BOTH, &[]).await
    }

    /// With this configuration file and more variables.
    pub async fn with(config: &str, env: &[(&str, &str)]) -> Self {
        let (client, server) = api_server().await;
        Self::on(client, server, config, env).await
    }

    /// On an API server that has lived already.
    pub async fn on(client: Client, server: apiserver::Server, config: &str, env: &[(&str, &str)]) -> Self {
        let replica = Replica::start(&client, "controller-0", None, config, env, |_| {}).await;
        replica.ready().await;
        Self { client, replica: Some(replica), server: Some(server) }
    }

    /// Ends the controller as SIGTERM does.
    pub async fn end(self) {
        drop(self.end_and_keep().await);
    }

    /// The same; the API server goes on.
    pub async fn end_and_keep(mut self) -> apiserver::Server {
        self.replica.take().unwrap().end().await;
        self.server.take().unwrap()
    }
}

impl Replica {
    /// Starts a controller whose pod has this name; its webhooks are called at its own socket or at `url`.
    pub async fn start(
        client: &Client,
        name: &str,
        url: Option<&str>,
        config: &str,
        env: &[(&str, &str)],
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join("conf.yml");
        std::fs::write(&path, config).unwrap();
        let cni = files.path().join("cni");
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sockets = Sockets { health: listen().await, webhook: listen().await, metrics: None };
        let (webhook, health) = (sockets.webhook.local_addr().unwrap(), sockets.health.local_addr().unwrap());
        let url = url.map_or_else(|| format!("https://{webhook}"), str::to_owned);
        let arguments =
            ["spiderpool-controller", "daemon", "--config-path", path.to_str().unwrap(), "--webhook-url", &url];
        let Command::Daemon(flags) = Cli::parse_from(arguments).command else { unreachable!() };
        let fixed = [
            ("SPIDERPOOL_POD_NAMESPACE", "kube-system"),
            ("SPIDERPOOL_POD_NAME", name),
            ("SPIDERPOOL_COORDINATOR_ENABLED", "true"),
            ("SPIDERPOOL_MULTUS_CONFIG_ENABLED", "true"),
            ("SPIDERPOOL_CNI_CONFIG_DIR", cni.to_str().unwrap()),
        ];
        let env: Env = fixed.iter().chain(env).copied().collect();
        let mut settings = Settings::new(flags, daemon::config::load(&path).unwrap().config, &env).unwrap();
        change(&mut settings);
        let stop = Stop::new();
        let mut tasks = Tasks::new(stop.clone());
        let readiness = process::start(&mut tasks, settings, client.clone(), sockets).unwrap();
        let task = Some(tokio::spawn(tasks.run(Duration::from_secs(10))));
        Self { readiness, webhook, health, stop, task, _files: files }
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        eventually("controller ready", || async { self.readiness.check().is_ok().then_some(()) }).await;
    }

    /// Ends it as SIGTERM does.
    pub async fn end(mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits for a state, with a deadline.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An object of `kind`, as a client sends it.
pub fn object<K: Resource<DynamicType = ()> + DeserializeOwned>(name: &str, rest: Value) -> K {
    let mut object: K = serde_json::from_value(rest).unwrap();
    *object.meta_mut() = ObjectMeta { name: Some(name.to_owned()), ..object.meta().clone() };
    object
}

/// Creates a cluster-scoped object.
pub async fn create<K>(client: &Client, name: &str, rest: Value) -> kube::Result<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    Api::all(client.clone()).create(&PostParams::default(), &object::<K>(name, rest)).await
}

/// Creates a namespaced object.
pub async fn create_in<K>(client: &Client, namespace: &str, name: &str, rest: Value) -> kube::Result<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &object::<K>(name, rest)).await
}

/// Creates a cluster-scoped Spiderpool object out of any JSON, also one that no type can hold.
pub async fn create_raw(client: &Client, kind: &str, plural: &str, name: &str, mut rest: Value) -> kube::Result<Value> {
    rest["apiVersion"] = k8s_api::API_VERSION.into();
    rest["kind"] = kind.into();
    rest["metadata"]["name"] = name.into();
    let request = http::Request::post(format!("/apis/{}/{plural}", k8s_api::API_VERSION))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&rest).unwrap())
        .unwrap();
    client.request(request).await
}

/// Changes a stored object.
pub async fn merge<K: Clone + std::fmt::Debug + serde::de::DeserializeOwned>(
    api: &Api<K>,
    name: &str,
    patch: Value,
) -> K {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
}

/// Waits for an Event.
pub async fn event(client: &Client, namespace: &str, reason: &str) -> Event {
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    eventually(&format!("event {reason}"), || async {
        let events = api.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().find(|event| event.reason.as_deref() == Some(reason))
    })
    .await
}
