//! Rules for `SpiderIPPool` (upstream's contract: ipam, §10.1 to §10.3).

use std::net::IpAddr;

use ipnet::IpNet;

use super::network;
use super::spec::{FINALIZER, LABEL_POOL_CIDR, LABEL_POOL_OWNER_SUBNET, Mutation, PoolSpec, family_of_cidr};
use super::subnet::OwnerSubnet;
use super::{Enabled, FieldError, Refusal};
use crate::Labels;
use crate::family::Family;
use crate::name::cidr_label;
use crate::pool::LABEL_OWNER_APPLICATION_NAME;
use crate::range::SpanSet;
use crate::select::AFFINITY_KEYS;

/// Ends upstream's texts about addresses.
const DETERMINED: &str = "total IP addresses of an IPPool are jointly determined by 'spec.ips' and 'spec.excludeIPs'";
/// Upstream's text about selectors of pools that a SpiderSubnet made, after which the members follow.
const ADDITIONAL: &str = "it's invalid to add additional podAffinity";

/// Another pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Name.
    pub name: String,
    /// `spec.subnet`.
    pub subnet: IpNet,
    /// `ips` − `excludeIPs`.
    pub addresses: SpanSet,
}

impl Peer {
    /// The view of a stored pool; `None` when its subnet or ranges do not parse, which no rule can compare with.
    pub fn of(name: &str, spec: &PoolSpec) -> Option<Self> {
        let subnet: IpNet = spec.subnet.parse().ok()?;
        Some(Self { name: name.to_owned(), subnet: subnet.trunc(), addresses: spec.addresses().ok()? })
    }
}

/// An address in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Address.
    pub address: IpAddr,
    /// Who holds it: `Pod namespace/name`, say.
    pub holder: String,
}

/// What the rules must know beside the object.
#[derive(Clone, Copy, Debug)]
pub struct PoolContext<'a> {
    /// Enabled families.
    pub enabled: Enabled,
    /// Every other pool, of either family. On CREATE also one of the same name.
    pub peers: &'a [Peer],
    /// The SpiderSubnet that owns the pool, when that feature is on.
    pub owner: Option<&'a OwnerSubnet>,
}

/// Mutation on CREATE and UPDATE. Terminating objects are left alone.
///
/// Each step stands for itself: one that cannot be done leaves a warning and the rest is done, and validation refuses the object.
pub fn mutate_pool(
    spec: &PoolSpec,
    labels: &Labels,
    finalizers: &[String],
    terminating: bool,
    owner: Option<&OwnerSubnet>,
) -> Mutation {
    let mut mutation = Mutation::default();
    if terminating {
        return mutation;
    }
    mutation.add_finalizer = !finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    mutation.set_version(spec.ip_version, family_of_cidr(&spec.subnet), "spec.subnet");
    if !spec.subnet.is_empty() {
        mutation.set_label(labels, LABEL_POOL_CIDR, cidr_label(&spec.subnet));
    }
    if let Some(owner) = owner {
        mutation.set_label(labels, LABEL_POOL_OWNER_SUBNET, owner.name.clone());
        mutation.owner_subnet = Some(owner.name.clone());
        mutation.gateway = owner.gateway.clone().filter(|_| spec.gateway.is_none());
        mutation.routes = owner.routes.clone().filter(|routes| spec.routes.is_none() && !routes.is_empty());
    }
    mutation.merge(&spec.ips, &spec.exclude_ips, spec.family());
    mutation
}

/// Validation on CREATE; `spec` after mutation.
pub fn validate_pool_create(
    name: &str,
    spec: &PoolSpec,
    labels: &Labels,
    context: &PoolContext<'_>,
) -> Result<(), Refusal> {
    let view = spec.network();
    let family = network::family(&view, context.enabled)?;
    let net = network::subnet(&view, family)?;
    let mut cousins = context.peers.iter().filter(|peer| Family::of(peer.subnet.addr()) == family);
    if context.peers.iter().any(|peer| peer.name == name) {
        return Err(Refusal::AlreadyExists);
    }
    if let Some(peer) = cousins.find(|peer| peer.subnet != net && overlap(peer.subnet, net)) {
        let text = format!("overlap with IPPool {} which 'spec.subnet' is {}", peer.name, peer.subnet);
        return Err(FieldError::invalid("spec.subnet", &spec.subnet, text).into());
    }
    content(name, spec, labels, net, family, context)
}

/// Validation on UPDATE; `new` after mutation. `used`: the addresses of this pool that are in use.
///
/// A terminating object may only lose its finalizer. A spec that stays as it is is not judged again: what was admitted by other rules
/// (a family that is switched off now, a range that upstream let through) is not to keep labels and finalizers from being written.
pub fn validate_pool_update(
    name: &str,
    (old, new): (&PoolSpec, &PoolSpec),
    labels: &Labels,
    (terminating, finalizers): (bool, &[String]),
    used: &[Used],
    context: &PoolContext<'_>,
) -> Result<(), Refusal> {
    if terminating {
        return terminating_update(&format!("IPPool {name}"), finalizers);
    }
    if old == new {
        return Ok(());
    }
    let (old, view) = (old.network(), new.network());
    let errors = network::immutable(&old, &view);
    if !errors.is_empty() {
        return Err(Refusal::Invalid(errors));
    }
    let family = network::family(&view, context.enabled)?;
    let net = network::stored_subnet(&view, family)?;
    content(name, new, labels, net, family, context)?;
    let addresses = new.addresses().map_err(|error| FieldError::invalid("spec.ips", &new.ips, error.to_string()))?;
    in_use_stays(&addresses, used)
}

/// 403 unless the finalizer is gone.
pub(super) fn terminating_update(object: &str, finalizers: &[String]) -> Result<(), Refusal> {
    if finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Err(Refusal::Forbidden(format!("cannot update a terminating {object}")));
    }
    Ok(())
}

fn in_use_stays(addresses: &SpanSet, used: &[Used]) -> Result<(), Refusal> {
    let mut lost = used.iter().filter(|used| !addresses.contains(used.address));
    let Some(first) = lost.next() else { return Ok(()) };
    let (address, holder) = (first.address, &first.holder);
    let mut text = format!("remove an IP address {address} that is being used by {holder}, {DETERMINED}");
    let others: Vec<String> = lost.map(|used| format!("{} by {}", used.address, used.holder)).collect();
    if !others.is_empty() {
        let named = &others[..others.len().min(9)];
        text.push_str(&format!("; also removed and in use: {}", named.join(", ")));
        if others.len() > named.len() {
            text.push_str(&format!(", and {} more", others.len() - named.len()));
        }
    }
    Err(FieldError::forbidden("spec.ips", text).into())
}

/// Rules 6 to 11, all at once: who writes a pool is told everything that is wrong with it. (Upstream names one error of 6 to 9.)
fn content(
    name: &str,
    spec: &PoolSpec,
    labels: &Labels,
    net: IpNet,
    family: Family,
    context: &PoolContext<'_>,
) -> Result<(), Refusal> {
    let mut errors = network::content(&spec.network(), net, family);
    errors.extend(pod_affinity(spec, labels));
    // Ranges that do not parse are among the errors already.
    if let Ok(addresses) = spec.addresses() {
        errors.extend(shared(name, &addresses, net, context.peers));
        errors.extend(within_owner(name, &addresses, labels, context));
    }
    if errors.is_empty() { Ok(()) } else { Err(Refusal::Invalid(errors)) }
}

/// Addresses that another pool of the subnet has as well.
fn shared(name: &str, addresses: &SpanSet, net: IpNet, peers: &[Peer]) -> Vec<FieldError> {
    let of_net = peers.iter().filter(|peer| peer.name != name && peer.subnet == net);
    let common = of_net.map(|peer| (peer, addresses.intersection(&peer.addresses)));
    let error = |(peer, common): (&Peer, SpanSet)| {
        let text = format!("overlap with IPPool {} in IP ranges {}, {DETERMINED}", peer.name, shortened(&common));
        FieldError::forbidden("spec.ips", text)
    };
    common.filter(|(_, common)| !common.is_empty()).map(error).collect()
}

fn pod_affinity(spec: &PoolSpec, labels: &Labels) -> Option<FieldError> {
    let field = "spec.podAffinity";
    let selector = spec.pod_affinity.as_ref()?;
    if labels.contains_key(LABEL_OWNER_APPLICATION_NAME) {
        let foreign = selector.match_labels.keys().find(|key| !AFFINITY_KEYS.contains(&key.as_str()));
        let text = match foreign {
            Some(key) => format!("{ADDITIONAL} matchLabels for auto-created SpiderIPPool: '{key}'"),
            None if !selector.match_expressions.is_empty() => {
                format!("{ADDITIONAL} matchExpressions for auto-created SpiderIPPool")
            }
            None => return None,
        };
        return Some(FieldError::invalid(field, selector, text));
    }
    if selector.is_empty() {
        let text = "empty podAffinity is invalid for SpiderIPPool: leave it out to match all Pods";
        return Some(FieldError::invalid(field, selector, text));
    }
    selector.validate().err().map(|error| FieldError::invalid(field, selector, error.to_string()))
}

fn within_owner(name: &str, addresses: &SpanSet, labels: &Labels, context: &PoolContext<'_>) -> Option<FieldError> {
    let owner = context.owner?;
    let outside = addresses.difference(&owner.addresses);
    if !outside.is_empty() {
        let text = format!("IP ranges {} are not contained in Subnet {}", shortened(&outside), owner.name);
        return Some(FieldError::forbidden("spec.ips", text));
    }
    let auto = labels.contains_key(LABEL_OWNER_APPLICATION_NAME);
    let expected = owner.controlled.iter().find(|(pool, _)| pool == name).map(|(_, addresses)| addresses);
    if auto && expected != Some(addresses) {
        let text = format!("IP ranges of an auto-created IPPool must equal what Subnet {} allocated to it", owner.name);
        return Some(FieldError::forbidden("spec.ips", text));
    }
    None
}

pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Range lists in error texts, as upstream prints them: at most ten.
pub(super) fn shortened(set: &SpanSet) -> String {
    let texts = set.texts();
    match texts.len() {
        0..=10 => format!("[{}]", texts.join(" ")),
        more => format!("[{} and {} more]", texts[..10].join(" "), more - 10),
    }
}
