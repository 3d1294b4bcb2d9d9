//! What is asked of the webhooks, and what users have.

use axum::http;
use k8s_api::{SpiderIPPool, SpiderMultusConfig, SpiderSubnet};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::world::{BOTH, World, create, eventually, object};
use crate::{FORBIDDEN, INVALID, assert_invalid, assert_refused, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn subnets_say_that_they_are_not_available() {
    let world = World::start().await;
    let spec = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1"]}});
    let status = refusal("subnet", create::<SpiderSubnet>(&world.client, "s", spec).await);
    assert_refused("subnet", &status, (403, "Forbidden"), "SpiderSubnet feature is not available");
    world.end().await;
}

/// Code of the answer, and the warnings in it that are of the webhook; the API server has its own about the finalizer.
async fn warnings(client: &Client, method: &str, path: &str, content_type: &str, body: &Value) -> (u16, Vec<String>) {
    let request = http::Request::builder().method(method).uri(format!("/apis/spiderpool.spidernet.io/v2beta1/{path}"));
    let request =
        request.header("content-type", content_type).body(kube::client::Body::from(body.to_string().into_bytes()));
    let response = client.send(request.unwrap()).await.unwrap();
    let texts = response.headers().get_all("warning").iter().map(|text| text.to_str().unwrap().to_owned());
    (response.status().as_u16(), texts.filter(|text| text.contains("SpiderSubnet")).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn subnets_that_are_switched_on_are_checked_and_stored_with_a_warning() {
    let world = World::with("enableIPv4: true\nenableIPv6: true\nenableSpiderSubnet: true\n", &[]).await;
    let client = &world.client;
    let spec = json!({"subnet": "10.9.0.0/24", "ips": ["10.9.0.11-10.9.0.20", "10.9.0.10"]});
    let (version, kind) = ("spiderpool.spidernet.io/v2beta1", "SpiderSubnet");
    let given = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "dmz"}, "spec": spec});
    let (code, texts) = warnings(client, "POST", "spidersubnets", "application/json", &given).await;
    assert!(
        code == 201 && texts.len() == 1 && texts[0].contains("makes nothing of a SpiderSubnet"),
        "{code} {texts:?}"
    );
    let api = Api::<SpiderSubnet>::all(client.clone());
    let stored = api.get("dmz").await.unwrap();
    assert_eq!((stored.spec.ip_version, stored.spec.ips), (Some(4), vec!["10.9.0.10-10.9.0.20".to_owned()]));
    assert_eq!(stored.metadata.finalizers, Some(vec!["spiderpool.spidernet.io".to_owned()]));
    assert_eq!(stored.metadata.labels.unwrap()["ipam.spidernet.io/subnet-cidr"], "10-9-0-0-24");

    let again = refusal("again", create::<SpiderSubnet>(client, "dmz", given.clone()).await);
    assert_refused("again", &again, (409, "AlreadyExists"), "\"dmz\" already exists");
    create::<SpiderIPPool>(client, "p", json!({"spec": {"subnet": "10.8.0.0/24", "ips": ["10.8.0.1"]}})).await.unwrap();
    for (what, spec, field, words) in [
        (
            "subnet",
            json!({"subnet": "10.9.0.0/16"}),
            "spec.subnet",
            "overlaps with 'spec.subnet' 10.9.0.0/24 of Subnet dmz",
        ),
        ("pool", json!({"subnet": "10.8.0.0/16"}), "spec.subnet", "of IPPool p"),
        ("range", json!({"subnet": "10.7.0.0/24", "ips": ["10.6.0.1"]}), "spec.ips[0]", "10.6.0.1"),
    ] {
        let status = refusal(what, create::<SpiderSubnet>(client, "other", json!({ "spec": spec })).await);
        assert_invalid(what, &status, INVALID, field, words);
    }
    let outside = json!({"spec": {"subnet": "10.8.0.0/24", "ips": ["10.8.0.2"]}});
    let status = refusal("outside", create::<SpiderSubnet>(client, "other", outside).await);
    assert_invalid("outside", &status, FORBIDDEN, "spec.ips", "of the existing IPPool p");

    // What upstream's controller has given to a pool stays in the subnet.
    let text = r#"{"auto":{"ips":["10.9.0.12-10.9.0.13"]}}"#;
    let patch = async |change: &Value| api.patch("dmz", &PatchParams::default(), &Patch::Merge(change)).await;
    let status = Patch::Merge(json!({"status": {"controlledIPPools": text}}));
    api.patch_status("dmz", &PatchParams::default(), &status).await.unwrap();
    let status = refusal("given", patch(&json!({"spec": {"ips": ["10.9.0.10-10.9.0.12"]}})).await);
    assert_invalid("given", &status, FORBIDDEN, "spec.ips", "allocated to IPPool auto");
    let merge = "application/merge-patch+json";
    let more = json!({"spec": {"ips": ["10.9.0.10-10.9.0.30"]}});
    let (code, texts) = warnings(client, "PATCH", "spidersubnets/dmz", merge, &more).await;
    assert!(code == 200 && texts.len() == 1, "{code} {texts:?}");
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(warnings(client, "PATCH", "spidersubnets/dmz", merge, &labels).await, (200, vec![]));

    api.delete("dmz", &DeleteParams::default()).await.unwrap();
    eventually("the subnet is gone", || async { api.get_opt("dmz").await.unwrap().is_none().then_some(()) }).await;
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

/// Both ways: `enableValidatingResourcesDeletedWebhook`.
#[tokio::test(flavor = "multi_thread")]
async fn the_deletion_of_a_subnet_in_use_is_refused_where_that_is_switched_on() {
    for guarded in [true, false] {
        let config =
            format!("enableIPv4: true\nenableIPv6: true\nenableValidatingResourcesDeletedWebhook: {guarded}\n");
        let (client, server) = crate::world::api_server().await;
        for name in ["used", "unused"] {
            let spec = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.9.0.1"]}});
            create::<SpiderSubnet>(&client, name, spec).await.unwrap();
        }
        let api = Api::<SpiderSubnet>::all(client.clone());
        let count = |count: i64| Patch::Merge(json!({"status": {"allocatedIPCount": count}}));
        api.patch_status("used", &PatchParams::default(), &count(3)).await.unwrap();
        api.patch_status("unused", &PatchParams::default(), &count(0)).await.unwrap();
        let world = World::on(client.clone(), server, &config, &[]).await;
        let used = api.delete("used", &DeleteParams::default()).await;
        if guarded {
            assert_refused("used", &refusal("used", used), (403, "Forbidden"), "upstream gave 3 of its addresses");
        } else {
            used.unwrap();
        }
        api.delete("unused", &DeleteParams::default()).await.unwrap();
        // Nobody is asked without need: a controller that is away holds no deletion up.
        let configured = Api::<ValidatingWebhookConfiguration>::all(client);
        for webhook in configured.get("spiderpool-controller").await.unwrap().webhooks.unwrap() {
            let asked = webhook.rules.unwrap()[0].operations.clone().unwrap().contains(&"DELETE".to_owned());
            let is_guarded = webhook.name.starts_with("spidersubnet") || webhook.name.starts_with("spiderippool");
            assert_eq!(asked, guarded && is_guarded, "{}", webhook.name);
        }
        world.end().await;
    }
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
            ("spidersubnet", "spidersubnets"),
            ("spiderippool", "spiderippools"),
            ("spiderreservedip", "spiderreservedips"),
            ("spidercoordinator", "spidercoordinators"),
            ("spidermultusconfig", "spidermultusconfigs"),
        ];
        assert_eq!(webhooks.len(), rows.len(), "{verb}");
        for (webhook, (kind, plural)) in webhooks.iter().zip(rows) {
            let rule = &webhook["rules"][0];
            assert_eq!(webhook["name"], format!("{kind}.spiderpool.spidernet.io"));
            let url = webhook["clientConfig"]["url"].as_str().unwrap();
            assert!(url.ends_with(&format!("/{verb}-spiderpool-spidernet-io-v2beta1-{kind}")), "{url}");
            // Never of `/status`: what agents write passes by.
            assert_eq!(rule["resources"], json!([plural]), "{verb} {kind}");
            assert_eq!(rule["operations"], json!(["CREATE", "UPDATE"]), "{verb} {kind}");
            assert_eq!((&webhook["failurePolicy"], &webhook["sideEffects"]), (&json!("Fail"), &json!("None")));
            assert!(webhook["clientConfig"]["caBundle"].is_string(), "{webhook}");
        }
    }
    world.end().await;
}
