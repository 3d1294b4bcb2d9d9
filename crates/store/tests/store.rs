//! Reads and writes against the embedded API server.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use apiserver::{Options, Server};
use ipam::claim::{Claim, Holder, PodHolder, State};
use k8s_api::{FINALIZER, SpiderEndpoint, SpiderEndpointStatus, SpiderIP, SpiderIPPool};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use store::pools::Pools;
use store::{Claims, Endpoints, Failure};

async fn cluster() -> Client {
    let server = Server::open(Options::default()).await.unwrap();
    let client = Client::new(server.router(), "default");
    let api: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
        Api::all(client.clone());
    for (_, definition) in k8s_api::all_crds() {
        api.create(&PostParams::default(), &definition).await.unwrap();
    }
    client
}

fn claim(address: &str, pool: &str, node: &str) -> Claim {
    let pod = PodHolder {
        namespace: "default".into(),
        name: "web".into(),
        uid: "u1".into(),
        container: Some("c1".into()),
        interface: "eth0".into(),
        node: node.into(),
    };
    Claim {
        address: address.parse().unwrap(),
        pool: pool.into(),
        state: State::Allocated,
        holder: Holder::Pod(pod),
        mac: None,
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_claim_is_made_once_and_changed_only_as_it_was_read() {
    let claims = Claims::new(cluster().await);
    let first = claims.create(&claim("10.0.0.7", "p", "a")).await.unwrap();
    assert_eq!(claims.create(&claim("10.0.0.7", "q", "b")).await, Err(Failure::AlreadyExists));
    assert_eq!(claims.read(first.claim.address).await.as_ref(), Ok(&first));

    let mut next = first.claim.clone();
    if let Holder::Pod(pod) = &mut next.holder {
        pod.container = Some("c2".into());
    }
    let second = claims.update(&next, &first.uid, &first.version).await.unwrap();
    assert_eq!((second.claim.clone(), second.uid.as_str()), (next.clone(), first.uid.as_str()));
    assert_eq!(claims.update(&next, &first.uid, "1").await, Err(Failure::Conflict));
    assert_eq!(claims.update(&first.claim, "other", &second.version).await, Err(Failure::Conflict));

    let address = first.claim.address;
    assert_eq!(claims.delete(address, &first.uid, &first.version).await, Err(Failure::Conflict));
    assert_eq!(claims.delete(address, "other", &second.version).await, Err(Failure::Conflict));
    claims.delete(address, &second.uid, &second.version).await.unwrap();
    assert_eq!(claims.delete(address, &second.uid, &second.version).await, Err(Failure::NotFound));
    assert_eq!(claims.read(address).await, Err(Failure::NotFound));
}

#[tokio::test]
async fn lists_are_whole_and_by_exact_name() {
    let claims = Claims::new(cluster().await);
    let long = |tail: &str| format!("{}{tail}", "n".repeat(80));
    for n in 0..620 {
        let address = format!("10.0.{}.{}", n / 250, n % 250);
        claims.create(&claim(&address, "p", &long("a"))).await.unwrap();
    }
    claims.create(&claim("10.1.0.1", "q", &long("b"))).await.unwrap();
    claims.create(&claim("fd00::1", "q", "c")).await.unwrap();
    for fresh in [true, false] {
        assert_eq!(claims.used("p", fresh).await.unwrap().size(), 620, "fresh: {fresh}");
        assert_eq!(claims.used("q", fresh).await.unwrap().texts(), ["10.1.0.1", "fd00::1"], "fresh: {fresh}");
        assert!(claims.used("none", fresh).await.unwrap().is_empty(), "fresh: {fresh}");
    }
    assert_eq!(claims.of_node(&long("a")).await.unwrap().len(), 620);
    assert_eq!(claims.of_node(&long("b")).await.unwrap().len(), 1);
    assert!(claims.of_node("none").await.unwrap().is_empty());
}

#[tokio::test]
async fn missing_definitions_are_told_from_missing_objects() {
    let server = Server::open(Options::default()).await.unwrap();
    let claims = Claims::new(Client::new(server.router(), "default"));
    for outcome in [claims.create(&claim("10.0.0.7", "p", "a")).await, claims.read("10.0.0.7".parse().unwrap()).await] {
        let text = outcome.unwrap_err().to_string();
        assert!(text.ends_with("(are the custom resource definitions installed?)"), "{text}");
    }
}

fn status(uid: &str, address: &str) -> SpiderEndpointStatus {
    serde_json::from_value(json!({
        "current": {"uid": uid, "node": "a", "ips": [{"interface": "eth0", "ipv4": address, "vlan": 0}]},
        "ownerControllerType": "Pod", "ownerControllerName": "web"
    }))
    .unwrap()
}

#[tokio::test]
async fn an_endpoint_is_created_updated_and_removed() {
    let client = cluster().await;
    let endpoints = Endpoints::new(client.clone());
    let api: Api<SpiderEndpoint> = Api::namespaced(client, "default");
    let first = endpoints.write("default", "web", false, &status("u1", "10.0.0.1/24"), None).await.unwrap();
    // Somebody else marks it: their label stays.
    let label =
        Patch::Merge(json!({"metadata": {"labels": {"x": "y"}, "finalizers": [FINALIZER, "example.com/keep"]}}));
    api.patch("web", &PatchParams::default(), &label).await.unwrap();
    let second = endpoints.write("default", "web", false, &status("u1", "10.0.0.2/24"), Some(&first)).await.unwrap();
    let found = api.get("web").await.unwrap();
    assert_eq!((first.uid, found.uid()), (second.uid.clone(), Some(second.uid)));
    assert_eq!(found.status, Some(status("u1", "10.0.0.2/24")));
    assert_eq!(found.labels()["x"], "y");
    assert_eq!(found.finalizers().len(), 2);
    let free = Patch::Merge(json!({"metadata": {"finalizers": [FINALIZER]}}));
    api.patch("web", &PatchParams::default(), &free).await.unwrap();

    endpoints.remove("default", "web", "u0", None).await.unwrap();
    assert!(api.get_opt("web").await.unwrap().is_some(), "it is another pod's");
    endpoints.remove("default", "web", "u1", None).await.unwrap();
    assert!(api.get_opt("web").await.unwrap().is_none());
    endpoints.remove("default", "web", "u1", None).await.unwrap();
}

/// A pod `web` on this node; returns what its endpoint shall tell.
async fn next_pod(client: &Client, node: &str, address: &str) -> SpiderEndpointStatus {
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), "default");
    let pod =
        json!({"metadata": {"name": "web"}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    let made = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let mut status = status(&made.uid().unwrap(), address);
    status.current.node = node.to_owned();
    status
}

#[tokio::test]
async fn the_next_pod_of_a_name_takes_the_endpoint_over_and_nothing_of_the_former_one_stays() {
    let client = cluster().await;
    let endpoints = Endpoints::new(client.clone());
    let api: Api<SpiderEndpoint> = Api::namespaced(client.clone(), "default");
    let first = endpoints.write("default", "web", false, &status("u1", "10.0.0.1/24"), None).await.unwrap();
    let marks = json!({"metadata": {"labels": {"x": "y"}, "annotations": {"x": "y"}, "finalizers": [FINALIZER, "example.com/keep"]}});
    api.patch("web", &PatchParams::default(), &Patch::Merge(marks)).await.unwrap();

    let next = next_pod(&client, "b", "10.0.0.3/24").await;
    let second = endpoints.write("default", "web", true, &next, None).await.unwrap();
    let found = api.get("web").await.unwrap();
    assert_eq!((&first.uid, found.uid().as_ref()), (&second.uid, Some(&second.uid)), "by an update");
    assert_eq!(found.status.as_ref(), Some(&next));
    assert_eq!(found.labels(), &[("ipam.spidernet.io/node".to_owned(), "b".to_owned())].into());
    assert!(found.annotations().is_empty(), "{:?}", found.annotations());
    let owners: Vec<&str> = found.owner_references().iter().map(|owner| owner.uid.as_str()).collect();
    assert_eq!(owners, [&next.current.uid]);
    assert_eq!(found.finalizers(), [FINALIZER, "example.com/keep"], "who guards it is asked when it goes");

    // The former pod's agent is late with everything.
    let late = endpoints.write("default", "web", true, &status("u1", "10.0.0.2/24"), Some(&first)).await;
    assert!(matches!(&late, Err(Failure::Refused(text)) if text.contains("the name belongs to pod")), "{late:?}");
    endpoints.remove("default", "web", "u1", Some(&first)).await.unwrap();
    endpoints.remove("default", "web", "u1", None).await.unwrap();
    assert_eq!(api.get("web").await.unwrap(), found);
}

#[tokio::test]
async fn an_endpoint_that_is_being_deleted_is_let_go_and_made_anew() {
    let client = cluster().await;
    let endpoints = Endpoints::new(client.clone());
    let api: Api<SpiderEndpoint> = Api::namespaced(client.clone(), "default");
    let first = endpoints.write("default", "web", false, &status("u1", "10.0.0.1/24"), None).await.unwrap();
    api.delete("web", &kube::api::DeleteParams::default()).await.unwrap();
    let next = next_pod(&client, "b", "10.0.0.3/24").await;
    let second = endpoints.write("default", "web", false, &next, None).await.unwrap();
    assert_ne!(first.uid, second.uid);
    let found = api.get("web").await.unwrap();
    assert_eq!((found.status.as_ref(), found.metadata.deletion_timestamp), (Some(&next), None));

    // Held by somebody else it tells the truth until it can go.
    let hold = Patch::Merge(json!({"metadata": {"finalizers": [FINALIZER, "example.com/keep"]}}));
    api.patch("web", &PatchParams::default(), &hold).await.unwrap();
    api.delete("web", &kube::api::DeleteParams::default()).await.unwrap();
    let mut changed = next.clone();
    changed.current.ips[0].ipv4 = Some("10.0.0.4/24".into());
    let failure = endpoints.write("default", "web", false, &changed, Some(&second)).await.unwrap_err();
    assert!(failure.is_unknown() && failure.to_string().ends_with("example.com/keep"), "{failure}");
    let held = api.get("web").await.unwrap();
    assert_eq!((held.status.as_ref(), held.finalizers()), (Some(&changed), &["example.com/keep".to_owned()][..]));
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("web", &PatchParams::default(), &free).await.unwrap();
    let third = endpoints.write("default", "web", false, &changed, Some(&second)).await.unwrap();
    assert_ne!(second.uid, third.uid);
}

#[tokio::test]
async fn finalizers_of_others_outlive_ours() {
    let client = cluster().await;
    let endpoints = Endpoints::new(client.clone());
    let api: Api<SpiderEndpoint> = Api::namespaced(client, "default");
    let written = endpoints.write("default", "web", false, &status("u1", "10.0.0.1/24"), None).await.unwrap();
    let more = Patch::Merge(json!({"metadata": {"finalizers": [FINALIZER, "example.com/keep"]}}));
    api.patch("web", &PatchParams::default(), &more).await.unwrap();
    endpoints.remove("default", "web", "u1", Some(&written)).await.unwrap();
    let left = api.get("web").await.unwrap();
    assert_eq!(left.finalizers(), ["example.com/keep"]);
    assert!(left.metadata.deletion_timestamp.is_some());
}

#[tokio::test]
async fn a_pool_is_seen_once_while_the_controller_moves_it() {
    let client = cluster().await;
    let api: Api<SpiderIPPool> = Api::all(client.clone());
    let pool = |name: &str, label: Option<&str>| -> SpiderIPPool {
        let labels = label.map(|node| json!({"ipam.spidernet.io/pool-node": node}));
        let spec = json!({"subnet": "10.0.0.0/24", "ips": ["10.0.0.1"]});
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).unwrap()
    };
    for (name, label) in [("mine", Some("a")), ("theirs", Some("b")), ("shared", None)] {
        api.create(&PostParams::default(), &pool(name, label)).await.unwrap();
    }
    let pools = Arc::new(Pools::default());
    let (own, shared) = (pools.clone(), pools.clone());
    let (first, second) = (client.clone(), client.clone());
    tokio::spawn(async move { own.follow_own(first, "a").await });
    tokio::spawn(async move { shared.follow_shared(second).await });
    pools.synced().await;
    let names = || pools.snapshot().pools.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(), ["mine", "shared"]);
    let label =
        |node: serde_json::Value| Patch::Merge(json!({"metadata": {"labels": {"ipam.spidernet.io/pool-node": node}}}));
    api.patch("theirs", &PatchParams::default(), &label("a".into())).await.unwrap();
    api.patch("shared", &PatchParams::default(), &label("a".into())).await.unwrap();
    eventually("both are ours", async || names() == ["mine", "shared", "theirs"]).await;
    api.patch("mine", &PatchParams::default(), &label("b".into())).await.unwrap();
    api.patch("shared", &PatchParams::default(), &label(json!(null))).await.unwrap();
    eventually("one left", async || names() == ["shared", "theirs"]).await;
    assert!(Arc::ptr_eq(&pools.snapshot(), &pools.snapshot()), "built once per change");
    // What a status says is a hint.
    let used = Patch::Merge(json!({"status": {"usedRanges": ["10.0.0.1"]}}));
    api.patch_status("shared", &PatchParams::default(), &used).await.unwrap();
    eventually("the hint arrives", async || !pools.snapshot().pools["shared"].used_hint.is_empty()).await;
}

#[tokio::test]
async fn objects_of_others_are_counted_as_used() {
    let client = cluster().await;
    let claims = Claims::new(client.clone());
    claims.create(&claim("10.0.0.7", "p", "a")).await.unwrap();
    let api: Api<SpiderIP> = Api::all(client);
    let foreign = json!({
        "metadata": {"name": "10.0.0.8", "labels": {"ipam.spidernet.io/ippool": "p", "ipam.spidernet.io/node": "a"}},
        "spec": {"address": "10.0.0.8", "pool": "p", "state": "Held", "node": {"name": "a"}, "since": "2026-01-01T00:00:00Z"}
    });
    api.create(&PostParams::default(), &serde_json::from_value(foreign).unwrap()).await.unwrap();
    assert_eq!(claims.used("p", true).await.unwrap().texts(), ["10.0.0.7-10.0.0.8"]);
    assert_eq!(claims.of_node("a").await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_agent_of_upstream_that_has_ended_is_not_at_work() {
    let client = cluster().await;
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let agent = async || store::upstream::agent(&client, "spiderpool-agent", None).await.unwrap();
    for (name, phase) in [("evicted", "Failed"), ("done", "Succeeded"), ("starts", "Pending"), ("runs", "Running")] {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "spiderpool-agent"}},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}
        });
        api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let status = Patch::Merge(json!({"status": {"phase": phase}}));
        api.patch_status(name, &PatchParams::default(), &status).await.unwrap();
        let expected = matches!(phase, "Pending" | "Running").then(|| ("default".to_owned(), name.to_owned()));
        assert_eq!(agent().await, expected, "{phase}");
        if expected.is_some() {
            let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            api.delete(name, &at_once).await.unwrap();
        }
    }
}
