//! Signals while a program of ours runs that clears up behind itself: it gets the time to.
//!
//! Ctrl-C reaches that program from the terminal, so this process only waits for it; TERM and HUP, which nobody else may have sent it, are passed
//! on. Without such a program a signal ends this process, as it does everywhere.

use std::future::poll_fn;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{self, SignalKind};

use crate::run::shown;

/// What signals concern.
struct Attended {
    /// The program that is waited for.
    child: Option<Pid>,
    /// The first signal that came while there was one.
    came: Option<i32>,
}

static ATTENDED: Mutex<Attended> = Mutex::new(Attended { child: None, came: None });

fn attended() -> MutexGuard<'static, Attended> {
    ATTENDED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program that is waited for by [`wait`], whatever signals come. After a signal none is started any more.
pub fn spawn(command: &mut Command) -> Result<Child> {
    watch()?;
    let mut attended = attended();
    if attended.came.is_some() {
        bail!("`{}` is not started after a signal", shown(command));
    }
    let child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
    attended.child = Some(Pid::from_child(&child));
    Ok(child)
}

/// Waits for it.
pub fn wait(mut child: Child) -> Result<ExitStatus> {
    // It is reaped after nobody may send it signals any more: until then its id is its own.
    waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    attended().child = None;
    Ok(child.wait()?)
}

/// Runs a program to its end with the terminal's streams; its exit code is ours.
pub fn run(mut command: Command) -> Result<ExitCode> {
    let status = wait(spawn(&mut command)?)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// How this process is to end, if a signal has come.
pub fn came() -> Option<ExitCode> {
    let number = attended().came?;
    Some(ExitCode::from(code(number)))
}

fn code(number: i32) -> u8 {
    128 + u8::try_from(number).unwrap_or(0)
}

/// Begins to look after signals, once.
fn watch() -> Result<()> {
    static WATCH: OnceLock<Result<(), String>> = OnceLock::new();
    let begun = WATCH.get_or_init(|| begin().map_err(|error| format!("{error:#}")));
    begun.clone().map_err(anyhow::Error::msg)
}

fn begin() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ignored = ignored();
    let mut signals = Vec::new();
    {
        let _inside = runtime.enter();
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let number = signal.as_raw();
            // As `nohup` and shells in the background want it.
            if ignored & (1 << (number - 1)) == 0 {
                signals.push((signal, unix::signal(SignalKind::from_raw(number))?));
            }
        }
    }
    std::thread::spawn(move || take(&runtime, signals));
    Ok(())
}

/// The signals that this process ignores, as the kernel shows them.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn take(runtime: &Runtime, mut signals: Vec<(Signal, unix::Signal)>) {
    loop {
        let next = poll_fn(|context| {
            let ready =
                signals.iter_mut().find_map(|(signal, stream)| stream.poll_recv(context).is_ready().then_some(*signal));
            ready.map_or(Poll::Pending, Poll::Ready)
        });
        let signal = runtime.block_on(next);
        let mut attended = attended();
        let Some(child) = attended.child else { std::process::exit(code(signal.as_raw()).into()) };
        attended.came.get_or_insert(signal.as_raw());
        if signal != Signal::INT {
            // It may have ended this very moment.
            let _ = kill_process(child, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;

    use rustix::process::getpid;

    use super::*;

    #[test]
    fn a_program_that_clears_up_is_waited_for() {
        let mut program = Command::new("sh");
        program.args(["-c", "trap 'sleep 0.3; echo cleared; exit 7' TERM; echo ready; while :; do sleep 0.02; done"]);
        let mut child = spawn(program.stdout(Stdio::piped())).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "ready");
        // Of Ctrl-C the terminal itself tells both; TERM is for this process alone. In the background of a shell INT is ignored.
        let interrupted = ignored() & (1 << (Signal::INT.as_raw() - 1)) == 0;
        if interrupted {
            kill_process(getpid(), Signal::INT).unwrap();
            while came().is_none() {
                std::thread::yield_now();
            }
            assert!(child.try_wait().unwrap().is_none());
        }
        kill_process(getpid(), Signal::TERM).unwrap();
        assert_eq!(lines.next().unwrap(), "cleared");
        assert_eq!(wait(child).unwrap().code(), Some(7));
        assert_eq!(attended().came.map(code), Some(if interrupted { 130 } else { 143 }));
        let refusal = spawn(&mut Command::new("true")).unwrap_err();
        assert!(refusal.to_string().contains("not started after a signal"), "{refusal}");
    }
}
