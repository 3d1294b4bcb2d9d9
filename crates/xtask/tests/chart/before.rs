//! An upgrade takes nothing from agents that run until they are replaced.

use serde_json::{Value, json};

use crate::helm::{Cluster, Rendered, render};

const UPSTREAM: &str = "spiderpool-agent-upstream";

/// The DaemonSet of agents, `updated` of two replaced.
fn agents(labels: &Value, side_args: &Value, updated: u32) -> Value {
    json!({
        "metadata": {"name": "spiderpool-agent", "generation": 3},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": {"containers": [
            {"name": "spiderpool-agent", "args": ["daemon"]}, {"name": "multus-cni", "args": side_args},
        ]}}},
        "status": {"observedGeneration": 3, "currentNumberScheduled": 2, "updatedNumberScheduled": updated},
    })
}

fn upstreams() -> Value {
    agents(&json!({"app.kubernetes.io/component": "spiderpool-agent"}), &Value::Null, 2)
}

fn ours(implementation: &str, updated: u32) -> Value {
    agents(
        &json!({"ipam.spidernet.io/source": "SpiderIP"}),
        &json!(["multus-config", format!("--implementation={implementation}")]),
        updated,
    )
}

/// A cluster with this DaemonSet and these ClusterRoles.
fn cluster(agents: Value, roles: &[&str]) -> Cluster {
    let mut objects = json!({"DaemonSet/spiderpool-agent": agents});
    for role in roles {
        objects[format!("ClusterRole/{role}")] = json!({"metadata": {"name": role}});
    }
    Cluster::with(&objects)
}

fn may(all: &Rendered, role: &str, verb: &str, resource: &str) -> bool {
    let has = |list: &Value, word: &str| list.as_array().unwrap().iter().any(|one| one == word);
    let rules = all.get("ClusterRole", role)["rules"].as_array().unwrap();
    rules.iter().any(|rule| has(&rule["verbs"], verb) && has(&rule["resources"], resource))
}

#[test]
#[ignore = "helm"]
fn agents_of_upstream_keep_their_rights_until_they_are_replaced() {
    let old = cluster(upstreams(), &[]);
    let all = old.render("{}");
    for (verb, resource) in [
        ("update", "spiderippools/status"),
        ("watch", "spiderendpoints"),
        ("patch", "spiderendpoints"),
        ("update", "spidersubnets/status"),
        ("list", "spidermultusconfigs"),
        ("watch", "deployments"),
        ("watch", "clonesets"),
        ("list", "cronjobs"),
        ("list", "virtualmachines"),
        ("update", "pods/status"),
    ] {
        assert!(may(&all, UPSTREAM, verb, resource), "{verb} {resource}");
    }
    let binding = all.get("ClusterRoleBinding", UPSTREAM);
    assert_eq!(binding["roleRef"]["name"], UPSTREAM);
    assert_eq!(binding["subjects"][0]["name"], "spiderpool-agent");
    let notes = old.notes("{}");
    assert!(notes.contains("ClusterRole spiderpool-agent-upstream gives them what they need"), "{notes}");

    // Ours, all of them: nothing is left to be kept.
    for done in [ours("multus", 2), json!({})] {
        let done = cluster(done, &[UPSTREAM]);
        assert!(done.render("{}").find("ClusterRole", UPSTREAM).is_none());
        assert!(!done.notes("{}").contains("upstream"));
    }
    assert!(render("{}").find("ClusterRole", UPSTREAM).is_none());
}

#[test]
#[ignore = "helm"]
fn a_further_upgrade_before_the_last_agent_is_replaced_keeps_the_rights() {
    let all = cluster(ours("multus", 1), &[UPSTREAM]).render("{}");
    assert!(all.find("ClusterRoleBinding", UPSTREAM).is_some());
    // A roll-out of ours alone has nothing to do with upstream.
    assert!(cluster(ours("multus", 1), &[]).render("{}").find("ClusterRole", UPSTREAM).is_none());
}

#[test]
#[ignore = "helm"]
fn both_implementations_may_write_while_one_replaces_the_other() {
    let (to_multus, to_multinet) = ("multus: {implementation: multus}", "multus: {implementation: multinet}");
    for (before, values, role) in [
        (upstreams(), to_multinet, Some("spiderpool-multus-multus")),
        (ours("multus", 2), to_multinet, Some("spiderpool-multus-multus")),
        (ours("multinet", 2), to_multus, Some("spiderpool-multus-multinet")),
        (upstreams(), to_multus, None),
        (ours("multus", 1), to_multus, None),
        (ours("multinet", 2), to_multinet, None),
        (ours("multinet", 2), "multus: {multusCNI: {install: false}}", None),
    ] {
        let all = cluster(before.clone(), &[]).render(values);
        let beside = ["spiderpool-multus-multus", "spiderpool-multus-multinet"];
        let found: Vec<_> = beside.into_iter().filter(|role| all.find("ClusterRole", role).is_some()).collect();
        assert_eq!(found, Vec::from_iter(role), "{before} {values}");
        assert!(role.is_none_or(|role| all.find("ClusterRoleBinding", role).is_some()), "{before} {values}");
    }
    let all = cluster(upstreams(), &[]).render(to_multinet);
    assert!(
        may(&all, "spiderpool-multus-multus", "update", "pods/status")
            && may(&all, "spiderpool-multus", "patch", "pods/status")
    );
    let unfinished = cluster(ours("multinet", 1), &["spiderpool-multus-multus"]).render(to_multinet);
    assert!(unfinished.find("ClusterRole", "spiderpool-multus-multus").is_some());
}
