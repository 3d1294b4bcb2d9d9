//! Network configurations in a folder of the node.

use std::fs;
use std::path::{Path, PathBuf};

use wire::cni::{CniError, SpecVersion, code, read_bounded};

use super::delegate::NetworkList;

const MAX_FILE: usize = 1 << 20;
/// The type of this plugin, which must not delegate to itself.
const OWN_TYPE: &str = "multinet";

/// Reads one file. A configuration without version gets the oldest one.
pub(super) fn read(path: &Path) -> Result<NetworkList, CniError> {
    let failed =
        |error: std::io::Error| CniError::new(code::IO_FAILURE, format!("multinet: {}: {error}", path.display()));
    let text = read_bounded(&mut fs::File::open(path).map_err(failed)?, MAX_FILE)?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    NetworkList::parse(&path.display().to_string(), &text, &stem, SpecVersion::V0_3_0)
}

/// The network of that name; files that cannot be read are passed over.
pub(super) fn named(folder: &Path, name: &str) -> Result<Option<NetworkList>, CniError> {
    Ok(candidates(folder)?.iter().filter_map(|path| read(path).ok()).find(|list| list.name() == name))
}

/// The first network by file name that is not this plugin's own.
pub(super) fn first(folder: &Path, own_name: &str) -> Result<Option<NetworkList>, CniError> {
    let lists = candidates(folder)?.into_iter().filter_map(|path| read(&path).ok());
    Ok(lists.into_iter().find(|list| list.name() != own_name && !list.types().any(|kind| kind == OWN_TYPE)))
}

fn candidates(folder: &Path) -> Result<Vec<PathBuf>, CniError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(CniError::new(code::IO_FAILURE, format!("multinet: folder {}: {error}", folder.display())));
        }
    };
    let wanted = |path: &PathBuf| {
        path.extension().is_some_and(|suffix| ["conf", "conflist", "json"].iter().any(|known| suffix == *known))
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(wanted).collect();
    paths.sort();
    Ok(paths)
}
