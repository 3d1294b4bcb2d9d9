//! Who may do what: one table, from which the roles of the chart are made (`cargo xtask rbac`).
//!
//! A row is a permission that some code needs, and `why` names that code. A call without a row is refused by the API server of a
//! real cluster; a row without a call is more than least privilege. Names in `names` are Helm templates where the chart lets users
//! choose them.

use std::fmt::Write as _;

/// A process with an identity (service account) or a role of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// `spiderpool-agent`, on every node.
    Agent,
    /// Multus, which acts in the agent's name; only where the chart installs it.
    AgentMultus,
    /// `multinet`, served by the agent; only where it plays Multus.
    AgentMultinet,
    /// Agents of upstream, under the same account, until they are replaced; only in an upgrade from upstream.
    AgentUpstream,
    /// `spiderpool-controller`.
    Controller,
    /// `spiderpool-controller` where it makes the webhook's certificate itself.
    ControllerCertificates,
    /// `spiderpool-init`: after install and upgrade.
    Init,
    /// `spiderpool-controller apply-crds`: before an upgrade.
    Crds,
    /// `spiderpool-controller clean`: before uninstall.
    Clean,
}

impl Component {
    /// Every component, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Agent,
        Self::AgentMultus,
        Self::AgentMultinet,
        Self::AgentUpstream,
        Self::Controller,
        Self::ControllerCertificates,
        Self::Init,
        Self::Crds,
        Self::Clean,
    ];

    /// Name of its file in `charts/spiderpool/files/rbac`, without `.yaml`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::AgentMultus => "agent-multus",
            Self::AgentMultinet => "agent-multinet",
            Self::AgentUpstream => "agent-upstream",
            Self::Controller => "controller",
            Self::ControllerCertificates => "controller-certificates",
            Self::Init => "init",
            Self::Crds => "crds",
            Self::Clean => "clean",
        }
    }
}

/// Where a permission is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere: a rule of the ClusterRole.
    Cluster,
    /// In the namespace of the release: a rule of the Role.
    Release,
}

/// One permission.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// Who.
    pub component: Component,
    /// Where.
    pub scope: Scope,
    /// API group, `""` for the core group.
    pub group: &'static str,
    /// Resources, with subresources.
    pub resources: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Only objects of these names; empty: any. `create` and `deletecollection` cannot be restricted so.
    pub names: &'static [&'static str],
    /// The code that needs it.
    pub why: &'static str,
}

/// Name of Deployment, Service and webhook configurations.
const CONTROLLER: &str = "{{ .Values.spiderpoolController.name }}";
/// The Lease of the controllers' election, as upstream calls it.
pub const LEASE: &str = "spiderpool-controller-leases";
/// The Secret of the webhook server's certificate.
const TLS_SECRET: &str = "{{ .Values.spiderpoolController.tls.secretName }}";
/// Cilium's ConfigMap.
const CILIUM: &str = r#"{{ .Values.global.ciliumConfigMap | splitList "/" | last }}"#;

const SPIDERPOOL: &str = crate::GROUP;
const ADMISSION: &str = "admissionregistration.k8s.io";
const WEBHOOKS: &[&str] = &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
const CRDS: &str = "apiextensions.k8s.io";

const READ: &[&str] = &["get", "list", "watch"];
const GET: &[&str] = &["get"];

/// The table.
pub fn grants() -> Vec<Grant> {
    [agent(), multus(), upstream(), controller(), certificates(), init(), crds(), clean()].concat()
}

const fn row(
    component: Component,
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Grant {
    Grant { component, scope: Scope::Cluster, group, resources, verbs, names: &[], why }
}

impl Grant {
    const fn named(self, names: &'static [&'static str]) -> Self {
        Self { names, ..self }
    }

    const fn in_release(self) -> Self {
        Self { scope: Scope::Release, ..self }
    }
}

fn agent() -> Vec<Grant> {
    use Component::Agent;
    vec![
        row(Agent, "", &["pods"], READ, "store::pods: the pods of its node, and a pod that is not in the cache"),
        row(Agent, "", &["namespaces"], READ, "store::meta: labels of namespaces for pools' affinity"),
        row(Agent, "", &["nodes"], READ, "store::meta: labels of its node for pools' affinity"),
        row(Agent, "", &["events"], &["create", "get", "patch"], "store::events: why a pod gets no address"),
        row(
            Agent,
            "apps",
            &["daemonsets", "replicasets", "statefulsets"],
            GET,
            "store::meta: the top controller of a pod; node::removal: is the agent being removed?",
        ),
        row(Agent, "batch", &["jobs"], GET, "store::meta: the top controller of a pod"),
        row(
            Agent,
            SPIDERPOOL,
            &["spiderips"],
            &["create", "delete", "get", "list", "update"],
            "store::claims: creating one is the allocation",
        ),
        row(Agent, SPIDERPOOL, &["spiderippools", "spiderreservedips"], READ, "store::pools"),
        row(
            Agent,
            SPIDERPOOL,
            &["spiderippools/status"],
            &["patch"],
            "store::upstream: status.allocatedIPs while agents of upstream allocate from it",
        ),
        row(
            Agent,
            SPIDERPOOL,
            &["spiderendpoints"],
            &["create", "delete", "get", "list", "update"],
            "store::endpoints: what a pod of its node got",
        ),
        row(Agent, SPIDERPOOL, &["spidercoordinators"], READ, "store::networks: what coordinator plugins ask for"),
        row(Agent, "k8s.cni.cncf.io", &["network-attachment-definitions"], READ, "store::networks"),
        row(Agent, "coordination.k8s.io", &["leases"], GET, "store::leader: is a controller at work?")
            .named(&[LEASE])
            .in_release(),
    ]
}

fn multus() -> Vec<Grant> {
    use Component::{AgentMultinet, AgentMultus};
    vec![
        row(AgentMultus, "", &["pods/status"], &["get", "update"], "Multus writes the network status of a pod"),
        row(AgentMultus, "", &["pods"], GET, "Multus reads a pod's annotations"),
        row(AgentMultus, "", &["events"], &["create", "patch", "update"], "Multus tells of added interfaces"),
        row(AgentMultus, "events.k8s.io", &["events"], &["create", "patch", "update"], "the same, in the newer group"),
        row(AgentMultus, "k8s.cni.cncf.io", &["network-attachment-definitions"], GET, "Multus reads networks"),
        row(AgentMultinet, "", &["pods/status"], &["patch"], "store::pods::annotate: the network status of a pod"),
    ]
}

/// What agents of upstream v1.2 need beyond [`agent`]. Their client keeps what it gets, so that it lists and watches it too.
fn upstream() -> Vec<Grant> {
    use Component::AgentUpstream;
    vec![
        row(AgentUpstream, "", &["events"], &["create", "patch", "update"], "upstream: events of pools and pods"),
        row(AgentUpstream, "", &["pods/status"], &["get", "patch", "update"], "upstream: its Multus' network status"),
        row(
            AgentUpstream,
            "apps",
            &["daemonsets", "deployments", "replicasets", "statefulsets"],
            READ,
            "upstream: the top controller of a pod",
        ),
        row(
            AgentUpstream,
            "apps.kruise.io",
            &["clonesets", "statefulsets"],
            READ,
            "upstream: the top controller of a pod",
        ),
        row(AgentUpstream, "batch", &["cronjobs", "jobs"], READ, "upstream: the top controller of a pod"),
        row(
            AgentUpstream,
            "kubevirt.io",
            &["virtualmachineinstances", "virtualmachines"],
            &["get", "list"],
            "upstream: fixed addresses of virtual machines",
        ),
        row(
            AgentUpstream,
            SPIDERPOOL,
            &["spiderippools/status"],
            &["get", "patch", "update"],
            "upstream: an entry of status.allocatedIPs is the allocation",
        ),
        row(
            AgentUpstream,
            SPIDERPOOL,
            &["spiderendpoints"],
            &["create", "delete", "get", "list", "patch", "update", "watch"],
            "upstream: what a pod of its node got",
        ),
        row(AgentUpstream, SPIDERPOOL, &["spiderippools"], &["create", "update"], "upstream: automatic pools"),
        row(AgentUpstream, SPIDERPOOL, &["spidersubnets"], READ, "upstream: automatic pools"),
        row(
            AgentUpstream,
            SPIDERPOOL,
            &["spidersubnets/status"],
            &["get", "patch", "update"],
            "upstream: automatic pools",
        ),
        row(AgentUpstream, SPIDERPOOL, &["spidermultusconfigs"], READ, "upstream: the pools of a network"),
    ]
}

fn controller() -> Vec<Grant> {
    use Component::Controller;
    let mut rows = vec![
        row(
            Controller,
            "",
            &["nodes"],
            READ,
            "gc: nodes that are gone, not ready or fenced; pools: how many there are",
        ),
        row(Controller, "", &["pods"], READ, "gc: does the holder of an address live?"),
        row(Controller, "apps", &["statefulsets"], GET, "gc::live: will the pod be made again?"),
        row(
            Controller,
            "kubevirt.io",
            &["virtualmachineinstances", "virtualmachines"],
            GET,
            "gc::live: will the pod of a virtual machine be made again?",
        ),
        row(Controller, "", &["events"], &["create", "patch"], "events: what a user can do"),
        row(Controller, "", &["configmaps"], READ, "coordinator: the CIDRs of the cluster")
            .named(&["kubeadm-config", CILIUM]),
        row(Controller, "networking.k8s.io", &["servicecidrs"], &["list"], "coordinator: the Service CIDRs"),
        row(Controller, "crd.projectcalico.org", &["ippools"], &["list"], "coordinator: Calico's pod CIDRs"),
        row(Controller, "cilium.io", &["ciliumpodippools"], &["list"], "coordinator: Cilium's pod CIDRs"),
        row(Controller, ADMISSION, WEBHOOKS, &["get", "update"], "webhooks: the CA bundle of its own configurations")
            .named(&[CONTROLLER]),
        row(
            Controller,
            SPIDERPOOL,
            &["spiderips"],
            &["create", "delete", "get", "list", "update", "watch"],
            "pools: the views; gc: release; upstream: import",
        ),
        row(
            Controller,
            SPIDERPOOL,
            &["spiderippools"],
            &["get", "list", "patch", "watch"],
            "pools::keeper: label and finalizer of pools",
        ),
        row(Controller, SPIDERPOOL, &["spiderippools/status"], &["patch"], "pools::keeper: the view of a pool"),
        row(
            Controller,
            SPIDERPOOL,
            &["spiderendpoints"],
            &["delete", "get", "list", "update", "watch"],
            "gc: endpoints of pods that are gone",
        ),
        row(
            Controller,
            SPIDERPOOL,
            &["spidercoordinators"],
            &["create", "get", "list", "patch", "watch"],
            "coordinator: the default object and its finalizer",
        ),
        row(Controller, SPIDERPOOL, &["spidercoordinators/status"], &["patch"], "coordinator: the CIDRs"),
        row(
            Controller,
            SPIDERPOOL,
            &["spidersubnets"],
            &["list", "patch", "watch"],
            "subnets: the finalizer of those that upstream left",
        ),
        row(Controller, SPIDERPOOL, &["spidermultusconfigs"], READ, "multus::reconcile"),
        row(
            Controller,
            SPIDERPOOL,
            &["spidermultusconfigs/finalizers"],
            &["update"],
            "multus::reconcile: owner references that block deletion, where the API server checks them",
        ),
        row(
            Controller,
            "k8s.cni.cncf.io",
            &["network-attachment-definitions"],
            &["create", "delete", "get", "list", "update", "watch"],
            "multus::reconcile",
        ),
    ];
    rows.extend([
        row(Controller, "coordination.k8s.io", &["leases"], &["create"], "leader::candidate: the election")
            .in_release(),
        row(Controller, "coordination.k8s.io", &["leases"], &["get", "update"], "leader::candidate: the election")
            .named(&[LEASE])
            .in_release(),
    ]);
    rows
}

/// With every other method of certificates the controller reads files, and has no business with Secrets.
fn certificates() -> Vec<Grant> {
    use Component::ControllerCertificates;
    let why = ["certificates::secret: CA and certificate of its own", "certificates::secret: kept and rotated"];
    vec![
        row(ControllerCertificates, "", &["secrets"], &["create"], why[0]).in_release(),
        row(ControllerCertificates, "", &["secrets"], &["get", "update"], why[1]).named(&[TLS_SECRET]).in_release(),
    ]
}

fn init() -> Vec<Grant> {
    use Component::Init;
    vec![
        row(Init, "", &["endpoints"], GET, "waits until a controller serves the webhooks").in_release(),
        row(Init, "discovery.k8s.io", &["endpointslices"], &["list"], "the same, by the newer kind").in_release(),
        row(Init, SPIDERPOOL, &["spidercoordinators", "spiderippools"], &["create", "get"], "defaults"),
        row(Init, SPIDERPOOL, &["spidermultusconfigs"], &["create", "get"], "the default network").in_release(),
    ]
}

fn crds() -> Vec<Grant> {
    use Component::Crds;
    vec![
        row(Crds, CRDS, &["customresourcedefinitions"], &["create"], "definitions: those that a version brings"),
        row(Crds, CRDS, &["customresourcedefinitions"], &["get", "update"], "definitions: those that it changes")
            .named(DEFINITIONS),
    ]
}

fn clean() -> Vec<Grant> {
    use Component::Clean;
    vec![
        row(Clean, ADMISSION, WEBHOOKS, &["delete"], "so that nothing is asked of a controller that goes")
            .named(&[CONTROLLER]),
        row(
            Clean,
            SPIDERPOOL,
            &[
                "spidercoordinators",
                "spiderendpoints",
                "spiderippools",
                "spiderips",
                "spidermultusconfigs",
                "spiderreservedips",
                "spidersubnets",
            ],
            &["delete", "list", "patch"],
            "objects, and finalizers that nobody would take off any more",
        ),
        row(Clean, CRDS, &["customresourcedefinitions"], &["delete", "get"], "our definitions").named(OURS),
        row(Clean, "apps", &["deployments"], GET, "how to find the controller's pods")
            .named(&[CONTROLLER])
            .in_release(),
        row(Clean, "apps", &["deployments/scale"], &["patch"], "stops the controller first")
            .named(&[CONTROLLER])
            .in_release(),
        row(Clean, "", &["pods"], &["list"], "waits until the controller has stopped").in_release(),
        row(Clean, "", &["secrets"], &["delete"], "the controller's own certificate").named(&[TLS_SECRET]).in_release(),
        row(Clean, "coordination.k8s.io", &["leases"], &["delete"], "the controller's lease")
            .named(&[LEASE])
            .in_release(),
        row(Clean, "batch", &["jobs"], &["delete"], "an init job that failed")
            .named(&["{{ .Values.spiderpoolInit.name }}"])
            .in_release(),
    ]
}

/// Our definitions.
const OURS: &[&str] = &[
    "spidercoordinators.spiderpool.spidernet.io",
    "spiderendpoints.spiderpool.spidernet.io",
    "spiderippools.spiderpool.spidernet.io",
    "spiderips.spiderpool.spidernet.io",
    "spidermultusconfigs.spiderpool.spidernet.io",
    "spiderreservedips.spiderpool.spidernet.io",
    "spidersubnets.spiderpool.spidernet.io",
];

/// Our definitions and that of attachments, which Multus and others bring as well.
const DEFINITIONS: &[&str] =
    &["network-attachment-definitions.k8s.cni.cncf.io", OURS[0], OURS[1], OURS[2], OURS[3], OURS[4], OURS[5], OURS[6]];

/// The file of a component: `cluster` holds the rules of its ClusterRole, `release` those of its Role.
pub fn to_yaml(component: Component) -> String {
    let mut text = "# Generated from crates/k8s-api/src/access.rs by `cargo xtask rbac`.\n".to_owned();
    for (key, scope) in [("cluster", Scope::Cluster), ("release", Scope::Release)] {
        let rows: Vec<_> =
            grants().into_iter().filter(|row| row.component == component && row.scope == scope).collect();
        if rows.is_empty() {
            let _ = writeln!(text, "{key}: []");
            continue;
        }
        let _ = writeln!(text, "{key}:");
        for row in rows {
            let _ = writeln!(text, "  # {}", row.why);
            let _ = writeln!(text, "  - apiGroups: [{}]", quoted(&[row.group]));
            let _ = writeln!(text, "    resources: [{}]", quoted(row.resources));
            if !row.names.is_empty() {
                let _ = writeln!(text, "    resourceNames: [{}]", quoted(row.names));
            }
            let _ = writeln!(text, "    verbs: [{}]", quoted(row.verbs));
        }
    }
    text
}

fn quoted(items: &[&str]) -> String {
    // Single quotes: a template may contain double ones.
    items.iter().map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_are_well_formed() {
        for row in grants() {
            let title = format!("{:?} {}/{:?}", row.component, row.group, row.resources);
            assert!(!row.resources.is_empty() && !row.verbs.is_empty() && !row.why.is_empty(), "{title}");
            assert!(row.resources.iter().chain(row.verbs).all(|word| *word != "*"), "{title}: a star is not least");
            assert!(row.names.is_empty() || !row.verbs.contains(&"create"), "{title}: create knows no names");
            assert!(row.verbs.is_sorted() && row.resources.is_sorted(), "{title}: sorted, so that changes are seen");
        }
    }

    #[test]
    fn definitions_are_those_that_the_chart_ships() {
        let shipped: HashSet<String> = crate::all_crds().into_iter().filter_map(|(_, crd)| crd.metadata.name).collect();
        assert_eq!(DEFINITIONS.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>(), shipped);
    }

    #[test]
    fn an_agent_cannot_touch_what_is_not_its_own() {
        let writes = |row: &Grant| row.verbs.iter().any(|verb| !READ.contains(verb));
        let written: Vec<&str> = grants()
            .iter()
            .filter(|row| row.component == Component::Agent && writes(row))
            .flat_map(|row| row.resources.iter().copied())
            .collect();
        assert_eq!(written, ["events", "spiderips", "spiderippools/status", "spiderendpoints"]);
    }
}
