//! Runs other programs: with their output passed on, or collected, or both.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::signals;

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/xtask lies two levels below the root").to_owned()
}

/// A command that starts in the root of the checkout.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs this program. What cargo told this program about its own package is taken away: build scripts that look at it would
/// have crates compiled anew whenever somebody types `cargo build` between two runs of `cargo xtask`.
pub fn cargo() -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command to its end with the terminal's streams; a failure names the command.
pub fn passed_on(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(&command));
    }
    Ok(())
}

/// Runs a command to its end and returns what it wrote to standard output.
pub fn output(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}\n{}", shown(&command), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Has cargo build and returns what it reports, a line of JSON for each thing that was built; progress and errors go to the terminal.
pub fn reported(what: &str, mut cargo: Command) -> Result<String> {
    eprintln!("==> building {what}");
    cargo.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    output(cargo)
}

/// Runs a command, passes its standard output on line by line and returns it with the verdict. Signals leave it the time to clear up.
pub fn teed(mut command: Command) -> Result<(String, bool)> {
    let mut child = signals::spawn(command.stdout(Stdio::piped()))?;
    let mut text = String::new();
    let mut terminal = std::io::stdout();
    for line in BufReader::new(child.stdout.take().expect("standard output is piped")).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(terminal, "{line}")?;
        text.push_str(&line);
        text.push('\n');
    }
    Ok((text, signals::wait(child)?.success()))
}

/// Whether a program of this name can be found by `PATH` (or in the directories of system programs).
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|dir| dir.join(program).is_file())
}
