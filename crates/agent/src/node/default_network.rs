//! The network that pods get when nobody says otherwise: the first one by file name in the node's CNI configuration folder, as a runtime
//! would choose without a meta plugin.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::file::{FileError, failed};

/// What the folder says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Name and file of the default network.
    pub network: Option<(String, PathBuf)>,
    /// Files that come before it and cannot be used, with the reason.
    pub unusable: Vec<String>,
}

/// Looks for the first network that is not a meta plugin's own.
pub fn find(folder: &Path) -> Result<Found, FileError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("list folder", folder))? {
        paths.push(entry.map_err(failed("list folder", folder))?.path());
    }
    paths.retain(|path| is_candidate(path));
    paths.sort();
    let mut found = Found::default();
    for path in paths {
        match name_in(&path) {
            Ok(Some(name)) => {
                found.network = Some((name, path));
                break;
            }
            Ok(None) => {}
            Err(why) => found.unusable.push(format!("{}: {why}", path.display())),
        }
    }
    Ok(found)
}

fn is_candidate(path: &Path) -> bool {
    let suffix = path.extension().and_then(|suffix| suffix.to_str());
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    matches!(suffix, Some("conf" | "conflist" | "json")) && !name.contains("multus") && !name.contains("multinet")
}

/// The name of the network in a file; `None` for a meta plugin's.
fn name_in(path: &Path) -> Result<Option<String>, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let network: Value = serde_json::from_slice(&text).map_err(|error| format!("not JSON: {error}"))?;
    let kind = network.pointer("/plugins/0/type").or_else(|| network.get("type")).and_then(Value::as_str);
    match (kind, network["name"].as_str()) {
        (Some("multus" | "multus-shim" | "multinet"), _) => Ok(None),
        (None, _) => Err("no plugin type".to_owned()),
        (_, None | Some("")) => Err("no name".to_owned()),
        (_, Some(name)) => Ok(Some(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Found) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let found = find(dir.path()).unwrap();
        (dir, found)
    }

    const CALICO: &str = r#"{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}"#;
    const FLAT: &str = r#"{"name": "flat", "type": "bridge"}"#;

    #[test]
    fn the_first_by_name_counts_and_meta_plugins_do_not() {
        for (files, expected) in [
            (&[("20-b.conf", FLAT), ("10-a.conflist", CALICO)][..], Some("k8s-pod-network")),
            (
                &[("00-multus.conf", FLAT), ("00-multinet.conflist", FLAT), ("10-a.conflist", CALICO)],
                Some("k8s-pod-network"),
            ),
            (&[("00-meta.conf", r#"{"name": "m", "type": "multus-shim"}"#), ("10-a.json", FLAT)], Some("flat")),
            (&[("00-x.conflist", r#"{"name": "m", "plugins": [{"type": "multinet"}]}"#)], None),
            (&[("10-a.conflist.bak", CALICO), ("README", FLAT)], None),
        ] {
            let (_dir, found) = folder(files);
            assert_eq!(found.network.as_ref().map(|(name, _)| name.as_str()), expected, "{files:?}");
            assert!(found.unusable.is_empty());
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_passed_over_and_named() {
        let (dir, found) = folder(&[
            ("00-half.conflist", r#"{"name": "a", "plu"#),
            ("01-nameless.conf", r#"{"type": "bridge"}"#),
            ("02-typeless.conf", r#"{"name": "a"}"#),
            ("10-a.conflist", CALICO),
            ("99-later.conf", "not looked at"),
        ]);
        assert_eq!(found.network.unwrap().1, dir.path().join("10-a.conflist"));
        let why: Vec<&str> = found.unusable.iter().map(|text| text.rsplit('/').next().unwrap()).collect();
        assert!(why[0].starts_with("00-half.conflist: not JSON: EOF"), "{why:?}");
        assert_eq!(why[1..], ["01-nameless.conf: no name", "02-typeless.conf: no plugin type"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        assert_eq!(find(Path::new("/nonexistent")).unwrap_err().to_string(), "cannot list folder /nonexistent");
    }
}
