//! `spiderpool-agent`: picks a command's runtime and exit code.

use agent::app::{self, Ports};
use agent::node::removal::Owner;
use agent::node::{follow, install, uninstall};
use agent::settings::{self, Settings};
use agent::sysctl;
use anyhow::Context;
use clap::{Parser, Subcommand};
use daemon::probe::{self, Probe};
use daemon::{Env, Readiness, Stop, Tasks};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

// musl's allocator costs a multi-threaded process two to three times the time.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Allocates addresses for the pods of this node.
#[derive(Parser)]
#[command(name = "spiderpool-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent.
    Daemon {
        /// Configuration file.
        #[arg(long, default_value = daemon::config::DEFAULT_PATH)]
        config_path: PathBuf,
    },
    /// Put plugin files into the node's CNI folder.
    Install(install::Args),
    /// Write the meta plugin's configuration (Multus' or multinet's) to the node and keep it true.
    MultusConfig(follow::Args),
    /// Remove from the node what `install` and `multus-config` brought.
    Uninstall(uninstall::Args),
    /// Ask the agent of this machine for its health: exit code 0 if it is well.
    Health {
        /// startup, readiness or liveness.
        #[arg(long, default_value = "readiness")]
        probe: Probe,
        /// Port on which it answers probes.
        #[arg(long, env = "SPIDERPOOL_HEALTH_PORT", default_value_t = 5710)]
        port: u16,
        /// Seconds to wait for the answer.
        #[arg(long, default_value_t = 1)]
        timeout: u64,
    },
}

fn main() -> ExitCode {
    // The allocator asks for huge pages, and a few small objects in each keep all of it resident: a third of the process. A kernel without
    // them has nothing to switch off.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let outcome = match Arguments::parse().command {
        Command::Daemon { config_path } => run(&config_path),
        Command::Install(args) => install_plugins(&args),
        Command::MultusConfig(args) => configure(args),
        Command::Uninstall(args) => remove(args),
        Command::Health { probe, port, timeout } => {
            probe::ask(port, probe, Duration::from_secs(timeout.max(1))).map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let chain = daemon::Chain(error.as_ref()).to_string();
            tracing::error!(error = %chain, "agent failed");
            daemon::log::complain("spiderpool-agent", &chain);
            ExitCode::FAILURE
        }
    }
}

fn install_plugins(args: &install::Args) -> anyhow::Result<()> {
    let env = Env::of_process();
    daemon::log::start(settings::log_level(&env)?)?;
    let outcome = install::run(args, &env)?;
    let (installed, unchanged) = (outcome.installed.join(", "), outcome.unchanged.join(", "));
    tracing::info!(folder = %args.to.display(), installed, unchanged, "plugins are in place");
    Ok(())
}

fn configure(args: follow::Args) -> anyhow::Result<()> {
    daemon::log::start(settings::log_level(&Env::of_process())?)?;
    until_stopped(async |stop| Ok(follow::run(args, stop).await?))
}

fn remove(args: uninstall::Args) -> anyhow::Result<()> {
    daemon::log::start(settings::log_level(&Env::of_process())?)?;
    let outcome = match (&args.daemonset, &args.namespace) {
        (Some(daemonset), Some(namespace)) if args.on_stop => {
            daemon::tls::install();
            until_stopped(async |stop| {
                let owner = Owner::new(store::client::connect().await?, namespace, daemonset);
                Ok(uninstall::on_stop(&args, &owner, stop).await?)
            })?
        }
        _ => Some(uninstall::now(&args)?),
    };
    let Some(outcome) = outcome else { return Ok(()) };
    for path in &outcome.kept {
        tracing::warn!(path = %path.display(), "left: it was changed after it was installed");
    }
    for path in &outcome.removed {
        tracing::info!(path = %path.display(), "removed");
    }
    Ok(())
}

/// Runs a small job that ends by itself or when SIGTERM or SIGINT comes.
fn until_stopped<T>(job: impl AsyncFnOnce(Stop) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let mut tasks = Tasks::new(Stop::new());
        tasks.stop_on_signals().context("cannot install signal handlers")?;
        let outcome = job(tasks.stop()).await;
        tasks.stop().cancel();
        tasks.run(Duration::from_secs(1)).await?;
        outcome
    })
}

fn run(config_path: &Path) -> anyhow::Result<()> {
    let env = Env::of_process();
    daemon::log::start(settings::log_level(&env)?)?;
    let loaded = daemon::config::load(config_path)?;
    for key in &loaded.unknown {
        tracing::warn!(key, file = %config_path.display(), "unknown configuration key is ignored");
    }
    let settings = Settings::new(&env, loaded.config)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), settings = ?settings, "starting");
    if !settings.fixed_addresses.is_empty() {
        let keys = settings.fixed_addresses.join(", ");
        tracing::warn!(keys, "fixed addresses are not in this version: a successor gets another address");
    }
    if settings.tune_sysctls {
        sysctl::tune(Path::new("/proc/sys"), settings.select.enable_ipv4, settings.select.enable_ipv6)?;
    }
    daemon::tls::install();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut tasks = Tasks::new(Stop::new());
        tasks.stop_on_signals().context("cannot install signal handlers")?;
        let ports = Ports::open(&settings).await?;
        let client = store::client::connect().await?;
        app::run(settings, client, ports, Readiness::default(), tasks).await
    })
}
