//! What a verdict is made of: facts that were read from the API itself, and switches.
//!
//! A fact that could not be read is `None`: nothing is decided without it.

use std::time::Duration;

use k8s_api::IpState;
use k8s_openapi::jiff::Timestamp;

/// The switches of garbage collection (upstream's contract: config, §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Pods that should have ended on a ready node lose their addresses.
    pub ready_node: bool,
    /// The same on a node that is not ready. Pods that are gone from there keep their addresses too while this is off.
    pub not_ready_node: bool,
    /// Running pods without `status.podIPs` lose their addresses.
    pub empty_ips: bool,
    /// Endpoints that tell of addresses which their living pod does not have are removed.
    pub clean_outdated: bool,
    /// Added to every grace period.
    pub delay: Duration,
}

impl Default for Switches {
    fn default() -> Self {
        Self { ready_node: true, not_ready_node: false, empty_ips: false, clean_outdated: false, delay: Duration::ZERO }
    }
}

/// Times that make a verdict safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Younger objects are left alone.
    pub young: Duration,
    /// A state must have lasted for so long before anything is done about it.
    pub settled: Duration,
    /// The agent of a ready node has so long to give back the addresses of a pod that is gone.
    pub agent: Duration,
}

impl Default for Timing {
    /// An agent frees what a pod left without a `DEL` after 10 minutes, and looks every 30 seconds.
    fn default() -> Self {
        Self { young: Duration::from_secs(60), settled: Duration::from_secs(30), agent: Duration::from_secs(11 * 60) }
    }
}

/// An address in use.
#[derive(Clone, Debug)]
pub struct ClaimFacts {
    /// What it is used for.
    pub state: IpState,
    /// Who holds it.
    pub holder: HolderFact,
    /// Since its creation.
    pub age: Duration,
    /// How long the present state of its pod has been watched.
    pub seen: Duration,
    /// The node that holds it.
    pub node: Option<NodeFact>,
    /// How long the node has been missing.
    pub missing: Duration,
    /// Whether the pod's successor may still be given this very address: agents of upstream do that, ours do not.
    pub heritable: bool,
}

/// Who holds an address.
#[derive(Clone, Debug)]
pub enum HolderFact {
    /// A pod.
    Pod {
        /// The pod of that name.
        pod: Option<PodFact>,
        /// Whether it keeps its address.
        fixed: Option<Fixed>,
    },
    /// A node, ahead of need.
    Node,
    /// A holder of a later version.
    Unknown,
}

/// The pod under a holder's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodFact {
    /// No pod has the name.
    Absent,
    /// A pod with another UID has the name: the holder is gone, for a UID never comes back.
    Successor {
        /// Whether it has addresses of its own.
        has_ips: bool,
        /// Whether it is the mirror of a static pod on the holder's node: then it stands for the same sandbox.
        mirror: bool,
    },
    /// The holder.
    Present(PodState),
}

/// The state of a pod, as coarse as watches of metadata tell it: how long it has lasted is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such pod, or another one has its name.
    Gone,
    /// Its deletion was requested.
    Ending,
    /// Succeeded, Failed or Unknown.
    Finished,
    /// None of these.
    Alive,
}

impl From<&PodFact> for Kind {
    fn from(pod: &PodFact) -> Self {
        match pod {
            PodFact::Absent | PodFact::Successor { .. } => Self::Gone,
            PodFact::Present(state) if state.terminating.is_some() => Self::Ending,
            PodFact::Present(PodState { phase: Phase::Finished { .. } | Phase::Unknown, .. }) => Self::Finished,
            PodFact::Present(_) => Self::Alive,
        }
    }
}

/// The state of a pod that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// Where it is in its life.
    pub phase: Phase,
    /// Its deletion, if requested.
    pub terminating: Option<Terminating>,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// Whether `status.podIPs` names any.
    pub has_ips: bool,
}

/// A deletion that was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminating {
    /// `metadata.deletionTimestamp`: the end of the grace period.
    pub end: Timestamp,
    /// `metadata.deletionGracePeriodSeconds`.
    pub grace: Duration,
}

/// `status.phase`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have been started.
    Pending,
    /// At least one container runs or restarts.
    Running,
    /// Succeeded or Failed: no container runs, and none will be started again.
    Finished {
        /// The phase, with the reason if there is one.
        how: String,
        /// When its last container ended; of a pod that never had one, the last time that its status tells.
        at: Timestamp,
    },
    /// The node does not tell.
    Unknown,
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFact {
    /// Its object does not exist.
    Gone,
    /// An administrator says that it is switched off (taint `node.kubernetes.io/out-of-service`).
    Fenced,
    /// It does not report, or reports trouble.
    NotReady,
    /// It is ready.
    Ready,
    /// The claim names no node.
    Unnamed,
}

/// Whether a pod keeps its address when it ends, for its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// No kind that has fixed addresses, or the feature is off.
    No,
    /// Its owner will make it again.
    Valid,
    /// Its owner is gone, or has no place for it any more.
    Invalid,
}

/// An endpoint.
#[derive(Clone, Debug)]
pub struct EndpointFacts {
    /// The pod it tells of.
    pub pod: Option<PodFact>,
    /// Whether that pod keeps its address.
    pub fixed: Option<Fixed>,
    /// Whether any address is claimed by that pod.
    pub claimed: bool,
    /// Whether the endpoint names addresses.
    pub names_ips: bool,
    /// Whether a pool named by the endpoint has a record of the pod in upstream's form.
    pub recorded: bool,
    /// Whether its deletion was requested.
    pub terminating: bool,
    /// Since its creation.
    pub age: Duration,
    /// How long the present state of its pod has been watched.
    pub seen: Duration,
}
