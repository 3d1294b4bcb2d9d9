//! API servers that are slow, gone or mad; agents that are killed.

use crate::world::{Weather, World, eventually, v4, v6};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn an_add_without_api_server_is_an_error_to_retry_and_leaves_nothing() {
    for weather in [Weather::Gone, Weather::Refusing, Weather::Garbage] {
        let world = World::new().await;
        world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
        let agent = world.agent("node-a").await;
        let pod = world.pod("web", json!({})).await;
        let other = world.pod("other", json!({})).await;
        agent.addresses(&other).await; // by then the watch has seen both pods
        world.set(weather);
        let (status, error) = agent.add(&pod).await;
        let error = error.as_str().unwrap().to_owned();
        assert!(status == 500 && error.contains("API server"), "{weather:?}: {error}");
        world.set(Weather::Fair);
        let addresses = agent.addresses(&pod).await;
        let claims = async || world.claims().await;
        eventually("one claim for each pod", async || {
            claims().await.len() == 2 && claims().await.contains_key(&addresses[0])
        })
        .await;
    }
}

#[tokio::test]
async fn lost_answers_cost_no_address() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    agent.addresses(&world.pod("other", json!({})).await).await;
    world.set(Weather::AnswersLost);
    let asked = agent.add(&pod);
    let heal = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.set(Weather::Fair);
    };
    let ((status, answer), ()) = tokio::join!(asked, heal);
    // Whether it was read back in time or given up: the pod ends with exactly one address.
    if status != 200 {
        assert!(answer.as_str().unwrap().contains("API server"), "{answer}");
    }
    let addresses = agent.addresses(&pod).await;
    let mine = async || {
        world
            .claims()
            .await
            .into_iter()
            .filter(|(_, holder)| holder == "web/eth0")
            .map(|(address, _)| address)
            .collect::<Vec<_>>()
    };
    eventually("exactly one claim", async || mine().await == addresses).await;
}

#[tokio::test]
async fn a_slow_api_server_only_takes_longer() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.99")).await;
    world.pool("p6", v6("fd00:1::10-fd00:1::99")).await;
    let agent = world.agent("node-a").await;
    let mut pods = Vec::new();
    for n in 0..20 {
        pods.push(world.pod(&format!("p{n}"), json!({})).await);
    }
    world.set(Weather::Slow);
    for (status, answer) in futures::future::join_all(pods.iter().map(|pod| agent.add(pod))).await {
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(world.claims().await.len(), 40);
}

#[tokio::test]
async fn an_agent_that_starts_before_the_api_server_waits_for_it() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10")).await;
    let pod = world.pod("web", json!({})).await;
    world.set(Weather::Gone);
    let agent = world.start_agent("node-a", "", &[]).await;
    eventually("it says what it waits for", async || {
        agent.readiness.check() == Err("waiting for API server".to_owned())
    })
    .await;
    assert!(!agent.socket.exists(), "plugins leave notes meanwhile");
    let probe = async |kind: &str| agent.probe(kind).await;
    for kind in ["startup", "liveness"] {
        assert_eq!(probe(kind).await, (200, String::new()), "{kind}: a new process would wait as this one does");
    }
    assert_eq!(probe("readiness").await, (500, r#""waiting for API server""#.to_owned()));
    world.set(Weather::Fair);
    eventually("it serves", async || agent.readiness.check().is_ok()).await;
    assert_eq!(agent.addresses(&pod).await, ["10.1.0.10"]);
    assert_eq!(probe("readiness").await.0, 200);
    // From now on its socket is what its life is known by.
    std::fs::remove_file(&agent.socket).unwrap();
    assert_eq!((probe("startup").await.0, probe("liveness").await.0), (200, 500));
}

#[tokio::test]
async fn a_kill_in_the_middle_of_adds_leaks_and_doubles_nothing() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.49")).await;
    let agent = world.agent("node-a").await;
    let mut pods = Vec::new();
    for n in 0..40 {
        pods.push(world.pod(&format!("p{n}"), json!({})).await);
    }
    world.set(Weather::Slow);
    let socket = agent.socket.clone();
    let asked: Vec<_> = pods
        .iter()
        .map(|pod| {
            let (socket, args) = (socket.clone(), pod.args(json!({})));
            tokio::spawn(async move { crate::world::call(&socket, "POST", "/v1/ipam/ip", &args).await })
        })
        .collect();
    eventually("some claims are made", async || world.claims().await.len() >= 5).await;
    agent.kill();
    for one in asked {
        let _ = one.await; // the connection breaks
    }
    world.set(Weather::Fair);
    // Half of the pods go while the machine is down.
    for pod in &pods[..20] {
        world.delete_pod(&pod.name).await;
    }
    world.start_machine();
    let agent = world.agent("node-a").await;
    eventually("claims of pods that are gone are freed", async || {
        world
            .claims()
            .await
            .into_values()
            .all(|holder| pods[20..].iter().any(|pod| holder == format!("{}/eth0", pod.name)))
    })
    .await;
    let again = pods[20..].iter().map(|pod| pod.container("again")).collect::<Vec<_>>();
    for (status, answer) in futures::future::join_all(again.iter().map(|pod| agent.add(pod))).await {
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(world.claims().await.len(), 20);
    eventually("every pod has its endpoint and no other", async || world.endpoints().await.len() == 20).await;
}

#[tokio::test]
async fn a_graceful_stop_finishes_running_requests() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.49")).await;
    let agent = world.agent("node-a").await;
    let mut pods = Vec::new();
    for n in 0..10 {
        pods.push(world.pod(&format!("p{n}"), json!({})).await);
    }
    world.set(Weather::Slow);
    world.requests.lock().unwrap().clear();
    let socket = agent.socket.clone();
    let asked: Vec<_> = pods
        .iter()
        .map(|pod| {
            let (socket, args) = (socket.clone(), pod.args(json!({})));
            tokio::spawn(async move { crate::world::call(&socket, "POST", "/v1/ipam/ip", &args).await })
        })
        .collect();
    eventually("all are under way", async || {
        world.requests.lock().unwrap().iter().filter(|request| *request == "POST spiderips").count() >= 10
    })
    .await;
    agent.stop().await;
    for one in asked {
        let (status, answer) = one.await.unwrap();
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(world.endpoints().await.len(), 10, "what was answered is written before the end");
    assert!(!socket.exists());
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_read_is_not_taken_for_none() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let first = agent.add_with(&pod, json!({"cleanGateway": true})).await;
    assert_eq!((first.0, &first.1["ips"][0]["gateway"], &first.1["routes"]), (200, &json!("10.1.0.1"), &json!([])));
    eventually("the endpoint is written", async || world.endpoint("web").await.is_some()).await;
    let told = world.endpoint("web").await.unwrap().status;
    agent.kill();
    // The pool is another one meanwhile.
    let patch = kube::api::Patch::Merge(json!({"spec": {"gateway": "10.1.0.2"}}));
    world.api::<k8s_api::SpiderIPPool>().patch("p4", &Default::default(), &patch).await.unwrap();
    world.set(Weather::NoEndpoints);
    let agent = world.agent("node-a").await;
    let (status, error) = agent.add(&pod).await;
    let error = error.as_str().unwrap();
    assert!(status == 500 && error.starts_with("cannot read SpiderEndpoint ns1/web"), "{error}");
    world.set(Weather::Fair);
    assert_eq!(agent.add(&pod).await, first);
    agent.stop().await;
    assert_eq!(world.endpoint("web").await.unwrap().status, told);
}

#[tokio::test]
async fn an_add_whose_endpoint_was_never_written_is_repeated_as_it_was() {
    let list = r#"[{"interface":"eth0","ipv4":["p4"],"cleangateway":true}]"#;
    let by_annotation = json!({"ipam.spidernet.io/ippools": list});
    for (annotations, more) in [(json!({}), json!({"cleanGateway": true})), (by_annotation, json!({}))] {
        let world = World::new().await;
        world.pool("p4", v4("10.1.0.10")).await;
        let agent = world.agent("node-a").await;
        let pod = world.pod("web", annotations.clone()).await;
        world.set(Weather::NoEndpoints);
        let first = agent.add_with(&pod, more.clone()).await;
        assert_eq!((first.0, &first.1["routes"]), (200, &json!([])), "{annotations}");
        agent.kill();
        world.set(Weather::Fair);
        assert!(world.endpoint("web").await.is_none());
        let agent = world.agent("node-a").await;
        eventually("the pod is found by its endpoint", async || world.endpoint("web").await.is_some()).await;
        // What stands in it is a guess, also for the next process.
        agent.stop().await;
        let agent = world.agent("node-a").await;
        assert_eq!(agent.add_with(&pod, more).await, first, "{annotations}");
        agent.stop().await;
        let told = world.endpoint("web").await.unwrap().status.unwrap().current;
        assert_eq!(told.ips[0].clean_gateway, Some(true), "{annotations}");
    }
}

#[tokio::test]
async fn a_restart_of_the_agent_frees_no_address_before_the_del() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.11")).await;
    let agent = world.agent("node-a").await;
    let (forced, ended) = (world.pod("forced", json!({})).await, world.pod("ended", json!({})).await);
    for pod in [&forced, &ended] {
        agent.addresses(pod).await;
    }
    let orphan = async || world.endpoint("ended").await.is_some();
    eventually("the endpoints are written", async || world.endpoints().await.len() == 2).await;
    agent.kill();
    // Both are deleted by force; of one the runtime has heard, and so has the plugin.
    for name in ["forced", "ended"] {
        world.delete_pod(name).await;
    }
    world.spool("node-a").leave(&wire::spool::Note { release: ended.release(), written: 1 }).unwrap();
    let agent = world.agent("node-a").await;
    let holders = async || world.claims().await.into_values().collect::<Vec<_>>();
    eventually("what has ended is freed", async || holders().await == ["forced/eth0"] && !orphan().await).await;
    let next = world.pod("next", json!({})).await;
    agent.addresses(&next).await;
    let (status, error) = agent.add(&world.pod("late", json!({})).await).await;
    assert!(status == 500 && error.as_str().unwrap().starts_with("all IP addresses used out"), "{error}");
    // The end waits for what the start has begun.
    agent.stop().await;
    assert_eq!(world.claims().await.len(), 2, "the sandbox of the other one may still be there");
    let agent = world.agent("node-a").await;
    assert_eq!(agent.del(&forced).await.0, 200);
    eventually("its DEL frees it", async || holders().await == ["next/eth0"]).await;
}

#[tokio::test]
async fn a_finished_pod_whose_address_is_freed_at_the_start_has_no_endpoint_again() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.11")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    agent.addresses(&pod).await;
    agent.stop().await;
    assert!(world.endpoint("web").await.is_some());
    world.finish_pod("web").await;
    world.spool("node-a").leave(&wire::spool::Note { release: pod.release(), written: 1 }).unwrap();
    // The start is in the middle of reading what the pod was told when its note is worked off.
    world.set(Weather::EndpointHeld);
    let agent = world.agent("node-a").await;
    eventually("the endpoint is being read", async || world.was_asked("held web")).await;
    let is_free = async || world.claims().await.is_empty() && world.endpoint("web").await.is_none();
    eventually("the address is free and the endpoint gone", is_free).await;
    world.set(Weather::NoEndpointList); // which would make good what went wrong
    eventually("the start has seen to all pods", async || world.was_asked("GET spiderendpoints")).await;
    let path = "/v1/workloadendpoint?podName=web&podNamespace=ns1";
    let told = crate::world::call(&agent.socket, "GET", path, &serde_json::Value::Null).await;
    assert_ne!(told.0, 200, "{}", told.1);
    agent.stop().await;
    assert_eq!(world.endpoint("web").await.map(|endpoint| endpoint.status), None);
}

#[tokio::test]
async fn an_address_is_kept_while_somebody_has_its_sandbox_on_record() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let mut pods = Vec::new();
    for n in 0..8 {
        let pod = world.pod(&format!("p{n}"), json!({})).await;
        agent.addresses(&pod).await;
        pods.push(pod);
    }
    let [multinet, multus, runtime, gone @ ..] = pods.as_slice() else { panic!("eight pods") };
    let files = [
        format!("multinet/{}-eth0.json", multinet.container),
        format!("multus/{}", multus.container),
        format!("results/net-{}-eth0", runtime.container),
    ];
    for file in &files {
        let path = world.cni_dir().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "{}").unwrap();
    }
    agent.kill();
    for pod in &pods {
        world.delete_pod(&pod.name).await;
    }
    *world.no_del.lock().unwrap() = Duration::ZERO;
    let agent = world.agent("node-a").await;
    let kept = ["p0/eth0", "p1/eth0", "p2/eth0"].map(str::to_owned);
    let holders = async || {
        let mut holders: Vec<String> = world.claims().await.into_values().collect();
        holders.sort();
        holders
    };
    eventually("the others are freed", async || {
        let holders = holders().await;
        gone.iter().all(|pod| !holders.contains(&format!("{}/eth0", pod.name)))
    })
    .await;
    // The end waits for what was begun; the next agent looks once more.
    agent.stop().await;
    assert_eq!(holders().await, kept);
    // The records outlive the machine's end, the sandboxes do not.
    world.start_machine();
    let _agent = world.agent("node-a").await;
    eventually("a start of the machine has ended all sandboxes", async || holders().await.is_empty()).await;
}

#[tokio::test]
#[ignore = "netns"]
async fn the_address_of_a_sandbox_that_outlives_its_pod_is_kept() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let (kept, freed) = (world.pod("kept", json!({})).await, world.pod("freed", json!({})).await);
    for pod in [&kept, &freed] {
        agent.addresses(pod).await;
    }
    agent.kill();
    for name in ["kept", "freed"] {
        world.delete_pod(name).await;
    }
    // A forced deletion: the runtime has not heard of it for long, and the pair of the coordinator is still there.
    let pair = wire::cni::host_veth(&kept.container);
    ip(&["link", "add", &pair, "type", "veth", "peer", "name", "inner"]);
    *world.no_del.lock().unwrap() = Duration::ZERO;
    let agent = world.agent("node-a").await;
    let holders = async || world.claims().await.into_values().collect::<Vec<_>>();
    eventually("the other one's is freed", async || holders().await == ["kept/eth0"]).await;
    ip(&["link", "del", &pair]);
    assert_eq!(agent.del(&kept).await.0, 200);
    eventually("its DEL frees it", async || holders().await.is_empty()).await;
}

fn ip(arguments: &[&str]) {
    assert!(std::process::Command::new("ip").args(arguments).status().unwrap().success(), "{arguments:?}");
}
