//! Measures the product from outside: its programs as they ship, against the embedded API server or a real one, as ratios within one
//! run.
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
mod storage;
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
    /// Measure on the cluster of KUBECONFIG, and what of its servers runs on this machine, instead of the embedded API server. Its
    /// pods in `default` and all objects of the product are removed.
    #[arg(long)]
    real: bool,
    /// Divides all sizes: to try the bench, not to measure
    #[arg(long, default_value_t = 1)]
    divide: usize,
    /// Measurements to run; all of them when none is named. `list` prints the names.
    names: Vec<String>,
}

impl Args {
    /// A size, as far as it is to be kept to.
    fn size(&self, full: usize) -> usize {
        (full / self.divide.max(1)).max(10)
    }
}

/// A measurement: its name, what it shows, and whether it says something about the API server.
const MEASUREMENTS: [(&str, &str, bool); 6] = [
    ("fill", "(a, f) 1000 pods on 10 agents, one pool of exactly 1000 addresses; then 1000 DELs at once", true),
    ("process", "(c) a plugin's process from start to exit, and its memory", false),
    ("chain", "(d) the full chain of one pod by phase, on this kernel", false),
    ("memory", "(e) memory of an agent with 10,000 pods in the API, 100 of them on its node", true),
    ("storage", "(g) bytes that an address takes in etcd", true),
    // Last: what it leaves behind takes long to remove.
    ("single", "(b) one ADD at the agent's socket, idle, with 256, 2,000 and 65,536 addresses in use", true),
];

fn main() -> Result<()> {
    let args = Args::parse();
    if args.names.iter().any(|name| name == "list") {
        for (name, what, _) in MEASUREMENTS {
            println!("{name:<8} {what}");
        }
        return Ok(());
    }
    if let Some(unknown) = args.names.iter().find(|name| !MEASUREMENTS.iter().any(|(known, ..)| known == name)) {
        bail!("no measurement is called {unknown:?}; `list` prints the names");
    }
    // Both TLS providers could be compiled in; name ours before anything asks.
    let _ = rustls::crypto::ring::default_provider().install_default();
    report::machine();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if args.real {
        println!("on the cluster of KUBECONFIG");
    }
    if args.divide > 1 {
        println!("all sizes divided by {}: these figures do not count", args.divide);
    }
    for (name, what, of_server) in MEASUREMENTS {
        let wanted =
            if args.names.is_empty() { of_server || !args.real } else { args.names.iter().any(|one| one == name) };
        if !wanted {
            continue;
        }
        println!("\n## {what}\n");
        match name {
            "fill" => runtime.block_on(fill::run(&args))?,
            "single" => runtime.block_on(single::run(&args))?,
            "process" => process::run(&args)?,
            "chain" => runtime.block_on(chain::run(&args))?,
            "storage" => runtime.block_on(storage::run(&args))?,
            _ => runtime.block_on(memory::run(&args))?,
        }
    }
    Ok(())
}
