//! `tuneSysctlConfig`: kernel settings that nodes with many underlay pods need (upstream's contract: config, §4.1).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {key} to {value}")]
pub struct SysctlError {
    key: &'static str,
    value: &'static str,
    #[source]
    source: std::io::Error,
}

const SETTINGS: [(&str, &str, bool, bool); 6] = [
    ("net.ipv4.neigh.default.gc_thresh3", "28160", true, false),
    ("net.ipv6.neigh.default.gc_thresh3", "28160", false, true),
    ("net.ipv4.conf.all.arp_notify", "1", true, false),
    ("net.ipv4.conf.all.forwarding", "1", true, false),
    ("net.ipv6.conf.all.forwarding", "1", false, true),
    ("net.ipv4.conf.all.rp_filter", "0", true, true),
];

/// Makes the settings of the enabled families below `root` (`/proc/sys`). A setting the kernel does not have is skipped with a warning.
pub fn tune(root: &Path, ipv4: bool, ipv6: bool) -> Result<(), SysctlError> {
    for (key, value, of_v4, of_v6) in SETTINGS {
        if !(of_v4 && ipv4 || of_v6 && ipv6) {
            continue;
        }
        let path: PathBuf = root.join(key.replace('.', "/"));
        match std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| {
            use std::io::Write;
            file.write_all(value.as_bytes())
        }) {
            Ok(()) => tracing::info!(key, value, "kernel setting made"),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!(key, "this kernel or namespace has no such setting")
            }
            Err(source) => return Err(SysctlError { key, value, source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_exists_and_is_enabled_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let file = |key: &str| dir.path().join(key.replace('.', "/"));
        for key in ["net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.rp_filter"] {
            std::fs::create_dir_all(file(key).parent().unwrap()).unwrap();
            std::fs::write(file(key), "?").unwrap();
        }
        tune(dir.path(), false, true).unwrap();
        let read = |key: &str| std::fs::read_to_string(file(key)).unwrap();
        assert_eq!(read("net.ipv4.conf.all.forwarding"), "?");
        assert_eq!(
            (read("net.ipv6.conf.all.forwarding"), read("net.ipv4.conf.all.rp_filter")),
            ("1".into(), "0".into())
        );
        assert!(!file("net.ipv6.neigh.default.gc_thresh3").exists());
    }
}
