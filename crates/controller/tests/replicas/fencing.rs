//! A leader that is stopped by SIGSTOP past its lease and goes on: nothing that it sends changes anything. The judge is a
//! recorder between the processes and the API server.

use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use controller::leader::{Fence, clock};
use k8s_api::{NetworkAttachmentDefinition, SpiderIP, SpiderIPPool, SpiderMultusConfig};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    claim,
    election::holder,
    name,
    world::{BOTH, api_server, create, create_in, eventually},
};

/// One request of a process.
#[derive(Clone, Debug)]
pub struct Heard {
    pub who: &'static str,
    pub method: Method,
    pub path: String,
    pub status: StatusCode,
}

impl Heard {
    fn writes(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }

    fn creates_network(&self) -> bool {
        self.method == Method::POST && self.path.ends_with(NETWORKS)
    }
}

pub type Record = Arc<Mutex<Vec<Heard>>>;

pub async fn record(State((who, heard)): State<(&'static str, Record)>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    heard.lock().unwrap().push(Heard { who, method, path, status: response.status() });
    response
}

const NETWORKS: &str = "/network-attachment-definitions";

/// While this is so nobody can create a NetworkAttachmentDefinition: whoever thinks that it leads keeps trying.
type Held = Arc<AtomicBool>;

async fn hold(State(held): State<Held>, request: Request, next: Next) -> Response {
    if held.load(Ordering::SeqCst) && request.method() == Method::POST && request.uri().path().ends_with(NETWORKS) {
        return (StatusCode::SERVICE_UNAVAILABLE, "not now").into_response();
    }
    next.run(request).await
}

/// A controller as a process of its own.
struct Process {
    who: &'static str,
    child: Child,
    _files: tempfile::TempDir,
}

impl Process {
    async fn start(
        who: &'static str,
        server: &apiserver::Server,
        (heard, held): (&Record, &Held),
        ports: [u16; 2],
        url: &str,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = server.router().layer(from_fn_with_state(Arc::clone(held), hold));
        let router = router.layer(from_fn_with_state((who, Arc::clone(heard)), record));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let files = tempfile::tempdir().unwrap();
        let at = |name: &str| files.path().join(name);
        std::fs::write(at("conf.yml"), BOTH).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
        });
        std::fs::write(at("kubeconfig"), config.to_string()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_spiderpool-controller"))
            .args(["daemon", "--webhook-url", url, "--config-path"])
            .arg(at("conf.yml"))
            .env_clear()
            .env("KUBECONFIG", at("kubeconfig"))
            .env("SPIDERPOOL_POD_NAMESPACE", "kube-system")
            .env("SPIDERPOOL_POD_NAME", who)
            .env("SPIDERPOOL_HEALTH_PORT", ports[0].to_string())
            .env("SPIDERPOOL_WEBHOOK_PORT", ports[1].to_string())
            .env("SPIDERPOOL_MULTUS_CONFIG_ENABLED", "true")
            .env("SPIDERPOOL_LEADER_DURATION", "4")
            .env("SPIDERPOOL_LEADER_RENEW_DEADLINE", "3")
            .env("SPIDERPOOL_LEADER_RETRY_PERIOD", "1")
            .env("SPIDERPOOL_LEADER_RETRY_GAP", "1")
            .stdout(Stdio::from(std::fs::File::create(at("log")).unwrap()))
            .spawn()
            .unwrap();
        Self { who, child, _files: files }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self._files.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Addresses come and go in five pools, so that every pool is always about to be written.
async fn churn(client: Client) {
    let api = Api::<SpiderIP>::all(client);
    for round in 0.. {
        let host = 1 + round % 50;
        for pool in 0..5 {
            let ip = claim(&format!("10.{pool}.0.{host}"), &format!("p{pool}"));
            let _ = api.create(&PostParams::default(), &ip).await;
            let old = name(&format!("10.{pool}.0.{}", 1 + (round + 25) % 50));
            let _ = api.delete(&old, &DeleteParams::default()).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_paused_past_its_lease_changes_nothing_when_it_goes_on() {
    let (client, server) = api_server().await;
    create::<Node>(&client, "node-a", json!({})).await.unwrap();
    for pool in 0..5 {
        let spec = json!({"subnet": format!("10.{pool}.0.0/24"), "ips": [format!("10.{pool}.0.1-10.{pool}.0.60")]});
        create::<SpiderIPPool>(&client, &format!("p{pool}"), json!({"spec": spec})).await.unwrap();
    }
    let (heard, held) = (Record::default(), Held::default());
    let ports = [[free_port().await, free_port().await], [free_port().await, free_port().await]];
    let url = format!("https://127.0.0.1:{}", ports[1][1]);
    let mut a = Process::start("a", &server, (&heard, &held), ports[0], &url).await;
    eventually("a leads", || async { (holder(&client).await.as_deref() == Some("a")).then_some(()) }).await;
    let mut b = Process::start("b", &server, (&heard, &held), ports[1], &url).await;
    let churn = tokio::spawn(churn(client.clone()));
    let writes_views = |who: &'static str, from: usize| {
        let heard = heard.lock().unwrap();
        heard[from..]
            .iter()
            .filter(|one| one.who == who && one.path.ends_with("/status") && one.status.is_success())
            .count()
    };
    let now = || heard.lock().unwrap().len();

    for round in 0..4u64 {
        let (leader, standby) = if holder(&client).await.as_deref() == Some("a") { (&a, &b) } else { (&b, &a) };
        let from = now();
        eventually("the leader keeps the views", || async { (writes_views(leader.who, from) > 5).then_some(()) }).await;
        // At another moment of its work each time.
        tokio::time::sleep(Duration::from_millis(137 * round)).await;
        leader.signal(Signal::STOP);
        eventually("the other one leads", || async {
            (holder(&client).await.as_deref() == Some(standby.who)).then_some(())
        })
        .await;
        let from = now();
        eventually("the other one keeps the views", || async { (writes_views(standby.who, from) > 5).then_some(()) })
            .await;
        // Something to create, which no version guards, for the paused one to find when it goes on. (b answers the webhooks.)
        let network = format!("n{round}");
        let asked = leader.who == "a";
        if asked {
            held.store(true, Ordering::SeqCst);
            let macvlan = json!({"spec": {"cniType": "macvlan", "macvlan": {"master": ["eth0"]}}});
            create_in::<SpiderMultusConfig>(&client, "default", &network, macvlan).await.unwrap();
            eventually("the other one tries to create it", || async {
                let heard = heard.lock().unwrap();
                heard[from..].iter().any(|one| one.who == standby.who && one.creates_network()).then_some(())
            })
            .await;
        }
        let resumed = now();
        leader.signal(Signal::CONT);
        eventually("the former one looks at the lease", || async {
            let heard = heard.lock().unwrap();
            let looks = heard[resumed..].iter().filter(|one| one.who == leader.who && one.path.contains("/leases/"));
            (looks.count() >= 3).then_some(())
        })
        .await;
        let after: Vec<_> = heard.lock().unwrap()[resumed..]
            .iter()
            .filter(|one| one.who == leader.who && one.writes())
            .cloned()
            .collect();
        // A request that had passed the fence when the process was stopped is on its way all the same. It names the version
        // that it was decided on, and conflicts.
        let landed: Vec<_> = after.iter().filter(|one| one.status.is_success()).collect();
        let networks: Vec<_> = after.iter().filter(|one| one.creates_network()).collect();
        assert!(networks.is_empty(), "round {round}: {} creates after its lease: {networks:?}", leader.who);
        assert!(landed.is_empty(), "round {round}: {} wrote after its lease: {landed:?}\n{}", leader.who, leader.log());
        assert!(after.len() <= 5, "round {round}: more than one request for each pool: {after:?}\n{}", leader.log());
        assert!(leader.log().contains("leadership lost"), "{}", leader.log());
        assert_eq!(holder(&client).await.as_deref(), Some(standby.who));
        if asked {
            held.store(false, Ordering::SeqCst);
            let networks = Api::<NetworkAttachmentDefinition>::namespaced(client.clone(), "default");
            eventually("the leader creates it", || async { networks.get_opt(&network).await.unwrap() }).await;
        }
    }
    churn.abort();

    // In order: the lease is given back, the process ends well, the other one leads without waiting.
    let (leader, standby) = if holder(&client).await.as_deref() == Some("a") { (&mut a, &b) } else { (&mut b, &a) };
    let begun = Instant::now();
    leader.signal(Signal::TERM);
    let status = tokio::task::block_in_place(|| leader.child.wait()).unwrap();
    assert!(status.success(), "{status}: {}", leader.log());
    assert!(leader.log().contains("leadership given back"), "{}", leader.log());
    eventually("the other one leads", || async {
        (holder(&client).await.as_deref() == Some(standby.who)).then_some(())
    })
    .await;
    println!("handed over within {:?}", begun.elapsed());
}

/// The API server puts a write off until the term is over: a repetition by the client itself would pass the fence.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_put_off_is_not_sent_again_after_the_term() {
    for code in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT] {
        let fence = Fence::default();
        fence.extend(clock::now() + Duration::from_secs(3600));
        let (term, heard) = (fence.clone(), Arc::new(Mutex::new(0)));
        let counted = Arc::clone(&heard);
        let later = Router::new().fallback(move || async move {
            *counted.lock().unwrap() += 1;
            term.close();
            (code, [("retry-after", "0")], "later")
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, later).await });
        let config = Config::new(url.parse().unwrap());
        let client = store::client::connect_to(config, Duration::from_secs(300)).unwrap();
        let ips = Api::<SpiderIP>::all(fence.guard(&client));
        let outcome = ips.delete("10.0.0.1", &DeleteParams::default()).await;
        assert!(matches!(&outcome, Err(kube::Error::Api(status)) if status.code == code.as_u16()), "{outcome:?}");
        assert_eq!(*heard.lock().unwrap(), 1, "{code}");
    }
}
