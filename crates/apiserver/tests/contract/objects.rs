//! Identity, versions, preconditions, deletion, ownership, selection.

use crate::engine::{Answer, Api, Engine, config_map, engine, unique, widget};
use futures::future::join_all;
use serde_json::{Value, json};

fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_new_object_has_identity_and_version() {
    let api = Api::new().await;
    let made = api.post(&api.core("configmaps"), &config_map("a")).await;
    assert_eq!(made.code, 201);
    let object = made.ok();
    assert_eq!(meta(&object, "uid").len(), 36);
    assert!(meta(&object, "resourceVersion").parse::<u64>().is_ok());
    assert!(meta(&object, "creationTimestamp").ends_with('Z'));
    assert_eq!(meta(&object, "namespace"), api.namespace);
    assert_eq!(object["metadata"]["generation"], Value::Null);
    assert_eq!(api.get(&api.core("configmaps/a")).await.ok()["metadata"]["uid"], object["metadata"]["uid"]);
}

#[tokio::test]
async fn the_body_of_a_missing_object_is_complete() {
    let api = Api::new().await;
    let answer = api.get(&api.core("configmaps/none")).await;
    assert_eq!(answer.code, 404);
    assert_eq!(
        answer.body,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "configmaps \"none\" not found",
            "reason": "NotFound", "details": {"name": "none", "kind": "configmaps"}, "code": 404})
    );
    for path in ["/apis/no.such.group/v1/things", "/apis/no.such.group", "/nothing"] {
        let answer = api.get(path).await;
        assert_eq!((answer.code, &answer.body), (404, &json!("404 page not found\n")), "{path}");
    }
    let nothing = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "details": {}, "code": 404,
        "message": "the server could not find the requested resource"});
    for path in [
        api.core("gadgets"),
        api.core("gadgets/a"),
        "/api/v2".to_owned(),
        "/apis/apps/v2/deployments".to_owned(),
        "/apis/apps/v1/gadgets".to_owned(),
    ] {
        assert_eq!(api.get(&path).await.body, nothing, "{path}");
    }
}

#[tokio::test]
async fn a_stale_write_conflicts_and_an_empty_one_changes_nothing() {
    let api = Api::new().await;
    let path = api.core("configmaps/a");
    let first = api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    let mut second = first.clone();
    second["data"]["a"] = "2".into();
    let second = api.put(&path, &second).await.ok();
    let same = api.put(&path, &second).await.ok();
    assert_eq!(same["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let stale = api.put(&path, &first).await;
    assert_eq!(
        stale.refusal(),
        (
            409,
            "Conflict",
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
        )
    );
    assert_eq!(stale.body["details"], json!({"name": "a", "kind": "configmaps"}));
    let mut unversioned = second.clone();
    unversioned["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    unversioned["data"]["a"] = "3".into();
    assert_eq!(api.put(&path, &unversioned).await.code, 200, "a built-in kind may be overwritten without a version");
}

#[tokio::test]
async fn a_custom_resource_cannot_be_overwritten_without_a_version() {
    let api = Api::new().await;
    let group = api
        .define(
            "Namespaced",
            json!({"schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}),
        )
        .await;
    api.post(&api.widgets(&group), &widget(&group, "a", json!({"x": 1}))).await.ok();
    let answer = api.put(&format!("{}/a", api.widgets(&group)), &widget(&group, "a", json!({"x": 2}))).await;
    assert_eq!(answer.code, 422);
    assert_eq!(answer.causes(), [("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")]);
    assert_eq!(answer.body["details"]["kind"], "widgets");
}

#[tokio::test]
async fn of_fifty_concurrent_creators_one_wins() {
    let api = Api::new().await;
    let (path, body) = (api.core("configmaps"), config_map("one"));
    let answers = join_all((0..50).map(|_| api.post(&path, &body))).await;
    assert_eq!(answers.iter().filter(|a| a.code == 201).count(), 1);
    for answer in answers.iter().filter(|a| a.code != 201) {
        assert_eq!(answer.refusal(), (409, "AlreadyExists", "configmaps \"one\" already exists"));
    }
}

#[tokio::test]
async fn generated_names_keep_their_prefix_and_differ() {
    let api = Api::new().await;
    let mut body = config_map("");
    body["metadata"] = json!({"generateName": "job-"});
    let path = api.core("configmaps");
    let made = join_all((0..10).map(|_| api.post(&path, &body))).await;
    let mut names: Vec<_> = made.into_iter().map(|answer| meta(&answer.ok(), "name").to_owned()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 10);
    for name in names {
        let tail = name.strip_prefix("job-").expect("the prefix");
        assert!(tail.len() == 5 && tail.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)), "{name}");
    }
}

#[tokio::test]
async fn deletion_honours_preconditions() {
    let api = Api::new().await;
    let path = api.core("configmaps/a");
    let object = api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    let delete = |preconditions: Value| {
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions}).to_string();
        api.call("DELETE", &path, &[("content-type", "application/json")], body.into_bytes())
    };
    let refused = delete(json!({"uid": "00000000-0000-0000-0000-000000000000"})).await;
    assert_eq!((refused.code, refused.refusal().1), (409, "Conflict"));
    assert!(
        refused.refusal().2.contains(
            "the UID in the precondition (00000000-0000-0000-0000-000000000000) does not match the UID in record"
        ),
        "{refused:?}"
    );
    assert_eq!(delete(json!({"resourceVersion": "1"})).await.code, 409);
    let right = json!({"uid": object["metadata"]["uid"], "resourceVersion": object["metadata"]["resourceVersion"]});
    let gone = delete(right).await;
    assert_eq!(gone.code, 200);
    assert_eq!((&gone.body["kind"], &gone.body["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_and_none_can_be_added_late() {
    let api = Api::new().await;
    let path = api.core("configmaps/a");
    let mut body = config_map("a");
    body["metadata"]["finalizers"] = json!(["example.org/hold"]);
    api.post(&api.core("configmaps"), &body).await.ok();
    let deleting = api.delete(&path).await.ok();
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 0);
    assert!(meta(&deleting, "deletionTimestamp").ends_with('Z'));
    let more =
        api.patch(&path, "merge", &json!({"metadata": {"finalizers": ["example.org/hold", "example.org/more"]}})).await;
    assert_eq!(more.code, 422);
    let cause = (
        "metadata.finalizers",
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"example.org/more\"}",
    );
    assert_eq!(more.causes(), [cause, cause], "metadata is checked with every kind and with its own");
    assert_eq!(more.refusal().2, format!("ConfigMap \"a\" is invalid: {}: {}", cause.0, cause.1), "told once");
    api.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn dependents_follow_their_owner() {
    let api = Api::new().await;
    let owner = api.post(&api.core("configmaps"), &config_map("owner")).await.ok();
    let mut dependent = config_map("dependent");
    dependent["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}]);
    api.post(&api.core("configmaps"), &dependent).await.ok();
    api.delete(&api.core("configmaps/owner")).await.ok();
    api.until(&api.core("configmaps/dependent"), "the dependent goes", |a| a.code == 404).await;
}

#[tokio::test]
async fn an_object_with_a_foreign_uid_as_owner_is_collected() {
    let api = Api::new().await;
    let mut orphan = config_map("orphan");
    orphan["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "11111111-1111-1111-1111-111111111111"}]);
    api.post(&api.core("configmaps"), &orphan).await.ok();
    api.until(&api.core("configmaps/orphan"), "the orphan goes", |a| a.code == 404).await;
}

#[tokio::test]
async fn an_owner_that_cannot_be_looked_up_is_waited_for() {
    let api = Api::new().await;
    let owner = api.post(&api.core("configmaps"), &config_map("owner")).await.ok();
    let foreign = Value::from("11111111-1111-1111-1111-111111111111");
    let owned = |api_version: &str, kind: &str, name: &str, uid: &Value| json!([{"apiVersion": api_version, "kind": kind, "name": name, "uid": uid}]);
    let unknown = owned(&format!("g{}.example.org/v1", unique()), "Gadget", "never", &foreign);
    let nodes = "/api/v1/nodes".to_owned();
    let maps = api.core("configmaps");
    let suffix = unique();
    // What is in a namespace cannot own an object of the cluster, whether it is there or not.
    let rows = [
        (&nodes, "there", owned("v1", "ConfigMap", "owner", &owner["metadata"]["uid"]), true),
        (&nodes, "never", owned("v1", "ConfigMap", "never", &foreign), true),
        (&nodes, "unknown", unknown.clone(), true),
        (&nodes, "gone", owned("v1", "Namespace", "never", &foreign), false),
        (&maps, "unknown", unknown, true),
        (&maps, "version", owned("v9", "ConfigMap", "never", &foreign), true),
        (&maps, "gone", owned("v1", "Namespace", "never", &foreign), false),
    ];
    let at = |collection: &str, name: &str| format!("{collection}/{name}-{suffix}");
    for (collection, name, owners, _) in &rows {
        let body = json!({"metadata": {"name": format!("{name}-{suffix}"), "ownerReferences": owners}});
        api.post(collection, &body).await.ok();
    }
    let stay = async |when: &str| {
        for (collection, name, ..) in rows.iter().filter(|(.., stays)| !stays) {
            api.until(&at(collection, name), "its owner was never there", |a| a.code == 404).await;
        }
        for (collection, name, ..) in rows.iter().filter(|(.., stays)| *stays) {
            assert_eq!(api.get(&at(collection, name)).await.code, 200, "{when}: {collection} {name}");
        }
    };
    stay("at first").await;
    api.delete(&api.core("configmaps/owner")).await.ok();
    let mut last = config_map("last");
    last["metadata"]["ownerReferences"] = owned("v1", "ConfigMap", "owner", &owner["metadata"]["uid"]);
    api.post(&maps, &last).await.ok();
    api.until(&api.core("configmaps/last"), "the owner is known to be gone", |a| a.code == 404).await;
    stay("without the owner").await;
}

#[tokio::test]
async fn an_object_larger_than_etcd_takes_is_refused() {
    let api = Api::new().await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let group = api.define("Namespaced", json!({"schema": schema})).await;
    let large = |size: usize| widget(&group, "a", json!({"a": "x".repeat(size)}));
    let refused = |answer: Answer| match engine() {
        Engine::KubeApiserver => assert_eq!(answer.refusal(), (500, "", "etcdserver: request is too large")),
        Engine::Embedded => {
            let (code, reason, message) = answer.refusal();
            assert_eq!((code, reason), (413, "RequestEntityTooLarge"));
            assert!(message.starts_with("Request entity too large: limit is 1572864"), "{message}");
        }
    };
    refused(api.post(&api.widgets(&group), &large((3 << 19) + 100)).await);
    let path = format!("{}/a", api.widgets(&group));
    assert_eq!(api.get(&path).await.code, 404);
    let mut stored = api.post(&api.widgets(&group), &large((3 << 19) - 10_000)).await.ok();
    refused(api.patch(&path, "merge", &json!({"spec": {"b": "x".repeat(10_100)}})).await);
    stored["spec"]["b"] = "x".repeat(10_100).into();
    refused(api.put(&path, &stored).await);
    assert!(api.get(&path).await.ok()["spec"]["b"].is_null());
    api.patch(&path, "merge", &json!({"spec": {"b": "x"}})).await.ok();
    api.delete(&path).await.ok();
}

#[tokio::test]
async fn selectors_select() {
    let api = Api::new().await;
    for (name, labels) in [("a", json!({"app": "x", "tier": "1"})), ("b", json!({"app": "y"})), ("c", json!({}))] {
        let mut body = config_map(name);
        body["metadata"]["labels"] = labels;
        api.post(&api.core("configmaps"), &body).await.ok();
    }
    for (selector, wanted) in [
        ("labelSelector=app%3Dx", "a"),
        ("labelSelector=app%21%3Dx%2Capp", "b"),
        ("labelSelector=%21app%2C%21kube", "c"),
        ("labelSelector=app+in+(x%2Cy)", "ab"),
        ("labelSelector=app+notin+(x)%2Capp", "b"),
        ("labelSelector=tier", "a"),
        ("fieldSelector=metadata.name%3Db", "b"),
        ("fieldSelector=metadata.name%21%3Db&labelSelector=app", "a"),
    ] {
        let list = api.get(&format!("{}?{selector}", api.core("configmaps"))).await.ok();
        let names: String =
            list["items"].as_array().unwrap().iter().map(|o| meta(o, "name")).filter(|n| n.len() == 1).collect();
        assert_eq!(names, wanted, "{selector}");
    }
}

#[tokio::test]
async fn wrong_selectors_are_refused() {
    let api = Api::new().await;
    let plain = "is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
    let rows = [
        (api.core("configmaps"), format!("\"data.a\" {plain}")),
        ("/apis/apps/v1/deployments".to_owned(), format!("\"data.a\" {plain}")),
        ("/apis/coordination.k8s.io/v1/leases".to_owned(), format!("\"data.a\" {plain}")),
        ("/apis/batch/v1/jobs".to_owned(), "field label \"data.a\" not supported for Job".to_owned()),
        (api.core("pods"), "field label not supported: data.a".to_owned()),
        (api.core("secrets"), "field label not supported: data.a".to_owned()),
        (api.core("events"), "field label not supported: data.a".to_owned()),
        ("/api/v1/nodes".to_owned(), "field label not supported: data.a".to_owned()),
    ];
    for (path, message) in rows {
        let answer = api.get(&format!("{path}?fieldSelector=data.a%3D1")).await;
        assert_eq!(answer.refusal(), (400, "BadRequest", message.as_str()), "{path}");
    }
    for (selector, message) in [
        ("a+in+x", "unable to parse requirement: found 'x' expected: '('"),
        ("a+in+(x", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a%3D%3D%3Db", "unable to parse requirement: found '=', expected: identifier"),
        ("a+b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("%2C", "found ',', expected: !, identifier, or 'end of string'"),
        (
            "a%3Eb",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        let answer = api.get(&format!("{}?labelSelector={selector}", api.core("configmaps"))).await;
        assert_eq!(answer.refusal(), (400, "BadRequest", message), "{selector}");
    }
}

#[tokio::test]
async fn wrong_options_are_refused() {
    let api = Api::new().await;
    let path = api.core("configmaps");
    api.post(&path, &config_map("a")).await.ok();
    let number = "strconv.ParseInt: parsing \"x\": invalid syntax";
    for option in ["limit=x", "timeoutSeconds=x"] {
        assert_eq!(api.get(&format!("{path}?{option}")).await.refusal(), (400, "BadRequest", number), "{option}");
    }
    assert_eq!(api.delete(&format!("{path}/a?gracePeriodSeconds=x")).await.refusal(), (400, "BadRequest", number));
    assert_eq!(api.get(&format!("{path}?limit=-1")).await.code, 200);
    let version = "resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax";
    let list = api.get(&format!("{path}?resourceVersion=abc")).await;
    assert_eq!(list.refusal(), (400, "BadRequest", format!("invalid resource version: {version}").as_str()));
    for other in [format!("{path}?watch=true&resourceVersion=abc"), format!("{path}/a?resourceVersion=abc")] {
        assert_eq!(api.get(&other).await.refusal(), (500, "", version), "{other}");
    }
    let list = |option: &str| format!("{path}?{option}");
    for (url, field, message) in [
        (
            list("resourceVersionMatch=Exact&resourceVersion=0"),
            "resourceVersionMatch",
            "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            list("resourceVersionMatch=Else&resourceVersion=1"),
            "resourceVersionMatch",
            "Unsupported value: \"Else\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            list("watch=true&resourceVersionMatch=NotOlderThan"),
            "resourceVersionMatch",
            "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (
            list("watch=true&sendInitialEvents=true&resourceVersionMatch=Exact"),
            "resourceVersionMatch",
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
    ] {
        let answer = api.get(&url).await;
        assert_eq!((answer.code, answer.causes()[0]), (422, (field, message)), "{url}");
        assert_eq!(answer.body["details"]["kind"], "ListOptions");
    }
    for (option, kind, message) in [
        ("dryRun=Some", "CreateOptions", "Unsupported value: [\"Some\"]: supported values: \"All\""),
        (
            "fieldValidation=Some",
            "CreateOptions",
            "Unsupported value: \"Some\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        ),
    ] {
        let answer = api.post(&list(option), &config_map("b")).await;
        assert_eq!((answer.code, answer.causes()[0].1), (422, message), "{option}");
        assert_eq!(
            (&answer.body["details"]["kind"], &answer.body["details"]["causes"][0]["reason"]),
            (&json!(kind), &json!("FieldValueNotSupported"))
        );
    }
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true}).to_string();
    let answer =
        api.call("DELETE", &format!("{path}/a"), &[("content-type", "application/json")], both.into_bytes()).await;
    assert_eq!(
        answer.causes(),
        [(
            "propagationPolicy",
            "Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set"
        )]
    );
    let endless = api.get(&format!("{path}/a?watch=true&timeoutSeconds=1")).await;
    assert_eq!(endless.body["kind"], "ConfigMap", "one object is not watched");
}

#[tokio::test]
async fn identity_is_not_to_be_patched() {
    let api = Api::new().await;
    let path = api.core("configmaps/a");
    let made = api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    for (field, value) in [("uid", json!("z")), ("deletionTimestamp", json!("2020-01-01T00:00:00Z"))] {
        let answer = api.patch(&path, "merge", &json!({"metadata": {field: value}})).await;
        let path = format!("metadata.{field}");
        assert_eq!((answer.code, answer.causes()[0].0), (422, path.as_str()), "{answer:?}");
        assert!(answer.causes()[0].1.ends_with("field is immutable"), "{answer:?}");
    }
    let elsewhere = api.patch(&path, "merge", &json!({"metadata": {"namespace": "b"}})).await;
    let message = "the namespace of the provided object does not match the namespace sent on the request";
    assert_eq!(elsewhere.refusal(), (400, "BadRequest", message));
    let mut other = made.clone();
    other["metadata"]["uid"] = "z".into();
    assert_eq!(api.put(&path, &other).await.refusal().1, "Conflict");
    other = made;
    other["metadata"]["resourceVersion"] = "abc".into();
    assert_eq!(api.put(&path, &other).await.refusal(), (500, "", "strconv.ParseUint: parsing \"abc\": invalid syntax"));
}

#[tokio::test]
async fn what_goes_at_once_goes_as_it_was() {
    let api = Api::new().await;
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let made = api.post(&api.core("services"), &service).await.ok();
    let gone = api.delete(&api.core("services/s")).await.ok();
    assert_eq!((&gone["kind"], &gone["metadata"]["uid"]), (&json!("Service"), &made["metadata"]["uid"]));
    assert_eq!(gone["metadata"]["deletionTimestamp"], Value::Null);
}

#[tokio::test]
async fn pages_go_on_where_they_ended_and_expire() {
    let api = Api::new().await;
    for i in 0..7 {
        api.post(
            &api.core("secrets"),
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("s{i}")}}),
        )
        .await
        .ok();
    }
    let path = api.core("secrets");
    let mut names = Vec::new();
    let (mut next, mut versions) = (String::new(), Vec::new());
    loop {
        let list = api.get(&format!("{path}?limit=3&continue={next}")).await.ok();
        names.extend(list["items"].as_array().unwrap().iter().map(|o| meta(o, "name").to_owned()));
        versions.push(list["metadata"]["resourceVersion"].clone());
        if names.len() == 3 {
            assert_eq!(list["metadata"]["remainingItemCount"], 4);
            api.post(&path, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s9-late"}})).await.ok();
        }
        match list["metadata"]["continue"].as_str() {
            Some(token) if !token.is_empty() => next = token.to_owned(),
            _ => break,
        }
    }
    assert_eq!(names, ["s0", "s1", "s2", "s3", "s4", "s5", "s6"], "all pages show the version of the first");
    assert!(versions.iter().all(|v| *v == versions[0]));
    let bad = api.get(&format!("{path}?limit=3&continue=garbage")).await;
    assert_eq!(bad.code, 400);
}

#[tokio::test]
async fn status_is_a_resource_of_its_own() {
    let api = Api::new().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}}}});
    let group =
        api.define("Namespaced", json!({"schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}})).await;
    let path = format!("{}/w", api.widgets(&group));
    let mut body = widget(&group, "w", json!({"a": "1"}));
    body["status"] = json!({"phase": "early"});
    let made = api.post(&api.widgets(&group), &body).await.ok();
    assert_eq!((&made["status"], &made["metadata"]["generation"]), (&Value::Null, &json!(1)));
    let mut change = made.clone();
    change["status"] = json!({"phase": "Ready"});
    change["spec"]["a"] = "ignored".into();
    let with_status = api.put(&format!("{path}/status"), &change).await.ok();
    assert_eq!(
        (&with_status["status"]["phase"], &with_status["spec"]["a"], &with_status["metadata"]["generation"]),
        (&json!("Ready"), &json!("1"), &json!(1))
    );
    let mut change = with_status.clone();
    change["spec"]["a"] = "2".into();
    change["status"] = json!({"phase": "ignored"});
    let with_spec = api.put(&path, &change).await.ok();
    assert_eq!(
        (&with_spec["status"]["phase"], &with_spec["spec"]["a"], &with_spec["metadata"]["generation"]),
        (&json!("Ready"), &json!("2"), &json!(2))
    );
    let bad = api.patch(&format!("{path}/status"), "merge", &json!({"status": {"phase": 3}})).await;
    assert_eq!(
        bad.causes(),
        [("status.phase", "Invalid value: \"integer\": phase in body must be of type string: \"integer\"")]
    );
}
