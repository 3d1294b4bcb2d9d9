//! TAP devices. The only unsafe code of the lab: two ioctls that take a `struct ifreq`.
#![allow(unsafe_code)]

use super::mac::Mac;
use crate::netns::Netns;
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::io;
use rustix::ioctl::{Opcode, Updater, ioctl};
use std::ffi::c_short;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const TUNSETIFF: Opcode = 0x4004_54ca;
const SIOCSIFHWADDR: Opcode = 0x8924;
const IFF_TAP: c_short = 0x0002;
const IFF_NO_PI: c_short = 0x1000;
const ARPHRD_ETHER: c_short = 1;

/// `struct ifreq` of `linux/if.h` on a 64-bit machine: the name and 24 bytes that depend on the call.
#[repr(C)]
struct Request {
    name: [u8; 16],
    /// `ifr_flags`, or the family of `ifr_hwaddr`.
    word: c_short,
    /// The rest; begins with the bytes of `ifr_hwaddr`.
    rest: [u8; 22],
}

/// The switch's end of a TAP device. The device lives as long as this does, in the namespace where it was made, which it
/// keeps alive.
///
/// It has no offloads: the machine behind it computes every checksum and cuts every segment before the switch sees a frame.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
}

impl Tap {
    /// Makes a TAP device of that name and MAC in the namespace, and sets it up.
    pub fn create(netns: &Netns, name: &str, mac: Mac) -> Result<Self> {
        let place = || format!("cannot make interface {name} in network namespace {}", netns.name());
        // The device appears in the namespace of the thread that opened the file.
        let fd = netns.run(|| make(name, mac))?.with_context(place)?;
        netns.set_up(name).with_context(place)?;
        Ok(Self { fd })
    }

    /// Reads the next frame; `None` if none is waiting.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.fd, buffer) {
            Ok(length) => Ok(Some(length)),
            Err(io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a frame to the machine.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.fd, frame).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn make(name: &str, mac: Mac) -> Result<OwnedFd> {
    let mut request = Request { name: [0; 16], word: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
    if name.is_empty() || name.len() > 15 {
        bail!("interface name `{name}` must have 1 to 15 bytes");
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let fd = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .context("cannot open /dev/net/tun")?;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `Request` is.
    unsafe { ioctl(&fd, Updater::<TUNSETIFF, Request>::new(&mut request)) }.context("TUNSETIFF")?;
    request.word = ARPHRD_ETHER;
    request.rest[..6].copy_from_slice(&mac.0);
    // SAFETY: SIOCSIFHWADDR on a tun file reads one `struct ifreq` with the address in `ifr_hwaddr`.
    unsafe { ioctl(&fd, Updater::<SIOCSIFHWADDR, Request>::new(&mut request)) }
        .with_context(|| format!("cannot set MAC {mac}"))?;
    Ok(fd)
}
