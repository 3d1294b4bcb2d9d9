//! Installs what a fresh Debian 12 machine lacks: packages and the Rust target of the plugins.
//!
//! Only what is missing is installed; a second run does nothing. Without root, or without apt, the missing pieces are named instead.

use anyhow::{Result, bail};

use crate::run::{cargo, command, has, output, passed_on, root};

/// The target of everything that runs on a node.
pub const MUSL: &str = "x86_64-unknown-linux-musl";

/// A program that we call and the Debian package that brings it.
struct Need {
    program: &'static str,
    package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// What compiling needs beside Rust and `build-essential`.
const BUILD: [Need; 1] = [need("musl-gcc", "musl-tools")];

/// What the lab and the tests in namespaces call.
const LAB: [Need; 8] = [
    need("ip", "iproute2"),
    need("ping", "iputils-ping"),
    need("curl", "curl"),
    need("nft", "nftables"),
    need("conntrack", "conntrack"),
    need("tcpdump", "tcpdump"),
    need("unshare", "util-linux"),
    need("modprobe", "kmod"),
];

/// What a virtual machine needs, where the kernel of this one has no ipvlan.
const VM: [Need; 4] = [
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("busybox", "busybox-static"),
    need("cpio", "cpio"),
    need("xz", "xz-utils"),
];

/// What a real Kubernetes on this machine calls; the rest of it is built (`kube`).
const CLUSTER: [Need; 3] = [need("runc", "runc"), need("iptables", "iptables"), need("sha256sum", "coreutils")];

/// What nodes with kernels of their own need. Not every system has it, and most lanes go without.
const GUESTS: [Need; 1] = [need("linux.uml", "user-mode-linux")];

/// The standard CNI plugins of Debian.
const CNI_PLUGIN: &str = "/usr/lib/cni/ipvlan";

/// Everything that the demo and all test lanes need.
pub fn everything() -> Result<()> {
    let mut missing: Vec<&str> = packages(&BUILD);
    missing.extend(packages(&LAB));
    missing.extend(packages(&VM));
    missing.extend(packages(&CLUSTER));
    if !std::path::Path::new(CNI_PLUGIN).exists() {
        missing.push("containernetworking-plugins");
    }
    install(&missing)?;
    musl_target()
}

/// What a cluster needs whose nodes have kernels of their own.
pub fn guests() -> Result<()> {
    install(&packages(&GUESTS))
}

/// Only what compiling needs.
pub fn building() -> Result<()> {
    install(&packages(&BUILD))?;
    musl_target()
}

fn packages(needs: &[Need]) -> Vec<&'static str> {
    needs.iter().filter(|need| !has(need.program)).map(|need| need.package).collect()
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !has("apt-get") || !is_root() {
        bail!("these packages are missing and cannot be installed from here (needs root and apt): {list}");
    }
    eprintln!("==> installing with apt: {list}");
    let mut update = command("apt-get");
    update.args(["-o", "DPkg::Lock::Timeout=300", "-qq", "update"]);
    passed_on(update)?;
    let mut install = command("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0", "-qq", "-y", "--no-install-recommends"]);
    install.arg("install").args(packages).stdout(std::io::stderr());
    passed_on(install)
}

fn musl_target() -> Result<()> {
    let mut sysroot = command("rustc");
    sysroot.args(["--print", "target-libdir", "--target", MUSL]);
    let present = output(sysroot).is_ok_and(|dir| root().join(dir.trim()).is_dir());
    if present {
        return Ok(());
    }
    if !has("rustup") {
        bail!("the Rust target {MUSL} is missing and there is no rustup to add it; install it beside this toolchain");
    }
    eprintln!("==> adding the Rust target {MUSL}");
    let mut add = command("rustup");
    add.args(["target", "add", MUSL]);
    passed_on(add)
}

/// The components of the toolchain that the lane `lint` calls; a minimal toolchain has none of them.
const CHECKERS: [&str; 2] = ["rustfmt", "clippy"];

/// Adds what of them is missing, where that is possible; the checks that still lack theirs are skipped.
pub fn checkers() {
    let missing: Vec<&str> = CHECKERS.into_iter().filter(|name| !has_component(name)).collect();
    if missing.is_empty() || !has("rustup") {
        return;
    }
    eprintln!("==> adding to the toolchain: {}", missing.join(", "));
    let mut add = command("rustup");
    add.args(["component", "add"]).args(missing);
    if let Err(error) = passed_on(add) {
        eprintln!("xtask: {error:#}");
    }
}

/// Whether the toolchain has a component that is called through cargo. The file alone says nothing: rustup has one for each component, which
/// fails where that is not installed.
pub fn has_component(component: &str) -> bool {
    let mut ask = cargo();
    ask.args([if component == "rustfmt" { "fmt" } else { component }, "--version"]);
    output(ask).is_ok()
}

/// Whether this process is root.
pub fn is_root() -> bool {
    let mut id = command("id");
    id.arg("-u");
    output(id).is_ok_and(|uid| uid.trim() == "0")
}
