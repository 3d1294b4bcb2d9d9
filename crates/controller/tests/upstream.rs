//! The move from upstream Spiderpool: the state of a cluster of upstream's, and clusters where agents of both kinds are at work.

#![allow(clippy::unwrap_used)] // tests

#[path = "upstream/node.rs"]
mod node;
#[path = "../../store/tests/upstream/agent.rs"]
mod upstream_agent;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::{
    extract::Request,
    middleware::{Next, from_fn},
};
use controller::upstream::sources::Sources;
use futures::{StreamExt as _, stream};
use k8s_api::{SpiderEndpoint, SpiderIP, SpiderIPPool, records::Record};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use node::Agent;
use serde_json::{Value, json};
use upstream_agent::Upstream;
use world::{World, api_server, create, create_in, eventually};

/// No collection: what is there after an import is what was imported.
const STILL: [(&str, &str); 1] = [("SPIDERPOOL_GC_IP_ENABLED", "false")];

/// The objects of a file of `crates/e2e/upstream-state`.
fn items(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/upstream-state").join(file);
    let list: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// Brings objects back as a restore does: UIDs are the API server's, so those of pods are exchanged wherever they are named.
async fn restore(client: &Client, file: &str, uids: &mut HashMap<String, String>) {
    for item in items(file) {
        let mut text = item.to_string();
        for (old, new) in uids.iter() {
            text = text.replace(old, new);
        }
        let mut item: Value = serde_json::from_str(&text).unwrap();
        let old = item["metadata"]["uid"].as_str().unwrap().to_owned();
        for member in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
            item["metadata"].as_object_mut().unwrap().remove(member);
        }
        let (kind, version) = (item["kind"].as_str().unwrap(), item["apiVersion"].as_str().unwrap());
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let plural = match kind {
            "NetworkAttachmentDefinition" => "network-attachment-definitions".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural);
        let api = match item["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource),
            None => Api::<DynamicObject>::all_with(client.clone(), &resource),
        };
        let status = json!({"status": item["status"]});
        let name = item["metadata"]["name"].as_str().unwrap().to_owned();
        let made = api.create(&PostParams::default(), &serde_json::from_value(item).unwrap()).await.unwrap();
        // Where the status is no subresource it is there already, and the patch is refused.
        let patched = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
        assert!(patched.is_ok() || kind_is_whole(&made), "{name}: {patched:?}");
        uids.insert(old, made.metadata.uid.unwrap());
    }
}

fn kind_is_whole(object: &DynamicObject) -> bool {
    let kind = object.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
    matches!(kind, "SpiderEndpoint" | "SpiderMultusConfig" | "SpiderReservedIP" | "NetworkAttachmentDefinition")
}

/// `address` → `pool pod/interface@node`.
async fn claims(client: &Client) -> BTreeMap<String, String> {
    let list = Api::<SpiderIP>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    let told = |ip: SpiderIP| {
        let pod = ip.spec.holder.pod().unwrap();
        (ip.spec.address.clone(), format!("{} {}/{}@{}", ip.spec.pool, pod.name, pod.interface, pod.node))
    };
    list.items.into_iter().map(told).collect()
}

async fn pools(client: &Client) -> BTreeMap<String, SpiderIPPool> {
    let list = Api::<SpiderIPPool>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    list.items.into_iter().map(|pool| (pool.name_any(), pool)).collect()
}

async fn taken_over(client: &Client) -> BTreeSet<String> {
    let is_view = |pool: &SpiderIPPool| pool.source() == ipam::pool::Source::Claims;
    pools(client).await.into_iter().filter(|(_, pool)| is_view(pool)).map(|(name, _)| name).collect()
}

async fn cluster() -> (Client, apiserver::Server) {
    let (client, server) = api_server().await;
    for node in ["node-a", "node-b"] {
        create::<Node>(&client, node, json!({})).await.unwrap();
    }
    for namespace in ["ns1", "kube-system"] {
        let object = json!({"metadata": {"name": namespace}});
        let api = Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone());
        if api.get_opt(namespace).await.unwrap().is_none() {
            api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        }
    }
    (client, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_an_upstream_cluster_is_imported_once_and_nothing_is_lost() {
    let (client, server) = cluster().await;
    let mut uids = HashMap::new();
    for file in ["pods.yaml", "pools.yaml", "endpoints.yaml", "settings.yaml"] {
        restore(&client, file, &mut uids).await;
    }
    let before = pools(&client).await;
    let world = World::on(client.clone(), server, world::BOTH, &STILL).await;
    eventually("all pools that can be are taken over", || async {
        let over = taken_over(&client).await;
        ["rack1-v4", "rack1-v6", "unused"].iter().all(|pool| over.contains(*pool)).then_some(())
    })
    .await;
    let twins = eventually("one of the twins is taken over, the other is told of", || async {
        let over = taken_over(&client).await;
        let events = Api::<Event>::all(client.clone()).list(&ListParams::default()).await.unwrap().items;
        let conflict = events.iter().find(|event| event.reason.as_deref() == Some("AllocationConflict"))?;
        assert!(conflict.message.as_deref().unwrap().contains("10.30.0.5"), "{conflict:?}");
        let of = |name: &str| over.contains(name);
        (of("twins-a") != of("twins-b")).then(|| if of("twins-a") { "twins-a" } else { "twins-b" })
    })
    .await;
    let both = |address: &str, holders: [&str; 2]| {
        let index = usize::from(twins == "twins-b");
        (address.to_owned(), format!("{twins} {}", holders[index]))
    };
    let mut expected: BTreeMap<String, String> = [
        ("10.20.1.11", "rack1-v4 web-6c9d-abcde/eth0@node-a"),
        ("10.20.1.12", "rack1-v4 db-0/eth0@node-b"),
        ("10.20.1.21", "rack1-v4 job-y/net1@node-b"),
        ("10.20.1.22", "rack1-v4 db-1/eth0@node-a"),
        ("10.20.1.30", "rack1-v4 virt-launcher-vm1-x2k4p/eth0@node-b"),
        ("10.20.1.40", "rack1-v4 multi-0/net1@node-a"),
        ("10.20.3.7", "rack1-v4 old-0/eth0@node-a"),
        ("10.40.0.2", "torn api-0/net1@node-a"),
        ("10.50.0.9", "odd odd-0/eth0@node-a"),
        ("fd00:20::11", "rack1-v6 web-6c9d-abcde/eth0@node-a"),
        ("fd00:20::12", "rack1-v6 db-0/eth0@node-b"),
    ]
    .map(|(address, holder)| (address.to_owned(), holder.to_owned()))
    .into();
    expected.extend([both("10.30.0.5", ["twin-a/eth0@node-a", "twin-b/eth0@node-b"])]);
    eventually("every address in use has its claim", || async {
        let mut found = claims(&client).await;
        let shared = found.remove("10.30.0.6")?;
        assert!(shared.ends_with("both-0/eth0@node-b"), "{shared}");
        (found == expected).then_some(()).or_else(|| {
            eprintln!("{found:#?}");
            None
        })
    })
    .await;

    // The views say the same, less the one entry that nothing is left of. What cannot be understood is as it was.
    let after = pools(&client).await;
    let rack = after["rack1-v4"].records().unwrap();
    let addresses: Vec<String> = rack.iter().map(|(address, _)| address.to_string()).collect();
    assert_eq!(
        addresses,
        ["10.20.1.11", "10.20.1.12", "10.20.1.21", "10.20.1.22", "10.20.1.30", "10.20.1.40", "10.20.3.7"]
    );
    for name in ["torn", "odd"] {
        let text = |pools: &BTreeMap<String, SpiderIPPool>| pools[name].status.clone().unwrap().allocated_ips;
        assert_eq!(text(&after), text(&before), "{name}");
        let events = Api::<Event>::all(client.clone()).list(&ListParams::default()).await.unwrap().items;
        let about = |event: &&Event| event.involved_object.name.as_deref() == Some(name);
        let event = events.iter().filter(about).find(|event| event.reason.as_deref() == Some("AllocationsUnreadable"));
        assert!(event.is_some(), "{name} is told of");
    }

    // Once more, by another controller: nothing changes.
    let versions = async || -> BTreeMap<String, Option<String>> {
        let list = Api::<SpiderIP>::all(client.clone()).list(&ListParams::default()).await.unwrap();
        list.items.into_iter().map(|ip| (ip.name_any(), ip.resource_version())).collect()
    };
    let once = versions().await;
    let server = world.end_and_keep().await;
    let world = World::on(client.clone(), server, world::BOTH, &STILL).await;
    // A pool that is new shows that the second one works.
    create::<SpiderIPPool>(&client, "late", json!({"spec": {"subnet": "10.70.0.0/24", "ips": ["10.70.0.2"]}}))
        .await
        .unwrap();
    eventually("the new pool is taken over", || async { taken_over(&client).await.contains("late").then_some(()) })
        .await;
    assert_eq!(versions().await, once);

    // Mended by hand, the rest follows.
    let api = Api::<SpiderIPPool>::all(client.clone());
    let merge = |patch: Value| Patch::Merge(json!({"status": patch}));
    api.patch_status("torn", &PatchParams::default(), &merge(json!({"allocatedIPs": null}))).await.unwrap();
    let odd = json!({"10.50.0.9": Record { pod: "ns1/odd-0".into(), uid: uids["00000000-0000-4000-8000-000000000010"].clone() }});
    api.patch_status("odd", &PatchParams::default(), &merge(json!({"allocatedIPs": odd.to_string()}))).await.unwrap();
    eventually("they are taken over", || async {
        let over = taken_over(&client).await;
        (over.contains("torn") && over.contains("odd")).then_some(())
    })
    .await;
    assert_eq!(versions().await, once);
    world.end().await;
}

async fn upstream_pod(client: &Client, name: &str) {
    let object = json!({
        "metadata": {"labels": {"app.kubernetes.io/component": "spiderpool-agent"}},
        "spec": {"nodeName": "node-b", "containers": [{"name": "c", "image": "i"}]}
    });
    create_in::<Pod>(client, "kube-system", name, object).await.unwrap();
}

async fn remove_pod(client: &Client, namespace: &str, name: &str) {
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    Api::<Pod>::namespaced(client.clone(), namespace).delete(name, &at_once).await.unwrap();
}

/// A pod, and what its sandbox is called.
async fn pod(client: &Client, name: &str, node: &str) -> String {
    let object = json!({"spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    create_in::<Pod>(client, "ns1", name, object).await.unwrap().uid().unwrap()
}

async fn endpoint(client: &Client, name: &str, uid: &str, node: &str, address: &str) {
    let object = json!({"status": {
        "ownerControllerType": "Pod", "ownerControllerName": name,
        "current": {"uid": uid, "node": node, "ips": [{"interface": "eth0", "ipv4": format!("{address}/16"), "ipv4Pool": "p"}]}
    }});
    create_in::<SpiderEndpoint>(client, "ns1", name, object).await.unwrap();
}

/// node-b begins with upstream's agent, node-a with ours; node-b's is replaced while pods come and go on both.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_moved_node_by_node_without_a_doubled_or_lost_address() {
    const EACH: usize = 12;
    let (client, server) = cluster().await;
    upstream_pod(&client, "agent-b").await;
    let spec = json!({"spec": {"subnet": "10.1.0.0/16", "ips": ["10.1.0.10-10.1.0.60"], "default": true}});
    create::<SpiderIPPool>(&client, "p", spec).await.unwrap();
    let upstream = Upstream::new(&client);
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    let mut book = |address: String, uid: &str| {
        let before = given.insert(address.clone(), uid.to_owned());
        assert_eq!(before, None, "{address} was given twice");
    };

    // Before the upgrade: upstream alone, on both nodes.
    for node in ["node-a", "node-b"] {
        for n in 0..3 {
            let name = format!("first-{node}-{n}");
            let uid = pod(&client, &name, node).await;
            let address = upstream.add("p", &name, &uid).await.to_string();
            endpoint(&client, &name, &uid, node, &address).await;
            book(address, &uid);
        }
    }
    let world = World::on(client.clone(), server, world::BOTH, &STILL).await;
    let ours = Agent::start(&client, "node-a").await;

    // Both kinds at work.
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for n in 0..EACH {
        for (node, pods) in [("node-a", &mut left), ("node-b", &mut right)] {
            let name = format!("mixed-{node}-{n}");
            let uid = pod(&client, &name, node).await;
            pods.push((name, uid));
        }
    }
    let (ours_given, theirs): (Vec<_>, Vec<_>) = tokio::join!(
        stream::iter(&left).map(|(name, uid)| ours.add(name, uid)).buffer_unordered(6).collect(),
        stream::iter(&right).map(|(name, uid)| upstream.add("p", name, uid)).buffered(4).collect(),
    );
    for (uid, address) in ours_given {
        book(address, &uid);
    }
    for ((name, uid), address) in right.iter().zip(theirs) {
        endpoint(&client, name, uid, "node-b", &address.to_string()).await;
        book(address.to_string(), uid);
    }
    eventually("every allocation of both has a claim", || async {
        (claims(&client).await.keys().collect::<BTreeSet<_>>() == given.keys().collect()).then_some(())
    })
    .await;
    assert_eq!(upstream.records("p").await, given, "upstream sees all of them");
    assert_eq!(taken_over(&client).await, BTreeSet::new(), "not while upstream allocates");

    // Upstream releases: the claim follows once the pod is gone.
    let (name, uid) = &right[0];
    upstream.del("p", uid).await;
    remove_pod(&client, "ns1", name).await;
    let freed: Vec<String> =
        given.iter().filter(|(_, holder)| *holder == uid).map(|(address, _)| address.clone()).collect();
    given.remove(&freed[0]);
    eventually("its claim is gone", || async { (!claims(&client).await.contains_key(&freed[0])).then_some(()) }).await;

    // node-b's turn.
    remove_pod(&client, "kube-system", "agent-b").await;
    let second = Agent::start(&client, "node-b").await;
    eventually("the pool is taken over", || async { taken_over(&client).await.contains("p").then_some(()) }).await;
    assert_eq!(claims(&client).await.keys().collect::<BTreeSet<_>>(), given.keys().collect::<BTreeSet<_>>());
    let (name, uid) = &right[1];
    remove_pod(&client, "ns1", name).await;
    second.del(name, uid).await;
    let freed: Vec<String> =
        given.iter().filter(|(_, holder)| *holder == uid).map(|(address, _)| address.clone()).collect();
    given.remove(&freed[0]);
    eventually("what upstream gave is freed by our agent", || async {
        (!claims(&client).await.contains_key(&freed[0])).then_some(())
    })
    .await;
    // The whole pool can be given, and no more: 51 addresses.
    let free = 51 - given.len();
    for n in 0..free {
        let name = format!("last-{n}");
        let uid = pod(&client, &name, "node-b").await;
        let (uid, address) = second.add(&name, &uid).await;
        assert_eq!(given.insert(address.clone(), uid), None, "{address} was given twice");
    }
    ours.stop().await;
    second.stop().await;
    world.end().await;
}

/// helm uninstall took all our objects away while pods went on running; then the product is installed again.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_installation_takes_over_what_running_pods_have_before_it_allocates() {
    let (client, server) = cluster().await;
    for (name, node, address) in [("left", "node-a", "10.1.0.10"), ("right", "node-b", "10.1.0.11")] {
        pod(&client, name, node).await;
        let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": address}]}});
        let pods = Api::<Pod>::namespaced(client.clone(), "ns1");
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
    // The agent of node-a alone is up: node-b's pod is the controller's to protect.
    let agent = Agent::start(&client, "node-a").await;
    let spec = json!({"spec": {"subnet": "10.1.0.0/16", "ips": ["10.1.0.10-10.1.0.12"], "default": true}});
    create::<SpiderIPPool>(&client, "p", spec).await.unwrap();
    let uid = pod(&client, "new", "node-a").await;
    let (world, (_, address)) =
        tokio::join!(World::on(client.clone(), server, world::BOTH, &STILL), agent.add("new", &uid));
    assert_eq!(address, "10.1.0.12");
    let expected =
        [("10.1.0.10", "p left/eth0@node-a"), ("10.1.0.11", "p right/eth0@node-b"), ("10.1.0.12", "p new/eth0@node-a")];
    let expected = expected.map(|(address, holder)| (address.to_owned(), holder.to_owned()));
    let first = BTreeMap::from(expected.clone());
    // An agent that looks by itself may be faster than the controller.
    eventually("the controller has claimed what runs", async || (claims(&client).await == first).then_some(())).await;

    // Later the pool is given addresses of a pod that runs since then.
    pod(&client, "other", "node-b").await;
    let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.13"}]}});
    let pods = Api::<Pod>::namespaced(client.clone(), "ns1");
    pods.patch_status("other", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let pool = Api::<SpiderIPPool>::all(client.clone());
    let wider = Patch::Merge(json!({"spec": {"ips": ["10.1.0.10-10.1.0.14"]}}));
    pool.patch("p", &PatchParams::default(), &wider).await.unwrap();
    let uid = pod(&client, "next", "node-a").await;
    assert_eq!(agent.add("next", &uid).await.1, "10.1.0.14");
    let more = [("10.1.0.13", "p other/eth0@node-b"), ("10.1.0.14", "p next/eth0@node-a")];
    let more = more.map(|(address, holder)| (address.to_owned(), holder.to_owned()));
    let all = expected.into_iter().chain(more).collect();
    eventually("the controller has claimed what the other pod has", async || {
        (claims(&client).await == all).then_some(())
    })
    .await;
    eventually("the pool is looked at", async || {
        let status = pool.get("p").await.unwrap().status.unwrap();
        (status.source_ips == Some(vec!["10.1.0.10-10.1.0.14".to_owned()])).then_some(())
    })
    .await;

    // So is a pool that is made later: of the pod that runs since then nothing is known but its address.
    pod(&client, "latest", "node-b").await;
    let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": "10.2.0.5"}]}});
    pods.patch_status("latest", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    create::<SpiderIPPool>(&client, "q", json!({"spec": {"subnet": "10.2.0.0/16", "ips": ["10.2.0.5"]}}))
        .await
        .unwrap();
    eventually("the later pool is taken over", async || taken_over(&client).await.contains("q").then_some(())).await;
    assert_eq!(claims(&client).await.get("10.2.0.5").map(String::as_str), Some("q latest/eth0@node-b"));
    agent.stop().await;
    world.end().await;
}

/// Many records of a namespace lead to nobody: it is listed once for all of them, and what a list shows is read before it is believed.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_gone_cost_one_list_of_their_namespace() {
    let (client, server) = cluster().await;
    let lists = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lists);
    let spy = from_fn(move |request: Request, next: Next| {
        if request.uri().path() == "/api/v1/namespaces/ns1/pods" {
            count.fetch_add(1, Ordering::SeqCst);
        }
        next.run(request)
    });
    let sources = Sources::new(Client::new(server.router().layer(spy), "default"));
    let address = "10.1.0.10".parse().unwrap();
    // The record of a virtual machine bears the machine's name.
    let launcher = pod(&client, "virt-launcher-vm1-abcde", "node-a").await;
    let machine = Record::new("ns1", "vm1", &launcher);
    let known = Instant::now();
    for n in 0..40 {
        let gone = Record::new("ns1", &format!("gone-{n}"), &format!("uid-{n}"));
        assert_eq!(sources.holder(address, &gone, true, known).await.unwrap(), None);
    }
    let found = sources.holder(address, &machine, false, known).await.unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.exists), ("virt-launcher-vm1-abcde", true));
    assert_eq!(lists.load(Ordering::SeqCst), 1);

    remove_pod(&client, "ns1", "virt-launcher-vm1-abcde").await;
    assert_eq!(sources.holder(address, &machine, false, known).await.unwrap(), None, "the list still shows it");
    assert_eq!(lists.load(Ordering::SeqCst), 1);
    let next = pod(&client, "virt-launcher-vm1-fghij", "node-b").await;
    let machine = Record::new("ns1", "vm1", &next);
    let found = sources.holder(address, &machine, false, Instant::now()).await.unwrap();
    assert_eq!(found.map(|found| found.name).as_deref(), Some("virt-launcher-vm1-fghij"), "younger than the list");
    assert!(sources.exists("ns1", "vm1", &next, Instant::now()).await.unwrap());
}
