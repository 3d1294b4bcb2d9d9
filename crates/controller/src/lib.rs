//! The controller: admission webhooks, and the reconcilers that keep derived objects as they should be.
//!
//! | module | owns |
//! |---|---|
//! | [`settings`] | flags, environment, configuration file |
//! | [`process`] | the order of start and stop; what runs on every replica and what only on the leader |
//! | [`leader`] | who leads, and that a deposed leader writes nothing |
//! | [`admission`] | mutation and validation of every kind, and their HTTP surface |
//! | [`serve`], [`certificates`], [`webhooks`] | HTTPS, its certificates, the webhook configurations that point to it |
//! | [`selfcheck`] | whether the API server could call the webhooks here |
//! | [`multus`] | SpiderMultusConfig and its NetworkAttachmentDefinition |
//! | [`coordinator`] | SpiderCoordinator and the cluster's CIDRs in its status |
//! | [`pools`] | status, label and finalizer of SpiderIPPools: views of the SpiderIPs, never their source |
//! | [`subnets`] | the finalizer of SpiderSubnets that upstream left |
//! | [`upstream`] | the move from upstream: allocations and pods that have no SpiderIPs yet |
//! | [`init`], [`clean`] | the Jobs of an installation: default objects, removal |
//! | [`definitions`] | the definitions of our kinds, brought to this version before an upgrade |
//! | [`health`] | the same answer as the probes', for who has no HTTP client |
//! | [`gc`] | garbage collection: what no pod needs any more and no agent gives back |
//! | [`nodes`] | the number of nodes |
//! | [`events`], [`trouble`] | what users are told in Events, and operators in the log |
//!
//! Nothing here stands on the way of an allocation: while the controller is away, pods start and stop all the same.

pub mod admission;
pub mod certificates;
pub mod clean;
pub mod coordinator;
pub mod definitions;
pub mod events;
pub mod gc;
pub mod health;
pub mod init;
pub mod leader;
pub mod multus;
pub mod nodes;
pub mod pools;
pub mod process;
pub mod selfcheck;
pub mod serve;
pub mod settings;
pub mod subnets;
pub mod trouble;
pub mod upstream;
pub mod webhooks;

/// The process' name, as logs, metrics and events show it.
pub const NAME: &str = "spiderpool-controller";
