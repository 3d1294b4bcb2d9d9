//! `cargo xtask kube`: a real Kubernetes for the tests, built once from the pinned modules in `hack/kubernetes`.
//!
//! The programs go into a cache outside the source tree (`$XDG_CACHE_HOME/spiderpool/kubernetes`, by default `~/.cache`):
//! a directory per module, named after the hash of all that decides what comes out, and one directory with links to all of
//! them, which is what others get. Each appears in one step when it is complete, so a build that was killed leaves nothing
//! that looks finished; modules that were finished are kept. Only programs are kept: Go's build cache is thrown away.
//!
//! `SPIDERPOOL_KUBERNETES_DIR` names a directory that already has the programs, and nothing is built.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::run::{command, has, output, root};

/// Names a directory with ready programs.
const GIVEN: &str = "SPIDERPOOL_KUBERNETES_DIR";

/// What is always passed to `go build`. Programs that hold no path and need no C library run on every node.
const FLAGS: [&str; 1] = ["-trimpath"];

/// A module below `hack/kubernetes` and the programs that it gives.
struct Module {
    name: &'static str,
    programs: &'static [&'static str],
    /// What comes beside them out of the module's source.
    files: Option<Files>,
    /// How long a cold build takes on two cores, for the reader who waits.
    takes: &'static str,
}

/// Files of a Go module's source.
struct Files {
    module: &'static str,
    /// Where they are in the module.
    folder: &'static str,
    /// Where they go, below the programs' directory.
    names: &'static [&'static str],
}

const MODULES: [Module; 7] = [
    Module {
        name: "kubernetes",
        programs: &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"],
        files: None,
        takes: "about 5 minutes",
    },
    Module { name: "etcd", programs: &["etcd"], files: None, takes: "about a minute" },
    Module {
        name: "containerd",
        programs: &["containerd", "containerd-shim-runc-v2", "ctr"],
        files: None,
        takes: "about a minute",
    },
    Module { name: "helm", programs: &["helm"], files: None, takes: "about 3 minutes" },
    Module {
        name: "cni",
        programs: &[
            "cni/bandwidth",
            "cni/bridge",
            "cni/cnitool",
            "cni/dhcp",
            "cni/dummy",
            "cni/firewall",
            "cni/host-device",
            "cni/host-local",
            "cni/ipvlan",
            "cni/loopback",
            "cni/macvlan",
            "cni/portmap",
            "cni/ptp",
            "cni/sbr",
            "cni/static",
            "cni/tap",
            "cni/tuning",
            "cni/vlan",
            "cni/vrf",
        ],
        files: None,
        takes: "a few seconds",
    },
    Module { name: "multus", programs: &["multus", "install_multus"], files: None, takes: "about 2 minutes" },
    Module {
        name: "cert-manager",
        programs: &["cert-manager/cainjector", "cert-manager/controller"],
        files: Some(Files {
            module: "github.com/cert-manager/cert-manager",
            folder: "deploy/crds",
            names: &[
                "cert-manager/crd-certificaterequests.yaml",
                "cert-manager/crd-certificates.yaml",
                "cert-manager/crd-challenges.yaml",
                "cert-manager/crd-clusterissuers.yaml",
                "cert-manager/crd-issuers.yaml",
                "cert-manager/crd-orders.yaml",
            ],
        }),
        takes: "about 4 minutes",
    },
];

/// What a machine has to offer.
pub enum Kubernetes {
    /// The directory of the programs; the CNI plugins are in `cni` below it.
    Ready(PathBuf),
    /// This machine cannot build them, and why.
    Absent(String),
}

/// Builds what is missing and prints the directory of the programs.
pub fn run() -> Result<ExitCode> {
    match ready()? {
        Kubernetes::Ready(dir) => {
            println!("{}", dir.display());
            Ok(ExitCode::SUCCESS)
        }
        Kubernetes::Absent(reason) => bail!("{reason}"),
    }
}

/// The programs; builds what is missing, and says so. Safe to call from several processes at once.
pub fn ready() -> Result<Kubernetes> {
    if let Some(given) = std::env::var_os(GIVEN) {
        let dir = PathBuf::from(given);
        let missing = missing(&dir);
        ensure!(missing.is_empty(), "{GIVEN}={}: this directory has no {}", dir.display(), missing.join(", "));
        return Ok(Kubernetes::Ready(dir));
    }
    let cache = cache()?;
    let keys = MODULES.iter().map(Module::key).collect::<Result<Vec<_>>>()?;
    let all = cache.join(digest(keys.join("\n").as_bytes())?);
    if all.is_dir() {
        return Ok(Kubernetes::Ready(all));
    }
    if let Some(reason) = why_not()? {
        return Ok(Kubernetes::Absent(reason));
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let _lock = lock(&cache.join("lock"))?;
    let started = Instant::now();
    let modules: Vec<PathBuf> =
        MODULES.iter().zip(&keys).map(|(module, key)| cache.join(format!("{}-{key}", module.name))).collect();
    for (module, dir) in MODULES.iter().zip(&modules) {
        if !dir.is_dir() {
            if let Some(reason) = module.unfetched() {
                return Ok(Kubernetes::Absent(reason));
            }
            module.build(&cache, dir, None)?;
        }
    }
    link(&cache, &modules, &all)?;
    // With all modules done, what Go compiled on the way there is of no more use.
    remove(&go_cache(&cache))?;
    eprintln!("==> Kubernetes is ready in {} (took {} s)", all.display(), started.elapsed().as_secs());
    Ok(Kubernetes::Ready(all))
}

/// The standard CNI plugins alone, for an architecture by Go's name; built if Go is there, `None` if it is not.
pub fn standard_plugins(architecture: &str) -> Result<Option<PathBuf>> {
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    if let Some(given) = std::env::var_os(GIVEN).filter(|_| architecture == own) {
        return Ok(Some(PathBuf::from(given).join("cni")));
    }
    let module = MODULES.iter().find(|module| module.name == "cni").context("there is no module of CNI plugins")?;
    let cache = cache()?;
    let (name, cross) = if architecture == own {
        (format!("cni-{}", module.key()?), None)
    } else {
        (format!("cni-{architecture}-{}", module.key()?), Some(architecture))
    };
    let dir = cache.join(name);
    if !dir.is_dir() {
        if why_not()?.is_some() {
            return Ok(None);
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let _lock = lock(&cache.join("lock"))?;
        if !dir.is_dir() {
            if module.unfetched().is_some() {
                return Ok(None);
            }
            module.build(&cache, &dir, cross)?;
        }
    }
    Ok(Some(dir.join("cni")))
}

/// The directory of containerd, if it was built.
pub fn containerd() -> Result<Option<PathBuf>> {
    built("containerd")
}

/// The directory of kubectl, if it was built.
pub fn kubectl() -> Result<Option<PathBuf>> {
    built("kubernetes")
}

/// The directory of a module's programs, if it was built.
fn built(name: &str) -> Result<Option<PathBuf>> {
    if let Some(given) = std::env::var_os(GIVEN) {
        return Ok(Some(PathBuf::from(given)));
    }
    let module = MODULES.iter().find(|module| module.name == name).context("there is no such module")?;
    let dir = cache()?.join(format!("{name}-{}", module.key()?));
    Ok(dir.is_dir().then_some(dir))
}

impl Module {
    fn source(&self) -> PathBuf {
        root().join("hack/kubernetes").join(self.name)
    }

    /// Everything that it gives.
    fn outcome(&self) -> impl Iterator<Item = &'static str> {
        self.programs.iter().chain(self.files.iter().flat_map(|files| files.names)).copied()
    }

    /// Everything that decides what comes out, as a hash.
    fn key(&self) -> Result<String> {
        let mut text = self.flags()?.join(" ").into_bytes();
        for file in ["go.mod", "go.sum"] {
            let path = self.source().join(file);
            text.extend(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
        text.extend(self.files.iter().flat_map(|files| files.names).flat_map(|name| name.bytes()));
        digest(&text)
    }

    /// The flags of `go build`.
    fn flags(&self) -> Result<Vec<String>> {
        let mut link = "-s -w".to_owned();
        if self.name == "kubernetes" {
            // What the release scripts set: without it every component calls itself v0.0.0 and refuses some of the others.
            let version = version(&fs::read_to_string(self.source().join("go.mod"))?)?;
            let mut numbers = version.trim_start_matches('v').split('.');
            let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                for (name, value) in
                    [("gitMajor", major), ("gitMinor", minor), ("gitVersion", &version), ("gitTreeState", "clean")]
                {
                    link.push_str(&format!(" -X {package}.{name}={value}"));
                }
            }
        }
        Ok(FLAGS.iter().map(|flag| (*flag).to_owned()).chain(["-ldflags".to_owned(), link]).collect())
    }

    /// Fetches what the build needs. Why that cannot be had here, if it cannot: a machine without a way to the modules is no failure of ours.
    fn unfetched(&self) -> Option<String> {
        eprintln!("==> fetching the Go modules of hack/kubernetes/{}", self.name);
        let mut list = command("go");
        list.args(["list", "-deps", "-f", "{{.Standard}}", "tool"]).current_dir(self.source());
        list.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
        let error = output(list).err()?;
        Some(format!("the Go modules of hack/kubernetes/{} cannot be fetched: {error:#}", self.name))
    }

    fn build(&self, cache: &Path, dir: &Path, architecture: Option<&str>) -> Result<()> {
        let log = cache.join(format!("{}.log", self.name));
        eprintln!("==> building {} with Go ({} when cold; log: {})", self.name, self.takes, log.display());
        let started = Instant::now();
        let part = cache.join(format!("part-{}", self.name));
        remove(&part)?;
        let below = self.programs[0].rsplit_once('/').map_or("", |(below, _)| below);
        fs::create_dir_all(part.join(below)).with_context(|| format!("cannot make {}", part.display()))?;
        // One program gets its name from us (etcd's module is called `server`), several get theirs from their packages.
        let out = match self.programs {
            [one] => part.join(one).display().to_string(),
            _ => format!("{}/", part.join(below).display()),
        };
        let mut build = command("nice");
        build.args(["-n", "19", "go", "build"]).args(self.flags()?).args(["-o", &out, "tool"]);
        build.current_dir(self.source()).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
        if std::env::var_os("GOCACHE").is_none() {
            build.env("GOCACHE", go_cache(cache));
        }
        build.envs(architecture.map(|name| ("GOARCH", name)));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        build.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let status = build.status().context("cannot start `nice go build`")?;
        if !status.success() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("go: downloading")).collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            bail!("cannot build hack/kubernetes/{}: {status}\n{last}", self.name);
        }
        for name in self.files.iter().flat_map(|files| files.names) {
            self.copy(name, &part.join(name))?;
        }
        let absent: Vec<&str> = self.outcome().filter(|name| !part.join(name).is_file()).collect();
        ensure!(absent.is_empty(), "hack/kubernetes/{} gave no {}", self.name, absent.join(", "));
        fs::rename(&part, dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::remove_file(&log).with_context(|| format!("cannot remove {}", log.display()))?;
        eprintln!("==> {} built in {} s", self.name, started.elapsed().as_secs());
        Ok(())
    }

    /// Copies one of [`Module::files`].
    fn copy(&self, name: &str, to: &Path) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        let mut list = command("go");
        list.args(["list", "-m", "-f", "{{.Dir}}", files.module]).current_dir(self.source());
        list.env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
        let name = Path::new(name).file_name().context("a file without a name")?;
        let from = Path::new(output(list)?.trim()).join(files.folder).join(name);
        fs::copy(&from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }
}

/// One directory with everything, as hard links: it appears when it is complete.
fn link(cache: &Path, modules: &[PathBuf], all: &Path) -> Result<()> {
    let part = cache.join("part-all");
    remove(&part)?;
    for (module, dir) in MODULES.iter().zip(modules) {
        for name in module.outcome() {
            let folder = part.join(name).parent().map_or_else(|| part.clone(), Path::to_path_buf);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            fs::hard_link(dir.join(name), part.join(name))
                .with_context(|| format!("cannot link {} into {}", dir.join(name).display(), part.display()))?;
        }
    }
    fs::rename(&part, all).with_context(|| format!("cannot make {}", all.display()))
}

/// What a directory lacks.
fn missing(dir: &Path) -> Vec<&'static str> {
    MODULES.iter().flat_map(Module::outcome).filter(|name| !dir.join(name).is_file()).collect()
}

/// Why this machine cannot build; none if it can.
fn why_not() -> Result<Option<String>> {
    if !has("go") {
        return Ok(Some("Go is not installed: a real Kubernetes cannot be built (https://go.dev/doc/install)".into()));
    }
    for module in &MODULES {
        // Go itself compares its version with the module's, and fetches a newer one where it may.
        let mut version = command("go");
        version.arg("version").current_dir(module.source()).env("GOWORK", "off");
        if let Err(error) = output(version) {
            return Ok(Some(format!("this Go cannot build hack/kubernetes/{}: {error:#}", module.name)));
        }
    }
    Ok(None)
}

/// Where the programs are kept.
fn cache() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set: no place for Kubernetes")?.join("spiderpool/kubernetes"))
}

/// Go's build cache while modules are missing: several gigabytes, so not the user's own unless it is asked for.
fn go_cache(cache: &Path) -> PathBuf {
    cache.join("part-go")
}

/// Holds the file's lock for as long as the result lives.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("==> another process builds Kubernetes: waiting for it");
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    Ok(file)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The version of Kubernetes that a `go.mod` pins.
fn version(text: &str) -> Result<String> {
    let pinned = |line: &str| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some("k8s.io/kubernetes")).then(|| words.next().map(str::to_owned)).flatten()
    };
    text.lines().find_map(pinned).context("hack/kubernetes/kubernetes/go.mod pins no k8s.io/kubernetes")
}

/// A short hash as a name.
fn digest(bytes: &[u8]) -> Result<String> {
    let mut sum = command("sha256sum");
    let mut child = sum.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start `sha256sum`")?;
    child.stdin.take().expect("standard input is piped").write_all(bytes)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.get(..16).map(str::to_owned).context("`sha256sum` printed no hash")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_pinned_one() {
        let text = "module x\n\nrequire (\n\tk8s.io/klog v1.0.0 // indirect\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\n\nreplace k8s.io/api => k8s.io/api v0.36.3\n";
        assert_eq!(version(text).unwrap(), "v1.36.3");
        version("module x\n").unwrap_err();
    }

    #[test]
    fn every_module_is_pinned_and_has_a_key_of_its_own() {
        let keys: std::collections::BTreeSet<String> = MODULES.iter().map(|module| module.key().unwrap()).collect();
        assert_eq!(keys.len(), MODULES.len());
    }

    #[test]
    fn a_directory_without_the_programs_is_not_taken_for_one() {
        let missing = missing(Path::new("/nonexistent"));
        assert!(missing.contains(&"kubelet") && missing.contains(&"cni/macvlan"), "{missing:?}");
    }
}
