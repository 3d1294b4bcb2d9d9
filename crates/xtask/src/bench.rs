//! `cargo xtask bench`: builds the programs as they ship and runs the measurements of `bench/`, on the embedded API server or on a real
//! control plane of the lab.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::build::{Profile, directory, programs};
use crate::run::{command, passed_on, root};
use crate::{cluster, setup, signals};

/// The name of the cluster.
const NAME: [&str; 2] = ["--name", "bench"];

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    /// `real` in the first place: on kube-apiserver and etcd instead of the embedded API server. Then names of measurements (`bench
    /// list` prints them); all of them when none is given.
    names: Vec<String>,
    /// Divides all sizes: to try the bench, not to measure
    #[arg(long, default_value_t = 1)]
    divide: usize,
}

/// Runs the measurements with the terminal's streams.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::everything()?;
    match args.names.split_first() {
        Some((first, names)) if first == "real" => real(args, names),
        _ => signals::run(bench(command(program()?), args, &args.names)),
    }
}

fn program() -> Result<std::path::PathBuf> {
    let bin = programs(&["agent", "controller", "apiserver", "bench", "plugins"], Profile::Release)?;
    Ok(bin.join("spiderpool-bench"))
}

/// The bench with what it needs to know.
fn bench(mut bench: Command, args: &Args, names: &[String]) -> Command {
    bench.arg("--bin-dir").arg(directory("release")).arg("--plugin-dir").arg(directory("plugin"));
    bench.arg("--repository").arg(root()).arg("--divide").arg(args.divide.to_string()).args(names);
    bench
}

/// A control plane without nodes, whose etcd is on the disk and waits for it; the bench runs beside it.
fn real(args: &Args, names: &[String]) -> Result<ExitCode> {
    let mut up = match cluster::prepared()? {
        Ok(driver) => driver,
        Err(reason) => bail!("{reason}"),
    };
    let program = program()?;
    up.args(["up", "--nodes", "0", "--durable"]).args(NAME);
    passed_on(up)?;
    let mut shell = cluster::driver(false)?;
    shell.arg("shell").args(NAME).arg(program).arg("--real");
    let outcome = signals::run(bench(shell, args, names));
    let mut down = cluster::driver(false)?;
    down.arg("down").args(NAME);
    passed_on(down)?;
    outcome
}
