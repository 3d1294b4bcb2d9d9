//! `spiderpool-demo`: the public-cloud walk-through from one command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use e2e::guest;
use e2e::host::{self, Places, RunArgs};

#[derive(Parser)]
#[command(
    name = "spiderpool-demo",
    version,
    about = "The public-cloud walk-through: world, scenario, checks, controls"
)]
struct Cli {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the walk-through
    Run(RunArgs),
    /// Opens a shell, or runs a command, in a node or pod of a world that was kept
    Enter {
        /// A node, a pod, or a namespace of the cloud
        name: String,
        /// Program and arguments instead of a shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Ends a world that was kept
    Down,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(args) => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(host::run(&cli.places, &args)))
            .map(u8::from)
            .map(|good| 1 - good),
        Command::Enter { name, command } => host::enter(&cli.places, &name, &command),
        Command::Down => host::down(&cli.places).map(|()| 0),
    };
    guest::unless_interrupted();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("spiderpool-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
