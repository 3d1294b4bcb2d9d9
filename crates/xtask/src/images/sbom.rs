//! Bills of materials: SPDX 2.3 in JSON, made from what cargo (and Go) say about the programs of an image.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use oci::Digest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::stamp::Stamp;
use crate::run::{cargo, command, output, root};

/// Something that a program was made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    name: String,
    version: String,
    /// SPDX expression.
    licence: Option<String>,
    /// Where it is from.
    download: Option<String>,
    /// SHA-256 of what was downloaded.
    checksum: Option<String>,
    /// Package URL.
    pub purl: String,
}

impl Component {
    /// A package of Debian.
    pub fn debian(name: &str, version: &str) -> Self {
        Self::plain(name, version, purl("deb/debian", name, version))
    }

    /// A Go module.
    pub fn go(module: &str, version: &str) -> Self {
        Self::plain(module, version, purl("golang", module, version))
    }

    fn plain(name: &str, version: &str, purl: String) -> Self {
        Self { name: name.into(), version: version.into(), licence: None, download: None, checksum: None, purl }
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    source: Option<String>,
}

/// Everything that is linked into the program of a package for a target, by cargo's own account.
pub fn crates(package: &str, target: &str) -> Result<Vec<Component>> {
    let mut tree = cargo();
    tree.args(["tree", "--locked", "-p", package, "-e", "normal,no-proc-macro", "--target", target]);
    tree.args(["--prefix", "none", "--format", "{p}"]);
    let tree = output(tree)?;
    let used: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target]);
    let metadata: Metadata = serde_json::from_str(&output(metadata)?)?;
    let checksums = checksums()?;
    let mut components: Vec<Component> = metadata
        .packages
        .into_iter()
        .filter(|package| used.contains(&(package.name.as_str(), package.version.as_str())))
        .map(|package| Component {
            licence: package.license.map(|text| text.replace('/', " OR ").replace("  OR  ", " OR ")),
            download: package.source.is_some().then_some(package.repository).flatten(),
            checksum: checksums.get(&(package.name.clone(), package.version.clone())).cloned(),
            purl: purl("cargo", &package.name, &package.version),
            name: package.name,
            version: package.version,
        })
        .collect();
    components.push(standard_library()?);
    components.sort();
    Ok(components)
}

/// Linked into every program, though cargo does not list it.
fn standard_library() -> Result<Component> {
    let mut rustc = command("rustc");
    rustc.arg("--version");
    let text = output(rustc)?;
    let version = text.split(' ').nth(1).context("`rustc --version` names no version")?.to_owned();
    Ok(Component {
        licence: Some("(MIT OR Apache-2.0) AND MIT".to_owned()), // Rust's libraries, and the musl that comes with them
        download: Some("https://github.com/rust-lang/rust".to_owned()),
        checksum: None,
        purl: purl("github", "rust-lang/rust", &version),
        name: "rust-std".to_owned(),
        version,
    })
}

/// What `Cargo.lock` says of downloads.
fn checksums() -> Result<BTreeMap<(String, String), String>> {
    let text = std::fs::read_to_string(root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let entries = text.split("[[package]]").filter_map(|entry| {
        let value = |key: &str| {
            let line = entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    });
    Ok(entries.collect())
}

/// A program in an image.
pub struct Program<'a> {
    /// Path in the image.
    pub path: &'a str,
    /// The file.
    pub content: &'a [u8],
    /// What is linked into it.
    pub components: &'a [Component],
}

/// The bill of an image.
pub fn document(image: &str, architecture: &str, stamp: &Stamp, programs: &[Program<'_>]) -> Value {
    let all: BTreeSet<&Component> = programs.iter().flat_map(|program| program.components).collect();
    let ids: BTreeMap<&Component, String> = all.iter().map(|one| (*one, id("Component", &one.purl))).collect();
    let mut packages = vec![json!({
        "SPDXID": "SPDXRef-Image", "name": image, "versionInfo": stamp.version, "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false, "licenseConcluded": "NOASSERTION", "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION", "primaryPackagePurpose": "CONTAINER",
    })];
    let relation = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")];
    let mut contents = String::new();
    for program in programs {
        let digest = Digest::of(program.content);
        contents.push_str(digest.hex());
        let program_id = id("Program", program.path);
        packages.push(json!({
            "SPDXID": program_id, "name": program.path, "versionInfo": stamp.version, "downloadLocation": "NOASSERTION",
            "packageFileName": program.path, "filesAnalyzed": false, "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION", "primaryPackagePurpose": "APPLICATION",
            "checksums": [{"algorithm": "SHA256", "checksumValue": digest.hex()}],
        }));
        relations.push(relation("SPDXRef-Image", "CONTAINS", &program_id));
        relations.extend(program.components.iter().map(|one| relation(&program_id, "STATIC_LINK", &ids[one])));
    }
    packages.extend(ids.iter().map(|(component, id)| component.package(id)));
    let contents = Digest::of(contents.as_bytes());
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{image}-{}-{architecture}", stamp.version),
        "documentNamespace":
            format!("https://github.com/spidernet-io/spiderpool/spdx/{image}-{}-{architecture}-{}", stamp.version, contents.hex()),
        "creationInfo": {"created": stamp.created, "creators": ["Organization: Spiderpool", "Tool: cargo-xtask-images"]},
        "packages": packages,
        "relationships": relations,
    })
}

impl Component {
    fn package(&self, id: &str) -> Value {
        let unknown = "NOASSERTION";
        let mut package = json!({
            "SPDXID": id, "name": self.name, "versionInfo": self.version,
            "downloadLocation": self.download.as_deref().unwrap_or(unknown), "filesAnalyzed": false,
            "licenseConcluded": unknown, "licenseDeclared": self.licence.as_deref().unwrap_or(unknown),
            "copyrightText": unknown,
            "externalRefs": [
                {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": self.purl},
            ],
        });
        if let Some(checksum) = &self.checksum {
            package["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": checksum}]);
        }
        package
    }
}

/// A package URL; versions may have signs that it must not.
fn purl(kind: &str, name: &str, version: &str) -> String {
    let mut text = format!("pkg:{kind}/{name}@");
    for byte in version.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// An identifier: letters, digits, dots and hyphens.
fn id(kind: &str, name: &str) -> String {
    let plain: String =
        name.chars().map(|one| if one.is_ascii_alphanumeric() || one == '.' { one } else { '-' }).collect();
    format!("SPDXRef-{kind}-{}", plain.trim_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_of_the_plugins_has_licence_and_checksum() {
        let components = crates("plugins", crate::setup::MUSL).unwrap();
        let named = |name: &str| components.iter().find(|one| one.name == name);
        assert!(
            named("plugins").is_some_and(|own| own.checksum.is_none() && own.licence.as_deref() == Some("Apache-2.0"))
        );
        assert!(named("serde_json").is_some_and(|one| one.checksum.as_ref().is_some_and(|sum| sum.len() == 64)));
        assert!(named("rust-std").is_some());
        assert!(named("tokio").is_none() && named("serde_derive").is_none(), "only what is linked in");
        for one in &components {
            assert!(one.licence.as_ref().is_some_and(|text| !text.contains('/')), "{one:?}");
        }
    }

    #[test]
    fn package_urls_are_encoded() {
        assert_eq!(purl("deb/debian", "c", "2:1.1+ds~x"), "pkg:deb/debian/c@2%3A1.1%2Bds~x");
    }

    #[test]
    fn relations_lead_to_packages_and_identifiers_are_unique() {
        let stamp = Stamp { version: "1.0".into(), revision: String::new(), created: "2026-01-01T00:00:00Z".into() };
        let shared = [Component::go("example.org/a/b", "v1"), Component::debian("c", "2:1~x")];
        let program = |path, content| Program { path, content, components: &shared };
        let bill = document("i", "amd64", &stamp, &[program("/usr/bin/one", b"1"), program("/usr/bin/two", b"2")]);
        let ids: Vec<&str> =
            bill["packages"].as_array().unwrap().iter().map(|one| one["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        assert_eq!(ids.len(), 1 + 2 + 2);
        for relation in bill["relationships"].as_array().unwrap() {
            assert!(ids.contains(&relation["relatedSpdxElement"].as_str().unwrap()), "{relation}");
        }
    }
}
