//! Events, effects and the values in them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::family::Family;
use crate::pool::Pool;
use crate::range::SpanSet;

/// State of a `SpiderIP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A pod's interface has it.
    Allocated,
    /// A node holds it ahead of need.
    Held,
    /// Released, not yet to be given to somebody else.
    Cooling,
    /// Somebody on the wire uses it: quarantined.
    Conflict,
}

/// The pod interface that holds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodHolder {
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod UID: the identity; the names are for people.
    pub uid: String,
    /// The sandbox that uses it. `None` (imported claims) means: whichever sandbox of the pod.
    pub container: Option<String>,
    /// Interface inside the pod.
    pub interface: String,
    /// Node of the pod.
    pub node: String,
}

/// Who holds an address. Resource claims and host names will be further variants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An interface of a pod.
    Pod(PodHolder),
    /// A node, ahead of need.
    Node(String),
    /// Nobody (`Cooling`, `Conflict`).
    Nobody,
}

/// The content of a `SpiderIP`, less its time stamp, which whoever writes it adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address; the object's name follows from it.
    pub address: IpAddr,
    /// The pool it was taken from.
    pub pool: String,
    /// State.
    pub state: State,
    /// Holder.
    pub holder: Holder,
    /// The MAC address that answered (`Conflict`).
    pub mac: Option<String>,
}

impl Claim {
    /// The pod interface that holds it, if one does.
    pub fn pod(&self) -> Option<&PodHolder> {
        match &self.holder {
            Holder::Pod(pod) => Some(pod),
            Holder::Node(_) | Holder::Nobody => None,
        }
    }
}

/// A claim as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Content.
    pub claim: Claim,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
}

/// A pod as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; never empty in an ADD.
    pub uid: String,
}

/// A pool that cannot serve, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Pool name.
    pub pool: String,
    /// Why not, as in the error texts of pool selection.
    pub reason: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}: {}", self.pool, self.reason)
    }
}

/// One address that an ADD needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Want {
    /// Interface inside the pod.
    pub interface: String,
    /// Family.
    pub family: Family,
    /// Pools to try, best first. None: only an address that this NIC has already serves.
    pub pools: Vec<Arc<Pool>>,
    /// Pools that selection took out, for the error text.
    pub rejected: Vec<Rejection>,
}

/// An ADD.
#[derive(Clone, Debug)]
pub struct Add {
    /// The pod.
    pub pod: PodKey,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`: the interface that this ADD makes.
    pub interface: String,
    /// All addresses that the pod needs now. May be empty when the pod is known to have claims already and
    /// selection failed: then the answer is what the pod has.
    pub wants: Vec<Want>,
    /// Addresses that no pool may give.
    pub reserved: Arc<SpanSet>,
}

/// Whether the pod of a release still lives; decided by [`crate::liveness`] for **this UID**.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodFate {
    /// It lives: the address stays its own.
    Alive,
    /// This UID is gone or finished: the address is freed.
    Gone,
    /// The addresses proved unusable: they are freed although the pod lives.
    Rejected,
}

/// A DEL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Pod UID, when the runtime gave one.
    pub pod_uid: Option<String>,
    /// `CNI_CONTAINERID`: the incarnation whose use ends.
    pub container: String,
    /// `CNI_IFNAME`; `None` for all interfaces of the container.
    pub interface: Option<String>,
    /// Whether the pod lives.
    pub fate: PodFate,
}

/// Names a request; chosen by the caller, answered exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names a call to the API server; chosen by the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op(pub u64);

/// What goes in.
#[derive(Clone, Debug)]
pub enum Event {
    /// A pod needs addresses.
    Add(Ticket, Add),
    /// A sandbox's use of addresses ends.
    Release(Ticket, Release),
    /// Nobody waits for this request any more: no answer follows. An ADD is undone; a release goes on unattended.
    Cancel(Ticket),
    /// A call to the API server ended, or was given up.
    Reply(Op, Outcome),
    /// The pod with this UID is gone or finished. Claims whose use has ended are freed; with
    /// `interfaces_gone` (proof that no interface of the pod is left on this node) all of them.
    PodGone {
        /// Pod UID.
        uid: String,
        /// Proof that no interface is left.
        interfaces_gone: bool,
    },
    /// Time to compare what this node knows with what the API server has.
    Reconcile,
}

/// A call to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Create the object. Answers: `Stored`, `Exists`, `Refused`, `Unknown`.
    Create(Claim),
    /// Replace the object if UID and version still match. Answers: `Stored`, `Conflict`, `NotFound`, `Refused`, `Unknown`.
    Update {
        /// New content.
        claim: Claim,
        /// `metadata.uid` it must have.
        uid: String,
        /// `metadata.resourceVersion` it must have.
        version: String,
    },
    /// Delete the object if UID and version still match. Answers: `Done`, `Conflict`, `NotFound`, `Refused`, `Unknown`.
    Delete {
        /// Its address.
        address: IpAddr,
        /// `metadata.uid` it must have.
        uid: String,
        /// `metadata.resourceVersion` it must have.
        version: String,
    },
    /// Read the object, never from a cache. Answers: `Stored`, `NotFound`, `Refused`, `Unknown`.
    Read(IpAddr),
    /// List the addresses in use of a pool (label selector). Answers: `Used`, `Refused`, `Unknown`.
    List {
        /// Pool name.
        pool: String,
        /// False: from the API server's cache (`resourceVersion=0`), a hint. True: consistent.
        fresh: bool,
    },
    /// List the claims of this node (label selector), consistent. Answers: `Claims`, `Refused`, `Unknown`.
    ListNode,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // passed once, and the large variant is the common one
pub enum Outcome {
    /// The object as it is now.
    Stored(Stored),
    /// Deleted.
    Done,
    /// 409 `AlreadyExists`.
    Exists,
    /// 409 `Conflict`: UID or version did not match.
    Conflict,
    /// 404.
    NotFound,
    /// Addresses in use (of any state, by anybody).
    Used(SpanSet),
    /// Claims of this node.
    Claims(Vec<Stored>),
    /// Refused for good (400, 403, 422, ...): it did not happen, and trying again does not help.
    Refused(String),
    /// Time-out, lost connection, 429, 5xx: it may have happened or may still happen.
    Unknown(String),
}

/// What comes out.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make a call after a delay, and report its end by [`Event::Reply`] exactly once.
    Call {
        /// Its name.
        op: Op,
        /// How long to wait before it (backing off).
        after: Duration,
        /// The call.
        call: Call,
    },
    /// The end of a request.
    Answer(Ticket, Answer),
    /// The pod has a claim less, for whatever reason: what tells of it is to follow.
    Freed(PodKey),
    /// Something that a log should know.
    Note(Note),
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To an ADD.
    Added(Result<Vec<Granted>, AddError>),
    /// To a release.
    Released(Result<Released, ReleaseError>),
}

/// One address of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The claim.
    pub stored: Stored,
    /// Whether this ADD made it; false when the pod had it before.
    pub fresh: bool,
}

/// What a release did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Claims that are free now.
    pub freed: Vec<Claim>,
    /// Claims that stay the pod's own, because it lives.
    pub kept: Vec<Claim>,
}

/// Why an ADD failed. Nothing that it claimed stays behind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Every pool failed. The first words are what others match on.
    #[error("all IP addresses used out: NIC {interface} {family}: {}", list(tried))]
    UsedOut {
        /// Interface.
        interface: String,
        /// Family.
        family: Family,
        /// Every pool, and why it did not serve.
        tried: Vec<Rejection>,
    },
    /// The API server refused a write.
    #[error("API server refused the claim of {address} in pool {pool}: {reason}")]
    Refused {
        /// Address.
        address: IpAddr,
        /// Pool.
        pool: String,
        /// Its words.
        reason: String,
    },
    /// The API server did not answer.
    #[error("no answer from the API server ({action}): {reason}")]
    Unreachable {
        /// What was tried.
        action: String,
        /// The last failure.
        reason: String,
    },
    /// The caller gave up.
    #[error("request was cancelled")]
    Cancelled,
    /// The ADD asked for nothing and the pod has nothing.
    #[error("pod {namespace}/{name} ({uid}) has no address on NIC {interface} and no pool was selected for it")]
    Nothing {
        /// Pod namespace.
        namespace: String,
        /// Pod name.
        name: String,
        /// Pod UID.
        uid: String,
        /// Interface.
        interface: String,
    },
}

/// Why a release is not confirmed yet. The machine goes on with it; it may be asked again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The API server did not answer.
    #[error("release of {address} is not confirmed: {reason}")]
    Unconfirmed {
        /// Address.
        address: IpAddr,
        /// The last failure.
        reason: String,
    },
}

/// Events worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A claim of this node was changed or removed by somebody else.
    Foreign(Claim),
    /// A claim of this node that no request of this process made was taken over into its books.
    Adopted(Claim),
    /// A claim that nobody was told of was given back.
    GaveBack(Claim),
    /// A claim in use had been removed by somebody else and was made again.
    Restored(Claim),
}

fn list(tried: &[Rejection]) -> String {
    tried.iter().map(Rejection::to_string).collect::<Vec<_>>().join("; ")
}
