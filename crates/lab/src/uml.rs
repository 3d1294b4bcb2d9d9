//! A throw-away machine whose kernel is a process of this one (User Mode Linux, Debian's package `user-mode-linux`), for what the host's
//! kernel lacks: ipvlan above all.
//!
//! It needs no hardware support and computes at the host's own speed, on one processor; a system call costs some 10 us, the start of a
//! program some 15 ms. Where that is too slow for a job of very many system calls, or nftables are needed, there is [`crate::vm`].
//!
//! The guest sees the host's `/` read-only under an overlay in memory, so it may write anywhere and nothing reaches the host except below
//! the shared directories, which both have under the same path. Its network interfaces are the host's, by packet sockets: what arrives at
//! one of these on the host arrives in the guest, with the same MAC address.
//!
//! # Caveats
//! * Unix sockets, locks and inotify on shared files do not reach across.
//! * The kernel has no nftables (the `iptables` commands are the legacy ones), no RDMA, and HZ is 100.
//! * The host's own network stack sees the interfaces' packets as well: give it no addresses there.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::vm::quoted;
use crate::vpc::mac::Mac;

/// The kernel, a program.
pub const PROGRAM: &str = "linux.uml";

/// Begin empty, and in memory: the host may have its own content there, and a container runtime's disk must not be an overlay itself.
const OWN: [&str; 5] = ["var/lib", "var/log", "opt", "etc/cni", "tmp"];

/// A network interface of the guest.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its name, the same on the host and in the guest.
    pub interface: String,
    /// Its MAC address, the same on both sides too.
    pub mac: Mac,
}

/// A machine to be started.
#[derive(Debug, Clone)]
pub struct Uml {
    /// A directory of its own for what it takes to start, and for the kernel's log.
    pub dir: PathBuf,
    /// Host name inside.
    pub name: String,
    /// Memory in MiB, taken only as far as it is used; the guest's writes to files count against it.
    pub memory: u32,
    /// Kernel modules to load before the command runs.
    pub modules: Vec<&'static str>,
    /// Its interfaces, which must be in the network namespace where it is started.
    pub nics: Vec<Nic>,
    /// Directories that are the same inside and outside, writable.
    pub shared: Vec<PathBuf>,
    /// Program and arguments; becomes the guest's first process. The guest ends with it.
    pub command: Vec<String>,
}

impl Uml {
    /// Writes what the guest needs to start and returns the command that becomes it. What the guest's command prints is that command's output.
    pub fn command(&self) -> Result<Command> {
        let dir = &self.dir;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for (name, text) in [
            ("init", include_str!("uml/init.sh")),
            ("stage2.sh", include_str!("uml/stage2.sh")),
            ("vars", &self.variables()?),
        ] {
            let file = dir.join(name);
            fs::write(&file, text)
                .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let mut words = vec![PROGRAM.to_owned(), format!("mem={}M", self.memory)];
        words.extend(["rootfstype=hostfs", "rootflags=/", "ro"].map(str::to_owned));
        words.extend([format!("init={}/init", dir.display()), format!("uml_dir={}/", dir.display())]);
        words.extend(["umid=uml", "con=null", "con0=null,fd:4", "con1=null,fd:3", "ssl=null"].map(str::to_owned));
        words.extend(["quiet", "panic=-1", "net.ifnames=0"].map(str::to_owned));
        words.extend(self.nics.iter().enumerate().map(|(at, nic)| {
            format!("vec{at}:transport=raw,ifname={},depth=128,gro=1,mac={}", nic.interface, nic.mac)
        }));
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        // The kernel writes to descriptors that it finds open.
        let script = format!(
            "exec {} 3>&1 4> {dir}/kernel.log > {dir}/uml.log 2>&1 < /dev/null",
            words.join(" "),
            dir = quoted(&dir.display().to_string())
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]);
        Ok(command)
    }

    /// Shell variables for the scripts of the guest.
    fn variables(&self) -> Result<String> {
        let command: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        let interfaces: Vec<_> = self.nics.iter().map(|nic| nic.interface.as_str()).collect();
        let shared = self.shared.iter().map(|dir| one_word(dir)).collect::<Result<Vec<_>>>()?;
        let values = [
            ("HOST_NAME", self.name.clone()),
            ("OWN", OWN.join(" ")),
            ("SHARED", shared.join(" ")),
            ("MODULES", self.modules.join(" ")),
            ("INTERFACES", interfaces.join(" ")),
            ("COMMAND", command.join(" ")),
        ];
        let mut text = String::new();
        for (name, value) in values {
            let _ = writeln!(text, "{name}={}", quoted(&value));
        }
        Ok(text)
    }
}

/// A directory in a list that a shell takes apart at blanks.
fn one_word(dir: &Path) -> Result<String> {
    let text = dir.display().to_string();
    ensure!(
        dir.is_absolute() && !text.contains(char::is_whitespace),
        "a guest cannot share {text:?}: absolute paths without blanks only"
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(dir: &Path, shared: &str) -> Uml {
        Uml {
            dir: dir.to_owned(),
            name: "guest".into(),
            memory: 256,
            modules: vec!["ipvlan", "veth"],
            nics: vec![],
            shared: vec![shared.into()],
            command: vec!["echo".into(), "it's".into()],
        }
    }

    #[test]
    fn the_scripts_get_what_was_given() {
        let dir = tempfile::tempdir().unwrap();
        machine(dir.path(), "/some/where").command().unwrap();
        let script = format!(". {}/vars; echo $SHARED/$MODULES; eval \"exec $COMMAND\"", dir.path().display());
        let out = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "/some/where/ipvlan veth\nit's\n");
    }

    #[test]
    fn a_directory_that_a_shell_would_take_apart_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for shared in ["/some where", "some/where"] {
            let error = machine(dir.path(), shared).command().unwrap_err().to_string();
            assert!(error.contains(&format!("{shared:?}")), "{error}");
        }
    }
}
