//! Debian's kernel, fetched as a package and unpacked into a cache.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// An unpacked `linux-image` package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Where `boot/` and `lib/modules/` are.
    pub dir: PathBuf,
    /// The bootable file: the packed kernel, or its ELF image (which starts 2 s sooner).
    pub image: PathBuf,
    /// Its version, as `uname -r` prints it.
    pub version: String,
}

impl Kernel {
    /// The kernel in `cache`; fetched there with apt (about 70 MB) if it is not there yet.
    pub fn fetched(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let dir = cache.join("kernel");
        if !dir.join("ready").exists() {
            fetch(cache, &dir, progress)?;
        }
        Self::unpacked(&dir)
    }

    /// The kernel that was unpacked to `dir`.
    fn unpacked(dir: &Path) -> Result<Self> {
        let version = version(dir)?;
        let elf = dir.join("elf");
        let image = if elf.exists() { elf } else { dir.join("boot").join(format!("vmlinuz-{version}")) };
        Ok(Self { dir: dir.to_owned(), image, version })
    }

    fn module_dir(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.version)
    }

    /// The files of these modules and of all that they need, in the order of loading. Built-in ones are left out.
    pub(super) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let path = self.module_dir().join("modules.dep");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let needs = dependencies(&text);
        let mut order = Vec::new();
        for name in names {
            let Some((file, deps)) = needs.get(*name) else { continue };
            // modules.dep names what must come first last.
            for each in deps.iter().rev().chain([file]) {
                let each = self.module_dir().join(each);
                if !order.contains(&each) {
                    order.push(each);
                }
            }
        }
        Ok(order)
    }

    /// The module as `insmod` takes it.
    pub(super) fn module_image(&self, file: &Path) -> Result<Vec<u8>> {
        let unpack = match file.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => "xz",
            Some("zst") => "zstd",
            _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
        };
        output(Command::new(unpack).arg("-dcq").arg(file))
    }
}

/// Module name -> (file, files it depends on), from the text of `modules.dep`.
fn dependencies(text: &str) -> HashMap<String, (&str, Vec<&str>)> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, deps)| {
            let base = file.rsplit('/').next().unwrap_or(file);
            let name = base.split(".ko").next().unwrap_or(base).replace('-', "_");
            (name, (file, deps.split_whitespace().collect()))
        })
        .collect()
}

fn fetch(cache: &Path, dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let part = cache.join("kernel.part");
    let _ = fs::remove_dir_all(&part);
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    let depends = String::from_utf8(output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?)?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .context("apt knows no linux-image-amd64; run apt-get update, or add Debian's main component to its sources")?;
    progress(&format!("fetching {package} (about 70 MB, once)"));
    output(
        Command::new("apt-get").args(["-qq", "-o", "APT::Sandbox::User=root", "download", package]).current_dir(&part),
    )?;
    let deb = fs::read_dir(&part)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"));
    let deb = deb.with_context(|| format!("apt-get download {package} left no package in {}", part.display()))?;
    progress("unpacking the kernel");
    output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&part))?;
    fs::remove_file(&deb)?;
    let version = version(&part)?;
    output(Command::new("/sbin/depmod").arg("-b").arg(&part).arg(&version))?;
    unpack_elf(&part, &version)?;
    fs::write(part.join("ready"), &version)?;
    fs::rename(&part, dir).with_context(|| format!("cannot move the kernel to {}", dir.display()))
}

fn version(dir: &Path) -> Result<String> {
    let boot = dir.join("boot");
    let names = fs::read_dir(&boot).with_context(|| format!("no kernel in {}", boot.display()))?;
    let mut versions: Vec<String> = names
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .collect();
    versions.sort();
    // The cloud flavour has no 9p.
    versions
        .into_iter()
        .rfind(|version| !version.contains("cloud"))
        .with_context(|| format!("no vmlinuz in {}", boot.display()))
}

/// Takes the ELF image out of the packed kernel, so that the guest need not do it at each start. A kernel packed otherwise stays as it is.
fn unpack_elf(dir: &Path, version: &str) -> Result<()> {
    let packed = fs::read(dir.join("boot").join(format!("vmlinuz-{version}")))?;
    for (tool, magic) in [("xz", &b"\xfd7zXZ\0"[..]), ("zstd", &b"\x28\xb5\x2f\xfd"[..])] {
        let Some(at) = packed.windows(magic.len()).position(|window| window == magic) else { continue };
        let payload = dir.join("payload");
        fs::write(&payload, &packed[at..])?;
        // What follows the payload is not packed: the tool says so after it has written all.
        let elf = Command::new(tool)
            .arg("-dcq")
            .stdin(fs::File::open(&payload)?)
            .stderr(std::process::Stdio::null())
            .output();
        fs::remove_file(&payload)?;
        if let Ok(elf) = elf
            && elf.stdout.starts_with(b"\x7fELF")
        {
            fs::write(dir.join("elf"), elf.stdout)?;
            return Ok(());
        }
    }
    Ok(())
}

/// Runs a tool and returns what it printed.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    ensure!(
        !output.stdout.is_empty() || output.status.success(),
        "{name} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_after_what_they_need() {
        let text = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/fscache/fscache.ko kernel/fs/netfs/netfs.ko\nkernel/net/9p/9pnet.ko:\n";
        let needs = dependencies(text);
        assert_eq!(needs["9p"].0, "kernel/fs/9p/9p.ko");
        assert_eq!(needs["9p"].1.len(), 3);
        assert!(needs["9pnet"].1.is_empty());
    }
}
