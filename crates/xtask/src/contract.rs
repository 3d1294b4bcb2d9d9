//! The lane `contract`: the suite of the embedded API server (`crates/apiserver/tests/contract`) against a real kube-apiserver.
//!
//! The lane `plain` runs the same suite against the embedded server, so a difference between the two fails in one of them. This lane runs
//! it against the embedded one once more, for what kubectl prints is compared with the same kubectl. Beside it
//! runs what only a real one can show: what the chart's roles and policies permit (`crates/store/tests/own_node.rs`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::lanes::verdict;
use crate::report::{Check, step};
use crate::run::{cargo, command, has, output, passed_on, reported, root, teed};
use crate::{cluster, kube};

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
    let (suite, own_node) = (program("contract")?, program("own_node")?);
    up.args(["up", "--nodes", "0"]).args(NAME);
    passed_on(up)?;
    let outcomes = all(&suite, &own_node);
    let mut down = cluster::driver(false)?;
    down.arg("down").args(NAME);
    passed_on(down)?;
    outcomes.map(Ok)
}

/// Where a test program finds the real control plane.
const REAL: &str = "CONTRACT_KUBECONFIG=$KUBECONFIG CONTRACT_ETCD=http://127.0.0.1:2379";

fn all(suite: &Path, own_node: &Path) -> Result<Vec<Outcome>> {
    let kubectl = "kubectl version --client";
    Ok(vec![
        // With what needs more than the embedded server. What makes etcd forget old versions comes when nobody else looks at them.
        ("contract", inside(&format!("{kubectl} && {REAL} exec \"$0\" --include-ignored --skip forgotten::"), suite)?),
        ("contract forgotten", inside(&format!("{REAL} exec \"$0\" --include-ignored forgotten::"), suite)?),
        ("contract embedded", inside(&format!("{kubectl} && exec \"$0\" --include-ignored --skip access::"), suite)?),
        ("contract own_node", inside(&format!("{PERMISSIONS}{REAL} exec \"$0\" --ignored"), own_node)?),
    ])
}

/// Runs a line of shell beside the API server: `$0` is the program, `$1` the chart.
fn inside(line: &str, program: &Path) -> Result<(String, bool)> {
    let mut shell = cluster::driver(false)?;
    shell.arg("shell").args(NAME).args(["sh", "-c", line]).arg(program).arg(root().join("charts/spiderpool"));
    teed(shell)
}

/// What of the suite takes kubectl, against the embedded server; where there is no kubectl it is skipped, and counted.
pub fn with_kubectl() -> Result<Vec<Check>> {
    let suite = program("contract")?;
    let mut test = command(&suite);
    test.args(["--ignored", "--skip", "access::"]);
    match kube::kubectl()? {
        // The one that the lane `contract` takes.
        Some(dir) => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            test.env("PATH", std::env::join_paths([dir].into_iter().chain(std::env::split_paths(&path)))?);
        }
        None if has("kubectl") => {}
        None => {
            test.args(["--list", "--format", "terse"]);
            let count = output(test)?.lines().filter(|line| line.ends_with(": test")).count();
            return Ok(vec![Check::Skipped { count, what: "plain: there is no kubectl".to_owned() }]);
        }
    }
    let (text, succeeded) = teed(test)?;
    Ok(verdict("plain: contract with kubectl", &text, succeeded))
}

/// What cargo says of a test program.
#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
}

/// Builds a test program, with the features that the workspace's tests have.
fn program(test: &str) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["test", "--locked", "--workspace", "--test", test, "--no-run"]);
    let text = reported(&format!("the test program {test}"), build)?;
    let programs = text.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok()?.executable);
    let programs: Vec<PathBuf> =
        programs.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(test))).collect();
    ensure!(programs.len() == 1, "cargo names {} programs for the test {test}", programs.len());
    programs.into_iter().next().context("one program")
}
