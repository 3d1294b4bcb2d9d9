//! Tries the archives with tools that we did not write: a chroot without shell, containerd with runc, skopeo.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use oci::Archive;

use super::Built;
use crate::build::target_dir;
use crate::kube;
use crate::report::{Check, step};
use crate::run::{command, has, output};
use crate::setup::is_root;

/// All checks that this machine can do.
pub fn all(built: &[Built]) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for one in built {
        let root = target_dir().join("images/check").join(&one.name);
        checks.push(step(&format!("{}: archive", one.name), archive(one, &root)));
        checks.push(step(&format!("{}: only what is described", one.name), minimal(one, &root)));
        if is_root() {
            checks.push(step(&format!("{}: runs without a shell", one.name), runs(one, &root)));
        } else {
            checks.push(Check::Skipped { count: 1, what: format!("{}: running it needs root", one.name) });
        }
    }
    checks.push(match why_no_containerd() {
        None => step("import by containerd", containerd(built)),
        Some(why) => Check::Skipped { count: 1, what: format!("import by containerd: {why}") },
    });
    checks.push(if has("skopeo") {
        step("both forms by skopeo", skopeo(built))
    } else {
        Check::Skipped { count: 1, what: "both forms by skopeo: skopeo is not installed".to_owned() }
    });
    Ok(checks)
}

/// Digests, names and the file tree.
fn archive(built: &Built, root: &Path) -> Result<()> {
    let archive = Archive::open(&built.archive)?;
    ensure!(archive.names()? == [built.reference.as_str()], "names {:?}", archive.names()?);
    let docker = archive.docker_manifest()?;
    ensure!(docker[0]["RepoTags"][0] == built.reference.as_str(), "Docker's names {}", docker[0]["RepoTags"]);
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    fs::create_dir_all(root)?;
    archive.unpack(root)?;
    let bill = fs::read(root.join(format!("usr/share/sbom/{}.spdx.json", built.name)))?;
    ensure!(
        bill == fs::read(built.archive.with_extension("spdx.json"))?,
        "the bill of materials inside is another one"
    );
    Ok(())
}

/// No program, and no link, that the description does not name.
fn minimal(built: &Built, root: &Path) -> Result<()> {
    let image = super::describe::all()?.into_iter().find(|image| image.name == built.name).context("no description")?;
    let mut allowed: BTreeSet<String> = BTreeSet::new();
    let mut folders = Vec::new();
    for layer in image.layers {
        allowed.extend(layer.files.into_keys().chain(layer.links.into_keys()));
        folders.extend(layer.standard_plugins);
    }
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            let inside = format!("/{}", path.strip_prefix(root)?.display());
            if found.is_dir() {
                pending.push(path);
            } else if found.is_symlink() || found.permissions().mode() & 0o111 != 0 {
                let known = allowed.contains(&inside) || folders.iter().any(|one| inside.starts_with(one.as_str()));
                ensure!(known, "{inside} is not in the description");
            }
        }
    }
    Ok(())
}

/// A command in the image's file tree, as the image's user, in namespaces of its own.
fn inside(root: &Path, user: &str, arguments: &[&str]) -> Command {
    let mut run = command("unshare");
    run.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "chroot", "--userspec", user]);
    run.arg(root).args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    run
}

fn runs(built: &Built, root: &Path) -> Result<()> {
    let config = Archive::open(&built.archive)?.config()?;
    let user = config["config"]["User"].as_str().context("no user")?.to_owned();
    let entrypoint = config["config"]["Entrypoint"][0].as_str().context("no entrypoint")?.to_owned();
    let help = output(inside(root, &user, &[&entrypoint, "--help"]))?;
    ensure!(help.contains("Usage:"), "--help says {help:?}");
    let mut health = inside(root, &user, &[&entrypoint, "health"]);
    let health = health.output()?;
    let complaint = String::from_utf8_lossy(&health.stderr).into_owned();
    ensure!(
        health.status.code() == Some(1) && complaint.contains("no answer to the readiness probe"),
        "health says {complaint:?}"
    );
    match built.name.as_str() {
        "spiderpool-agent" => installs(root),
        "spiderpool-plugins" => installs_standard(root, &config),
        _ => Ok(()),
    }
}

/// `install`, `multus-config` and `uninstall` as the chart's containers run them.
fn installs(root: &Path) -> Result<()> {
    for folder in ["host/opt/cni/bin", "host/etc/cni/net.d"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let agent = "/usr/bin/spiderpool-agent";
    output(inside(root, "0:0", &[agent, "install", "--to", "/host/opt/cni/bin"]))?;
    let program = fs::read(root.join("usr/bin/spiderpool"))?;
    for name in ["spiderpool", "coordinator", "multinet"] {
        let path = root.join("host/opt/cni/bin").join(name);
        ensure!(fs::read(&path)? == program, "{} differs from the image's", path.display());
        let mut plugin = command(&path);
        plugin.env_clear().env("CNI_COMMAND", "VERSION").stdin(std::process::Stdio::null());
        let answer = output(plugin)?;
        ensure!(answer.contains("supportedVersions"), "{name} answers {answer:?}");
    }
    let mut configure = inside(
        root,
        "0:0",
        &[agent, "multus-config", "--implementation", "multinet", "--no-wait", "--once", "--cluster-network", "a/b"],
    );
    configure.env("SPIDERPOOL_POD_NAMESPACE", "kube-system");
    output(configure)?;
    let written = fs::read_to_string(root.join("host/etc/cni/net.d/00-multinet.conflist"))?;
    ensure!(written.contains("\"clusterNetwork\": \"a/b\""), "configuration {written}");
    let folders = ["--plugins-dir", "/host/opt/cni/bin", "--cni-dir", "/host/etc/cni/net.d"];
    output(inside(root, "0:0", &[&[agent, "uninstall"], &folders[..]].concat()))?;
    for folder in ["host/opt/cni/bin", "host/etc/cni/net.d"] {
        let left = fs::read_dir(root.join(folder))?.count();
        ensure!(left == 0, "{left} files are left in {folder}");
    }
    Ok(())
}

/// The entry point with upstream's variable.
fn installs_standard(root: &Path, config: &serde_json::Value) -> Result<()> {
    fs::create_dir_all(root.join("host/opt/cni/bin"))?;
    let words: Vec<&str> =
        config["config"]["Entrypoint"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
    let mut install = inside(root, "0:0", &words);
    install.env("INSTALL_CNI_PLUGINS", "true");
    output(install)?;
    for entry in fs::read_dir(root.join("usr/lib/cni/cni"))? {
        let path = entry?.path();
        let installed = root.join("host/opt/cni/bin").join(path.file_name().context("a file has a name")?);
        ensure!(fs::read(&path)? == fs::read(&installed)?, "{} differs from the image's", installed.display());
    }
    Ok(())
}

fn why_no_containerd() -> Option<String> {
    if !is_root() {
        return Some("needs root".to_owned());
    }
    if !has("runc") {
        return Some("runc is not installed".to_owned());
    }
    match kube::containerd() {
        Ok(Some(_)) => None,
        Ok(None) => Some("containerd is not built (`cargo xtask kube`)".to_owned()),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// Everything in one process tree that ends with its first process; nothing reaches the machine's own containerd.
const CONTAINERD: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/containerd
containerd --config "$1/config.toml" --root "$1/root" --state /run/containerd/state --log-level error &
ready=
for _ in $(seq 100); do ctr version >/dev/null 2>&1 && ready=yes && break; sleep 0.1; done
[ -n "$ready" ] || { echo "containerd does not answer" >&2; exit 1; }
shift
while [ $# -gt 0 ]; do
  ctr -n spiderpool-images images import --local --snapshotter native "$1" >&2
  ctr -n spiderpool-images run --rm --snapshotter native "$2" one "$3" --version
  shift 3
done
ctr -n spiderpool-images images ls -q
rmdir /sys/fs/cgroup/*/spiderpool-images 2>/dev/null || true
"#;

fn containerd(built: &[Built]) -> Result<()> {
    let programs = kube::containerd()?.context("containerd is gone")?;
    let folder = tempfile::tempdir()?;
    let without_kubernetes = "version = 3\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]\n";
    fs::write(folder.path().join("config.toml"), without_kubernetes)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut paths: Vec<PathBuf> = vec![programs];
    paths.extend(std::env::split_paths(&path));
    paths.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut run = command("unshare");
    run.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", CONTAINERD, "sh"]);
    run.arg(folder.path()).env("PATH", std::env::join_paths(paths)?);
    for one in built {
        let config = Archive::open(&one.archive)?.config()?;
        let program = config["config"]["Entrypoint"][0].as_str().context("no entrypoint")?.to_owned();
        run.arg(&one.archive).arg(&one.reference).arg(program);
    }
    let text = output(run)?;
    for one in built {
        ensure!(text.lines().any(|line| line == one.reference), "{} is not among:\n{text}", one.reference);
    }
    let versions = text.lines().filter(|line| line.starts_with("spiderpool-")).count();
    ensure!(versions == built.len(), "{versions} of {} containers told their version:\n{text}", built.len());
    Ok(())
}

/// The archive is read as an OCI layout and as Docker's own form, and both are the same image.
fn skopeo(built: &[Built]) -> Result<()> {
    for one in built {
        let mut layers = Vec::new();
        for form in ["oci-archive", "docker-archive"] {
            let mut inspect = command("skopeo");
            inspect.args(["inspect", "--config"]).arg(format!("{form}:{}", one.archive.display()));
            let config: serde_json::Value = serde_json::from_str(&output(inspect)?)?;
            layers.push(config["rootfs"]["diff_ids"].clone());
        }
        if layers[0] != layers[1] || layers[0].as_array().is_none_or(Vec::is_empty) {
            bail!("{}: layers {} and {}", one.name, layers[0], layers[1]);
        }
    }
    Ok(())
}
