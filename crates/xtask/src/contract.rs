//! The lane `contract`: the suite of the embedded API server (`crates/apiserver/tests/contract`) against a real kube-apiserver.
//!
//! The lane `plain` runs the same suite against the embedded server, so a difference between the two fails in one of them. Beside it
//! runs what only a real one can show: what the chart's roles and policies permit (`crates/store/tests/own_node.rs`).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cluster;
use crate::lanes::verdict;
use crate::report::{Check, step};
use crate::run::{cargo, output, passed_on, root, teed};

/// The name of the cluster: a control plane without nodes.
const NAME: [&str; 2] = ["--name", "contract"];

/// The chart's part that says who may do what, applied as Helm would.
const PERMISSIONS: &str = "kubectl apply -f \"$1/crds\" && \
    helm template spiderpool \"$1\" --namespace kube-system --kube-version 1.36.0 --show-only templates/serviceaccount.yaml \
    --show-only templates/rbac.yaml --show-only templates/agent/own-node.yaml | kubectl apply -f - && ";

/// Runs the suite; skipped, with the reason, where no real Kubernetes can be had.
pub fn lane() -> Vec<Check> {
    match suites() {
        Ok(Ok(outcomes)) => {
            outcomes.into_iter().flat_map(|(name, (text, succeeded))| verdict(name, &text, succeeded)).collect()
        }
        Ok(Err(reason)) => vec![Check::Skipped { count: 1, what: format!("contract: {reason}") }],
        Err(error) => vec![step("contract", Err(error))],
    }
}

type Outcome = (&'static str, (String, bool));

fn suites() -> Result<Result<Vec<Outcome>, String>> {
    let mut up = match cluster::prepared()? {
        Ok(driver) => driver,
        Err(reason) => return Ok(Err(reason)),
    };
    let (suite, own_node) = (program("apiserver", "contract")?, program("store", "own_node")?);
    up.args(["up", "--nodes", "0"]).args(NAME);
    passed_on(up)?;
    let outcomes = both(suite, own_node);
    let mut down = cluster::driver(false)?;
    down.arg("down").args(NAME);
    passed_on(down)?;
    outcomes.map(Ok)
}

fn both(suite: PathBuf, own_node: PathBuf) -> Result<Vec<Outcome>> {
    let run = "CONTRACT_KUBECONFIG=$KUBECONFIG exec \"$0\"";
    let mut contract = cluster::driver(false)?;
    // With what needs more than the embedded server.
    contract.arg("shell").args(NAME).args(["sh", "-c", &format!("{run} --include-ignored")]).arg(suite);
    let contract = teed(contract)?;
    let mut permissions = cluster::driver(false)?;
    permissions.arg("shell").args(NAME).args(["sh", "-c", &format!("{PERMISSIONS}{run} --ignored")]);
    permissions.arg(own_node).arg(root().join("charts/spiderpool"));
    Ok(vec![("contract", contract), ("contract own_node", teed(permissions)?)])
}

/// What cargo says of a test program.
#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
}

/// Builds a test program.
fn program(package: &str, test: &str) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["test", "--locked", "-p", package, "--test", test, "--no-run", "--message-format", "json"]);
    let text = output(build)?;
    let programs = text.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok()?.executable);
    let programs: Vec<PathBuf> =
        programs.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(test))).collect();
    ensure!(programs.len() == 1, "cargo names {} programs for the test {test} of {package}", programs.len());
    programs.into_iter().next().context("one program")
}
