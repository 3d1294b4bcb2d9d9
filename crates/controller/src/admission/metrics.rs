//! How many reviews were answered, how, and how long it took.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// What is counted.
#[derive(Clone, Debug)]
pub struct Metrics {
    reviews: Family<[(&'static str, &'static str); 3], Counter>,
    durations: Family<[(&'static str, &'static str); 1], Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(daemon::metrics::DURATION_BUCKETS);
        Self { reviews: Family::default(), durations: Family::new_with_constructor(histogram) }
    }
}

impl Metrics {
    /// Registers the series.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("spiderpool_webhook_reviews", "Admission reviews that were answered", self.reviews.clone());
        let help = "Duration of admission reviews in seconds";
        registry.register("spiderpool_webhook_duration_seconds", help, self.durations.clone());
    }

    /// A review was answered.
    pub fn answered(&self, kind: &'static str, verb: &'static str, verdict: &'static str, took: Duration) {
        self.reviews.get_or_create(&[("kind", kind), ("verb", verb), ("verdict", verdict)]).inc();
        self.durations.get_or_create(&[("verb", verb)]).observe(took.as_secs_f64());
    }
}
