//! The Jobs of an installation: `spiderpool-init` and `clean`.

#![allow(clippy::unwrap_used)] // tests

mod world;

use std::time::Duration;

use clap::Parser as _;
use controller::{
    clean,
    init::{self, Patience, settings::Plan},
    settings::{Cli, Command},
};
use daemon::Env;
use k8s_api::{SpiderCoordinator, SpiderEndpoint, SpiderIP, SpiderIPPool, SpiderMultusConfig};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        batch::v1::Job,
        coordination::v1::Lease,
        core::v1::{Endpoints, Pod, Secret},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use world::{World, api_server, create, create_in, eventually};

const ENV: [(&str, &str); 13] = [
    ("SPIDERPOOL_NAMESPACE", "kube-system"),
    ("SPIDERPOOL_CONTROLLER_NAME", "spiderpool-controller"),
    ("SPIDERPOOL_AGENT_NAME", "spiderpool-agent"),
    ("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_NAME", "second"),
    ("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_TUNE_POD_ROUTES", "true"),
    ("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_POD_CIDR_TYPE", "none"),
    ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME", "default-v4-ippool"),
    ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET", "10.6.0.0/16"),
    ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES", "10.6.0.10-10.6.0.20"),
    ("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME", "default-v6-ippool"),
    ("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_SUBNET", "fd00:6::/64"),
    ("SPIDERPOOL_INIT_ENABLE_MULTUS_CONFIG", "true"),
    ("SPIDERPOOL_INIT_DEFAULT_CNI_NAME", "ipvlan-eth0"),
];

const SHORT: Patience = Patience {
    controller: Duration::from_millis(300),
    object: Duration::from_secs(5),
    pause: Duration::from_millis(20),
};

async fn plan(more: &[(&str, &str)]) -> Plan {
    Plan::new(&ENV.iter().chain(more).copied().collect::<Env>()).await.unwrap()
}

/// The controller's Service has this endpoint.
async fn slice(client: &Client, ready: bool) {
    let object = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "spiderpool-controller"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]
    });
    create_in::<EndpointSlice>(client, "kube-system", if ready { "ready" } else { "not-ready" }, object).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn init_waits_for_the_controller_and_makes_what_is_missing() {
    let world = World::start().await;
    let client = &world.client;
    slice(client, false).await;
    let plan = plan(&[]).await;
    let error = init::carry_out(client, &plan, SHORT).await.unwrap_err().to_string();
    assert!(error.starts_with("no ready endpoint of Service kube-system/spiderpool-controller within"), "{error}");
    assert!(Api::<SpiderIPPool>::all(client.clone()).list(&ListParams::default()).await.unwrap().items.is_empty());

    slice(client, true).await;
    init::carry_out(client, &plan, SHORT).await.unwrap();
    let pools = Api::<SpiderIPPool>::all(client.clone());
    let pool = pools.get("default-v4-ippool").await.unwrap();
    assert_eq!((pool.spec.default, pool.spec.ips), (Some(true), vec!["10.6.0.10-10.6.0.20".to_owned()]));
    assert!(pools.get("default-v6-ippool").await.unwrap().spec.ips.is_empty());
    let coordinator = Api::<SpiderCoordinator>::all(client.clone()).get("second").await.unwrap();
    assert_eq!(coordinator.spec.hijack_cidr, Some(vec!["169.254.0.0/16".to_owned()]));
    let networks = Api::<SpiderMultusConfig>::namespaced(client.clone(), "kube-system");
    let network = networks.get("ipvlan-eth0").await.unwrap();
    assert_eq!((network.spec.custom_cni.as_deref(), network.spec.enable_coordinator), (Some(""), Some(true)));

    // Again, without a controller, and after somebody changed something: what exists is left alone.
    let edit = Patch::Merge(json!({"spec": {"disable": true}}));
    let edited = pools.patch("default-v4-ippool", &PatchParams::default(), &edit).await.unwrap();
    for name in ["ready", "not-ready"] {
        Api::<EndpointSlice>::namespaced(client.clone(), "kube-system")
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }
    init::carry_out(client, &plan, SHORT).await.unwrap();
    assert_eq!(pools.get("default-v4-ippool").await.unwrap().spec, edited.spec);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_ends_at_once_where_trying_again_does_not_help() {
    let world = World::start().await;
    let client = &world.client;
    let subset = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": []}]});
    create_in::<Endpoints>(client, "kube-system", "spiderpool-controller", subset).await.unwrap();
    slice(client, true).await;
    let started = std::time::Instant::now();
    let plan = plan(&[("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_GATEWAY", "10.6.0.15")]).await;
    let error = init::carry_out(client, &plan, Patience::default()).await.unwrap_err();
    let text = daemon::Chain(&error).to_string();
    assert!(
        text.starts_with("cannot create SpiderIPPool default-v4-ippool") && text.contains("spec.gateway"),
        "{text}"
    );
    assert!(started.elapsed() < Duration::from_secs(30));
    world.end().await;
}

#[tokio::test]
async fn init_without_definitions_says_so() {
    let server = apiserver::Server::open(apiserver::Options::default()).await.unwrap();
    let client = Client::new(server.router(), "default");
    let error = init::carry_out(&client, &plan(&[]).await, SHORT).await.unwrap_err();
    let text = daemon::Chain(&error).to_string();
    assert!(
        text.contains("SpiderCoordinator second") && text.contains("custom resource definitions installed?"),
        "{text}"
    );
}

fn cleaning(more: &[&str]) -> clean::Plan {
    let arguments = ["spiderpool-controller", "clean", "--validate", "sp", "--mutating", "sp"];
    let Command::Clean(flags) = Cli::parse_from(arguments.iter().chain(more)).command else { unreachable!() };
    let env: Env = [
        ("SPIDERPOOL_POD_NAMESPACE", "kube-system"),
        ("SPIDERPOOL_POD_NAME", "clean-1"),
        ("SPIDERPOOL_INIT_NAME", "spiderpool-init"),
        ("SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME", "spiderpool-controller"),
    ]
    .into_iter()
    .collect();
    clean::Plan::new(flags, &env).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_removes_what_is_ours_and_nothing_else_and_may_be_repeated() {
    let (client, _server) = api_server().await;
    let client = &client;
    let ours = json!({"metadata": {"finalizers": ["spiderpool.spidernet.io"]}});
    let with = |rest: serde_json::Value| {
        let mut object = ours.clone();
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object
    };
    let pool = with(json!({"spec": {"subnet": "10.6.0.0/16", "ips": ["10.6.0.10"]}}));
    create::<SpiderIPPool>(client, "p", pool).await.unwrap();
    create::<SpiderCoordinator>(client, "default", with(json!({"spec": {"podCIDRType": "none"}}))).await.unwrap();
    let status = json!({"status": {"ownerControllerType": "Pod", "ownerControllerName": "web", "current": {"uid": "u", "node": "n", "ips": []}}});
    create_in::<SpiderEndpoint>(client, "default", "web", with(status)).await.unwrap();
    create_in::<SpiderMultusConfig>(client, "default", "net", json!({"spec": {"cniType": "custom"}})).await.unwrap();
    let holder = json!({"namespace": "default", "name": "web", "uid": "u", "interface": "eth0", "node": "n"});
    let ip = json!({"spec": {"address": "10.6.0.10", "pool": "p", "state": "Allocated", "since": "2026-01-01T00:00:00Z", "pod": holder}});
    create::<SpiderIP>(client, "10.6.0.10", ip).await.unwrap();
    create_in::<Pod>(client, "default", "web", json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}))
        .await
        .unwrap();
    for name in ["sp", "others"] {
        create::<MutatingWebhookConfiguration>(client, name, json!({})).await.unwrap();
        create::<ValidatingWebhookConfiguration>(client, name, json!({})).await.unwrap();
    }
    create_in::<Lease>(client, "kube-system", "spiderpool-controller-leases", json!({})).await.unwrap();
    for name in ["spiderpool-controller-server-certs", "others"] {
        create_in::<Secret>(client, "kube-system", name, json!({})).await.unwrap();
    }
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    create_in::<Job>(client, "kube-system", "spiderpool-init", json!({"spec": {"template": template}})).await.unwrap();

    clean::carry_out(client, &cleaning(&[])).await.unwrap();
    let names = |items: Vec<String>| items;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    let left = names(definitions.items.iter().map(ResourceExt::name_any).collect());
    assert_eq!(left, ["network-attachment-definitions.k8s.cni.cncf.io"]);
    let webhooks = Api::<MutatingWebhookConfiguration>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    assert_eq!(names(webhooks.items.iter().map(ResourceExt::name_any).collect()), ["others"]);
    let webhooks =
        Api::<ValidatingWebhookConfiguration>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    assert_eq!(names(webhooks.items.iter().map(ResourceExt::name_any).collect()), ["others"]);
    let secrets = Api::<Secret>::namespaced(client.clone(), "kube-system").list(&ListParams::default()).await.unwrap();
    assert_eq!(names(secrets.items.iter().map(ResourceExt::name_any).collect()), ["others"]);
    assert!(
        Api::<Lease>::namespaced(client.clone(), "kube-system")
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(
        Api::<Job>::namespaced(client.clone(), "kube-system")
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(
        Api::<Pod>::namespaced(client.clone(), "default").get_opt("web").await.unwrap().is_some(),
        "pods go on running"
    );

    clean::carry_out(client, &cleaning(&[])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_gets_on_with_objects_that_a_running_controller_would_keep() {
    let world = World::start().await;
    let client = &world.client;
    create::<SpiderIPPool>(client, "p", json!({"spec": {"subnet": "10.6.0.0/16", "ips": ["10.6.0.10"]}}))
        .await
        .unwrap();
    eventually("the keeper has put its finalizer on", || async {
        let pool = Api::<SpiderIPPool>::all(client.clone()).get("p").await.unwrap();
        (!pool.finalizers().is_empty()).then_some(())
    })
    .await;
    clean::carry_out(client, &cleaning(&[])).await.unwrap();
    let definitions = Api::<CustomResourceDefinition>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    assert_eq!(definitions.items.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_tells_what_it_cannot_remove_and_ends() {
    let (client, _server) = api_server().await;
    let pool = json!({
        "metadata": {"finalizers": ["spiderpool.spidernet.io", "example.com/keep"]},
        "spec": {"subnet": "10.6.0.0/16", "ips": ["10.6.0.10"]}
    });
    create::<SpiderIPPool>(&client, "p", pool).await.unwrap();
    let error = clean::carry_out(&client, &cleaning(&["--timeout", "1"])).await.unwrap_err().to_string();
    assert!(error.contains("cannot remove the spiderippools: p is kept by the finalizers example.com/keep"), "{error}");
    let definitions = Api::<CustomResourceDefinition>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    assert!(definitions.items.len() <= 2, "the others are gone: {}", definitions.items.len());
}
