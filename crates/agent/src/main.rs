//! `spiderpool-agent daemon`: picks runtime and exit code.

use agent::app::{self, Ports};
use agent::settings::{self, Settings};
use agent::sysctl;
use anyhow::Context;
use clap::{Parser, Subcommand};
use daemon::{Env, Readiness, Stop, Tasks};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
}

fn main() -> ExitCode {
    let Command::Daemon { config_path } = Arguments::parse().command;
    match run(&config_path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let chain = daemon::Chain(error.as_ref()).to_string();
            tracing::error!(error = %chain, "agent failed");
            daemon::log::complain("spiderpool-agent", &chain);
            ExitCode::FAILURE
        }
    }
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
