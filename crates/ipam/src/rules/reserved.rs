//! Rules for `SpiderReservedIP` (upstream's contract: ipam, §10.4).

use super::network::VERSIONS;
use super::spec::{Mutation, ReservedSpec};
use super::{Enabled, FieldError, Refusal};
use crate::family::Family;
use crate::range::Span;

/// Mutation on CREATE and UPDATE. Terminating objects are left alone.
pub fn mutate_reserved(spec: &ReservedSpec, terminating: bool) -> Mutation {
    let mut mutation = Mutation::default();
    if terminating {
        return mutation;
    }
    let of_first = || -> Result<Family, String> {
        let first = spec.ips.first().ok_or("empty 'spec.ips'")?;
        first.parse::<Span>().map(Span::family).map_err(|error| error.to_string())
    };
    mutation.set_version(spec.ip_version, of_first(), "spec.ips");
    let family = spec.ip_version.map_or_else(|| of_first().ok(), Family::from_version);
    mutation.merge(&spec.ips, &[], family);
    mutation
}

/// Validation on CREATE; `spec` after mutation.
pub fn validate_reserved_create(spec: &ReservedSpec, enabled: Enabled) -> Result<(), Refusal> {
    let field = "spec.ipVersion";
    let Some(version) = spec.ip_version else {
        return Err(FieldError::invalid(
            field,
            &spec.ip_version,
            "is not generated correctly, 'spec.ips' is empty or 'spec.ips[0]' is invalid",
        )
        .into());
    };
    let family = Family::from_version(version).ok_or_else(|| FieldError::not_supported(field, &version, VERSIONS))?;
    if !enabled.has(family) {
        return Err(FieldError::forbidden(field, format!("{family} is disabled")).into());
    }
    let check = |(index, text): (usize, &String)| {
        let error = Span::parse(text, family).err()?;
        Some(FieldError::invalid(format!("spec.ips[{index}]"), text, error.to_string()))
    };
    let errors: Vec<FieldError> = spec.ips.iter().enumerate().filter_map(check).collect();
    if errors.is_empty() { Ok(()) } else { Err(Refusal::Invalid(errors)) }
}

/// Validation on UPDATE; `new` after mutation.
///
/// A spec that stays as it is is not judged again, so that somebody else's finalizer comes off a terminating object; upstream
/// refuses that, and an object deleted in the foreground never goes.
pub fn validate_reserved_update(
    name: &str,
    (old, new): (&ReservedSpec, &ReservedSpec),
    terminating: bool,
    enabled: Enabled,
) -> Result<(), Refusal> {
    if old == new {
        return Ok(());
    }
    if terminating {
        return Err(Refusal::Forbidden(format!("cannot update a terminating ReservedIP {name}")));
    }
    if old.ip_version.is_some() && old.ip_version != new.ip_version {
        return Err(FieldError::forbidden("spec.ipVersion", "is not changeable").into());
    }
    validate_reserved_create(new, enabled)
}
