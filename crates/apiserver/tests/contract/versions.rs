//! Lists at a version: exactly it, or not older than it.

use crate::engine::{Api, config_map, event, widget};
use serde_json::{Value, json};

/// The names in a list, and its version.
fn seen(list: Value) -> (Vec<String>, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names = list["items"].as_array().unwrap().iter().map(|item| text(&item["metadata"]["name"])).collect();
    (names, text(&list["metadata"]["resourceVersion"]))
}

fn labelled(mut object: Value) -> Value {
    object["metadata"]["labels"] = json!({"of": "test"});
    object
}

/// Collections of each sort of storage: a built-in kind, one that kube-apiserver never caches, a custom one.
async fn collections(api: &Api) -> [(String, Box<dyn Fn(&str) -> Value>); 3] {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let group = api.define("Namespaced", json!({"schema": schema})).await;
    let namespace = api.namespace.clone();
    [
        (api.core("configmaps"), Box::new(|name: &str| labelled(config_map(name)))),
        (api.core("events"), Box::new(move |name: &str| labelled(event(&namespace, name)))),
        (api.widgets(&group), Box::new(move |name: &str| labelled(widget(&group, name, json!({}))))),
    ]
}

#[tokio::test]
async fn a_list_at_a_version_shows_what_was_there() {
    let api = Api::new().await;
    for (path, make) in collections(&api).await {
        let list = format!("{path}?labelSelector=of%3Dtest");
        let at = async |query: &str| api.get(&format!("{list}&{query}")).await;
        for name in ["a", "b", "c"] {
            api.post(&path, &make(name)).await.ok();
        }
        let (names, old) = seen(api.get(&list).await.ok());
        assert_eq!(names, ["a", "b", "c"], "{path}");
        api.delete(&format!("{path}/a")).await.ok();
        api.patch(&format!("{path}/b"), "merge", &json!({"metadata": {"labels": {"late": "yes"}}})).await.ok();
        api.patch(&format!("{path}/c"), "merge", &json!({"metadata": {"labels": {"of": "other"}}})).await.ok();
        api.post(&path, &make("d")).await.ok();
        let (names, new) = seen(api.get(&list).await.ok());
        assert_eq!(names, ["b", "d"], "{path}");

        let exact = at(&format!("resourceVersionMatch=Exact&resourceVersion={old}")).await.ok();
        assert_eq!(exact["items"][1]["metadata"]["labels"], json!({"of": "test"}), "{path}: as it was");
        let before = (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], old.clone());
        assert_eq!(seen(exact), before, "{path}");
        // A limit makes a version an exact one.
        assert_eq!(seen(at(&format!("limit=500&resourceVersion={old}")).await.ok()), before, "{path}");
        let now = (vec!["b".to_owned(), "d".to_owned()], new.clone());
        assert_eq!(seen(at(&format!("resourceVersionMatch=Exact&resourceVersion={new}")).await.ok()), now, "{path}");

        let (names, version) = seen(at(&format!("resourceVersionMatch=NotOlderThan&resourceVersion={new}")).await.ok());
        assert_eq!(names, now.0, "{path}");
        assert!(version.parse::<u64>().unwrap() >= new.parse().unwrap(), "{path}: {version} is not older than {new}");
        let (names, _) = seen(at(&format!("resourceVersion={new}")).await.ok());
        assert_eq!(names, now.0, "{path}: without a match a version is the oldest one");
    }
}

#[tokio::test]
async fn the_pages_of_a_list_at_a_version_are_of_that_version() {
    let api = Api::new().await;
    for (path, make) in collections(&api).await {
        let list = format!("{path}?labelSelector=of%3Dtest");
        for name in ["a", "b", "c"] {
            api.post(&path, &make(name)).await.ok();
        }
        let (_, old) = seen(api.get(&list).await.ok());
        api.delete(&format!("{path}/c")).await.ok();
        api.post(&path, &make("bb")).await.ok();
        let first = format!("{list}&limit=2&resourceVersionMatch=Exact&resourceVersion={old}");
        let first = api.get(&first).await.ok();
        let next = first["metadata"]["continue"].as_str().unwrap().to_owned();
        assert_eq!(seen(first), (vec!["a".to_owned(), "b".to_owned()], old.clone()), "{path}");
        let second = api.get(&format!("{list}&limit=2&continue={next}")).await.ok();
        assert_eq!(second["metadata"]["continue"].as_str().unwrap_or_default(), "", "{path}");
        assert_eq!(seen(second), (vec!["c".to_owned()], old), "{path}");
    }
}

#[tokio::test]
async fn a_version_that_is_not_yet_there_is_told_so() {
    let api = Api::new().await;
    for (path, _) in collections(&api).await {
        for query in ["", "&resourceVersionMatch=NotOlderThan", "&resourceVersionMatch=Exact", "&limit=5"] {
            let answer = api.get(&format!("{path}?resourceVersion=99999999999{query}")).await;
            assert_eq!((answer.code, answer.refusal().1), (504, "Timeout"), "{path} {query}");
            assert!(
                answer.refusal().2.starts_with("Timeout: Too large resource version: 99999999999, current: "),
                "{path} {query}: {answer:?}"
            );
            assert_eq!(answer.causes(), [("", "Too large resource version")], "{path} {query}");
        }
    }
}

#[tokio::test]
async fn a_match_needs_a_version_and_none_with_a_token() {
    let api = Api::new().await;
    let path = api.core("configmaps");
    let made = ["a", "b"].map(config_map);
    for map in &made {
        api.post(&path, map).await.ok();
    }
    let page = api.get(&format!("{path}?limit=1")).await.ok();
    let (token, version) =
        (page["metadata"]["continue"].as_str().unwrap(), page["metadata"]["resourceVersion"].as_str().unwrap());
    let unless = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
    for matching in ["Exact", "NotOlderThan"] {
        let answer = api.get(&format!("{path}?resourceVersionMatch={matching}")).await;
        assert_eq!((answer.code, answer.causes()), (422, vec![("resourceVersionMatch", unless)]), "{matching}");
    }
    let both = api.get(&format!("{path}?continue={token}&resourceVersionMatch=Exact&resourceVersion={version}")).await;
    let forbidden = "Forbidden: resourceVersionMatch is forbidden when continue is provided";
    assert_eq!((both.code, both.causes()), (422, vec![("resourceVersionMatch", forbidden)]));
    let versioned = api.get(&format!("{path}?continue={token}&resourceVersion={version}")).await;
    let message = "specifying resource version is not allowed when using continue";
    assert_eq!(versioned.refusal(), (400, "BadRequest", message));
}
