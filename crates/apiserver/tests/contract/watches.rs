//! Watches: from a version, with bookmarks, with selectors, and from versions that are gone.

use crate::engine::{Api, config_map};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use std::time::Duration;

fn typed(api: &Api) -> kube::Api<ConfigMap> {
    kube::Api::namespaced(api.client.clone(), &api.namespace)
}

async fn next<S>(stream: &mut S) -> WatchEvent<ConfigMap>
where
    S: futures::Stream<Item = Result<WatchEvent<ConfigMap>, kube::Error>> + Unpin,
{
    tokio::time::timeout(Duration::from_secs(20), stream.try_next())
        .await
        .expect("an event within 20 s")
        .expect("an event")
        .expect("an open stream")
}

fn described(event: &WatchEvent<ConfigMap>) -> String {
    let name = |o: &ConfigMap| o.metadata.name.clone().unwrap_or_default();
    match event {
        WatchEvent::Added(o) => format!("ADDED {}", name(o)),
        WatchEvent::Modified(o) => format!("MODIFIED {}", name(o)),
        WatchEvent::Deleted(o) => format!("DELETED {}", name(o)),
        WatchEvent::Bookmark(_) => "BOOKMARK".into(),
        WatchEvent::Error(e) => format!("ERROR {} {}", e.code, e.reason),
    }
}

#[tokio::test]
async fn a_watch_continues_from_a_list() {
    let api = Api::new().await;
    let list = typed(&api).list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    let mut stream = typed(&api)
        .watch(&WatchParams::default().fields("metadata.name!=kube-root-ca.crt"), &version)
        .await
        .unwrap()
        .boxed();
    api.patch(&api.core("configmaps/a"), "merge", &json!({"data": {"b": "2"}})).await.ok();
    api.delete(&api.core("configmaps/a")).await.ok();
    for wanted in ["ADDED a", "MODIFIED a", "DELETED a"] {
        assert_eq!(described(&next(&mut stream).await), wanted);
    }
}

#[tokio::test]
async fn leaving_a_selector_is_a_deletion_and_entering_an_addition() {
    let api = Api::new().await;
    let version = typed(&api).list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut stream = typed(&api).watch(&WatchParams::default().labels("in=yes"), &version).await.unwrap().boxed();
    api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    api.patch(&api.core("configmaps/a"), "merge", &json!({"metadata": {"labels": {"in": "yes"}}})).await.ok();
    api.patch(&api.core("configmaps/a"), "merge", &json!({"metadata": {"labels": {"in": null}}})).await.ok();
    for wanted in ["ADDED a", "DELETED a"] {
        assert_eq!(described(&next(&mut stream).await), wanted);
    }
}

#[tokio::test]
async fn a_watch_from_the_start_shows_what_is_there() {
    let api = Api::new().await;
    api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    let mut stream = typed(&api).watch(&WatchParams::default().fields("metadata.name=a"), "0").await.unwrap().boxed();
    assert_eq!(described(&next(&mut stream).await), "ADDED a");
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_bookmark() {
    let api = Api::new().await;
    api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    let path = format!(
        "{}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Da&timeoutSeconds=2",
        api.core("configmaps")
    );
    let answer = api.get(&path).await;
    let text = answer.body.as_str().map(str::to_owned).unwrap_or_else(|| answer.body.to_string());
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an event per line")).collect();
    assert_eq!(events[0]["type"], "ADDED");
    assert_eq!(events[1]["type"], "BOOKMARK");
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn versions_of_the_past_and_of_the_future_are_told_apart() {
    let api = Api::new().await;
    let future = api.get(&format!("{}?resourceVersion=99999999999", api.core("configmaps"))).await;
    assert_eq!((future.code, future.refusal().1), (504, "Timeout"));
    assert!(future.refusal().2.contains("Too large resource version: 99999999999, current: "), "{future:?}");
}
