//! The cluster lane: a real Kubernetes, used by `kubectl` alone.
//!
//! The chapters are told in order and share the cluster. Whatever happens, the last one ends it and looks for what is left.

mod access;
mod basics;
mod endings;
mod traces;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use lab::kubernetes::{Cluster, Options};

pub use access::Access;

use crate::report::{Report, Verdict};

/// What the lane runs on.
pub enum Ground {
    /// A cluster of its own, made and ended by the lane.
    Lab(Box<Options>),
    /// Somebody's cluster, by kubeconfig: what would need its machines is left out.
    Own(PathBuf),
}

/// Tells the whole story; the result is whether every check passed.
pub fn run(ground: &Ground) -> Result<bool> {
    let mut report = Report::new(false);
    match ground {
        Ground::Lab(options) => in_lab(options, &mut report)?,
        Ground::Own(kubeconfig) => {
            let access = Access::of(kubeconfig.clone());
            report.chapter("Your cluster");
            basics::tell(&access, &mut report);
            report.say("left out, since it needs the machines: restarts of components, the look for remains");
        }
    }
    report.finish();
    Ok(report.is_good())
}

fn in_lab(options: &Options, report: &mut Report) -> Result<()> {
    report.chapter("A real Kubernetes out of namespaces");
    let started = Instant::now();
    let cluster = Cluster::up(options, &mut |line| report.step(line))?;
    report.say(&format!("up after {:.1} s", started.elapsed().as_secs_f32()));
    let access = Access::lab(cluster);
    basics::tell(&access, report);
    endings::restarts(&access, report);
    endings::tell(access, options, report);
    Ok(())
}

/// A check whose outcome is that something could be done, with words about it.
fn done(outcome: Result<String>, expected: &str) -> Result<Verdict> {
    outcome.map(|seen| Verdict::new(true, expected, seen))
}
