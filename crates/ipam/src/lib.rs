//! Every address decision of Spiderpool, without I/O, clock or async.
//!
//! | module | decides |
//! |---|---|
//! | [`range`] | what a range is; set arithmetic without enumeration |
//! | [`pool`], [`selector`] | the view of a pool; label selectors |
//! | [`annotation`] | what pod and namespace annotations say |
//! | [`nad`] | which NetworkAttachmentDefinition a NIC belongs to |
//! | [`select`] | which pools may serve which NIC, in which order, and why not the others |
//! | [`choice`] | which address of a pool to try next |
//! | [`claim`] | the allocation protocol as a state machine: requests and API outcomes in, API calls and answers out |
//! | [`detail`], [`route`] | what pod, endpoint and plugin are told: addresses, gateways, routes |
//! | [`owner`], [`liveness`] | the top controller of a pod; whether a pod lives |
//! | [`rules`] | admission: mutation and validation of pools, subnets and reserved addresses |
//!
//! An ADD runs: [`select::select`] on facts about pod, namespace, node and pools → wants → [`claim::Claims::step`]
//! until the answer → [`detail::details`] → [`detail::Response`]. A DEL runs: [`liveness`] → [`claim::Event::Release`].

pub mod annotation;
pub mod choice;
pub mod claim;
pub mod detail;
mod family;
pub mod liveness;
pub mod nad;
mod name;
pub mod owner;
pub mod pool;
pub mod range;
pub mod route;
pub mod rules;
pub mod select;
pub mod selector;

pub use family::Family;
pub use name::{address_from_name, address_name, cidr_label};
pub use pool::Pool;
pub use range::{RangeError, Span, SpanSet};
pub use route::Route;
pub use selector::{LabelSelector, Labels};
