use super::*;
use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus, PodCondition, PodIP, PodStatus};
use serde_json::{Value, json};

fn node(name: &str, ready: bool) -> Arc<Node> {
    let condition = NodeCondition {
        type_: "Ready".into(),
        status: if ready { "True" } else { "False" }.into(),
        ..Default::default()
    };
    let mut node = Node {
        status: Some(NodeStatus { conditions: Some(vec![condition]), ..Default::default() }),
        ..Default::default()
    };
    node.metadata.name = Some(name.into());
    node.metadata.labels = Some([("disk".to_owned(), name.to_owned())].into());
    Arc::new(node)
}

fn parsed<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn daemonset(selector: Value) -> Arc<DaemonSet> {
    parsed(json!({
        "metadata": {"name": "app", "namespace": "default", "uid": "ds", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": {
            "metadata": {"labels": {"app": "a"}, "annotations": {"k": "v"}},
            "spec": {"nodeSelector": selector, "containers": [{"name": "c", "image": "tools"}]}}}
    }))
}

/// What the API server and the kubelet would make of a created pod.
fn started(action: &Action, node: &str, ip: &str) -> Arc<Pod> {
    let Action::Create { object, .. } = action else { panic!("{action} creates nothing") };
    let mut pod: Pod = serde_json::from_value(object.clone()).unwrap();
    pod.metadata.uid = pod.metadata.name.clone();
    pod.spec.as_mut().unwrap().node_name = Some(node.into());
    let ready = PodCondition { type_: "Ready".into(), status: "True".into(), ..Default::default() };
    pod.status = Some(PodStatus {
        phase: Some("Running".into()),
        conditions: Some(vec![ready]),
        pod_ips: Some(vec![PodIP { ip: ip.into() }]),
        ..Default::default()
    });
    Arc::new(pod)
}

fn lines(actions: &[Action]) -> Vec<String> {
    actions.iter().map(ToString::to_string).collect()
}

fn creations(actions: &[Action]) -> Vec<&Action> {
    actions.iter().filter(|action| matches!(action, Action::Create { kind: "Pod", .. })).collect()
}

#[test]
fn a_daemonset_has_one_pod_on_every_ready_node_and_then_rests() {
    let nodes = vec![node("n1", true), node("n2", true), node("n3", false)];
    let mut snapshot = Snapshot { nodes, daemonsets: vec![daemonset(json!(null))], ..Default::default() };
    let first = daemonset::plan(&snapshot);
    let pods: Vec<Arc<Pod>> = creations(&first).iter().map(|action| started(action, "", "10.0.0.1")).collect();
    assert_eq!(pods.len(), 2);
    // Unbound pods are for the node of their affinity, so no second one is made meanwhile, and the scheduler obeys.
    snapshot.pods = pods;
    assert!(creations(&daemonset::plan(&snapshot)).is_empty());
    let binds = lines(&scheduler::plan(&snapshot));
    assert!(binds[0].ends_with("to n1") && binds[1].ends_with("to n2"), "{binds:?}");
    let status = daemonset::plan(&snapshot).into_iter().find_map(|action| match action {
        Action::Patch { patch, .. } => Some(patch["status"].clone()),
        _ => None,
    });
    let status = status.unwrap();
    assert_eq!((&status["desiredNumberScheduled"], &status["numberReady"]), (&json!(3), &json!(2)));
}

#[test]
fn a_pod_on_its_way_out_is_waited_for() {
    let snapshot =
        Snapshot { nodes: vec![node("n1", true)], daemonsets: vec![daemonset(json!(null))], ..Default::default() };
    let mut pod = (*started(creations(&daemonset::plan(&snapshot))[0], "n1", "10.0.0.1")).clone();
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    let snapshot = Snapshot { pods: vec![Arc::new(pod)], ..snapshot };
    assert!(creations(&daemonset::plan(&snapshot)).is_empty());
}

#[test]
fn a_changed_template_replaces_one_pod_at_a_time() {
    let nodes = vec![node("n1", true), node("n2", true)];
    let before = Snapshot { nodes: nodes.clone(), daemonsets: vec![daemonset(json!(null))], ..Default::default() };
    let first = daemonset::plan(&before);
    let pods: Vec<_> =
        creations(&first).iter().zip(["n1", "n2"]).map(|(action, node)| started(action, node, "10.0.0.1")).collect();
    let changed = daemonset(json!({}));
    let mut set = (*changed).clone();
    set.spec.as_mut().unwrap().template.metadata.as_mut().unwrap().annotations = None;
    let after = Snapshot { nodes, daemonsets: vec![Arc::new(set)], pods, ..Default::default() };
    let deletions = lines(&daemonset::plan(&after)).into_iter().filter(|line| line.starts_with("delete")).count();
    assert_eq!(deletions, 1);
}

#[test]
fn the_scheduler_spreads_pods_and_says_why_it_cannot() {
    let pod = |name: &str, selector: Value| -> Arc<Pod> {
        parsed(
            json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [], "nodeSelector": selector}}),
        )
    };
    let pods = vec![
        pod("a", json!(null)),
        pod("b", json!(null)),
        pod("c", json!({"disk": "n2"})),
        pod("d", json!({"disk": "none"})),
    ];
    let snapshot = Snapshot { nodes: vec![node("n1", true), node("n2", true)], pods, ..Default::default() };
    let planned = lines(&scheduler::plan(&snapshot));
    assert_eq!(planned[..3], ["bind Pod default/a to n1", "bind Pod default/b to n2", "bind Pod default/c to n2"]);
    assert_eq!(planned[3], "patch Pod default/d status");
    assert!(planned[4].contains("0/2 nodes are available for default/d: n1: node does not match"), "{}", planned[4]);
}

#[test]
fn a_deployment_makes_a_replicaset_that_makes_pods() {
    let deployment: Arc<Deployment> = parsed(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "dp", "generation": 1},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "w"}}, "template": {
            "metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c"}]}}}
    }));
    let mut snapshot = Snapshot { deployments: vec![deployment], ..Default::default() };
    let planned = deployment::plan(&snapshot);
    let Action::Create { object, .. } = &planned[0] else { panic!("{planned:?}") };
    let mut set: ReplicaSet = serde_json::from_value(object.clone()).unwrap();
    set.metadata.uid = Some("rs".into());
    snapshot.replicasets = vec![Arc::new(set)];
    let pods = replicaset::plan(&snapshot);
    assert_eq!(creations(&pods).len(), 2);
    let labels = started(creations(&pods)[0], "n1", "10.0.0.1").metadata.labels.clone().unwrap();
    assert!(labels.contains_key("pod-template-hash") && labels["app"] == "w");
    snapshot.pods = creations(&pods).iter().map(|action| started(action, "n1", "10.0.0.1")).collect();
    assert!(creations(&replicaset::plan(&snapshot)).is_empty());
}

#[test]
fn a_service_has_a_slice_per_family_and_follows_readiness() {
    let service: Arc<Service> = parsed(json!({
        "metadata": {"name": "svc", "namespace": "default", "uid": "s"},
        "spec": {"selector": {"app": "a"}, "ipFamilies": ["IPv4", "IPv6"], "ports": [{"name": "web", "port": 80, "targetPort": "http"}]}
    }));
    let pod = |ready: &str| -> Arc<Pod> {
        parsed(json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "p", "labels": {"app": "a"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "conditions": [{"type": "Ready", "status": ready}]}
        }))
    };
    let mut snapshot = Snapshot { services: vec![service], pods: vec![pod("True")], ..Default::default() };
    let planned = endpoints::plan(&snapshot);
    let slices: Vec<EndpointSlice> = planned
        .iter()
        .filter_map(|action| match action {
            Action::Create { kind: "EndpointSlice", object } => Some(serde_json::from_value(object.clone()).unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(
        slices.iter().map(|slice| slice.endpoints[0].addresses[0].as_str()).collect::<Vec<_>>(),
        ["10.0.0.1", "fd00::1"]
    );
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
    assert_eq!(slices[0].endpoints[0].conditions.as_ref().unwrap().ready, Some(true));
    snapshot.slices = slices.into_iter().map(Arc::new).collect();
    assert!(lines(&endpoints::plan(&snapshot)).iter().all(|line| !line.contains("EndpointSlice")));
    snapshot.pods = vec![pod("False")];
    let patches =
        lines(&endpoints::plan(&snapshot)).into_iter().filter(|line| line.starts_with("patch EndpointSlice")).count();
    assert_eq!(patches, 2);
}

#[test]
fn a_silent_node_is_not_ready() {
    let lease: Arc<Lease> = parsed(
        json!({"metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}),
    );
    let at =
        |second: i64| "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(second);
    for (second, silent) in [(39, 0), (41, 1)] {
        let snapshot = Snapshot {
            nodes: vec![node("n1", true)],
            leases: vec![lease.clone()],
            now: at(second),
            ..Default::default()
        };
        assert_eq!(node::plan(&snapshot).len(), silent, "after {second} s");
    }
}
