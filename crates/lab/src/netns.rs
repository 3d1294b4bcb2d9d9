//! Named network namespaces (`/run/netns/NAME`), as `ip netns` makes them.
//!
//! Nothing here leaves the calling thread in another namespace: [`Netns::run`] switches a thread that ends with the job,
//! [`Netns::command`] starts a process there.

use crate::{isolate, links};
use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
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

    /// Makes the namespace, with its loopback up.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let ns = Self::named(name);
        make(&ns.path())?;
        Ok(ns)
    }

    /// Removes the name; the namespace itself goes with its last process.
    pub fn delete(&self) -> Result<()> {
        remove(&self.path())
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

    /// Runs `ip` once for many lines, in order; the first that fails ends it. A line names no family: addresses tell it.
    pub fn ip_all(&self, lines: &[String]) -> Result<()> {
        let what = || format!("network namespace {}: `ip -batch`", self.name);
        let output =
            self.run(|| feed(Command::new("ip").args(["-batch", "-"]), &lines.join("\n")))?.with_context(what)?;
        if output.status.success() {
            return Ok(());
        }
        bail!("{}: {}; the lines: {}", what(), String::from_utf8_lossy(&output.stderr).trim(), lines.join("; "))
    }

    /// Sets an interface up.
    pub fn set_up(&self, interface: &str) -> Result<()> {
        self.run(|| links::set_up(interface))?.with_context(|| format!("network namespace {}", self.name))
    }

    /// Sets a sysctl below `/proc/sys/net`, e.g. `("ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("network namespace {}: {path} = {value}", self.name))
    }

    /// Loads a ruleset with `nft -f`, all or nothing.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        let output = self
            .run(|| feed(Command::new("nft").args(["-f", "-"]), ruleset))?
            .with_context(|| format!("network namespace {}: nft", self.name))?;
        if !output.status.success() {
            bail!("network namespace {}: nft: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

/// Makes a network namespace under that path, with its loopback up, as `ip netns add` and then `ip link set lo up` would.
pub fn make(path: &Path) -> Result<()> {
    let what = || format!("network namespace {}", path.display());
    std::fs::create_dir_all(path.parent().context("a path without directory")?).with_context(what)?;
    File::create_new(path).with_context(what)?;
    let body = || -> Result<()> {
        isolate::own_network()?;
        links::set_up("lo")?;
        Ok(mount_bind("/proc/thread-self/ns/net", path)?)
    };
    let made = thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| resume_unwind(panic));
    made.with_context(what)
}

/// Removes the name of a network namespace; the namespace goes with the last process in it.
pub fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    // Not mounted after a crash between making the file and binding it.
    let _ = unmount(path, UnmountFlags::DETACH);
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Runs a command with that text on its standard input.
fn feed(command: &mut Command, text: &str) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    child.stdin.take().expect("stdin is piped").write_all(text.as_bytes())?;
    Ok(child.wait_with_output()?)
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
