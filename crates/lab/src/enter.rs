//! `spiderpool-lab enter`: runs a program inside a node or a pod, in the same process.
//!
//! A static program that switches and then becomes the other one: under emulation a chain of `nsenter` and `ip netns exec` would cost
//! more than most of what is started with it, and the process id stays that of the program.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::isolate;

/// Where to go, and what to run there.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take mounts, host name and network of this process (a node's first process)
    #[arg(long)]
    pid: Option<u32>,
    /// Take the network namespace of this file, which is looked up after entering --pid
    #[arg(long)]
    net: Option<PathBuf>,
    /// Take a host name of its own
    #[arg(long)]
    hostname: Option<String>,
    /// Take this terminal as controlling terminal and standard streams
    #[arg(long)]
    tty: Option<PathBuf>,
    /// Program and arguments
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<OsString>,
}

/// The words that `Args` reads, for callers that start the program through `enter`.
pub fn words(pid: Option<u32>, net: Option<&std::path::Path>) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["enter".into()];
    if let Some(pid) = pid {
        words.extend(["--pid".into(), pid.to_string().into()]);
    }
    if let Some(net) = net {
        words.extend(["--net".into(), net.into()]);
    }
    words.push("--".into());
    words
}

/// Switches and becomes the program; returns only if that failed.
pub fn run(args: Args) -> Result<()> {
    if let Some(tty) = &args.tty {
        take_terminal(tty)?;
    }
    if let Some(pid) = args.pid {
        // The files are opened before the mounts change.
        let open = |name: &str| {
            let path = format!("/proc/{pid}/ns/{name}");
            File::open(&path).with_context(|| format!("process {pid} is gone: cannot open {path}"))
        };
        let targets = [
            (open("uts")?, LinkNameSpaceType::HostNameAndNISDomainName),
            (open("net")?, LinkNameSpaceType::Network),
            (open("mnt")?, LinkNameSpaceType::Mount),
        ];
        for (file, kind) in targets {
            move_into_link_name_space(file.as_fd(), Some(kind))
                .with_context(|| format!("cannot enter the {kind:?} namespace of process {pid}"))?;
        }
    }
    if let Some(net) = &args.net {
        let file = File::open(net).with_context(|| format!("cannot open {}", net.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter the network namespace {}", net.display()))?;
    }
    if let Some(name) = &args.hostname {
        isolate::own_name().context("cannot separate the host name")?;
        rustix::system::sethostname(name.as_bytes()).with_context(|| format!("cannot set the host name {name}"))?;
    }
    let (program, rest) = args.command.split_first().context("no program given")?;
    let error = Command::new(program).args(rest).exec();
    bail!("cannot start {}: {error}", program.to_string_lossy())
}

/// Makes the terminal the controlling one of a new session, and the three standard streams.
fn take_terminal(path: &std::path::Path) -> Result<()> {
    let _ = rustix::process::setsid();
    let tty =
        File::options().read(true).write(true).open(path).with_context(|| format!("cannot open {}", path.display()))?;
    rustix::process::ioctl_tiocsctty(&tty).with_context(|| format!("cannot take the terminal {}", path.display()))?;
    rustix::stdio::dup2_stdin(&tty)?;
    rustix::stdio::dup2_stdout(&tty)?;
    rustix::stdio::dup2_stderr(&tty)?;
    Ok(())
}
