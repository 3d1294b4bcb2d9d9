//! The archive: an image layout in a tar.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use tar::{EntryType, Header};

use crate::{Blob, Config, Digest, Error, Platform, io};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image of one platform, ready to be written.
#[derive(Clone, Debug)]
pub struct Image {
    /// Full names with tag, `registry/repository:tag`; an importer gives the image all of them.
    pub names: Vec<String>,
    /// What it runs on.
    pub platform: Platform,
    /// How it is started.
    pub config: Config,
    /// From the bottom up, each with the words for the image's history.
    pub layers: Vec<(String, Blob)>,
    /// Annotations of the manifest (registries show these).
    pub annotations: BTreeMap<String, String>,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The archive.
    pub path: PathBuf,
    /// Digest of the manifest: what `image@sha256:...` names.
    pub digest: Digest,
    /// Bytes that a node downloads: manifest, configuration, layers.
    pub size: u64,
}

impl Image {
    /// Writes the archive; the folder must exist.
    pub fn write(&self, path: &Path) -> Result<Written, Error> {
        let names = self.names.iter().map(|name| Ok((name.as_str(), tag(name)?))).collect::<Result<Vec<_>, Error>>()?;
        let config = encoded(&self.config.wire(self.platform, &self.layers));
        let config_digest = Digest::of(&config);
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(_, blob)| json!({"mediaType": LAYER, "digest": blob.digest, "size": blob.size()}))
            .collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config_digest, "size": config.len()},
            "layers": layers,
        });
        if !self.annotations.is_empty() {
            manifest["annotations"] = json!(self.annotations);
        }
        let manifest = encoded(&manifest);
        let digest = Digest::of(&manifest);
        let platform = json!({"architecture": self.platform.architecture(), "os": "linux"});
        let descriptor = |(name, tag): (&str, &str)| {
            json!({
                "mediaType": MANIFEST, "digest": digest, "size": manifest.len(), "platform": platform,
                "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
            })
        };
        let manifests: Vec<_> = names.iter().copied().map(descriptor).collect();
        let index = encoded(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}));
        let paths: Vec<_> = self.layers.iter().map(|(_, blob)| blob.digest.blob_path()).collect();
        let docker = encoded(&json!([{"Config": config_digest.blob_path(), "RepoTags": self.names, "Layers": paths}]));

        let size =
            self.layers.iter().map(|(_, blob)| blob.size()).sum::<u64>() + (config.len() + manifest.len()) as u64;
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
        let (config_path, manifest_path) = (config_digest.blob_path(), digest.blob_path());
        let mut files: BTreeMap<String, &[u8]> = BTreeMap::from([
            ("oci-layout".to_owned(), layout.as_slice()),
            ("index.json".to_owned(), &index),
            ("manifest.json".to_owned(), &docker),
            (config_path, &config),
            (manifest_path, &manifest),
        ]);
        files.extend(self.layers.iter().map(|(_, blob)| (blob.digest.blob_path(), blob.packed.as_slice())));
        store(path, &files)?;
        Ok(Written { path: path.to_owned(), digest, size })
    }
}

/// The tag of a full name.
fn tag(name: &str) -> Result<&str, Error> {
    let bad = |why| Error::Name { name: name.to_owned(), why };
    let (repository, tag) = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).ok_or_else(|| bad("no tag"))?;
    if repository.is_empty() || !repository.contains('/') {
        return Err(bad("no registry and repository before the tag"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if tag.is_empty() || tag.len() > 128 || !tag.bytes().all(plain) {
        return Err(bad("a tag has 1 to 128 letters, digits and ._-"));
    }
    if repository.bytes().any(|byte| !(plain(byte) || b":/".contains(&byte)) || byte.is_ascii_uppercase()) {
        return Err(bad("a repository has lower-case letters, digits and ._-/"));
    }
    Ok(tag)
}

fn encoded(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data has a JSON form")
}

/// Writes the tar under a temporary name and renames it.
fn store(path: &Path, files: &BTreeMap<String, &[u8]>) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let outcome = pack(&temporary, files)
        .map_err(io("write", &temporary))
        .and_then(|()| std::fs::rename(&temporary, path).map_err(io("create", path)));
    if outcome.is_err() {
        let _ = std::fs::remove_file(&temporary); // the first error is the one to report
    }
    outcome
}

fn pack(path: &Path, files: &BTreeMap<String, &[u8]>) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
    let header = |kind, mode, size| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for folder in ["blobs/", "blobs/sha256/"] {
        tar.append_data(&mut header(EntryType::Directory, 0o755, 0), folder, std::io::empty())?;
    }
    for (name, content) in files {
        tar.append_data(&mut header(EntryType::Regular, 0o644, content.len() as u64), name, *content)?;
    }
    let mut file = tar.into_inner()?;
    file.flush()?;
    file.get_ref().sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_tag_or_registry_are_refused() {
        for name in ["ghcr.io/a/b", "localhost:5000/a", "a:1", ":1", "ghcr.io/a:", "ghcr.io/a:b c", "ghcr.io/A:b"] {
            let error = tag(name).unwrap_err().to_string();
            assert!(error.starts_with(&format!("image name {name:?}: ")), "{error}");
        }
        assert_eq!(tag("localhost:5000/a/b:v1.2").unwrap(), "v1.2");
    }
}
