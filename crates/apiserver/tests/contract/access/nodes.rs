//! What roles cannot say: an agent writes only what belongs to its own node.

use super::installation::Installation;
use crate::engine::unique;
use k8s_api::access::Component;
use serde_json::{Value, json};

const IPS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spiderips";
const REFUSED: &str = "an agent writes only what belongs to its own node";

fn ip(name: &str, node: &str) -> Value {
    let pod = json!({"namespace": "ns", "name": "web", "uid": "u", "interface": "eth0", "node": node});
    json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIP", "metadata": {"name": name},
        "spec": {"address": "10.9.0.1", "pool": "p", "state": "Allocated", "since": "2026-01-02T03:04:05Z", "pod": pod},
    })
}

fn held(name: &str, node: &str) -> Value {
    let mut ip = ip(name, "");
    json_patch::merge(&mut ip, &json!({"spec": {"state": "Held", "pod": null, "node": {"name": node}}}));
    ip
}

fn endpoint(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint", "metadata": {"name": name},
        "status": {"current": {"uid": "u", "node": node, "ips": []}, "ownerControllerType": "Pod", "ownerControllerName": name},
    })
}

fn pod(name: &str, node: &str, account: &str) -> Value {
    let container = json!({"name": "c", "image": "i"});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "serviceAccountName": account, "containers": [container], "terminationGracePeriodSeconds": 0},
    })
}

/// An installation whose policy is in force, and objects of two nodes.
pub struct World {
    pub installation: Installation,
    /// Of node `a`, of node `b`, and one that tells no node.
    ips: [String; 3],
}

impl World {
    pub async fn new() -> Self {
        Self::with("multus").await
    }

    /// With Multus or multinet.
    pub async fn with(implementation: &str) -> Self {
        let installation = Installation::new(implementation).await;
        crate::golden::define(&installation.kubectl).await;
        let api = &installation.api;
        // Pods have one; a controller makes it.
        api.until(&api.core("serviceaccounts/default"), "the default account", |answer| answer.code == 200).await;
        let ips = ["a", "b", "nowhere"].map(|what| format!("{what}-{}", unique()));
        for (name, node) in ips.iter().zip(["a", "b", ""]) {
            api.post(IPS, &ip(name, node)).await.ok();
        }
        for node in ["a", "b"] {
            let path = format!("/apis/spiderpool.spidernet.io/v2beta1/namespaces/{}/spiderendpoints", api.namespace);
            api.post(&path, &endpoint(&format!("web-{node}"), node)).await.ok();
            api.post(&api.core("pods"), &pod(&format!("pod-{node}"), node, "default")).await.ok();
        }
        let world = Self { installation, ips };
        world.in_force().await;
        world
    }

    /// The API server learns of roles and policies a moment later.
    async fn in_force(&self) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let dry = format!("{IPS}?dryRun=All");
            let own = self.installation.as_agent(Some("a"), "POST", &dry, &ip(&unique(), "a")).await;
            let other = self.installation.as_agent(Some("a"), "POST", &dry, &ip(&unique(), "b")).await;
            if own.code == 201 && other.code == 403 {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "roles and policy take effect: {own:?} {other:?}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    fn endpoint(&self, name: &str) -> String {
        let namespace = &self.installation.api.namespace;
        format!("/apis/spiderpool.spidernet.io/v2beta1/namespaces/{namespace}/spiderendpoints/{name}")
    }

    /// Asserts the verdict on a request of the agent on node `a`.
    pub async fn judge(&self, what: &str, method: &str, path: &str, body: &Value, expected: Result<(), &str>) {
        let answer = self.installation.as_agent(Some("a"), method, path, body).await;
        match expected {
            Ok(()) => assert!((200..300).contains(&answer.code), "{what}: {answer:?}"),
            Err(words) => {
                assert_eq!(answer.code, 403, "{what}: {answer:?}");
                assert!(answer.refusal().2.contains(words), "{what}: {answer:?}");
            }
        }
    }

    /// A stored object with changes.
    pub async fn changed(&self, path: &str, changes: Value) -> Value {
        let mut object = self.installation.api.get(path).await.ok();
        json_patch::merge(&mut object, &changes);
        object
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn addresses_are_written_by_the_agent_of_their_node() {
    let world = World::new().await;
    let [own, other, nowhere] = world.ips.each_ref().map(|name| format!("{IPS}/{name}"));
    let to = |node: &str| json!({"spec": {"pod": {"node": node}}});
    let (mine, theirs) = (format!("mine-{}", unique()), format!("theirs-{}", unique()));
    let dry = format!("{IPS}?dryRun=All");
    let refused = |node: &str| format!("{REFUSED}: this would belong to node \"{node}\", the agent runs on \"a\"");
    let belongs = format!("{REFUSED}: this belongs to node \"b\", the agent runs on \"a\"");

    world.judge("create", "POST", IPS, &ip(&mine, "a"), Ok(())).await;
    world.judge("create for b", "POST", IPS, &ip(&theirs, "b"), Err(&refused("b"))).await;
    world.judge("create for none", "POST", IPS, &ip(&theirs, ""), Err(&refused(""))).await;
    world.judge("hold", "POST", &dry, &held(&mine.replace("mine", "held"), "a"), Ok(())).await;
    world.judge("hold for b", "POST", IPS, &held(&theirs, "b"), Err(&refused("b"))).await;

    let cooling = json!({"spec": {"state": "Cooling"}});
    world.judge("change", "PUT", &own, &world.changed(&own, cooling.clone()).await, Ok(())).await;
    world.judge("change of b", "PUT", &other, &world.changed(&other, cooling).await, Err(&belongs)).await;
    world.judge("take from b", "PUT", &other, &world.changed(&other, to("a")).await, Err(&belongs)).await;
    world.judge("give to b", "PUT", &own, &world.changed(&own, to("b")).await, Err(&refused("b"))).await;
    // Given by upstream's agents, which write no node: whoever finds the pod on its node completes it.
    world.judge("give away", "PUT", &nowhere, &world.changed(&nowhere, to("b")).await, Err(REFUSED)).await;
    world.judge("complete", "PUT", &nowhere, &world.changed(&nowhere, to("a")).await, Ok(())).await;

    world.judge("delete of b", "DELETE", &other, &Value::Null, Err(&belongs)).await;
    for own in [own, format!("{IPS}/{mine}")] {
        world.judge("delete", "DELETE", &own, &Value::Null, Ok(())).await;
    }
    world.judge("delete all", "DELETE", IPS, &Value::Null, Err("cannot deletecollection resource \"spiderips\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn endpoints_are_written_by_the_agent_of_their_node_or_handed_over() {
    let world = World::new().await;
    let (own, other) = (world.endpoint("web-a"), world.endpoint("web-b"));
    let to = |node: &str| json!({"status": {"current": {"node": node}}});
    let path = world.endpoint("").trim_end_matches('/').to_owned();
    world.judge("create", "POST", &path, &endpoint("new-a", "a"), Ok(())).await;
    world.judge("create for b", "POST", &path, &endpoint("new-b", "b"), Err(REFUSED)).await;
    let addressed = json!({"status": {"current": {"uid": "v"}}});
    world.judge("change", "PUT", &own, &world.changed(&own, addressed.clone()).await, Ok(())).await;
    world.judge("change of b", "PUT", &other, &world.changed(&other, addressed).await, Err(REFUSED)).await;
    world.judge("give to b", "PUT", &own, &world.changed(&own, to("b")).await, Err(REFUSED)).await;
    world.judge("delete of b", "DELETE", &other, &Value::Null, Err(REFUSED)).await;

    // The pod's name lives on here: a new pod.
    let taken = json!({"status": {"current": {"uid": "new", "node": "a"}}});
    world.judge("take over", "PUT", &other, &world.changed(&other, taken).await, Ok(())).await;
    world.judge("delete", "DELETE", &own, &Value::Null, Ok(())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn the_endpoint_of_a_living_pod_is_not_taken_for_one_that_does_not_own_it() {
    const OWNER: &str = "a SpiderEndpoint tells the addresses of the pod that owns it, and of no other";
    let world = World::new().await;
    let api = &world.installation.api;
    let path = world.endpoint("pod-b");
    let uid = api.get(&api.core("pods/pod-b")).await.ok()["metadata"]["uid"].clone();
    let owner = |uid: &Value| json!([{"apiVersion": "v1", "kind": "Pod", "name": "pod-b", "uid": uid}]);
    let mut stored = endpoint("pod-b", "b");
    stored["status"]["current"]["uid"] = uid.clone();
    stored["metadata"]["ownerReferences"] = owner(&uid);
    api.post(path.trim_end_matches("/pod-b"), &stored).await.ok();

    let to = |uid: &str| json!({"status": {"current": {"uid": uid, "node": "a"}}});
    world.judge("a made-up UID", "PUT", &path, &world.changed(&path, to("made-up")).await, Err(OWNER)).await;
    let mut taken = world.changed(&path, to("new")).await;
    taken["metadata"]["ownerReferences"] = owner(&"newer".into());
    world.judge("of another pod", "PUT", &path, &taken, Err(OWNER)).await;
    let mut made = endpoint("made", "a");
    made["metadata"]["ownerReferences"] = owner(&uid);
    world.judge("a new one", "POST", path.trim_end_matches("/pod-b"), &made, Err(OWNER)).await;

    // As a new pod of the name does; a StatefulSet's has no owner (`endpoints_are_written...`).
    taken["metadata"]["ownerReferences"] = owner(&"new".into());
    let dry = format!("{path}?dryRun=All");
    world.judge("of the new pod", "PUT", &dry, &taken, Ok(())).await;
    taken["metadata"]["ownerReferences"] = Value::Null;
    world.judge("of a StatefulSet's", "PUT", &dry, &taken, Ok(())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn others_than_agents_are_not_asked_for_a_node_and_an_agent_without_one_is_refused() {
    let world = World::new().await;
    let answer = world.installation.as_agent(None, "POST", IPS, &ip(&unique(), "a")).await;
    assert_eq!(answer.code, 403, "{answer:?}");
    assert!(answer.refusal().2.contains("the agent's token names no node"), "{answer:?}");
    let controller = world.installation.account(Component::Controller);
    let headers = [("Impersonate-User", controller.as_str())];
    let other = format!("{IPS}/{}", world.ips[1]);
    world.installation.api.call("DELETE", &other, &headers, Vec::new()).await.ok();
}

/// What impersonation stands for above: the token that a pod of the agent gets.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn the_token_of_an_agents_pod_names_its_node() {
    let world = World::new().await;
    let api = &world.installation.api;
    let account = world.installation.name("agent");
    let node = format!("node-{}", unique());
    let fake = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "spec": {"unschedulable": true}});
    api.post("/api/v1/nodes", &fake).await.ok();
    let made = api.post(&api.core("pods"), &pod("agent", &node, &account)).await.ok();
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "agent", "uid": made["metadata"]["uid"]});
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound},
    });
    let token = api.post(&api.core(&format!("serviceaccounts/{account}/token")), &request).await.ok();
    let token = format!("Bearer {}", token["status"]["token"].as_str().unwrap());
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    let anonymous = crate::engine::without_credentials().await;
    for (node, expected) in [(node.as_str(), 201), ("b", 403)] {
        let body = ip(&format!("token-{}", unique()), node).to_string().into_bytes();
        let answer = crate::engine::call(&anonymous, "POST", &format!("{IPS}?dryRun=All"), &headers, body).await;
        assert_eq!(answer.code, expected, "{answer:?}");
    }
}
