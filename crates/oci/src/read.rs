//! Reads an archive back: checks it and unpacks its file tree.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::{Digest, Error, io};

/// An archive in memory, every blob compared with its digest.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Reads an archive and checks that every blob is what its name says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut tar = tar::Archive::new(BufReader::new(File::open(path).map_err(io("open", path))?));
        let mut files = BTreeMap::new();
        for entry in tar.entries().map_err(io("read", path))? {
            let mut entry = entry.map_err(io("read", path))?;
            if entry.header().entry_type().is_file() {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(io("read", path))?;
                files.insert(name, content);
            }
        }
        let archive = Self { path: path.to_owned(), files };
        for (name, content) in &archive.files {
            let hex = name.strip_prefix("blobs/sha256/");
            if hex.is_some_and(|hex| hex != Digest::of(content).hex()) {
                return Err(archive.damaged(format!("{name} has digest {}", Digest::of(content))));
            }
        }
        Ok(archive)
    }

    /// The names that an importer will give the image.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let index = self.json("index.json")?;
        let manifests = index["manifests"].as_array().cloned().unwrap_or_default();
        let name = |one: &Value| one["annotations"]["io.containerd.image.name"].as_str().map(str::to_owned);
        Ok(manifests.iter().filter_map(name).collect())
    }

    /// The manifest that the index names first.
    pub fn manifest(&self) -> Result<Value, Error> {
        let index = self.json("index.json")?;
        self.blob(&index["manifests"][0]).and_then(|blob| self.parse("manifest", blob))
    }

    /// The image's configuration.
    pub fn config(&self) -> Result<Value, Error> {
        let manifest = self.manifest()?;
        self.blob(&manifest["config"]).and_then(|blob| self.parse("configuration", blob))
    }

    /// Docker's list of images.
    pub fn docker_manifest(&self) -> Result<Value, Error> {
        self.json("manifest.json")
    }

    /// Unpacks all layers into `root`, as far as the rights of this process go. Compares the layers with the configuration on the way.
    pub fn unpack(&self, root: &Path) -> Result<(), Error> {
        let (manifest, config) = (self.manifest()?, self.config()?);
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
        if layers.len() != diff_ids.len() {
            return Err(self.damaged(format!("{} layers, but {} diff_ids", layers.len(), diff_ids.len())));
        }
        for (layer, diff_id) in layers.iter().zip(&diff_ids) {
            let mut tar = Vec::new();
            GzDecoder::new(self.blob(layer)?).read_to_end(&mut tar).map_err(io("unpack", &self.path))?;
            let found = Digest::of(&tar);
            if diff_id.as_str() != Some(found.to_string().as_str()) {
                return Err(self.damaged(format!("a layer unpacks to {found}, the configuration says {diff_id}")));
            }
            let mut tar = tar::Archive::new(tar.as_slice());
            tar.set_preserve_permissions(true);
            tar.unpack(root).map_err(io("unpack into", root))?;
        }
        Ok(())
    }

    fn json(&self, name: &str) -> Result<Value, Error> {
        let content = self.files.get(name).ok_or_else(|| self.damaged(format!("{name} is missing")))?;
        self.parse(name, content)
    }

    fn parse(&self, what: &str, content: &[u8]) -> Result<Value, Error> {
        serde_json::from_slice(content).map_err(|error| self.damaged(format!("{what} is not JSON: {error}")))
    }

    /// The content that a descriptor names.
    fn blob(&self, descriptor: &Value) -> Result<&[u8], Error> {
        let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        let digest = digest.ok_or_else(|| self.damaged(format!("descriptor without digest: {descriptor}")))?;
        let name = format!("blobs/sha256/{digest}");
        let content = self.files.get(&name).ok_or_else(|| self.damaged(format!("{name} is missing")))?;
        if descriptor["size"].as_u64() != Some(content.len() as u64) {
            return Err(self.damaged(format!("{name} has {} bytes, its descriptor says otherwise", content.len())));
        }
        Ok(content)
    }

    fn damaged(&self, what: String) -> Error {
        Error::Damaged { path: self.path.clone(), what }
    }
}
