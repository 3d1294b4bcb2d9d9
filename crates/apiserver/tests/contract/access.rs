//! Who may do what: the roles and the policies of the chart, on an API server that enforces them.
//!
//! The chart is rendered by Helm and its accounts, roles, bindings and policies are applied under names of their own. The embedded
//! server authorises nobody, so these tests are marked `kube-apiserver`: the lane `contract` runs them, the lane `plain` does not.

mod installation;
mod nodes;
mod pods;
mod pools;
mod roles;
