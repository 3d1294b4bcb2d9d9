//! Admission rules, row by row of upstream's contract (ipam, §10; crds, §2.4), as the API server would report them.
//!
//! A row begins with the number of its rule, so that a rule without a row is seen.

#![allow(clippy::unwrap_used)] // helpers of tests

mod mutation;
mod pools;
mod reserved;
mod subnets;
mod updates;

use std::collections::BTreeSet;

use ipam::Labels;
use ipam::rules::*;

/// A pool as a user writes it.
fn spec(json: &str) -> PoolSpec {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// What the webhook stores: mutation applied.
fn mutated(mut spec: PoolSpec) -> PoolSpec {
    let mutation = mutate_pool(&spec, &Labels::new(), &[], false, None);
    spec.ip_version = mutation.ip_version.or(spec.ip_version);
    spec.ips = mutation.ips.unwrap_or(spec.ips);
    spec.exclude_ips = mutation.exclude_ips.unwrap_or(spec.exclude_ips);
    spec
}

fn context(peers: &[Peer]) -> PoolContext<'_> {
    PoolContext { enabled: Enabled::BOTH, peers, owner: None }
}

fn create(json: &str, peers: &[Peer]) -> Result<(), Refusal> {
    validate_pool_create("new", &mutated(spec(json)), &Labels::new(), &context(peers))
}

/// Field, kind and text of each error.
fn errors(result: Result<(), Refusal>) -> Vec<(String, ErrorKind, String)> {
    match result {
        Err(Refusal::Invalid(errors)) => {
            errors.into_iter().map(|error| (error.field.clone(), error.kind, error.to_string())).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Asserts that `result` is one error with this field, kind and text.
fn assert_only(what: &str, result: Result<(), Refusal>, field: &str, kind: ErrorKind, text: &str) {
    let found = errors(result);
    let [(its_field, its_kind, its_text)] = found.as_slice() else { panic!("{what}: {found:?}") };
    assert_eq!((its_field.as_str(), *its_kind), (field, kind), "{what}: {found:?}");
    assert!(its_text.contains(text), "{what}: {its_text:?} lacks {text:?}");
}

/// Asserts that rows name every rule of `rules`.
fn assert_complete(rules: impl Iterator<Item = u8>, rows: impl Iterator<Item = u8>) {
    assert_eq!(rows.collect::<BTreeSet<_>>(), rules.collect::<BTreeSet<_>>(), "rules with rows");
}
