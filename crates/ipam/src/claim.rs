//! The allocation protocol as a pure state machine.
//!
//! # Expected flow
//!
//! One [`Claims`] per agent. It is made with the node's claims, listed **consistently** (not from a cache) at start. The agent
//! feeds [`Event`]s and carries the [`Effect`]s out: calls to the API server, whose ends it reports as
//! [`Event::Reply`], and answers. Nothing here waits, blocks or reads a clock.
//!
//! An ADD claims all its addresses concurrently; creating the `SpiderIP` of an address *is* the claim. A name that is taken
//! makes the machine try another address; when what it knows of the pool runs out it lists the pool, first from the
//! cache as a hint, then consistently, and only an exact list without a free address makes the pool
//! *used up* and the next one tried. If one want fails, what the others got is given back.
//!
//! # Guarantees
//!
//! * An address is answered only after the API server confirmed an object that names this pod interface.
//! * At most one address per (pod UID, interface, family): requests of one pod run one after the other, and a
//!   repeated ADD finds the claim of the first.
//! * A release changes nothing unless it names the container that uses the address. Writes carry UID and version.
//! * A write with unknown outcome is read back, and tried again, before anything is answered or forgotten.
//! * What an answer did not name does not stay: failed and cancelled ADDs give back; a create that lands after it was given up
//!   is found by [`Event::Reconcile`].
//!
//! # Assumptions
//!
//! * This machine is the only ordinary writer of claims of its node. Foreign writes show up as conflicts and are read back.
//! * [`PodFate::Gone`] is final: a pod UID never comes back to life.
//!
//! # Caveats
//!
//! State is lost with the process. A new one must be given the node's claims, and treats each as possibly in use until
//! a release or [`Event::PodGone`] says otherwise.

mod types;

pub use types::*;

/// The claims of one node and the requests under way.
#[derive(Debug)]
pub struct Claims {
    node: String,
}

impl Claims {
    /// A machine for `node` that knows these claims (every `SpiderIP` whose node is this one).
    pub fn new(node: impl Into<String>, known: Vec<Stored>) -> Self {
        let _ = known;
        Self { node: node.into() }
    }

    /// Takes an event in; what comes out is to be carried out in any order. `random` is a source of random numbers.
    pub fn step(&mut self, event: Event, random: &mut dyn FnMut() -> u64) -> Vec<Effect> {
        let _ = (event, random, &self.node);
        Vec::new()
    }

    /// The claims of a pod, `eth0` first.
    pub fn of_pod(&self, uid: &str) -> Vec<&Stored> {
        let _ = uid;
        Vec::new()
    }

    /// UIDs of all pods that have claims here: what the agent checks for liveness from time to time.
    pub fn pods(&self) -> Vec<PodKey> {
        Vec::new()
    }

    /// All claims of this node.
    pub fn all(&self) -> impl Iterator<Item = &Stored> {
        std::iter::empty()
    }
}
