//! What looks healthy and what does not.

use super::*;
use k8s_api::{
    Holder, IpState,
    ip::{NodeHolder, PodHolder},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
use serde_json::{Value, json};

fn meta<K>(rest: Value) -> PartialObjectMeta<K> {
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "X", "metadata": rest})).unwrap()
}

fn pod(name: &str, uid: &str, more: Value) -> PartialObjectMeta<Pod> {
    let mut rest = json!({"namespace": "ns", "name": name, "uid": uid});
    json_patch::merge(&mut rest, &more);
    meta(rest)
}

fn ending() -> Value {
    json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 7})
}

fn endpoint(pod: &str, uid: Option<&str>, terminating: bool) -> PartialObjectMeta<SpiderEndpoint> {
    let owner = uid.map(|uid| json!([{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}]));
    let deletion = terminating.then_some("2026-01-01T00:00:00Z");
    let rest = json!({"namespace": "ns", "name": pod, "finalizers": [FINALIZER]});
    let mut rest = rest;
    json_patch::merge(&mut rest, &json!({"ownerReferences": owner, "deletionTimestamp": deletion}));
    meta(rest)
}

fn held(address: &str, holder: Holder) -> SpiderIP {
    SpiderIP::claim(address, address.parse().unwrap(), "p", IpState::Allocated, holder, Time(Timestamp::UNIX_EPOCH))
}

fn claim(address: &str, pod: &str, uid: &str) -> SpiderIP {
    let holder =
        PodHolder { namespace: "ns".into(), name: pod.into(), uid: uid.into(), node: "n".into(), ..Default::default() };
    held(address, Holder::Pod(holder))
}

/// A complete index with node `n` and these pods, claims and endpoints.
fn index(
    outdated: bool,
    pods: Vec<PartialObjectMeta<Pod>>,
    claims: Vec<SpiderIP>,
    endpoints: Vec<PartialObjectMeta<SpiderEndpoint>>,
) -> Index {
    let mut index = Index::new(outdated);
    assert!(!index.is_complete());
    let now = Instant::now();
    for event in [Init, InitApply(meta(json!({"name": "n"}))), InitDone] {
        index.node(event, now);
    }
    [Init, InitDone].into_iter().for_each(|event| drop(index.finished(event)));
    [Init]
        .into_iter()
        .chain(pods.into_iter().map(InitApply))
        .chain([InitDone])
        .for_each(|event| drop(index.pod(event)));
    [Init]
        .into_iter()
        .chain(claims.into_iter().map(InitApply))
        .chain([InitDone])
        .for_each(|event| drop(index.claim(event)));
    let events = [Init].into_iter().chain(endpoints.into_iter().map(InitApply)).chain([InitDone]);
    events.for_each(|event| drop(index.endpoint(event)));
    assert!(index.is_complete());
    index
}

fn suspects(index: &mut Index) -> Vec<String> {
    let suspects = index.suspects(Instant::now()).into_iter();
    let mut names: Vec<_> = suspects
        .map(|subject| match subject {
            Subject::Pod(key) => key.to_string(),
            Subject::Held(name) => format!("held {name}"),
        })
        .collect();
    names.sort();
    names
}

#[test]
fn healthy_pods_are_no_suspects_and_all_others_are() {
    let pods = vec![
        pod("fine", "u1", json!({})),
        pod("ending", "u2", ending()),
        pod("again", "u4", json!({})),
        pod("done", "u5", json!({})),
    ];
    let claims = vec![
        claim("10.0.0.1", "fine", "u1"),
        claim("10.0.0.2", "ending", "u2"),
        claim("10.0.0.3", "again", "u3"),
        claim("10.0.0.4", "again", "u4"),
        claim("10.0.0.5", "done", "u5"),
        claim("10.0.0.6", "gone", "u6"),
        held("10.0.0.7", Holder::Node(NodeHolder { name: "n".into() })),
        held("10.0.0.8", Holder::Node(NodeHolder { name: "m".into() })),
    ];
    let mut index = index(false, pods, claims, vec![]);
    assert_eq!(index.finished(Apply(pod("done", "u5", json!({})))), ["ns/done".into()]);
    assert_eq!(suspects(&mut index), ["held 10.0.0.8", "ns/again", "ns/done", "ns/ending", "ns/gone"]);
    let sight = index.sight(&"ns/again".into(), Instant::now()).unwrap();
    let kinds: Vec<_> = sight.since.iter().map(|(uid, kind, _)| (&**uid, *kind)).collect();
    assert_eq!(kinds, [("u3", Kind::Gone), ("u4", Kind::Alive)]);
    assert_eq!(sight.claims.len(), 2);
    assert_eq!(index.sight(&"ns/ending".into(), Instant::now()).unwrap().grace.as_secs(), 7);
    index.runs_without_ips(["ns/fine".into()].into_iter());
    assert!(suspects(&mut index).contains(&"ns/fine".to_owned()));
}

#[test]
fn endpoints_are_suspects_by_themselves() {
    let pods = || vec![pod("fine", "u1", json!({})), pod("kept", "u2", json!({})), pod("fixed", "u3", json!({}))];
    let endpoints = || {
        vec![
            endpoint("fine", Some("u1"), false),
            endpoint("kept", Some("u2"), true),
            endpoint("fixed", None, false),
            endpoint("gone", Some("u4"), false),
            endpoint("gone-fixed", None, false),
        ]
    };
    let claims = || vec![claim("10.0.0.1", "fine", "u1")];
    assert_eq!(suspects(&mut index(false, pods(), claims(), endpoints())), ["ns/gone", "ns/gone-fixed", "ns/kept"]);
    let outdated = suspects(&mut index(true, pods(), claims(), endpoints()));
    assert_eq!(outdated, ["ns/fixed", "ns/gone", "ns/gone-fixed", "ns/kept"]);
}

#[test]
fn how_long_a_state_has_lasted_is_measured_and_a_new_state_begins_anew() {
    let key: Arc<str> = "ns/web".into();
    let mut index = index(false, vec![pod("web", "u", ending())], vec![claim("10.0.0.1", "web", "u")], vec![]);
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    assert!(index.sight(&key, start).is_some());
    let sight = index.sight(&key, start + 5 * second).unwrap();
    assert_eq!(sight.seen("u", Kind::Ending, start + 5 * second), 5 * second);
    assert_eq!(sight.seen("u", Kind::Gone, start + 5 * second), Duration::ZERO);
    assert_eq!(sight.seen("other", Kind::Ending, start + 5 * second), Duration::ZERO);
    assert_eq!(index.pod(Delete(pod("web", "u", ending()))), [Arc::clone(&key)]);
    let sight = index.sight(&key, start + 6 * second).unwrap();
    assert_eq!(sight.seen("u", Kind::Gone, start + 8 * second), 2 * second);
    index.claim(Delete(claim("10.0.0.1", "web", "u")));
    assert!(index.sight(&key, start + 9 * second).is_none(), "the agent has released it");
    assert_eq!(index.pod(Apply(pod("web", "u", json!({})))), Vec::<Arc<str>>::new(), "a pod that holds nothing");
}

#[test]
fn a_node_that_goes_makes_all_that_it_holds_suspect() {
    let pods = vec![pod("web", "u", json!({}))];
    let on_m = Holder::Node(NodeHolder { name: "m".into() });
    let mut index = index(false, pods, vec![claim("10.0.0.1", "web", "u"), held("10.0.0.2", on_m)], vec![]);
    let start = Instant::now();
    let gone = index.node(Delete(meta(json!({"name": "n"}))), start);
    assert_eq!(gone, [Subject::Pod("ns/web".into())]);
    assert!(index.sight(&"ns/web".into(), start).is_none(), "its pod is still there");
    assert!(index.held(&"10.0.0.2".into()).is_none(), "not known to be missing yet");
    index.suspects(start);
    let sight = index.held(&"10.0.0.2".into()).unwrap();
    assert_eq!(sight.missing("m", start + Duration::from_secs(3)), Duration::from_secs(3));
    index.pod(Delete(pod("web", "u", json!({}))));
    let sight = index.sight(&"ns/web".into(), start).unwrap();
    assert_eq!(sight.missing("n", start + Duration::from_secs(2)), Duration::from_secs(2));
    index.node(Apply(meta(json!({"name": "n"}))), start);
    let sight = index.sight(&"ns/web".into(), start).unwrap();
    assert_eq!(sight.missing("n", start + Duration::from_secs(2)), Duration::ZERO);
}
