//! Reply marks: what entered by one interface leaves by it.
//!
//! A connection whose first packet enters by the interface gets one bit of its connection mark. Replies of such a
//! connection get the same bit of the packet mark before they are routed, and a rule sends marked packets back. Only
//! one bit is touched, so that other users of marks keep theirs. It acts on the calling thread's namespace.
//!
//! ```text
//! table inet spiderpool {
//!   chain prerouting { type filter hook prerouting priority mangle; iifname "veth0" ct state new ct mark set ct mark or 0x1 }
//!   chain output { type route hook output priority mangle; ct direction reply ct mark and 0x1 == 0x1 meta mark set meta mark or 0x1 }
//! }
//! ```
//!
//! A kernel without nftables gets the same by `iptables` and `ip6tables` (`mangle` table).

mod iptables;
mod nftables;

use crate::{Error, Family};

/// The bit, of connection marks and of packet marks.
pub const MARK: u32 = 0x1;

/// How the marks are, or can be, installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Nftables,
    Iptables,
}

/// Whether the marks for an interface are in place, complete.
pub fn installed(interface: &str, families: &[Family]) -> Result<bool, Error> {
    match nftables::installed() {
        Ok(true) => Ok(true),
        Ok(false) => Ok(iptables::in_use() && iptables::installed(interface, families)),
        Err(error) if lacks_nftables(&error) => Ok(iptables::installed(interface, families)),
        Err(error) => Err(error),
    }
}

/// Installs the marks for an interface. Complete or not at all with nftables, which is tried first.
pub fn install(interface: &str, families: &[Family]) -> Result<Engine, Error> {
    match nftables::install(interface) {
        Ok(()) => Ok(Engine::Nftables),
        Err(error) if lacks_nftables(&error) => match iptables::install(interface, families) {
            Ok(()) => Ok(Engine::Iptables),
            Err(why) => Err(Error::NoPacketFilter { nftables: error.to_string(), iptables: why }),
        },
        Err(error) => Err(error),
    }
}

/// Removes the marks. Absent ones are no error.
pub fn remove(interface: &str, families: &[Family]) -> Result<(), Error> {
    match nftables::remove() {
        Err(error) if lacks_nftables(&error) => {
            iptables::remove(interface, families);
            Ok(())
        }
        other => other,
    }
}

/// No nfnetlink, no nf_tables, no `inet` family, or no `ct` expression.
fn lacks_nftables(error: &Error) -> bool {
    error.unsupported() || error.errno() == Some(libc::ENOENT)
}
