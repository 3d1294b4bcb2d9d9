//! Admission webhooks: order, effect, refusal, failure policy, choice of requests.

use crate::engine::{Api, unique};
use crate::hooks::{Hooks, MUTATING, VALIDATING, allow, change};
use serde_json::{Value, json};

/// Adds the last part of the path to the annotation `order`.
fn append(path: &str, request: &Value) -> Option<Value> {
    let annotations = &request["object"]["metadata"]["annotations"];
    let word = path.rsplit('/').next().unwrap_or_default();
    let order = match annotations["order"].as_str() {
        Some(before) => format!("{before},{word}"),
        None => word.to_owned(),
    };
    let mut operations = vec![json!({"op": "add", "path": "/metadata/annotations/order", "value": order})];
    if annotations.is_null() {
        operations.insert(0, json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    let mut response = change(operations.into());
    response["warnings"] = json!([format!("{word} was here")]);
    Some(response)
}

#[tokio::test]
async fn mutating_configurations_are_asked_by_name_and_each_sees_what_the_one_before_it_changed() {
    let (api, hooks) = (Api::new().await, Hooks::start(append).await);
    for (prefix, path) in [("b", "/append/second"), ("c", "/append/third"), ("a", "/append/first")] {
        hooks.configure(&api, MUTATING, prefix, &[hooks.hook(&api, path, &json!({}))]).await;
        hooks.in_force(&api, path).await;
    }
    let made = api.post(&api.core("configmaps"), &hooks.map("x")).await;
    assert_eq!(made.warnings, ["first was here", "second was here", "third was here"]);
    assert_eq!(made.ok()["metadata"]["annotations"]["order"], "first,second,third");
    let stored = api.get(&api.core("configmaps/x")).await.ok();
    assert_eq!(stored["metadata"]["annotations"]["order"], "first,second,third");
    assert_eq!(hooks.asked_about("x"), ["/append/first", "/append/second", "/append/third"]);
    let seen = |path: &str| hooks.asked(path).pop().unwrap()["object"]["metadata"]["annotations"].clone();
    assert_eq!(seen("/append/first"), Value::Null);
    assert_eq!(seen("/append/second"), json!({"order": "first"}));
    assert_eq!(seen("/append/third"), json!({"order": "first,second"}));
}

#[tokio::test]
async fn a_webhook_that_wishes_so_is_asked_again_when_a_later_one_changed_the_object() {
    let api = Api::new().await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let late = json!({"reinvocationPolicy": "IfNeeded", "matchConditions": [
        {"name": "late", "expression": "has(object.metadata.annotations)"}]});
    let no = json!({});
    for (first, second, order) in [
        (&no, &no, "first,second"),
        (&again, &no, "first,second,first"),
        (&no, &again, "first,second"),
        (&again, &again, "first,second,first,second"),
        // Nobody is asked for the first time in the second round.
        (&late, &again, "second"),
    ] {
        let hooks = Hooks::start(append).await;
        let both = [hooks.hook(&api, "/append/first", first), hooks.hook(&api, "/append/second", second)];
        let configuration = hooks.configure(&api, MUTATING, "again", &both).await;
        hooks.in_force(&api, "/append/second").await;
        let name = unique();
        let made = api.post(&api.core("configmaps"), &hooks.map(&name)).await.ok();
        assert_eq!(made["metadata"]["annotations"]["order"], order, "{first} {second}");
        api.delete(&configuration).await.ok();
    }
}

#[tokio::test]
async fn a_webhook_is_told_what_is_asked() {
    let (api, hooks) = (Api::new().await, Hooks::start(allow).await);
    let rules = json!({"rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
        "operations": ["CREATE", "UPDATE", "DELETE"]}]});
    hooks.configure(&api, VALIDATING, "told", &[hooks.hook(&api, "/told", &rules)]).await;
    hooks.in_force(&api, "/told").await;
    let path = api.core("configmaps/x");
    let made = api.post(&api.core("configmaps"), &hooks.map("x")).await.ok();
    let changed = api.patch(&path, "merge", &json!({"data": {"a": "2"}})).await.ok();
    api.delete(&format!("{path}?dryRun=All")).await.ok();
    api.delete(&path).await.ok();
    let asked: Vec<Value> = hooks.asked("/told").into_iter().filter(|request| request["name"] == "x").collect();
    let uid = &made["metadata"]["uid"];
    let data = |value: &str| json!({"a": value});
    for (request, (operation, options, new, old, dry)) in asked.iter().zip([
        ("CREATE", "CreateOptions", data("1"), Value::Null, false),
        ("UPDATE", "UpdateOptions", data("2"), data("1"), false),
        ("DELETE", "DeleteOptions", Value::Null, data("2"), true),
        ("DELETE", "DeleteOptions", Value::Null, data("2"), false),
    ]) {
        let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
        let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
        assert_eq!((&request["kind"], &request["requestKind"]), (&kind, &kind), "{operation}");
        assert_eq!((&request["resource"], &request["requestResource"]), (&resource, &resource), "{operation}");
        assert_eq!((&request["operation"], &request["namespace"]), (&json!(operation), &json!(api.namespace)));
        assert_eq!((&request["object"]["data"], &request["oldObject"]["data"]), (&new, &old), "{operation}");
        for object in ["object", "oldObject"] {
            let told = &request[object];
            assert!(told.is_null() || told["metadata"]["uid"] == *uid, "{operation} {object}: {told}");
            assert!(told.is_null() || told["kind"] == "ConfigMap", "{operation} {object}: {told}");
        }
        assert_eq!((&request["dryRun"], &request["subResource"]), (&json!(dry), &Value::Null), "{operation}");
        assert_eq!(request["options"]["kind"], options, "{operation}");
        let dry_run = if dry { json!(["All"]) } else { Value::Null };
        assert_eq!(request["options"]["dryRun"], dry_run, "{operation}");
        assert!(request["userInfo"]["username"].is_string(), "{operation}");
    }
    assert_eq!(asked.len(), 4, "{asked:#?}");
    assert_eq!(asked[1]["object"]["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(asked[3]["oldObject"]["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);
}

/// What [`refuse`] answers about the config map of each name, and what the client is to get.
fn refusals() -> Vec<(&'static str, Value, Value)> {
    let by = "admission webhook \"refuse.example.org\" denied the request";
    let status = |code: u16, message: &str, more: Value| {
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": format!("{by}{message}"), "code": code});
        json_patch::merge(&mut status, &more);
        status
    };
    let details = json!({"kind": "configmaps", "name": "other", "causes": [{"reason": "FieldValueInvalid", "message": "too big", "field": "data.a"}]});
    vec![
        (
            "forbidden",
            json!({"message": "no such luck", "code": 403, "reason": "Forbidden"}),
            status(403, ": no such luck", json!({"reason": "Forbidden"})),
        ),
        (
            "invalid",
            json!({"message": "see below", "code": 422, "reason": "Invalid", "details": details}),
            status(422, ": see below", json!({"reason": "Invalid", "details": details})),
        ),
        ("untold", Value::Null, status(400, " without explanation", json!({}))),
        ("reasoned", json!({"reason": "Because"}), status(400, ": Because", json!({"reason": "Because"}))),
        ("contradictory", json!({"message": "no", "code": 200, "status": "Success"}), status(400, ": no", json!({}))),
    ]
}

fn refuse(_path: &str, request: &Value) -> Option<Value> {
    let found = refusals().into_iter().find(|(name, ..)| request["name"] == *name);
    Some(
        found.map_or(
            json!({}),
            |(_, status, _)| json!({"allowed": false, "status": status, "warnings": ["mind the gap"]}),
        ),
    )
}

#[tokio::test]
async fn a_refusal_reaches_the_client_with_its_code_and_text() {
    for kind in [VALIDATING, MUTATING] {
        let (api, hooks) = (Api::new().await, Hooks::start(refuse).await);
        hooks.configure(&api, kind, "refuse", &[hooks.hook(&api, "/refuse", &json!({}))]).await;
        hooks.in_force(&api, "/refuse").await;
        for (name, _, expected) in refusals() {
            let refused = api.post(&api.core("configmaps"), &hooks.map(name)).await;
            assert_eq!(
                (u64::from(refused.code), &refused.body),
                (expected["code"].as_u64().unwrap(), &expected),
                "{kind} {name}"
            );
            assert_eq!(refused.warnings, ["mind the gap"], "{kind} {name}");
            assert_eq!(api.get(&api.core(&format!("configmaps/{name}"))).await.code, 404, "{kind} {name}");
        }
        assert_eq!(api.post(&api.core("configmaps"), &hooks.map("welcome")).await.code, 201);
    }
}

fn broken(path: &str, request: &Value) -> Option<Value> {
    match path {
        "/slow" => None,
        "/stranger" => Some(json!({"uid": "somebody-else"})),
        "/garbled" => Some(json!({"patchType": "JSONPatch", "patch": "e30="})),
        "/misplaced" => Some(change(json!([{"op": "remove", "path": "/data/absent"}]))),
        "/endless" => {
            let copy = |i: usize| json!({"op": "copy", "from": "/data/a", "path": format!("/data/a{i}")});
            let first = json!({"op": "add", "path": "/data/a", "value": "x".repeat(100 << 10)});
            Some(change(std::iter::once(first).chain((0..40).map(copy)).collect()))
        }
        _ => allow(path, request),
    }
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_is_given_up_after_its_timeout() {
    let mut tests = tokio::task::JoinSet::new();
    for kind in [VALIDATING, MUTATING] {
        for policy in ["Fail", "Ignore"] {
            tests.spawn(async move {
                let (api, hooks) = (Api::new().await, Hooks::start(broken).await);
                let more = json!({"timeoutSeconds": 1, "failurePolicy": policy});
                let slow = [hooks.hook(&api, "/slow", &more), hooks.hook(&api, "/after", &json!({}))];
                hooks.configure(&api, kind, "slow", &slow).await;
                hooks.in_force(&api, "/slow").await;
                let answer = api.post(&api.core("configmaps"), &hooks.map("x")).await;
                let asked = hooks.asked_about("x");
                assert!(asked.contains(&"/slow".to_owned()), "{kind} {policy}: {asked:?}");
                if policy == "Ignore" {
                    assert_eq!(answer.code, 201, "{kind}: {answer:?}");
                    assert!(asked.contains(&"/after".to_owned()), "{kind}: the others are asked: {asked:?}");
                    return;
                }
                let why = format!(
                    "failed calling webhook \"slow.example.org\": failed to call webhook: Post \"{}?timeout=1s\": context deadline exceeded",
                    hooks.url("/slow")
                );
                let message = format!("Internal error occurred: {why}");
                assert_eq!(answer.refusal(), (500, "InternalError", message.as_str()), "{kind}");
                assert_eq!(answer.causes(), [("", why.as_str())], "{kind}");
                assert_eq!(api.get(&api.core("configmaps/x")).await.code, 404, "{kind}");
            });
        }
    }
    while let Some(ended) = tests.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_a_failed_call_and_a_patch_that_does_not_fit_an_error() {
    let failed = |path: &str, why: &str| {
        format!(
            "Internal error occurred: failed calling webhook \"{}.example.org\": {why}",
            path.trim_start_matches('/')
        )
    };
    for (path, why, ignorable) in [
        ("/stranger", "received invalid webhook response: expected response.uid=", true),
        ("/garbled", "received undecodable patch in webhook response: ", true),
        ("/misplaced", "", false),
        ("/endless", "Unable to complete the copy, the accumulated size increase of copy is ", false),
    ] {
        for policy in ["Fail", "Ignore"] {
            let (api, hooks) = (Api::new().await, Hooks::start(broken).await);
            hooks
                .configure(&api, MUTATING, "broken", &[hooks.hook(&api, path, &json!({"failurePolicy": policy}))])
                .await;
            hooks.in_force(&api, path).await;
            let answer = api.post(&api.core("configmaps"), &hooks.map("x")).await;
            if ignorable && policy == "Ignore" {
                assert_eq!(answer.code, 201, "{path} {policy}: {answer:?}");
                continue;
            }
            assert_eq!((answer.code, answer.refusal().1), (500, "InternalError"), "{path} {policy}");
            let begin = if ignorable { failed(path, why) } else { format!("Internal error occurred: {why}") };
            assert!(answer.refusal().2.starts_with(&begin), "{path} {policy}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_webhook_that_cannot_be_called_fails_the_request_or_is_ignored() {
    // Nobody listens on port 1 of the loopback: the call itself fails. The other webhook shows that the configuration is in force.
    let dead = |policy: &str| json!({"name": "dead.example.org", "failurePolicy": policy, "timeoutSeconds": 2, "clientConfig": {"url": "https://127.0.0.1:1/hook"}});
    for policy in ["Fail", "Ignore"] {
        let (api, hooks) = (Api::new().await, Hooks::start(allow).await);
        let both = [hooks.hook(&api, "/witness", &json!({})), hooks.hook(&api, "/dead", &dead(policy))];
        hooks.configure(&api, VALIDATING, "dead", &both).await;
        hooks.in_force(&api, "/witness").await;
        let answer = api.post(&api.core("configmaps"), &hooks.map("x")).await;
        match policy {
            "Ignore" => assert_eq!(answer.code, 201, "{answer:?}"),
            _ => {
                let message = "Internal error occurred: failed calling webhook \"dead.example.org\": failed to call webhook: Post \"https://127.0.0.1:1/hook?timeout=2s\": dial tcp 127.0.0.1:1: connect: connection refused";
                assert_eq!(answer.refusal(), (500, "InternalError", message));
            }
        }
    }
}

#[tokio::test]
async fn selectors_conditions_and_rules_choose_the_requests() {
    let (api, hooks) = (Api::new().await, Hooks::start(allow).await);
    let namespace = api.namespace.as_str();
    let rules = |more: Value| {
        let mut rule =
            json!({"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps"], "operations": ["*"]});
        json_patch::merge(&mut rule, &more);
        json!({"rules": [rule]})
    };
    let condition = |expression: &str| json!({"matchConditions": [{"name": "n", "expression": expression}]});
    let name = "kubernetes.io/metadata.name";
    let rows = [
        (json!({}), true),
        (json!({"objectSelector": {"matchLabels": {"a": "b"}}}), true),
        (json!({"objectSelector": {"matchLabels": {"a": "c"}}}), false),
        (json!({"objectSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}}), true),
        (json!({"objectSelector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}}), false),
        (
            json!({"namespaceSelector": {"matchLabels": null, "matchExpressions": [{"key": name, "operator": "In", "values": [namespace, "x"]}]}}),
            true,
        ),
        (
            json!({"namespaceSelector": {"matchLabels": null, "matchExpressions": [{"key": name, "operator": "NotIn", "values": [namespace]}]}}),
            false,
        ),
        (json!({"namespaceSelector": {"matchLabels": {"absent": "yes"}}}), false),
        (condition("object.metadata.name == 'x'"), true),
        (condition("object.metadata.name == 'other'"), false),
        (
            condition(
                "request.operation == 'CREATE' && request.resource.resource == 'configmaps' && oldObject == null",
            ),
            true,
        ),
        (condition("request.dryRun"), false),
        (rules(json!({})), true),
        (rules(json!({"scope": "Namespaced"})), true),
        (rules(json!({"scope": "Cluster"})), false),
        (rules(json!({"operations": ["UPDATE", "DELETE"]})), false),
        (rules(json!({"apiGroups": ["apps"]})), false),
        (rules(json!({"apiVersions": ["v2"]})), false),
        (rules(json!({"resources": ["secrets", "configmaps"]})), true),
        (rules(json!({"resources": ["configmaps/status"]})), false),
        (rules(json!({"resources": ["configmaps/*"]})), true),
    ];
    let path = |at: usize| format!("/row{at}");
    let all: Vec<Value> = rows.iter().enumerate().map(|(at, (more, _))| hooks.hook(&api, &path(at), more)).collect();
    hooks.configure(&api, VALIDATING, "choice", &all).await;
    hooks.in_force(&api, &path(0)).await;
    let mut map = hooks.map("x");
    map["metadata"]["labels"]["a"] = "b".into();
    api.post(&api.core("configmaps"), &map).await.ok();
    let asked = hooks.asked_about("x");
    for (at, (more, wanted)) in rows.iter().enumerate() {
        assert_eq!(asked.contains(&path(at)), *wanted, "row {at}: {more}");
    }
}

#[tokio::test]
async fn a_condition_that_cannot_be_evaluated_refuses_the_request_or_skips_the_webhook() {
    let condition = |name: &str, faulty: &str| json!({"name": name, "expression": format!("object.metadata.name.startsWith('probe') || {faulty}")});
    let (absent, unlike) = ("object.data.absent == 'x'", "object.data.a > 1");
    let why = |faulty: &str, what: &str| {
        format!("expression 'object.metadata.name.startsWith('probe') || {faulty}' resulted in error: {what}")
    };
    let (one, other) = (why(absent, "no such key: absent"), why(unlike, "no such overload"));
    let rows = [
        (json!([condition("a", absent)]), Some(one.clone())),
        (json!([condition("a", absent), condition("b", unlike)]), Some(format!("[{one}, {other}]"))),
        // One that says no decides.
        (json!([condition("a", absent), condition("b", "false")]), None),
    ];
    for kind in [VALIDATING, MUTATING] {
        for policy in ["Fail", "Ignore"] {
            for (conditions, refused) in &rows {
                let (api, hooks) = (Api::new().await, Hooks::start(allow).await);
                let more = json!({"failurePolicy": policy, "matchConditions": conditions});
                hooks.configure(&api, kind, "condition", &[hooks.hook(&api, "/condition", &more)]).await;
                hooks.in_force(&api, "/condition").await;
                let answer = api.post(&api.core("configmaps"), &hooks.map("x")).await;
                assert_eq!(hooks.asked_about("x"), [""; 0], "{kind} {policy} {conditions}");
                let Some(why) = refused.as_ref().filter(|_| policy == "Fail") else {
                    assert_eq!(answer.code, 201, "{kind} {policy} {conditions}: {answer:?}");
                    continue;
                };
                let message = format!("configmaps \"x\" is forbidden: {why}");
                assert_eq!(answer.refusal(), (403, "Forbidden", message.as_str()), "{kind} {conditions}");
                assert_eq!(answer.body["details"], json!({"name": "x", "kind": "configmaps"}), "{kind}");
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_refused() {
    let (api, hooks) = (Api::new().await, Hooks::start(allow).await);
    let more = json!({"sideEffects": "Some", "clientConfig": {"url": "http://127.0.0.1:1", "caBundle": null}});
    let bad = hooks.hook(&api, "/bad", &more);
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": VALIDATING, "metadata": {"name": format!("c-{}", unique())}, "webhooks": [bad]});
    let answer = api.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &body).await;
    let mut causes = answer.causes();
    causes.sort_unstable();
    assert_eq!(
        causes,
        [
            (
                "webhooks[0].clientConfig.url",
                "Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"
            ),
            ("webhooks[0].sideEffects", "Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""),
        ]
    );
}

#[tokio::test]
async fn wrong_conditions_are_refused() {
    let (api, hooks) = (Api::new().await, Hooks::start(allow).await);
    let conditions = json!({"matchConditions": [
        {"name": "a", "expression": "object.metadata.name =="}, {"name": "a", "expression": "true"}, {"name": "", "expression": " "}, {"name": "b c", "expression": "true"}]});
    for kind in [VALIDATING, MUTATING] {
        let webhooks = [hooks.hook(&api, "/bad", &conditions)];
        let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": format!("c-{}", unique())}, "webhooks": webhooks});
        let path = format!("/apis/admissionregistration.k8s.io/v1/{}s", kind.to_lowercase());
        let answer = api.post(&path, &body).await;
        assert_eq!((answer.code, answer.refusal().1), (422, "Invalid"), "{kind}");
        let causes = answer.causes();
        let at = |rest: &str| format!("webhooks[0].matchConditions[{rest}");
        let fields: Vec<&str> = causes.iter().map(|(field, _)| *field).collect();
        assert_eq!(
            fields,
            [at("0].expression"), at("1].name"), at("2].expression"), at("2].name"), at("3].name")],
            "{kind}"
        );
        let begin = "Invalid value: \"object.metadata.name ==\": compilation failed: ERROR: <input>:1:";
        assert!(causes[0].1.starts_with(begin), "{kind}: {causes:?}");
        assert_eq!(causes[1].1, "Duplicate value: \"a\"", "{kind}");
        assert_eq!((causes[2].1, causes[3].1), ("Required value", "Required value"), "{kind}");
        assert!(causes[4].1.starts_with("Invalid value: \"b c\": name part must consist of"), "{kind}: {causes:?}");
    }
}

#[tokio::test]
async fn what_a_configuration_leaves_open_is_filled_in() {
    let (api, hooks) = (Api::new().await, Hooks::start(allow).await);
    for kind in [VALIDATING, MUTATING] {
        let path = hooks.configure(&api, kind, "defaults", &[hooks.hook(&api, "/defaults", &json!({}))]).await;
        let hook = api.get(&path).await.ok()["webhooks"][0].clone();
        assert_eq!(hook["matchPolicy"], "Equivalent", "{kind}");
        assert_eq!((&hook["failurePolicy"], &hook["timeoutSeconds"]), (&json!("Fail"), &json!(10)), "{kind}");
        assert_eq!(hook["rules"][0]["scope"], "*", "{kind}");
        let reinvocation = if kind == MUTATING { json!("Never") } else { Value::Null };
        assert_eq!(hook["reinvocationPolicy"], reinvocation, "{kind}");
    }
}
