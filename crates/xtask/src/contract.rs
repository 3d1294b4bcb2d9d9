//! The lane `contract`: the suite of the embedded API server (`crates/apiserver/tests/contract`) against a real kube-apiserver.
//!
//! The lane `plain` runs the same suite against the embedded server, so a difference between the two fails in one of them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cluster;
use crate::lanes::verdict;
use crate::report::{Check, step};
use crate::run::{cargo, output, passed_on, teed};

/// The name of the cluster: a control plane without nodes.
const NAME: [&str; 2] = ["--name", "contract"];

/// Runs the suite; skipped, with the reason, where no real Kubernetes can be had.
pub fn lane() -> Vec<Check> {
    match suite() {
        Ok(Ok((text, succeeded))) => verdict("contract", &text, succeeded),
        Ok(Err(reason)) => vec![Check::Skipped { count: 1, what: format!("contract: {reason}") }],
        Err(error) => vec![step("contract", Err(error))],
    }
}

fn suite() -> Result<Result<(String, bool), String>> {
    let mut up = match cluster::prepared()? {
        Ok(driver) => driver,
        Err(reason) => return Ok(Err(reason)),
    };
    let program = program()?;
    up.args(["up", "--nodes", "0"]).args(NAME);
    passed_on(up)?;
    let mut tests = cluster::driver(false)?;
    tests.arg("shell").args(NAME).args(["sh", "-c", "CONTRACT_KUBECONFIG=$KUBECONFIG exec \"$0\""]).arg(program);
    let outcome = teed(tests);
    let mut down = cluster::driver(false)?;
    down.arg("down").args(NAME);
    passed_on(down)?;
    outcome.map(Ok)
}

/// What cargo says of a test program.
#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
}

/// Builds the suite.
fn program() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["test", "--locked", "-p", "apiserver", "--test", "contract", "--no-run", "--message-format", "json"]);
    let text = output(build)?;
    let programs = text.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok()?.executable);
    let programs: Vec<PathBuf> = programs
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("contract")))
        .collect();
    ensure!(programs.len() == 1, "cargo names {} programs of the contract suite", programs.len());
    programs.into_iter().next().context("one program")
}
