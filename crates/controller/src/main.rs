//! `spiderpool-controller`: see [`controller::process`].

use std::process::ExitCode;

use clap::Parser as _;
use controller::{
    process,
    settings::{Cli, Command},
};
use daemon::Env;

// musl's own allocator is slow with several threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { command: Command::Daemon(flags) } = Cli::parse();
    let _ = rustls::crypto::ring::default_provider().install_default(); // an error says that there is one already
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            daemon::log::complain(controller::NAME, &format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(process::daemon(flags, &Env::of_process())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: Box<dyn std::error::Error + Send + Sync> = error.into();
            daemon::log::complain(controller::NAME, &daemon::Chain(error.as_ref()).to_string());
            ExitCode::FAILURE
        }
    }
}
