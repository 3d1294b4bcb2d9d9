//! The metrics registry and its text endpoint.

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::sync::Arc;

/// Buckets of every histogram of durations, in seconds (upstream's).
pub const DURATION_BUCKETS: [f64; 9] = [0.1, 0.3, 0.5, 1.0, 3.0, 5.0, 7.0, 10.0, 15.0];

/// A registry whose series carry upstream's scope labels and which also describes the process.
pub fn registry(process: &'static str, version: &'static str) -> Registry {
    let label = |name: &'static str, value: &'static str| (Cow::Borrowed(name), Cow::Borrowed(value));
    let labels = [label("otel_scope_name", process), label("otel_scope_version", version)];
    let mut registry = Registry::with_labels(labels.into_iter());
    registry.register("spiderpool_build", "What this process was built from", Info::new([("version", version)]));
    registry.register_collector(Box::new(Process));
    registry
}

/// Counters that are kept elsewhere, one for each value of a label, read at each scrape.
#[derive(Debug)]
pub struct Counts {
    /// Name without `_total`.
    pub name: &'static str,
    /// What is counted.
    pub help: &'static str,
    /// The label.
    pub label: &'static str,
    /// The label's values and what was counted.
    pub read: fn() -> Vec<(String, u64)>,
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let counts = (self.read)();
        if counts.is_empty() {
            return Ok(());
        }
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
        for (value, count) in counts {
            ConstCounter::new(count).encode(metric.encode_family(&[(self.label, value)])?)?;
        }
        Ok(())
    }
}

/// Answers every path with the text form of the registry.
pub fn router(registry: Arc<Registry>) -> Router {
    Router::new().fallback(render).with_state(registry)
}

async fn render(State(registry): State<Arc<Registry>>) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, &registry) {
        Ok(()) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], body).into_response()
        }
        Err(error) => (axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The `process_*` series every Prometheus library exports, read at each scrape.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(usage) = Usage::read() else { return Ok(()) };
        let memory = ConstGauge::new(usage.resident_bytes);
        memory.encode(encoder.encode_descriptor(
            "process_resident_memory_bytes",
            "Resident memory size in bytes",
            None,
            memory.metric_type(),
        )?)?;
        let files = ConstGauge::new(usage.open_files);
        files.encode(encoder.encode_descriptor(
            "process_open_fds",
            "Number of open file descriptors",
            None,
            files.metric_type(),
        )?)?;
        let cpu = ConstCounter::new(usage.cpu_seconds);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "Total user and system CPU time in seconds",
            None,
            cpu.metric_type(),
        )?)
    }
}

struct Usage {
    resident_bytes: i64,
    open_files: i64,
    cpu_seconds: f64,
}

impl Usage {
    /// Linux counts CPU time in hundredths of a second for user space and pages of 4 KiB on the platforms we build for.
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<i64>().ok();
        let open_files = i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()?;
        Some(Self {
            resident_bytes: number(21)? * 4096,
            open_files,
            cpu_seconds: (number(11)? + number(12)?) as f64 / 100.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn counters_that_are_kept_elsewhere_are_read_at_each_scrape() {
        let mut registry = registry("spiderpool-agent", "1.2.3");
        let read = || vec![("409".to_owned(), 7), ("timeout".to_owned(), 1)];
        registry.register_collector(Box::new(Counts {
            name: "spiderpool_x_counts",
            help: "Things",
            label: "code",
            read,
        }));
        let mut body = String::new();
        text::encode(&mut body, &registry).unwrap();
        for (code, count) in [("409", 7), ("timeout", 1)] {
            let label = format!("code=\"{code}\"");
            let is_series = |line: &&str| line.starts_with("spiderpool_x_counts_total{") && line.contains(&label);
            let line = body.lines().find(is_series).unwrap_or_else(|| panic!("{code} in {body}"));
            assert!(line.ends_with(&format!(" {count}")), "{line}");
        }
    }

    #[test]
    fn series_carry_the_scope_and_counters_their_suffix() {
        let mut registry = registry("spiderpool-agent", "1.2.3");
        let counter = Counter::<u64>::default();
        registry.register("spiderpool_x_counts", "Things", counter.clone());
        counter.inc();
        let mut body = String::new();
        text::encode(&mut body, &registry).unwrap();
        let line = r#"spiderpool_x_counts_total{otel_scope_name="spiderpool-agent",otel_scope_version="1.2.3"} 1"#;
        assert!(body.contains(line), "{body}");
        assert!(body.contains("process_resident_memory_bytes"), "{body}");
    }
}
