//! `cargo xtask bench`: builds the programs as they ship and runs the measurements of `bench/`.

use std::process::ExitCode;

use anyhow::Result;

use crate::build::{Profile, directory, programs};
use crate::run::{command, root};
use crate::setup;

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    /// Names of measurements (`bench list` prints them); all of them when none is given.
    names: Vec<String>,
}

/// Runs the measurements with the terminal's streams.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::everything()?;
    let bin = programs(&["agent", "controller", "apiserver", "bench", "plugins"], Profile::Release)?;
    let mut bench = command(bin.join("spiderpool-bench"));
    bench.arg("--bin-dir").arg(&bin).arg("--plugin-dir").arg(directory("plugin"));
    bench.arg("--repository").arg(root()).args(&args.names);
    let status = bench.status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
