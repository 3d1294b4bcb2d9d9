//! The coordinator's status: every source of the cluster's CIDRs, and what happens while one is missing.

#![allow(clippy::unwrap_used)] // tests

mod world;

use axum::http::Method;
use futures::StreamExt as _;
use k8s_api::{SpiderCoordinator, SpiderCoordinatorStatus};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Event, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use world::{World, api_server, create, create_in, event, eventually, merge, spy::Spy};

/// The type of the default object.
fn of_type(kind: &str) -> (&str, &str) {
    ("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_POD_CIDR_TYPE", kind)
}

async fn coordinator_with(
    client: &Client,
    what: &str,
    is_so: impl Fn(&SpiderCoordinatorStatus) -> bool,
) -> SpiderCoordinator {
    let api = Api::<SpiderCoordinator>::all(client.clone());
    eventually(&format!("coordinator {what}"), || async {
        let found = api.get_opt("default").await.unwrap()?;
        is_so(found.status.as_ref()?).then_some(found)
    })
    .await
}

async fn coordinator_in_phase(client: &Client, phase: &str) -> SpiderCoordinator {
    coordinator_with(client, phase, |status| status.phase == phase).await
}

/// Waits until the status is Synced with these.
async fn synced(client: &Client, overlay: &[&str], services: &[&str]) {
    let is = |found: &Option<Vec<String>>, expected: &[&str]| found.as_deref().is_some_and(|found| found == expected);
    coordinator_with(client, &format!("with {overlay:?} and {services:?}"), |status| {
        status.phase == "Synced" && is(&status.overlay_pod_cidr, overlay) && is(&status.service_cidr, services)
    })
    .await;
}

/// Waits until the status is NotReady and says so.
async fn not_ready(client: &Client, words: &str) {
    coordinator_with(client, &format!("NotReady: {words}"), |status| {
        status.phase == "NotReady" && status.reason.as_deref().is_some_and(|reason| reason.contains(words))
    })
    .await;
}

fn kubeadm(pods: &str) -> Value {
    let text = format!("networking:\n  podSubnet: {pods}\n  serviceSubnet: 10.233.0.0/18,fd00:10:233::/116\n");
    json!({"data": {"ClusterConfiguration": text}})
}

const SERVICES: [&str; 2] = ["10.233.0.0/18", "fd00:10:233::/116"];

async fn of_kubeadm(client: &Client, pods: &str) {
    create_in::<ConfigMap>(client, "kube-system", "kubeadm-config", kubeadm(pods)).await.unwrap();
}

/// A cluster-wide kind of somebody else.
struct Foreign {
    resource: ApiResource,
    api: Api<DynamicObject>,
}

impl Foreign {
    async fn serve(client: &Client, group: &str, version: &str, kind: &str, plural: &str) -> Self {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let served = json!({"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
        let approved = "https://github.com/kubernetes/kubernetes/pull/1";
        let definition = json!({
            "metadata": {"annotations": {"api-approved.kubernetes.io": approved}},
            "spec": {"group": group, "scope": "Cluster", "names": {"plural": plural, "kind": kind}, "versions": [served]},
        });
        create::<CustomResourceDefinition>(client, &format!("{plural}.{group}"), definition).await.unwrap();
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api = Api::all_with(client.clone(), &resource);
        eventually(&format!("{plural}.{group}"), || async { api.list(&Default::default()).await.ok().map(drop) }).await;
        Self { resource, api }
    }

    async fn put(&self, name: &str, spec: Value) {
        let mut object = DynamicObject::new(name, &self.resource);
        object.data = json!({"spec": spec});
        self.api.create(&PostParams::default(), &object).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_coordinator_is_made_and_knows_the_clusters_cidrs() {
    let world = World::with(world::BOTH, &[of_type("cluster")]).await;
    let client = &world.client;
    let waiting = coordinator_in_phase(client, "NotReady").await;
    assert!(waiting.status.unwrap().reason.unwrap().contains("kubeadm-config"));
    assert!(event(client, "default", "ClusterNotReady").await.message.unwrap().contains("create the ConfigMap"));
    assert_eq!(waiting.spec.hijack_cidr, Some(vec!["169.254.0.0/16".to_owned()]));

    create_in::<ConfigMap>(client, "kube-system", "kubeadm-config", kubeadm("10.233.64.0/18")).await.unwrap();
    let status = coordinator_in_phase(client, "Synced").await.status.unwrap();
    assert_eq!(status.overlay_pod_cidr, Some(vec!["10.233.64.0/18".to_owned()]));
    assert_eq!(status.service_cidr, Some(vec!["10.233.0.0/18".to_owned(), "fd00:10:233::/116".to_owned()]));
    assert_eq!(status.reason, None);

    let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    merge(&maps, "kubeadm-config", kubeadm("10.99.0.0/16")).await;
    let api = Api::<SpiderCoordinator>::all(client.clone());
    eventually("the new CIDR", || async {
        let status = api.get("default").await.unwrap().status?;
        (status.overlay_pod_cidr == Some(vec!["10.99.0.0/16".to_owned()])).then_some(())
    })
    .await;

    merge(&api, "default", json!({"spec": {"podCIDRType": "none"}})).await;
    eventually("no overlay", || async {
        let status = api.get("default").await.unwrap().status?;
        (status.overlay_pod_cidr == Some(vec![]) && status.phase == "Synced").then_some(())
    })
    .await;
    event(client, "default", "PodCIDRTypeChanged").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_coordinator_goes() {
    let world = World::start().await;
    let client = &world.client;
    create::<SpiderCoordinator>(client, "spare", json!({"spec": {"podCIDRType": "none"}})).await.unwrap();
    let api = Api::<SpiderCoordinator>::all(client.clone());
    api.delete("spare", &DeleteParams::default()).await.unwrap();
    eventually("no coordinator", || async { api.get_opt("spare").await.unwrap().is_none().then_some(()) }).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_of_the_controller_manager_tells_what_kubeadm_does_not() {
    let world = World::with(world::BOTH, &[of_type("cluster")]).await;
    let client = &world.client;
    not_ready(client, "the cluster's service CIDRs are not known").await;
    let command =
        ["kube-controller-manager", "--cluster-cidr=10.244.0.0/16", "--service-cluster-ip-range=10.96.0.0/16"];
    let container = json!({"name": "c", "image": "i", "command": command});
    let pod =
        json!({"metadata": {"labels": {"component": "kube-controller-manager"}}, "spec": {"containers": [container]}});
    create_in::<Pod>(client, "kube-system", "kube-controller-manager", pod).await.unwrap();
    // Nothing watches it: what is missing is looked for again.
    synced(client, &["10.244.0.0/16"], &["10.96.0.0/16"]).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn service_cidrs_tell_the_services_and_type_none_needs_nothing() {
    let world = World::with(world::BOTH, &[of_type("none")]).await;
    let client = &world.client;
    let bare = coordinator_in_phase(client, "Synced").await.status.unwrap();
    assert!(bare.reason.unwrap().contains("the cluster's service CIDRs are not known"));
    assert_eq!((bare.overlay_pod_cidr, bare.service_cidr), (Some(vec![]), Some(vec![])));
    world.end().await;

    let (client, server) = world::api_server().await;
    let cidrs = Foreign::serve(&client, "networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs").await;
    cidrs.put("kubernetes", json!({"cidrs": ["10.96.0.0/16", "fd00:96::/108"]})).await;
    cidrs.put("more", json!({"cidrs": ["10.97.0.0/16"]})).await;
    // Their word counts before kubeadm's.
    of_kubeadm(&client, "10.244.0.0/16").await;
    let world = World::on(client, server, world::BOTH, &[of_type("none")]).await;
    synced(&world.client, &[], &["10.96.0.0/16", "fd00:96::/108", "10.97.0.0/16"]).await;
    let api = Api::<SpiderCoordinator>::all(world.client.clone());
    merge(&api, "default", json!({"spec": {"podCIDRType": "cluster"}})).await;
    synced(&world.client, &["10.244.0.0/16"], &["10.96.0.0/16", "fd00:96::/108", "10.97.0.0/16"]).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calicos_pools_tell_the_pods() {
    let world = World::with(world::BOTH, &[of_type("calico")]).await;
    let client = &world.client;
    of_kubeadm(client, "10.244.0.0/16").await;
    not_ready(client, "Calico's IPPools are not there: install Calico").await;
    let pools = Foreign::serve(client, "crd.projectcalico.org", "v1", "IPPool", "ippools").await;
    pools.put("v4", json!({"cidr": "10.1.0.0/16"})).await;
    pools.put("off", json!({"cidr": "10.2.0.0/16", "disabled": true})).await;
    pools.put("v6", json!({"cidr": "fd00:1::/64", "disabled": false})).await;
    let api = Api::<SpiderCoordinator>::all(client.clone());
    // Seen by itself within the pause after a failure; touched so that it does not depend on which of the pools that look saw.
    coordinator_in_phase(client, "Synced").await;
    merge(&api, "default", json!({"metadata": {"labels": {"a": "b"}}})).await;
    synced(client, &["10.1.0.0/16", "fd00:1::/64"], &SERVICES).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ciliums_configuration_tells_where_the_pods_cidrs_are() {
    let world = World::with(world::BOTH, &[of_type("cilium")]).await;
    let client = &world.client;
    of_kubeadm(client, "10.244.0.0/16").await;
    not_ready(client, "ConfigMap kube-system/cilium-config is not there").await;
    assert!(event(client, "default", "CiliumNotReady").await.message.unwrap().contains("install Cilium"));
    let pools = Foreign::serve(client, "cilium.io", "v2alpha1", "CiliumPodIPPool", "ciliumpodippools").await;
    pools.put("default", json!({"ipv4": {"cidrs": ["10.5.0.0/16"]}, "ipv6": {"cidrs": ["fd00:5::/104"]}})).await;

    let given = json!({"ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.3.0.0/16", "cluster-pool-ipv6-cidr": "fd00:3::/104"});
    create_in::<ConfigMap>(client, "kube-system", "cilium-config", json!({"data": given})).await.unwrap();
    synced(client, &["10.3.0.0/16", "fd00:3::/104"], &SERVICES).await;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    let mode = async |mode: &str| merge(&maps, "cilium-config", json!({"data": {"ipam": mode}})).await;
    mode("kubernetes").await;
    synced(client, &["10.244.0.0/16"], &SERVICES).await;
    mode("multi-pool").await;
    synced(client, &["10.5.0.0/16", "fd00:5::/104"], &SERVICES).await;
    mode("eni").await;
    not_ready(client, "IPAM mode 'eni'").await;
    mode("cluster-pool-v2beta").await;
    synced(client, &["10.3.0.0/16", "fd00:3::/104"], &SERVICES).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_is_what_the_nodes_cni_configuration_says() {
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
    file("00-multus.conf", r#"{"name": "multus-cni-network", "type": "multus"}"#);
    file("05-multinet.conf", r#"{"name": "calico", "type": "multinet"}"#);
    file("10-flannel.conflist", r#"{"name": "flannel", "plugins": [{"type": "flannel"}]}"#);
    file("20-other.conflist", r#"{"name": "cilium", "plugins": [{"type": "cilium-cni"}]}"#);
    let dir = ("SPIDERPOOL_CNI_CONFIG_DIR", files.path().to_str().unwrap());
    let world = World::with(world::BOTH, &[of_type("auto"), dir]).await;
    of_kubeadm(&world.client, "10.244.0.0/16").await;
    synced(&world.client, &["10.244.0.0/16"], &SERVICES).await;
    file("10-flannel.conflist", r#"{"name": "unknown", "plugins": [{"type": "bridge"}]}"#);
    let api = Api::<SpiderCoordinator>::all(world.client.clone());
    merge(&api, "default", json!({"metadata": {"labels": {"a": "b"}}})).await;
    synced(&world.client, &[], &SERVICES).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_asks_the_api_where_the_node_has_no_cni_configuration() {
    let (client, server) = world::api_server().await;
    let pools = Foreign::serve(&client, "crd.projectcalico.org", "v1", "IPPool", "ippools").await;
    pools.put("v4", json!({"cidr": "10.1.0.0/16"})).await;
    of_kubeadm(&client, "10.244.0.0/16").await;
    let world = World::on(client, server, world::BOTH, &[of_type("auto")]).await;
    let client = &world.client;
    synced(client, &["10.1.0.0/16"], &SERVICES).await;
    pools.api.delete("v4", &DeleteParams::default()).await.unwrap();
    let given = json!({"ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.3.0.0/16"});
    create_in::<ConfigMap>(client, "kube-system", "cilium-config", json!({"data": given})).await.unwrap();
    synced(client, &["10.3.0.0/16"], &SERVICES).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_read_is_named_and_looked_at_again() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("cni");
    std::fs::write(&path, "no directory").unwrap();
    let dir = ("SPIDERPOOL_CNI_CONFIG_DIR", path.to_str().unwrap());
    let world = World::with(world::BOTH, &[of_type("auto"), dir]).await;
    of_kubeadm(&world.client, "10.244.0.0/16").await;
    not_ready(&world.client, "cannot read CNI configuration directory").await;
    std::fs::remove_file(&path).unwrap();
    synced(&world.client, &[], &SERVICES).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cidrs_that_are_known_are_kept_while_their_source_cannot_be_read() {
    const READ: &str = "GET /api/v1/namespaces/kube-system/configmaps/kubeadm-config";
    let (_, server) = api_server().await;
    let (client, spy) = Spy::on(&server);
    let refuse = |code| spy.fail(Method::GET, "/configmaps/kubeadm-config", code);
    of_kubeadm(&client, "10.244.0.0/16").await;
    let world = World::on(client.clone(), server, world::BOTH, &[of_type("cluster")]).await;
    synced(&client, &["10.244.0.0/16"], &SERVICES).await;
    let api = Api::<SpiderCoordinator>::all(client.clone());
    let known = api.get("default").await.unwrap().status;
    let looks_again = async |why: &str| {
        let before = spy.count(READ);
        merge(&api, "default", json!({"metadata": {"labels": {"touched": why}}})).await;
        eventually("another look", || async { (spy.count(READ) > before).then_some(()) }).await;
    };
    for code in [403, 500, 503] {
        refuse(code);
        looks_again(&format!("{code}-first")).await;
        // By then the first look has come to its decision.
        looks_again(&format!("{code}-second")).await;
        assert_eq!(api.get("default").await.unwrap().status, known, "{code}");
    }

    // What has changed meanwhile is seen when it can be.
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    merge(&maps, "kubeadm-config", kubeadm("10.99.0.0/16")).await;
    spy.recover();
    synced(&client, &["10.99.0.0/16"], &SERVICES).await;

    // Really gone: nobody is to go by it any more. What cannot be read then is said.
    maps.delete("kubeadm-config", &DeleteParams::default()).await.unwrap();
    coordinator_with(&client, "without CIDRs", |status| {
        let none = Some(Vec::new());
        status.phase == "NotReady" && status.overlay_pod_cidr == none && status.service_cidr == none
    })
    .await;
    refuse(403);
    not_ready(&client, "cannot read ConfigMap kube-system/kubeadm-config").await;
    world.end().await;
}

/// Waits for the Event of a change of type.
async fn changed_type(client: &Client, words: &str) {
    let api = Api::<Event>::namespaced(client.clone(), "default");
    eventually(&format!("Event {words}"), || async {
        let events = api.list(&ListParams::default()).await.unwrap().items;
        events.iter().any(|event| event.message.as_deref().is_some_and(|text| text.contains(words))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cidrs_that_are_known_are_kept_while_the_cni_configuration_cannot_be_read() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("cni");
    std::fs::write(&path, "no directory").unwrap();
    let dir = ("SPIDERPOOL_CNI_CONFIG_DIR", path.to_str().unwrap());
    let world = World::with(world::BOTH, &[of_type("cluster"), dir]).await;
    let client = &world.client;
    of_kubeadm(client, "10.244.0.0/16").await;
    synced(client, &["10.244.0.0/16"], &SERVICES).await;

    // Every phase from now on.
    let api = Api::<SpiderCoordinator>::all(client.clone());
    let watch = watcher(api.clone(), watcher::Config::default()).applied_objects();
    let phases = watch.filter_map(async |found| {
        let found = found.unwrap();
        let status = found.status?;
        Some((found.spec.pod_cidr_type.unwrap().as_str(), status.phase, status.overlay_pod_cidr.unwrap_or_default()))
    });
    let mut phases = std::pin::pin!(phases);
    let now = phases.next().await.unwrap();
    let change = async {
        merge(&api, "default", json!({"spec": {"podCIDRType": "auto"}})).await;
        changed_type(client, "from cluster to auto").await;
        // Another type needs no directory. When it is looked at the look at the former one has ended.
        merge(&api, "default", json!({"spec": {"podCIDRType": "none"}})).await;
        synced(client, &[], &SERVICES).await;
    };
    let last = |(kind, _, overlay): &(&str, String, Vec<String>)| *kind == "none" && overlay.is_empty();
    let watched = async {
        let mut seen = vec![now];
        while let Some(phase) = phases.next().await {
            let ends = last(&phase);
            seen.push(phase);
            if ends {
                break;
            }
        }
        seen
    };
    let ((), seen) = tokio::join!(change, watched);
    assert!(seen.iter().any(|(kind, ..)| *kind == "auto"), "{seen:?}");
    assert!(seen.iter().all(|(_, phase, _)| phase == "Synced"), "{seen:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_coordinator_that_somebody_deletes_is_made_again() {
    // No resync comes to its help.
    let never = ("SPIDERPOOL_COORDINATOR_INFORMER_RESYNC_PERIOD", "0");
    let world = World::with(world::BOTH, &[of_type("cluster"), never]).await;
    let client = &world.client;
    of_kubeadm(client, "10.244.0.0/16").await;
    synced(client, &["10.244.0.0/16"], &SERVICES).await;
    let api = Api::<SpiderCoordinator>::all(client.clone());
    for _ in 0..2 {
        let before = api.get("default").await.unwrap().uid();
        api.delete("default", &DeleteParams::default()).await.unwrap();
        eventually("another one", || async {
            let found = api.get_opt("default").await.unwrap()?;
            (found.uid() != before).then_some(())
        })
        .await;
        synced(client, &["10.244.0.0/16"], &SERVICES).await;
    }
    world.end().await;
}
