//! `spiderpool-lab kubernetes-keeper`: stays outside of the cluster's namespaces and clears up when the cluster ends, for whatever reason.

use std::io::{IsTerminal, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup;
use super::state::{Process, State};
use crate::isolate;

/// The line that says that the cluster is up.
pub const READY: &str = "ready";
/// What the driver sends when the cluster is to outlive it.
pub const KEEP: &[u8] = b"k";

/// Which cluster to keep.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name; its state was written before
    #[arg(long)]
    name: String,
}

/// Runs the cluster until its first process ends, or the driver goes away without having handed it over; then clears up.
pub fn run(args: Args) -> Result<()> {
    ensure!(!std::io::stdin().is_terminal(), "the keeper is started by a driver, not by hand");
    // Out of reach of the terminal's signals: the driver's end is what counts.
    let _ = rustix::process::setsid();
    let mut state = State::load(&args.name)?.with_context(|| format!("there is no cluster {}", args.name))?;
    state.keeper = Process::of(std::process::id()).context("this process is not in /proc")?;
    state.save()?;
    let ran = watch(&mut state);
    let cleared = state.clear();
    ran.and(cleared)
}

fn watch(state: &mut State) -> Result<()> {
    state.cgroups().iter().try_for_each(|name| cgroup::make(name))?;
    // From here on no thread can be started, and the next child is the first process of its kind.
    isolate::own_processes().context("cannot separate processes")?;
    let mut first = Command::new(std::env::current_exe().context("cannot find this program")?);
    first.args(["kubernetes-control-plane", "--name", &state.options.name]).stdin(Stdio::null());
    let mut first = first.spawn().context("cannot start the control plane")?;
    state.first = Process::of(first.id()).context("the control plane ended at once")?;
    state.save()?;
    let pid = Pid::from_raw(first.id() as i32).context("not a process id")?;
    let handle = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch the control plane")?;
    let mut stdin = std::io::stdin();
    let mut kept = false;
    loop {
        let mut events = vec![PollFd::new(&handle, PollFlags::IN)];
        if !kept {
            events.push(PollFd::new(&stdin, PollFlags::IN | PollFlags::HUP));
        }
        match poll(&mut events, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context("cannot wait")?,
        };
        if !events[0].revents().is_empty() {
            let status = first.wait().context("cannot wait for the control plane")?;
            // Killed by `down`, or failed; its own words are in the log already.
            ensure!(kept || status.code().is_none(), "the control plane ended: {status}");
            return Ok(());
        }
        if events.get(1).is_some_and(|event| !event.revents().is_empty()) {
            let mut byte = [0; 1];
            kept = matches!(stdin.read(&mut byte), Ok(1)) && byte == KEEP;
            if !kept {
                // It may have ended this very moment.
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
    }
}
