//! The guest's first file system: busybox, the modules that it takes to mount the host's `/`, and the two scripts.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::kernel::Kernel;

/// What mounting the shares takes.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// The archive as the kernel takes it.
pub(super) fn build(kernel: &Kernel, busybox: &Path, variables: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "m"] {
        archive.add(dir, 0o040_755, &[]);
    }
    let program = fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    archive.add("bin/busybox", 0o100_755, &program);
    for (number, module) in kernel.modules(&MODULES)?.iter().enumerate() {
        archive.add(&format!("m/{number:03}.ko"), 0o100_644, &kernel.module_image(module)?);
    }
    archive.add("init", 0o100_755, include_bytes!("init.sh"));
    archive.add("stage2.sh", 0o100_644, include_bytes!("stage2.sh"));
    archive.add("vars", 0o100_600, variables.as_bytes());
    Ok(archive.finished())
}

/// A cpio archive in the `newc` format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // magic, inode, mode, uid, gid, links, mtime, size, device and rdevice (major, minor), length of the name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finished(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_reads_the_archive() {
        let mut archive = Archive::default();
        archive.add("bin", 0o040_755, &[]);
        archive.add("bin/a", 0o100_755, b"hello");
        archive.add("b", 0o100_644, &[7; 4097]);
        let mut cpio = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&archive.finished()).unwrap();
        let listing = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let rows: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        let seen: Vec<(&str, &str, &str)> = rows.iter().map(|row| (row[0], row[4], *row.last().unwrap())).collect();
        assert_eq!(seen, [("drwxr-xr-x", "0", "bin"), ("-rwxr-xr-x", "5", "bin/a"), ("-rw-r--r--", "4097", "b")]);
    }
}
