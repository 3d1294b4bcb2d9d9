//! A throw-away virtual machine with Debian's own kernel, for what the host's kernel lacks (ipvlan above all).
//!
//! The guest needs no image: it sees the host's `/` read-only over 9p under an overlay in memory, so it may write anywhere and nothing
//! reaches the host except below the scratch directory, which both share under the same path. The kernel is Debian's `linux-image` package,
//! fetched once and unpacked into a cache, never installed. No KVM is needed (and none is used: nested machines often break it).
//!
//! Expected flow: [`Vm::boot`] starts QEMU in a session of its own; [`Guest::follow`] passes the command's output on until it has ended or
//! the guest is gone; afterwards the guest powers itself off, unless the command left a file `stay` in the scratch directory.
//!
//! Caveats: start programs inside as static binaries, a dynamic one costs some 20 ms under emulation. Unix sockets and locks on shared
//! files work inside the guest but do not reach the host.

mod initramfs;
mod kernel;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use kernel::Kernel;

/// A program that the runner calls, and the Debian package that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    /// Name on `PATH`.
    pub program: &'static str,
    /// Debian package.
    pub package: &'static str,
}

/// What must be installed on the host for [`Vm::boot`]; the kernel is fetched by [`Kernel::fetched`] itself.
pub fn requirements() -> &'static [Requirement] {
    &[
        Requirement { program: "qemu-system-x86_64", package: "qemu-system-x86" },
        Requirement { program: "busybox", package: "busybox-static" },
        Requirement { program: "depmod", package: "kmod" },
        Requirement { program: "xz", package: "xz-utils" },
        Requirement { program: "apt-get", package: "apt" },
        Requirement { program: "dpkg-deb", package: "dpkg" },
    ]
}

/// The required programs that `PATH` does not have.
pub fn missing() -> Vec<Requirement> {
    requirements().iter().copied().filter(|need| on_path(need.program).is_none()).collect()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(beside).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A TCP port of the host that leads to a port of the guest.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Where the host listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

/// A machine to be started.
#[derive(Debug)]
pub struct Vm {
    /// Where the unpacked kernel is kept.
    pub cache: PathBuf,
    /// Shared with the host, writable; empty it before.
    pub scratch: PathBuf,
    /// Host name inside.
    pub name: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB; the guest's writes to files count against it.
    pub memory: u32,
    /// Kernel modules to load before the command runs.
    pub modules: Vec<&'static str>,
    /// Ports of the host that lead into the guest.
    pub forwards: Vec<Forward>,
    /// Program and arguments; runs as root in `/`.
    pub command: Vec<String>,
}

/// The guest kernel's command line (Linux, Documentation/admin-guide/kernel-parameters.rst).
///
/// Emulation is what a run's time goes into, so whatever only hardens is off. `norandmaps` matters most: QEMU keeps translated code by
/// virtual address too, so with randomized ones every start of a program is translated anew (`ip` takes 170 ms with it, 50 ms without).
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 tsc=reliable net.ifnames=0 mitigations=off norandmaps init_on_alloc=0 \
    hardened_usercopy=off randomize_kstack_offset=off lsm= audit=0 psi=0 nowatchdog preempt=none cgroup_disable=memory";

/// The address that a guest has behind [`Forward`]s: the one that QEMU's user network forwards to.
pub const GUEST_ADDRESS: &str = "10.0.2.15/24";

impl Vm {
    /// Starts the machine. It runs in a session of its own, so that it can outlive this process.
    pub fn boot(&self, progress: &mut dyn FnMut(&str)) -> Result<Guest> {
        let lacking = missing();
        if let Some(first) = lacking.first() {
            let packages: Vec<_> = lacking.iter().map(|need| need.package).collect();
            bail!("{} is not installed; install: {}", first.program, packages.join(" "));
        }
        let kernel = Kernel::fetched(&self.cache, progress)?;
        fs::create_dir_all(&self.scratch).with_context(|| format!("cannot make {}", self.scratch.display()))?;
        let initrd = self.scratch.join("initrd");
        let busybox = on_path("busybox").context("busybox is not installed; install: busybox-static")?;
        fs::write(&initrd, initramfs::build(&kernel, &busybox, &self.variables(&kernel))?)
            .with_context(|| format!("cannot write {}", initrd.display()))?;
        for stale in ["exit-code", "stay", "console"] {
            let _ = fs::remove_file(self.scratch.join(stale));
        }
        progress("starting QEMU");
        let child = self.qemu(&kernel, &initrd).spawn().context("cannot start QEMU")?;
        Ok(Guest { pid: child.id(), scratch: self.scratch.clone(), child: Some(child), started: Instant::now() })
    }

    /// Shell variables for the scripts of the guest.
    fn variables(&self, kernel: &Kernel) -> String {
        let mut text = String::new();
        let command: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        let values = [
            ("SCRATCH", self.scratch.display().to_string()),
            ("KERNEL_DIR", kernel.dir.display().to_string()),
            ("HOST_NAME", self.name.clone()),
            ("MODULES", self.modules.join(" ")),
            ("COMMAND", command.join(" ")),
            ("NIC_ADDRESS", if self.forwards.is_empty() { String::new() } else { GUEST_ADDRESS.to_owned() }),
        ];
        for (name, value) in values {
            let _ = writeln!(text, "{name}={}", quoted(&value));
        }
        text
    }

    fn qemu(&self, kernel: &Kernel, initrd: &Path) -> Command {
        let scratch = self.scratch.display();
        let mut qemu = Command::new(std::env::var_os("VM_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into()));
        // The default processor hangs without a word under TCG, hence `max`; `la57` costs a page-table level for nothing.
        qemu.args([
            "-M",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "max,la57=off",
            "-no-reboot",
            "-nodefaults",
            "-no-user-config",
        ]);
        qemu.args(["-display", "none", "-m", &self.memory.to_string(), "-smp", &self.cpus.to_string()]);
        qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
        qemu.args(["-append", KERNEL_COMMAND_LINE]);
        qemu.args(["-serial", &format!("file:{scratch}/kernel.log")]);
        qemu.args(["-device", "virtio-serial-pci", "-chardev", &format!("file,id=console,path={scratch}/console")]);
        qemu.args(["-device", "virtconsole,chardev=console", "-device", "virtio-rng-pci"]);
        qemu.args(["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"]);
        qemu.args(["-virtfs", &format!("local,path={scratch},mount_tag=scratch,security_model=none,multidevs=remap")]);
        if !self.forwards.is_empty() {
            let forwards = self.forwards.iter().fold(String::new(), |mut text, forward| {
                let _ = write!(text, ",hostfwd=tcp:{}:{}-:{}", forward.host.ip(), forward.host.port(), forward.guest);
                text
            });
            qemu.args([
                "-netdev",
                &format!("user,id=n0{forwards}"),
                "-device",
                "virtio-net-pci,netdev=n0,mac=52:54:00:00:01:00",
            ]);
        }
        let log = fs::File::create(self.scratch.join("qemu.log"));
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.map_or_else(|_| Stdio::null(), Stdio::from));
        qemu.process_group(0);
        qemu
    }
}

/// Quotes a word for the shell.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A running machine.
#[derive(Debug)]
pub struct Guest {
    /// QEMU's process.
    pub pid: u32,
    scratch: PathBuf,
    child: Option<std::process::Child>,
    started: Instant,
}

/// How the command in the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub code: u8,
    /// Whether the guest stays up, as the command asked.
    pub stays: bool,
}

impl Guest {
    /// Passes the command's output on until it has ended.
    ///
    /// # Errors
    /// The guest died (the kernel's last lines are in the message), or `limit` is over; the guest is ended then.
    pub fn follow(&mut self, limit: Duration, mut output: impl FnMut(&[u8])) -> Result<Ended> {
        let mut shown = 0;
        loop {
            let code = fs::read_to_string(self.scratch.join("exit-code")).ok();
            let gone = self.gone();
            shown += self.pass_on(shown, &mut output)?;
            if let Some(code) = code {
                let code = code.trim().parse().context("the guest left an exit code that is no number")?;
                return Ok(Ended { code, stays: self.scratch.join("stay").exists() });
            }
            if gone {
                bail!("the guest died: {}", self.last_words());
            }
            if self.started.elapsed() > limit {
                self.kill();
                bail!("the guest did not end within {} s: {}", limit.as_secs(), self.last_words());
            }
            thread::sleep(Duration::from_millis(30));
        }
    }

    fn pass_on(&self, from: u64, output: &mut impl FnMut(&[u8])) -> Result<u64> {
        let Ok(mut console) = fs::File::open(self.scratch.join("console")) else { return Ok(0) };
        console.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        console.read_to_end(&mut bytes).context("cannot read the guest's console")?;
        if !bytes.is_empty() {
            output(&bytes);
        }
        Ok(bytes.len() as u64)
    }

    fn gone(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().is_ok_and(|status| status.is_some()),
            None => true,
        }
    }

    fn last_words(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read(self.scratch.join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            text.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | ")
        };
        format!("kernel: {}; qemu: {}", tail("kernel.log"), tail("qemu.log"))
    }

    /// Ends the guest at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the guest has powered itself off; after `limit` it is ended.
    pub fn wait(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.gone() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        self.kill();
    }

    /// Leaves the guest running when this value is dropped.
    pub fn detach(mut self) -> u32 {
        self.child = None;
        self.pid
    }
}

/// Ends a guest by its process.
pub fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["plain", "with space", "it's", "$HOME `id` \\ \"", ""] {
            let out = Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
        }
    }

    #[test]
    #[ignore = "vm"]
    fn the_guest_has_ipvlan_and_returns_the_exit_code() {
        let scratch = std::env::temp_dir().join(format!("spiderpool-vm-{}", std::process::id()));
        let cache = std::env::var_os("LAB_CACHE").map_or_else(|| scratch.join("cache"), PathBuf::from);
        let script = "ip link add d0 type veth && ip link add i0 link d0 type ipvlan mode l2 && echo made; exit 7";
        let vm = Vm {
            cache,
            scratch: scratch.clone(),
            name: "guest".into(),
            cpus: 1,
            memory: 512,
            modules: vec!["ipvlan", "veth"],
            forwards: vec![],
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        };
        let mut seen = Vec::new();
        let mut guest = vm.boot(&mut |_| {}).unwrap();
        let ended = guest.follow(Duration::from_secs(120), |bytes| seen.extend_from_slice(bytes)).unwrap();
        guest.wait(Duration::from_secs(20));
        let _ = fs::remove_dir_all(&scratch);
        assert_eq!(ended, Ended { code: 7, stays: false });
        assert!(String::from_utf8_lossy(&seen).contains("made"), "{}", String::from_utf8_lossy(&seen));
    }
}
