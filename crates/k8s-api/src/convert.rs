//! From stored objects to the views of `ipam`: parsed once, here.
//!
//! Reading is tolerant where a webhook may not have been (missing `ipVersion`, `disable`, `default`, `status`), and exact
//! where an address decision hangs on it: a pool whose subnet, ranges or gateway do not parse is no pool, with an error
//! that names object, field and value.

use std::net::IpAddr;

use ipam::{Family, Pool, RangeError, Route, SpanSet, rules};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::{SpiderIPPool, SpiderIPPoolSpec, SpiderReservedIPSpec, SpiderSubnetSpec};

/// Why a stored pool cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SpiderIPPool {pool}: spec.{field}: {problem}")]
pub struct PoolError {
    /// Name of the pool.
    pub pool: String,
    /// Member of the spec.
    pub field: &'static str,
    /// What is wrong, with the value.
    pub problem: String,
}

impl TryFrom<&SpiderIPPool> for Pool {
    type Error = PoolError;

    fn try_from(pool: &SpiderIPPool) -> Result<Self, PoolError> {
        let name = pool.metadata.name.clone().unwrap_or_default();
        let spec = &pool.spec;
        let wrong = |field, problem: String| PoolError { pool: name.clone(), field, problem };
        let subnet: IpNet =
            spec.subnet.parse().map_err(|_| wrong("subnet", format!("'{}' is not a CIDR", spec.subnet)))?;
        let family = Family::of(subnet.addr());
        if let Some(version) = spec.ip_version
            && Family::from_version(version) != Some(family)
        {
            return Err(wrong("ipVersion", format!("{version} is not the version of subnet {subnet}")));
        }
        let ranges = |field, texts: &[String]| {
            ipam::range::parse_ranges(texts, family).map_err(|error: RangeError| wrong(field, error.to_string()))
        };
        let addresses = ranges("ips", &spec.ips)?.difference(&ranges("excludeIPs", &spec.exclude_ips)?);
        let gateway = match spec.gateway.as_deref() {
            None | Some("") => None,
            Some(text) => Some(
                gateway(text, family)
                    .ok_or_else(|| wrong("gateway", format!("'{text}' is not an {family} address")))?,
            ),
        };
        Ok(Self {
            family,
            gateway,
            routes: routes(spec.routes.as_deref()),
            default: spec.default.unwrap_or(false),
            disabled: spec.disable.unwrap_or(false),
            terminating: pool.metadata.deletion_timestamp.is_some(),
            node_names: spec.node_name.clone(),
            node_affinity: spec.node_affinity.as_ref().map(selector),
            namespace_names: spec.namespace_name.clone(),
            namespace_affinity: spec.namespace_affinity.as_ref().map(selector),
            pod_affinity: spec.pod_affinity.as_ref().map(selector),
            multus_names: spec.multus_name.clone(),
            labels: pool.metadata.labels.clone().unwrap_or_default(),
            used_hint: used(pool, family),
            source: pool.source(),
            ..Self::new(name, subnet, addresses)
        })
    }
}

fn gateway(text: &str, family: Family) -> Option<IpAddr> {
    text.parse().ok().filter(|address| Family::of(*address) == family)
}

fn routes(routes: Option<&[crate::Route]>) -> Vec<Route> {
    routes.unwrap_or_default().iter().map(|route| Route::new(&route.dst, &route.gw)).collect()
}

/// A hint, so what does not parse is left out. Upstream's agents keep `allocatedIPs` only.
fn used(pool: &SpiderIPPool, family: Family) -> SpanSet {
    let Some(status) = &pool.status else { return SpanSet::new() };
    let ranges = status.used_ranges.iter().filter_map(|range| ipam::Span::parse(range, family).ok());
    let records = (pool.source() == ipam::pool::Source::Listed).then(|| pool.records().unwrap_or_default());
    let listed = records.iter().flat_map(|records| records.iter().map(|(address, _)| ipam::Span::single(address)));
    ranges.chain(listed.filter(|span| span.family() == family)).collect()
}

/// The same selector in `ipam`'s type.
pub fn selector(selector: &LabelSelector) -> ipam::LabelSelector {
    let expressions = selector.match_expressions.iter().flatten().map(|expression| ipam::selector::Expression {
        key: expression.key.clone(),
        operator: expression.operator.clone(),
        values: expression.values.clone().unwrap_or_default(),
    });
    ipam::LabelSelector {
        match_labels: selector.match_labels.clone().unwrap_or_default(),
        match_expressions: expressions.collect(),
    }
}

impl From<&SpiderIPPoolSpec> for rules::PoolSpec {
    fn from(spec: &SpiderIPPoolSpec) -> Self {
        Self {
            ip_version: spec.ip_version,
            subnet: spec.subnet.clone(),
            ips: spec.ips.clone(),
            exclude_ips: spec.exclude_ips.clone(),
            gateway: spec.gateway.clone(),
            routes: spec.routes.as_deref().map(|all| routes(Some(all))),
            pod_affinity: spec.pod_affinity.as_ref().map(selector),
            namespace_affinity: spec.namespace_affinity.as_ref().map(selector),
            namespace_name: spec.namespace_name.clone(),
            node_affinity: spec.node_affinity.as_ref().map(selector),
            node_name: spec.node_name.clone(),
            multus_name: spec.multus_name.clone(),
            default: spec.default,
            disable: spec.disable,
        }
    }
}

impl From<&SpiderSubnetSpec> for rules::SubnetSpec {
    fn from(spec: &SpiderSubnetSpec) -> Self {
        Self {
            ip_version: spec.ip_version,
            subnet: spec.subnet.clone(),
            ips: spec.ips.clone(),
            exclude_ips: spec.exclude_ips.clone(),
            gateway: spec.gateway.clone(),
            routes: spec.routes.as_deref().map(|all| routes(Some(all))),
        }
    }
}

impl From<&SpiderReservedIPSpec> for rules::ReservedSpec {
    fn from(spec: &SpiderReservedIPSpec) -> Self {
        Self { ip_version: spec.ip_version, ips: spec.ips.clone() }
    }
}

impl From<Route> for crate::Route {
    fn from(route: Route) -> Self {
        Self { dst: route.dst, gw: route.gw }
    }
}

impl From<crate::Route> for Route {
    fn from(route: crate::Route) -> Self {
        Self { dst: route.dst, gw: route.gw }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpiderIPPoolStatus;

    fn pool(spec: serde_json::Value) -> SpiderIPPool {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_pool_that_no_webhook_has_touched_is_read() {
        let spec = serde_json::json!({"subnet": "10.1.0.0/24", "ips": ["10.1.0.5-10.1.0.9"], "excludeIPs": ["10.1.0.6"], "gateway": "10.1.0.1"});
        let view = Pool::try_from(&pool(spec)).unwrap();
        assert_eq!((view.family, view.addresses.count(), view.default, view.disabled), (Family::V4, 4, false, false));
        assert_eq!(view.gateway, Some("10.1.0.1".parse().unwrap()));
    }

    #[test]
    fn what_does_not_parse_is_named() {
        for (spec, expected) in [
            (serde_json::json!({}), "SpiderIPPool p: spec.subnet: '' is not a CIDR"),
            (
                serde_json::json!({"subnet": "10.1.0.0/24", "ipVersion": 6}),
                "SpiderIPPool p: spec.ipVersion: 6 is not the version of subnet 10.1.0.0/24",
            ),
            (
                serde_json::json!({"subnet": "10.1.0.0/24", "ips": ["10.1.0.9-10.1.0.5"]}),
                "SpiderIPPool p: spec.ips: invalid IP range format '10.1.0.9-10.1.0.5': the first address is greater than the last one",
            ),
            (
                serde_json::json!({"subnet": "10.1.0.0/24", "gateway": "fd00::1"}),
                "SpiderIPPool p: spec.gateway: 'fd00::1' is not an IPv4 address",
            ),
        ] {
            assert_eq!(Pool::try_from(&pool(spec.clone())).unwrap_err().to_string(), expected, "{spec}");
        }
    }

    #[test]
    fn the_used_ranges_are_a_hint() {
        let mut pool = pool(serde_json::json!({"subnet": "10.1.0.0/24", "ips": ["10.1.0.5-10.1.0.9"]}));
        let ranges = vec!["10.1.0.5-10.1.0.6".to_owned(), "nonsense".to_owned()];
        pool.status = Some(SpiderIPPoolStatus { used_ranges: ranges, ..Default::default() });
        assert_eq!(Pool::try_from(&pool).unwrap().used_hint.texts(), ["10.1.0.5-10.1.0.6"]);
    }

    #[test]
    fn the_status_tells_where_allocations_are_kept() {
        use ipam::pool::Source;
        for (status, source) in [
            (serde_json::json!(null), Source::New),
            (serde_json::json!({"totalIPCount": 5}), Source::New),
            (serde_json::json!({"source": "SpiderIP"}), Source::Claims),
            (serde_json::json!({"source": "SpiderIP", "allocatedIPs": "{}"}), Source::Claims),
            (serde_json::json!({"allocatedIPs": "{}"}), Source::Listed),
            (serde_json::json!({"allocatedIPs": "nonsense"}), Source::Listed),
        ] {
            let mut pool = pool(serde_json::json!({"subnet": "10.1.0.0/24"}));
            pool.status = serde_json::from_value(status.clone()).unwrap();
            assert_eq!(Pool::try_from(&pool).unwrap().source, source, "{status}");
        }
        for (seen, source) in [
            (serde_json::json!(["10.1.0.4-10.1.0.20"]), Source::Claims),
            (serde_json::json!(["10.1.0.5", "10.1.0.6-10.1.0.8", "10.1.0.9"]), Source::Claims),
            (serde_json::json!(["10.1.0.5-10.1.0.8"]), Source::New),
            (serde_json::json!([]), Source::New),
        ] {
            let spec = serde_json::json!({"subnet": "10.1.0.0/24", "ips": ["10.1.0.5-10.1.0.10"], "excludeIPs": ["10.1.0.10"]});
            let mut pool = pool(spec);
            let status = serde_json::json!({"source": "SpiderIP", "sourceIPs": seen, "allocatedIPs": "{}"});
            pool.status = serde_json::from_value(status).unwrap();
            assert_eq!(Pool::try_from(&pool).unwrap().source, source, "looked at: {seen}");
        }
        let mut pool = pool(serde_json::json!({"subnet": "10.1.0.0/24"}));
        let text = r#"{"10.1.0.7":{"pod":"ns/a","podUid":"u"},"fd00::1":{"pod":"ns/a","podUid":"u"}}"#.to_owned();
        pool.status = Some(SpiderIPPoolStatus { allocated_ips: Some(text), ..Default::default() });
        assert_eq!(Pool::try_from(&pool).unwrap().used_hint.texts(), ["10.1.0.7"]);
    }

    #[test]
    fn the_rules_read_the_same_spec() {
        let json = serde_json::json!({
            "ipVersion": 4, "subnet": "10.1.0.0/24", "ips": ["10.1.0.5"], "excludeIPs": ["10.1.0.6"], "gateway": "10.1.0.1",
            "routes": [{"dst": "10.2.0.0/16", "gw": "10.1.0.2"}], "podAffinity": {"matchLabels": {"a": "b"}},
            "nodeAffinity": {"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]},
            "namespaceName": ["n"], "nodeName": ["m"], "multusName": ["o"], "default": true, "disable": false,
        });
        let rules = rules::PoolSpec::from(&pool(json.clone()).spec);
        assert_eq!(serde_json::to_value(rules).unwrap(), json);
    }
}
