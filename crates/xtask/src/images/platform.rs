//! Architectures: which toolchain compiles for them, and whether a file is what it should be.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use oci::Platform;

use crate::build::{self, Profile};
use crate::run::{command, has, output, root};
use crate::setup::MUSL;

const ARM: &str = "aarch64-unknown-linux-musl";

/// An architecture by its name in Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// What this program runs on.
    pub fn of_this_machine() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }

    /// The image's word for it.
    pub fn platform(self) -> Platform {
        match self {
            Self::Amd64 => Platform::Amd64,
            Self::Arm64 => Platform::Arm64,
        }
    }

    /// How to compile for it, or why this machine cannot.
    pub fn target(self) -> Result<Target, String> {
        let platform = self.platform();
        let target = |triple, environment| Ok(Target { platform, triple, environment });
        match self {
            Self::Amd64 if self == Self::of_this_machine() => target(MUSL, Vec::new()),
            Self::Amd64 => Err(format!("only a machine of this architecture compiles for {MUSL}")),
            Self::Arm64 => {
                if !has_target(ARM) {
                    return Err(format!("the Rust target {ARM} is not installed (`rustup target add {ARM}`)"));
                }
                let own = self == Self::of_this_machine();
                let compilers: &[&str] =
                    if own { &["musl-gcc"] } else { &["aarch64-linux-musl-gcc", "aarch64-linux-gnu-gcc"] };
                let Some(compiler) = compilers.iter().copied().find(|one| has(one)) else {
                    return Err(format!("no C compiler for {ARM} ({})", compilers.join(" or ")));
                };
                target(
                    ARM,
                    vec![
                        ("CC_aarch64_unknown_linux_musl", compiler.to_owned()),
                        ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", compiler.to_owned()),
                    ],
                )
            }
        }
    }
}

fn has_target(triple: &str) -> bool {
    let mut libraries = command("rustc");
    libraries.args(["--print", "target-libdir", "--target", triple]);
    output(libraries).is_ok_and(|dir| root().join(dir.trim()).is_dir())
}

/// A toolchain for one architecture.
#[derive(Clone, Debug)]
pub struct Target {
    /// The image's word for it.
    pub platform: Platform,
    /// Rust's word for it.
    pub triple: &'static str,
    environment: Vec<(&'static str, String)>,
}

impl Target {
    /// Builds packages; their programs, in the same order.
    pub fn programs(&self, packages: &[&str], profile: Profile) -> Result<Vec<PathBuf>> {
        let programs = packages.iter().map(|package| Ok((*package, program(package)?))).collect::<Result<Vec<_>>>()?;
        if profile == Profile::Lab && self.triple == MUSL {
            build::programs_like_the_demo(&programs)?;
        } else {
            build::programs_for(self.triple, &self.environment, packages, profile)?;
        }
        let place = |(package, name): &(&str, &str)| build::directory_for(self.triple, profile, package).join(name);
        Ok(programs.iter().map(place).collect())
    }
}

/// The program of a package.
fn program(package: &str) -> Result<&'static str> {
    Ok(match package {
        "agent" => "spiderpool-agent",
        "controller" => "spiderpool-controller",
        "plugins" => "spiderpool",
        other => bail!("images/: package {other} has no program for an image"),
    })
}

/// Refuses a file that is no program of the platform, or (if asked) one that needs a loader that the image has not.
pub fn check(program: &[u8], platform: Platform, must_be_static: bool) -> Result<()> {
    let half = |at: usize| program.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let is_elf = program.starts_with(b"\x7fELF\x02\x01");
    let machine = half(18).filter(|_| is_elf);
    let expected = match platform {
        Platform::Amd64 => 62,
        Platform::Arm64 => 183,
    };
    ensure!(machine == Some(expected), "not a program for {}", platform.architecture());
    if must_be_static {
        let table = program.get(32..40).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        let (size, count) = (half(54).unwrap_or_default(), half(56).unwrap_or_default());
        let kinds = (0..usize::from(count)).filter_map(|index| {
            let at = usize::try_from(table).ok()? + index * usize::from(size);
            program.get(at..at + 4)
        });
        ensure!(!kinds.into_iter().any(|kind| kind == [3, 0, 0, 0]), "not static: it asks for a program interpreter");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_another_kind_are_refused() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let (mine, other) = match Arch::of_this_machine() {
            Arch::Amd64 => (Platform::Amd64, Platform::Arm64),
            Arch::Arm64 => (Platform::Arm64, Platform::Amd64),
        };
        check(&own, mine, false).unwrap();
        let error = check(&own, mine, true).unwrap_err().to_string();
        assert!(error.starts_with("not static"), "a test program is linked dynamically: {error}");
        let error = check(&own, other, false).unwrap_err().to_string();
        assert_eq!(error, format!("not a program for {}", other.architecture()));
        assert!(check(b"#!/bin/sh\n", mine, false).is_err());
    }
}
