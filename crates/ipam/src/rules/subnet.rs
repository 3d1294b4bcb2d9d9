//! Rules for `SpiderSubnet` (upstream's contract: crds, §2.4).

use ipnet::IpNet;

use super::network;
use super::pool::{Peer, overlap, shortened, terminating_update};
use super::spec::{FINALIZER, LABEL_SUBNET_CIDR, Mutation, SubnetSpec, family_of_cidr};
use super::{Enabled, FieldError, Refusal};
use crate::Labels;
use crate::name::cidr_label;
use crate::range::SpanSet;
use crate::route::Route;

/// A SpiderSubnet as the pools in it see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerSubnet {
    /// Name.
    pub name: String,
    /// `ips` − `excludeIPs`.
    pub addresses: SpanSet,
    /// Gateway that pools inherit.
    pub gateway: Option<String>,
    /// Routes that pools inherit.
    pub routes: Option<Vec<Route>>,
    /// What is allocated to which pool.
    pub controlled: Vec<(String, SpanSet)>,
}

/// What the rules must know beside the object.
#[derive(Clone, Copy, Debug)]
pub struct SubnetContext<'a> {
    /// Enabled families.
    pub enabled: Enabled,
    /// Names and CIDRs of all other subnets, on CREATE also one of the same name.
    pub subnets: &'a [(String, IpNet)],
    /// All pools.
    pub pools: &'a [Peer],
}

/// Mutation on CREATE and UPDATE. Terminating objects are left alone.
pub fn mutate_subnet(spec: &SubnetSpec, labels: &Labels, finalizers: &[String], terminating: bool) -> Mutation {
    let mut mutation = Mutation::default();
    if terminating {
        return mutation;
    }
    mutation.add_finalizer = !finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    mutation.set_version(spec.ip_version, family_of_cidr(&spec.subnet), "spec.subnet");
    if !spec.subnet.is_empty() {
        mutation.set_label(labels, LABEL_SUBNET_CIDR, cidr_label(&spec.subnet));
    }
    let family = spec.ip_version.map_or_else(|| family_of_cidr(&spec.subnet).ok(), crate::Family::from_version);
    mutation.merge(&spec.ips, &spec.exclude_ips, family);
    mutation
}

/// Validation on CREATE; `spec` after mutation.
pub fn validate_subnet_create(name: &str, spec: &SubnetSpec, context: &SubnetContext<'_>) -> Result<(), Refusal> {
    let view = spec.network();
    let family = network::family(&view, context.enabled)?;
    let net = network::subnet(&view, family)?;
    if context.subnets.iter().any(|(other, _)| other == name) {
        return Err(Refusal::AlreadyExists);
    }
    if let Some((other, cidr)) = context.subnets.iter().find(|(_, cidr)| overlap(*cidr, net)) {
        let text = format!("overlaps with 'spec.subnet' {cidr} of Subnet {other}");
        return Err(FieldError::invalid("spec.subnet", &spec.subnet, text).into());
    }
    if let Some(pool) = context.pools.iter().find(|pool| pool.subnet != net && overlap(pool.subnet, net)) {
        let text = format!("overlaps with 'spec.subnet' {} of IPPool {}", pool.subnet, pool.name);
        return Err(FieldError::invalid("spec.subnet", &spec.subnet, text).into());
    }
    let errors = network::content(&view, net, family);
    if !errors.is_empty() {
        return Err(Refusal::Invalid(errors));
    }
    holds_pools(spec, net, context.pools)
}

fn holds_pools(spec: &SubnetSpec, net: IpNet, pools: &[Peer]) -> Result<(), Refusal> {
    let addresses = spec.addresses().map_err(|error| FieldError::invalid("spec.ips", &spec.ips, error.to_string()))?;
    for pool in pools.iter().filter(|pool| pool.subnet == net) {
        let outside = pool.addresses.difference(&addresses);
        if !outside.is_empty() {
            let text =
                format!("does not contain IP ranges {} of the existing IPPool {}", shortened(&outside), pool.name);
            return Err(FieldError::forbidden("spec.ips", text).into());
        }
    }
    Ok(())
}

/// Validation on UPDATE; `new` after mutation. `controlled`: what is allocated to which pool.
pub fn validate_subnet_update(
    name: &str,
    (old, new): (&SubnetSpec, &SubnetSpec),
    (terminating, finalizers): (bool, &[String]),
    controlled: &[(String, SpanSet)],
    enabled: Enabled,
) -> Result<(), Refusal> {
    if terminating {
        return terminating_update(&format!("Subnet {name}"), finalizers);
    }
    let (old, view) = (old.network(), new.network());
    let errors = network::immutable(&old, &view);
    if !errors.is_empty() {
        return Err(Refusal::Invalid(errors));
    }
    let family = network::family(&view, enabled)?;
    let net = network::stored_subnet(&view, family)?;
    let errors = network::content(&view, net, family);
    if !errors.is_empty() {
        return Err(Refusal::Invalid(errors));
    }
    let addresses = new.addresses().map_err(|error| FieldError::invalid("spec.ips", &new.ips, error.to_string()))?;
    for (pool, allocated) in controlled {
        let lost = allocated.difference(&addresses);
        if !lost.is_empty() {
            let text = format!("remove IP ranges {} that are allocated to IPPool {pool}", shortened(&lost));
            return Err(FieldError::forbidden("spec.ips", text).into());
        }
    }
    Ok(())
}
