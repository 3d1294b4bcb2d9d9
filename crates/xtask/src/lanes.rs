//! `cargo xtask test`: every lane that this machine can run.
//!
//! | lane | what | needs |
//! |---|---|---|
//! | `lint` | format, clippy, documentation, dependency table, generated files, licences | - |
//! | `plain` | unit, property, model and contract tests; servers against the API server in process | for a few of them: kubectl |
//! | `chart` | the Helm chart, rendered and looked at; no cluster | Helm, or Go to build it |
//! | `netns` | tests marked `#[ignore = "netns"]`, in namespaces of their own | root |
//! | `images` | the container images, built and tried with the tools that take them | root; for the import: containerd and runc |
//! | `walkthrough` | the reference run on a real kernel, IPv4 and dual stack | root; ipvlan or QEMU |
//! | `contract` | the suite of the embedded API server against a real kube-apiserver and, with the same kubectl, the embedded one; what the chart's roles and policies permit | root; Go, or Kubernetes in the cache |
//! | `cluster` | a real Kubernetes whose nodes are namespaces of this machine | root; Go, or Kubernetes in the cache |
//! | `walkthrough-cluster` | the reference run on a real Kubernetes, by the guide's commands | the same; ipvlan or User Mode Linux |
//!
//! A lane that cannot run is counted as skipped, with the reason; it never counts as passed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::report::{Check, conclude, step};
use crate::run::{cargo, command, output, reported, teed};
use crate::{chart, cluster, contract, demo, images, kube, lint, setup, signals};

/// Which lanes to run.
#[derive(clap::Args)]
pub struct Args {
    /// Lanes to run; all of them when none is named.
    #[arg(value_enum)]
    lanes: Vec<Lane>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Lane {
    Lint,
    Plain,
    Chart,
    Netns,
    Images,
    Walkthrough,
    Contract,
    Cluster,
    WalkthroughCluster,
}

// The last five need what is built while the others run: Helm, CNI plugins, Kubernetes.
const ALL: [Lane; 9] = [
    Lane::Plain,
    Lane::Netns,
    Lane::Walkthrough,
    Lane::Lint,
    Lane::Chart,
    Lane::Images,
    Lane::Contract,
    Lane::Cluster,
    Lane::WalkthroughCluster,
];

/// Runs the lanes and prints the last line `N passed, N failed, N skipped`.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::everything()?;
    let mut checks = Vec::new();
    let lanes: Vec<Lane> = ALL.into_iter().filter(|lane| args.lanes.is_empty() || args.lanes.contains(lane)).collect();
    if lanes.iter().any(|lane| [Lane::Contract, Lane::Cluster, Lane::WalkthroughCluster].contains(lane))
        && setup::is_root()
    {
        // Nobody waits for it here: the lane itself asks again and tells what went wrong.
        std::thread::spawn(kube::ready);
    }
    for lane in lanes {
        let started = Instant::now();
        println!("\n==> lane {lane:?}");
        checks.extend(match lane {
            Lane::Lint => lint::run()?,
            Lane::Plain => plain()?,
            Lane::Chart => chart::tests()?,
            Lane::Netns => netns()?,
            Lane::Images => images::lane()?,
            Lane::Walkthrough => walkthrough()?,
            Lane::Contract => contract::lane(),
            Lane::Cluster => real("cluster", cluster::for_tests()),
            Lane::WalkthroughCluster => real("walkthrough-cluster", cluster::walkthrough_for_tests()),
        });
        if let Some(code) = signals::came() {
            return Ok(code);
        }
        println!("==> lane {lane:?} took {} s", started.elapsed().as_secs());
    }
    Ok(conclude(&checks))
}

/// `cargo test` of the whole workspace, then what of the contract takes kubectl.
fn plain() -> Result<Vec<Check>> {
    let mut test = cargo();
    test.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    let (text, succeeded) = teed(test)?;
    let mut checks = verdict("plain", &text, succeeded);
    checks.extend(contract::with_kubectl()?);
    Ok(checks)
}

/// A test program as cargo reports it.
#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<TestProfile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct TestProfile {
    test: bool,
}

/// The tests marked `#[ignore = "netns"]`, each program in a network and mount namespace of its own.
fn netns() -> Result<Vec<Check>> {
    if !setup::is_root() {
        return Ok(vec![Check::Skipped { count: 1, what: "netns: needs root".to_owned() }]);
    }
    let mut build = cargo();
    build.args(["test", "--locked", "--workspace", "--no-run"]);
    let mut checks = Vec::new();
    for line in reported("the tests of all crates", build)?.lines() {
        let Ok(artifact) = serde_json::from_str::<Artifact>(line) else { continue };
        let (Some(program), Some(target), Some(profile)) = (artifact.executable, artifact.target, artifact.profile)
        else {
            continue;
        };
        // The chart's tests need Helm and no namespace, others a real API server: they are in lanes of their own.
        if !profile.test || ["chart", "contract", "own_node"].contains(&target.name.as_str()) || ignored(&program)? == 0
        {
            continue;
        }
        println!("--> {} (netns)", target.name);
        let mut test = command("unshare");
        // A private /run/netns: named namespaces of the tests do not reach the machine, whatever happens to a test.
        test.args(["--net", "--mount", "--propagation", "private", "sh", "-c"]);
        test.arg("mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip link set lo up && exec \"$0\" \"$@\"");
        test.arg(&program).args(["--ignored", "--test-threads", "1"]).args(NOT_IN_NAMESPACES);
        let (text, succeeded) = teed(test)?;
        checks.extend(verdict(&format!("netns {}", target.name), &text, succeeded));
    }
    if checks.is_empty() {
        bail!("no test is marked #[ignore = \"netns\"]");
    }
    Ok(checks)
}

/// Ignored tests that are not for this lane: the virtual machine's own (the walk-through boots it) and measurements.
const NOT_IN_NAMESPACES: [&str; 4] = ["--skip", "vm::", "--skip", "measure"];

/// How many ignored tests of this lane a test program has.
fn ignored(program: &PathBuf) -> Result<usize> {
    let mut list = command(program);
    list.args(["--ignored", "--list", "--format", "terse"]).args(NOT_IN_NAMESPACES);
    Ok(output(list)?.lines().filter(|line| line.ends_with(": test")).count())
}

/// The reference run, once for IPv4 and once for both families.
fn walkthrough() -> Result<Vec<Check>> {
    if !setup::is_root() {
        return Ok(vec![Check::Skipped { count: 1, what: "walkthrough: needs root".to_owned() }]);
    }
    let mut checks = Vec::new();
    for variant in [demo::Variant::Ipv4, demo::Variant::DualStack] {
        if signals::came().is_some() {
            break;
        }
        match demo::for_tests(variant) {
            Ok((text, succeeded)) => checks.extend(verdict(&format!("walkthrough {variant:?}"), &text, succeeded)),
            Err(error) => checks.push(step(&format!("walkthrough {variant:?}"), Err(error))),
        }
    }
    Ok(checks)
}

/// A lane on a real Kubernetes: its output and verdict, or the reason why it is skipped.
fn real(lane: &str, outcome: Result<Result<(String, bool), String>>) -> Vec<Check> {
    match outcome {
        Ok(Ok((text, succeeded))) => verdict(lane, &text, succeeded),
        Ok(Err(reason)) => vec![Check::Skipped { count: 1, what: format!("{lane}: {reason}") }],
        Err(error) => vec![step(lane, Err(error))],
    }
}

/// Reads cargo's `test result:` lines, or a line `N passed, N failed`, out of a lane's output.
///
/// A lane that failed without naming a failed test counts as one failure.
pub fn verdict(lane: &str, text: &str, succeeded: bool) -> Vec<Check> {
    let (mut passed, mut failed) = (0, 0);
    for line in text.lines() {
        let is_demo = line.contains(" passed, ") && line.contains(" failed");
        let counts = match line.split_once("test result:") {
            Some((_, counts)) => counts,
            None if is_demo => line,
            None => continue,
        };
        passed += number_before(counts, "passed").unwrap_or(0);
        failed += number_before(counts, "failed").unwrap_or(0);
    }
    if !succeeded || failed > 0 {
        let what = format!("{lane}: {failed} failed, see above");
        return vec![Check::Passed { count: passed }, Check::Failed { count: failed.max(1), what }];
    }
    if passed == 0 {
        return vec![Check::Failed { count: 1, what: format!("{lane}: ran no test") }];
    }
    vec![Check::Passed { count: passed }]
}

fn number_before(text: &str, word: &str) -> Option<usize> {
    let (before, _) = text.split_once(word)?;
    before.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(checks: &[Check]) -> (usize, usize) {
        checks.iter().fold((0, 0), |(passed, failed), check| match check {
            Check::Passed { count } => (passed + count, failed),
            Check::Failed { count, .. } => (passed, failed + count),
            Check::Skipped { .. } => (passed, failed),
        })
    }

    #[test]
    fn results_of_cargo_and_of_the_demo_are_added_up() {
        let text = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\n12 passed, 0 failed\n";
        assert_eq!(sums(&verdict("x", text, true)), (15, 0));
    }

    #[test]
    fn a_lane_that_died_without_a_result_fails() {
        assert_eq!(sums(&verdict("x", "", false)), (0, 1));
        assert_eq!(sums(&verdict("x", "", true)), (0, 1));
        assert_eq!(sums(&verdict("x", "test result: ok. 3 passed; 0 failed;", false)), (3, 1));
    }

    #[test]
    fn failures_are_counted() {
        assert_eq!(sums(&verdict("x", "test result: FAILED. 3 passed; 2 failed;", false)), (3, 2));
    }
}
