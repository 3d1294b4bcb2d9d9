//! The first process of a process namespace: starts programs, starts those again that end by themselves, takes in orphans, obeys orders.

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

use super::control::{self, Order};

/// How long a program has after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program with everything that it takes to start it.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Program {
    /// A program; its log is called as it is.
    pub fn new(name: &str, path: impl Into<PathBuf>) -> Self {
        Self { name: name.to_owned(), path: path.into(), args: Vec::new(), env: Vec::new() }
    }

    /// Adds arguments.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds `--name=VALUE` with a path.
    pub fn path(mut self, flag: &str, path: &Path) -> Self {
        self.args.push(format!("{flag}={}", path.display()));
        self
    }

    /// Adds a variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }
}

struct Entry {
    program: Program,
    pid: Option<Pid>,
    /// Whether it should run.
    wanted: bool,
    /// How its last run ended.
    ended: Option<String>,
    /// The exit code of its last run.
    code: Option<i32>,
    /// How often it ended without having been told to.
    falls: u32,
}

/// The programs of one namespace.
#[derive(Clone)]
pub struct Supervisor {
    entries: Arc<Mutex<Vec<Entry>>>,
    log_dir: PathBuf,
    prefix: String,
}

impl Supervisor {
    /// Begins to take in what ends; from here on nothing else in this process may wait for children.
    pub fn start(log_dir: &Path, prefix: &str) -> Self {
        let supervisor = Self { entries: Arc::default(), log_dir: log_dir.to_owned(), prefix: prefix.to_owned() };
        let reaper = supervisor.clone();
        thread::spawn(move || reaper.reap());
        supervisor
    }

    /// Runs a program for ever.
    pub fn keep_running(&self, program: Program) -> Result<()> {
        self.begin(program, true)
    }

    /// Runs a program to its end, which must be a good one.
    pub fn run(&self, program: Program) -> Result<()> {
        let name = program.name.clone();
        self.begin(program, false)?;
        loop {
            {
                let mut entries = self.lock();
                let at = entries.iter().position(|entry| entry.program.name == name).context("it was forgotten")?;
                if entries[at].pid.is_none() {
                    let entry = entries.remove(at);
                    if entry.code == Some(0) {
                        return Ok(());
                    }
                    bail!("{name}: {}: {}", entry.ended.unwrap_or_default(), self.tail(&name));
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Takes orders at that socket, for ever, on a thread of its own.
    pub fn listen(&self, socket: &Path) -> Result<()> {
        // Left by an earlier life of this node.
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let obeying = self.clone();
        thread::spawn(move || control::serve(&listener, move |order, name| obeying.obey(order, name)));
        Ok(())
    }

    /// Waits until one of the programs listens on that socket.
    pub fn until_listening(&self, socket: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(socket).is_err() {
            ensure!(Instant::now() < deadline, "{} is not there after 60 s\n{}", socket.display(), self.fallen());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The programs that ended though they should run, with their last words.
    pub fn fallen(&self) -> String {
        let entries = self.lock();
        let fallen = entries.iter().filter(|entry| entry.falls > 0);
        let lines = fallen.map(|entry| {
            let name = &entry.program.name;
            format!("{name} ended ({}): {}", entry.ended.as_deref().unwrap_or_default(), self.tail(name))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether a program ended again and again: waiting will not help.
    pub fn is_hopeless(&self) -> bool {
        self.lock().iter().any(|entry| entry.falls >= 5)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn begin(&self, program: Program, wanted: bool) -> Result<()> {
        let mut entries = self.lock();
        let mut entry = Entry { program, pid: None, wanted, ended: None, code: None, falls: 0 };
        self.spawn(&mut entry)?;
        entries.retain(|other| other.program.name != entry.program.name);
        entries.push(entry);
        Ok(())
    }

    /// Starts it; the caller holds the lock, so that its end cannot be seen before its start.
    fn spawn(&self, entry: &mut Entry) -> Result<()> {
        let Program { name, path, args, env } = &entry.program;
        let log = self.log(name);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(path);
        command.args(args).envs(env.iter().map(|(name, value)| (name, value))).current_dir("/");
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {}", path.display()))?;
        entry.pid = Pid::from_raw(child.id() as i32);
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.log_dir.join(format!("{}{name}.log", self.prefix))
    }

    fn tail(&self, name: &str) -> String {
        let text = std::fs::read(self.log(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(4)..].join("\n")
    }

    /// Waits for children for ever.
    fn reap(&self) {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.ended(pid, status),
                // No child yet.
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn ended(&self, pid: Pid, status: WaitStatus) {
        let mut entries = self.lock();
        // Otherwise an orphan.
        let Some(entry) = entries.iter_mut().find(|entry| entry.pid == Some(pid)) else { return };
        entry.pid = None;
        entry.code = status.exit_status();
        entry.ended = Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no status".to_owned(),
        });
        if entry.wanted {
            entry.falls += 1;
            let (again, name) = (self.clone(), entry.program.name.clone());
            thread::spawn(move || {
                // As systemd would: not at once, for ever.
                thread::sleep(Duration::from_secs(1));
                again.again(&name)
            });
        }
    }

    fn again(&self, name: &str) {
        let mut entries = self.lock();
        let found = entries.iter_mut().find(|entry| entry.program.name == name && entry.wanted && entry.pid.is_none());
        if let Some(entry) = found
            && let Err(error) = self.spawn(entry)
        {
            tracing::error!(name, error = %format!("{error:#}"), "cannot start it again");
        }
    }

    /// Carries an order out and says what became of it.
    fn obey(&self, order: Order, name: &str) -> Result<String> {
        match order {
            Order::List => return Ok(self.list()),
            Order::Stop => self.stop(name, Signal::TERM)?,
            Order::Kill => self.stop(name, Signal::KILL)?,
            Order::Pause => self.signal(name, Signal::STOP)?,
            Order::Resume => self.signal(name, Signal::CONT)?,
            Order::Start => self.resume(name)?,
            Order::Restart => {
                self.stop(name, Signal::TERM)?;
                self.resume(name)?;
            }
        }
        Ok(String::new())
    }

    fn list(&self) -> String {
        let line = |entry: &Entry| {
            let state = match entry.pid {
                Some(pid) => format!("runs as {}", pid.as_raw_nonzero()),
                None => format!("stopped ({})", entry.ended.as_deref().unwrap_or("never ran")),
            };
            format!("{} {state}, fell {} times\n", entry.program.name, entry.falls)
        };
        self.lock().iter().map(line).collect()
    }

    fn with<T>(&self, name: &str, job: impl FnOnce(&mut Entry) -> T) -> Result<T> {
        let mut entries = self.lock();
        let known = || entries.iter().map(|entry| entry.program.name.as_str()).collect::<Vec<_>>().join(", ");
        if !entries.iter().any(|entry| entry.program.name == name) {
            bail!("there is no process {name}, but: {}", known());
        }
        let entry = entries.iter_mut().find(|entry| entry.program.name == name);
        entry.map(job).context("it was just there")
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let sent = self.with(name, |entry| entry.pid.map(|pid| kill_process(pid, signal)))?;
        sent.with_context(|| format!("process {name} does not run"))?.context("cannot send a signal")
    }

    fn stop(&self, name: &str, signal: Signal) -> Result<()> {
        self.with(name, |entry| entry.wanted = false)?;
        let deadline = Instant::now() + PATIENCE;
        // A stopped one (SIGSTOP) could not end.
        let _ = self.signal(name, Signal::CONT);
        if self.signal(name, signal).is_err() {
            return Ok(());
        }
        while self.with(name, |entry| entry.pid.is_some())? {
            if Instant::now() > deadline {
                let _ = self.signal(name, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn resume(&self, name: &str) -> Result<()> {
        self.with(name, |entry| {
            entry.wanted = true;
            if entry.pid.is_none() { self.spawn(entry) } else { Ok(()) }
        })?
    }
}
