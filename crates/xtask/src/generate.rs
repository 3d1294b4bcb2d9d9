//! Files that are made from code and committed: the CRDs of the chart.

use anyhow::Result;

use crate::run::{cargo, passed_on};

/// Writes (or with `check` only compares) `charts/spiderpool/crds`. The test that compares is also the one that writes.
pub fn crds(check: bool) -> Result<()> {
    let mut make = cargo();
    make.args(["test", "--quiet", "--locked", "-p", "k8s-api", "--test", "crds"]);
    if !check {
        make.env("UPDATE_CRDS", "1");
    }
    passed_on(make)
}
