//! Rules that pools and subnets share.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::spec::Network;
use super::{Enabled, FieldError};
use crate::family::Family;
use crate::range::{Span, canonical_cidr};
use crate::route::default_destination;

/// The values of `ipVersion`, as the API server lists those of an enum.
pub(super) const VERSIONS: &str = r#""4", "6""#;

/// `ipVersion` is set, known and enabled.
pub(super) fn family(network: &Network<'_>, enabled: Enabled) -> Result<Family, FieldError> {
    let field = "spec.ipVersion";
    let Some(version) = network.ip_version else {
        return Err(FieldError::invalid(
            field,
            &network.ip_version,
            "is not generated correctly, 'spec.subnet' may be invalid",
        ));
    };
    let family = Family::from_version(version).ok_or_else(|| FieldError::not_supported(field, &version, VERSIONS))?;
    if enabled.has(family) {
        return Ok(family);
    }
    Err(FieldError::forbidden(field, format!("{family} is disabled")))
}

/// `subnet` is the canonical text of a network of that family.
pub(super) fn subnet(network: &Network<'_>, family: Family) -> Result<IpNet, FieldError> {
    canonical_cidr(network.subnet, family)
        .map_err(|error| FieldError::invalid("spec.subnet", &network.subnet, error.to_string()))
}

/// The subnet of a stored object: admitted once, perhaps in another form than the canonical one, and immutable since.
pub(super) fn stored_subnet(network: &Network<'_>, family: Family) -> Result<IpNet, FieldError> {
    match network.subnet.parse::<IpNet>() {
        Ok(net) if Family::of(net.addr()) == family => Ok(net.trunc()),
        _ => subnet(network, family),
    }
}

/// Ranges, gateway and routes against the subnet: rules 6, 8 and 9.
pub(super) fn content(network: &Network<'_>, net: IpNet, family: Family) -> Vec<FieldError> {
    let (ips, mut errors) = ranges("spec.ips", network.ips, network, net, family);
    let (excluded, more) = ranges("spec.excludeIPs", network.exclude_ips, network, net, family);
    errors.extend(more);
    errors.extend(overlaps(network.ips, &ips));
    errors.extend(gateway(network, net, &ips, &excluded));
    errors.extend(routes(network, net, family));
    errors
}

/// Parses elements; each must lie in the subnet. `None` stands for one that does not parse.
fn ranges(
    field: &str,
    texts: &[String],
    network: &Network<'_>,
    net: IpNet,
    family: Family,
) -> (Vec<Option<Span>>, Vec<FieldError>) {
    let mut errors = Vec::new();
    let whole = Span::network(net);
    let mut spans = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let parsed = Span::parse(text, family);
        match &parsed {
            Err(error) => errors.push(FieldError::invalid(field, text, error.to_string())),
            Ok(span) if !(whole.contains(span.first()) && whole.contains(span.last())) => {
                let text_of = format!("not pertains to the 'spec.subnet' {} of {}", network.subnet, network.kind);
                errors.push(FieldError::invalid(field, text, text_of));
            }
            Ok(_) => {}
        }
        spans.push(parsed.ok());
    }
    (spans, errors)
}

fn overlaps(texts: &[String], spans: &[Option<Span>]) -> Vec<FieldError> {
    let mut sorted: Vec<(Span, usize)> =
        spans.iter().enumerate().filter_map(|(index, span)| Some(((*span)?, index))).collect();
    sorted.sort_unstable();
    let mut errors = Vec::new();
    let mut reach: Option<(Span, usize)> = None;
    for (span, index) in sorted {
        match reach {
            Some((widest, other)) if widest.overlaps(span) => {
                let text = format!("overlaps with 'spec.ips[{other}]' {}", texts[other]);
                errors.push(FieldError::invalid(format!("spec.ips[{index}]"), &texts[index], text));
                reach = Some(if span.last() > widest.last() { (span, index) } else { (widest, other) });
            }
            _ => reach = Some((span, index)),
        }
    }
    errors
}

/// Inside the subnet, and not given to pods.
fn gateway(network: &Network<'_>, net: IpNet, ips: &[Option<Span>], excluded: &[Option<Span>]) -> Option<FieldError> {
    let text = network.gateway?;
    let field = "spec.gateway";
    let Some(address) = text.parse().ok().filter(|address| net.contains(address)) else {
        return Some(FieldError::invalid(
            field,
            &text,
            format!("not pertains to the 'spec.subnet' {} of {}", network.subnet, network.kind),
        ));
    };
    let has = |span: &Option<Span>| span.is_some_and(|span| span.contains(address));
    if excluded.iter().any(has) {
        return None;
    }
    let index = ips.iter().position(has)?;
    let text = format!(
        "conflicts with 'spec.gateway' {text}, add the gateway IP address to 'spec.excludeIPs' or remove it from 'spec.ips'"
    );
    Some(FieldError::invalid(format!("spec.ips[{index}]"), &network.ips[index], text))
}

fn routes(network: &Network<'_>, net: IpNet, family: Family) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, route) in network.routes.iter().enumerate() {
        let dst = format!("spec.routes[{index}].dst");
        let parsed = route.dst.parse::<IpNet>().ok().filter(|net| Family::of(net.addr()) == family);
        if route.dst == default_destination(family) || parsed.is_some_and(|net| net.prefix_len() == 0) {
            errors.push(FieldError::invalid(
                dst,
                &route.dst,
                "please specify 'spec.gateway' to configure the default route",
            ));
        } else if !seen.insert(&route.dst) {
            errors.push(FieldError::invalid(dst, &route.dst, "duplicate route with the same dst"));
        } else if parsed.is_none() {
            errors.push(FieldError::invalid(dst, &route.dst, format!("invalid CIDR format: expect an {family} CIDR")));
        }
        if !route.gw.parse().is_ok_and(|gw: IpAddr| net.contains(&gw)) {
            let text = format!("not pertains to the 'spec.subnet' {} of {}", network.subnet, network.kind);
            errors.push(FieldError::invalid(format!("spec.routes[{index}].gw"), &route.gw, text));
        }
    }
    errors
}

/// `ipVersion` and `subnet` may not change once set.
pub(super) fn immutable(old: &Network<'_>, new: &Network<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.ip_version.is_some() && old.ip_version != new.ip_version {
        errors.push(FieldError::forbidden("spec.ipVersion", "is not changeable"));
    }
    if old.subnet != new.subnet {
        errors.push(FieldError::forbidden("spec.subnet", format!("is not changeable (it was {})", old.subnet)));
    }
    errors
}
