//! Builds the programs as they run on nodes: static, for the musl target.

use std::path::PathBuf;

use anyhow::Result;

use crate::run::{cargo, passed_on, root};
use crate::setup::{self, MUSL};

/// How the programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Quick to build, fast enough under emulation: the demo and the virtual machines.
    Lab,
    /// What is shipped and measured.
    Release,
}

impl Profile {
    fn of(self, package: &str) -> &'static str {
        match self {
            Self::Lab => "lab",
            Self::Release if package == "plugins" => "plugin",
            Self::Release => "release",
        }
    }
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Builds packages and returns the directory that holds their programs (for [`Profile::Release`] the plugins' own is beside it).
///
/// The plugins are built by a call of their own: together with the servers cargo would unify features into them.
pub fn programs(packages: &[&str], profile: Profile) -> Result<PathBuf> {
    programs_for(MUSL, &[], packages, profile)?;
    Ok(directory(profile.of("agent")))
}

/// The same for any target, with what its toolchain wants in the environment.
pub fn programs_for(target: &str, environment: &[(&str, String)], packages: &[&str], profile: Profile) -> Result<()> {
    build(target, environment, packages, &[], profile)
}

/// Some programs (package, name) as the demo compiles them: cargo chooses features for all packages of a call together, so that a call
/// with fewer packages would compile everything below them once more.
pub fn programs_like_the_demo(programs: &[(&str, &str)]) -> Result<()> {
    let (plugins, servers): (Vec<_>, Vec<_>) = programs.iter().copied().partition(|(package, _)| *package == "plugins");
    if !servers.is_empty() {
        let packages: Vec<&str> = crate::demo::PACKAGES.into_iter().filter(|name| *name != "plugins").collect();
        let names: Vec<&str> = servers.iter().map(|(_, name)| *name).collect();
        build(MUSL, &[], &packages, &names, Profile::Lab)?;
    }
    if plugins.is_empty() { Ok(()) } else { build(MUSL, &[], &["plugins"], &[], Profile::Lab) }
}

/// Builds packages, or only the programs of theirs that are named.
fn build(
    target: &str,
    environment: &[(&str, String)],
    packages: &[&str],
    only: &[&str],
    profile: Profile,
) -> Result<()> {
    setup::building()?;
    let (plugins, servers): (Vec<&str>, Vec<&str>) = packages.iter().partition(|name| **name == "plugins");
    for group in [servers, plugins] {
        let Some(first) = group.first() else { continue };
        let what = if only.is_empty() { group.join(", ") } else { only.join(", ") };
        eprintln!("==> building {what} ({target}, profile {})", profile.of(first));
        let mut build = cargo();
        build.args(["build", "--locked", "--target", target, "--profile", profile.of(first)]);
        build.args(group.iter().flat_map(|name| ["-p", name]));
        build.args(only.iter().flat_map(|name| ["--bin", name]));
        build.envs(environment.iter().map(|(name, value)| (name, value)));
        passed_on(build)?;
    }
    Ok(())
}

/// Where [`programs_for`] puts the program of a package.
pub fn directory_for(target: &str, profile: Profile, package: &str) -> PathBuf {
    target_dir().join(target).join(profile.of(package))
}

/// The directory of programs of one cargo profile.
pub fn directory(profile: &str) -> PathBuf {
    target_dir().join(MUSL).join(profile)
}
