//! A file tree and the layer that it becomes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use tar::{EntryType, Header};

use crate::{Digest, Error, io};

/// Files to be packed. Folders above a file are there by themselves; everything belongs to root.
#[derive(Clone, Debug, Default)]
pub struct Layer(BTreeMap<String, Entry>);

#[derive(Clone, Debug)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

/// A packed layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The compressed tar.
    pub(crate) packed: Vec<u8>,
    /// Digest of the compressed tar: its name in a registry.
    pub digest: Digest,
    /// Digest of the tar itself: its name in the image's configuration.
    pub diff_id: Digest,
    /// Size of the tar itself.
    pub unpacked: u64,
}

impl Blob {
    /// Size of the compressed tar, which is what a node downloads.
    pub fn size(&self) -> u64 {
        self.packed.len() as u64
    }
}

impl Layer {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// A folder with rights of its own.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<&mut Self, Error> {
        self.put(path, Entry::Folder { mode })
    }

    /// A file with this content.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Result<&mut Self, Error> {
        self.put(path, Entry::File { mode, content: content.into() })
    }

    /// A file with the content of a file of this machine.
    pub fn copy(&mut self, path: &str, mode: u32, from: &Path) -> Result<&mut Self, Error> {
        let content = std::fs::read(from).map_err(io("read", from))?;
        self.file(path, mode, content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<&mut Self, Error> {
        self.put(path, Entry::Link { target: target.to_owned() })
    }

    /// The content of a file that was put here.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        match self.0.get(path.strip_prefix('/')?) {
            Some(Entry::File { content, .. }) => Some(content),
            _ => None,
        }
    }

    /// The files in order, with their content.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().filter_map(|(path, entry)| match entry {
            Entry::File { content, .. } => Some((path.as_str(), content.as_slice())),
            _ => None,
        })
    }

    fn put(&mut self, path: &str, entry: Entry) -> Result<&mut Self, Error> {
        let bad = |why| Error::Path { path: path.to_owned(), why };
        let inside = path.strip_prefix('/').ok_or_else(|| bad("it does not begin with /"))?;
        let mut parts: Vec<&str> = inside.split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Err(bad("an empty part, . or .. is not allowed"));
        }
        parts.pop();
        for depth in 1..=parts.len() {
            let above = parts[..depth].join("/");
            match self.0.entry(above).or_insert(Entry::Folder { mode: 0o755 }) {
                Entry::Folder { .. } => {}
                _ => return Err(bad("it lies below something that is not a folder")),
            }
        }
        self.0.insert(inside.to_owned(), entry);
        Ok(self)
    }

    /// The layer as it is stored. The same tree gives the same bytes.
    pub fn pack(&self) -> Result<Blob, Error> {
        let failed = |source| Error::Io { doing: "pack", path: "layer".into(), source };
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match entry {
                Entry::Folder { mode } => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty()).map_err(failed)?;
                }
                Entry::File { mode, content } => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice()).map_err(failed)?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target).map_err(failed)?;
                }
            }
        }
        let tar = tar.into_inner().map_err(failed)?;
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(&tar).map_err(failed)?;
        let packed = packer.finish().map_err(failed)?;
        Ok(Blob { digest: Digest::of(&packed), diff_id: Digest::of(&tar), unpacked: tar.len() as u64, packed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_insertion_does_not_matter() {
        let (mut left, mut right) = (Layer::new(), Layer::new());
        left.file("/b", 0o644, "1").unwrap().file("/a/c", 0o755, "2").unwrap();
        right.file("/a/c", 0o755, "2").unwrap().file("/b", 0o644, "1").unwrap();
        assert_eq!(left.pack().unwrap(), right.pack().unwrap());
    }

    #[test]
    fn content_and_rights_matter() {
        let pack = |mode, content: &str| Layer::new().file("/a", mode, content).unwrap().pack().unwrap().digest;
        assert_ne!(pack(0o644, "1"), pack(0o755, "1"));
        assert_ne!(pack(0o644, "1"), pack(0o644, "2"));
    }

    #[test]
    fn paths_that_leave_the_image_are_refused() {
        for path in ["a", "", "/", "/../a", "/a//b", "/a/./b", "/a/.."] {
            let error = Layer::new().file(path, 0o644, "").map(drop).unwrap_err().to_string();
            assert!(error.starts_with(&format!("image path {path:?}: ")), "{error}");
        }
        let mut layer = Layer::new();
        layer.file("/a", 0o644, "").unwrap();
        assert!(layer.file("/a/b", 0o644, "").is_err());
    }
}
