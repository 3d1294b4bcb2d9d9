//! The list of plugin files on this node that are ours, kept beside them.
//!
//! It is in the format of `sha256sum`, so that `sha256sum -c .spiderpool-plugins` in the folder tells whether the files are as installed.
//! A file that was there before and came from elsewhere is not in it: it was replaced, and stays when ours are removed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::file::{self, FileError};

/// The name of the list.
pub const NAME: &str = ".spiderpool-plugins";

/// Plugin names with the digests of their content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<String, String>);

impl Ledger {
    /// What the list in `folder` says; lines that make no sense are passed over.
    pub fn read(folder: &Path) -> Result<Self, FileError> {
        let text = file::read(&folder.join(NAME))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let entries = text.lines().filter_map(|line| {
            let (digest, name) = line.split_once("  ")?;
            let plain = !name.is_empty() && !name.contains('/') && name != "..";
            plain.then(|| (name.to_owned(), digest.to_owned()))
        });
        Ok(Self(entries.collect()))
    }

    /// Writes the list; an empty one is removed.
    pub fn write(&self, folder: &Path) -> Result<(), FileError> {
        if self.0.is_empty() {
            file::remove(&folder.join(NAME))?;
            return file::sync(folder);
        }
        let mut text = String::new();
        for (name, digest) in &self.0 {
            let _ = writeln!(text, "{digest}  {name}"); // a string takes everything
        }
        file::put(folder, NAME, text.as_bytes(), 0o644).map(drop)
    }

    /// Whether a file of this name is ours.
    pub fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// This file is ours, with this content.
    pub fn record(&mut self, name: &str, content: &[u8]) {
        self.0.insert(name.to_owned(), digest(content));
    }

    /// Whether this content is what was installed under the name.
    pub fn installed(&self, name: &str, content: &[u8]) -> bool {
        self.0.get(name).is_some_and(|known| *known == digest(content))
    }

    /// The file is not ours any more.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_what_sha256sum_writes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bridge"), "x").unwrap();
        let mut ledger = Ledger::default();
        ledger.record("bridge", b"x");
        ledger.write(dir.path()).unwrap();
        let check =
            std::process::Command::new("sha256sum").args(["-c", NAME]).current_dir(dir.path()).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        assert_eq!(Ledger::read(dir.path()).unwrap(), ledger);
        ledger.forget("bridge");
        ledger.write(dir.path()).unwrap();
        assert!(!dir.path().join(NAME).exists());
    }

    #[test]
    fn names_that_lead_elsewhere_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), "aa  ../x\nbb  ..\ncc  good\nnonsense\ndd  \n").unwrap();
        assert_eq!(Ledger::read(dir.path()).unwrap().names().collect::<Vec<_>>(), ["good"]);
    }
}
