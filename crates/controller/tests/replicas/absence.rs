//! Nobody serves webhooks: pods and addresses come and go all the same.

use k8s_api::{
    SpiderEndpoint, SpiderIP, SpiderIPPool,
    access::{Component, grants},
};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhookConfiguration},
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    claim, name,
    world::{World, api_server, create, create_in, object},
};

async fn rules(client: &Client) -> Vec<RuleWithOperations> {
    let (all, cached) = (Api::<MutatingWebhookConfiguration>::all(client.clone()), ListParams::default());
    let mutating = all.list(&cached).await.unwrap().items.into_iter().flat_map(|one| one.webhooks.unwrap());
    let all = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let validating = all.list(&cached).await.unwrap().items.into_iter().flat_map(|one| one.webhooks.unwrap());
    let rules = mutating.map(|webhook| webhook.rules.unwrap());
    rules.chain(validating.map(|webhook| webhook.rules.unwrap())).flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_controller_gone_pods_start_and_addresses_are_given_and_released() {
    let (client, server) = api_server().await;
    let world = World::on(client.clone(), server.clone(), crate::world::BOTH, &[]).await;
    create::<Node>(&client, "node-a", json!({})).await.unwrap();
    let pool = |third: u8| json!({"spec": {"subnet": format!("10.1.{third}.0/24"), "ips": [format!("10.1.{third}.1-10.1.{third}.9")]}});
    create::<SpiderIPPool>(&client, "p", pool(0)).await.unwrap();
    world.end().await;

    // The webhooks are still configured and nobody answers.
    let rules = rules(&client).await;
    let error = create::<SpiderIPPool>(&client, "q", pool(1)).await.unwrap_err().to_string();
    assert!(error.contains("webhook"), "{error}");

    let pod = json!({"spec": {"nodeName": "node-a", "containers": [{"name": "c", "image": "i"}]}});
    let pod = create_in::<Pod>(&client, "default", "web", pod).await.unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let annotated = json!({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/network-status": "[]"}}});
    pods.patch("web", &PatchParams::default(), &Patch::Merge(annotated)).await.unwrap();
    let ips = Api::<SpiderIP>::all(client.clone());
    let mut ip = ips.create(&PostParams::default(), &claim("10.1.0.1", "p")).await.unwrap();
    ip.spec.state = k8s_api::IpState::Cooling;
    ips.replace(&name("10.1.0.1"), &PostParams::default(), &ip).await.unwrap();
    ips.delete(&name("10.1.0.1"), &DeleteParams::default()).await.unwrap();
    let status = json!({"status": {"current": {"uid": pod.metadata.uid, "node": "node-a", "ips": []}, "ownerControllerType": "Pod", "ownerControllerName": "web"}});
    let endpoints = Api::<SpiderEndpoint>::namespaced(client.clone(), "default");
    endpoints.create(&PostParams::default(), &object("web", status)).await.unwrap();
    endpoints.delete("web", &DeleteParams::default()).await.unwrap();
    pods.delete("web", &DeleteParams::default()).await.unwrap();

    // And no webhook looks at anything that an agent may write.
    let named = |list: &Option<Vec<String>>, what: &str| list.iter().flatten().any(|one| one == what || one == "*");
    let reads = ["get", "list", "watch"];
    for grant in grants().into_iter().filter(|grant| grant.component == Component::Agent) {
        for resource in grant.resources.iter().filter(|_| grant.verbs.iter().any(|verb| !reads.contains(verb))) {
            let asked =
                rules.iter().find(|rule| named(&rule.api_groups, grant.group) && named(&rule.resources, resource));
            assert!(asked.is_none(), "a webhook is asked about {resource}, which agents write: {asked:?}");
        }
    }
    assert!(!rules.iter().any(|rule| named(&rule.resources, "pods")), "a webhook is asked about pods");
}
