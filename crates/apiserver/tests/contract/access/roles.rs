//! Roles: each account may do what the table in `k8s_api::access` says, and nothing else.

use super::installation::Installation;
use futures::StreamExt as _;
use k8s_api::access::{Component, Grant, Scope, grants};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// No component has business with these.
const SENSITIVE: [(&str, &str); 18] = [
    ("", "secrets"),
    ("", "serviceaccounts"),
    ("", "serviceaccounts/token"),
    ("", "pods/exec"),
    ("", "pods/ephemeralcontainers"),
    ("", "pods/eviction"),
    ("", "pods/binding"),
    ("", "nodes/proxy"),
    ("", "nodes/status"),
    ("", "services"),
    ("", "persistentvolumes"),
    ("apps", "deployments"),
    ("apps", "daemonsets"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
];
/// Stands for every object that no row names.
const ANOTHER: &str = "another";

/// A question for the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    namespace: String,
    group: &'static str,
    resource: &'static str,
    name: String,
    verb: &'static str,
}

impl Question {
    /// What the table says.
    fn expected(&self, installation: &Installation, rows: &[Grant]) -> bool {
        let fits = |row: &&Grant| {
            row.group == self.group && row.resources.contains(&self.resource) && row.verbs.contains(&self.verb)
        };
        rows.iter().filter(fits).any(|row| {
            let here = row.scope == Scope::Cluster || self.namespace == installation.api.namespace;
            let named = row.names.is_empty() || row.names.iter().any(|name| installation.rendered(name) == self.name);
            here && named
        })
    }

    /// What the API server says of `account`.
    async fn answer(&self, installation: &Installation, account: &str) -> bool {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        let groups = ["system:serviceaccounts", "system:authenticated"];
        let attributes = json!({
            "namespace": self.namespace, "verb": self.verb, "group": self.group, "resource": resource,
            "subresource": subresource, "name": self.name,
        });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": account, "groups": groups, "resourceAttributes": attributes},
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        installation.api.post(path, &review).await.ok()["status"]["allowed"] == true
    }
}

/// Every resource of the table and the sensitive ones, with every name that a row restricts it to, in the release's namespace and in
/// all of them.
fn questions(installation: &Installation) -> BTreeSet<Question> {
    let mut names: BTreeMap<(&str, &str), BTreeSet<String>> =
        SENSITIVE.map(|resource| (resource, BTreeSet::from([String::new()]))).into();
    for row in grants() {
        for resource in row.resources {
            let of_resource = names.entry((row.group, *resource)).or_insert_with(|| [String::new()].into());
            if !row.names.is_empty() {
                of_resource.extend(row.names.iter().map(|name| installation.rendered(name)));
                of_resource.insert(ANOTHER.to_owned());
            }
        }
    }
    let mut questions = BTreeSet::new();
    for ((group, resource), names) in names {
        for (name, verb) in names.iter().flat_map(|name| VERBS.map(|verb| (name.clone(), verb))) {
            for namespace in [String::new(), installation.api.namespace.clone()] {
                questions.insert(Question { namespace, group, resource, name: name.clone(), verb });
            }
        }
    }
    questions
}

/// Asks everything for the accounts of `components`, those of one account together.
async fn compare(installation: &Installation, components: &[&[Component]]) {
    let questions = questions(installation);
    for together in components {
        let account = installation.account(together[0]);
        let rows: Vec<Grant> = grants().into_iter().filter(|row| together.contains(&row.component)).collect();
        let is_expected = |question: &Question| question.expected(installation, &rows);
        // The API server learns of new roles a moment later.
        let granted: Vec<&Question> = questions.iter().filter(|question| is_expected(question)).collect();
        assert!(!granted.is_empty(), "{together:?} may do something");
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        for question in [granted.first(), granted.last()].into_iter().flatten() {
            while !question.answer(installation, &account).await {
                assert!(tokio::time::Instant::now() < deadline, "the roles of {together:?} take effect: {question:?}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        let asked = questions.iter().map(|question| {
            let account = &account;
            async move { (question, question.answer(installation, account).await) }
        });
        let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(8).collect().await;
        let wrong: Vec<_> = answers.into_iter().filter(|(question, answer)| is_expected(question) != *answer).collect();
        assert!(wrong.is_empty(), "{together:?}: not as the table says (question, answer): {wrong:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn each_account_may_do_what_the_table_says_and_nothing_else() {
    use Component::*;
    let installation = Installation::new("multus").await;
    let all = [&[Agent, AgentMultus][..], &[Controller, ControllerCertificates], &[Init], &[Crds], &[Clean]];
    compare(&installation, &all).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn with_multinet_the_agent_has_not_the_rights_of_multus() {
    let installation = Installation::new("multinet").await;
    compare(&installation, &[&[Component::Agent, Component::AgentMultinet]]).await;
}

/// The worst that a stolen token could be used for, in the words of `kubectl`. Beside each its nearest permission, which shows that the
/// question was understood.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "kube-apiserver"]
async fn kubectl_says_what_nobody_may_do() {
    use Component::*;
    let installation = Installation::new("multus").await;
    crate::golden::define(&installation.kubectl).await;
    let own = installation.api.namespace.as_str();
    let (tls, controller) = (installation.name("tls"), installation.name("controller"));
    let (secret, webhooks) = (format!("secrets/{tls}"), format!("validatingwebhookconfigurations/{controller}"));
    let (secret, webhooks) = (secret.as_str(), webhooks.as_str());
    let rows = [
        (Agent, own, "create", "spiderips", "", true),
        (Agent, own, "delete", "spiderips", "", true),
        (Agent, own, "get", "spiderippools", "", true),
        (Agent, own, "patch", "spiderippools", "status", true),
        (Agent, own, "update", "pods", "status", true),
        (Agent, own, "get", "leases.coordination.k8s.io/spiderpool-controller-leases", "", true),
        (Agent, own, "get", "leases.coordination.k8s.io/another", "", false),
        (Agent, own, "update", "leases.coordination.k8s.io/spiderpool-controller-leases", "", false),
        (Agent, own, "delete", "spiderippools", "", false),
        (Agent, own, "create", "spiderippools", "", false),
        (Agent, own, "patch", "spiderippools", "", false),
        (Agent, own, "deletecollection", "spiderips", "", false),
        (Agent, own, "watch", "spiderips", "", false),
        (Agent, own, "update", "spidermultusconfigs", "", false),
        (Agent, own, "update", "network-attachment-definitions.k8s.cni.cncf.io", "", false),
        (Agent, own, "patch", "spidercoordinators", "status", false),
        (Agent, own, "get", "secrets", "", false),
        (Agent, own, "get", secret, "", false),
        (Agent, own, "get", "configmaps", "", false),
        (Agent, own, "delete", "pods", "", false),
        (Agent, own, "create", "pods", "exec", false),
        (Agent, own, "patch", "nodes", "", false),
        (Agent, own, "update", webhooks, "", false),
        (Agent, own, "create", "serviceaccounts", "token", false),
        (Controller, own, "update", secret, "", true),
        (Controller, own, "create", "leases.coordination.k8s.io", "", true),
        (Controller, own, "update", webhooks, "", true),
        (Controller, own, "get", "secrets/another", "", false),
        (Controller, own, "list", "secrets", "", false),
        (Controller, "kube-system", "get", secret, "", false),
        (Controller, "default", "create", "secrets", "", false),
        (Controller, "default", "create", "leases.coordination.k8s.io", "", false),
        (Controller, own, "delete", "pods", "", false),
        (Controller, own, "delete", "spiderippools", "", false),
        (Controller, own, "update", "validatingwebhookconfigurations/another", "", false),
        (Controller, own, "create", "clusterrolebindings", "", false),
        (Init, own, "create", "spiderippools", "", true),
        (Init, own, "delete", "spiderippools", "", false),
        (Init, "default", "create", "spidermultusconfigs", "", false),
        (Crds, own, "update", "customresourcedefinitions/widgets.example.org", "", false),
        (Clean, own, "delete", "customresourcedefinitions/widgets.example.org", "", false),
    ];
    for (component, namespace, verb, resource, subresource, expected) in rows {
        let user = installation.account(component);
        let mut words = vec!["auth", "can-i", verb, resource, "--as", &user, "--namespace", namespace];
        let subresource = format!("--subresource={subresource}");
        if !subresource.ends_with('=') {
            words.push(&subresource);
        }
        let what = format!("{component:?}: {verb} {resource} {subresource} in {namespace}");
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let ran = installation.kubectl.run(&words, "").await;
            let answer = ran.out.split_whitespace().next().unwrap_or_default();
            assert!(["yes", "no"].contains(&answer), "{what}: {}{}", ran.out, ran.err);
            if (answer == "yes") == expected {
                break;
            }
            // Roles that are new take a moment; what must be refused is refused from the start.
            assert!(expected && tokio::time::Instant::now() < deadline, "{what}: {answer}");
        }
    }
}
