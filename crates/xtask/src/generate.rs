//! Files that are made from code and committed: the CRDs of the chart.

use anyhow::Result;

use crate::run::{cargo, passed_on};

/// Writes (or with `check` only compares) `charts/spiderpool/crds`.
pub fn crds(check: bool) -> Result<()> {
    let mut make = cargo();
    make.args(["run", "--quiet", "--locked", "-p", "k8s-api", "--example", "crds", "--", "charts/spiderpool/crds"]);
    if check {
        make.arg("--check");
    }
    passed_on(make)
}
