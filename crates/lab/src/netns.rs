//! Named network namespaces (`/run/netns/NAME`), as `ip netns` makes them.
//!
//! Nothing here leaves the calling thread in another namespace: [`Netns::run`] switches a thread that ends with the job,
//! [`Netns::command`] starts a process there.

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

/// A network namespace by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// The namespace of that name, which may or may not exist.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Makes the namespace and sets its loopback up.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let ns = Self::named(name);
        run(Command::new("ip").args(["netns", "add", &ns.name]))?;
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    /// Removes the name; the namespace itself goes with its last process.
    pub fn delete(&self) -> Result<()> {
        run(Command::new("ip").args(["netns", "delete", &self.name]))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Runs `job` in this namespace, on a thread that ends with it.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let file = File::open(&path)
            .with_context(|| format!("network namespace {}: cannot open {}", self.name, path.display()))?;
        let body = || -> Result<T> {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("network namespace {}: cannot enter", self.name))?;
            Ok(job())
        };
        thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A command that will run in this namespace (network only: files and mounts stay the caller's).
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `ip` with these words, e.g. `ns.ip("link set eth0 up")`.
    pub fn ip(&self, words: &str) -> Result<()> {
        // A child begins in the namespace of the thread that starts it: no `nsenter`, whose start costs as much as that of `ip`.
        self.run(|| run(Command::new("ip").args(words.split_whitespace())))?
    }

    /// Sets a sysctl below `/proc/sys/net`, e.g. `("ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("network namespace {}: {path} = {value}", self.name))
    }

    /// Loads a ruleset with `nft -f`, all or nothing.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        use std::io::Write;
        use std::process::Stdio;
        let mut child = self
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("network namespace {}: cannot start nft", self.name))?;
        child.stdin.take().expect("stdin is piped").write_all(ruleset.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("network namespace {}: nft: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

/// Runs a command to its end; an exit code other than 0 is an error that shows command and output.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Like [`run`], and returns what the command printed.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = || {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    };
    let text = shown();
    let output = command.output().with_context(|| format!("cannot start `{text}`"))?;
    if !output.status.success() {
        bail!("`{text}`: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
