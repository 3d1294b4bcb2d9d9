//! What is in use, by pool, and how a pool's status shows it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipam::{SpanSet, rules::PoolSpec};
use k8s_api::{
    SpiderIP, SpiderIPPool, SpiderIPPoolStatus,
    records::{Record, Records},
};

use crate::upstream::import::Known;

/// Bytes of `status.allocatedIPs`, of the 1.5 MiB that etcd takes for the whole object.
const MAX_TEXT: usize = 900_000;
/// Bytes of a record in it beside its address, pod and UID: quotes, names of fields, a comma; quotes again, because it is a text in JSON.
const AROUND_RECORD: usize = 48;

/// Ranges in `status.usedRanges`, as the CRD limits them.
const MAX_RANGES: usize = 256;

/// The addresses in use, as the watch of SpiderIPs tells them.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: HashMap<IpAddr, Entry>,
    pools: HashMap<Arc<str>, BTreeSet<IpAddr>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    pool: Arc<str>,
    pod: Option<Record>,
    /// No sandbox has come for it since it was imported.
    imported: bool,
}

impl Ledger {
    /// Takes a SpiderIP in; returns the pools whose view changes.
    pub fn apply(&mut self, ip: &SpiderIP) -> Vec<Arc<str>> {
        let Some(address) = ip.address() else { return Vec::new() };
        let pod = ip.spec.holder.pod();
        let imported = pod.is_some_and(|pod| pod.container_id.is_none());
        let pod = pod.map(|pod| Record::new(&pod.namespace, &pod.name, &pod.uid));
        let entry = Entry { pool: ip.spec.pool.as_str().into(), pod, imported };
        if self.entries.get(&address) == Some(&entry) {
            return Vec::new();
        }
        let mut changed = self.take(address);
        self.pools.entry(Arc::clone(&entry.pool)).or_default().insert(address);
        changed.push(Arc::clone(&entry.pool));
        self.entries.insert(address, entry);
        changed.dedup();
        changed
    }

    /// Takes a SpiderIP out; returns the pools whose view changes.
    pub fn remove(&mut self, ip: &SpiderIP) -> Vec<Arc<str>> {
        ip.address().map(|address| self.take(address)).unwrap_or_default()
    }

    fn take(&mut self, address: IpAddr) -> Vec<Arc<str>> {
        let Some(entry) = self.entries.remove(&address) else { return Vec::new() };
        if let Some(addresses) = self.pools.get_mut(&entry.pool) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.pools.remove(&entry.pool);
            }
        }
        vec![entry.pool]
    }

    /// The pools whose view differs between two ledgers.
    pub fn differing(&self, other: &Self) -> HashSet<Arc<str>> {
        let names = self.pools.keys().chain(other.pools.keys());
        names.filter(|name| !self.same(other, name)).cloned().collect()
    }

    fn same(&self, other: &Self, pool: &str) -> bool {
        let (mine, theirs) = (self.pools.get(pool), other.pools.get(pool));
        mine == theirs
            && mine.into_iter().flatten().all(|address| self.entries.get(address) == other.entries.get(address))
    }

    /// How many addresses of the pool are in use.
    pub fn count(&self, pool: &str) -> usize {
        self.pools.get(pool).map_or(0, BTreeSet::len)
    }

    /// An address of the pool in use and its pod, for texts.
    pub fn example(&self, pool: &str) -> Option<(IpAddr, &str)> {
        let address = *self.pools.get(pool)?.first()?;
        let pod = self.entries.get(&address)?.pod.as_ref();
        Some((address, pod.map_or("no pod", |record| record.pod.as_str())))
    }

    /// What upstream's records tell of the pool beyond what is known here: allocations without SpiderIP, and imported SpiderIPs
    /// whose allocation is no longer recorded.
    pub fn compare(&self, pool: &str, records: &Records) -> Known {
        let covered = |address: &IpAddr, record: &Record| {
            let pod = self.entries.get(address).and_then(|entry| entry.pod.as_ref());
            pod.is_some_and(|pod| pod.uid == record.uid)
        };
        let missing = records.iter().filter(|(address, record)| !covered(address, record));
        let missing = missing.map(|(address, record)| (address, record.clone())).collect();
        let released = self.pools.get(pool).into_iter().flatten().filter_map(|address| {
            let entry = self.entries.get(address).filter(|entry| entry.imported)?;
            let pod = entry.pod.as_ref()?;
            let recorded = records.get(*address).is_some_and(|record| record.uid == pod.uid);
            (!recorded).then(|| (*address, pod.clone()))
        });
        Known { missing, released: released.collect() }
    }

    /// The status that the pool shall have. `allocatedIPs` lists at most `max` addresses, and no more than an object can hold; the counts are
    /// exact. The total of
    /// a pool whose ranges do not parse is left as it is.
    pub fn status(&self, pool: &SpiderIPPool, max: usize) -> SpiderIPPoolStatus {
        let name = pool.metadata.name.as_deref().unwrap_or_default();
        let empty = BTreeSet::new();
        let used = self.pools.get(name).unwrap_or(&empty);
        let total = PoolSpec::from(&pool.spec).addresses().ok().map(|addresses| addresses.count());
        SpiderIPPoolStatus {
            allocated_ips: self.records(used, max),
            total_ip_count: total.or(pool.status.as_ref().and_then(|status| status.total_ip_count)),
            allocated_ip_count: Some(i64::try_from(used.len()).unwrap_or(i64::MAX)),
            used_ranges: ranges(used),
            source: Some(SpiderIPPoolStatus::SPIDER_IP.to_owned()),
            source_ips: pool.status.as_ref().and_then(|status| status.source_ips.clone()),
        }
    }

    fn records(&self, used: &BTreeSet<IpAddr>, max: usize) -> Option<String> {
        let records = used.iter().filter_map(|address| {
            let record = self.entries.get(address)?.pod.as_ref()?;
            Some((address.to_string(), record))
        });
        let mut left = MAX_TEXT;
        let fits = |(address, record): &(String, &Record)| {
            let length = address.len() + record.pod.len() + record.uid.len() + AROUND_RECORD;
            let fits = length <= left;
            left = left.saturating_sub(length);
            fits
        };
        let records: BTreeMap<String, &Record> = records.take(max).take_while(fits).collect();
        (!records.is_empty()).then(|| serde_json::to_string(&records).expect("texts are JSON"))
    }
}

/// Merged ranges; if there are too many the longest ones, because a hint may leave out but not add.
fn ranges(used: &BTreeSet<IpAddr>) -> Vec<String> {
    let set: SpanSet = used.iter().copied().collect();
    let mut spans = set.spans().to_vec();
    if spans.len() > MAX_RANGES {
        spans.sort_by_key(|span| std::cmp::Reverse(span.size()));
        spans.truncate(MAX_RANGES);
        spans.sort();
    }
    spans.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_api::{
        Holder, IpState,
        ip::{NodeHolder, PodHolder},
    };
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    fn held(address: &str, pool: &str, holder: Holder) -> SpiderIP {
        let address: IpAddr = address.parse().unwrap();
        SpiderIP::claim(
            &ipam::address_name(address),
            address,
            pool,
            IpState::Allocated,
            holder,
            Time(Timestamp::UNIX_EPOCH),
        )
    }

    fn ip(address: &str, pool: &str, pod: &str) -> SpiderIP {
        let pod =
            PodHolder { namespace: "ns".into(), name: pod.into(), uid: format!("uid-{pod}"), ..Default::default() };
        held(address, pool, Holder::Pod(pod))
    }

    fn pool(name: &str) -> SpiderIPPool {
        let spec =
            serde_json::json!({"subnet": "10.1.0.0/16", "ips": ["10.1.0.1-10.1.3.255"], "excludeIPs": ["10.1.0.9"]});
        SpiderIPPool::new(name, serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_status_has_upstreams_format() {
        let mut ledger = Ledger::default();
        for ip in [ip("10.1.0.10", "p", "web-1"), ip("10.1.0.2", "p", "web-0"), ip("10.9.0.1", "q", "other")] {
            assert_eq!(ledger.apply(&ip).len(), 1);
        }
        let status = ledger.status(&pool("p"), 5000);
        let expected = r#"{"10.1.0.10":{"pod":"ns/web-1","podUid":"uid-web-1"},"10.1.0.2":{"pod":"ns/web-0","podUid":"uid-web-0"}}"#;
        assert_eq!(status.allocated_ips.as_deref(), Some(expected));
        assert_eq!((status.allocated_ip_count, status.total_ip_count), (Some(2), Some(1022)));
        assert_eq!(status.used_ranges, ["10.1.0.2", "10.1.0.10"]);
    }

    #[test]
    fn the_last_release_leaves_no_text() {
        let mut ledger = Ledger::default();
        ledger.apply(&ip("10.1.0.2", "p", "web-0"));
        assert_eq!(ledger.remove(&ip("10.1.0.2", "p", "web-0")), [Arc::from("p")]);
        assert_eq!(ledger.remove(&ip("10.1.0.2", "p", "web-0")), []);
        let status = ledger.status(&pool("p"), 5000);
        assert_eq!((status.allocated_ips, status.allocated_ip_count, status.used_ranges), (None, Some(0), vec![]));
    }

    #[test]
    fn the_limit_bounds_the_text_not_the_count() {
        let mut ledger = Ledger::default();
        for host in 1..=9 {
            ledger.apply(&ip(&format!("10.1.0.{host}"), "p", "web"));
        }
        let status = ledger.status(&pool("p"), 2);
        assert_eq!(status.allocated_ips.unwrap().matches("podUid").count(), 2);
        assert_eq!((status.allocated_ip_count, status.used_ranges), (Some(9), vec!["10.1.0.1-10.1.0.9".to_owned()]));
    }

    #[test]
    fn the_text_fits_an_object_however_long_the_names_are() {
        let (mut ledger, name) = (Ledger::default(), "w".repeat(253));
        for host in 0..4_000 {
            ledger.apply(&ip(&format!("10.1.{}.{}", host / 250, host % 250), "p", &name));
        }
        let status = ledger.status(&pool("p"), 5000);
        // As it is stored: a text in JSON.
        let stored = serde_json::to_string(&status.allocated_ips).unwrap().len();
        assert!(stored <= MAX_TEXT && stored > MAX_TEXT * 9 / 10, "{stored}");
        assert_eq!(status.allocated_ip_count, Some(4_000));
    }

    #[test]
    fn an_address_held_by_a_node_counts_without_a_record() {
        let mut ledger = Ledger::default();
        ledger.apply(&held("10.1.0.2", "p", Holder::Node(NodeHolder { name: "n".into() })));
        let status = ledger.status(&pool("p"), 5000);
        assert_eq!((status.allocated_ips, status.allocated_ip_count), (None, Some(1)));
    }

    #[test]
    fn a_change_that_no_view_shows_changes_no_pool() {
        let mut ledger = Ledger::default();
        ledger.apply(&ip("10.1.0.2", "p", "web-0"));
        let mut moved = ip("10.1.0.2", "p", "web-0");
        moved.spec.state = IpState::Cooling;
        assert_eq!(ledger.apply(&moved), []);
        assert_eq!(ledger.apply(&ip("10.1.0.2", "q", "web-0")), [Arc::from("p"), Arc::from("q")]);
    }

    #[test]
    fn a_rebuilt_ledger_differs_where_pods_or_addresses_do() {
        let (mut before, mut after) = (Ledger::default(), Ledger::default());
        before.apply(&ip("10.1.0.2", "p", "web-0"));
        after.apply(&ip("10.1.0.2", "p", "web-9"));
        for ledger in [&mut before, &mut after] {
            ledger.apply(&ip("10.1.0.3", "same", "web-0"));
        }
        before.apply(&ip("10.1.0.4", "gone", "web-0"));
        assert_eq!(before.differing(&after), HashSet::from(["p".into(), "gone".into()]));
    }

    #[test]
    fn of_too_many_ranges_the_longest_are_told() {
        let mut ledger = Ledger::default();
        for host in 0..300 {
            ledger.apply(&ip(&format!("10.1.{}.{}", host / 100, 2 * (host % 100)), "p", "web"));
        }
        ledger.apply(&ip("10.1.2.199", "p", "web"));
        let ranges = ledger.status(&pool("p"), 0).used_ranges;
        assert_eq!(ranges.len(), MAX_RANGES);
        assert!(ranges.contains(&"10.1.2.198-10.1.2.199".to_owned()), "{ranges:?}");
    }
}
