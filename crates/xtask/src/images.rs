//! `cargo xtask images`: the container images, out of the programs of this checkout, without a container engine and without a network.
//!
//! What is in an image is in `images/*.yaml` ([`describe`]). Every image begins with the same small base and ends with its bill of
//! materials; layers that two images share have the same digest, so a node loads them once.

mod check;
mod describe;
mod platform;
mod sbom;
mod stamp;
mod standard;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use oci::{Archive, Config, Healthcheck, Image, Layer};

use crate::build::{Profile, target_dir};
use crate::report::{Check, conclude};
use crate::run::root;
use describe::{Description, LayerDescription};
use platform::Target;
use sbom::{Component, Program};
use stamp::Stamp;
use standard::Standard;

const SOURCE: &str = "https://github.com/spidernet-io/spiderpool";

/// What to build.
#[derive(clap::Args)]
pub struct Args {
    /// Architectures; one whose toolchain is missing is skipped, with the reason.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["amd64", "arm64"])]
    arch: Vec<platform::Arch>,
    /// Where the archives go.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// How the programs are compiled: as shipped, or quickly.
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    /// Registry and organisation in the images' names.
    #[arg(long, value_name = "PREFIX", default_value = "ghcr.io/spidernet-io/spiderpool")]
    registry: String,
    /// Tag; by default what the chart asks for.
    #[arg(long)]
    tag: Option<String>,
    /// Folder with the standard CNI plugins; by default the pinned Go module's, or the distribution's.
    #[arg(long, value_name = "FOLDER")]
    standard_plugins: Option<PathBuf>,
    /// Only these images, by the last part of their name.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Then try the archives, as `cargo xtask test images` does: needs root; containerd, runc and skopeo if they are here.
    #[arg(long)]
    check: bool,
}

impl Args {
    /// What tests need: this machine's architecture, quickly.
    pub fn quick() -> Self {
        Self {
            arch: vec![platform::Arch::of_this_machine()],
            out: None,
            profile: Profile::Lab,
            registry: "ghcr.io/spidernet-io/spiderpool".into(),
            tag: None,
            standard_plugins: None,
            only: Vec::new(),
            check: true,
        }
    }
}

/// The images for the nodes of a test's cluster, named as in a registry of that name. Nothing is checked.
pub fn for_nodes(registry: &str) -> Result<Vec<Built>> {
    // The standard plugins are on the nodes.
    let only = vec!["spiderpool-agent".to_owned(), "spiderpool-controller".to_owned()];
    let out = Some(target_dir().join("cluster/images"));
    build(&Args { registry: format!("{registry}/spidernet-io/spiderpool"), out, only, check: false, ..Args::quick() })
}

/// An archive that was written.
pub struct Built {
    /// The image's name without registry and tag.
    pub name: String,
    /// The archive.
    pub archive: PathBuf,
    /// Full name.
    pub reference: String,
}

/// Builds and prints what came out.
pub fn run(args: &Args) -> Result<ExitCode> {
    let built = build(args)?;
    Ok(if args.check { conclude(&check::all(&built)?) } else { ExitCode::SUCCESS })
}

/// The lane: builds quickly and checks the archives with other people's tools.
pub fn lane() -> Result<Vec<Check>> {
    check::all(&build(&Args::quick())?)
}

/// Builds the images; the archives of what cannot be built here are left out, and it is said why.
pub fn build(args: &Args) -> Result<Vec<Built>> {
    let mut images = describe::all()?;
    if !args.only.is_empty() {
        let known: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
        if let Some(name) = args.only.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("--only {name}: there are only the images {}", known.join(", "));
        }
        images.retain(|image| args.only.contains(&image.name));
    }
    let out = args.out.clone().unwrap_or_else(|| target_dir().join("images"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let stamp = Stamp::of_source()?;
    let mut built = Vec::new();
    for arch in &args.arch {
        let target = match arch.target() {
            Ok(target) => target,
            Err(reason) => {
                eprintln!("==> skipped: images for {}: {reason}", arch.platform().architecture());
                continue;
            }
        };
        let factory = Factory::new(args, &stamp, target, &images, &out)?;
        for image in &images {
            match factory.make(image)? {
                Ok(one) => built.push(one),
                Err(reason) => eprintln!("==> skipped: {}: {reason}", image.name),
            }
        }
    }
    ensure!(!built.is_empty(), "no image could be built");
    Ok(built)
}

/// What the images of one architecture are made from.
struct Factory<'a> {
    args: &'a Args,
    stamp: &'a Stamp,
    target: Target,
    out: &'a Path,
    /// Package -> its program and what is linked into it.
    programs: BTreeMap<String, (Vec<u8>, Vec<Component>)>,
    standard: Result<Standard, String>,
}

impl<'a> Factory<'a> {
    fn new(args: &'a Args, stamp: &'a Stamp, target: Target, images: &[Description], out: &'a Path) -> Result<Self> {
        let layers = || images.iter().flat_map(|image| &image.layers);
        let mut packages: Vec<&str> = layers().flat_map(|layer| layer.files.values().map(String::as_str)).collect();
        packages.sort_unstable();
        packages.dedup();
        let files = target.programs(&packages, args.profile)?;
        let mut programs = BTreeMap::new();
        for (package, path) in packages.iter().zip(files) {
            let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            platform::check(&content, target.platform, true).with_context(|| path.display().to_string())?;
            programs.insert((*package).to_owned(), (content, sbom::crates(package, target.triple)?));
        }
        let standard = if layers().any(|layer| layer.standard_plugins.is_some()) {
            standard::find(args.standard_plugins.as_deref(), target.platform)?
        } else {
            Err("no image asks for them".to_owned())
        };
        Ok(Self { args, stamp, target, out, programs, standard })
    }

    /// Writes the archive of an image and its bill of materials.
    fn make(&self, image: &Description) -> Result<Result<Built, String>> {
        let mut layers = vec![("accounts, /tmp, licence".to_owned(), base(image)?)];
        for layer in &image.layers {
            match self.layer(layer)? {
                Ok(tree) => layers.push((layer.what.clone(), tree)),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        let architecture = self.target.platform.architecture();
        let bill = self.bill(image, &layers);
        let bill = format!("{bill:#}\n");
        let mut last = Layer::new();
        last.file(&format!("/usr/share/sbom/{}.spdx.json", image.name), 0o644, bill.as_bytes())?;
        layers.push(("bill of materials".to_owned(), last));

        let packed = layers.iter().map(|(what, tree)| Ok((what.clone(), tree.pack()?))).collect::<Result<Vec<_>>>()?;
        let unpacked: u64 = packed.iter().map(|(_, blob)| blob.unpacked).sum();
        if let Some(limit) = image.limit {
            ensure!(unpacked < limit, "{}: {unpacked} bytes unpacked, images/ allows {limit}", image.name);
        }
        let labels = self.labels(image);
        let tag = self.args.tag.clone().unwrap_or_else(|| format!("v{}", self.stamp.version));
        let reference = format!("{}/{}:{tag}", self.args.registry.trim_end_matches('/'), image.name);
        let oci = Image {
            names: vec![reference.clone()],
            platform: self.target.platform,
            config: self.config(image, labels.clone()),
            layers: packed,
            annotations: labels,
        };
        let stem = format!("{}-{tag}-{architecture}", image.name);
        let written = oci.write(&self.out.join(format!("{stem}.tar")))?;
        std::fs::write(self.out.join(format!("{stem}.spdx.json")), bill)?;
        Archive::open(&written.path)?; // reads every blob back and compares digests
        println!(
            "{reference} ({architecture})\n  archive   {}\n  digest    {}\n  download  {:.1} MB, unpacked {:.1} MB",
            written.path.display(),
            written.digest,
            megabytes(written.size),
            megabytes(unpacked),
        );
        if let (true, Ok(standard)) = (image.layers.iter().any(|one| one.standard_plugins.is_some()), &self.standard) {
            println!("  contains  {}", standard.origin);
        }
        Ok(Ok(Built { name: image.name.clone(), archive: written.path, reference }))
    }

    fn layer(&self, description: &LayerDescription) -> Result<Result<Layer, String>> {
        let mut tree = Layer::new();
        for (path, package) in &description.files {
            tree.file(path, 0o755, self.programs[package].0.as_slice())?;
        }
        for (path, target) in &description.links {
            tree.link(path, target)?;
        }
        if let Some(folder) = &description.standard_plugins {
            match &self.standard {
                Err(reason) => return Ok(Err(reason.clone())),
                Ok(standard) => {
                    for (name, content) in &standard.plugins {
                        tree.file(&format!("{folder}/{name}"), 0o755, content.as_slice())?;
                    }
                }
            }
        }
        Ok(Ok(tree))
    }

    fn bill(&self, image: &Description, layers: &[(String, Layer)]) -> serde_json::Value {
        let ours: BTreeMap<&str, &str> = image
            .layers
            .iter()
            .flat_map(|layer| &layer.files)
            .map(|(path, package)| (&path[1..], &**package))
            .collect();
        let standard = self.standard.as_ref().map(|standard| standard.components.as_slice()).unwrap_or_default();
        let programs: Vec<Program<'_>> = layers
            .iter()
            .skip(1) // the base has no programs
            .flat_map(|(_, tree)| tree.files())
            .map(|(path, content)| Program {
                path,
                content,
                components: ours.get(path).map_or(standard, |package| &self.programs[*package].1),
            })
            .collect();
        sbom::document(&image.name, self.target.platform.architecture(), self.stamp, &programs)
    }

    fn labels(&self, image: &Description) -> BTreeMap<String, String> {
        let documentation = format!("{SOURCE}/blob/main/docs/images.md");
        let labels = [
            ("title", image.title.as_str()),
            ("description", image.description.as_str()),
            ("version", self.stamp.version.as_str()),
            ("revision", self.stamp.revision.as_str()),
            ("created", self.stamp.created.as_str()),
            ("licenses", "Apache-2.0"),
            ("vendor", "Spiderpool"),
            ("source", SOURCE),
            ("url", SOURCE),
            ("documentation", documentation.as_str()),
        ];
        let given = labels.into_iter().filter(|(_, value)| !value.is_empty());
        given.map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned())).collect()
    }

    fn config(&self, image: &Description, labels: BTreeMap<String, String>) -> Config {
        let healthcheck = (!image.healthcheck.is_empty()).then(|| Healthcheck {
            command: image.healthcheck.clone(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            start_period: Duration::from_secs(60),
            retries: 3,
        });
        Config {
            user: image.user.clone(),
            env: vec!["PATH=/usr/bin".to_owned(), format!("VERSION={}", self.stamp.version)],
            entrypoint: image.entrypoint.clone(),
            cmd: image.cmd.clone(),
            labels,
            exposed_ports: image.ports.clone(),
            healthcheck,
            created: Some(self.stamp.created.clone()),
        }
    }
}

/// What a program expects of a file system. No authorities: the API server is checked with the service account's.
fn base(image: &Description) -> Result<Layer> {
    let licence = std::fs::read(root().join("LICENSE")).context("cannot read LICENSE")?;
    let mut tree = Layer::new();
    tree.file(
        "/etc/passwd",
        0o644,
        "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
    )?
    .file("/etc/group", 0o644, "root:x:0:\nnonroot:x:65532:\n")?
    .file("/usr/share/doc/spiderpool/LICENSE", 0o644, licence)?
    .folder("/tmp", 0o1777)?;
    ensure!(matches!(image.user.as_str(), "0:0" | "65532:65532"), "{}: user {} has no account", image.name, image.user);
    Ok(tree)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
