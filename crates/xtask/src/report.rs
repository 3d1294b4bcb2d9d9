//! Verdicts: what passed, failed and was skipped, and the last line that people and machines read.

use std::process::ExitCode;

/// One thing that was looked at.
pub enum Check {
    /// `count` tests that passed.
    Passed { count: usize },
    /// Tests that failed, with the name of the lane and the reason.
    Failed { count: usize, what: String },
    /// Tests that this machine cannot run, with the reason.
    Skipped { count: usize, what: String },
}

/// Prints what failed and what was skipped, then the last line `N passed, N failed, N skipped`.
pub fn conclude(checks: &[Check]) -> ExitCode {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    println!();
    for check in checks {
        match check {
            Check::Passed { count } => passed += count,
            Check::Failed { count, what } => {
                failed += count;
                println!("failed: {what}");
            }
            Check::Skipped { count, what } => {
                skipped += count;
                println!("skipped: {what}");
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Turns the outcome of one named step into a check.
pub fn step(name: &str, outcome: anyhow::Result<()>) -> Check {
    match outcome {
        Ok(()) => Check::Passed { count: 1 },
        Err(error) => {
            eprintln!("xtask: {name}: {error:#}");
            Check::Failed { count: 1, what: format!("{name}: {error:#}") }
        }
    }
}
