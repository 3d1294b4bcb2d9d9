//! The table of allowed dependencies, executed: arrows between crates only go down, and the plugins stay light.
//!
//! See `ARCHITECTURE.md`, "Crates". A new arrow is a decision: change the table there and here together.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::run::{cargo, output};

/// Which crates of the workspace each crate may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ipam", &[]),
    ("wire", &[]),
    ("net", &[]),
    ("plugins", &["wire", "net"]),
    ("k8s-api", &["ipam"]),
    ("store", &["ipam", "k8s-api"]),
    ("daemon", &[]),
    ("apiserver", &["daemon", "k8s-api"]),
    ("agent", &["ipam", "wire", "net", "k8s-api", "store", "daemon"]),
    ("controller", &["ipam", "k8s-api", "store", "daemon"]),
    ("oci", &[]),
    ("lab", &["oci"]),
    ("e2e", &["lab"]),
    ("bench", &[]),
    ("xtask", &["oci"]),
];

/// What may not be anywhere below a crate: each of them costs start-up time or purity.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("ipam", &["tokio", "hyper", "kube-core", "k8s-openapi", "rustix", "jiff", "rand"]),
    ("wire", &["tokio", "hyper", "kube-core", "k8s-openapi", "regex"]),
    ("net", &["tokio", "hyper", "kube-core", "k8s-openapi", "regex"]),
    ("plugins", &["tokio", "hyper", "kube-core", "k8s-openapi", "clap", "regex", "rustls", "tracing-subscriber"]),
    ("k8s-api", &["tokio", "hyper", "kube-client"]),
    ("agent", &["aws-lc-rs", "openssl"]),
    ("controller", &["aws-lc-rs", "openssl"]),
    ("apiserver", &["aws-lc-rs", "openssl", "kube-client"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// Fails with every arrow that the table does not allow.
pub fn check() -> Result<()> {
    let mut faults = arrows()?;
    for (name, forbidden) in FORBIDDEN {
        let below = closure(name)?;
        let found = forbidden.iter().filter(|found| below.contains(**found));
        faults.extend(
            found.map(|found| format!("{name} must not contain {found} (see `cargo tree -p {name} -i {found}`)")),
        );
    }
    if !faults.is_empty() {
        bail!("the dependency table of ARCHITECTURE.md is broken:\n  {}", faults.join("\n  "));
    }
    println!("dependency table: {} crates as allowed", ALLOWED.len());
    Ok(())
}

/// The arrows between crates of the workspace that are not in the table.
fn arrows() -> Result<Vec<String>> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    let metadata: Metadata = serde_json::from_str(&output(metadata)?)?;
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let Some(may_use) = allowed.get(package.name.as_str()) else {
            faults.push(format!("{} is not in the table", package.name));
            continue;
        };
        let used = package.dependencies.iter().filter(|dep| dep.path.is_some() && dep.kind.is_none());
        faults.extend(
            used.filter(|dep| !may_use.contains(&dep.name.as_str()))
                .map(|dep| format!("{} may not use {}", package.name, dep.name)),
        );
    }
    Ok(faults)
}

/// The names of all crates below a crate of the workspace, as it is built alone.
fn closure(package: &str) -> Result<BTreeSet<String>> {
    let mut tree = cargo();
    tree.args(["tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    let names = output(tree)?;
    Ok(names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}
