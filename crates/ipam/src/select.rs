//! Which pools may serve which NIC of a pod (upstream's contract: ipam, §4 and §5).
//!
//! One source of pool names wins: pod annotation `ippools`, pod annotation `ippool`, namespace annotations, CNI
//! configuration, pools marked `default`. Each pool then passes the tests of `filter` or is taken out with a reason.
//! What upstream gets wrong is mended here:
//!
//! * a pool without `multusName` never needs the NIC's network to be known (W-C24), and `matchMasterSubnet` is
//!   tested for every pool;
//! * a pattern that matches nothing and a pool that does not exist, or cannot be used, are reasons, not silence and not an end, as
//!   long as another pool of the list serves (W-C25, W-C26);
//! * of the cluster's default pools a family without a fitting pool is left out if the other one fits (W-C26);
//! * items without interface names are given the names of the pod's NICs at once (W-C15, W-C32).

mod candidates;
mod filter;
mod glob;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::annotation::{AnnotationError, PoolNames};
use crate::claim::{Rejection, Want};
use crate::family::Family;
use crate::nad::NadDefaults;
use crate::owner::TopController;
use crate::pool::Pool;
use crate::selector::Labels;

pub use candidates::{Candidate, NicCandidates, candidates, clean_gateway};
pub use filter::{AFFINITY_KEYS, is_affinity_of};
pub use glob::{Pattern, PatternError};

/// The pod of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// `spec.nodeName`.
    pub node: String,
    /// Its top controller.
    pub top: TopController,
}

/// What the cluster's configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `enableIPv4`.
    pub enable_ipv4: bool,
    /// `enableIPv6`.
    pub enable_ipv6: bool,
    /// `enableSpiderSubnet`: whether the subnet annotations count.
    pub enable_subnet: bool,
    /// Networks.
    pub nad: NadDefaults,
}

impl Settings {
    /// Whether a family is enabled.
    pub fn enables(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.enable_ipv4,
            Family::V6 => self.enable_ipv6,
        }
    }
}

/// What the plugin's configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cni {
    /// `default_ipv4_ippool`, `default_ipv6_ippool`.
    pub pools: PoolNames,
    /// `clean_gateway`.
    pub clean_gateway: bool,
    /// `match_master_subnet`.
    pub match_master_subnet: bool,
}

/// Addresses of the master of a NIC on the host, found by the caller when `match_master_subnet` is asked for;
/// or why they could not be found.
pub type MasterAddresses = Result<(String, Vec<IpAddr>), String>;

/// All facts of a selection.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The NIC of the current ADD.
    pub nic: &'a str,
    /// Annotations of the pod's namespace.
    pub namespace_annotations: &'a Labels,
    /// Labels of the pod's namespace, or why they are unknown.
    pub namespace_labels: Result<&'a Labels, &'a str>,
    /// Labels of the pod's node, or why they are unknown.
    pub node_labels: Result<&'a Labels, &'a str>,
    /// Plugin configuration.
    pub cni: &'a Cni,
    /// Cluster configuration.
    pub settings: &'a Settings,
    /// Every pool that is known, by name.
    pub pools: &'a BTreeMap<String, Arc<Pool>>,
    /// Pools that are known and cannot be used at all, by name, and why.
    pub unusable: &'a BTreeMap<String, String>,
    /// Name and addresses of the NIC's master (physical function), for `match_master_subnet`.
    pub master: Option<&'a MasterAddresses>,
}

/// Where the pool names came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Pod annotation `ippools`.
    PodPools,
    /// Pod annotation `ippool`.
    PodPool,
    /// Namespace annotations.
    Namespace,
    /// CNI configuration.
    Cni,
    /// Pools marked `default`.
    ClusterDefault,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PodPools => "Pod annotation ippools",
            Self::PodPool => "Pod annotation ippool",
            Self::Namespace => "Namespace annotations",
            Self::Cni => "CNI configuration",
            Self::ClusterDefault => "cluster default",
        })
    }
}

/// Addresses to claim for one NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct NicPlan {
    /// NIC.
    pub nic: String,
    /// Whether it gets no default route.
    pub clean_gateway: bool,
    /// One want per family.
    pub wants: Vec<Want>,
}

/// The outcome of a selection.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Where the names came from.
    pub source: Source,
    /// Per NIC, the NIC of the current ADD among them.
    pub nics: Vec<NicPlan>,
}

impl Selection {
    /// All wants of all NICs: what [`crate::claim::Add::wants`] takes.
    pub fn wants(&self) -> Vec<Want> {
        self.nics.iter().flat_map(|nic| nic.wants.iter().cloned()).collect()
    }
}

/// Why no pools could be selected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// An annotation is wrong.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// A pattern is wrong, or a pool is named twice.
    #[error("wrong input: {0}")]
    WrongInput(String),
    /// A feature that does not exist yet.
    #[error("Pod annotation '{key}' (value '{value}'): SpiderSubnet is not supported by this version")]
    Subnet {
        /// Annotation key.
        key: &'static str,
        /// Annotation value.
        value: String,
    },
    /// No source names a pool.
    #[error(
        "no IPPool available: neither Pod, Namespace and CNI configuration name a pool for NIC {nic}, nor is any pool marked as default, unless it is bound to another node (unmatched Node name){}",
        beside(unusable)
    )]
    NoSource {
        /// NIC.
        nic: String,
        /// Pools of which it cannot be told whether they are default ones.
        unusable: Vec<Rejection>,
    },
    /// Every pool of a family was taken out.
    #[error("no IPPool available: NIC {nic} {family} ({source_of_names}): {}", join(rejected))]
    NoPool {
        /// NIC.
        nic: String,
        /// Family.
        family: Family,
        /// Where the names came from.
        source_of_names: Source,
        /// Each pool and why.
        rejected: Vec<Rejection>,
    },
    /// The source names pools, but none of an enabled family.
    #[error("no IPPool available: NIC {nic}: the {source_of_names} names pools of no family that is enabled")]
    NoFamily {
        /// NIC.
        nic: String,
        /// Where the names came from.
        source_of_names: Source,
    },
}

fn join(rejected: &[Rejection]) -> String {
    rejected.iter().map(Rejection::to_string).collect::<Vec<_>>().join("; ")
}

fn beside(unusable: &[Rejection]) -> String {
    unusable.iter().map(|one| format!("; {one}")).collect()
}

/// Selects the pools of every NIC that this ADD must serve.
pub fn select(request: &Request<'_>) -> Result<Selection, SelectError> {
    let (source, nics) = candidates(request)?;
    let plans: Result<Vec<NicPlan>, SelectError> = nics.into_iter().map(|nic| plan_of(request, source, nic)).collect();
    Ok(Selection { source, nics: plans? })
}

fn plan_of(request: &Request<'_>, source: Source, nic: NicCandidates) -> Result<NicPlan, SelectError> {
    let named = nic.families.len();
    let mut wants = Vec::new();
    let mut failed = None;
    for candidate in nic.families {
        if !request.settings.enables(candidate.family) {
            continue;
        }
        let family = candidate.family;
        let (pools, rejected) = filter::filter(request, &nic.nic, candidate);
        if pools.is_empty() {
            let error = SelectError::NoPool { nic: nic.nic.clone(), family, source_of_names: source, rejected };
            if source != Source::ClusterDefault {
                return Err(error);
            }
            failed.get_or_insert(error);
        } else {
            wants.push(Want { interface: nic.nic.clone(), family, pools, rejected });
        }
    }
    match failed {
        Some(error) if wants.is_empty() => Err(error),
        None if wants.is_empty() => {
            debug_assert!(named == 0 || !request.settings.enable_ipv4 || !request.settings.enable_ipv6);
            Err(SelectError::NoFamily { nic: nic.nic, source_of_names: source })
        }
        _ => Ok(NicPlan { nic: nic.nic, clean_gateway: nic.clean_gateway, wants }),
    }
}
