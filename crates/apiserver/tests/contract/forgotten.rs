//! Versions that the server has forgotten: watches, lists and pages from there expire, and clients go on after a new list.
//!
//! The subject is Events, which kube-apiserver never caches: what etcd has compacted is gone at once. Nothing else may count on old
//! versions meanwhile, so a run against a cluster runs these tests by themselves.

use crate::engine::{Answer, Api, event};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// A server whose Events nobody else writes or forgets.
async fn alone() -> (MutexGuard<'static, ()>, Api) {
    static ONE: Mutex<()> = Mutex::const_new(());
    let one = ONE.lock().await;
    (one, Api::forgetful().await)
}

async fn record(api: &Api, name: &str) {
    let mut event = event(&api.namespace, name);
    event["metadata"]["labels"] = json!({"of": "test"});
    api.post(&api.core("events"), &event).await.ok();
}

fn list(api: &Api) -> String {
    format!("{}?labelSelector=of%3Dtest", api.core("events"))
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn version(list: &Value) -> String {
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// The events of a watch that ends by itself.
async fn watched(api: &Api, from: &str) -> Vec<Value> {
    let answer = api.get(&format!("{}&watch=true&resourceVersion={from}&timeoutSeconds=1", list(api))).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    match answer.body {
        Value::String(lines) => lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        one => vec![one],
    }
}

fn is_expired(answer: &Answer, message: &str) {
    assert_eq!((answer.code, answer.refusal().1), (410, "Expired"), "{answer:?}");
    assert!(answer.refusal().2.starts_with(message), "{answer:?}");
}

#[tokio::test]
async fn a_watch_expires_and_goes_on_after_a_new_list() {
    let (_alone, api) = alone().await;
    let old = version(&api.get(&list(&api)).await.ok());
    record(&api, "a").await;
    record(&api, "b").await;
    let events = watched(&api, &old).await;
    let seen: Vec<_> = events.iter().map(|event| (&event["type"], &event["object"]["metadata"]["name"])).collect();
    assert_eq!(seen, [(&json!("ADDED"), &json!("a")), (&json!("ADDED"), &json!("b"))], "it is not forgotten yet");

    api.forget_events().await;
    let events = watched(&api, &old).await;
    let [expired] = events.as_slice() else { panic!("one event ends the watch: {events:?}") };
    let status = &expired["object"];
    assert_eq!(
        (&expired["type"], &status["kind"], &status["status"]),
        (&json!("ERROR"), &json!("Status"), &json!("Failure"))
    );
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")));
    assert!(status["message"].as_str().is_some_and(|text| text.contains("too old")), "{status}");

    let now = api.get(&list(&api)).await.ok();
    assert_eq!(names(&now), ["a", "b"]);
    record(&api, "c").await;
    let events = watched(&api, &version(&now)).await;
    let seen: Vec<_> = events.iter().map(|event| (&event["type"], &event["object"]["metadata"]["name"])).collect();
    assert_eq!(seen, [(&json!("ADDED"), &json!("c"))]);
}

#[tokio::test]
async fn a_list_expires() {
    let (_alone, api) = alone().await;
    record(&api, "a").await;
    let now = api.get(&list(&api)).await.ok();
    record(&api, "b").await;
    let exact = format!("{}&resourceVersionMatch=Exact&resourceVersion={}", list(&api), version(&now));
    let limited = format!("{}&limit=5&resourceVersion={}", list(&api), version(&now));
    for old in [&exact, &limited] {
        assert_eq!(names(&api.get(old).await.ok()), ["a"], "{old}: it is not forgotten yet");
    }
    api.forget_events().await;
    for old in [&exact, &limited] {
        is_expired(&api.get(old).await, "The resourceVersion for the provided list is too old.");
    }
    let oldest = format!("{}&resourceVersionMatch=NotOlderThan&resourceVersion={}", list(&api), version(&now));
    assert_eq!(names(&api.get(&oldest).await.ok()), ["a", "b"], "the newest is not older");
}

#[tokio::test]
async fn pages_expire_and_can_go_on_with_what_is_there_now() {
    let (_alone, api) = alone().await;
    for name in ["a", "b", "c", "d"] {
        record(&api, name).await;
    }
    let first = api.get(&format!("{}&limit=2", list(&api))).await.ok();
    assert_eq!(names(&first), ["a", "b"]);
    api.delete(&api.core("events/c")).await.ok();
    record(&api, "e").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let next = format!("{}&limit=2&continue={token}", list(&api));
    assert_eq!(names(&api.get(&next).await.ok()), ["c", "d"], "it is not forgotten yet");

    api.forget_events().await;
    let expired = api.get(&next).await;
    is_expired(&expired, "The provided continue parameter is too old to display a consistent list result.");
    let token = expired.body["metadata"]["continue"].as_str().expect("a token to go on with");
    let rest = api.get(&format!("{}&limit=2&continue={token}", list(&api))).await.ok();
    assert_eq!(names(&rest), ["d", "e"]);
    let newer = version(&rest).parse::<u64>().unwrap() > version(&first).parse().unwrap();
    assert!(newer, "the rest is of a later version: {rest}");
}
