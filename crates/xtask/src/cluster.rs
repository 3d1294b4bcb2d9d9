//! `cargo xtask cluster`: a real Kubernetes on this machine. Builds what it takes and hands over to `spiderpool-cluster` (`crates/e2e`).

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::build::{self, Profile, programs, target_dir};
use crate::kube::{self, Kubernetes};
use crate::run::{command, output, root, teed};
use crate::{demo, images, setup, signals};

/// What to do with the cluster.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// `up [--nodes N] [--image ARCHIVE]`, `down`, `shell [--node NODE] [COMMAND...]`, `load ARCHIVE...`, `process ORDER NAME`, `test`, `walkthrough`;
    /// `--name NAME` after it for another cluster than the usual one; `--help` says more
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    action: Vec<OsString>,
}

/// Runs the driver with the terminal's streams; its exit code is ours.
pub fn run(args: &Args) -> Result<ExitCode> {
    let action = args.action[0].to_string_lossy();
    let in_cloud = args.action.iter().any(|word| word.to_string_lossy().contains("vpc"));
    if action == "walkthrough" || action == "up" && in_cloud {
        setup::guests()?;
    }
    let on_its_own = !args.action.iter().any(|word| word.to_string_lossy().starts_with("--kubeconfig"));
    let mut driver = match action.as_ref() {
        "test" if !on_its_own => driver(true)?,
        "up" | "test" | "walkthrough" => match prepared()? {
            Ok(driver) => driver,
            Err(reason) => bail!("{reason}"),
        },
        _ => driver(false)?,
    };
    driver.args(&args.action);
    if action == "test" && on_its_own {
        driver.args(product()?);
    }
    if action == "walkthrough" {
        driver.args(for_walkthrough()?);
    }
    signals::run(driver)
}

/// Runs the cluster lane: its output, passed on as well, and its verdict; or the reason why this machine cannot. Where no cluster can be
/// made, the one of `KUBECONFIG` is used.
pub fn for_tests() -> Result<Result<(String, bool), String>> {
    let driver = match (prepared()?, std::env::var_os("KUBECONFIG")) {
        (Ok(mut driver), _) => {
            driver.arg("test").args(product()?);
            driver
        }
        (Err(reason), Some(kubeconfig)) => {
            eprintln!("{reason}: using the cluster of KUBECONFIG");
            let mut driver = driver(true)?;
            driver.args(["test", "--kubeconfig"]).arg(kubeconfig);
            driver
        }
        (Err(reason), None) => return Ok(Err(reason)),
    };
    Ok(Ok(teed(driver)?))
}

/// The product's images, quickly built, as the driver wants to be told of them.
fn product() -> Result<Vec<OsString>> {
    let built = images::build(&images::Args::quick())?;
    Ok(built.into_iter().flat_map(|image| ["--image".into(), image.archive.into()]).collect())
}

/// Runs the guide's walk-through on a real Kubernetes for its lane; the same as [`for_tests`].
pub fn walkthrough_for_tests() -> Result<Result<(String, bool), String>> {
    if let Err(error) = setup::guests() {
        return Ok(Err(format!("the nodes have no kernels of their own: {error:#}")));
    }
    Ok(match prepared()? {
        Ok(mut driver) => {
            driver.arg("walkthrough").args(for_walkthrough()?);
            Ok(teed(driver)?)
        }
        Err(reason) => Err(reason),
    })
}

/// The registry that the walk-through installs from: there is none, the nodes have the images.
const REGISTRY: &str = "registry.test";

/// The product's images.
fn for_walkthrough() -> Result<Vec<OsString>> {
    let built = images::for_nodes(REGISTRY)?;
    Ok(built.into_iter().flat_map(|image| ["--image".into(), image.archive.into()]).collect())
}

/// The driver with everything that a cluster takes, or the reason why this machine cannot.
pub fn prepared() -> Result<Result<Command, String>> {
    if !setup::is_root() {
        return Ok(Err("a cluster out of namespaces needs root".into()));
    }
    let mut namespaces = command("unshare");
    namespaces.args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]);
    if let Err(error) = output(namespaces) {
        return Ok(Err(format!("this machine permits no namespaces: {error:#}")));
    }
    let kubernetes = match kube::ready()? {
        Kubernetes::Ready(dir) => dir,
        Kubernetes::Absent(reason) => return Ok(Err(reason)),
    };
    setup::everything()?;
    let mut driver = driver(true)?;
    driver.arg("--kubernetes-dir").arg(kubernetes);
    Ok(Ok(driver))
}

/// The driver with the places that it needs. Built only when `anew`, or when it never was: a shell is not to wait for a compiler.
pub fn driver(anew: bool) -> Result<Command> {
    let mut bin = build::directory("lab");
    if anew || !bin.join("spiderpool-cluster").is_file() {
        bin = programs(&demo::PACKAGES, Profile::Lab)?;
    }
    let mut driver = command(bin.join("spiderpool-cluster"));
    driver.arg("--bin-dir").arg(&bin);
    driver.arg("--cache-dir").arg(target_dir().join("cluster"));
    driver.arg("--repository").arg(root());
    Ok(driver)
}
