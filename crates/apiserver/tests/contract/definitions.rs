//! CustomResourceDefinitions: their own validation, and the product's kinds with the examples of its documentation.

use crate::engine::{Answer, Api, CRDS, Engine, engine, unique, widget};
use serde_json::{Value, json};
use std::time::Duration;

fn definition(group: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("things.{group}")},
        "spec": {"group": group, "scope": "Cluster", "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}]}});
    change(&mut crd);
    crd
}

#[tokio::test]
async fn a_definition_is_completed_and_established() {
    let api = Api::new().await;
    let group = format!("d{}.example.org", unique());
    api.post(CRDS, &definition(&group, |_| {})).await.ok();
    let path = format!("{CRDS}/things.{group}");
    let condition = |a: &Answer, kind: &str| {
        a.body["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == kind && c["status"] == "True")
    };
    let crd =
        api.until(&path, "established", |a| condition(a, "Established") && condition(a, "NamesAccepted")).await.ok();
    let names = json!({"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList", "shortNames": ["th"]});
    assert_eq!((&crd["spec"]["names"], &crd["status"]["acceptedNames"]), (&names, &names));
    assert_eq!(
        (&crd["spec"]["conversion"], &crd["status"]["storedVersions"]),
        (&json!({"strategy": "None"}), &json!(["v1"]))
    );
    api.until(&format!("/apis/{group}/v1"), "discovered", |a| a.code == 200).await;
    let list = api.until(&format!("/apis/{group}/v1/things"), "served", |a| a.code == 200).await.ok();
    assert_eq!((&list["kind"], &list["items"]), (&json!("ThingList"), &json!([])));
    let thing =
        json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": "x"}, "spec": {"a": "1"}});
    api.post(&format!("/apis/{group}/v1/things"), &thing).await.ok();
    api.delete(&path).await.ok();
    api.until(&path, "the definition goes", |a| a.code == 404).await;
    api.until(&format!("/apis/{group}/v1/things"), "its objects go", |a| a.code == 404).await;
}

#[tokio::test]
async fn unsound_definitions_are_refused_with_their_paths() {
    let api = Api::new().await;
    type Change = fn(&mut Value);
    let schema = "spec.validation.openAPIV3Schema";
    let rows: [(Change, String, &str); 10] = [
        (
            |c| c["metadata"]["name"] = "wrong.name.example.org".into(),
            "metadata.name".into(),
            "must be spec.names.plural+\".\"+spec.group",
        ),
        (
            |c| c["spec"]["versions"][0]["storage"] = false.into(),
            "spec.versions".into(),
            "must have exactly one version marked as storage version",
        ),
        (
            |c| {
                c["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["a"] =
                    json!({})
            },
            format!("{schema}.properties[spec].properties[a].type"),
            "Required value: must not be empty for specified object fields",
        ),
        (
            |c| {
                c["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
                    json!([{"rule": "self.a >="}])
            },
            format!("{schema}.properties[spec].x-kubernetes-validations[0].rule"),
            "compilation failed",
        ),
        (
            |c| {
                c["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["a"]["default"] =
                    json!(5)
            },
            format!("{schema}.properties[spec].properties[a].default"),
            "must be of type string",
        ),
        (
            |c| c["spec"]["versions"][0]["schema"] = Value::Null,
            "spec.versions[0].schema.openAPIV3Schema".into(),
            "Required value",
        ),
        (
            |c| {
                c["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["a"]["pattern"] =
                    json!("(")
            },
            format!("{schema}.properties[spec].properties[a].pattern"),
            "Invalid value: \"(\": must be a valid regular expression, but isn't: ",
        ),
        (
            |c| {
                c["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
                    json!([{"rule": "self.other == 'x'"}])
            },
            format!("{schema}.properties[spec].x-kubernetes-validations[0].rule"),
            "undefined field 'other'",
        ),
        (
            |c| c["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.other"}]),
            "spec.selectableFields[0].jsonPath".into(),
            "Invalid value: \".spec.other\": is an invalid path: does not refer to a valid field",
        ),
        (
            |c| {
                let group = format!("{}.k8s.io", c["spec"]["group"].as_str().unwrap());
                c["metadata"]["name"] = format!("things.{group}").into();
                c["spec"]["group"] = group.into();
            },
            "metadata.annotations[api-approved.kubernetes.io]".into(),
            "Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ),
    ];
    for (change, field, text) in rows {
        let group = format!("d{}.example.org", unique());
        let answer = api.post(CRDS, &definition(&group, change)).await;
        assert_eq!(answer.code, 422, "{field}: {answer:?}");
        assert!(answer.causes().iter().any(|(f, m)| *f == field && m.contains(text)), "{field} {text}: {answer:#?}");
    }
}

/// The product's definitions under a group of the test's own, so that a cluster that has them is left alone.
async fn product(api: &Api) -> (String, impl Fn(&str) -> String) {
    let own = format!("g{}.spidernet.io", unique());
    let renamed = {
        let own = own.clone();
        move |text: &str| text.replace("spiderpool.spidernet.io", &own)
    };
    for (file, crd) in k8s_api::all_crds() {
        if crd.spec.group != "spiderpool.spidernet.io" {
            continue;
        }
        let body: Value = serde_json::from_str(&renamed(&serde_json::to_string(&crd).unwrap())).unwrap();
        let answer = api.post(CRDS, &body).await;
        assert_eq!(answer.code, 201, "{file}: {answer:#?}");
        let plural = crd.spec.names.plural;
        api.until(&format!("/apis/{own}/v2beta1/{plural}"), "served", |a| a.code == 200).await;
    }
    (own, renamed)
}

/// The examples of the documentation, each kind once.
const EXAMPLES: &str = r#"
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: rack1-v4}
spec:
  subnet: 10.20.0.0/22
  ips: ["10.20.1.10-10.20.1.60", "10.20.1.80"]
  excludeIPs: ["10.20.1.33"]
  gateway: 10.20.0.1
  routes: [{dst: 10.99.0.0/16, gw: 10.20.0.2}]
  nodeName: [node-a, node-b]
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderSubnet
metadata: {name: dmz-v4}
spec:
  subnet: 10.30.0.0/24
  ips: ["10.30.0.20-10.30.0.200"]
  gateway: 10.30.0.1
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderReservedIP
metadata: {name: routers}
spec:
  ips: ["10.20.1.10-10.20.1.12", "10.20.1.50"]
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderEndpoint
metadata:
  name: web-6c9d-abcde
  finalizers: [spiderpool.spidernet.io]
  ownerReferences: [{apiVersion: v1, kind: Pod, name: web-6c9d-abcde, uid: 0d9f7a5e-0000-4000-8000-000000000001}]
status:
  ownerControllerType: Deployment
  ownerControllerName: web
  current:
    uid: 0d9f7a5e-0000-4000-8000-000000000001
    node: node-a
    ips:
    - {interface: eth0, ipv4: 10.20.1.11/22, ipv4Pool: rack1-v4, ipv4Gateway: 10.20.0.1, cleanGateway: false, vlan: 0,
       routes: [{dst: 10.99.0.0/16, gw: 10.20.0.2}]}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderCoordinator
metadata: {name: default}
spec: {mode: auto, podCIDRType: cluster, hijackCIDR: ["169.254.0.0/16"]}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: mv-eth1}
spec:
  cniType: macvlan
  macvlan:
    master: [eth1]
    ippools: {ipv4: [rack1-v4]}
"#;

fn plural(kind: &str) -> String {
    format!("{}s", kind.to_lowercase())
}

fn path(api: &Api, group: &str, kind: &str) -> String {
    let namespaced = ["SpiderEndpoint", "SpiderMultusConfig"].contains(&kind);
    let scope = if namespaced { format!("namespaces/{}/", api.namespace) } else { String::new() };
    format!("/apis/{group}/v2beta1/{scope}{}", plural(kind))
}

#[tokio::test]
async fn the_examples_of_every_kind_are_accepted_with_their_defaults() {
    let api = Api::new().await;
    let (group, renamed) = product(&api).await;
    for document in EXAMPLES.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(&renamed(document)).unwrap();
        let kind = object["kind"].as_str().unwrap().to_owned();
        let path = path(&api, &group, &kind);
        let answer = api.post(&format!("{path}?fieldValidation=Strict"), &object).await;
        assert_eq!(answer.code, 201, "{kind}: {answer:#?}");
        let made = answer.ok();
        let wanted: &[(&str, Value)] = match kind.as_str() {
            "SpiderIPPool" => &[("/spec/default", json!(false)), ("/spec/disable", json!(false))],
            "SpiderCoordinator" => &[
                ("/spec/mode", json!("auto")),
                ("/spec/tunePodRoutes", json!(true)),
                ("/spec/hostRuleTable", json!(500)),
                ("/spec/podRPFilter", json!(0)),
                ("/spec/txQueueLen", json!(0)),
            ],
            "SpiderMultusConfig" => &[
                ("/spec/enableCoordinator", json!(true)),
                ("/spec/disableIPAM", json!(false)),
                ("/spec/macvlan/ippools/matchMasterSubnet", json!(false)),
            ],
            "SpiderEndpoint" => &[("/status/current/ips/0/ipv4", json!("10.20.1.11/22"))],
            _ => &[],
        };
        for (pointer, value) in wanted {
            assert_eq!(made.pointer(pointer), Some(value), "{kind} {pointer}");
        }
        api.patch(
            &format!("{path}/{}", object["metadata"]["name"].as_str().unwrap()),
            "merge",
            &json!({"metadata": {"finalizers": null}}),
        )
        .await
        .ok();
    }
}

#[tokio::test]
async fn what_the_documentation_forbids_is_refused_by_the_schema() {
    let api = Api::new().await;
    let (group, _) = product(&api).await;
    let rows = [
        ("SpiderIPPool", json!({"spec": {}}), "spec.subnet"),
        ("SpiderIPPool", json!({"spec": {"subnet": "10.0.0.0/24", "ipVersion": 5}}), "spec.ipVersion"),
        (
            "SpiderIPPool",
            json!({"spec": {"subnet": "10.0.0.0/24", "routes": [{"dst": "10.0.0.0/8"}]}}),
            "spec.routes[0].gw",
        ),
        ("SpiderIPPool", json!({"spec": {"subnet": "10.0.0.0/24", "default": "yes"}}), "spec.default"),
        ("SpiderSubnet", json!({"spec": {"ips": []}}), "spec.subnet"),
        ("SpiderReservedIP", json!({"spec": {"ipVersion": 7}}), "spec.ipVersion"),
        (
            "SpiderEndpoint",
            json!({"status": {"ownerControllerType": "Pod", "ownerControllerName": "a", "current": {"uid": "u", "node": "n"}}}),
            "status.current.ips",
        ),
        ("SpiderCoordinator", json!({"spec": {"mode": "sideways"}}), "spec.mode"),
        ("SpiderCoordinator", json!({"spec": {"vethMTU": 0}}), "spec.vethMTU"),
        ("SpiderMultusConfig", json!({"spec": {"cniType": "bridge"}}), "spec.cniType"),
        ("SpiderMultusConfig", json!({"spec": {"cniType": "macvlan", "macvlan": {}}}), "spec.macvlan.master"),
        (
            "SpiderMultusConfig",
            json!({"spec": {"cniType": "ipvlan", "ipvlan": {"master": ["eth0"], "vlanID": 4095}}}),
            "spec.ipvlan.vlanID",
        ),
    ];
    for (kind, body, field) in rows {
        let mut object = json!({"apiVersion": format!("{group}/v2beta1"), "kind": kind, "metadata": {"name": "bad"}});
        object.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let answer = api.post(&path(&api, &group, kind), &object).await;
        assert_eq!(answer.code, 422, "{kind} {body}: {answer:?}");
        assert!(answer.causes().iter().any(|c| c.0 == field), "{kind} {field}: {answer:#?}");
    }
}

#[tokio::test]
async fn pools_are_listed_with_the_columns_that_users_know() {
    let api = Api::new().await;
    let (group, _) = product(&api).await;
    let path = path(&api, &group, "SpiderIPPool");
    let pool = json!({"apiVersion": format!("{group}/v2beta1"), "kind": "SpiderIPPool", "metadata": {"name": "p"},
        "spec": {"subnet": "10.0.0.0/24", "ipVersion": 4, "nodeName": ["master"], "multusName": ["kube-system/ipvlan-eth0"],
            "podAffinity": {"matchLabels": {"ipam.spidernet.io/app-namespace": "ns1"}}}});
    api.post(&path, &pool).await.ok();
    api.patch(&format!("{path}/p/status"), "merge", &json!({"status": {"allocatedIPCount": 1, "totalIPCount": 5}}))
        .await
        .ok();
    let table = api.table(&path).await;
    let names: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "Name",
            "VERSION",
            "SUBNET",
            "ALLOCATED-IP-COUNT",
            "TOTAL-IP-COUNT",
            "DEFAULT",
            "DISABLE",
            "NodeName",
            "MultusName",
            "APP-NAMESPACE"
        ]
    );
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["p", "4", "10.0.0.0/24", 1, 5, false, false, "[\"master\"]", "[\"kube-system/ipvlan-eth0\"]", "ns1"])
    );
}

#[tokio::test]
async fn addresses_are_listed_with_their_one_holder() {
    let api = Api::new().await;
    let (group, _) = product(&api).await;
    let path = path(&api, &group, "SpiderIP");
    let address = |name: &str, spec: Value| {
        let mut ip = json!({"apiVersion": format!("{group}/v2beta1"), "kind": "SpiderIP",
            "metadata": {"name": name, "labels": {"ipam.spidernet.io/node": "worker"}},
            "spec": {"address": name, "pool": "p", "since": "2026-01-01T00:00:00Z"}});
        ip["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        ip
    };
    let pod = json!({"namespace": "n", "name": "web-1", "uid": "u", "interface": "eth0", "node": "worker"});
    api.post(&path, &address("10.0.0.1", json!({"state": "Allocated", "pod": pod}))).await.ok();
    api.post(&path, &address("10.0.0.2", json!({"state": "Held", "node": {"name": "master"}}))).await.ok();
    let two =
        api.post(&path, &address("10.0.0.3", json!({"state": "Held", "pod": pod, "node": {"name": "master"}}))).await;
    assert_eq!(two.code, 422, "{two:?}");
    let none = api.post(&path, &address("10.0.0.3", json!({"state": "Allocated"}))).await;
    assert_eq!(none.code, 422, "{none:?}");
    let table = api.table(&path).await;
    let names: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Name", "ADDRESS", "POOL", "STATE", "NAMESPACE", "POD", "INTERFACE", "NODE", "AGE"]);
    let rows = table["rows"].as_array().unwrap();
    let cells = |i: usize| rows[i]["cells"].as_array().unwrap()[..8].to_vec();
    assert_eq!(
        Value::from(cells(0)),
        json!(["10.0.0.1", "10.0.0.1", "p", "Allocated", "n", "web-1", "eth0", "worker"])
    );
    assert_eq!(Value::from(cells(1)), json!(["10.0.0.2", "10.0.0.2", "p", "Held", null, null, null, "worker"]));
}

#[tokio::test]
async fn no_object_is_created_while_its_definition_terminates() {
    let api = Api::new().await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let group = api.define("Namespaced", json!({"schema": schema})).await;
    let mut held = widget(&group, "a", json!({}));
    held["metadata"]["finalizers"] = json!(["example.org/held"]);
    api.post(&api.widgets(&group), &held).await.ok();
    let definition = format!("{CRDS}/widgets.{group}");
    let going = api.delete(&definition).await.ok();
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");

    // A real server takes a moment to learn of it.
    let (probe, fresh) = (format!("{}?dryRun=All", api.widgets(&group)), widget(&group, "b", json!({})));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while engine() == Engine::KubeApiserver && api.post(&probe, &fresh).await.code == 201 {
        assert!(tokio::time::Instant::now() < deadline, "creations are still allowed");
    }
    let message = format!(
        "widgets.{group} \"b\" is forbidden: create not allowed while custom resource definition is terminating"
    );
    assert_eq!(api.post(&api.widgets(&group), &fresh).await.refusal(), (403, "Forbidden", message.as_str()));
    let path = format!("{}/a", api.widgets(&group));
    api.patch(&path, "merge", &json!({"spec": {"still": "here"}})).await.ok();
    api.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await.ok();
    api.until(&definition, "the definition goes", |a| a.code == 404).await;
    api.until(&api.widgets(&group), "its kind goes", |a| a.code == 404).await;
}
