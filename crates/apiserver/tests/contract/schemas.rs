//! What a schema does to an object: unknown fields, defaults, refusals, rules.

use crate::engine::{Api, widget};
use serde_json::{Value, json};

fn schema() -> Value {
    json!({"type": "object", "required": ["spec"], "properties": {"spec": {
    "type": "object", "required": ["subnet"],
    "x-kubernetes-validations": [
        {"rule": "!has(self.gateway) || self.gateway != self.subnet", "message": "gateway is not a subnet", "fieldPath": ".gateway"},
        {"rule": "self.subnet == oldSelf.subnet", "message": "subnet is immutable", "reason": "FieldValueForbidden"},
    ],
    "properties": {
        "subnet": {"type": "string", "maxLength": 43},
        "gateway": {"type": "string"},
        "ipVersion": {"type": "integer", "enum": [4, 6]},
        "vlan": {"type": "integer", "minimum": 0, "maximum": 4094, "default": 0},
        "mode": {"type": "string", "enum": ["auto", "off"], "default": "auto"},
        "ips": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "set", "items": {"type": "string", "pattern": "^[0-9.]+$"}},
        "routes": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["dst"],
            "items": {"type": "object", "required": ["dst"], "properties": {"dst": {"type": "string"}, "gw": {"type": "string"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "port": {"x-kubernetes-int-or-string": true},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    }}}})
}

async fn start() -> (Api, String, String) {
    let api = Api::new().await;
    let group = api.define("Namespaced", json!({"schema": {"openAPIV3Schema": schema()}})).await;
    let path = api.widgets(&group);
    (api, group, path)
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_of_or_refused() {
    let (api, group, path) = start().await;
    let body = widget(
        &group,
        "a",
        json!({"subnet": "s", "colour": "red", "free": {"any": {"thing": 1}}, "routes": [{"dst": "d", "hop": 1}]}),
    );
    let made = api.post(&path, &body).await;
    assert_eq!(made.warnings, ["unknown field \"spec.colour\"", "unknown field \"spec.routes[0].hop\""]);
    let object = made.ok();
    assert_eq!(
        object["spec"],
        json!({"subnet": "s", "vlan": 0, "mode": "auto", "free": {"any": {"thing": 1}}, "routes": [{"dst": "d"}]})
    );
    let strict = api.post(&format!("{path}?fieldValidation=Strict"), &body).await;
    assert_eq!(
        strict.refusal(),
        (
            400,
            "BadRequest",
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.colour\", unknown field \"spec.routes[0].hop\""
        )
    );
    let mut other = body.clone();
    other["metadata"]["name"] = "b".into();
    assert_eq!(api.post(&format!("{path}?fieldValidation=Ignore"), &other).await.warnings, [""; 0]);
}

#[tokio::test]
async fn a_field_named_twice_is_refused_when_strict() {
    let (api, group, path) = start().await;
    let text = format!(
        r#"{{"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {{"name": "a"}}, "spec": {{"subnet": "s", "mode": "off", "mode": "auto", "colour": 1}}}}"#
    );
    let post = |path: String| {
        let (api, text) = (&api, text.clone());
        async move { api.call("POST", &path, &[("content-type", "application/json")], text.into_bytes()).await }
    };
    let strict = post(format!("{path}?fieldValidation=Strict")).await;
    assert_eq!(
        strict.refusal().2,
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: duplicate field \"spec.mode\", unknown field \"spec.colour\""
    );
    let warned = post(path.clone()).await;
    assert_eq!(warned.warnings, ["duplicate field \"spec.mode\"", "unknown field \"spec.colour\""]);
    assert_eq!(warned.ok()["spec"]["mode"], "auto", "the last one counts");
}

#[tokio::test]
async fn defaults_replace_absent_fields_and_nulls() {
    let (api, group, path) = start().await;
    let object =
        api.post(&path, &widget(&group, "a", json!({"subnet": "s", "vlan": null, "gateway": null}))).await.ok();
    assert_eq!(object["spec"], json!({"subnet": "s", "vlan": 0, "mode": "auto"}));
}

#[tokio::test]
async fn refusals_name_field_value_and_bounds() {
    let (api, group, path) = start().await;
    let rows = [
        (json!({"ipVersion": 5}), "spec.ipVersion", "Unsupported value: 5: supported values: \"4\", \"6\""),
        (
            json!({"vlan": 4095}),
            "spec.vlan",
            "Invalid value: 4095: spec.vlan in body should be less than or equal to 4094",
        ),
        (
            json!({"vlan": "x"}),
            "spec.vlan",
            "Invalid value: \"string\": spec.vlan in body must be of type integer: \"string\"",
        ),
        (json!({"mode": "on"}), "spec.mode", "Unsupported value: \"on\": supported values: \"auto\", \"off\""),
        (json!({"ips": ["a"]}), "spec.ips[0]", "Invalid value: \"a\": spec.ips[0] in body should match '^[0-9.]+$'"),
        (json!({"ips": ["1", "2", "3", "4"]}), "spec.ips", "Too many: 4: must have at most 3 items"),
        (json!({"ips": ["1", "1"]}), "spec.ips[1]", "Duplicate value: \"1\""),
        (json!({"routes": [{"dst": "d"}, {"dst": "d"}]}), "spec.routes[1]", "Duplicate value: {\"dst\":\"d\"}"),
        (json!({"routes": [{"gw": "g"}]}), "spec.routes[0].dst", "Required value"),
        (
            json!({"labels": {"a": 1}}),
            "spec.labels.a",
            "Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
        ),
        (
            json!({"port": true}),
            "spec.port",
            "Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (json!({"gateway": "s"}), "spec.gateway", "Invalid value: gateway is not a subnet"),
    ];
    for (more, field, message) in rows {
        let mut spec = json!({"subnet": "s"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = api.post(&path, &widget(&group, "bad", spec)).await;
        assert_eq!(answer.code, 422, "{more}: {answer:?}");
        assert_eq!(answer.causes()[0], (field, message), "{more}");
    }
    let missing = api.post(&path, &widget(&group, "bad", json!({}))).await;
    assert_eq!(missing.causes()[0], ("spec.subnet", "Required value"));
    assert_eq!(missing.body["details"]["name"], "bad");
    assert_eq!(
        (&missing.body["details"]["group"], &missing.body["details"]["kind"]),
        (&json!(group), &json!("Widget"))
    );
}

#[tokio::test]
async fn the_message_lists_every_cause() {
    let (api, group, path) = start().await;
    let one = api.post(&path, &widget(&group, "bad", json!({"subnet": "s", "gateway": "s"}))).await;
    assert_eq!(
        one.refusal().2,
        format!("Widget.{group} \"bad\" is invalid: spec.gateway: Invalid value: gateway is not a subnet")
    );
    let two = api.post(&path, &widget(&group, "bad", json!({"vlan": -1}))).await;
    let text = two.refusal().2;
    assert!(text.starts_with(&format!("Widget.{group} \"bad\" is invalid: [")) && text.ends_with(']'), "{text}");
    for part in [
        "spec.subnet: Required value",
        "spec.vlan: Invalid value: -1: spec.vlan in body should be greater than or equal to 0",
        "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn transition_rules_see_the_old_object() {
    let (api, group, path) = start().await;
    api.post(&path, &widget(&group, "a", json!({"subnet": "s"}))).await.ok();
    let path = format!("{path}/a");
    let refused = api.patch(&path, "merge", &json!({"spec": {"subnet": "t"}})).await;
    assert_eq!((refused.code, refused.causes()), (422, vec![("spec", "Forbidden: subnet is immutable")]));
    assert_eq!(api.patch(&path, "merge", &json!({"spec": {"vlan": 7}})).await.ok()["spec"]["vlan"], 7);
}

#[tokio::test]
async fn metadata_is_checked_for_every_kind() {
    let (api, group, path) = start().await;
    let mut body = widget(&group, "Bad_Name", json!({"subnet": "s"}));
    body["metadata"]["labels"] = json!({"k": "not a value"});
    let answer = api.post(&path, &body).await;
    let fields: Vec<_> = answer.causes().iter().map(|c| c.0).collect();
    assert_eq!((answer.code, fields), (422, vec!["metadata.name", "metadata.labels"]));
    let mut unknown = widget(&group, "ok", json!({"subnet": "s"}));
    unknown["metadata"]["colour"] = "red".into();
    assert_eq!(api.post(&path, &unknown).await.warnings, ["unknown field \"metadata.colour\""]);
    let mut warned = widget(&group, "warned", json!({"subnet": "s"}));
    warned["metadata"]["finalizers"] = json!(["example.org"]);
    assert_eq!(
        api.post(&path, &warned).await.warnings,
        [
            "metadata.finalizers: \"example.org\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
        ]
    );
    api.patch(&format!("{path}/warned"), "merge", &json!({"metadata": {"finalizers": null}})).await.ok();
}

#[tokio::test]
async fn built_in_kinds_are_decoded_defaulted_and_checked() {
    let api = Api::new().await;
    let service = |spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec});
    let path = api.core("services");
    let wrong = api.post(&path, &service(json!({"ports": [{"port": "http"}]}))).await;
    assert_eq!(wrong.code, 400);
    assert!(
        wrong.refusal().2.starts_with("Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32"),
        "{wrong:?}"
    );
    let strict = api
        .post(&format!("{path}?fieldValidation=Strict"), &service(json!({"ports": [{"port": 80, "colour": 1}]})))
        .await;
    assert_eq!(
        strict.refusal().2,
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: unknown field \"spec.ports[0].colour\""
    );
    let refused = api.post(&path, &service(json!({"ports": [{"port": 0}]}))).await;
    assert!(
        refused.causes().contains(&("spec.ports[0].port", "Invalid value: 0: must be between 1 and 65535, inclusive")),
        "{refused:?}"
    );
    let made = api.post(&path, &service(json!({"ports": [{"port": 80}], "selector": {"a": "b"}}))).await.ok();
    assert_eq!(made["spec"]["ports"], json!([{"protocol": "TCP", "port": 80, "targetPort": 80}]));
    for (field, value) in [
        ("type", "ClusterIP"),
        ("sessionAffinity", "None"),
        ("internalTrafficPolicy", "Cluster"),
        ("ipFamilyPolicy", "SingleStack"),
    ] {
        assert_eq!(made["spec"][field], value, "{field}");
    }
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let answer = api.post(&format!("/apis/apps/v1/namespaces/{}/daemonsets", api.namespace), &set).await;
    assert_eq!(
        answer.causes(),
        [(
            "spec.template.metadata.labels",
            "Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
        )]
    );
}

#[tokio::test]
async fn a_pod_must_have_containers_and_keeps_its_spec() {
    let api = Api::new().await;
    let pod = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers, "automountServiceAccountToken": false}});
    let none = api.post(&api.core("pods"), &pod(json!([]))).await;
    assert_eq!(none.causes(), [("spec.containers", "Required value")]);
    let made = api.post(&api.core("pods"), &pod(json!([{"name": "c", "image": "i"}]))).await.ok();
    assert_eq!(
        (&made["spec"]["restartPolicy"], &made["spec"]["dnsPolicy"], &made["status"]["phase"]),
        (&json!("Always"), &json!("ClusterFirst"), &json!("Pending"))
    );
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    let moved = api.patch(&api.core("pods/p"), "merge", &json!({"spec": {"hostname": "elsewhere"}})).await;
    assert_eq!((moved.code, moved.causes()[0].0), (422, "spec"));
    assert!(
        moved.causes()[0]
            .1
            .starts_with("Forbidden: pod updates may not change fields other than `spec.containers[*].image`"),
        "{moved:?}"
    );
    assert_eq!(api.patch(&api.core("pods/p"), "merge", &json!({"metadata": {"labels": {"a": "b"}}})).await.code, 200);
}

#[tokio::test]
async fn with_a_pods_status_go_its_annotations() {
    let api = Api::new().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": {"keep": "me"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": false}});
    let made = api.post(&api.core("pods"), &pod).await.ok();
    let (path, uid) = (api.core("pods/p/status"), &made["metadata"]["uid"]);
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"});
    let metadata = json!({"uid": uid, "annotations": {"a": "b"}, "labels": {"c": "d"}, "ownerReferences": [owner]});
    for kind in ["merge", "strategic-merge"] {
        let patch = json!({"metadata": metadata, "spec": {"hostname": "elsewhere"}, "status": {"message": kind}});
        let patched = api.patch(&path, kind, &patch).await.ok();
        let meta = &patched["metadata"];
        assert_eq!(meta["annotations"], json!({"a": "b", "keep": "me"}), "{kind}");
        assert_eq!((&meta["labels"], &meta["ownerReferences"]), (&json!({"c": "d"}), &Value::Null), "{kind}");
        assert_eq!((&patched["spec"]["hostname"], &patched["status"]["message"]), (&Value::Null, &json!(kind)));
        assert_eq!(patched["status"]["phase"], "Pending", "{kind}: the rest stays");
    }
    let mut whole = api.get(&path).await.ok();
    whole["metadata"]["annotations"] = json!({"only": "this"});
    assert_eq!(api.put(&path, &whole).await.ok()["metadata"]["annotations"], json!({"only": "this"}));
    let stale = api.put(&path, &whole).await;
    assert_eq!(stale.refusal().1, "Conflict");
    // A later pod of the name: its UID differs.
    let other = api.patch(&path, "merge", &json!({"metadata": {"uid": "z", "annotations": {"a": "z"}}})).await;
    assert_eq!((other.code, other.causes()[0].0), (422, "metadata.uid"), "{other:?}");
}

#[tokio::test]
async fn an_object_of_another_kind_is_refused() {
    let (api, group, path) = start().await;
    let mut other = widget(&group, "a", json!({"subnet": "s"}));
    other["kind"] = "Gadget".into();
    let answer = api.post(&path, &other).await;
    assert_eq!((answer.code, answer.causes()), (422, vec![("kind", "Invalid value: \"Gadget\": must be Widget")]));
    assert!(answer.refusal().2.starts_with(&format!("Gadget.{group} \"a\" is invalid: kind: ")), "{answer:?}");
    api.post(&path, &widget(&group, "a", json!({"subnet": "s"}))).await.ok();
    let answer = api.patch(&format!("{path}/a"), "merge", &json!({"apiVersion": "v1"})).await;
    let message = format!("Invalid value: \"v1\": must be {group}/v1");
    assert_eq!((answer.code, answer.causes()), (422, vec![("apiVersion", message.as_str())]));
    let nameless = api.post(&path, &json!({"metadata": {"name": "b"}})).await;
    let body = "{\"metadata\":{\"name\":\"b\"}}";
    let message = format!(
        "the object provided is unrecognized (must be of type Widget): Object 'Kind' is missing in '{body}' ({body})"
    );
    assert_eq!(nameless.refusal(), (400, "BadRequest", message.as_str()));
    for (metadata, message) in [
        (json!(5), "cannot unmarshal number into Go value of type v1.ObjectMeta"),
        (json!({"name": 5}), "cannot unmarshal number into Go struct field ObjectMeta.name of type string"),
    ] {
        let mut body = widget(&group, "c", json!({"subnet": "s"}));
        body["metadata"] = metadata;
        let answer = api.post(&path, &body).await;
        let message = format!("Widget in version \"v1\" cannot be handled as a Widget: json: {message}");
        assert_eq!(answer.refusal(), (400, "BadRequest", message.as_str()));
    }
    let answer = api.get(&format!("{path}/a/scale")).await;
    assert_eq!(answer.refusal(), (404, "NotFound", format!("widgets.{group} \"a\" not found").as_str()));
}

#[tokio::test]
async fn a_built_in_object_need_not_say_what_it_is() {
    let api = Api::new().await;
    let made = api.post(&api.core("configmaps"), &json!({"metadata": {"name": "a"}})).await.ok();
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
}

#[tokio::test]
async fn the_texts_of_a_secret_become_data() {
    let api = Api::new().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "1"}, "data": {"a": "MA==", "b": "Mg=="}});
    let made = api.post(&api.core("secrets"), &secret).await.ok();
    assert_eq!((&made["data"], &made["stringData"]), (&json!({"a": "MQ==", "b": "Mg=="}), &Value::Null));
    let patched = api.patch(&api.core("secrets/s"), "merge", &json!({"stringData": {"b": "3"}})).await.ok();
    assert_eq!((&patched["data"]["b"], &patched["stringData"]), (&json!("Mw=="), &Value::Null));
}

#[tokio::test]
async fn workloads_start_with_the_counts_of_their_kind() {
    let api = Api::new().await;
    let make = |kind: &str, spec: Value| json!({"apiVersion": if kind == "Job" { "batch/v1" } else { "apps/v1" }, "kind": kind, "metadata": {"name": "w"}, "spec": spec});
    let spec = || json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let path = |plural: &str| format!("/apis/apps/v1/namespaces/{}/{plural}", api.namespace);
    for (kind, plural, status) in [
        (
            "DaemonSet",
            "daemonsets",
            json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}),
        ),
        ("Deployment", "deployments", json!({})),
        ("ReplicaSet", "replicasets", json!({"replicas": 0})),
        ("StatefulSet", "statefulsets", json!({"availableReplicas": 0, "replicas": 0})),
    ] {
        // A dry run: a cluster with controllers goes on at once.
        let made = api.post(&format!("{}?dryRun=All", path(plural)), &make(kind, spec())).await.ok();
        assert_eq!(made["status"], status, "{kind}");
        let bare = api.post(&path(plural), &make(kind, json!({}))).await;
        let causes = bare.causes();
        assert!(
            causes.contains(&(
                "spec.template.metadata.labels",
                "Invalid value: null: `selector` does not match template `labels`"
            )),
            "{causes:?}"
        );
        assert_eq!(causes.last(), Some(&("spec.template.spec.containers", "Required value")));
        assert_eq!(causes.contains(&("spec.selector", "Required value")), kind != "DaemonSet", "{kind}");
    }
    const COUNT: &str = "deprecated.daemonset.template.generation";
    let made = api.post(&path("daemonsets"), &make("DaemonSet", spec())).await.ok();
    assert_eq!(made["metadata"]["annotations"][COUNT], "1");
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}});
    let changed = api.patch(&path("daemonsets/w"), "strategic-merge", &image).await.ok();
    assert_eq!(changed["metadata"]["annotations"][COUNT], "2");
    let job = make(
        "Job",
        json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}),
    );
    let made = api.post(&format!("/apis/batch/v1/namespaces/{}/jobs?dryRun=All", api.namespace), &job).await.ok();
    let uid = &made["metadata"]["uid"];
    let labels = json!({"controller-uid": uid, "job-name": "w", "batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": "w"});
    assert_eq!(made["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(made["metadata"]["labels"], labels);
    assert_eq!(made["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
}

#[tokio::test]
async fn services_refuse_what_kube_apiserver_refuses() {
    let api = Api::new().await;
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let path = api.core("services");
    let named = api.post(&path, &service("1a", json!({"ports": [{"port": 80}]}))).await;
    assert_eq!(named.code, 201, "names may start with a digit: {named:?}");
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    let answer = api.patch(&format!("{path}/1a/status"), "merge", &status).await;
    assert_eq!(
        answer.causes(),
        [("status.loadBalancer.ingress", "Forbidden: may only be used when `spec.type` is 'LoadBalancer'")]
    );
    let far = api.post(&path, &service("far", json!({"ports": [{"port": 80}], "clusterIP": "192.0.2.1"}))).await;
    let message = "Invalid value: [\"192.0.2.1\"]: failed to allocate IP 192.0.2.1: the provided network does not match the current range";
    assert_eq!(far.causes(), [("spec.clusterIPs", message)]);
    let endpoints = api.get(&api.core("endpoints")).await;
    assert_eq!(endpoints.warnings, ["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"]);
}

#[tokio::test]
async fn node_ports_are_given_out_once() {
    let api = Api::new().await;
    let path = api.core("services");
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let node_ports = |service: &Value| -> Vec<u64> {
        service["spec"]["ports"].as_array().unwrap().iter().map(|port| port["nodePort"].as_u64().unwrap()).collect()
    };
    let probe = service("probe", json!({"type": "NodePort", "ports": [{"port": 80}]}));
    let one = node_ports(&api.post(&path, &probe).await.ok())[0];
    api.delete(&format!("{path}/probe")).await.ok();
    let port = |name: &str, protocol: &str, port: u16, node_port: u64| json!({"name": name, "protocol": protocol, "port": port, "nodePort": node_port});

    let twice = json!({"type": "NodePort", "ports": [port("a", "TCP", 80, one), port("b", "TCP", 80, one)]});
    let answer = api.post(&path, &service("twice", twice)).await;
    let duplicate = format!("Duplicate value: {one}");
    assert_eq!((answer.code, answer.causes()[0]), (422, ("spec.ports[1].nodePort", duplicate.as_str())), "{answer:?}");
    for protocol in ["TCP", "UDP"] {
        let spec = json!({"type": "NodePort", "ports": [port("a", "TCP", 80, one), port("b", protocol, 81, one)]});
        let answer = api.post(&path, &service("other", spec)).await;
        let taken = format!("Invalid value: {one}: provided port is already allocated");
        assert_eq!(
            (answer.code, answer.causes()),
            (422, vec![("spec.ports[1].nodePort", taken.as_str())]),
            "{protocol}"
        );
    }
    let spec = json!({"type": "NodePort", "ports": [port("a", "TCP", 80, one), port("b", "UDP", 80, 0)]});
    let made = api.post(&path, &service("shared", spec)).await.ok();
    assert_eq!(node_ports(&made), [one, one], "one number for both protocols");

    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [port("a", "TCP", 80, 0)]});
    let made = api.post(&path, &service("balanced", spec)).await.ok();
    let check = made["spec"]["healthCheckNodePort"].as_u64().unwrap();
    assert_ne!(node_ports(&made), [check]);
    let ports = json!([port("a", "TCP", 80, node_ports(&made)[0]), port("b", "TCP", 81, check)]);
    let answer = api.patch(&format!("{path}/balanced"), "merge", &json!({"spec": {"ports": ports}})).await;
    let taken = format!("Invalid value: {check}: provided port is already allocated");
    assert_eq!((answer.code, answer.causes()), (422, vec![("spec.ports[1].nodePort", taken.as_str())]));
}
