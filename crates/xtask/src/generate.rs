//! Files that are made from code and committed: the CRDs and the roles of the chart.

use anyhow::Result;

use crate::run::{cargo, passed_on};

/// Writes (or with `check` only compares) `charts/spiderpool/crds`. The test that compares is also the one that writes.
pub fn crds(check: bool) -> Result<()> {
    by_test("crds", "UPDATE_CRDS", check)
}

/// Writes (or with `check` only compares) `charts/spiderpool/files/rbac`, from the table in `k8s_api::access`.
pub fn rbac(check: bool) -> Result<()> {
    by_test("access", "UPDATE_RBAC", check)
}

fn by_test(test: &str, update: &str, check: bool) -> Result<()> {
    let mut make = cargo();
    make.args(["test", "--quiet", "--locked", "-p", "k8s-api", "--test", test]);
    if !check {
        make.env(update, "1");
    }
    passed_on(make)
}
