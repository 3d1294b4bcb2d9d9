//! `cargo xtask`: the one entry point for people who build, test, measure and show the product.
//!
//! Every command installs what it needs ([`setup`]), says what it is doing on long steps and ends with a clear verdict.
//! Nothing here is shipped; what is needed at run time lives in the product's crates.

mod bench;
mod build;
mod chart;
mod cluster;
mod contract;
mod demo;
mod deps;
mod generate;
mod images;
mod kube;
mod lanes;
mod lint;
mod report;
mod run;
mod setup;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, tests, measures and shows Spiderpool.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the public-cloud walk-through in a simulated VPC and checks every step of it.
    Demo(demo::Args),
    /// Runs every test lane that this machine can run (or only the lanes named).
    Test(lanes::Args),
    /// Measures the product and prints ratios with the raw data.
    Bench(bench::Args),
    /// Formatting, clippy, documentation, licences, dependency table, generated files.
    Lint,
    /// Checks the table of allowed dependencies between crates.
    Deps,
    /// Writes charts/spiderpool/crds from the Rust types (`--check`: only compares).
    Crds {
        /// Fail when a file is out of date instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Brings up a real Kubernetes on this machine, opens shells in it, tests on it.
    Cluster(cluster::Args),
    /// Builds a real Kubernetes for the cluster lane, once, and prints where it is.
    Kube,
    /// Writes the roles of the chart from the table in crates/k8s-api/src/access.rs (`--check`: only compares).
    Rbac {
        /// Fail when a file is out of date instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Writes the chart's README from values.yaml (`--check`: only compares).
    ChartReadme {
        /// Fail when the file is out of date instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Writes the container images as OCI archives, with their bills of materials.
    Images(images::Args),
    /// Installs the packages, the Rust target and the components of the toolchain that the other commands need.
    Setup,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => lanes::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Lint => lint::run().map(|checks| report::conclude(&checks)),
        Command::Deps => deps::check().map(|()| ExitCode::SUCCESS),
        Command::Crds { check } => generate::crds(check).map(|()| ExitCode::SUCCESS),
        Command::Cluster(args) => cluster::run(&args),
        Command::Kube => kube::run(),
        Command::Rbac { check } => generate::rbac(check).map(|()| ExitCode::SUCCESS),
        Command::ChartReadme { check } => chart::readme(check).map(|()| ExitCode::SUCCESS),
        Command::Images(args) => images::run(&args),
        Command::Setup => setup::everything().map(|()| {
            setup::checkers();
            ExitCode::SUCCESS
        }),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
