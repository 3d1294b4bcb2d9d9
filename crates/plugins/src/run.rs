//! From a process to a plugin and back: the name picks the plugin, a reply or an error object goes to stdout, and even
//! a panic ends in an error object, because a runtime shows nothing else to the operator.

use std::io::{self, Write};
use std::process::ExitCode;

use wire::cni::{Call, CniError, CniResult, Command, Received, code, version_reply};

use crate::{coordinator, multinet, spiderpool};

/// What a CNI plugin does for each command. VERSION is answered by [`run`].
pub trait Plugin {
    /// Connects the container, or completes what the plugins before did.
    fn add(&self, call: &Call) -> Result<CniResult, CniError>;
    /// Undoes ADD. Succeeds when there is nothing (left) to undo.
    fn del(&self, call: &Call) -> Result<(), CniError>;
    /// Compares what ADD made with what is there.
    fn check(&self, call: &Call) -> Result<(), CniError>;
    /// Removes what belongs to no attachment that the runtime still has.
    fn gc(&self, call: &Call) -> Result<(), CniError>;
    /// Whether ADD can be served now.
    fn status(&self, call: &Call) -> Result<(), CniError>;
}

/// The plugin for a file name.
pub fn plugin_named(name: &str) -> Option<&'static dyn Plugin> {
    match name {
        "spiderpool" => Some(&spiderpool::Spiderpool),
        "coordinator" => Some(&coordinator::Coordinator),
        "multinet" => Some(&multinet::Multinet),
        _ => None,
    }
}

/// What the program says when a person starts it.
pub fn usage() -> String {
    format!(
        "Spiderpool CNI plugins {}

One program that container runtimes call under these names (links to, or copies of, one file):

  spiderpool    address management, named as \"ipam.type\" of a main plugin
  coordinator   chained behind a main plugin: node, service and multi-NIC routing of a pod
  multinet      meta plugin: several networks per pod, by the pod's annotations

A runtime passes the command in CNI_COMMAND and the configuration on stdin (https://www.cni.dev/docs/spec/).
By hand: CNI_COMMAND=VERSION spiderpool < /dev/null

  --help        this text
  --version     the version
",
        env!("CARGO_PKG_VERSION")
    )
}

/// Serves the call that this process was started for.
pub fn run(plugin: &dyn Plugin) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let error = CniError::new(code::INTERNAL, format!("internal error: {panic}").replace('\n', " "));
        let _ = writeln!(io::stdout(), "{}", error.to_json());
        std::process::exit(1);
    }));
    let reply = Received::from_process().and_then(|received| answer(plugin, &received));
    let (text, exit) = match reply {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(), ExitCode::FAILURE),
    };
    if text.is_empty() {
        return exit;
    }
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The text that answers a call, empty for commands that have no result.
pub fn answer(plugin: &dyn Plugin, received: &Received) -> Result<String, CniError> {
    let call = match received {
        Received::Version(requested) => return Ok(version_reply(requested.as_deref())),
        Received::Call(call) => call,
    };
    let done = match call.env.command {
        Command::Add => plugin.add(call).map(|result| result.to_json(call.version)),
        Command::Del => plugin.del(call).map(|()| String::new()),
        Command::Check => plugin.check(call).map(|()| String::new()),
        Command::Gc => plugin.gc(call).map(|()| String::new()),
        Command::Status => plugin.status(call).map(|()| String::new()),
        Command::Version => Ok(version_reply(call.conf.cni_version.as_deref())),
    };
    done.map_err(|error| error.for_version(Some(call.version.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_installed_is_a_plugin_with_a_line_of_help() {
        for name in wire::PLUGIN_NAMES {
            assert!(plugin_named(name).is_some() && usage().contains(&format!("\n  {name} ")), "{name}");
        }
    }
}
