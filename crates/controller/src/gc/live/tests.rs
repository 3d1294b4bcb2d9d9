//! From objects to facts.

use super::*;
use serde_json::{Value, json};

fn pod(rest: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": "web-0", "uid": "u"}, "spec": {"nodeName": "n"}});
    json_patch::merge(&mut pod, &rest);
    serde_json::from_value(pod).unwrap()
}

fn state(rest: Value) -> PodState {
    match pod_fact(Some(&pod(rest)), "u", "n") {
        PodFact::Present(state) => state,
        other => panic!("{other:?}"),
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn whether_a_name_is_still_the_holders() {
    assert_eq!(pod_fact(None, "u", "n"), PodFact::Absent);
    let with_ips = json!({"status": {"podIPs": [{"ip": "10.0.0.1"}]}});
    let successor = |has_ips, mirror| PodFact::Successor { has_ips, mirror };
    assert_eq!(pod_fact(Some(&pod(with_ips)), "other", "n"), successor(true, false));
    let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}});
    assert_eq!(pod_fact(Some(&pod(mirror.clone())), "other", "n"), successor(false, true));
    assert_eq!(pod_fact(Some(&pod(mirror)), "other", "another-node"), successor(false, false));
}

#[test]
fn a_deletion_tells_its_end_and_its_grace() {
    let end = "2026-01-01T00:00:30Z";
    let state = state(json!({"metadata": {"deletionTimestamp": end, "deletionGracePeriodSeconds": 30}}));
    assert_eq!(state.terminating, Some(Terminating { end: at(end), grace: Duration::from_secs(30) }));
}

/// Mend G3: also pods that were evicted or never started have an end.
#[test]
fn the_end_of_a_pod_that_has_finished() {
    let ended = |second: u8| {
        json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "finishedAt": format!("2026-01-01T00:00:{second:02}Z")}}})
    };
    let finished = |how: &str, at: Timestamp| Phase::Finished { how: how.to_owned(), at };
    let created = json!({"creationTimestamp": "2025-01-01T00:00:00Z"});
    for (status, how, end) in [
        (json!({"phase": "Succeeded", "containerStatuses": [ended(5), ended(9)]}), "Succeeded", "2026-01-01T00:00:09Z"),
        (json!({"phase": "Failed", "initContainerStatuses": [ended(3)]}), "Failed", "2026-01-01T00:00:03Z"),
        (
            json!({"phase": "Failed", "reason": "Evicted", "startTime": "2026-01-01T00:00:01Z"}),
            "Failed, Evicted",
            "2026-01-01T00:00:01Z",
        ),
        (
            json!({"phase": "Failed", "reason": "OutOfcpu", "startTime": "2026-01-01T00:00:01Z",
                "conditions": [{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-01-01T00:00:07Z"}]}),
            "Failed, OutOfcpu",
            "2026-01-01T00:00:07Z",
        ),
        (json!({"phase": "Failed"}), "Failed", "2025-01-01T00:00:00Z"),
    ] {
        let state = state(json!({"metadata": created, "status": status, "spec": {"terminationGracePeriodSeconds": 7}}));
        assert_eq!((state.phase, state.grace.as_secs()), (finished(how, at(end)), 7), "{status}");
    }
}

#[test]
fn other_phases() {
    assert_eq!(state(json!({})).phase, Phase::Pending);
    for (phase, expected) in [("Pending", Phase::Pending), ("Running", Phase::Running), ("Unknown", Phase::Unknown)] {
        assert_eq!(state(json!({"status": {"phase": phase}})).phase, expected);
    }
}

#[test]
fn the_state_of_a_node() {
    let node = |status: &str, taint: Option<&str>| {
        let taints: Vec<_> = taint.iter().map(|key| json!({"key": key, "effect": "NoExecute"})).collect();
        let conditions = json!([{"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": status}]);
        let node = json!({"spec": {"taints": taints}, "status": {"conditions": conditions}});
        node_fact(&serde_json::from_value(node).unwrap())
    };
    assert_eq!(node("True", None), NodeFact::Ready);
    assert_eq!(node("Unknown", None), NodeFact::NotReady);
    assert_eq!(node("False", Some("node.kubernetes.io/unreachable")), NodeFact::NotReady);
    assert_eq!(node("False", Some(FENCED)), NodeFact::Fenced);
    assert_eq!(node_fact(&Node::default()), NodeFact::NotReady);
}

fn reference(api_version: &str, kind: &str, name: &str, controller: bool) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": format!("uid-{name}"), "controller": controller})
}

fn endpoint(kind: &str, uid: &str) -> SpiderEndpoint {
    serde_json::from_value(json!({
        "metadata": {"name": "web-0", "creationTimestamp": "2026-01-01T00:00:10Z"},
        "status": {"current": {"uid": uid}, "ownerControllerType": kind, "ownerControllerName": "web"},
    }))
    .unwrap()
}

/// Mend G16: the controller, not the first owner. Mend G13: virtual machines too.
#[test]
fn the_owner_of_a_pod() {
    let owned = |references: Value| pod(json!({"metadata": {"ownerReferences": references}}));
    let other = reference("example.com/v1", "Backup", "backup", false);
    let set = owned(json!([other, reference("apps/v1", "StatefulSet", "web", true)]));
    let owner = |kind, uid: Option<&str>, known_at: Option<&str>| {
        Some(Owner { kind, name: "web".into(), uid: uid.map(str::to_owned), known_at: known_at.map(at) })
    };
    use OwnerKind::{Machine, StatefulSet};
    let by_endpoint = Some("2026-01-01T00:00:10Z");
    assert_eq!(super::owner(Some(&set), None, "u"), owner(StatefulSet, Some("uid-web"), None));
    let machine = owned(json!([reference("kubevirt.io/v1", "VirtualMachineInstance", "web", true)]));
    assert_eq!(super::owner(Some(&machine), None, "u"), owner(Machine, Some("uid-web"), None));
    let foreign = owned(json!([reference("apps.kruise.io/v1", "StatefulSet", "web", true)]));
    assert_eq!(super::owner(Some(&foreign), Some(&endpoint("StatefulSet", "u")), "u"), None);
    let told = endpoint("StatefulSet", "before");
    assert_eq!(super::owner(None, Some(&told), "before"), owner(StatefulSet, None, by_endpoint));
    assert_eq!(super::owner(None, Some(&told), "another"), None);
    assert_eq!(super::owner(None, Some(&endpoint("ReplicaSet", "before")), "before"), None);
    assert_eq!(
        super::owner(Some(&set), None, "before"),
        owner(StatefulSet, Some("uid-web"), None),
        "the successor tells"
    );
    assert_eq!(super::owner(None, None, "before"), None);
}

/// Mend G15: another StatefulSet of the same name is not the owner.
#[test]
fn the_place_of_a_pod_in_its_stateful_set() {
    let set = |rest: Value| -> StatefulSet {
        let mut set = json!({"metadata": {"name": "web", "uid": "uid-web", "creationTimestamp": "2026-01-01T00:00:10Z"},
            "spec": {"replicas": 2, "serviceName": "", "selector": {}, "template": {}}});
        json_patch::merge(&mut set, &rest);
        serde_json::from_value(set).unwrap()
    };
    let owner = |uid: Option<&str>, known_at: Option<&str>| Owner {
        kind: OwnerKind::StatefulSet,
        name: "web".into(),
        uid: uid.map(str::to_owned),
        known_at: known_at.map(at),
    };
    let known = owner(Some("uid-web"), None);
    for (rest, pod, expected) in [
        (json!({}), "web-0", true),
        (json!({}), "web-1", true),
        (json!({}), "web-2", false),
        (json!({"spec": {"replicas": null}}), "web-0", true),
        (json!({"spec": {"replicas": null}}), "web-1", false),
        (json!({"spec": {"replicas": 0}}), "web-0", false),
        (json!({"spec": {"ordinals": {"start": 5}}}), "web-4", false),
        (json!({"spec": {"ordinals": {"start": 5}}}), "web-6", true),
        (json!({"spec": {"ordinals": {"start": 5}}}), "web-7", false),
        (json!({}), "web", false),
        (json!({}), "web-x", false),
        (json!({}), "web-0-0", false),
        (json!({"metadata": {"uid": "another"}}), "web-0", false),
        (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:10Z"}}), "web-0", false),
    ] {
        assert_eq!(has_place(&set(rest.clone()), &known, pod), expected, "{pod} in {rest}");
    }
    assert!(has_place(&set(json!({})), &owner(None, Some("2026-01-01T00:00:10Z")), "web-0"));
    assert!(!has_place(&set(json!({})), &owner(None, Some("2026-01-01T00:00:09Z")), "web-0"), "made after the pod");
}
