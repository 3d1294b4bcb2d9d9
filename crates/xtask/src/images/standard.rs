//! Where the standard CNI plugins for an image come from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use oci::Platform;

use super::sbom::Component;
use crate::kube;
use crate::run::{command, has, output};

/// Where Debian's package `containernetworking-plugins` puts them.
const DISTRIBUTION: &str = "/usr/lib/cni";
/// Programs of the Go module that are no plugins.
const NOT_PLUGINS: [&str; 1] = ["cnitool"];

/// The plugins and what they are made of.
pub struct Standard {
    /// Name -> content.
    pub plugins: BTreeMap<String, Vec<u8>>,
    /// For the bill of materials.
    pub components: Vec<Component>,
    /// For people.
    pub origin: String,
}

/// Takes them from the given folder, or from the pinned Go module where that was (or can be) built, or from the distribution.
pub fn find(given: Option<&Path>, platform: Platform) -> Result<std::result::Result<Standard, String>> {
    let built = || {
        kube::standard_plugins(platform.architecture())
            .map(|dir| dir.map(|dir| (dir, "the pinned module hack/kubernetes/cni")))
    };
    let (dir, origin) = match given {
        Some(dir) => (dir.to_owned(), "--standard-plugins"),
        None => match built()? {
            Some(found) => found,
            None if is_own(platform) && Path::new(DISTRIBUTION).is_dir() => {
                (PathBuf::from(DISTRIBUTION), "the distribution")
            }
            None => return Ok(Err(format!("neither Go nor {DISTRIBUTION} is here to take the standard plugins from"))),
        },
    };
    let mut plugins = BTreeMap::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_file())
            && !NOT_PLUGINS.contains(&name)
        {
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            super::platform::check(&content, platform, false).with_context(|| path.display().to_string())?;
            plugins.insert(name.to_owned(), content);
        }
    }
    ensure!(plugins.contains_key("loopback"), "{}: no standard CNI plugins are there (no loopback)", dir.display());
    let components = components(&dir, &plugins);
    let origin =
        format!("{} plugins of {origin}: {}", plugins.len(), plugins.keys().cloned().collect::<Vec<_>>().join(", "));
    Ok(Ok(Standard { plugins, components, origin }))
}

fn is_own(platform: Platform) -> bool {
    platform == super::platform::Arch::of_this_machine().platform()
}

/// Debian's package, and the Go modules that `go version -m` finds in the files.
fn components(dir: &Path, plugins: &BTreeMap<String, Vec<u8>>) -> Vec<Component> {
    let mut components = BTreeMap::new();
    if dir == Path::new(DISTRIBUTION) && has("dpkg-query") {
        let mut query = command("dpkg-query");
        query.args(["--show", "--showformat=${Package} ${Version}", "containernetworking-plugins"]);
        if let Ok(text) = output(query)
            && let Some((name, version)) = text.trim().split_once(' ')
        {
            components.insert(name.to_owned(), Component::debian(name, version));
        }
    }
    if has("go") {
        for name in plugins.keys() {
            let mut version = command("go");
            version.args(["version", "-m"]).arg(dir.join(name));
            for line in output(version).unwrap_or_default().lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                if let ["dep" | "=>", module, version, ..] = words[..] {
                    let component = Component::go(module, version);
                    components.insert(component.purl.clone(), component);
                }
            }
        }
    }
    components.into_values().collect()
}
