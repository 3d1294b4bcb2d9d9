//! A cluster without kubelets: an API server in process, objects, agents with a runtime of their own, and raw HTTP.

use agent::app::{self, Ports};
use agent::settings::Settings;
use apiserver::{Options, Server};
use axum::body::Body;
use daemon::{Env, Readiness, Stop, Tasks};
use http::{Request, Response, StatusCode};
use k8s_api::{SpiderEndpoint, SpiderIP, SpiderIPPool};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tower::ServiceExt;

/// Waiting longer than this for a state is a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the way to the API server does to requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    #[default]
    Fair,
    /// No request arrives.
    Gone,
    /// Requests arrive, answers do not.
    AnswersLost,
    /// Answers are no JSON.
    Garbage,
    /// Writes are answered with 500 and do not happen.
    Refusing,
    /// Every request takes 300 ms longer.
    Slow,
    /// No request about SpiderEndpoints arrives.
    NoEndpoints,
    /// The status of pools is refused as the chart's policy refuses that of one which is taken over.
    TakenOver,
    /// No request for pods of all nodes arrives.
    NoPods,
    /// The answer to the first request for a SpiderEndpoint is held back until the weather changes; the others are not.
    EndpointHeld,
    /// No request for all SpiderEndpoints arrives.
    NoEndpointList,
}

/// The API server and what agents of one test share.
pub struct World {
    pub server: Server,
    pub client: Client,
    pub dir: TempDir,
    pub weather: Arc<Mutex<Weather>>,
    pub requests: Arc<Mutex<Vec<String>>>,
    /// How long agents that are started from now on leave the addresses of a pod that is gone without a `DEL`.
    pub no_del: Mutex<Duration>,
    /// How long new pools wait for a controller that is at work, with agents that are started from now on.
    pub new_pools: Mutex<Duration>,
    /// How often agents that are started from now on look for release notes that they were not shown.
    pub relook: Mutex<Duration>,
    boots: AtomicU64,
    uids: AtomicU64,
}

impl World {
    pub async fn new() -> Self {
        let server = Server::open(Options::default()).await.unwrap();
        let client = Client::new(server.router(), "default");
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for (_, definition) in k8s_api::all_crds() {
            definitions.create(&PostParams::default(), &definition).await.unwrap();
        }
        let world = Self {
            server,
            client,
            dir: tempfile::tempdir().unwrap(),
            weather: Arc::default(),
            requests: Arc::default(),
            no_del: Mutex::new(agent::recover::NO_DEL),
            new_pools: Mutex::new(agent::upstream::NEW_POOLS),
            relook: Mutex::new(agent::notes::RELOOK),
            boots: AtomicU64::new(0),
            uids: AtomicU64::new(0),
        };
        world.start_machine();
        world.namespace("ns1", json!({})).await;
        world.node("node-a", json!({})).await;
        world
    }

    pub fn api<K: kube::Resource<DynamicType = ()> + Clone>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "ns1")
    }

    pub async fn namespace(&self, name: &str, annotations: Value) {
        let object = json!({"metadata": {"name": name, "annotations": annotations, "labels": {"team": name}}});
        let api: Api<Namespace> = self.api();
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    pub async fn node(&self, name: &str, labels: Value) {
        let object = json!({"metadata": {"name": name, "labels": labels}});
        let api: Api<Node> = self.api();
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    /// A pool as a user writes it, and the controller has looked at it; no webhook touches it.
    pub async fn pool(&self, name: &str, spec: Value) -> SpiderIPPool {
        self.new_pool(name, spec).await;
        self.pool_status(name, json!({"source": "SpiderIP"})).await
    }

    /// Merges into the status of a pool.
    pub async fn pool_status(&self, name: &str, status: Value) -> SpiderIPPool {
        let patch = Patch::Merge(json!({"status": status}));
        self.api::<SpiderIPPool>().patch_status(name, &PatchParams::default(), &patch).await.unwrap()
    }

    /// A pool that nobody has looked at.
    pub async fn new_pool(&self, name: &str, spec: Value) -> SpiderIPPool {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        let api: Api<SpiderIPPool> = self.api();
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// A pod of `ns1` on `node-a`.
    pub async fn pod(&self, name: &str, annotations: Value) -> Target {
        self.pod_on(name, "node-a", annotations).await
    }

    pub async fn pod_on(&self, name: &str, node: &str, annotations: Value) -> Target {
        let object = json!({
            "metadata": {"name": name, "annotations": annotations, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
        });
        let pod = self.pods().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        let container = format!("c{}", self.uids.fetch_add(1, Ordering::Relaxed));
        Target { name: name.to_owned(), uid: pod.uid().unwrap(), container, nic: "eth0".to_owned() }
    }

    /// Removes the object at once, as kubelet does at the end of a termination.
    pub async fn delete_pod(&self, name: &str) {
        let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods().delete(name, &params).await.unwrap();
    }

    /// Lets the pod finish.
    pub async fn finish_pod(&self, name: &str) {
        let spec = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
        self.pods().patch_status(name, &PatchParams::default(), &Patch::Merge(spec)).await.unwrap();
    }

    /// Claims by address: `pod/interface`.
    pub async fn claims(&self) -> BTreeMap<String, String> {
        let api: Api<SpiderIP> = self.api();
        let list = api.list(&ListParams::default()).await.unwrap();
        let told = |ip: SpiderIP| {
            let holder = ip.spec.holder.pod().map(|pod| format!("{}/{}", pod.name, pod.interface));
            (ip.spec.address.clone(), holder.unwrap_or_default())
        };
        list.items.into_iter().map(told).collect()
    }

    pub async fn endpoint(&self, name: &str) -> Option<SpiderEndpoint> {
        let api: Api<SpiderEndpoint> = Api::namespaced(self.client.clone(), "ns1");
        api.get_opt(name).await.unwrap()
    }

    pub async fn endpoints(&self) -> Vec<SpiderEndpoint> {
        let api: Api<SpiderEndpoint> = self.api();
        api.list(&ListParams::default()).await.unwrap().items
    }

    pub async fn events(&self) -> Vec<Event> {
        let api: Api<Event> = self.api();
        api.list(&ListParams::default()).await.unwrap().items
    }

    /// Somebody renewed the controller's Lease at that time.
    pub async fn lease(&self, holder: &str, renewed: &str) {
        let object = json!({
            "metadata": {"name": "spiderpool-controller-leases"},
            "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}
        });
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-system");
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    /// Whether agents have asked for this, in the words of `requests`.
    pub fn was_asked(&self, request: &str) -> bool {
        self.requests.lock().unwrap().iter().any(|one| one == request)
    }

    /// The machine is started, for the first time or anew: agents that are started from now on see that.
    pub fn start_machine(&self) {
        let boot = self.boots.fetch_add(1, Ordering::Relaxed);
        std::fs::write(self.boot_id(), format!("boot-{boot}")).unwrap();
    }

    fn boot_id(&self) -> PathBuf {
        self.dir.path().join("boot-id")
    }

    /// Where runtimes and meta plugins of the machine keep what they attached.
    pub fn cni_dir(&self) -> PathBuf {
        self.dir.path().join("cni")
    }

    pub fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    /// A client whose requests pass through the weather and are written down.
    pub fn exposed_client(&self) -> Client {
        let (router, weather, requests) = (self.server.router(), self.weather.clone(), self.requests.clone());
        let held = Arc::new(AtomicBool::new(false));
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (router, weather, requests) = (router.clone(), weather.clone(), requests.clone());
            let held = held.clone();
            async move {
                let path = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                requests.lock().unwrap().push(format!("{} {path}", request.method()));
                let now = *weather.lock().unwrap();
                let is_write = request.method() != http::Method::GET;
                match now {
                    Weather::Gone => return Err(std::io::Error::other("connection refused")),
                    Weather::NoEndpoints if request.uri().path().contains("/spiderendpoints") => {
                        return Err(std::io::Error::other("connection refused"));
                    }
                    Weather::NoEndpointList if path == "spiderendpoints" && !is_write => {
                        return Err(std::io::Error::other("connection refused"));
                    }
                    Weather::NoPods if is_of_all_pods(request.uri()) => {
                        return Err(std::io::Error::other("connection refused"));
                    }
                    Weather::Refusing if is_write => {
                        let text =
                            json!({"kind": "Status", "code": 500, "status": "Failure", "message": "etcd is away"});
                        let body = Body::from(text.to_string());
                        return Ok(Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body(body).unwrap());
                    }
                    Weather::TakenOver if is_write && request.uri().path().contains("/spiderippools/") => {
                        let told = k8s_api::SpiderIPPoolStatus::TAKEN_OVER;
                        let text = format!(
                            "spiderippools \"p\" is forbidden: ValidatingAdmissionPolicy 'a' with binding 'a' denied request: {told}"
                        );
                        let text = json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": text});
                        let body = Body::from(text.to_string());
                        return Ok(Response::builder().status(StatusCode::FORBIDDEN).body(body).unwrap());
                    }
                    Weather::Slow => tokio::time::sleep(Duration::from_millis(300)).await,
                    _ => {}
                }
                let is_of_endpoint = !is_write && request.uri().path().contains("/spiderendpoints/");
                let response = router.oneshot(request.map(Body::new)).await.unwrap();
                match now {
                    Weather::EndpointHeld if is_of_endpoint && !held.swap(true, Ordering::Relaxed) => {
                        requests.lock().unwrap().push(format!("held {path}"));
                        while *weather.lock().unwrap() == Weather::EndpointHeld {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Ok(response)
                    }
                    Weather::AnswersLost => Err(std::io::Error::other("connection reset")),
                    Weather::Garbage => Ok(Response::new(Body::from("<html>proxy error</html>"))),
                    _ => Ok(response),
                }
            }
        });
        Client::new(service, "default")
    }

    /// Path and reading of the socket of an agent that is not started yet.
    pub fn socket(&self, node: &str) -> PathBuf {
        self.dir.path().join(node).join("spiderpool.sock")
    }

    pub fn spool(&self, node: &str) -> wire::spool::Spool {
        wire::spool::Spool::below(&self.dir.path().join("spool"), &self.socket(node))
    }

    pub async fn agent(&self, node: &str) -> Agent {
        self.agent_with(node, "", &[]).await
    }

    /// Starts an agent and waits until it serves.
    pub async fn agent_with(&self, node: &str, config: &str, env: &[(&str, &str)]) -> Agent {
        let agent = self.start_agent(node, config, env).await;
        eventually("the agent is ready", async || agent.readiness.check().is_ok()).await;
        agent
    }

    /// Starts an agent.
    pub async fn start_agent(&self, node: &str, config: &str, env: &[(&str, &str)]) -> Agent {
        let socket = self.socket(node);
        let file = self.dir.path().join(format!("{node}.yml"));
        let basic = "enableIPv4: true\nenableIPv6: true\nenableSpiderSubnet: true\nenableStatefulSet: true\n";
        std::fs::write(&file, format!("{basic}ipamUnixSocketPath: {}\n{config}", socket.display())).unwrap();
        let basic = [
            ("SPIDERPOOL_NODE_NAME", node),
            ("SPIDERPOOL_POD_NAMESPACE", "kube-system"),
            ("SPIDERPOOL_POD_NAME", "agent"),
            ("SPIDERPOOL_HEALTH_PORT", "0"),
            ("SPIDERPOOL_METRIC_HTTP_PORT", "0"),
            ("SPIDERPOOL_ENABLED_METRIC", "true"),
        ];
        let env: Env = basic.iter().chain(env).copied().collect();
        let mut settings = Settings::new(&env, daemon::config::load(&file).unwrap().config).unwrap();
        settings.spool_root = self.dir.path().join("spool");
        (settings.cni_dir, settings.boot_id) = (self.cni_dir(), self.boot_id());
        settings.no_del = *self.no_del.lock().unwrap();
        settings.new_pools = *self.new_pools.lock().unwrap();
        settings.relook = *self.relook.lock().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, readiness) = (Stop::new(), Readiness::default());
        let (client, tasks, ready) = (self.exposed_client(), Tasks::new(stop.clone()), readiness.clone());
        // Held from here on, so that an agent whose task has not begun does not look ready.
        let begun = readiness.hold("begin");
        let opened = runtime.spawn(async move { Ports::open(&settings).await.map(|ports| (ports, settings)) });
        let (ports, settings) = opened.await.unwrap().unwrap();
        let (health, metrics) = (ports.health().unwrap(), ports.metrics().unwrap().unwrap());
        let running = runtime.spawn(async move {
            let run = app::run(settings, client, ports, ready, tasks);
            drop(begun);
            run.await
        });
        tokio::task::yield_now().await;
        let running = Some(running);
        Agent { socket, runtime: Some(runtime), stop, readiness, running, health, metrics }
    }
}

fn is_of_all_pods(uri: &http::Uri) -> bool {
    uri.path() == "/api/v1/pods" && !uri.query().unwrap_or_default().contains("spec.nodeName")
}

/// A running agent. Dropping it is `kill -9`: its runtime stops wherever it is.
pub struct Agent {
    pub socket: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
    stop: Stop,
    pub readiness: Readiness,
    running: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
    pub health: std::net::SocketAddr,
    pub metrics: std::net::SocketAddr,
}

impl Agent {
    /// Ends gracefully.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.running.take().unwrap().await.unwrap().unwrap();
    }

    pub fn kill(self) {}

    /// What kubelet gets for one of its probes.
    pub async fn probe(&self, kind: &str) -> (u16, String) {
        let stream = TcpStream::connect(("127.0.0.1", self.health.port())).await.unwrap();
        http_over(stream, "GET", &format!("/v1/runtime/{kind}")).await
    }

    pub async fn add(&self, target: &Target) -> (u16, Value) {
        self.add_with(target, json!({})).await
    }

    pub async fn add_with(&self, target: &Target, more: Value) -> (u16, Value) {
        call(&self.socket, "POST", "/v1/ipam/ip", &target.args(more)).await
    }

    /// The bare addresses of the answer, which must be a success.
    pub async fn addresses(&self, target: &Target) -> Vec<String> {
        let (status, answer) = self.add(target).await;
        assert_eq!(status, 200, "{answer}");
        bare(&answer)
    }

    pub async fn del(&self, target: &Target) -> (u16, Value) {
        call(&self.socket, "DELETE", "/v1/ipam/ip", &target.args(json!({}))).await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a plugin is called for.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub uid: String,
    pub container: String,
    pub nic: String,
}

impl Target {
    pub fn nic(&self, nic: &str) -> Self {
        Self { nic: nic.to_owned(), ..self.clone() }
    }

    pub fn container(&self, container: &str) -> Self {
        Self { container: container.to_owned(), ..self.clone() }
    }

    pub fn args(&self, more: Value) -> Value {
        let mut args = json!({
            "containerID": self.container, "ifName": self.nic, "netNamespace": "/var/run/netns/x",
            "podNamespace": "ns1", "podName": self.name, "podUID": self.uid
        });
        args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        args
    }

    pub fn release(&self) -> wire::agent::ReleaseArgs {
        serde_json::from_value(self.args(json!({}))).unwrap()
    }
}

/// Addresses of an answer without prefix length.
pub fn bare(answer: &Value) -> Vec<String> {
    let address = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    answer["ips"].as_array().unwrap().iter().map(address).collect()
}

/// One request as Go's client sends it: an empty Host, `Connection: close`, a body with any method.
pub async fn call(socket: &Path, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, _, text) = raw(socket, method, path, &body).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Status, headers and body of an answer.
pub async fn raw(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nConnection: close\r\n\
         Accept: application/json\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    // An agent that refuses early does not read to the end.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut bytes = Vec::new();
    // The rest of an unread request makes the end a reset; the answer came before it.
    while stream.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {}
    let answer = String::from_utf8(bytes).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// Status and body of an answer over TCP.
pub async fn http_over(mut stream: TcpStream, method: &str, path: &str) -> (u16, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Waits for a state.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A pool of one subnet that anybody may use.
pub fn v4(ips: &str) -> Value {
    json!({"subnet": "10.1.0.0/16", "ips": [ips], "gateway": "10.1.0.1", "default": true})
}

/// The same for IPv6.
pub fn v6(ips: &str) -> Value {
    json!({"subnet": "fd00:1::/64", "ips": [ips], "gateway": "fd00:1::1", "default": true})
}
