//! Endpoints written under an agent's token on a real kube-apiserver, where the chart's roles and its ValidatingAdmissionPolicy hold.
//!
//! `cargo xtask test contract` renders and applies the chart's part and names the cluster by `CONTRACT_KUBECONFIG`.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use k8s_api::{FINALIZER, SpiderEndpoint, SpiderEndpointStatus, SpiderIP};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use std::time::Duration;
use store::{Endpoints, Failure};

const RELEASE: &str = "kube-system";
const ACCOUNT: &str = "spiderpool-agent";
const NODE_A: &str = "own-node-a";
const NODE_B: &str = "own-node-b";

async fn config() -> Config {
    let path = std::env::var("CONTRACT_KUBECONFIG").expect("CONTRACT_KUBECONFIG: `cargo xtask test contract` sets it");
    let file = Kubeconfig::read_from(path).unwrap();
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn pod(admin: &Client, namespace: &str, name: &str, node: &str, account: &str) -> String {
    let pod = json!({"metadata": {"name": name}, "spec": {
        "nodeName": node, "serviceAccountName": account, "containers": [{"name": "c", "image": "example.com/none"}]}});
    let api: Api<Pod> = Api::namespaced(admin.clone(), namespace);
    api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap().uid().unwrap()
}

/// The client of the agent of a node: its token is that of a pod there, as the kubelet asks for it.
async fn agent(admin: &Client, node: &str) -> Client {
    let api: Api<Node> = Api::all(admin.clone());
    api.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": node}})).unwrap())
        .await
        .unwrap();
    let name = format!("agent-{node}");
    let uid = pod(admin, RELEASE, &name, node, ACCOUNT).await;
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(name),
        uid: Some(uid),
    };
    let spec = TokenRequestSpec { bound_object_ref: Some(bound), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), RELEASE);
    let answer = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await.unwrap();
    let mut config = config().await;
    config.auth_info = AuthInfo { token: Some(answer.status.unwrap().token.into()), ..AuthInfo::default() };
    Client::try_from(config).unwrap()
}

fn status(uid: &str, node: &str, address: &str) -> SpiderEndpointStatus {
    serde_json::from_value(json!({
        "current": {"uid": uid, "node": node, "ips": [{"interface": "eth0", "ipv4": address, "vlan": 0}]},
        "ownerControllerType": "Pod", "ownerControllerName": "web"
    }))
    .unwrap()
}

async fn end(admin: &Client, name: &str) {
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("the pod is gone", async || pods.get_opt(name).await.unwrap().is_none()).await;
}

fn refused<T: std::fmt::Debug>(outcome: kube::Result<T>) {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            assert!(status.message.contains("an agent writes only what belongs to its own node"), "{}", status.message);
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// What the test made.
async fn clear(admin: &Client) {
    let now = DeleteParams::default().grace_period(0);
    let endpoints: Api<SpiderEndpoint> = Api::namespaced(admin.clone(), "default");
    for name in ["web", "job"] {
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let _ = endpoints.patch(name, &PatchParams::default(), &free).await;
        let _ = endpoints.delete(name, &now).await;
        let _ = Api::<Pod>::namespaced(admin.clone(), "default").delete(name, &now).await;
    }
    for node in [NODE_A, NODE_B] {
        let _ = Api::<Pod>::namespaced(admin.clone(), RELEASE).delete(&format!("agent-{node}"), &now).await;
        let _ = Api::<Node>::all(admin.clone()).delete(node, &now).await;
    }
}

#[tokio::test]
#[ignore = "contract"]
async fn an_agent_takes_over_what_a_pod_of_the_name_left_on_another_node_and_nothing_else_of_it() {
    let admin = Client::try_from(config().await).unwrap();
    clear(&admin).await;
    let (a, b) = (agent(&admin, NODE_A).await, agent(&admin, NODE_B).await);
    let api = |client: &Client| Api::<SpiderEndpoint>::namespaced(client.clone(), "default");
    let admins = api(&admin);
    let from = Endpoints::new(a.clone());
    let to = Endpoints::new(b.clone());

    let first_uid = pod(&admin, "default", "web", NODE_A, "default").await;
    let first = from.write("default", "web", false, &status(&first_uid, NODE_A, "10.0.0.1/24"), None).await.unwrap();
    let object = admins.get("web").await.unwrap();
    // A policy takes effect a moment after it was applied.
    let not_ours = async || {
        let mut probe = object.clone();
        probe.metadata.resource_version = None;
        probe.metadata.uid = None;
        probe.metadata.name = Some("job".into());
        match api(&b).create(&PostParams { dry_run: true, ..PostParams::default() }, &probe).await {
            Err(kube::Error::Api(status)) => status.code == 403,
            _ => false,
        }
    };
    eventually("the policy holds", not_ours).await;

    // The other agent has no business with it while the pod lives.
    refused(api(&b).delete("web", &DeleteParams::default()).await);
    refused(
        api(&b)
            .replace("web", &PostParams::default(), &changed(&object, |o| o["metadata"]["finalizers"] = json!([])))
            .await,
    );
    let moved = changed(&object, |o| o["status"]["current"]["node"] = NODE_B.into());
    refused(api(&b).replace("web", &PostParams::default(), &moved).await);
    let elsewhere = changed(&object, |o| o["status"]["current"]["node"] = NODE_B.into());
    refused(api(&a).replace("web", &PostParams::default(), &elsewhere).await);

    // The pod comes back on the other node, as a StatefulSet's do: the endpoint outlived it.
    end(&admin, "web").await;
    let second_uid = pod(&admin, "default", "web", NODE_B, "default").await;
    let told = status(&second_uid, NODE_B, "10.0.0.2/24");
    let second = to.write("default", "web", false, &told, None).await.unwrap();
    let found = admins.get("web").await.unwrap();
    assert_eq!((&first.uid, found.status.as_ref()), (&second.uid, Some(&told)));
    assert_eq!(found.labels()["ipam.spidernet.io/node"], NODE_B);

    // The first agent is late: nothing changes.
    let late = from.write("default", "web", false, &status(&first_uid, NODE_A, "10.0.0.1/24"), Some(&first)).await;
    assert!(matches!(late, Err(Failure::Refused(_))), "{late:?}");
    from.remove("default", "web", &first_uid, Some(&first)).await.unwrap();
    refused(api(&a).delete("web", &DeleteParams::default()).await);
    assert_eq!(admins.get("web").await.unwrap(), found);
    to.remove("default", "web", &second_uid, Some(&second)).await.unwrap();
    assert!(admins.get_opt("web").await.unwrap().is_none());

    // One that the garbage collector is deleting, and whose agent does not come to let it go.
    let first_uid = pod(&admin, "default", "job", NODE_A, "default").await;
    let first = from.write("default", "job", true, &status(&first_uid, NODE_A, "10.0.0.1/24"), None).await.unwrap();
    end(&admin, "job").await;
    let terminating = async || admins.get("job").await.unwrap().metadata.deletion_timestamp.is_some();
    eventually("the garbage collector deletes the endpoint", terminating).await;
    let left = admins.get("job").await.unwrap();
    assert_eq!(left.finalizers(), [FINALIZER]);
    refused(
        api(&b)
            .replace("job", &PostParams::default(), &changed(&left, |o| o["metadata"]["finalizers"] = json!([])))
            .await,
    );
    let second_uid = pod(&admin, "default", "job", NODE_B, "default").await;
    let told = status(&second_uid, NODE_B, "10.0.0.2/24");
    let second = to.write("default", "job", true, &told, None).await.unwrap();
    let found = admins.get("job").await.unwrap();
    assert_ne!(first.uid, second.uid);
    assert_eq!((found.status.as_ref(), found.metadata.deletion_timestamp.as_ref()), (Some(&told), None));

    // Roles: an agent patches no endpoints, and addresses of others it does not touch.
    assert!(
        matches!(api(&b).patch("job", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"annotations": {"by": "b"}}}))).await, Err(kube::Error::Api(status)) if status.code == 403)
    );
    let ip = json!({"metadata": {"name": "10.0.0.2"}, "spec": {"address": "10.0.0.2", "pool": "p", "state": "Allocated",
        "since": "2026-01-01T00:00:00Z", "pod": {"namespace": "default", "name": "job", "uid": second_uid, "interface": "eth0", "node": NODE_B}}});
    let ip: SpiderIP = serde_json::from_value(ip).unwrap();
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    refused(Api::<SpiderIP>::all(a).create(&dry, &ip).await);
    Api::<SpiderIP>::all(b).create(&dry, &ip).await.unwrap();
    clear(&admin).await;
}

fn changed(object: &SpiderEndpoint, change: impl FnOnce(&mut Value)) -> SpiderEndpoint {
    let mut value = serde_json::to_value(object).unwrap();
    change(&mut value);
    serde_json::from_value(value).unwrap()
}
