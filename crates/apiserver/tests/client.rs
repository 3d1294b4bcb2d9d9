//! The server as `kube::Client` sees it, in process.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use apiserver::{Options, Server};
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

async fn server() -> (Server, Client) {
    let server = Server::open(Options::default()).await.unwrap();
    let client = Client::new(server.router(), "default");
    (server, client)
}

fn map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.into());
    map
}

fn labelled(name: &str, labels: &[(&str, &str)]) -> ConfigMap {
    let mut map = map(name);
    map.metadata.labels = Some(labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
    map
}

fn status(error: kube::Error) -> kube::core::Status {
    match error {
        kube::Error::Api(status) => *status,
        other => panic!("not an answer of the server: {other}"),
    }
}

/// Polls until the condition holds.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn of_fifty_creators_of_one_name_one_wins() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let (params, object) = (PostParams::default(), map("one"));
    let results = join_all((0..50).map(|_| api.create(&params, &object))).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for error in lost {
        let status = status(error.unwrap_err());
        assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"));
        assert_eq!(status.message, "configmaps \"one\" already exists");
    }
}

#[tokio::test]
async fn a_stale_version_is_refused_with_the_text_that_people_know() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let first = api.create(&PostParams::default(), &map("x")).await.unwrap();
    let mut second = first.clone();
    second.data = Some(BTreeMap::from([("a".into(), "b".into())]));
    let second = api.replace("x", &PostParams::default(), &second).await.unwrap();
    assert_ne!(first.resource_version(), second.resource_version());
    let again = api.replace("x", &PostParams::default(), &second).await.unwrap();
    assert_eq!(again.resource_version(), second.resource_version(), "an update that changes nothing is no write");
    let refused = status(api.replace("x", &PostParams::default(), &first).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        refused.message,
        "Operation cannot be fulfilled on configmaps \"x\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let preconditions = Preconditions { uid: Some("other".into()), resource_version: None };
    let params = DeleteParams::default().preconditions(preconditions);
    let refused = status(api.delete("x", &params).await.unwrap_err());
    assert!(
        refused
            .message
            .starts_with("Operation cannot be fulfilled on ConfigMap \"x\": the UID in the precondition (other)"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn concurrent_patches_all_take_effect() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &map("x")).await.unwrap();
    let patches: Vec<_> = (0..40).map(|i| Patch::Merge(json!({"data": {format!("k{i}"): "v"}}))).collect();
    let params = PatchParams::default();
    join_all(patches.iter().map(|p| api.patch("x", &params, p))).await.into_iter().for_each(|r| drop(r.unwrap()));
    assert_eq!(api.get("x").await.unwrap().data.unwrap().len(), 40);
}

#[tokio::test]
async fn generated_names_differ_and_keep_their_head() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let mut template = ConfigMap::default();
    template.metadata.generate_name = Some("head-".into());
    let params = PostParams::default();
    let made = join_all((0..20).map(|_| api.create(&params, &template))).await;
    let names: std::collections::BTreeSet<_> = made.into_iter().map(|m| m.unwrap().name_any()).collect();
    assert_eq!(names.len(), 20);
    assert!(names.iter().all(|n| n.starts_with("head-") && n.len() == 10), "{names:?}");
}

#[tokio::test]
async fn label_selectors_select_as_documented() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    for (name, labels) in [("a", &[("k", "v")][..]), ("b", &[("k", "w")]), ("c", &[("z", "v")])] {
        api.create(&PostParams::default(), &labelled(name, labels)).await.unwrap();
    }
    for (selector, want) in [
        ("k=v", "a"),
        ("k==v", "a"),
        ("k!=v", "b c"),
        ("k", "a b"),
        ("!k", "c"),
        ("k in (v,w)", "a b"),
        ("k notin (v)", "b c"),
        ("k,k!=w", "a"),
        ("k=v,z=v", ""),
    ] {
        let list = api.list(&ListParams::default().labels(selector)).await.unwrap();
        let names: Vec<_> = list.iter().map(|m| m.name_any()).collect();
        assert_eq!(names.join(" "), want, "selector {selector}");
    }
    let refused = status(api.list(&ListParams::default().fields("spec.nope=1")).await.unwrap_err());
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (400, "\"spec.nope\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    );
}

#[tokio::test]
async fn pages_show_one_version_whatever_happens_meanwhile() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    for i in 0..25 {
        api.create(&PostParams::default(), &map(&format!("m{i:02}"))).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(10)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (10, Some(15)));
    api.delete("m20", &DeleteParams::default()).await.unwrap();
    api.create(&PostParams::default(), &map("m99")).await.unwrap();
    let mut names: Vec<_> = first.iter().map(|m| m.name_any()).collect();
    let mut token = first.metadata.continue_.clone();
    while let Some(next) = token.filter(|t| !t.is_empty()) {
        let page = api.list(&ListParams::default().limit(10).continue_token(&next)).await.unwrap();
        assert_eq!(page.metadata.resource_version, first.metadata.resource_version);
        names.extend(page.iter().map(|m| m.name_any()));
        token = page.metadata.continue_.clone();
    }
    let want: Vec<_> = (0..25).map(|i| format!("m{i:02}")).collect();
    assert_eq!(names, want);
}

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &labelled("before", &[("k", "v")])).await.unwrap();
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    api.create(&PostParams::default(), &labelled("x", &[("k", "v")])).await.unwrap();
    api.patch("x", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "b"}}))).await.unwrap();
    api.patch("x", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"k": "w"}}}))).await.unwrap();
    api.delete("x", &DeleteParams::default()).await.unwrap();
    let params = WatchParams::default().labels("k=v");
    let events: Vec<_> = api.watch(&params, &version).await.unwrap().take(3).try_collect().await.unwrap();
    let seen: Vec<_> = events
        .iter()
        .map(|event| match event {
            WatchEvent::Added(m) => format!("added {}", m.name_any()),
            WatchEvent::Modified(m) => format!("modified {}", m.name_any()),
            WatchEvent::Deleted(m) => format!("deleted {} {}", m.name_any(), m.labels()["k"]),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, ["added x", "modified x", "deleted x v"], "leaving the selection is a deletion of the old state");
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_told_so() {
    let server = Server::open(Options { history: 4, ..Options::default() }).await.unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(Client::new(server.router(), "default"));
    let first = api.create(&PostParams::default(), &map("m0")).await.unwrap();
    for i in 1..10 {
        api.create(&PostParams::default(), &map(&format!("m{i}"))).await.unwrap();
    }
    let mut stream = api.watch(&WatchParams::default(), &first.resource_version().unwrap()).await.unwrap().boxed();
    match stream.next().await.unwrap().unwrap() {
        WatchEvent::Error(error) => assert_eq!((error.code, error.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    assert!(stream.next().await.is_none(), "the watch ends");
}

#[tokio::test]
async fn reflectors_follow_with_and_without_streaming_lists() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &map("old")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let (reader, writer) = reflector::store();
        let stream = watcher(api.clone(), config).reflect(writer).applied_objects().for_each(|_| async {});
        let task = tokio::spawn(stream);
        reader.wait_until_ready().await.unwrap();
        assert!(reader.state().iter().any(|m| m.name_any() == "old"));
        api.create(&PostParams::default(), &map("new")).await.unwrap();
        eventually("the new map is seen", || async { reader.state().iter().any(|m| m.name_any() == "new") }).await;
        api.delete("new", &DeleteParams::default()).await.unwrap();
        eventually("it is gone", || async { reader.state().len() == 1 }).await;
        task.abort();
    }
}

#[tokio::test]
async fn pods_are_watched_by_node_and_deleted_gracefully() {
    let (_server, client) = server().await;
    let api: Api<Pod> = Api::default_namespaced(client);
    let pod = |name: &str, node: Option<&str>| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 30},
        }))
        .unwrap()
    };
    api.create(&PostParams::default(), &pod("here", Some("a"))).await.unwrap();
    api.create(&PostParams::default(), &pod("there", Some("b"))).await.unwrap();
    api.create(&PostParams::default(), &pod("nowhere", None)).await.unwrap();
    let on_a = api.list(&ListParams::default().fields("spec.nodeName=a")).await.unwrap();
    assert_eq!(on_a.iter().map(|p| p.name_any()).collect::<Vec<_>>(), ["here"]);
    let waiting = api.delete("here", &DeleteParams::default()).await.unwrap().left().expect("it terminates");
    assert_eq!(waiting.metadata.deletion_grace_period_seconds, Some(30));
    api.delete("here", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(api.get_opt("here").await.unwrap().is_none());
    api.delete("nowhere", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("nowhere").await.unwrap().is_none(), "a pod without a node goes at once");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_removed() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let mut held = map("held");
    held.metadata.finalizers = Some(vec!["a.b/c".into()]);
    api.create(&PostParams::default(), &held).await.unwrap();
    api.delete("held", &DeleteParams::default()).await.unwrap();
    assert!(api.get("held").await.unwrap().metadata.deletion_timestamp.is_some());
    let more = Patch::Merge(json!({"metadata": {"finalizers": ["a.b/c", "d.e/f"]}}));
    let refused = status(api.patch("held", &PatchParams::default(), &more).await.unwrap_err());
    assert_eq!(refused.code, 422, "{}", refused.message);
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("held", &PatchParams::default(), &none).await.unwrap();
    assert!(api.get_opt("held").await.unwrap().is_none());
}

fn owned(name: &str, owner: &ConfigMap, blocking: bool) -> ConfigMap {
    let mut child = map(name);
    child.metadata.owner_references = serde_json::from_value(json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(), "blockOwnerDeletion": blocking,
    }]))
    .unwrap();
    child
}

#[tokio::test]
async fn dependents_follow_their_owner_unless_they_are_orphaned() {
    let (_server, client) = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let create = |object: ConfigMap| {
        let api = api.clone();
        async move { api.create(&PostParams::default(), &object).await.unwrap() }
    };
    let gone = |name: &'static str| {
        let api = api.clone();
        async move { api.get_opt(name).await.unwrap().is_none() }
    };

    let owner = create(map("background")).await;
    let child = create(owned("child", &owner, false)).await;
    create(owned("grandchild", &child, false)).await;
    api.delete("background", &DeleteParams::background()).await.unwrap();
    eventually("the grandchild goes too", || gone("grandchild")).await;
    assert!(gone("child").await);

    let owner = create(map("foreground")).await;
    let mut child = owned("blocks", &owner, true);
    child.metadata.finalizers = Some(vec!["a.b/c".into()]);
    create(child).await;
    api.delete("foreground", &DeleteParams::foreground()).await.unwrap();
    eventually("the child is being deleted", || async {
        api.get("blocks").await.unwrap().metadata.deletion_timestamp.is_some()
    })
    .await;
    assert!(!gone("foreground").await, "the owner waits for its blocking dependent");
    api.patch("blocks", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .unwrap();
    eventually("then the owner goes", || gone("foreground")).await;

    let owner = create(map("orphaning")).await;
    create(owned("kept", &owner, false)).await;
    api.delete("orphaning", &DeleteParams::orphan()).await.unwrap();
    eventually("the owner goes", || gone("orphaning")).await;
    assert!(api.get("kept").await.unwrap().owner_references().is_empty());

    let mut nobody = map("nobody");
    nobody.metadata.uid = Some("00000000-0000-0000-0000-000000000000".into());
    create(owned("stray", &nobody, false)).await;
    eventually("an object whose owner never was goes", || gone("stray")).await;
}

#[tokio::test]
async fn a_namespace_takes_its_contents_along() {
    let (_server, client) = server().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let inside: Api<ConfigMap> = Api::namespaced(client, "ns1");
    let missing = status(inside.create(&PostParams::default(), &map("x")).await.unwrap_err());
    assert_eq!((missing.code, missing.message.as_str()), (404, "namespaces \"ns1\" not found"));
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "ns1"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let mut held = map("held");
    held.metadata.finalizers = Some(vec!["a.b/c".into()]);
    inside.create(&PostParams::default(), &held).await.unwrap();
    inside.create(&PostParams::default(), &map("x")).await.unwrap();
    namespaces.delete("ns1", &DeleteParams::default()).await.unwrap();
    eventually("x goes", || async { inside.get_opt("x").await.unwrap().is_none() }).await;
    let refused = status(inside.create(&PostParams::default(), &map("y")).await.unwrap_err());
    assert_eq!(
        refused.message,
        "configmaps \"y\" is forbidden: unable to create new content in namespace ns1 because it is being terminated"
    );
    assert_eq!(namespaces.get("ns1").await.unwrap().status.unwrap().phase.unwrap(), "Terminating");
    inside
        .patch("held", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .unwrap();
    eventually("the namespace goes", || async { namespaces.get_opt("ns1").await.unwrap().is_none() }).await;
}

#[tokio::test]
async fn a_definition_is_served_at_once_and_takes_its_objects_along() {
    let (_server, client) = server().await;
    let definitions: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::from_gvk(&GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition")),
    );
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"size": {"type": "integer"}}},
                    "status": {"type": "object", "properties": {"seen": {"type": "integer"}}}}}}}],
        },
    });
    definitions.create(&PostParams::default(), &serde_json::from_value(definition).unwrap()).await.unwrap();
    let widgets: Api<DynamicObject> =
        Api::all_with(client, &ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget")));
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1}, "status": {"seen": 9}});
    let made = widgets.create(&PostParams::default(), &serde_json::from_value(widget).unwrap()).await.unwrap();
    assert_eq!((made.metadata.generation, made.data.get("status")), (Some(1), None), "status is the subresource's");
    let seen = widgets
        .patch_status("w", &PatchParams::default(), &Patch::Merge(json!({"status": {"seen": 1}, "spec": {"size": 5}})))
        .await
        .unwrap();
    assert_eq!(
        (seen.metadata.generation, &seen.data["spec"]["size"], &seen.data["status"]["seen"]),
        (Some(1), &json!(1), &json!(1))
    );
    let bigger = widgets
        .patch("w", &PatchParams::default(), &Patch::Merge(json!({"spec": {"size": 2}, "status": {"seen": 7}})))
        .await
        .unwrap();
    assert_eq!((bigger.metadata.generation, &bigger.data["status"]["seen"]), (Some(2), &json!(1)));
    definitions.delete("widgets.example.com", &DeleteParams::default()).await.unwrap();
    eventually("the definition goes", || async { definitions.get_opt("widgets.example.com").await.unwrap().is_none() })
        .await;
    assert_eq!(status(widgets.list(&ListParams::default()).await.unwrap_err()).code, 404);
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let (_server, client) = server().await;
    let api: Api<Node> = Api::all(client);
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    let made = api.create(&PostParams { dry_run: true, ..PostParams::default() }, &node).await.unwrap();
    assert!(made.uid().is_some());
    assert!(api.get_opt("n").await.unwrap().is_none());
    api.create(&PostParams::default(), &node).await.unwrap();
    api.delete("n", &DeleteParams { dry_run: true, ..DeleteParams::default() }).await.unwrap();
    assert!(api.get_opt("n").await.unwrap().is_some());
}
