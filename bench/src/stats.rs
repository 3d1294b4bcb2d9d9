//! Medians and percentiles of samples.

use std::time::Duration;

/// Samples of one figure, in the order in which they were taken.
#[derive(Default, Clone)]
pub struct Samples(pub Vec<Duration>);

impl Samples {
    /// The middle sample; zero without samples.
    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// The sample below which `percent` of all lie.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// `median 1.23 ms, p99 2.34 ms, n 200`.
    pub fn summary(&self) -> String {
        format!("median {}, p99 {}, n {}", shown(self.median()), shown(self.percentile(99)), self.0.len())
    }

    /// All samples in one line.
    pub fn raw(&self) -> String {
        self.0.iter().map(|sample| format!("{:.3}", sample.as_secs_f64() * 1e3)).collect::<Vec<_>>().join(" ")
    }
}

/// A duration with a unit that suits it.
pub fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.0} us", s * 1e6),
    }
}

/// How many times `this` is of `that`.
pub fn ratio(this: Duration, that: Duration) -> f64 {
    this.as_secs_f64() / that.as_secs_f64().max(f64::MIN_POSITIVE)
}
