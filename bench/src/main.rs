//! Measures the product from outside: its programs as they ship, against the embedded API server, as ratios within one run.
//!
//! Nothing of the product is linked in: agents are called over their socket, plugins as processes, the API by HTTP. Every figure is
//! printed with its raw samples and, where `bench/RESULTS.md` has one, beside the quoted figure of upstream v1.2.

mod api;
mod chain;
mod fill;
mod memory;
mod process;
mod report;
mod single;
mod socket;
mod stats;
mod world;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

/// Measures the product.
#[derive(Parser)]
#[command(name = "spiderpool-bench")]
pub struct Args {
    /// Where spiderpool-agent, spiderpool-controller and spiderpool-apiserver are.
    #[arg(long)]
    bin_dir: PathBuf,
    /// Where the plugins' file `spiderpool` is.
    #[arg(long)]
    plugin_dir: PathBuf,
    /// The checkout, for the CRDs.
    #[arg(long)]
    repository: PathBuf,
    /// Measurements to run; all of them when none is named. `list` prints the names.
    names: Vec<String>,
}

/// A measurement: its name and what it shows.
const MEASUREMENTS: [(&str, &str); 5] = [
    ("fill", "(a, f) 1000 pods on 10 agents, one pool of exactly 1000 addresses; then 1000 DELs at once"),
    ("single", "(b) one ADD at the agent's socket, idle, with 256, 2,000 and 65,536 addresses in use"),
    ("process", "(c) a plugin's process from start to exit, and its memory"),
    ("chain", "(d) the full chain of one pod by phase, on this kernel"),
    ("memory", "(e) memory of an agent with 10,000 pods in the API, 100 of them on its node"),
];

fn main() -> Result<()> {
    let args = Args::parse();
    if args.names.iter().any(|name| name == "list") {
        for (name, what) in MEASUREMENTS {
            println!("{name:<8} {what}");
        }
        return Ok(());
    }
    if let Some(unknown) = args.names.iter().find(|name| !MEASUREMENTS.iter().any(|(known, _)| known == name)) {
        bail!("no measurement is called {unknown:?}; `list` prints the names");
    }
    // Both TLS providers could be compiled in; name ours before anything asks.
    let _ = rustls::crypto::ring::default_provider().install_default();
    report::machine();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for (name, what) in MEASUREMENTS {
        if !args.names.is_empty() && !args.names.iter().any(|wanted| wanted == name) {
            continue;
        }
        println!("\n## {what}\n");
        match name {
            "fill" => runtime.block_on(fill::run(&args))?,
            "single" => runtime.block_on(single::run(&args))?,
            "process" => process::run(&args)?,
            "chain" => runtime.block_on(chain::run(&args))?,
            _ => runtime.block_on(memory::run(&args))?,
        }
    }
    Ok(())
}
