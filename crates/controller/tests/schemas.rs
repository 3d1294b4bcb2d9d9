//! The CRDs of the chart on an API server, without any webhook: what the schemas alone admit, fill in and refuse.

#![allow(clippy::unwrap_used)] // tests

mod world;

use axum::http;
use ipam::rules::{self, Enabled, FieldError, PoolContext, Refusal};
use k8s_api::{Holder, IpState, SpiderIP, SpiderIPPool, SpiderMultusConfig, ip::PodHolder};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use world::{api_server, create, create_in, create_raw};

async fn sip(client: &Client, name: &str, spec: Value) -> kube::Result<Value> {
    create_raw(client, "SpiderIP", "spiderips", name, json!({"metadata": {}, "spec": spec})).await
}

fn held(changes: Value) -> Value {
    let mut spec = json!({
        "address": "10.9.0.1", "pool": "p", "state": "Allocated", "since": "2026-01-02T03:04:05Z",
        "pod": {"namespace": "ns", "name": "web-0", "uid": "u", "interface": "eth0", "node": "node-a"},
    });
    json_patch::merge(&mut spec, &changes);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_has_exactly_one_holder() {
    let (client, _server) = api_server().await;
    let node = json!({"name": "node-a"});
    let rows = [
        ("both holders", json!({"node": node}), "exactly one of pod and node holds the address"),
        ("no holder", json!({"pod": null, "state": "Cooling"}), "exactly one of pod and node holds the address"),
        ("allocated to a node", json!({"pod": null, "node": node}), "an allocated address is held by a pod"),
        ("held by a pod", json!({"state": "Held"}), "a held address is held by a node"),
        ("a MAC without conflict", json!({"mac": "02:00:00:00:00:01"}), "mac is only for state Conflict"),
        ("no such state", json!({"state": "Lost"}), "Unsupported value: \"Lost\""),
        ("no pool", json!({"pool": null}), "spec.pool: Required value"),
        ("half a pod", json!({"pod": {"uid": null}}), "spec.pod.uid: Required value"),
        ("no time", json!({"since": "yesterday"}), "spec.since"),
    ];
    for (what, changes, words) in rows {
        match sip(&client, "10.9.0.1", held(changes)).await {
            Err(kube::Error::Api(status)) => {
                assert_eq!(status.code, 422, "{what}: {status:?}");
                assert!(status.message.contains(words), "{what}: {}", status.message);
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    sip(&client, "10.9.0.1", held(json!({}))).await.unwrap();
    match sip(&client, "10.9.0.1", held(json!({}))).await {
        Err(kube::Error::Api(status)) => assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists")),
        other => panic!("an address was given twice: {other:?}"),
    }
    let api = Api::<SpiderIP>::all(client.clone());
    let moved =
        api.patch("10.9.0.1", &PatchParams::default(), &Patch::Merge(json!({"spec": {"address": "10.9.0.2"}}))).await;
    assert!(moved.unwrap_err().to_string().contains("address is immutable"));
    let held_by_node = json!({"pod": null, "node": node, "state": "Held", "address": "10.9.0.3"});
    sip(&client, "10.9.0.3", held(held_by_node)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_written_and_read_unchanged() {
    let (client, _server) = api_server().await;
    let pod = PodHolder {
        namespace: "ns".into(),
        name: "web-0".into(),
        uid: "u".into(),
        container_id: Some("c".into()),
        interface: "eth0".into(),
        node: "n".repeat(70),
    };
    let address = "fd00::b".parse().unwrap();
    let since = serde_json::from_value(json!("2026-01-02T03:04:05Z")).unwrap();
    let claim =
        SpiderIP::claim(&ipam::address_name(address), address, "p", IpState::Allocated, Holder::Pod(pod), since);
    let stored = Api::all(client.clone()).create(&Default::default(), &claim).await.unwrap();
    assert_eq!(stored.spec, claim.spec);
    assert_eq!(stored.metadata.name.as_deref(), Some("fd00-0000-0000-0000-0000-0000-0000-000b"));
    assert_eq!(stored.address(), Some(address));
    let labels = stored.metadata.labels.unwrap();
    assert_eq!((labels["ipam.spidernet.io/ippool"].as_str(), labels["ipam.spidernet.io/node"].len()), ("p", 63));
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_fill_in_upstreams_defaults_and_drop_what_they_do_not_know() {
    let (client, _server) = api_server().await;
    let pool: SpiderIPPool = create(&client, "p", json!({"spec": {"subnet": "10.9.0.0/24"}})).await.unwrap();
    assert_eq!((pool.spec.default, pool.spec.disable, pool.spec.ip_version), (Some(false), Some(false), None));
    let raw = json!({"metadata": {}, "spec": {"subnet": "10.9.0.0/24", "vlan": 0}, "status": {"allocatedIPCount": 7}});
    let stored = create_raw(&client, "SpiderIPPool", "spiderippools", "q", raw).await.unwrap();
    assert_eq!((stored["spec"].get("vlan"), stored.get("status")), (None, None), "{stored}");

    let config: SpiderMultusConfig = create_in(&client, "default", "c", json!({"spec": {}})).await.unwrap();
    let spec = serde_json::to_value(config.spec).unwrap();
    assert_eq!(spec, json!({"cniType": "custom", "enableCoordinator": true, "disableIPAM": false}));
    let blocks = json!({"spec": {
        "cniType": "ib-sriov", "ibsriov": {"resourceName": "x"}, "coordinator": {}, "vlan": {"master": ["a"]}, "sriov": {}, "macvlan": {"master": []},
    }});
    let config: SpiderMultusConfig = create_in(&client, "default", "d", blocks).await.unwrap();
    let spec = serde_json::to_value(config.spec).unwrap();
    let coordinator =
        json!({"mode": "auto", "tunePodRoutes": true, "hostRuleTable": 500, "podRPFilter": 0, "txQueueLen": 0});
    assert_eq!(spec["coordinator"], coordinator);
    assert_eq!(
        spec["ibsriov"],
        json!({"resourceName": "x", "linkState": "enable", "rdmaIsolation": true, "enableIbKubernetes": false})
    );
    assert_eq!(spec["vlan"], json!({"master": ["a"], "vlanMode": "manual", "mtu": 0}));
    assert_eq!(
        (&spec["sriov"], &spec["macvlan"]),
        (&json!({"mtu": 0, "rdmaIsolation": false}), &json!({"master": [], "mtu": 0}))
    );

    let endpoint = json!({"metadata": {"namespace": "default"}, "status": {
        "ownerControllerType": "Pod", "ownerControllerName": "e",
        "current": {"uid": "u", "node": "n", "ips": [{"interface": "eth0", "ipv4": "10.9.0.1/24"}]},
    }});
    let stored: k8s_api::SpiderEndpoint = create_in(&client, "default", "e", endpoint).await.unwrap();
    let first = &stored.status.unwrap().current.ips[0];
    assert_eq!(
        (first.vlan, first.ipv4.as_deref()),
        (Some(0), Some("10.9.0.1/24")),
        "status is stored through the main resource"
    );
}

/// The rule of a definition and that of the webhook say the same of the same field.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_change_is_refused_without_any_webhook_in_the_webhooks_words() {
    let (client, _server) = api_server().await;
    let v4 = json!({"ipVersion": 4, "subnet": "10.9.0.0/24"});
    let reserved = json!({"ipVersion": 4, "ips": ["10.9.0.1"]});
    let rows = [
        ("SpiderIPPool", "spiderippools", &v4, json!({"subnet": "10.9.0.0/23"})),
        ("SpiderIPPool", "spiderippools", &v4, json!({"ipVersion": 6})),
        ("SpiderSubnet", "spidersubnets", &v4, json!({"subnet": "10.9.0.0/23"})),
        ("SpiderSubnet", "spidersubnets", &v4, json!({"ipVersion": 6})),
        ("SpiderReservedIP", "spiderreservedips", &reserved, json!({"ipVersion": 6})),
    ];
    for (index, (kind, plural, old, change)) in rows.into_iter().enumerate() {
        let what = format!("{kind} {change}");
        let mut object = create_raw(&client, kind, plural, &format!("o{index}"), json!({"spec": old})).await.unwrap();
        json_patch::merge(&mut object["spec"], &change);
        let path = format!("/apis/{}/{plural}/o{index}", k8s_api::API_VERSION);
        let request = http::Request::put(path).header("content-type", "application/json");
        let put = client.request::<Value>(request.body(serde_json::to_vec(&object).unwrap()).unwrap()).await;
        let Err(kube::Error::Api(status)) = put else { panic!("{what}: {put:?}") };
        let found: Vec<_> = status.details.as_ref().unwrap().causes.iter().collect();
        let [cause] = found.as_slice() else { panic!("{what}: {found:?}") };
        let expected = webhook(kind, old, &object["spec"]);
        assert_eq!(
            (cause.field.as_str(), cause.reason.as_str(), cause.message.as_str()),
            (expected.field.as_str(), expected.kind.reason(), expected.cause().as_str()),
            "{what}"
        );
    }
    let unset = create_raw(&client, "SpiderIPPool", "spiderippools", "u", json!({"spec": {"subnet": "10.9.0.0/24"}}));
    unset.await.unwrap();
    let filled = Patch::Merge(json!({"spec": {"ipVersion": 4}}));
    Api::<SpiderIPPool>::all(client).patch("u", &PatchParams::default(), &filled).await.unwrap();
}

/// What the webhook's rule says of an update.
fn webhook(kind: &str, old: &Value, new: &Value) -> FieldError {
    fn spec<T: serde::de::DeserializeOwned>(spec: &Value) -> T {
        serde_json::from_value(spec.clone()).unwrap()
    }
    let context = PoolContext { enabled: Enabled::BOTH, peers: &[], owner: None };
    let finalizers: &[String] = &[];
    let (labels, living) = (ipam::Labels::new(), (false, finalizers));
    let verdict = match kind {
        "SpiderIPPool" => rules::validate_pool_update("o", (&spec(old), &spec(new)), &labels, living, &[], &context),
        "SpiderSubnet" => rules::validate_subnet_update("o", (&spec(old), &spec(new)), living, &[], Enabled::BOTH),
        _ => rules::validate_reserved_update("o", (&spec(old), &spec(new)), false, Enabled::BOTH),
    };
    match verdict {
        Err(Refusal::Invalid(mut errors)) if errors.len() == 1 => errors.remove(0),
        other => panic!("{kind}: {other:?}"),
    }
}
