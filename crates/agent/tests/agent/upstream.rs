//! The move from upstream Spiderpool, on one node: agents of both kinds at work, and what pods have that nobody claimed.

use crate::upstream_agent::Upstream;
use crate::world::{Agent, PATIENCE, Target, Weather, World, bare, eventually, v4};
use futures::{StreamExt, stream};
use k8s_api::{SpiderIP, SpiderIPPool};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// An agent of upstream, or with the label one of ours, as the API shows it.
async fn agent_pod(world: &World, name: &str, ours: bool) {
    let mut labels = json!({"app.kubernetes.io/component": "spiderpool-agent"});
    if ours {
        labels["ipam.spidernet.io/source"] = "SpiderIP".into();
    }
    let object =
        json!({"metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    world.pods().create(&PostParams::default(), &serde_json::from_value::<Pod>(object).unwrap()).await.unwrap();
}

async fn claim(world: &World, address: &str) -> Option<SpiderIP> {
    world.api::<SpiderIP>().get_opt(address).await.unwrap()
}

async fn wave(agent: &Agent, upstream: &Upstream, pods: &[(Target, String)]) -> BTreeMap<String, String> {
    let ours = stream::iter(pods).map(|(pod, _)| async move {
        let (status, answer) = agent.add(pod).await;
        assert_eq!(status, 200, "{answer}");
        (bare(&answer)[0].clone(), pod.uid.clone())
    });
    let theirs = stream::iter(pods).map(|(_, uid)| async move {
        (upstream.add("p", &format!("pod-of-{uid}"), uid).await.to_string(), uid.clone())
    });
    let (ours, theirs): (Vec<_>, Vec<_>) =
        tokio::join!(ours.buffer_unordered(8).collect(), theirs.buffer_unordered(4).collect());
    let all: BTreeMap<String, String> = ours.iter().chain(&theirs).cloned().collect();
    assert_eq!(all.len(), ours.len() + theirs.len(), "an address was given twice:\n{ours:?}\n{theirs:?}");
    all
}

#[tokio::test]
async fn agents_of_both_kinds_at_work_never_give_an_address_twice() {
    const EACH: usize = 20;
    let world = World::new().await;
    agent_pod(&world, "agent-b", false).await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.54")).await;
    let (agent, upstream) = (world.agent("node-a").await, Upstream::new(&world.client));
    let mut pods = Vec::new();
    for n in 0..EACH {
        pods.push((world.pod(&format!("web-{n}"), json!({})).await, format!("upstream-{n}")));
    }
    let given = wave(&agent, &upstream, &pods).await;
    assert_eq!(upstream.records("p").await, given, "each side sees what the other one gave");
    assert_eq!(world.claims().await.len(), EACH, "upstream's have no claims yet");

    // Half of both go, at the same time.
    let (gone, left) = pods.split_at(EACH / 2);
    for (pod, _) in gone {
        world.delete_pod(&pod.name).await;
    }
    let (agent, upstream) = (&agent, &upstream);
    let releases = stream::iter(gone).for_each_concurrent(8, |(pod, uid)| async move {
        let (theirs, ours) = tokio::join!(upstream.del("p", uid), agent.del(pod));
        assert_eq!((theirs, ours.0), ((), 200));
    });
    releases.await;
    let uids: Vec<&String> = left.iter().flat_map(|(pod, uid)| [&pod.uid, uid]).collect();
    eventually("the rest is booked and nothing else", async || {
        let records = upstream.records("p").await;
        records.len() == uids.len() && records.values().all(|uid| uids.contains(&uid))
    })
    .await;
    eventually("as many claims", async || world.claims().await.len() == left.len()).await;

    // And their places are taken: 45 addresses, 40 of them in use.
    let mut next = Vec::new();
    for n in 0..EACH / 2 {
        next.push((world.pod(&format!("next-{n}"), json!({})).await, format!("upstream-next-{n}")));
    }
    let given = wave(agent, upstream, &next).await;
    let records = upstream.records("p").await;
    assert!(records.len() == 2 * EACH && given.iter().all(|(address, uid)| records.get(address) == Some(uid)));
}

#[tokio::test]
async fn what_upstream_gave_is_not_given_also_when_nobody_imported_it() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.13")).await;
    let entry = |uid: &str| json!({"pod": format!("ns1/{uid}"), "podUid": uid});
    let text = json!({"10.1.0.10": entry("u1"), "10.1.0.11": entry("u2"), "10.1.0.12": {"pod": "?", "podUid": "u3"}});
    world.pool_status("p", json!({"allocatedIPs": text.to_string()})).await;
    // No agent of upstream is left; ours alone are.
    agent_pod(&world, "agent-a", true).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    assert_eq!(agent.addresses(&pod).await, ["10.1.0.13"]);
    let (status, error) = agent.add(&world.pod("late", json!({})).await).await;
    assert!(status == 500 && error.as_str().unwrap().starts_with("all IP addresses used out"), "{error}");
    assert_eq!(world.claims().await.len(), 1, "what was tried was given back");
    let records = world.api::<SpiderIPPool>().get("p").await.unwrap().records().unwrap();
    assert_eq!((records.len(), records.broken().count()), (4, 1), "entries of others stay, understood or not");

    // A repeated ADD answers the same; the end of the pod frees both bookings.
    assert_eq!(agent.addresses(&pod).await, ["10.1.0.13"]);
    world.delete_pod("web").await;
    assert_eq!(agent.del(&pod).await.0, 200);
    eventually("free in both", async || {
        let records = world.api::<SpiderIPPool>().get("p").await.unwrap().records().unwrap();
        records.len() == 3 && world.claims().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_is_not_told_yet_that_a_pool_is_taken_over_serves_from_it() {
    let world = World::new().await;
    agent_pod(&world, "agent-b", false).await;
    world.pool("p", v4("10.1.0.10-10.1.0.13")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    world.set(Weather::TakenOver);
    assert_eq!(agent.addresses(&pod).await.len(), 1);
    assert!(world.requests.lock().unwrap().iter().any(|request| request == "PATCH status"), "it kept to the protocol");
    world.delete_pod("web").await;
    assert_eq!(agent.del(&pod).await.0, 200);
    eventually("free", async || world.claims().await.is_empty()).await;
}

#[tokio::test]
async fn a_refusal_that_does_not_fit_the_pool_is_an_error() {
    let world = World::new().await;
    agent_pod(&world, "agent-b", false).await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.13")).await;
    let agent = world.agent("node-a").await;
    world.set(Weather::TakenOver);
    let (status, error) = agent.add(&world.pod("web", json!({})).await).await;
    let error = error.as_str().unwrap();
    assert!(status == 500 && error.contains("cannot book addresses of pool p"), "{error}");
}

#[tokio::test]
async fn a_pool_whose_records_cannot_be_read_gives_nothing_and_says_so() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.13")).await;
    world.pool_status("p", json!({"allocatedIPs": "{\"10.1.0.10\":"})).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let (status, error) = agent.add(&pod).await;
    let text = error.as_str().unwrap();
    assert!(
        status == 500 && text.contains("SpiderIPPool p: status.allocatedIPs is no JSON object of allocations"),
        "{text}"
    );
    world.pool_status("p", json!({"allocatedIPs": null, "source": "SpiderIP"})).await;
    eventually("mended, it serves", async || agent.add(&pod).await.0 == 200).await;
}

const HOUR: Duration = Duration::from_secs(3600);
const LEASE: &str = "GET spiderpool-controller-leases";

#[tokio::test]
async fn a_new_pool_serves_once_the_controller_has_looked_at_it() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.13")).await;
    world.lease("controller-a", "2999-01-01T00:00:00.000000Z").await;
    *world.new_pools.lock().unwrap() = HOUR;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let look = async {
        eventually("the ADD asks whether a controller is at work", async || world.was_asked(LEASE)).await;
        world.pool_status("p", json!({"source": "SpiderIP"})).await;
        // Had the agent looked at pods itself, it would have claimed an address by now.
        assert!(world.claims().await.is_empty());
    };
    world.set(Weather::NoPods);
    let (answer, ()) = tokio::join!(within_patience(agent.add(&pod)), look);
    assert_eq!(answer.0, 200, "{}", answer.1);
}

#[tokio::test]
async fn nobody_waits_for_a_controller_that_is_not_at_work() {
    for (holder, renewed) in [(None, ""), (Some(""), "2999-01-01"), (Some("controller-a"), "2026-01-01")] {
        let world = World::new().await;
        if let Some(holder) = holder {
            world.lease(holder, &format!("{renewed}T00:00:00.000000Z")).await;
        }
        world.new_pool("p", v4("10.1.0.10-10.1.0.13")).await;
        *world.new_pools.lock().unwrap() = HOUR;
        let agent = world.agent("node-a").await;
        let pod = world.pod("web", json!({})).await;
        let (status, answer) = within_patience(agent.add(&pod)).await;
        assert_eq!(status, 200, "{holder:?} {renewed}: {answer}");
    }
}

#[tokio::test]
async fn a_controller_that_does_not_get_it_done_is_not_waited_for_for_ever() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.13")).await;
    world.lease("controller-a", "2999-01-01T00:00:00.000000Z").await;
    let agent = world.agent("node-a").await;
    assert_eq!(within_patience(agent.add(&world.pod("web", json!({})).await)).await.0, 200);
}

#[tokio::test]
async fn without_a_controller_a_new_pool_is_looked_at_before_a_pod_asks_for_it() {
    let world = World::new().await;
    let agent = world.agent("node-a").await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.11")).await;
    running_on(&world, "old", "node-b", "10.1.0.10").await;
    let pod = world.pod("web", json!({})).await;
    world.requests.lock().unwrap().clear();
    eventually("the agent looks at pods by itself", async || world.was_asked(LEASE) && world.was_asked("GET pods"))
        .await;
    // From here on an ADD that had to look would find nothing out.
    world.set(Weather::NoPods);
    eventually("it has seen enough", async || agent.add(&pod).await.0 == 200).await;
    assert_eq!(world.claims().await.into_keys().collect::<Vec<_>>(), ["10.1.0.11"]);
}

/// The answer, however long it takes, but not for ever.
async fn within_patience<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, answer).await.expect("an answer")
}

/// A pod of an earlier installation: it runs, and nobody has claimed its address.
async fn running_on(world: &World, name: &str, node: &str, address: &str) -> Target {
    let pod = world.pod_on(name, node, json!({})).await;
    let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": address}]}});
    world.pods().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    pod
}

#[tokio::test]
async fn what_pods_with_claims_had_is_given_again_without_a_controller() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10")).await;
    let agent = world.agent("node-a").await;
    let first = world.pod("first", json!({})).await;
    assert_eq!(agent.addresses(&first).await, ["10.1.0.10"]);
    let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.10"}]}});
    world.pods().patch_status("first", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    // Another new pool makes the agent look at the pods that run.
    world.new_pool("q", json!({"subnet": "10.2.0.0/16", "ips": ["10.2.0.10"]})).await;
    let other = world.pod("other", json!({"ipam.spidernet.io/ippool": r#"{"ipv4":["q"]}"#})).await;
    eventually("the agent has seen the pool", async || agent.add(&other).await.0 == 200).await;
    world.delete_pod("first").await;
    assert_eq!(agent.del(&first).await.0, 200);
    eventually("the address is free", async || claim(&world, "10.1.0.10").await.is_none()).await;
    // Not even a look at the pods is needed.
    world.set(Weather::NoPods);
    assert_eq!(agent.addresses(&world.pod("next", json!({})).await).await, ["10.1.0.10"]);
}

#[tokio::test]
async fn what_pods_without_claims_had_is_given_once_they_are_gone() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10")).await;
    running_on(&world, "old", "node-b", "10.1.0.10").await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let (status, error) = agent.add(&pod).await;
    assert!(status == 500 && error.as_str().unwrap().starts_with("all IP addresses used out"), "{error}");
    world.delete_pod("old").await;
    eventually("the agent looks again", async || agent.add(&pod).await.0 == 200).await;
}

#[tokio::test]
async fn what_the_agent_found_out_counts_until_the_controller_has_looked() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10")).await;
    running_on(&world, "old", "node-b", "10.1.0.10").await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    assert_eq!(agent.add(&pod).await.0, 500);
    // The pod is gone when the controller looks, and the agent's own knowledge stays what it is.
    world.set(Weather::NoPods);
    world.delete_pod("old").await;
    world.pool_status("p", json!({"source": "SpiderIP", "sourceIPs": ["10.1.0.10"]})).await;
    eventually("the controller knows better", async || agent.add(&pod).await.0 == 200).await;
}

#[tokio::test]
async fn without_a_controller_the_agent_looks_at_a_new_pool_itself() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.11")).await;
    running_on(&world, "old", "node-b", "10.1.0.10").await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    assert_eq!(agent.addresses(&pod).await, ["10.1.0.11"]);
    let (status, error) = agent.add(&world.pod("late", json!({})).await).await;
    assert!(status == 500 && error.as_str().unwrap().starts_with("all IP addresses used out"), "{error}");
    assert!(claim(&world, "10.1.0.10").await.is_none(), "the other node's agent, or the controller, claims it");

    // The same for addresses that the pool is given later.
    running_on(&world, "older", "node-b", "10.1.0.12").await;
    let wider = Patch::Merge(json!({"spec": v4("10.1.0.10-10.1.0.13")}));
    world.api::<SpiderIPPool>().patch("p", &PatchParams::default(), &wider).await.unwrap();
    let pod = world.pod("next", json!({})).await;
    eventually("the agent hears of them", async || agent.add(&pod).await.0 == 200).await;
    assert_eq!(agent.addresses(&pod).await, ["10.1.0.13"]);
}

#[tokio::test]
async fn a_pool_that_was_given_addresses_serves_once_the_controller_has_looked_at_them() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10")).await;
    world.pool_status("p", json!({"source": "SpiderIP", "sourceIPs": ["10.1.0.10"]})).await;
    let agent = world.agent("node-a").await;
    let first = world.pod("first", json!({})).await;
    assert_eq!(agent.addresses(&first).await, ["10.1.0.10"]);
    // A pod of another network has one of them, and the controller has claimed it before it says so.
    let other =
        running(&world, "other", json!({"phase": "Running", "podIPs": [{"ip": "10.1.0.11"}]}), None, json!({})).await;
    let wider = Patch::Merge(json!({"spec": v4("10.1.0.10-10.1.0.12")}));
    let claim = json!({
        "metadata": {"name": "10.1.0.11", "labels": {"ipam.spidernet.io/ippool": "p", "ipam.spidernet.io/node": "node-a"}},
        "spec": {
            "address": "10.1.0.11", "pool": "p", "state": "Allocated", "since": "2026-01-01T00:00:00Z",
            "pod": {"namespace": "ns1", "name": "other", "uid": other.uid, "interface": "eth0", "node": "node-a"}
        }
    });
    world.api::<SpiderIP>().create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    world.api::<SpiderIPPool>().patch("p", &PatchParams::default(), &wider).await.unwrap();
    world.pool_status("p", json!({"sourceIPs": ["10.1.0.10-10.1.0.12"]})).await;
    let next = world.pod("next", json!({})).await;
    eventually("it serves", async || agent.add(&next).await.0 == 200).await;
    assert_eq!(agent.addresses(&next).await, ["10.1.0.12"]);
    // The claim is in the books: the end of its pod frees it.
    world.delete_pod("other").await;
    eventually("the agent frees it once it knows of it", async || {
        assert_eq!(agent.del(&other).await.0, 200);
        !world.claims().await.contains_key("10.1.0.11")
    })
    .await;
}

async fn running(world: &World, name: &str, status: Value, annotation: Option<&str>, more: Value) -> Target {
    let annotations = annotation.map_or(json!({}), |text| json!({"k8s.v1.cni.cncf.io/network-status": text}));
    let mut object = json!({
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"nodeName": "node-a", "containers": [{"name": "c", "image": "i"}]}
    });
    object["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let pod = world.pods().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    world.pods().patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await.unwrap();
    Target { name: name.into(), uid: pod.uid().unwrap(), container: format!("of-{name}"), nic: "eth0".into() }
}

#[tokio::test]
async fn what_running_pods_have_is_taken_over_before_anything_is_given() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.15")).await;
    let ip = |ips: &[&str]| json!({"phase": "Running", "podIPs": ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()});
    let networks = r#"[{"name":"calico","ips":["192.168.0.9"],"default":true},{"name":"ns1/net","interface":"net1","ips":["10.1.0.11"]}]"#;
    let plain = running(&world, "plain", ip(&["10.1.0.10"]), None, json!({})).await;
    let second = running(&world, "second", ip(&["192.168.0.9"]), Some(networks), json!({})).await;
    running(&world, "host", ip(&["10.1.0.12"]), None, json!({"hostNetwork": true})).await;
    running(&world, "finished", json!({"phase": "Succeeded", "podIPs": [{"ip": "10.1.0.13"}]}), None, json!({})).await;
    let agent = world.agent("node-a").await;
    let claims = world.claims().await;
    let expected = [("10.1.0.10", "plain/eth0"), ("10.1.0.11", "second/net1")];
    assert_eq!(claims, expected.map(|(address, holder)| (address.to_owned(), holder.to_owned())).into());
    let spec = claim(&world, "10.1.0.10").await.unwrap().spec;
    assert_eq!((spec.pool.as_str(), spec.holder.pod().unwrap().container_id.as_deref()), ("p", None));

    world.pool_status("p", json!({"source": "SpiderIP"})).await;
    for n in 0..4 {
        let addresses = agent.addresses(&world.pod(&format!("new-{n}"), json!({})).await).await;
        assert!(!["10.1.0.10", "10.1.0.11"].contains(&addresses[0].as_str()), "{addresses:?}");
    }
    // A new sandbox keeps the address; the end of a pod frees it, whatever its container is called.
    assert_eq!(agent.addresses(&plain).await, ["10.1.0.10"]);
    world.delete_pod("second").await;
    assert_eq!(agent.del(&second.nic("net1")).await.0, 200);
    eventually("its address is free", async || claim(&world, "10.1.0.11").await.is_none()).await;
}

#[tokio::test]
async fn claims_that_the_controller_imports_meanwhile_are_the_agents_to_free() {
    let world = World::new().await;
    world.new_pool("p", v4("10.1.0.10-10.1.0.15")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let object = json!({
        "metadata": {"name": "10.1.0.10", "labels": {"ipam.spidernet.io/ippool": "p", "ipam.spidernet.io/node": "node-a"}},
        "spec": {
            "address": "10.1.0.10", "pool": "p", "state": "Allocated", "since": "2026-01-01T00:00:00Z",
            "pod": {"namespace": "ns1", "name": "web", "uid": pod.uid, "interface": "eth0", "node": "node-a"}
        }
    });
    world.api::<SpiderIP>().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    world.pool_status("p", json!({"source": "SpiderIP"})).await;
    world.delete_pod("web").await;
    eventually("the agent frees it once it knows of it", async || {
        assert_eq!(agent.del(&pod).await.0, 200);
        world.claims().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_imported_address_that_no_nic_came_for_yet_is_not_in_the_answer() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.15")).await;
    world.pool("other", json!({"subnet": "10.2.0.0/16", "ips": ["10.2.0.10"]})).await;
    let pod = world.pod("web", json!({})).await;
    let object = json!({
        "metadata": {"name": "10.2.0.10", "labels": {"ipam.spidernet.io/ippool": "other", "ipam.spidernet.io/node": "node-a"}},
        "spec": {
            "address": "10.2.0.10", "pool": "other", "state": "Allocated", "since": "2026-01-01T00:00:00Z",
            "pod": {"namespace": "ns1", "name": "web", "uid": pod.uid, "interface": "", "node": "node-a"}
        }
    });
    world.api::<SpiderIP>().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let agent = world.agent("node-a").await;
    let addresses = agent.addresses(&pod).await;
    assert!(addresses.len() == 1 && addresses[0].starts_with("10.1.0."), "{addresses:?}");
    assert_eq!(world.claims().await.get("10.2.0.10").map(String::as_str), Some("web/"), "it stays the pod's");
    let other = json!({"defaultIPv4IPPool": ["other"]});
    let (status, answer) = agent.add_with(&pod.nic("net1"), other).await;
    assert!(status == 200 && bare(&answer).contains(&"10.2.0.10".to_owned()), "{answer}");
}
