//! Typed, conflict-safe reads and writes of our objects, and caches of what others write.
//!
//! | module | owns |
//! |---|---|
//! | [`client`] | the connection |
//! | [`failure`] | what a failed request means: did it happen, will it help to repeat it |
//! | [`claims`] | `SpiderIP`: create, update and delete with preconditions, used addresses of a pool, claims of a node |
//! | [`endpoints`] | `SpiderEndpoint`: the one place that writes it |
//! | [`cache`] | compact views kept current by a watch |
//! | [`pods`], [`pools`], [`networks`], [`meta`] | such views, and live reads |
//! | [`events`] | Kubernetes Events on pods |
//! | [`leader`] | is a controller at work? |
//! | [`upstream`] | `status.allocatedIPs` while agents of upstream allocate from it |
//!
//! Nothing here decides: what is written comes from `ipam` or from the caller. Every request is bounded in time; a request
//! without an answer is reported as such ([`Failure::Unknown`]) and it is the caller who reads back.

pub mod cache;
pub mod claims;
pub mod client;
pub mod endpoints;
pub mod events;
pub mod failure;
pub mod leader;
pub mod meta;
pub mod networks;
pub mod pods;
pub mod pools;
pub mod upstream;

pub use cache::{Cache, Change};
pub use claims::Claims;
pub use endpoints::Endpoints;
pub use failure::Failure;
