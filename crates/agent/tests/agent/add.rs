//! ADD: who gets what, from where, and what is said when there is nothing.

use crate::world::{World, bare, eventually, v4, v6};
use serde_json::{Value, json};

#[tokio::test]
async fn an_idle_add_is_one_create_and_the_endpoint_follows() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    eventually("the start has asked for orphans", async || world.was_asked("GET spiderendpoints")).await;
    let pod = world.pod("web", json!({})).await;
    eventually("the agent sees the pod", async || seen(&world, &agent, "web").await).await;
    world.requests.lock().unwrap().clear();
    let addresses = agent.addresses(&pod).await;
    eventually("the endpoint is written", async || world.endpoint("web").await.is_some()).await;
    let requests = world.requests.lock().unwrap().clone();
    assert_eq!(requests, ["POST spiderips", "POST spiderendpoints"]);
    assert_eq!(world.claims().await, [(addresses[0].clone(), "web/eth0".to_owned())].into());

    let endpoint = serde_json::to_value(world.endpoint("web").await.unwrap()).unwrap();
    assert_eq!(endpoint["metadata"]["finalizers"], json!(["spiderpool.spidernet.io"]));
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": pod.uid}]);
    assert_eq!(endpoint["metadata"]["ownerReferences"], owner);
    let entry = json!({
        "interface": "eth0", "ipv4": format!("{}/16", addresses[0]), "ipv4Pool": "p4", "ipv4Gateway": "10.1.0.1",
        "vlan": 0, "cleanGateway": false
    });
    let status = json!({
        "ownerControllerType": "Pod", "ownerControllerName": "web",
        "current": {"uid": pod.uid, "node": "node-a", "ips": [entry]}
    });
    assert_eq!(endpoint["status"], status);
}

/// Whether an ADD of this pod would find it in the cache: asking for its networks then needs no request.
async fn seen(world: &World, agent: &crate::world::Agent, name: &str) -> bool {
    world.requests.lock().unwrap().clear();
    let args = json!({"containerID": "x", "podNamespace": "ns1", "podName": name, "podUID": ""});
    crate::world::call(&agent.socket, "POST", "/v1/multinet/networks", &args).await;
    !world.requests.lock().unwrap().contains(&format!("GET {name}"))
}

#[tokio::test]
async fn a_repeated_add_returns_the_same_answer() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let first = agent.add(&pod).await;
    assert_eq!((first.0, agent.add(&pod).await), (200, first.clone()));
    // Another sandbox of the same pod takes over.
    let next = pod.container("another");
    assert_eq!(agent.add(&next).await, first);
    // Whatever became of the pool since.
    let patch = json!({"spec": {"disable": true}});
    let pools = world.api::<k8s_api::SpiderIPPool>();
    pools.patch("p4", &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    let other = world.pod("other", json!({})).await;
    eventually("the agent sees the pool disabled", async || agent.add(&other).await.0 == 500).await;
    assert_eq!(agent.add(&next).await, first);
    assert_eq!(world.claims().await.len(), 1);
}

#[tokio::test]
async fn what_was_told_is_told_again_without_its_pool() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    world.pool("p6", v6("fd00:1::10-fd00:1::19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let first = agent.add(&pod).await;
    assert_eq!(first.0, 200, "{}", first.1);
    eventually("the endpoint is written", async || world.endpoint("web").await.is_some()).await;
    let told = world.endpoint("web").await.unwrap().status;
    agent.stop().await;
    // One is gone, the other cannot be used any more.
    let pools = world.api::<k8s_api::SpiderIPPool>();
    pools.delete("p4", &Default::default()).await.unwrap();
    let broken = json!({"spec": {"ips": ["fd00:1::19-fd00:1::10"]}});
    pools.patch("p6", &Default::default(), &kube::api::Patch::Merge(broken)).await.unwrap();
    let agent = world.agent("node-a").await;
    assert_eq!(agent.add(&pod).await, first);
    assert_eq!(agent.add(&pod.container("another")).await, first);
    agent.stop().await;
    assert_eq!(world.endpoint("web").await.unwrap().status, told);
}

#[tokio::test]
async fn a_nic_that_has_what_it_was_told_wants_nothing_more() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let first = agent.add(&pod).await;
    assert_eq!(first.0, 200, "{}", first.1);
    agent.stop().await;
    // A family more, a pool that nobody looked at, and an annotation that only new addresses need.
    world.pool("p6", v6("fd00:1::10-fd00:1::19")).await;
    world.new_pool("new", json!({"subnet": "10.2.0.0/16", "ips": ["10.2.0.10"], "default": true})).await;
    let routes = json!({"metadata": {"annotations": {"ipam.spidernet.io/routes": "none"}}});
    world.pods().patch("web", &Default::default(), &kube::api::Patch::Merge(routes)).await.unwrap();
    let agent = world.agent("node-a").await;
    for container in [pod.container.as_str(), "another"] {
        let started = std::time::Instant::now();
        assert_eq!(agent.add(&pod.container(container)).await, first);
        assert!(started.elapsed() < std::time::Duration::from_secs(2), "it waited for the new pool");
    }
    assert_eq!(world.claims().await.len(), 1);
    let (status, error) = agent.add(&pod.nic("net1")).await;
    assert!(status == 500 && error.as_str().unwrap().contains("ipam.spidernet.io/routes"), "{error}");
}

#[tokio::test]
async fn adds_of_one_pod_at_the_same_time_get_the_same_address() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.99")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let answers = futures::future::join_all((0..20).map(|_| agent.add(&pod))).await;
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 200), "{answers:?}");
    assert_eq!(world.claims().await.len(), 1);
}

#[tokio::test]
async fn two_nics_from_one_pool_have_two_addresses() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let networks = json!({"k8s.v1.cni.cncf.io/networks": "kube-system/other"});
    let pod = world.pod("web", networks).await;
    let first = agent.addresses(&pod).await;
    let (status, both) = agent.add(&pod.nic("net1")).await;
    assert_eq!((status, bare(&both)[0].clone(), bare(&both).len()), (200, first[0].clone(), 2));
    assert_ne!(bare(&both)[1], first[0]);
    let ips = async || world.endpoint("web").await.and_then(|endpoint| Some(endpoint.status?.current.ips.len()));
    eventually("the endpoint tells both", async || ips().await == Some(2)).await;
}

#[tokio::test]
async fn a_named_list_serves_all_nics_at_once_or_none() {
    let world = World::new().await;
    for (name, ips) in [("a", "10.1.0.10-10.1.0.11"), ("b", "10.1.0.20")] {
        world.pool(name, json!({"subnet": "10.1.0.0/16", "ips": [ips]})).await;
    }
    let agent = world.agent("node-a").await;
    let list = r#"[{"interface":"eth0","ipv4":["a"]},{"interface":"net1","ipv4":["b"],"cleangateway":true}]"#;
    let annotations = json!({"ipam.spidernet.io/ippools": list, "k8s.v1.cni.cncf.io/networks": "x"});
    let first = world.pod("first", annotations.clone()).await;
    assert_eq!(agent.addresses(&first).await.len(), 2);
    assert_eq!(agent.addresses(&first.nic("net1")).await.len(), 2);
    let second = world.pod("second", annotations).await;
    let (status, error) = agent.add(&second).await;
    let error = error.as_str().unwrap();
    assert!(status == 500 && error.starts_with("all IP addresses used out: NIC net1 IPv4: pool b"), "{error}");
    let left = async || world.claims().await.into_values().filter(|holder| holder.starts_with("second")).count();
    eventually("what the second pod got is given back", async || left().await == 0).await;
}

#[tokio::test]
async fn namespace_defaults_come_before_the_cluster_and_wildcards_are_expanded() {
    let world = World::new().await;
    world.pool("cluster", v4("10.1.0.10")).await;
    for (name, ips) in [("team-1", "10.1.1.1"), ("team-2", "10.1.1.2"), ("other", "10.1.1.3")] {
        world.pool(name, json!({"subnet": "10.1.0.0/16", "ips": [ips]})).await;
    }
    let agent = world.agent("node-a").await;
    let patch = json!({"metadata": {"annotations": {"ipam.spidernet.io/default-ipv4-ippool": r#"["team-*"]"#}}});
    let namespaces = world.api::<k8s_openapi::api::core::v1::Namespace>();
    namespaces.patch("ns1", &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    let probe = world.pod("probe", json!({})).await;
    eventually("the agent sees the namespace's pools", async || {
        let (status, answer) = agent.add(&probe).await;
        let from_team = status == 200 && answer["ips"][0]["ipPool"].as_str().unwrap().starts_with("team-");
        if !from_team {
            world.delete_pod("probe").await;
            agent.del(&probe).await;
            world.pod("probe", json!({})).await;
        }
        from_team || {
            // The pod was made anew: ask for whichever has the name now.
            let mut again = probe.clone();
            again.uid.clear();
            let (status, answer) = agent.add(&again).await;
            status == 200 && answer["ips"][0]["ipPool"].as_str().unwrap().starts_with("team-")
        }
    })
    .await;
    let second = world.pod("second", json!({})).await;
    assert_eq!(agent.add(&second).await.1["ips"][0]["ipPool"].as_str().unwrap()[..5], *"team-");
    let third = world.pod("third", json!({})).await;
    let (_, error) = agent.add(&third).await;
    let error = error.as_str().unwrap();
    assert!(error.contains("pool team-1") && error.contains("pool team-2") && !error.contains("cluster"), "{error}");
}

#[tokio::test]
async fn pools_are_tested_for_node_namespace_pod_and_network() {
    let world = World::new().await;
    let pool = |more: Value| {
        let mut spec = v4("10.1.0.10-10.1.0.19");
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    world.pool("other-node", pool(json!({"nodeName": ["node-b"], "ips": ["10.1.1.1"]}))).await;
    world.pool("other-namespace", pool(json!({"namespaceName": ["ns2"], "ips": ["10.1.1.2"]}))).await;
    world.pool("other-pods", pool(json!({"podAffinity": {"matchLabels": {"app": "x"}}, "ips": ["10.1.1.3"]}))).await;
    world.pool("other-network", pool(json!({"multusName": ["kube-system/x"], "ips": ["10.1.1.4"]}))).await;
    world.pool("off", pool(json!({"disable": true, "ips": ["10.1.1.5"]}))).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({"v1.multus-cni.io/default-network": "kube-system/mine"})).await;
    let (status, error) = agent.add(&pod).await;
    let error = error.as_str().unwrap();
    assert_eq!(status, 500);
    for reason in [
        "no IPPool available",
        "pool other-node: unmatched Node name",
        "pool other-namespace: unmatched Namespace name",
        "pool other-pods: unmatched Pod affinity",
        "pool other-network: unmatched multus name: NIC eth0 belongs to kube-system/mine",
        "pool off: disabled IPPool",
    ] {
        assert!(error.contains(reason), "{reason} in {error}");
    }
    world.pool("mine", pool(json!({"multusName": ["kube-system/mine"], "nodeName": ["node-a"]}))).await;
    eventually("the new pool serves", async || agent.add(&pod).await.0 == 200).await;
}

#[tokio::test]
async fn a_failed_add_is_an_event_that_names_the_pools() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10")).await;
    let agent = world.agent("node-a").await;
    let first = world.pod("first", json!({})).await;
    agent.addresses(&first).await;
    let second = world.pod("second", json!({})).await;
    for _ in 0..3 {
        assert_eq!(agent.add(&second).await.0, 500);
    }
    let of_second = async || {
        let events = world.events().await;
        events.into_iter().find(|event| event.involved_object.uid.as_deref() == Some(&second.uid))
    };
    eventually("the event counts three", async || of_second().await.is_some_and(|event| event.count == Some(3))).await;
    let event = of_second().await.unwrap();
    let message = event.message.unwrap();
    assert!(message.starts_with("NIC eth0: all IP addresses used out: NIC eth0 IPv4: pool p4: "), "{message}");
    assert_eq!((event.type_.as_deref(), event.reason.as_deref()), (Some("Warning"), Some("FailedIPAllocation")));
    // Once the address is free the pod gets it.
    world.delete_pod("first").await;
    assert_eq!(agent.del(&first).await.0, 200);
    eventually("the second pod is served", async || agent.add(&second).await.0 == 200).await;
}

#[tokio::test]
async fn bad_annotations_are_named_with_their_value() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let rows = [
        (
            "a",
            json!({"ipam.spidernet.io/ippool": "{\"ipv4\":"}),
            "wrong input: invalid format of Pod annotation 'ipam.spidernet.io/ippool' (value '{\"ipv4\":')",
        ),
        (
            "b",
            json!({"ipam.spidernet.io/ippool": r#"{"ipv4":"p4"}"#}),
            "wrong input: invalid format of Pod annotation 'ipam.spidernet.io/ippool'",
        ),
        (
            "c",
            json!({"ipam.spidernet.io/ippools": "[]"}),
            "wrong input: invalid format of Pod annotation 'ipam.spidernet.io/ippools' (value '[]')",
        ),
        (
            "d",
            json!({"ipam.spidernet.io/ippools": r#"[{"interface":"net7","ipv4":["p4"]}]"#}),
            "wrong input: Pod annotation",
        ),
        (
            "e",
            json!({"ipam.spidernet.io/routes": r#"[{"dst":"10.0.0.0/8","gw":"fd00::1"}]"#}),
            "wrong input: invalid format of Pod annotation 'ipam.spidernet.io/routes'",
        ),
        (
            "f",
            json!({"ipam.spidernet.io/subnet": r#"{"ipv4":["s"]}"#}),
            "Pod annotation 'ipam.spidernet.io/subnet' (value '{\"ipv4\":[\"s\"]}'): SpiderSubnet is not supported",
        ),
        (
            "g",
            json!({"ipam.spidernet.io/ippool": r#"{"ipv4":["nowhere"]}"#}),
            "no IPPool available: NIC eth0 IPv4 (Pod annotation ippool): pool nowhere: IPPool not found",
        ),
        ("h", json!({"ipam.spidernet.io/ippool": r#"{"ipv4":["p4","p4"]}"#}), "wrong input: duplicate IPPool p4"),
    ];
    for (name, annotations, expected) in rows {
        let pod = world.pod(name, annotations).await;
        let (status, error) = agent.add(&pod).await;
        assert!(status == 500 && error.as_str().unwrap().starts_with(expected), "{error}");
    }
    let pod = world.pod("z", json!({"ipam.spidernet.io/ippool": r#"{"ipv4":["p4"],"unknown":1}"#})).await;
    assert_eq!(agent.add(&pod).await.0, 200, "unknown members are ignored");
    assert_eq!(world.claims().await.len(), 1);
}

#[tokio::test]
async fn broken_pools_are_named_and_the_others_serve() {
    let world = World::new().await;
    let rows = [
        ("reversed", json!({"subnet": "10.1.0.0/16", "ips": ["10.1.0.20-10.1.0.10"], "default": true})),
        ("mixed", json!({"subnet": "10.1.0.0/16", "ips": ["fd00::1"], "default": true})),
        ("no-subnet", json!({"subnet": "10.1.0.0", "ips": ["10.1.0.1"], "default": true})),
    ];
    for (name, spec) in rows {
        world.pool(name, spec).await;
    }
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let (status, error) = agent.add(&pod).await;
    let error = error.as_str().unwrap();
    assert_eq!(status, 500);
    for part in [
        "no IPPool available",
        "pool reversed: cannot be used: ",
        "spec.ips",
        "10.1.0.20-10.1.0.10",
        "fd00::1",
        "'10.1.0.0' is not a CIDR",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let named = world.pod("named", json!({"ipam.spidernet.io/ippool": r#"{"ipv4":["reversed"]}"#})).await;
    let (_, error) = agent.add(&named).await;
    let error = error.as_str().unwrap();
    assert!(error.contains("pool reversed: cannot be used: ") && !error.contains("not found"), "{error}");
    assert_eq!(error.matches("cannot be used").count(), 1, "said once: {error}");
    world.pool("good", v4("10.1.0.10")).await;
    eventually("the good pool serves", async || agent.add(&pod).await.0 == 200).await;
}

#[tokio::test]
async fn reserved_addresses_are_not_given() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.12")).await;
    let reserved: k8s_api::SpiderReservedIP = serde_json::from_value(
        json!({"metadata": {"name": "r"}, "spec": {"ips": ["10.1.0.10-10.1.0.11", "nonsense"]}}),
    )
    .unwrap();
    world.api().create(&Default::default(), &reserved).await.unwrap();
    let agent = world.agent("node-a").await;
    assert_eq!(agent.addresses(&world.pod("a", json!({})).await).await, ["10.1.0.12"]);
    assert_eq!(agent.add(&world.pod("b", json!({})).await).await.0, 500);
}

#[tokio::test]
async fn a_new_pod_of_an_old_name_is_not_served_as_the_old_one() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent("node-a").await;
    let old = world.pod("web", json!({})).await;
    let first = agent.addresses(&old).await;
    world.delete_pod("web").await;
    let new = world.pod("web", json!({})).await;
    let second = agent.addresses(&new).await;
    assert_ne!(first, second, "the old sandbox may still use its address");
    let (status, error) = agent.add(&old).await;
    assert!(status == 500 && error.as_str().unwrap().contains(&format!("has UID {}", new.uid)), "{error}");
    assert_eq!(agent.del(&old).await.0, 200);
    assert_eq!(world.claims().await, [(second[0].clone(), "web/eth0".to_owned())].into());
    let uid = async || Some(world.endpoint("web").await?.status?.current.uid);
    eventually("the endpoint is the new pod's", async || uid().await.as_deref() == Some(&new.uid)).await;
}

#[tokio::test]
async fn a_pod_that_is_over_or_elsewhere_gets_nothing() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    world.node("node-b", json!({})).await;
    let agent = world.agent("node-a").await;
    let over = world.pod("over", json!({})).await;
    world.finish_pod("over").await;
    eventually("the end of the pod is seen", async || {
        let (status, error) = agent.add(&over).await;
        status == 500 && error.as_str().unwrap() == "Pod ns1/over is not alive: phase Failed Evicted"
    })
    .await;
    let elsewhere = world.pod_on("elsewhere", "node-b", json!({})).await;
    let (status, error) = agent.add(&elsewhere).await;
    assert_eq!(
        (status, error.as_str().unwrap()),
        (500, "Pod ns1/elsewhere is on node \"node-b\", this is the agent of node \"node-a\"")
    );
}

#[tokio::test]
async fn a_stateful_sets_pod_gets_an_address_and_an_endpoint_without_owner() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let set: k8s_openapi::api::apps::v1::StatefulSet = serde_json::from_value(json!({
        "metadata": {"name": "db"},
        "spec": {"selector": {"matchLabels": {"app": "db"}}, "serviceName": "db", "template": {
            "metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}
    }))
    .unwrap();
    let sets: kube::Api<k8s_openapi::api::apps::v1::StatefulSet> = kube::Api::namespaced(world.client.clone(), "ns1");
    let set = sets.create(&Default::default(), &set).await.unwrap();
    let agent = world.agent("node-a").await;
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": set.metadata.uid, "controller": true}]);
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
        "metadata": {"name": "db-0", "ownerReferences": owner},
        "spec": {"nodeName": "node-a", "containers": [{"name": "c", "image": "i"}]}
    }))
    .unwrap();
    let uid = world.pods().create(&Default::default(), &pod).await.unwrap().metadata.uid.unwrap();
    let target = crate::world::Target { name: "db-0".into(), uid, container: "c".into(), nic: "eth0".into() };
    agent.addresses(&target).await;
    eventually("the endpoint is written", async || world.endpoint("db-0").await.is_some()).await;
    let endpoint = world.endpoint("db-0").await.unwrap();
    let status = endpoint.status.unwrap();
    assert_eq!((status.owner_controller_type.as_str(), status.owner_controller_name.as_str()), ("StatefulSet", "db"));
    assert_eq!(endpoint.metadata.owner_references, None);
    world.delete_pod("db-0").await;
    assert_eq!(agent.del(&target).await.0, 200);
    eventually("nothing is left", async || world.claims().await.is_empty() && world.endpoints().await.is_empty()).await;
}

#[tokio::test]
async fn both_families_come_from_their_pools() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    world.pool("p6", v6("fd00:1::10-fd00:1::19")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let addresses = agent.addresses(&pod).await;
    assert!(addresses[0].starts_with("10.1.0.") && addresses[1].starts_with("fd00:1::"), "{addresses:?}");
    let names: Vec<String> = world
        .api::<k8s_api::SpiderIP>()
        .list(&Default::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .filter_map(|ip| ip.metadata.name)
        .collect();
    assert!(names.iter().any(|name| name.starts_with("fd00-0001-0000-0000-")), "{names:?}");
}
