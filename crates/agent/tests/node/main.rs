//! The built program as init container and side container run it, on folders that stand for the node's.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod configure;
mod install;

use std::path::Path;
use std::process::{Command, Output};

/// The program with nothing but the given environment.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spiderpool-agent"));
    command.args(arguments).env_clear();
    command
}

fn run(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    program(arguments).envs(env.iter().copied()).output().unwrap()
}

/// What a failed run says on standard error.
fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
