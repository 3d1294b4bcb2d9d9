//! What is asked of the webhooks, and what users have.

use k8s_api::{SpiderIPPool, SpiderMultusConfig, SpiderSubnet};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::world::{BOTH, World, create, eventually, object};
use crate::{assert_refused, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn subnets_say_that_they_are_not_available() {
    let world = World::with("enableIPv4: true\nenableIPv6: true\nenableSpiderSubnet: true\n", &[]).await;
    let spec = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1"]}});
    let status = refusal("subnet", create::<SpiderSubnet>(&world.client, "s", spec).await);
    assert_refused("subnet", &status, (403, "Forbidden"), "SpiderSubnet feature is not available");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_that_upstream_left_stays_as_it_is_and_goes_when_it_is_deleted() {
    let (client, server) = crate::world::api_server().await;
    let left = json!({"metadata": {"finalizers": ["spiderpool.spidernet.io"]}, "spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1"]}});
    create::<SpiderSubnet>(&client, "s", left).await.unwrap();
    let world = World::on(client.clone(), server, BOTH, &[]).await;
    let api = Api::<SpiderSubnet>::all(client);
    let patch = async |change: Value| api.patch("s", &PatchParams::default(), &Patch::Merge(change)).await;
    patch(json!({"metadata": {"labels": {"a": "b"}}})).await.unwrap();
    let status = refusal("change", patch(json!({"spec": {"ips": ["10.9.0.2"]}})).await);
    assert_refused("change", &status, (403, "Forbidden"), "SpiderSubnet feature is not available");
    api.delete("s", &DeleteParams::default()).await.unwrap();
    eventually("the subnet is gone", || async { api.get_opt("s").await.unwrap().is_none().then_some(()) }).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_objects_are_accepted() {
    let world = World::start().await;
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios/alicloud");
    let mut accepted = 0;
    for file in ["10-multus-configs.yaml", "20-ippools.yaml", "dual-stack/20-ippools-v6.yaml", "extra/burst-pool.yaml"]
    {
        let text = std::fs::read_to_string(format!("{scenario}/{file}")).unwrap();
        for document in text.split("\n---\n") {
            let value: Value = serde_saphyr::from_str(document).unwrap();
            let name = value["metadata"]["name"].as_str().unwrap().to_owned();
            match value["kind"].as_str().unwrap() {
                "SpiderIPPool" => drop(create::<SpiderIPPool>(&world.client, &name, value).await.unwrap()),
                "SpiderMultusConfig" => {
                    let config: SpiderMultusConfig = object(&name, value);
                    let namespace = config.namespace().unwrap();
                    Api::namespaced(world.client.clone(), &namespace)
                        .create(&PostParams::default(), &config)
                        .await
                        .unwrap();
                }
                other => panic!("{file}: {other}"),
            }
            accepted += 1;
        }
    }
    assert_eq!(accepted, 11);
    world.end().await;
}

async fn webhooks<K: Resource<DynamicType = ()>>(client: &Client) -> Vec<Value> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    api.get("spiderpool-controller").await.unwrap().data["webhooks"].as_array().unwrap().clone()
}

/// Pods have no row: the injection of networks is not in this version, so no webhook is asked about them.
#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_configurations_are_upstreams_with_our_url() {
    let world = World::start().await;
    let all = [
        ("mutate", webhooks::<MutatingWebhookConfiguration>(&world.client).await),
        ("validate", webhooks::<ValidatingWebhookConfiguration>(&world.client).await),
    ];
    for (verb, webhooks) in all {
        let rows = [
            ("spidersubnet", "spidersubnets", json!(["CREATE", "UPDATE"])),
            ("spiderippool", "spiderippools", json!(["CREATE", "UPDATE", "DELETE"])),
            ("spiderreservedip", "spiderreservedips", json!(["CREATE", "UPDATE"])),
            ("spidercoordinator", "spidercoordinators", json!(["CREATE", "UPDATE"])),
            ("spidermultusconfig", "spidermultusconfigs", json!(["CREATE", "UPDATE"])),
        ];
        assert_eq!(webhooks.len(), rows.len(), "{verb}");
        for (webhook, (kind, plural, operations)) in webhooks.iter().zip(rows) {
            let rule = &webhook["rules"][0];
            assert_eq!(webhook["name"], format!("{kind}.spiderpool.spidernet.io"));
            let url = webhook["clientConfig"]["url"].as_str().unwrap();
            assert!(url.ends_with(&format!("/{verb}-spiderpool-spidernet-io-v2beta1-{kind}")), "{url}");
            // Never of `/status`: what agents write passes by.
            assert_eq!(rule["resources"], json!([plural]), "{verb} {kind}");
            let operations = if verb == "mutate" { json!(["CREATE", "UPDATE"]) } else { operations };
            assert_eq!(rule["operations"], operations, "{verb} {kind}");
            assert_eq!((&webhook["failurePolicy"], &webhook["sideEffects"]), (&json!("Fail"), &json!("None")));
            assert!(webhook["clientConfig"]["caBundle"].is_string(), "{webhook}");
        }
    }
    world.end().await;
}
