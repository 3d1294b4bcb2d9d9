//! Network configuration lists as files, and what each plugin gets on stdin.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::CniError;

/// A network: plugins to be run one after the other.
#[derive(Debug, Clone)]
pub struct NetworkList {
    /// The network's name.
    pub name: String,
    /// The version that all plugins speak.
    pub cni_version: String,
    /// CHECK is not to be called.
    pub disable_check: bool,
    /// GC is not to be called.
    pub disable_gc: bool,
    /// The plugins' configurations as written.
    pub plugins: Vec<Map<String, Value>>,
}

/// The first configuration by file name; `.conf` and `.json` hold a single plugin, `.conflist` a list.
pub(super) fn first_of(dir: &Path) -> Result<NetworkList, CniError> {
    let none = || CniError::NoNetwork { dir: dir.to_owned() };
    let entries = fs::read_dir(dir).map_err(|_| none())?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "conf" || ext == "conflist" || ext == "json"));
    files.sort();
    let file = files.first().ok_or_else(none)?;
    let bad = |reason: String| CniError::BadNetwork { file: file.clone(), reason };
    let text = fs::read(file).map_err(|error| bad(error.to_string()))?;
    let conf: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    NetworkList::parse(conf).map_err(bad)
}

impl NetworkList {
    /// Reads a list, or a single plugin's configuration as a list of one.
    pub fn parse(conf: Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str| conf.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let flag = |key: &str| conf.get(key).is_some_and(|value| value == true || value == "true");
        let (name, cni_version) = (text("name"), text("cniVersion"));
        if name.is_empty() {
            return Err("name is missing".into());
        }
        let (disable_check, disable_gc) = (flag("disableCheck"), flag("disableGC"));
        let plugins = match conf.get("plugins") {
            Some(Value::Array(plugins)) => plugins.iter().filter_map(|plugin| plugin.as_object().cloned()).collect(),
            Some(_) => return Err("plugins is no list".into()),
            None => vec![conf],
        };
        if let Some(at) =
            plugins.iter().position(|plugin| plugin.get("type").and_then(Value::as_str).unwrap_or_default().is_empty())
        {
            return Err(format!("plugins[{at}].type is missing"));
        }
        if plugins.is_empty() {
            return Err("plugins is empty".into());
        }
        let cni_version = if cni_version.is_empty() { "0.1.0".into() } else { cni_version };
        Ok(Self { name, cni_version, disable_check, disable_gc, plugins })
    }

    /// Whether the configuration's version is this or later.
    pub fn at_least(&self, version: (u32, u32, u32)) -> bool {
        let mut parts = self.cni_version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        (next(), next(), next()) >= version
    }

    /// What a plugin gets on stdin: its configuration with the list's name and version, the previous result, and of the
    /// capability arguments those that it declares.
    pub(super) fn config(
        &self,
        plugin: &Map<String, Value>,
        previous: Option<&Value>,
        offered: &Map<String, Value>,
    ) -> Map<String, Value> {
        let mut config = plugin.clone();
        config.insert("name".into(), self.name.clone().into());
        config.insert("cniVersion".into(), self.cni_version.clone().into());
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        let wanted = |name: &str| plugin.get("capabilities").is_some_and(|capabilities| capabilities[name] == true);
        let runtime: Map<String, Value> = offered
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !runtime.is_empty() {
            config.insert("runtimeConfig".into(), runtime.into());
        }
        config
    }
}
