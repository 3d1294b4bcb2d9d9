//! Where pool names come from (upstream's contract: ipam, §4), and what patterns in them stand for.

use std::sync::Arc;

use super::glob::Pattern;
use super::{Request, SelectError, Source};
use crate::annotation::{self, NicPools, POD_IPPOOL, POD_IPPOOLS, POD_SUBNET, POD_SUBNETS, PoolNames};
use crate::claim::Rejection;
use crate::family::Family;
use crate::nad;
use crate::pool::Pool;
use crate::selector::Labels;

/// The pools named for a NIC, before any test.
#[derive(Clone, Debug, PartialEq)]
pub struct NicCandidates {
    /// NIC.
    pub nic: String,
    /// Whether it gets no default route.
    pub clean_gateway: bool,
    /// One entry per family that is named.
    pub families: Vec<Candidate>,
}

/// The pools named for one family of a NIC, in the user's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Family.
    pub family: Family,
    /// Pools.
    pub pools: Vec<Arc<Pool>>,
    /// Names that stand for no pool.
    pub rejected: Vec<Rejection>,
}

/// Finds the source that wins and the pools that it names for each NIC.
pub fn candidates(request: &Request<'_>) -> Result<(Source, Vec<NicCandidates>), SelectError> {
    let annotations = &request.pod.annotations;
    if request.settings.enable_subnet {
        let key = [POD_SUBNETS, POD_SUBNET].into_iter().find(|key| annotations.contains_key(*key));
        if let Some(key) = key {
            return Err(SelectError::Subnet { key, value: annotations[key].clone() });
        }
    }
    if let Some(value) = annotations.get(POD_IPPOOLS) {
        return Ok((Source::PodPools, of_all_nics(request, value)?));
    }
    if let Some(value) = annotations.get(POD_IPPOOL) {
        return one_nic(request, Source::PodPool, &annotation::ippool(value)?);
    }
    let namespace = annotation::namespace_defaults(request.namespace_annotations)?;
    if !namespace.is_empty() {
        return one_nic(request, Source::Namespace, &namespace);
    }
    if !request.cni.pools.is_empty() {
        return one_nic(request, Source::Cni, &request.cni.pools);
    }
    cluster_default(request)
}

fn one_nic(
    request: &Request<'_>,
    source: Source,
    names: &PoolNames,
) -> Result<(Source, Vec<NicCandidates>), SelectError> {
    Ok((source, vec![nic_candidates(request, request.nic, request.cni.clean_gateway, names)?]))
}

fn nic_candidates(
    request: &Request<'_>,
    nic: &str,
    clean_gateway: bool,
    names: &PoolNames,
) -> Result<NicCandidates, SelectError> {
    let mut families = Vec::new();
    for (family, names) in [(Family::V4, &names.v4), (Family::V6, &names.v6)] {
        if !names.is_empty() {
            families.push(resolve(request, family, names)?);
        }
    }
    Ok(NicCandidates { nic: nic.to_owned(), clean_gateway, families })
}

/// Items of `ippools` with the NICs that they are for. Without names, item 0 is `eth0` and item n the n-th entry of the networks
/// annotation; items beyond the pod's NICs make nothing, so they are left out.
fn items(annotations: &Labels, namespace: &str, value: &str) -> Result<Vec<(String, NicPools)>, SelectError> {
    let items = annotation::ippools(value)?;
    if items.iter().any(|item| item.interface.is_some()) {
        return Ok(items.into_iter().map(|item| (item.interface.clone().unwrap_or_default(), item)).collect());
    }
    let further = nad::networks(annotations, namespace).map_err(|error| SelectError::WrongInput(error.to_string()))?;
    let names = std::iter::once(nad::FIRST_NIC.to_owned()).chain(further.into_iter().map(|(nic, _)| nic));
    Ok(names.zip(items).collect())
}

fn of_all_nics(request: &Request<'_>, value: &str) -> Result<Vec<NicCandidates>, SelectError> {
    let named = items(&request.pod.annotations, &request.pod.namespace, value)?;
    if !named.iter().any(|(nic, _)| nic == request.nic) {
        let text =
            format!("Pod annotation '{POD_IPPOOLS}' (value '{value}'): interface {} must be specified", request.nic);
        return Err(SelectError::WrongInput(text));
    }
    named.iter().map(|(nic, item)| nic_candidates(request, nic, item.clean_gateway, &item.pools)).collect()
}

/// Whether a NIC gets no default route, when its addresses are there already and its pools need not be selected: by the annotation
/// `ippools`, else as the plugin is configured, if that is known.
pub fn clean_gateway(annotations: &Labels, namespace: &str, nic: &str, configured: Option<bool>) -> Option<bool> {
    let named = annotations.get(POD_IPPOOLS).and_then(|value| items(annotations, namespace, value).ok());
    let item = named.into_iter().flatten().find(|(name, _)| name == nic);
    item.map(|(_, item)| item.clean_gateway).or(configured)
}

/// Every pool marked `default`, one candidate per family.
fn cluster_default(request: &Request<'_>) -> Result<(Source, Vec<NicCandidates>), SelectError> {
    let of_family = |family| {
        let pools = request.pools.values().filter(|pool| pool.default && pool.family == family);
        let pools: Vec<Arc<Pool>> = pools.cloned().collect();
        (!pools.is_empty()).then_some(Candidate { family, pools, rejected: Vec::new() })
    };
    let families: Vec<Candidate> = Family::BOTH.into_iter().filter_map(of_family).collect();
    if families.is_empty() {
        let unusable = request.unusable.iter().map(|(name, reason)| unusable(name, reason)).collect();
        return Err(SelectError::NoSource { nic: request.nic.to_owned(), unusable });
    }
    let nic = NicCandidates { nic: request.nic.to_owned(), clean_gateway: request.cni.clean_gateway, families };
    Ok((Source::ClusterDefault, vec![nic]))
}

/// Names and patterns to pools. A pool reached twice is an error, as is a malformed pattern.
fn resolve(request: &Request<'_>, family: Family, names: &[String]) -> Result<Candidate, SelectError> {
    let mut candidate = Candidate { family, pools: Vec::new(), rejected: Vec::new() };
    let mut seen: Vec<&str> = Vec::new();
    for name in names {
        let pattern = match Pattern::is_pattern(name) {
            true => Some(Pattern::parse(name).map_err(|error| SelectError::WrongInput(error.to_string()))?),
            false => None,
        };
        let is_meant = |one: &str| pattern.as_ref().map_or(one == name, |pattern| pattern.matches(one));
        let found: Vec<&Arc<Pool>> = match &pattern {
            Some(_) => {
                let of_family = request.pools.values().filter(|pool| pool.family == family);
                of_family.filter(|pool| is_meant(&pool.name)).collect()
            }
            None => request.pools.get(name).into_iter().collect(),
        };
        // What makes a pool unusable may be its family: then it is told for both.
        let broken = request.unusable.iter().filter(|(one, _)| is_meant(one) && !request.pools.contains_key(*one));
        let broken: Vec<Rejection> = broken.map(|(one, reason)| unusable(one, reason)).collect();
        if found.is_empty() {
            if broken.is_empty() {
                let reason = match &pattern {
                    Some(_) => format!("pattern matches no {family} IPPool"),
                    None => "IPPool not found, or bound to another node (unmatched Node name)".to_owned(),
                };
                candidate.rejected.push(Rejection { pool: name.clone(), reason });
            }
            if seen.contains(&name.as_str()) {
                return Err(duplicate(name));
            }
            seen.push(name);
        }
        candidate.rejected.extend(broken);
        for pool in found {
            if seen.contains(&pool.name.as_str()) {
                return Err(duplicate(&pool.name));
            }
            seen.push(&pool.name);
            candidate.pools.push(Arc::clone(pool));
        }
    }
    Ok(candidate)
}

fn unusable(pool: &str, reason: &str) -> Rejection {
    Rejection { pool: pool.to_owned(), reason: format!("cannot be used: {reason}") }
}

fn duplicate(pool: &str) -> SelectError {
    SelectError::WrongInput(format!("duplicate IPPool {pool}"))
}
