//! Nobody serves webhooks, or nobody asks them: pods and addresses come and go all the same.

use k8s_api::{
    FINALIZER, NetworkAttachmentDefinition, SpiderCoordinator, SpiderEndpoint, SpiderIP, SpiderIPPool,
    SpiderMultusConfig,
    access::{Component, grants},
};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhookConfiguration},
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    claim,
    election::holder,
    name,
    world::{BOTH, Replica, World, api_server, create, create_in, eventually, object},
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

/// Somebody has removed the webhook configurations in an emergency, and the controller is started after that.
#[tokio::test(flavor = "multi_thread")]
async fn without_webhook_configurations_the_controller_leads_and_keeps_its_objects() {
    let (client, _server) = api_server().await;
    create::<Node>(&client, "node-a", json!({})).await.unwrap();
    // The chart makes them, not the controller.
    let replica = Replica::start(&client, "a", None, BOTH, &[], |settings| settings.flags.webhook_url = None).await;
    eventually("it leads", || async { (holder(&client).await.as_deref() == Some("a")).then_some(()) }).await;
    let spec = json!({"spec": {"subnet": "10.1.0.0/24", "ips": ["10.1.0.1-10.1.0.9"]}});
    create::<SpiderIPPool>(&client, "p", spec).await.unwrap();
    let ips = Api::<SpiderIP>::all(client.clone());
    ips.create(&PostParams::default(), &claim("10.1.0.1", "p")).await.unwrap();
    let pools = Api::<SpiderIPPool>::all(client.clone());
    eventually("the pool is kept", || async {
        let pool = pools.get("p").await.unwrap();
        let status = pool.status.clone()?;
        let counted = (status.total_ip_count, status.allocated_ip_count) == (Some(9), Some(1));
        (counted && pool.is_view() && pool.finalizers() == [FINALIZER]).then_some(())
    })
    .await;
    let spec = json!({"spec": {"cniType": "ipvlan", "ipvlan": {"master": ["eth0"]}, "enableCoordinator": false}});
    create_in::<SpiderMultusConfig>(&client, "default", "net", spec).await.unwrap();
    let networks = Api::<NetworkAttachmentDefinition>::namespaced(client.clone(), "default");
    eventually("the network", || async { networks.get_opt("net").await.unwrap() }).await;
    let coordinators = Api::<SpiderCoordinator>::all(client.clone());
    eventually("the coordinator", || async { coordinators.get_opt("default").await.unwrap()?.status }).await;
    assert!(replica.readiness.pending().contains(&"webhook configurations"), "{:?}", replica.readiness.pending());

    // Installed again they are completed as ever.
    let service =
        |path: &str| json!({"service": {"namespace": "kube-system", "name": "spiderpool-controller", "path": path}});
    let configuration = |path: &str| -> Value {
        json!({"webhooks": [{
            "name": "spidersubnet.spiderpool.spidernet.io", "clientConfig": service(path), "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }]})
    };
    let (mutate, validate) = (configuration("/mutate"), configuration("/validate"));
    create::<MutatingWebhookConfiguration>(&client, "spiderpool-controller", mutate).await.unwrap();
    create::<ValidatingWebhookConfiguration>(&client, "spiderpool-controller", validate).await.unwrap();
    replica.ready().await;
    replica.end().await;
}
