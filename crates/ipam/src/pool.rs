//! What selection and choice must know of a `SpiderIPPool`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::family::Family;
use crate::range::{RangeError, Span, SpanSet, parse_ranges};
use crate::route::Route;
use crate::selector::{LabelSelector, Labels};

/// Label whose presence marks a pool as created for an application.
pub const LABEL_OWNER_APPLICATION_NAME: &str = "ipam.spidernet.io/owner-application-name";

/// Where the allocations of a pool are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Every address in use has a claim.
    #[default]
    Claims,
    /// `status.allocatedIPs` may tell allocations of upstream's agents that have no claim yet.
    Listed,
    /// Nobody has looked yet whether pods that run use addresses of the pool.
    New,
}

/// The view of a `SpiderIPPool`. Parsed once, when the pool object arrives; `k8s-api` converts into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Object name.
    pub name: String,
    /// `spec.ipVersion`, derived from `subnet` when a webhook has not filled it.
    pub family: Family,
    /// `spec.subnet`; its prefix length is what pods get.
    pub subnet: IpNet,
    /// `spec.ips` − `spec.excludeIPs`.
    pub addresses: SpanSet,
    /// `spec.gateway`.
    pub gateway: Option<IpAddr>,
    /// `spec.routes`.
    pub routes: Vec<Route>,
    /// `spec.default`.
    pub default: bool,
    /// `spec.disable`.
    pub disabled: bool,
    /// Whether the object has a deletion timestamp.
    pub terminating: bool,
    /// `spec.nodeName`.
    pub node_names: Vec<String>,
    /// `spec.nodeAffinity`.
    pub node_affinity: Option<LabelSelector>,
    /// `spec.namespaceName`.
    pub namespace_names: Vec<String>,
    /// `spec.namespaceAffinity`.
    pub namespace_affinity: Option<LabelSelector>,
    /// `spec.podAffinity`.
    pub pod_affinity: Option<LabelSelector>,
    /// `spec.multusName`.
    pub multus_names: Vec<String>,
    /// Labels of the object (they tell auto-created pools).
    pub labels: Labels,
    /// Addresses that the pool's status shows as used: a hint only, never a decision.
    pub used_hint: SpanSet,
    /// Where its allocations are kept.
    pub source: Source,
}

impl Pool {
    /// A pool without any restriction.
    pub fn new(name: impl Into<String>, subnet: IpNet, addresses: SpanSet) -> Self {
        Self {
            name: name.into(),
            family: Family::of(subnet.addr()),
            subnet,
            addresses,
            gateway: None,
            routes: Vec::new(),
            default: false,
            disabled: false,
            terminating: false,
            node_names: Vec::new(),
            node_affinity: None,
            namespace_names: Vec::new(),
            namespace_affinity: None,
            pod_affinity: None,
            multus_names: Vec::new(),
            labels: Labels::new(),
            used_hint: SpanSet::new(),
            source: Source::Claims,
        }
    }

    /// Whether the controller made it for an application.
    pub fn is_auto_created(&self) -> bool {
        self.labels.contains_key(LABEL_OWNER_APPLICATION_NAME)
    }
}

/// The allocatable addresses of a pool: `ips` − `excludeIPs`.
pub fn allocatable<S: AsRef<str>>(ips: &[S], exclude: &[S], family: Family) -> Result<SpanSet, RangeError> {
    Ok(parse_ranges(ips, family)?.difference(&parse_ranges(exclude, family)?))
}

/// The addresses that `SpiderReservedIP` objects keep from every pool. A range that does not parse is left out
/// and returned beside, so that one bad object cannot stop every allocation of its family.
pub fn reserved<S: AsRef<str>>(ranges: impl IntoIterator<Item = S>) -> (SpanSet, Vec<RangeError>) {
    let (mut spans, mut errors) = (Vec::<Span>::new(), Vec::new());
    for range in ranges {
        match range.as_ref().parse() {
            Ok(span) => spans.push(span),
            Err(error) => errors.push(error),
        }
    }
    (spans.into_iter().collect(), errors)
}
