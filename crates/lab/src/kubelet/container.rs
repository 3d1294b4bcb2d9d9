//! A container: one process in the pod's namespaces.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::sync::oneshot;

use super::record::{Process, start_ticks};
use crate::events;

/// What to start.
pub struct Spec<'a> {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables.
    pub environment: Vec<(String, String)>,
    /// The pod's network; none for the host's.
    pub netns: Option<&'a Path>,
    /// Host name.
    pub hostname: &'a str,
    /// Where it prints to.
    pub log: &'a Path,
    /// How often it was started before.
    pub restarts: i32,
}

/// Starts the process. It leads a process group of its own and outlives the kubelet.
pub fn start(spec: &Spec<'_>) -> Result<Process> {
    let own = std::env::current_exe().context("cannot find this program")?;
    if let Some(dir) = spec.log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(spec.log)
        .with_context(|| format!("cannot open {}", spec.log.display()))?;
    let mut command = Command::new(own);
    command.arg("enter").args(["--hostname", spec.hostname]);
    if let Some(netns) = spec.netns {
        command.arg("--net").arg(netns);
    }
    command.arg("--").args(&spec.command);
    command.envs(spec.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", spec.command.join(" ")))?;
    let pid = child.id();
    // From here on `ended` watches and reaps it by its id, as it does with the processes of an earlier kubelet.
    let Some(ticks) = start_ticks(pid) else {
        let status = child.wait().context("cannot wait for the process")?;
        bail!("{} ended at once: {status}", spec.command.join(" "));
    };
    Ok(Process { pid, ticks, started: events::now(), restarts: spec.restarts })
}

/// Waits until the process has ended. Its exit code is known only for a child of this process that is not reaped yet.
pub async fn ended(process: &Process) -> i32 {
    let Some(pid) = Pid::from_raw(process.pid as i32) else { return 255 };
    if !process.is_alive() {
        return exit_code(pid);
    }
    let (sender, receiver) = oneshot::channel();
    // A thread of its own, because the runtime's would be waited for when the kubelet stops.
    std::thread::spawn(move || {
        if let Ok(watched) = pidfd_open(pid, PidfdFlags::empty()) {
            // Readable means ended; an error means that nothing can be learned any more.
            let _ = poll(&mut [PollFd::new(&watched, PollFlags::IN)], None);
        }
        // Nobody may be waiting any more.
        let _ = sender.send(());
    });
    let _ = receiver.await;
    exit_code(pid)
}

fn exit_code(pid: Pid) -> i32 {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(Some(status)) => {
            status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(255)
        }
        _ => 255,
    }
}

/// Ends the process: politely first, by force after `grace`.
pub async fn stop(process: &Process, grace: Duration) {
    signal(process, Signal::TERM);
    if tokio::time::timeout(grace, ended(process)).await.is_err() {
        signal(process, Signal::KILL);
        ended(process).await;
    }
}

fn signal(process: &Process, signal: Signal) {
    if process.is_alive()
        && let Some(group) = Pid::from_raw(process.pid as i32)
    {
        // It may have ended this very moment.
        let _ = kill_process_group(group, signal);
    }
}
