//! The agent's series, by the names that upstream documents and its dashboards use.

use daemon::metrics::{Counts, DURATION_BUCKETS};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

type Seconds = Gauge<f64, AtomicU64>;

/// Why a request failed, as far as the series tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No pool may serve.
    NoPool,
    /// No pool has a free address.
    UsedOut,
    /// The API server did not answer often enough.
    RetriesExhausted,
    /// Anything else.
    Internal,
}

/// All series of the agent.
#[derive(Debug)]
pub struct Metrics {
    allocation: Requests,
    no_pool: Counter,
    used_out: Counter,
    release: Requests,
    cni: Family<[(&'static str, &'static str); 2], Histogram>,
}

/// What a plugin asks for that gives addresses back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A `DEL`.
    Del,
    /// All addresses of a sandbox, because one is in use by somebody else or a gateway is dead.
    Release,
}

/// Series that both kinds of request have.
#[derive(Debug)]
struct Requests {
    counts: Counter,
    failures: Counter,
    conflicts: Counter,
    internal: Counter,
    exhausted: Counter,
    duration: Times,
    /// Time spent queuing in a limiter. There is none, so this stays 0; dashboards show it.
    limit: Times,
}

/// Mean, extremes, last value and distribution of durations.
#[derive(Debug)]
struct Times {
    average: Seconds,
    max: Seconds,
    min: Seconds,
    latest: Seconds,
    histogram: Histogram,
    sum: Mutex<(u64, f64)>,
}

impl Metrics {
    /// Registers all series.
    pub fn new(registry: &mut Registry) -> Self {
        let allocation = Requests::new(registry, "allocation");
        registry.register_collector(Box::new(Counts {
            name: store::failure::ERRORS_NAME,
            help: store::failure::ERRORS_HELP,
            label: "code",
            read: store::failure::errors,
        }));
        let cni = Family::new_with_constructor(histogram as fn() -> Histogram);
        let help = "Duration of requests of the CNI plugins in seconds";
        registry.register("spiderpool_cni_duration_seconds", help, cni.clone());
        Self {
            cni,
            no_pool: counter(registry, "allocation_err_no_available_pool_counts", "Failures for want of a pool"),
            used_out: counter(registry, "allocation_err_ip_used_out_counts", "Failures for want of a free address"),
            release: Requests::new(registry, "release"),
            allocation,
        }
    }

    /// An ADD ended.
    pub fn added(&self, took: Duration, failure: Option<Class>) {
        match failure {
            Some(Class::NoPool) => drop(self.no_pool.inc()),
            Some(Class::UsedOut) => drop(self.used_out.inc()),
            _ => {}
        }
        self.allocation.ended(took, failure);
        self.answered("ADD", took, failure);
    }

    /// A release ended.
    pub fn released(&self, command: Command, took: Duration, failure: Option<Class>) {
        self.release.ended(took, failure);
        let command = match command {
            Command::Del => "DEL",
            Command::Release => "RELEASE",
        };
        self.answered(command, took, failure);
    }

    fn answered(&self, command: &'static str, took: Duration, failure: Option<Class>) {
        let result = if failure.is_some() { "failure" } else { "success" };
        self.cni.get_or_create(&[("command", command), ("result", result)]).observe(took.as_secs_f64());
    }

    /// The address that was to be claimed is somebody else's, or its pool was changed while it was booked with upstream.
    pub fn claim_conflict(&self) {
        self.allocation.conflicts.inc();
    }

    /// The claim that was to be freed had changed, or its pool was changed while its booking with upstream was taken away.
    pub fn release_conflict(&self) {
        self.release.conflicts.inc();
    }
}

impl Requests {
    fn new(registry: &mut Registry, kind: &str) -> Self {
        Self {
            counts: counter(registry, &format!("{kind}_counts"), "Requests"),
            failures: counter(registry, &format!("{kind}_failure_counts"), "Failed requests"),
            conflicts: counter(
                registry,
                &format!("{kind}_update_ippool_conflict_counts"),
                "Writes of a claim, or of its booking with upstream, that somebody else had come before",
            ),
            internal: counter(registry, &format!("{kind}_err_internal_counts"), "Failures of other kinds"),
            exhausted: counter(
                registry,
                &format!("{kind}_err_retries_exhausted_counts"),
                "Failures because the API server did not answer",
            ),
            duration: Times::new(registry, kind, ""),
            limit: Times::new(registry, kind, "limit_"),
        }
    }

    fn ended(&self, took: Duration, failure: Option<Class>) {
        self.counts.inc();
        if let Some(class) = failure {
            self.failures.inc();
            match class {
                Class::Internal => drop(self.internal.inc()),
                Class::RetriesExhausted => drop(self.exhausted.inc()),
                Class::NoPool | Class::UsedOut => {}
            }
        }
        self.duration.observe(took.as_secs_f64());
        self.limit.observe(0.0);
    }
}

impl Times {
    fn new(registry: &mut Registry, kind: &str, limit: &str) -> Self {
        let times = Self {
            average: Seconds::default(),
            max: Seconds::default(),
            min: Seconds::default(),
            latest: Seconds::default(),
            histogram: histogram(),
            sum: Mutex::default(),
        };
        let gauges = [("average", &times.average), ("max", &times.max), ("min", &times.min), ("latest", &times.latest)];
        for (statistic, gauge) in gauges {
            let name = format!("spiderpool_ipam_{kind}_{statistic}_{limit}duration_seconds");
            registry.register(name, format!("The {statistic} duration in seconds"), gauge.clone());
        }
        let name = format!("spiderpool_ipam_{kind}_{limit}duration_seconds");
        registry.register(name, "Distribution of durations in seconds", times.histogram.clone());
        times
    }

    fn observe(&self, seconds: f64) {
        self.histogram.observe(seconds);
        self.latest.set(seconds);
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = (sum.0 + 1, sum.1 + seconds);
        self.average.set(sum.1 / sum.0 as f64);
        if sum.0 == 1 || seconds < self.min.get() {
            self.min.set(seconds);
        }
        if seconds > self.max.get() {
            self.max.set(seconds);
        }
    }
}

fn histogram() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(format!("spiderpool_ipam_{name}"), help, counter.clone());
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_names_are_exported() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        metrics.added(Duration::from_millis(20), None);
        metrics.added(Duration::from_millis(40), Some(Class::UsedOut));
        metrics.released(Command::Del, Duration::from_millis(10), Some(Class::Internal));
        metrics.released(Command::Release, Duration::from_millis(400), None);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "spiderpool_ipam_allocation_counts_total 2",
            "spiderpool_ipam_allocation_failure_counts_total 1",
            "spiderpool_ipam_allocation_err_ip_used_out_counts_total 1",
            "spiderpool_ipam_allocation_err_internal_counts_total 0",
            "spiderpool_ipam_allocation_max_duration_seconds 0.04",
            "spiderpool_ipam_allocation_min_duration_seconds 0.02",
            "spiderpool_ipam_allocation_duration_seconds_count 2",
            "spiderpool_ipam_allocation_average_limit_duration_seconds 0.0",
            "spiderpool_ipam_release_err_internal_counts_total 1",
            "spiderpool_ipam_release_update_ippool_conflict_counts_total 0",
            "spiderpool_ipam_release_duration_seconds_bucket{le=\"0.1\"} 1",
            "spiderpool_cni_duration_seconds_count{command=\"ADD\",result=\"success\"} 1",
            "spiderpool_cni_duration_seconds_sum{command=\"ADD\",result=\"failure\"} 0.04",
            "spiderpool_cni_duration_seconds_count{command=\"DEL\",result=\"failure\"} 1",
            "spiderpool_cni_duration_seconds_bucket{le=\"0.3\",command=\"RELEASE\",result=\"success\"} 0",
            "spiderpool_cni_duration_seconds_bucket{le=\"0.5\",command=\"RELEASE\",result=\"success\"} 1",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn every_series_is_in_the_guides() {
        let mut registry = Registry::default();
        Metrics::new(&mut registry).added(Duration::ZERO, None);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        // The guides name each kind of series once.
        let names: Vec<String> = names
            .map(|name| name.replace("_ipam_release_", "_ipam_allocation_"))
            .map(|name| ["_average", "_max", "_min", "_latest"].iter().fold(name, |name, one| name.replace(one, "")))
            .collect();
        assert!(names.len() >= 25, "{names:?}");
        for guide in [include_str!("../../../docs/metrics.md"), include_str!("../../../docs/metrics-zh_CN.md")] {
            let missing: Vec<&String> = names.iter().filter(|name| !guide.contains(*name)).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    }
}
