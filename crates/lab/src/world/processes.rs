//! Processes of the world and in it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::state::State;

/// Waits for a child in the background, so that it does not stay a zombie.
pub fn reap(mut child: Child) {
    std::thread::spawn(move || child.wait());
}

/// The processes that see the same mounts as this one.
pub fn sharing_mounts_with(pid: u32) -> Vec<u32> {
    let mounts = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let (Some(wanted), own) = (mounts(pid), mounts(std::process::id())) else { return Vec::new() };
    if Some(&wanted) == own.as_ref() {
        // The id was given to somebody else: never touch what shares the machine's own mounts.
        return Vec::new();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| mounts(*pid) == Some(wanted.clone())).collect()
}

/// Ends a process at once.
pub fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, as one would type it.
    pub command: String,
    /// Its exit code; none if it was ended.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the exit code was 0.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output of a command that must succeed.
    pub fn expect_success(self) -> Result<String> {
        anyhow::ensure!(
            self.succeeded(),
            "`{}`: exit code {:?}: {}{}",
            self.command,
            self.code,
            self.stdout.trim(),
            self.stderr.trim()
        );
        Ok(self.stdout)
    }
}

/// A place to run commands in.
#[derive(Debug, Clone)]
pub struct Exec {
    program: std::path::PathBuf,
    words: Vec<std::ffi::OsString>,
}

impl State {
    /// A place: a node by its first process, a network namespace, or both.
    pub(super) fn enter(&self, anchor: Option<u32>, net: Option<&Path>) -> Exec {
        Exec { program: self.program("spiderpool-lab"), words: crate::enter::words(anchor, net) }
    }
}

impl Exec {
    /// Where this process is.
    pub fn here() -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        Ok(Self { program, words: crate::enter::words(None, None) })
    }

    /// The place that a command goes to which ends where the words of others begin.
    pub fn of(command: &Command) -> Self {
        Self { program: command.get_program().into(), words: command.get_args().map(Into::into).collect() }
    }

    /// A place that is reached from this one by a command which ends where the words of others begin.
    pub fn then<S: AsRef<str>>(&self, words: &[S]) -> Self {
        Self::of(&self.command(words))
    }

    /// The same place, under a host name of its own.
    pub(super) fn named(mut self, name: &str) -> Self {
        self.words.insert(1, "--hostname".into());
        self.words.insert(2, name.chars().take(63).collect::<String>().into());
        self
    }

    /// The same place, with that terminal as the controlling one.
    pub fn on_terminal(mut self, terminal: &Path) -> Self {
        self.words.insert(1, "--tty".into());
        self.words.insert(2, terminal.into());
        self
    }

    /// The command that goes there and becomes `words`.
    pub fn command<S: AsRef<str>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.words).args(words.iter().map(AsRef::as_ref));
        command
    }

    /// Runs a command there, for at most a minute.
    pub fn run<S: AsRef<str>>(&self, words: &[S]) -> Result<Output> {
        let shown = words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
        let mut command = self.command(words);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot run `{shown}`"))?;
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for `{shown}`"))? {
                break Some(status);
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Ok(Output {
            command: shown,
            code: status.and_then(|status| status.code()),
            stdout: text(stdout),
            stderr: text(stderr),
        })
    }
}

type Reader = std::thread::JoinHandle<Vec<u8>>;

fn drain(stream: Option<impl std::io::Read + Send + 'static>) -> Reader {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn text(reader: Reader) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}
