//! The verdict on an address and on an endpoint. Pure: facts in, verdict out.
//!
//! This is the decision table of upstream's garbage collector with its faults mended (`tests` has a case for each row). In order:
//!
//! | the holder | the address |
//! | --- | --- |
//! | any, claim younger than the safety age | wait |
//! | a node that is gone | free; of any other node keep |
//! | pod there, fixed address, owner valid | keep |
//! | pod terminating, grace not over | wait, whatever `podIPs` say |
//! | pod terminating, grace over | by the node |
//! | pod finished (Succeeded, Failed), grace not over | wait |
//! | pod finished, grace over | by the node |
//! | pod Pending; Running or Unknown with podIPs | keep |
//! | pod Running without podIPs | free if the switch for it is on, else keep |
//! | pod Unknown without podIPs | by the node; keep if the node is gone (Kubernetes will delete the pod) |
//! | pod gone, fixed address, owner valid, no successor | keep |
//! | the same, a successor without addresses | keep if it may be given this one, else as any pod that is gone: it may need the last address |
//! | pod gone | free: at once if the node is gone or fenced, after the agent's time if it is ready; not ready: if the switch is on |
//!
//! *By the node*: gone or fenced: free; ready and not ready: if the switch for it is on, else keep.

use std::{fmt, time::Duration};

use k8s_api::IpState;
use k8s_openapi::jiff::Timestamp;

use super::facts::{
    ClaimFacts, EndpointFacts, Fixed, HolderFact, NodeFact, Phase, PodFact, PodState, Switches, Timing,
};

#[cfg(test)]
mod tests;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it; the next scan looks again.
    Keep(Reason),
    /// Look again after this time.
    Wait(Reason, Duration),
    /// Free it.
    Free(Reason),
    /// A fact is missing: look again, later after each time.
    Unread,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the texts say it
pub enum Reason {
    LaterVersion,
    Young,
    HeldByNode,
    NodeGone,
    Quarantined,
    Fixed,
    StaticPod,
    InUse,
    Terminating,
    Finished(String),
    NoAddress,
    Lost,
    PodGone,
    PodReplaced,
    SwitchedOff(&'static str),
    Claimed,
    Unclaimed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LaterVersion => write!(f, "written by a later version"),
            Self::Young => write!(f, "too young to be judged"),
            Self::HeldByNode => write!(f, "held by its node"),
            Self::NodeGone => write!(f, "its node is gone"),
            Self::Quarantined => write!(f, "somebody else on the wire uses it"),
            Self::Fixed => write!(f, "fixed: its owner makes the pod again"),
            Self::StaticPod => write!(f, "the static pod's sandbox outlives its mirror"),
            Self::InUse => write!(f, "the pod is alive"),
            Self::Terminating => write!(f, "the pod is terminating and its grace period is over"),
            Self::Finished(how) => write!(f, "the pod has finished ({how})"),
            Self::NoAddress => write!(f, "the pod runs without address"),
            Self::Lost => write!(f, "the pod's state is unknown and it has no address"),
            Self::PodGone => write!(f, "the pod is gone"),
            Self::PodReplaced => write!(f, "the pod is gone, another one has its name"),
            Self::SwitchedOff(switch) => write!(f, "collection is switched off ({switch})"),
            Self::Claimed => write!(f, "its pod still holds addresses"),
            Self::Unclaimed => write!(f, "its pod holds no address"),
        }
    }
}

/// The variable that forbids collection on a ready node.
pub const READY: &str = "SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED";
/// The variable that forbids collection on a node that is not ready.
pub const NOT_READY: &str = "SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED";

/// What decides besides facts.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Switches.
    pub switches: Switches,
    /// Times.
    pub timing: Timing,
}

impl Rules {
    /// The verdict on an address.
    pub fn claim(&self, claim: &ClaimFacts, now: Timestamp) -> Verdict {
        if claim.state == IpState::Unknown || matches!(claim.holder, HolderFact::Unknown) {
            return Verdict::Keep(Reason::LaterVersion);
        }
        if let Some(left) = self.timing.young.checked_sub(claim.age).filter(|left| !left.is_zero()) {
            return Verdict::Wait(Reason::Young, left);
        }
        let Some(node) = claim.node else { return Verdict::Unread };
        if claim.state == IpState::Conflict && node != NodeFact::Gone {
            return Verdict::Keep(Reason::Quarantined);
        }
        let HolderFact::Pod { pod, fixed } = &claim.holder else {
            return match node {
                NodeFact::Gone => self.free_of(claim, node, self.timing.settled, Reason::NodeGone),
                _ => Verdict::Keep(Reason::HeldByNode),
            };
        };
        let (Some(pod), Some(fixed)) = (pod, *fixed) else { return Verdict::Unread };
        match pod {
            PodFact::Present(_) if fixed == Fixed::Valid => Verdict::Keep(Reason::Fixed),
            PodFact::Present(state) => self.present(claim, state, node, now),
            PodFact::Successor { mirror: true, .. } => Verdict::Keep(Reason::StaticPod),
            PodFact::Absent if fixed == Fixed::Valid => Verdict::Keep(Reason::Fixed),
            PodFact::Successor { has_ips: false, .. } if fixed == Fixed::Valid && claim.heritable => {
                Verdict::Keep(Reason::Fixed)
            }
            PodFact::Absent => self.gone(claim, node, Reason::PodGone),
            PodFact::Successor { .. } => self.gone(claim, node, Reason::PodReplaced),
        }
    }

    /// The pod is there, and has no fixed address.
    fn present(&self, claim: &ClaimFacts, pod: &PodState, node: NodeFact, now: Timestamp) -> Verdict {
        let delay = self.switches.delay;
        if let Some(terminating) = pod.terminating {
            // The deletion's time contains its grace period. Our own stopwatch must agree: a clock that is wrong frees nothing early.
            return match left(now, terminating.end, delay) {
                Some(wait) => Verdict::Wait(Reason::Terminating, wait),
                None => self.by_node(claim, node, terminating.grace + delay, Reason::Terminating),
            };
        }
        match &pod.phase {
            Phase::Finished { how, at } => match left(now, *at, pod.grace + delay) {
                Some(wait) => Verdict::Wait(Reason::Finished(how.clone()), wait),
                None => self.by_node(claim, node, Duration::ZERO, Reason::Finished(how.clone())),
            },
            Phase::Running if !pod.has_ips && self.switches.empty_ips => {
                self.free_of(claim, node, delay + self.timing.settled, Reason::NoAddress)
            }
            Phase::Unknown if !pod.has_ips && !matches!(node, NodeFact::Gone | NodeFact::Fenced) => {
                self.by_node(claim, node, delay, Reason::Lost)
            }
            Phase::Pending | Phase::Running | Phase::Unknown => Verdict::Keep(Reason::InUse),
        }
    }

    /// The pod should have ended: its node decides. `grace` is what the stopwatch must show besides the time to settle.
    fn by_node(&self, claim: &ClaimFacts, node: NodeFact, grace: Duration, reason: Reason) -> Verdict {
        match node {
            NodeFact::Ready | NodeFact::Unnamed if !self.switches.ready_node => {
                Verdict::Keep(Reason::SwitchedOff(READY))
            }
            NodeFact::NotReady if !self.switches.not_ready_node => Verdict::Keep(Reason::SwitchedOff(NOT_READY)),
            _ => self.free_of(claim, node, grace + self.timing.settled, reason),
        }
    }

    /// The pod is gone for good.
    fn gone(&self, claim: &ClaimFacts, node: NodeFact, reason: Reason) -> Verdict {
        match node {
            NodeFact::NotReady if !self.switches.not_ready_node => Verdict::Keep(Reason::SwitchedOff(NOT_READY)),
            NodeFact::Gone | NodeFact::Fenced | NodeFact::NotReady => {
                self.free_of(claim, node, self.timing.settled + self.switches.delay, reason)
            }
            NodeFact::Ready | NodeFact::Unnamed => {
                self.free_of(claim, node, self.timing.agent + self.switches.delay, reason)
            }
        }
    }

    /// Free, once the state has been watched for `watched`, and a node that is gone has been so for some time.
    fn free_of(&self, claim: &ClaimFacts, node: NodeFact, watched: Duration, reason: Reason) -> Verdict {
        let of_node = (node == NodeFact::Gone).then(|| left_of(claim.missing, self.timing.settled)).flatten();
        match left_of(claim.seen, watched).max(of_node) {
            Some(wait) => Verdict::Wait(reason, wait),
            None => Verdict::Free(reason),
        }
    }

    /// The verdict on an endpoint. It is a view: it never keeps anything alive, and is no reason to free anything.
    pub fn endpoint(&self, endpoint: &EndpointFacts) -> Verdict {
        if let Some(left) = left_of(endpoint.age, self.timing.young) {
            return Verdict::Wait(Reason::Young, left);
        }
        let (Some(pod), Some(fixed)) = (&endpoint.pod, endpoint.fixed) else { return Verdict::Unread };
        let remove = |reason| match left_of(endpoint.seen, self.timing.settled) {
            Some(wait) => Verdict::Wait(reason, wait),
            None => Verdict::Free(reason),
        };
        let outdated = self.switches.clean_outdated && endpoint.names_ips && !endpoint.recorded;
        match pod {
            PodFact::Present(_) if endpoint.claimed => Verdict::Keep(Reason::Claimed),
            PodFact::Present(state) if state.terminating.is_some() || matches!(state.phase, Phase::Finished { .. }) => {
                match fixed {
                    Fixed::Valid => Verdict::Keep(Reason::Fixed),
                    Fixed::No | Fixed::Invalid => remove(Reason::Unclaimed),
                }
            }
            PodFact::Present(_) if outdated => remove(Reason::Unclaimed),
            PodFact::Present(_) => Verdict::Keep(Reason::InUse),
            PodFact::Successor { mirror: true, .. } => Verdict::Keep(Reason::StaticPod),
            PodFact::Absent | PodFact::Successor { has_ips: false, .. } if fixed == Fixed::Valid => {
                match outdated && !endpoint.claimed {
                    true => remove(Reason::Unclaimed),
                    false => Verdict::Keep(Reason::Fixed),
                }
            }
            // Its finalizer must not hold up a namespace: claims do not need it.
            PodFact::Absent | PodFact::Successor { .. }
                if (endpoint.claimed || endpoint.recorded) && !endpoint.terminating =>
            {
                Verdict::Keep(Reason::Claimed)
            }
            PodFact::Absent => remove(Reason::PodGone),
            PodFact::Successor { .. } => remove(Reason::PodReplaced),
        }
    }
}

/// What is left of the time until `after` has passed since `at`.
fn left(now: Timestamp, at: Timestamp, after: Duration) -> Option<Duration> {
    let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    let due = at.as_millisecond().saturating_add(after);
    u64::try_from(due.saturating_sub(now.as_millisecond())).ok().filter(|left| *left > 0).map(Duration::from_millis)
}

/// What is left of `whole`.
fn left_of(passed: Duration, whole: Duration) -> Option<Duration> {
    whole.checked_sub(passed).filter(|left| !left.is_zero())
}
