//! Archives written, read back, and judged by `tar` and `sha256sum`.

#![allow(clippy::unwrap_used)] // helpers are tests too

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use oci::{Archive, Config, Healthcheck, Image, Layer, Platform};

fn image() -> Image {
    let mut base = Layer::new();
    base.file("/etc/passwd", 0o644, "root:x:0:0::/:\n").unwrap().folder("/tmp", 0o1777).unwrap();
    base.file("/usr/bin/one", 0o755, "one").unwrap().link("/usr/bin/two", "one").unwrap();
    let mut top = Layer::new();
    top.file("/usr/share/what", 0o644, "hello").unwrap();
    Image {
        names: vec!["registry.test/a/one:v1".into(), "registry.test/a/one:latest".into()],
        platform: Platform::Arm64,
        config: Config {
            user: "65532:65532".into(),
            entrypoint: vec!["/usr/bin/one".into()],
            labels: BTreeMap::from([("org.opencontainers.image.title".into(), "one".into())]),
            exposed_ports: vec!["5710/tcp".into()],
            healthcheck: Some(Healthcheck {
                command: vec!["/usr/bin/one".into(), "health".into()],
                interval: Duration::from_secs(10),
                timeout: Duration::from_secs(1),
                start_period: Duration::from_secs(60),
                retries: 3,
            }),
            created: Some("2026-01-02T03:04:05Z".into()),
            ..Config::default()
        },
        layers: vec![("base".into(), base.pack().unwrap()), ("top".into(), top.pack().unwrap())],
        annotations: BTreeMap::from([("org.opencontainers.image.title".into(), "one".into())]),
    }
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_archive_is_a_layout_that_tar_and_sha256sum_confirm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let written = image().write(&path).unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    run("tar", &["-xf", path.to_str().unwrap()], &out);
    let blobs = out.join("blobs/sha256");
    let names: Vec<String> =
        std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), 4, "two layers, configuration, manifest");
    for name in &names {
        assert!(run("sha256sum", &[name], &blobs).starts_with(name.as_str()), "{name}");
    }
    assert!(names.iter().any(|name| name == written.digest.hex()));
    let total: u64 = names.iter().map(|name| std::fs::metadata(blobs.join(name)).unwrap().len()).sum();
    assert_eq!(written.size, total);
    assert_eq!(std::fs::read_to_string(out.join("oci-layout")).unwrap(), r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[test]
fn both_kinds_of_importer_find_names_and_layers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    image().write(&path).unwrap();
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.names().unwrap(), ["registry.test/a/one:v1", "registry.test/a/one:latest"]);
    let docker = archive.docker_manifest().unwrap();
    assert_eq!(docker[0]["RepoTags"][1], "registry.test/a/one:latest");
    assert_eq!(docker[0]["Layers"].as_array().unwrap().len(), 2);
    let config = archive.config().unwrap();
    assert_eq!((config["architecture"].as_str(), config["os"].as_str()), (Some("arm64"), Some("linux")));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Healthcheck"]["Test"][0], "CMD");
    assert_eq!(config["config"]["Healthcheck"]["Interval"], 10_000_000_000_u64);
    assert_eq!(config["created"], "2026-01-02T03:04:05Z");
    assert_eq!(archive.manifest().unwrap()["annotations"]["org.opencontainers.image.title"], "one");
}

#[test]
fn the_tree_comes_back_with_rights_and_links() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    image().write(&path).unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    Archive::open(&path).unwrap().unpack(&root).unwrap();
    let mode = |name: &str| std::fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("usr/bin/one"), mode("etc/passwd"), mode("tmp")), (0o755, 0o644, 0o1777));
    assert_eq!(std::fs::read_link(root.join("usr/bin/two")).unwrap(), PathBuf::from("one"));
    assert_eq!(std::fs::read_to_string(root.join("usr/share/what")).unwrap(), "hello");
}

#[test]
fn writing_twice_gives_the_same_bytes_and_leaves_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (left, right) = (dir.path().join("left.tar"), dir.path().join("right.tar"));
    assert_eq!(image().write(&left).unwrap().digest, image().write(&right).unwrap().digest);
    assert!(std::fs::read(left).unwrap() == std::fs::read(right).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_changed_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    image().write(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"65532:65532";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] = b'0';
    std::fs::write(&path, bytes).unwrap();
    let error = Archive::open(&path).unwrap_err().to_string();
    assert!(error.contains("has digest sha256:"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let error = image().write(Path::new("/nonexistent/image.tar")).unwrap_err().to_string();
    assert_eq!(error, "/nonexistent/image.tar.tmp: cannot write");
}
