//! The system calls that give the calling thread namespaces of its own.
#![allow(unsafe_code)]

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread a network namespace of its own. Call it on a thread that ends soon.
pub fn own_network() -> io::Result<()> {
    separate(UnshareFlags::NEWNET)
}

/// Gives this process mounts and a host name of its own. Fails in a process with several threads, as the kernel demands.
pub fn own_mounts_and_name() -> io::Result<()> {
    separate(UnshareFlags::NEWNS | UnshareFlags::NEWUTS)
}

/// Gives this process a host name of its own.
pub fn own_name() -> io::Result<()> {
    separate(UnshareFlags::NEWUTS)
}

/// Gives the processes that this thread starts ids of their own; the first of them is their init, and all end with it.
pub fn own_processes() -> io::Result<()> {
    separate(UnshareFlags::NEWPID)
}

fn separate(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only `FILES` makes `unshare` unsafe (a thread would lose sight of file descriptors); no caller above passes it.
    unsafe { unshare_unsafe(flags) }.map_err(Into::into)
}
