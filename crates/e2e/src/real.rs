//! The cluster lane: a real Kubernetes, used by `kubectl` alone.
//!
//! The chapters are told in order and share the cluster. Whatever happens, the last one ends it and looks for what is left.

mod access;
mod addresses;
mod basics;
mod by_hand;
mod certificates;
mod endings;
mod guide;
mod install;
mod leaving;
mod multus;
mod product;
mod traces;
mod trouble;
mod upgrade;
mod upheaval;
pub mod walkthrough;
mod workloads;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use lab::kubernetes::{Cluster, Options};

pub use access::Access;

use product::Product;

use crate::report::{Report, Verdict};

/// What the lane runs on.
pub enum Ground {
    /// A cluster of its own, made and ended by the lane; with images it is the product's story too.
    Lab { options: Box<Options>, repository: PathBuf },
    /// Somebody's cluster, by kubeconfig: what would need its machines is left out.
    Own(PathBuf),
}

/// Tells the whole story; the result is whether every check passed.
pub fn run(ground: &Ground) -> Result<bool> {
    let mut report = Report::new(false);
    match ground {
        Ground::Lab { options, repository } => in_lab(options, repository, &mut report)?,
        Ground::Own(kubeconfig) => {
            let access = Access::of(kubeconfig.clone());
            report.chapter("Your cluster");
            basics::tell(&access, &mut report);
            report.say("left out, since it needs the machines: the product's story, restarts of components, the look for remains");
        }
    }
    report.finish();
    Ok(report.is_good())
}

fn in_lab(options: &Options, repository: &Path, report: &mut Report) -> Result<()> {
    report.chapter("A real Kubernetes out of namespaces");
    let started = Instant::now();
    let cluster = Cluster::up(options, &mut |line| report.step(line))?;
    report.say(&format!("up after {:.1} s", started.elapsed().as_secs_f32()));
    let access = Access::lab(cluster);
    basics::tell(&access, report);
    if options.images.is_empty() {
        report.say("left out, since no image was given: the product's story");
    } else {
        let product = Product {
            access: &access,
            repository: repository.into(),
            scratch: options.log_dir.clone(),
            guides: product::Guides::read(repository)?,
        };
        product::tell(&product, report);
    }
    endings::restarts(&access, report);
    endings::tell(access, options, report);
    Ok(())
}

/// A check whose outcome is that something could be done, with words about it.
fn done(outcome: Result<String>, expected: &str) -> Result<Verdict> {
    outcome.map(|seen| Verdict::new(true, expected, seen))
}
