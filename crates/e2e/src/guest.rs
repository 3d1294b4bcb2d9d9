//! A run in a virtual machine, where this kernel lacks what it takes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use lab::lock::Lock;
use lab::vm::{self, Ended, Guest, Vm};
use tokio::signal::unix::{SignalKind, signal};

/// What the guest's kernel needs beside what loads by itself.
pub const MODULES: [&str; 16] = [
    "ipvlan",
    "macvlan",
    "veth",
    "tun",
    "bridge",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_fib_inet",
    "nft_numgen",
    "nft_reject_inet",
    "nf_conntrack_netlink",
    "nf_nat",
    "8021q",
];
/// As many processors as emulation makes use of.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(2, |count| count.get().clamp(1, 4) as u32)
}

/// Boots the machine and passes on what its command prints, until that has ended. On a signal the guest goes with this process.
/// `booted` learns the guest's process.
pub fn run(
    machine: &Vm,
    limit: Duration,
    quiet: bool,
    lock: &Arc<Lock>,
    booted: impl FnOnce(u32) -> Result<()>,
) -> Result<(Guest, Ended)> {
    let mut guest = machine.boot(&mut |line| {
        if !quiet {
            println!("   {line}")
        }
    })?;
    let pid = guest.pid;
    booted(pid)?;
    on_signal(Some(lock), move || {
        vm::kill(pid);
        "the guest is gone".into()
    })?;
    let ended = guest.follow(limit, |bytes| {
        let mut out = std::io::stdout().lock();
        if is_interrupted() {
            return;
        }
        // A reader that went away does not end the run.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    })?;
    Ok((guest, ended))
}

/// A signal has come: the process ends as soon as everything is cleared away.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether a signal ends this process; whoever has something to print keeps it to himself then.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Leaves the last word to the thread that clears up, if a signal has come.
pub fn unless_interrupted() {
    while is_interrupted() {
        std::thread::park();
    }
}

/// On Ctrl-C, TERM or HUP: clears up, says what became of it, and ends this process. On a thread of its own, because the story blocks.
/// The lock, which nobody will drop then, is given back.
pub fn on_signal(lock: Option<&Arc<Lock>>, clear: impl FnOnce() -> String + Send + 'static) -> Result<()> {
    // The thread outlives the run, the lock does not.
    let lock = lock.map(Arc::downgrade);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
            let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals else {
                return std::future::pending().await;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        // The story goes on meanwhile, but says no more.
        INTERRUPTED.store(true, Ordering::SeqCst);
        let outcome = clear();
        if let Some(lock) = lock.and_then(|lock| lock.upgrade()) {
            lock.release();
        }
        eprintln!("interrupted: {outcome}");
        std::process::exit(130);
    });
    Ok(())
}
