//! What other plugins ask: coordinator configuration, endpoint, networks.

use crate::world::{Weather, World, call, eventually, v4};
use k8s_api::{NetworkAttachmentDefinition, SpiderCoordinator};
use kube::Api;
use serde_json::{Value, json};

async fn coordinator(world: &World, name: &str, spec: Value, status: Value) {
    let object: SpiderCoordinator = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    let api: Api<SpiderCoordinator> = world.api();
    api.create(&Default::default(), &object).await.unwrap();
    let patch = kube::api::Patch::Merge(json!({"status": status}));
    api.patch_status(name, &Default::default(), &patch).await.unwrap();
}

#[tokio::test]
async fn the_coordinator_configuration_is_told_once_the_cidrs_are_known() {
    let world = World::new().await;
    let agent = world.agent("node-a").await;
    let networks = "kube-system/a, kube-system/b@uplink";
    let annotations = json!({"ipam.spidernet.io/default-route-nic": "net1", "k8s.v1.cni.cncf.io/networks": networks});
    world.pod("web", annotations).await;
    world.pod("unreadable", json!({"k8s.v1.cni.cncf.io/networks": "[{"})).await;
    let args = json!({"podName": "web", "podNamespace": "ns1"});
    let ask = async || call(&agent.socket, "GET", "/v1/coordinator/config", &args).await;
    assert_eq!(ask().await, (500, "no SpiderCoordinator exists".into()));
    coordinator(
        &world,
        "default",
        json!({"mode": "underlay", "podCIDRType": "cluster", "hijackCIDR": ["169.254.0.0/16"], "podDefaultRouteNIC": "eth0", "vethMTU": 1500}),
        json!({"phase": "NotReady", "reason": "no kubeadm-config"}),
    )
    .await;
    let (status, error) = ask().await;
    assert_eq!(status, 500);
    assert_eq!(
        error,
        "SpiderCoordinator default is not ready: status.phase \"NotReady\", expected \"Synced\": no kubeadm-config"
    );
    let synced = json!({"status": {"phase": "Synced", "reason": null, "overlayPodCIDR": ["10.233.64.0/18"], "serviceCIDR": ["10.233.0.0/18"]}});
    let api: Api<SpiderCoordinator> = world.api();
    api.patch_status("default", &Default::default(), &kube::api::Patch::Merge(synced)).await.unwrap();
    let expected = json!({
        "mode": "underlay", "tunePodRoutes": true, "hostRuleTable": 500, "hijackCIDR": ["169.254.0.0/16"], "policyRoutes": [],
        "overlayPodCIDR": ["10.233.64.0/18"], "serviceCIDR": ["10.233.0.0/18"], "podDefaultRouteNIC": "net1",
        "podNICs": ["eth0", "net1", "uplink"], "vethMTU": 1500
    });
    assert_eq!(ask().await, (200, expected));
    let of = async |pod: &str| {
        call(&agent.socket, "GET", "/v1/coordinator/config", &json!({"podName": pod, "podNamespace": "ns1"})).await
    };
    let (status, answer) = of("unreadable").await;
    assert_eq!((status, answer.get("podNICs")), (200, None), "{answer}");
    let (status, error) = of("x").await;
    assert_eq!((status, error), (500, "Pod ns1/x does not exist".into()));
}

#[tokio::test]
async fn of_several_coordinators_the_configured_one_counts() {
    let world = World::new().await;
    let synced = |cidr: &str| json!({"phase": "Synced", "overlayPodCIDR": [], "serviceCIDR": [cidr]});
    for (name, cidr) in [("a", "10.1.0.0/16"), ("b", "10.2.0.0/16"), ("default", "10.3.0.0/16")] {
        coordinator(&world, name, json!({"podCIDRType": "none"}), synced(cidr)).await;
    }
    world.pod("web", json!({})).await;
    for (configured, expected) in [("b", "10.2.0.0/16"), ("", "10.3.0.0/16"), ("gone", "10.1.0.0/16")] {
        let env = [("SPIDERPOOL_COORDINATOR_DEAFULT_NAME", configured)];
        let agent = world.agent_with("node-a", "", &env).await;
        let args = json!({"podName": "web", "podNamespace": "ns1"});
        let (status, answer) = call(&agent.socket, "GET", "/v1/coordinator/config", &args).await;
        assert_eq!((status, &answer["serviceCIDR"]), (200, &json!([expected])), "{configured:?}: {answer}");
        agent.stop().await;
    }
}

#[tokio::test]
async fn an_endpoint_is_told_from_memory_and_after_a_restart() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    agent.addresses(&pod).await;
    let path = "/v1/workloadendpoint?podName=web&podNamespace=ns1";
    let told = call(&agent.socket, "GET", path, &Value::Null).await;
    let interface =
        json!({"interface": "eth0", "ipv4": "10.1.0.10/16", "ipv4Gateway": "10.1.0.1", "ipv4Pool": "p4", "routes": []});
    let expected = json!({
        "podName": "web", "podNamespace": "ns1", "podUID": pod.uid, "node": "node-a", "interfaces": [interface]
    });
    assert_eq!(told, (200, expected));
    agent.stop().await;
    let agent = world.agent("node-a").await;
    assert_eq!(call(&agent.socket, "GET", path, &Value::Null).await, told);
}

async fn attachment(world: &World, name: &str, config: &str) {
    let object = json!({"metadata": {"name": name}, "spec": {"config": config}});
    let api: Api<NetworkAttachmentDefinition> = Api::namespaced(world.client.clone(), "kube-system");
    api.create(&Default::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

#[tokio::test]
async fn the_networks_of_a_pod_come_with_their_configurations() {
    let world = World::new().await;
    attachment(&world, "ipvlan-eth0", r#"{"type":"ipvlan"}"#).await;
    attachment(&world, "ipvlan-eth1", r#"{"type":"ipvlan","master":"eth1"}"#).await;
    let agent = world.agent("node-a").await;
    let further = r#"[{"name":"ipvlan-eth1","namespace":"kube-system","interface":"data0","mac":"02:00:00:00:00:01","cni-args":{"a":[1]}}]"#;
    let annotations =
        json!({"v1.multus-cni.io/default-network": "ipvlan-eth0", "k8s.v1.cni.cncf.io/networks": further});
    let pod = world.pod("web", annotations).await;
    let mut args = json!({"containerID": "c", "podNamespace": "ns1", "podName": "web", "podUID": pod.uid});
    let (status, answer) = call(&agent.socket, "POST", "/v1/multinet/networks", &args).await;
    let expected = json!({
        "default": {"namespace": "kube-system", "name": "ipvlan-eth0", "interface": "", "config": "{\"type\":\"ipvlan\"}", "selection": {}},
        "networks": [{
            "namespace": "kube-system", "name": "ipvlan-eth1", "interface": "data0",
            "config": "{\"type\":\"ipvlan\",\"master\":\"eth1\"}",
            "selection": {"mac": "02:00:00:00:00:01", "cniArgs": {"a": [1]}}
        }],
        "podUID": pod.uid
    });
    assert_eq!((status, answer), (200, expected));

    let plain = world.pod("plain", json!({})).await;
    args["podName"] = "plain".into();
    args["podUID"] = plain.uid.into();
    let (status, answer) = call(&agent.socket, "POST", "/v1/multinet/networks", &args).await;
    assert_eq!((status, answer.get("default"), &answer["networks"]), (200, None, &json!([])));
    args["clusterNetwork"] = "ipvlan-eth0".into();
    args["multusNamespace"] = "kube-system".into();
    let (status, answer) = call(&agent.socket, "POST", "/v1/multinet/networks", &args).await;
    assert_eq!((status, &answer["default"]["name"]), (200, &json!("ipvlan-eth0")));

    for (name, annotations, expected) in [
        (
            "missing",
            json!({"k8s.v1.cni.cncf.io/networks": "nowhere"}),
            "NetworkAttachmentDefinition ns1/nowhere, which Pod ns1/missing asks for, does not exist",
        ),
        (
            "wrong",
            json!({"k8s.v1.cni.cncf.io/networks": "[{"}),
            "Pod ns1/wrong: Pod annotation 'k8s.v1.cni.cncf.io/networks': invalid network selection",
        ),
    ] {
        world.pod(name, annotations).await;
        let args = json!({"containerID": "c", "podNamespace": "ns1", "podName": name, "podUID": ""});
        let (status, error) = call(&agent.socket, "POST", "/v1/multinet/networks", &args).await;
        assert!(status == 500 && error.as_str().unwrap().starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn the_network_status_is_written_to_this_very_pod() {
    let world = World::new().await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({"keep": "me"})).await;
    let status = r#"[{"name":"kube-system/a","interface":"eth0"}]"#;
    let args = json!({"podNamespace": "ns1", "podName": "web", "podUID": pod.uid, "networkStatus": status});
    assert_eq!(call(&agent.socket, "POST", "/v1/multinet/status", &args).await.0, 200);
    eventually("it is written", async || network_status(&world, "web").await.as_deref() == Some(status)).await;
    assert_eq!(world.pods().get("web").await.unwrap().metadata.annotations.unwrap()["keep"], "me");
    let written: Vec<String> =
        world.requests.lock().unwrap().iter().filter(|one| !one.starts_with("GET ")).cloned().collect();
    assert_eq!(written, ["PATCH status"], "it has no right to patch pods");
    let mut wrong = args.clone();
    wrong["networkStatus"] = "{}".into();
    let (code, error) = call(&agent.socket, "POST", "/v1/multinet/status", &wrong).await;
    assert_eq!((code, error), (500, "networkStatus of Pod ns1/web is not a JSON array".into()));
    world.delete_pod("web").await;
    world.pod("web", json!({})).await;
    assert_eq!(call(&agent.socket, "POST", "/v1/multinet/status", &args).await.0, 200);
    // The end waits for what is to be written.
    agent.stop().await;
    assert_eq!(network_status(&world, "web").await, None, "it is not the old pod any more");
}

#[tokio::test]
async fn nobody_waits_for_a_network_status_that_cannot_be_written() {
    let world = World::new().await;
    let agent = world.agent("node-a").await;
    let (pod, gone) = (world.pod("web", json!({})).await, world.pod("gone", json!({})).await);
    let args = |pod: &crate::world::Target, status: &str| json!({"podNamespace": "ns1", "podName": pod.name, "podUID": pod.uid, "networkStatus": status});
    world.set(Weather::Gone);
    for args in [args(&pod, "[]"), args(&gone, "[]"), args(&pod, r#"[{"name":"newer"}]"#)] {
        assert_eq!(call(&agent.socket, "POST", "/v1/multinet/status", &args).await, (200, "".into()));
    }
    world.delete_pod("gone").await;
    world.pod("gone", json!({})).await;
    world.set(Weather::Fair);
    let newer = r#"[{"name":"newer"}]"#;
    eventually("the newest is written", async || network_status(&world, "web").await.as_deref() == Some(newer)).await;
    agent.stop().await;
    assert_eq!(network_status(&world, "web").await.as_deref(), Some(newer));
    assert_eq!(network_status(&world, "gone").await, None, "what was for another pod of the name is dropped");
}

async fn network_status(world: &World, pod: &str) -> Option<String> {
    let annotations = world.pods().get(pod).await.unwrap().metadata.annotations?;
    annotations.get("k8s.v1.cni.cncf.io/network-status").cloned()
}
