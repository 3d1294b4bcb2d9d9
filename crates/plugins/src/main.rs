//! One file, several plugins: the name by which it is called picks one.

use std::env;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use wire::cni::{CniError, code};

fn main() -> ExitCode {
    let mut arguments = env::args_os();
    let called = arguments.next().unwrap_or_default();
    match arguments.next().as_deref().and_then(|argument| argument.to_str()) {
        Some("--help" | "-h") => {
            print!("{}", plugins::usage());
            return ExitCode::SUCCESS;
        }
        Some("--version" | "-V") => {
            println!("spiderpool {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    if env::var_os("CNI_COMMAND").is_none() && io::stdin().is_terminal() {
        eprint!("{}", plugins::usage());
        return ExitCode::from(2);
    }
    let name = Path::new(&called).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match plugins::plugin_named(name) {
        Some(plugin) => plugins::run(plugin),
        None => {
            let msg =
                format!("this program is called as {name:?}; it knows the names {}", wire::PLUGIN_NAMES.join(", "));
            println!("{}", CniError::new(code::INTERNAL, msg).to_json());
            ExitCode::FAILURE
        }
    }
}
