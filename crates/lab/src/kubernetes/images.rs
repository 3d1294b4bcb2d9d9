//! The images that tests need, made of this machine's busybox, of the lab's own application and of Multus' programs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use oci::{Config, Image, Layer, Platform};

use super::configuration::PAUSE;
use crate::netns::output;

/// A small image with a shell.
pub const BUSYBOX: &str = "spiderpool.test/busybox:latest";
/// The walk-through's application image, by the very name that its YAML uses.
pub const TOOLS: &str = "docker.io/centos/tools:latest";

/// Multus' image, by the very name that the chart uses.
pub const MULTUS: &str = "ghcr.io/k8snetworkplumbingwg/multus-cni:v4.1.4";

/// Debian's busybox-static.
const PROGRAM: &str = "/bin/busybox";

/// Writes the archives: the sandboxes' image and [`BUSYBOX`] in one, [`TOOLS`] in the other. `app` is a static `spiderpool-lab`.
pub fn write(app: &Path, dir: &Path) -> Result<()> {
    let sleep = Config { entrypoint: words(&["/bin/sleep", "2147483647"]), env: path(), ..Config::default() };
    save(&[PAUSE, BUSYBOX], sleep, &busybox()?, &dir.join("busybox.tar"))?;
    let mut tools = busybox()?;
    let program = "/usr/bin/spiderpool-lab";
    tools.copy(program, 0o755, app).with_context(|| format!("image {TOOLS}"))?;
    tools.link("/usr/bin/curl", program)?;
    let serve = Config { entrypoint: words(&[program, "app"]), env: path(), ..Config::default() };
    save(&[TOOLS], serve, &tools, &dir.join("tools.tar"))
}

/// Writes the archive of [`MULTUS`]: the two programs, built from Multus' own source, at their places in Multus' own image.
pub fn write_multus(programs: &Path, archive: &Path) -> Result<()> {
    let mut layer = Layer::new();
    for (path, name) in [("/install_multus", "install_multus"), ("/usr/src/multus-cni/bin/multus", "multus")] {
        layer.copy(path, 0o755, &programs.join(name)).with_context(|| format!("image {MULTUS}"))?;
    }
    save(&[MULTUS], Config::default(), &layer, archive)
}

/// A shell with its usual programs.
fn busybox() -> Result<Layer> {
    let mut layer = Layer::new();
    layer.copy("/bin/busybox", 0o755, Path::new(PROGRAM)).context("install: busybox-static")?;
    // Dynamically linked it would not run in an image: then the list is all there is.
    for name in output(Command::new(PROGRAM).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        layer.link(&format!("/bin/{name}"), "busybox")?;
    }
    layer.folder("/tmp", 0o1777)?;
    layer.file("/etc/passwd", 0o644, "root:x:0:0:root:/:/bin/sh\n")?;
    layer.file("/etc/group", 0o644, "root:x:0:\n")?;
    Ok(layer)
}

fn save(names: &[&str], config: Config, layer: &Layer, path: &Path) -> Result<()> {
    let image = Image {
        names: words(names),
        platform: if cfg!(target_arch = "aarch64") { Platform::Arm64 } else { Platform::Amd64 },
        config,
        layers: vec![("test image".to_owned(), layer.pack()?)],
        annotations: Default::default(),
    };
    image.write(path).with_context(|| format!("image {}", names.join(", ")))?;
    Ok(())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn path() -> Vec<String> {
    words(&["PATH=/usr/bin:/bin"])
}
