//! The descriptions in `images/`: what is in an image and how it is started.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::run::root;

/// One image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Last part of the repository's name.
    pub name: String,
    /// For people.
    pub title: String,
    /// For people, one sentence.
    pub description: String,
    /// `uid:gid`.
    pub user: String,
    /// Program and fixed arguments.
    pub entrypoint: Vec<String>,
    /// Arguments of a container that is given none.
    pub cmd: Vec<String>,
    /// Ports that are served, `5710/tcp`.
    pub ports: Vec<String>,
    /// Command that tells whether a container is well.
    #[serde(default)]
    pub healthcheck: Vec<String>,
    /// Most bytes of the unpacked image.
    pub limit: Option<u64>,
    /// From the bottom up. The base (accounts, /tmp) is below them, the bill of materials above.
    pub layers: Vec<LayerDescription>,
}

/// One layer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerDescription {
    /// For the image's history.
    pub what: String,
    /// Path in the image -> package of the workspace whose program lies there.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Path in the image -> target of the symbolic link.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// Folder for the standard CNI plugins.
    pub standard_plugins: Option<String>,
}

/// All images, by name.
pub fn all() -> Result<Vec<Description>> {
    let folder = root().join("images");
    let mut descriptions = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == "yaml") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let description: Description =
                serde_saphyr::from_str(&text).with_context(|| format!("{} is no description", path.display()))?;
            descriptions.push(description);
        }
    }
    ensure!(!descriptions.is_empty(), "no description in {}", folder.display());
    descriptions.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(descriptions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_starts_is_in_it() {
        for image in all().unwrap() {
            let files: Vec<&String> = image.layers.iter().flat_map(|layer| layer.files.keys()).collect();
            assert!(files.contains(&&image.entrypoint[0]), "{}: entrypoint", image.name);
            assert!(image.healthcheck.is_empty() || files.contains(&&image.healthcheck[0]), "{}", image.name);
            for (path, target) in image.layers.iter().flat_map(|layer| &layer.links) {
                let (folder, _) = path.rsplit_once('/').unwrap();
                assert!(files.contains(&&format!("{folder}/{target}")), "{}: {path} leads nowhere", image.name);
            }
        }
    }

    #[test]
    fn only_who_must_is_root() {
        let users: Vec<(String, String)> = all().unwrap().into_iter().map(|image| (image.name, image.user)).collect();
        for (name, user) in users {
            assert_eq!(user != "0:0", name == "spiderpool-controller", "{name}");
        }
    }

    #[test]
    fn every_name_of_the_plugins_is_in_the_agents_image() {
        let images = all().unwrap();
        let agent = images.iter().find(|image| image.name == "spiderpool-agent").unwrap();
        let text = fs::read_to_string(root().join("crates/wire/src/lib.rs")).unwrap();
        let (_, names) = text.split_once("PLUGIN_NAMES: [&str; ").unwrap();
        let (names, _) = names.split_once("];").unwrap();
        let names: Vec<&str> = names.split('"').skip(1).step_by(2).collect();
        assert!(names.contains(&"spiderpool"));
        for name in names {
            let path = format!("/usr/bin/{name}");
            let layer = &agent.layers[0];
            assert!(layer.files.contains_key(&path) || layer.links.contains_key(&path), "{path}");
        }
    }
}
