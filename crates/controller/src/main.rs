//! `spiderpool-controller`: see [`controller::process`]. Called `spiderpool-init` it is [`controller::init`].

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser as _;
use controller::{
    clean, definitions, init, process,
    settings::{Cli, Command},
};
use daemon::Env;

// musl's own allocator is slow with several threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = if called_init() { Command::Init } else { Cli::parse().command };
    let name = if matches!(command, Command::Init) { init::NAME } else { controller::NAME };
    let _ = rustls::crypto::ring::default_provider().install_default(); // an error says that there is one already
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            daemon::log::complain(name, &format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let env = Env::of_process();
    let outcome = runtime.block_on(async {
        match command {
            Command::Daemon(flags) => process::daemon(flags, &env).await,
            Command::Init => init::run(&env).await,
            Command::Clean(flags) => clean::run(flags, &env).await,
            Command::ApplyCrds => definitions::run(&env).await,
            Command::Health(flags) => flags.ask(),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: Box<dyn std::error::Error + Send + Sync> = error.into();
            daemon::log::complain(name, &daemon::Chain(error.as_ref()).to_string());
            ExitCode::FAILURE
        }
    }
}

/// Whether the program was called by its other name.
fn called_init() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.as_deref().and_then(Path::file_name).is_some_and(|name| name == init::NAME)
}
