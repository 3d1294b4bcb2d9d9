//! `cargo xtask demo`: builds everything and hands over to the walk-through's driver (`crates/e2e`).

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::build::{Profile, programs, target_dir};
use crate::run::{command, root, teed};
use crate::{setup, signals};

/// What runs in the demo and in the cluster lane.
pub const PACKAGES: [&str; 6] = ["plugins", "agent", "controller", "apiserver", "lab", "e2e"];

/// How to run the walk-through.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// IPv4 and IPv6 instead of IPv4 alone.
    #[arg(long)]
    dual_stack: bool,
    /// Leave the world up afterwards and say how to enter it.
    #[arg(long)]
    keep: bool,
    /// One JSON object a line instead of the story.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Opens a shell in a node or pod of a world that `--keep` left up.
    Enter {
        /// `master`, `worker`, or the name of a pod.
        name: String,
        /// A command instead of a shell.
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Ends a world that `--keep` left up.
    Down,
}

/// The address families of a run.
#[derive(Clone, Copy, Debug)]
pub enum Variant {
    /// IPv4 alone.
    Ipv4,
    /// IPv4 and IPv6.
    DualStack,
}

/// Runs the walk-through with the terminal's streams; its exit code is the verdict.
pub fn run(args: &Args) -> Result<ExitCode> {
    let driver = match &args.action {
        Some(Action::Enter { name, command }) => {
            let mut driver = driver()?;
            driver.arg("enter").arg(name).args(command);
            driver
        }
        Some(Action::Down) => {
            let mut driver = driver()?;
            driver.arg("down");
            driver
        }
        None => {
            let mut driver = prepared(if args.dual_stack { Variant::DualStack } else { Variant::Ipv4 })?;
            driver.args(args.keep.then_some("--keep")).args(args.json.then_some("--json"));
            driver
        }
    };
    signals::run(driver)
}

/// Runs the walk-through for the test lane: its output, passed on as well, and its verdict.
pub fn for_tests(variant: Variant) -> Result<(String, bool)> {
    teed(prepared(variant)?)
}

fn prepared(variant: Variant) -> Result<Command> {
    setup::everything()?;
    let mut driver = driver()?;
    driver.arg("run").args(matches!(variant, Variant::DualStack).then_some("--dual-stack"));
    Ok(driver)
}

/// The driver with the places that it needs; everything is built, nothing is run. All packages are always built by the
/// same call: alone, each would have other features and be compiled anew.
fn driver() -> Result<Command> {
    let bin = programs(&PACKAGES, Profile::Lab)?;
    let mut driver = command(bin.join("spiderpool-demo"));
    driver.arg("--bin-dir").arg(&bin);
    driver.arg("--cache-dir").arg(target_dir().join("demo"));
    driver.arg("--repository").arg(root());
    Ok(driver)
}
