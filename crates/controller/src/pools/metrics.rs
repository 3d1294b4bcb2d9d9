//! Metrics of pools.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use k8s_api::SpiderIPPoolStatus;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

/// What the keeper counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pools: Arc<AtomicUsize>,
    total: Family<Label, Gauge>,
    available: Family<Label, Gauge>,
}

/// Upstream's only label: `SpiderIPPool`.
type Label = [(&'static str, String); 1];

fn label(pool: &str) -> Label {
    [("SpiderIPPool", pool.to_owned())]
}

impl Metrics {
    /// Registers the series; those of single pools only where debug metrics are enabled.
    pub fn register(&self, registry: &mut Registry, debug: bool) {
        registry.register_collector(Box::new(Count(Arc::clone(&self.pools))));
        if debug {
            let help = "Number of addresses of a pool";
            registry.register("spiderpool_debug_ippool_total_ip_counts", help, self.total.clone());
            let help = "Number of addresses of a pool that are not in use";
            registry.register("spiderpool_debug_ippool_available_ip_counts", help, self.available.clone());
        }
    }

    /// So many pools exist.
    pub fn count(&self, pools: usize) {
        self.pools.store(pools, Ordering::Relaxed);
    }

    /// A pool has this status.
    pub fn status(&self, pool: &str, status: &SpiderIPPoolStatus) {
        let label = label(pool);
        let (total, used) = (status.total_ip_count.unwrap_or(0), status.allocated_ip_count.unwrap_or(0));
        self.total.get_or_create(&label).set(total);
        self.available.get_or_create(&label).set(total.saturating_sub(used));
    }

    /// This replica knows nothing of single pools any more.
    pub fn clear(&self) {
        self.total.clear();
        self.available.clear();
    }

    /// A pool is no more.
    pub fn gone(&self, pool: &str) {
        let label = label(pool);
        self.total.remove(&label);
        self.available.remove(&label);
    }
}

/// Counted at each scrape: a gauge of its own would have to be kept in step.
#[derive(Debug)]
struct Count(Arc<AtomicUsize>);

impl Collector for Count {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let pools = i64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("spiderpool_total_ippool_counts", "Number of SpiderIPPools", pools),
            ("spiderpool_total_subnet_counts", "Number of SpiderSubnets", 0),
        ] {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
