//! What roles cannot say: of a pod of its node an agent changes the network status, and nothing else.

use super::nodes::World;
use serde_json::{Value, json};

const ELSEWHERE: &str = "an agent writes only what belongs to its own node";
const ANNOTATION: &str = "of a pod an agent changes only the annotation k8s.v1.cni.cncf.io/network-status";
const KEY: &str = "k8s.v1.cni.cncf.io/network-status";

/// Path of the status of the pod on a node.
fn status(world: &World, node: &str) -> String {
    world.installation.api.core(&format!("pods/pod-{node}/status"))
}

fn annotated(key: &str, value: &Value) -> Value {
    json!({"metadata": {"annotations": {key: value}}})
}

/// The pod on node `a` is a running one that others have annotated.
async fn run(world: &World) {
    let api = &world.installation.api;
    let labels = json!({"metadata": {"labels": {"app": "web"}, "annotations": {"keep": "me"}}});
    api.patch(&api.core("pods/pod-a"), "merge", &labels).await.ok();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let running = json!({"running": {"startedAt": "2026-01-02T03:04:05Z"}});
    let container = json!({
        "name": "c", "image": "i", "imageID": "i", "containerID": "c://1", "ready": true, "started": true, "restartCount": 0,
        "state": running, "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    });
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.9.0.1", "podIPs": [{"ip": "10.9.0.1"}], "hostIP": "192.168.0.1", "hostIPs": [{"ip": "192.168.0.1"}],
        "conditions": [condition("Ready"), condition("PodScheduled")], "containerStatuses": [container],
    }});
    api.patch(&self::status(world, "a"), "merge", &status).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn multus_writes_the_network_status_of_pods_of_its_node() {
    let world = World::with("multus").await;
    run(&world).await;
    let told = annotated(KEY, &json!("[]"));
    for (node, expected) in [("a", Ok(())), ("b", Err(ELSEWHERE))] {
        let path = status(&world, node);
        world.judge(node, "PUT", &path, &world.changed(&path, told.clone()).await, expected).await;
    }
    let path = status(&world, "a");
    // Its library is older than the API server, and loses what it does not know.
    let mut old = world.changed(&path, annotated(KEY, &json!("[{}]"))).await;
    old["status"].as_object_mut().unwrap().remove("hostIPs").unwrap();
    old["status"]["containerStatuses"][0].as_object_mut().unwrap().remove("volumeMounts").unwrap();
    world.judge("by an older library", "PUT", &path, &old, Ok(())).await;

    for (what, change) in [
        ("not running", json!({"status": {"phase": "Failed"}})),
        ("another address", json!({"status": {"podIP": "10.9.0.2", "podIPs": [{"ip": "10.9.0.2"}]}})),
        ("no address", json!({"status": {"podIP": null, "podIPs": null}})),
        ("no conditions", json!({"status": {"conditions": null}})),
        ("a message", json!({"status": {"message": "evicted"}})),
    ] {
        world.judge(what, "PUT", &path, &world.changed(&path, change).await, Err(ANNOTATION)).await;
    }
    let mut unready = world.changed(&path, json!({})).await;
    unready["status"]["conditions"][0]["status"] = "False".into();
    world.judge("unready", "PUT", &path, &unready, Err(ANNOTATION)).await;
    let mut fewer = world.changed(&path, json!({})).await;
    fewer["status"]["conditions"].as_array_mut().unwrap().pop();
    world.judge("a condition less", "PUT", &path, &fewer, Err(ANNOTATION)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn multinet_writes_the_network_status_of_pods_of_its_node_and_no_pods() {
    let world = World::with("multinet").await;
    run(&world).await;
    let told = annotated(KEY, &json!("[]"));
    for (node, expected) in [("a", Ok(())), ("b", Err(ELSEWHERE))] {
        world.judge(node, "PATCH", &status(&world, node), &told, expected).await;
        let pod = world.installation.api.core(&format!("pods/pod-{node}"));
        world.judge("the pod", "PATCH", &pod, &told, Err("cannot patch resource \"pods\"")).await;
    }
    let path = status(&world, "a");
    for (what, change) in [
        ("another annotation", annotated("other", &json!("x"))),
        ("a changed one", annotated("keep", &json!("you"))),
        ("one less", annotated("keep", &Value::Null)),
        ("a label", json!({"metadata": {"labels": {"app": "db"}}})),
        ("a label less", json!({"metadata": {"labels": {"app": null}}})),
        ("a finalizer", json!({"metadata": {"finalizers": ["example.org/hold"]}})),
        ("not running", json!({"status": {"phase": "Failed"}})),
    ] {
        world.judge(what, "PATCH", &path, &change, Err(ANNOTATION)).await;
    }
    world.judge("none any more", "PATCH", &path, &annotated(KEY, &Value::Null), Ok(())).await;
}
