//! The patch types.

use crate::engine::{Api, config_map, widget};
use serde_json::json;

#[tokio::test]
async fn merge_and_json_patches() {
    let api = Api::new().await;
    let path = api.core("configmaps/a");
    api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    let merged = api.patch(&path, "merge", &json!({"data": {"a": null, "b": "2"}})).await.ok();
    assert_eq!(merged["data"], json!({"b": "2"}));
    let operations =
        json!([{"op": "test", "path": "/data/b", "value": "2"}, {"op": "add", "path": "/data/c", "value": "3"}]);
    assert_eq!(api.patch(&path, "json", &operations).await.ok()["data"], json!({"b": "2", "c": "3"}));
    let failing = api.patch(&path, "json", &json!([{"op": "test", "path": "/data/b", "value": "9"}])).await;
    assert_eq!((failing.code, failing.refusal().1), (422, "Invalid"));
    let malformed = api.patch(&path, "json", &json!({"op": "add"})).await;
    assert_eq!(malformed.code, 400);
    let stale = api.patch(&path, "merge", &json!({"metadata": {"resourceVersion": "1"}, "data": {"z": "1"}})).await;
    assert_eq!((stale.code, stale.refusal().1), (409, "Conflict"));
    assert_eq!(api.patch(&api.core("configmaps/none"), "merge", &json!({})).await.code, 404);
}

#[tokio::test]
async fn strategic_patches_merge_lists_by_key() {
    let api = Api::new().await;
    let pod = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [
        {"name": "a", "port": 80}, {"name": "b", "port": 81}]}});
    api.post(&api.core("services"), &pod).await.ok();
    let path = api.core("services/s");
    let patched = api.patch(&path, "strategic-merge", &json!({"spec": {"ports": [{"port": 81, "targetPort": 8081}, {"port": 80, "$patch": "delete"}, {"name": "c", "port": 82}]}})).await.ok();
    let ports: Vec<_> = patched["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["name"].clone(), p["port"].clone(), p["targetPort"].clone()))
        .collect();
    assert_eq!(ports, [(json!("b"), json!(81), json!(8081)), (json!("c"), json!(82), json!(82))]);
}

#[tokio::test]
async fn custom_resources_have_no_strategic_patch() {
    let api = Api::new().await;
    let group = api
        .define(
            "Namespaced",
            json!({"schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}),
        )
        .await;
    api.post(&api.widgets(&group), &widget(&group, "a", json!({}))).await.ok();
    let answer = api.patch(&format!("{}/a", api.widgets(&group)), "strategic-merge", &json!({"spec": {"x": 1}})).await;
    assert_eq!((answer.code, answer.refusal().1), (415, "UnsupportedMediaType"));
    assert!(
        answer
            .refusal()
            .2
            .starts_with("the body of the request was in an unknown format - accepted media types include:"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_patch_that_adds_unknown_fields_is_refused_when_strict() {
    let api = Api::new().await;
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}});
    let group = api.define("Namespaced", json!({"schema": {"openAPIV3Schema": schema}})).await;
    api.post(&api.widgets(&group), &widget(&group, "a", json!({"a": "1"}))).await.ok();
    let path = format!("{}/a?fieldValidation=Strict", api.widgets(&group));
    let answer = api.patch(&path, "merge", &json!({"spec": {"b": 1}})).await;
    assert_eq!((answer.code, answer.refusal().1), (422, "Invalid"));
    assert!(answer.refusal().2.ends_with("strict decoding error: unknown field \"spec.b\""), "{answer:?}");
    assert_eq!(answer.causes()[0].0, "patch");
}

#[tokio::test]
async fn replacing_an_absent_member_adds_it() {
    let api = Api::new().await;
    let path = api.core("configmaps/a");
    api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    let operations = json!([{"op": "add", "path": "/metadata/labels", "value": {}}, {"op": "replace", "path": "/metadata/labels/x", "value": "y"}]);
    assert_eq!(api.patch(&path, "json", &operations).await.ok()["metadata"]["labels"], json!({"x": "y"}));
    let nowhere = api.patch(&path, "json", &json!([{"op": "replace", "path": "/binaryData/x", "value": ""}])).await;
    assert_eq!((nowhere.code, nowhere.refusal().1), (422, "Invalid"));
    let list = api.patch(&path, "merge", &json!([])).await;
    let message = "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}";
    assert_eq!(list.refusal(), (400, "BadRequest", message));
}

#[tokio::test]
async fn the_items_of_a_strategic_patch_come_before_those_that_the_server_has() {
    let api = Api::new().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"name": "a", "port": 80}]}});
    api.post(&api.core("services"), &service).await.ok();
    let patch = json!({"spec": {"ports": [{"name": "b", "port": 81}]}});
    let patched = api.patch(&api.core("services/s"), "strategic-merge", &patch).await.ok();
    let names: Vec<_> = patched["spec"]["ports"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert_eq!(names, ["b", "a"]);
}

#[tokio::test]
async fn a_json_patch_is_bounded_in_operations_and_in_what_it_copies() {
    let api = Api::new().await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let group = api.define("Namespaced", json!({"schema": schema})).await;
    api.post(&api.widgets(&group), &widget(&group, "a", json!({"a": "x".repeat(100 << 10)}))).await.ok();
    let path = format!("{}/a", api.widgets(&group));
    let tests = |count: usize| json!(vec![json!({"op": "test", "path": "/kind", "value": "Widget"}); count]);
    assert_eq!(api.patch(&path, "json", &tests(10_000)).await.code, 200);
    let message = "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert_eq!(api.patch(&path, "json", &tests(10_001)).await.refusal(), (413, "RequestEntityTooLarge", message));

    let copies = |from: &str, count: usize| {
        json!(
            (0..count).map(|i| json!({"op": "copy", "from": from, "path": format!("/spec/b{i}")})).collect::<Vec<_>>()
        )
    };
    assert_eq!(api.patch(&path, "json", &copies("/spec/a", 3)).await.code, 200);
    // 3 MiB at most; a copy of what holds the copies before it doubles each time.
    for (from, count) in [("/spec/a", 31), ("/spec", 40)] {
        let answer = api.patch(&path, "json", &copies(from, count)).await;
        let message = "the server rejected our request due to an error in our request";
        assert_eq!(answer.refusal(), (422, "Invalid", message), "{count} copies of {from}");
    }
}
