//! Garbage collection: addresses and endpoints whose pods need them no longer, and that no agent gives back.
//!
//! The agent of a node is the authority on its addresses and acts first; this acts where there is no agent any more, or
//! where it has had its time. How an address comes to be released:
//!
//! 1. Watches ([`mirror`], [`index`]) say where to look. They show metadata only; what they say is a hint.
//! 2. A queue ([`queue`]) says when: not before the agent had its chance, and later after each failure.
//! 3. A look ([`look`]) reads the claim, the pod, its node and its owner from the API itself ([`live`]).
//! 4. A pure function ([`decide`]) makes a verdict of these facts ([`facts`]): keep, wait, or free, and why.
//! 5. What is freed is deleted with the UID and version it was read with as preconditions.
//!
//! A full scan goes through the whole index at each interval and queues what does not look healthy, so an event that was
//! missed is made good. Nothing is forgotten after failures, and nothing is freed while the API does not answer.

pub mod collector;
pub mod decide;
pub mod facts;
mod index;
mod live;
mod look;
mod mirror;
mod queue;
mod report;
pub mod settings;

pub use collector::{Context, run};
pub use settings::Settings;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What was collected.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Addresses released, or tried to.
    pub released: Counter,
    /// Of these, failures.
    pub failed: Counter,
    /// Writes of a release that somebody else had come before. Such a release is judged anew.
    pub conflicts: Counter,
    /// Pods, and addresses that nodes hold, that are to be looked at or are being looked at.
    pub queued: Gauge,
}

impl Metrics {
    /// Registers the counters under upstream's documented names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("spiderpool_ip_gc_counts", "Addresses that were collected", self.released.clone());
        let help = "Addresses that could not be collected";
        registry.register("spiderpool_ip_gc_failure_counts", help, self.failed.clone());
        let help = "Writes of a claim, or of its booking with upstream, that somebody else had come before";
        let name = "spiderpool_ipam_release_update_ippool_conflict_counts";
        registry.register(name, help, self.conflicts.clone());
        let help = "Pods and held addresses that wait for a look of the collector";
        registry.register("spiderpool_ip_gc_queue_depth", help, self.queued.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_names_are_exported() {
        let (mut registry, metrics) = (Registry::default(), Metrics::default());
        metrics.register(&mut registry);
        metrics.released.inc_by(3);
        metrics.conflicts.inc();
        metrics.queued.set(5);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "spiderpool_ip_gc_counts_total 3",
            "spiderpool_ip_gc_failure_counts_total 0",
            "spiderpool_ipam_release_update_ippool_conflict_counts_total 1",
            "spiderpool_ip_gc_queue_depth 5",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
    }
}
