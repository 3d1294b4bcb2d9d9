//! One controller of several leads: it alone runs the reconcilers.
//!
//! The lock is a Lease. [`election`] decides (pure), [`candidate`] talks to the API, [`fence`] keeps a deposed leader from writing,
//! [`clock`] is the time that goes on while the machine sleeps.
//!
//! Guarantees: a leader that cannot renew stops `duration - renew deadline` before anybody else may take the lease; times
//! are measured by each process for itself, so clocks need not agree. A process that was paused past its lease finds its
//! fence closed when it goes on: no request of its reconcilers that writes is sent any more. One that had been sent already
//! carries the version it was decided on. On loss the tasks of the term are dropped; on stop they finish, then the lease is
//! given back.

pub mod candidate;
pub mod clock;
pub mod election;
pub mod fence;

pub use candidate::{Candidate, Term};
pub use election::Timing;
pub use fence::Fence;
