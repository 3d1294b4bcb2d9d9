//! What pods were told: the entries of their `SpiderEndpoint`s, kept so that a repeated ADD gets the same answer without asking anybody.

use ipam::Route;
use ipam::claim::{Claim, Stored};
use ipam::detail::{Allocation, NicDetail, details};
use ipam::owner::OwnerRef;
use k8s_api::endpoint::{IPAllocationDetail, PodIPAllocation};
use k8s_api::{SpiderEndpoint, SpiderEndpointStatus};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one pod was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Node.
    pub node: String,
    /// Its controller.
    pub controller: Option<OwnerRef>,
    /// One entry per NIC, `eth0` first.
    pub nics: Vec<NicDetail>,
    /// NICs whose entries nobody was told: made from claims and pools as they are now, because no endpoint was written when their ADD
    /// was answered, if it was.
    pub guessed: BTreeSet<String>,
}

impl Record {
    /// The entries that the pod was told.
    pub fn told(&self) -> Vec<NicDetail> {
        self.nics.iter().filter(|nic| !self.guessed.contains(&nic.interface)).cloned().collect()
    }
}

/// Records by pod UID; as many as the node has pods.
#[derive(Debug, Default)]
pub struct Records(Mutex<HashMap<String, Arc<Record>>>);

impl Records {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Record>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the pod was told.
    pub fn get(&self, uid: &str) -> Option<Arc<Record>> {
        self.lock().get(uid).cloned()
    }

    /// Keeps a record. `kept` is told of it under the lock, so that what becomes of endpoints has the order of what becomes of records.
    pub fn put(&self, record: Record, kept: impl FnOnce(Arc<Record>)) -> Arc<Record> {
        let record = Arc::new(record);
        let mut records = self.lock();
        records.insert(record.uid.clone(), record.clone());
        kept(record.clone());
        record
    }

    /// Keeps a record, without the NICs that have no claim left, unless there is one: an ADD that was answered meanwhile knows better.
    /// `None` if nothing is left of it. The claims are looked up under the lock: what is freed meanwhile is not remembered again. `kept` is
    /// told of what is kept, also under the lock.
    pub fn put_if_absent(
        &self,
        record: Record,
        left: impl FnOnce() -> Vec<Stored>,
        kept: impl FnOnce(Arc<Record>),
    ) -> Option<Arc<Record>> {
        let mut records = self.lock();
        let nics = of_claims(&record.nics, &left());
        if nics.is_empty() {
            return None;
        }
        let uid = record.uid.clone();
        let record = records.entry(uid).or_insert_with(|| Arc::new(Record { nics, ..record })).clone();
        kept(record.clone());
        Some(record)
    }

    /// Forgets the NICs of a pod that have no claim left, and the pod with the last of them. The claims are looked up under the lock: no
    /// ADD that is answered meanwhile is forgotten. `kept` is told under the lock, too.
    pub fn keep_claimed(&self, uid: &str, left: impl FnOnce() -> Vec<Stored>, kept: impl FnOnce(Kept)) {
        let mut records = self.lock();
        let left = left();
        if left.is_empty() {
            records.remove(uid);
            return kept(Kept::Nothing);
        }
        let Some(record) = records.get_mut(uid) else { return kept(Kept::All) };
        let nics = of_claims(&record.nics, &left);
        if nics == record.nics {
            return kept(Kept::All);
        }
        *record = Arc::new(Record { nics, ..(**record).clone() });
        kept(Kept::Less(record.clone()));
    }
}

/// What is left of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// What there was.
    All,
    /// Some of its NICs.
    Less(Arc<Record>),
    /// The pod has no claim any more.
    Nothing,
}

/// The entries of NICs that have exactly the addresses that they were told: these need no pool, and stay as they are.
pub fn still_true(told: &[NicDetail], claims: &[&Claim]) -> Vec<NicDetail> {
    let is_true = |detail: &&NicDetail| {
        let mut theirs = addresses(detail);
        let of_nic = claims.iter().filter(|claim| claim.pod().is_some_and(|pod| pod.interface == detail.interface));
        let mut ours: Vec<IpAddr> = of_nic.map(|claim| claim.address).collect();
        theirs.sort();
        ours.sort();
        !ours.is_empty() && ours == theirs
    };
    told.iter().filter(is_true).cloned().collect()
}

/// The entries for what a pod has now: `kept` ones, and those of other NICs, made from `allocations`.
///
/// Returned beside: the pod's own routes that fit no NIC.
pub fn merge(kept: Vec<NicDetail>, allocations: &[Allocation], custom: &[Route]) -> (Vec<NicDetail>, Vec<Route>) {
    let mut nics = kept;
    let is_new = |one: &&Allocation| nics.iter().all(|nic| nic.interface != one.nic);
    let fresh: Vec<Allocation> = allocations.iter().filter(is_new).cloned().collect();
    let is_open = |route: &&Route| nics.iter().all(|nic| !nic.routes.contains(route));
    let open: Vec<Route> = custom.iter().filter(is_open).cloned().collect();
    let (made, leftover) = details(&fresh, &open);
    nics.extend(made);
    nics.sort_by(|a, b| order(a).cmp(&order(b)));
    (nics, leftover)
}

fn order(nic: &NicDetail) -> (bool, &str) {
    (nic.interface != ipam::nad::FIRST_NIC, &nic.interface)
}

fn addresses(detail: &NicDetail) -> Vec<IpAddr> {
    let bare = |text: &String| text.split('/').next().and_then(|address| address.parse().ok());
    detail.ipv4.iter().chain(&detail.ipv6).filter_map(bare).collect()
}

/// The entries of NICs that still have a claim.
fn of_claims(told: &[NicDetail], granted: &[Stored]) -> Vec<NicDetail> {
    let claimed = |detail: &&NicDetail| {
        addresses(detail).iter().any(|address| granted.iter().any(|stored| stored.claim.address == *address))
    };
    told.iter().filter(claimed).cloned().collect()
}

/// The status of the endpoint that tells a record.
pub fn status(record: &Record, owner: &OwnerRef) -> SpiderEndpointStatus {
    SpiderEndpointStatus {
        current: PodIPAllocation {
            uid: record.uid.clone(),
            node: record.node.clone(),
            ips: record.nics.iter().map(to_api).collect(),
        },
        owner_controller_type: owner.kind.clone(),
        owner_controller_name: owner.name.clone(),
    }
}

fn to_api(nic: &NicDetail) -> IPAllocationDetail {
    IPAllocationDetail {
        interface: nic.interface.clone(),
        ipv4: nic.ipv4.clone(),
        ipv6: nic.ipv6.clone(),
        ipv4_pool: nic.ipv4_pool.clone(),
        ipv6_pool: nic.ipv6_pool.clone(),
        vlan: Some(nic.vlan),
        ipv4_gateway: nic.ipv4_gateway.clone(),
        ipv6_gateway: nic.ipv6_gateway.clone(),
        clean_gateway: nic.clean_gateway,
        routes: nic
            .routes
            .iter()
            .map(|route| k8s_api::Route { dst: route.dst.clone(), gw: route.gw.clone() })
            .collect(),
        mac: nic.mac.clone(),
    }
}

/// What an endpoint tells, if it is about this pod UID.
pub fn of_endpoint(endpoint: &SpiderEndpoint, uid: &str) -> Option<Vec<NicDetail>> {
    let status = endpoint.status.as_ref().filter(|status| status.current.uid == uid)?;
    Some(status.current.ips.iter().map(from_api).collect())
}

fn from_api(detail: &IPAllocationDetail) -> NicDetail {
    NicDetail {
        interface: detail.interface.clone(),
        ipv4: detail.ipv4.clone(),
        ipv6: detail.ipv6.clone(),
        ipv4_pool: detail.ipv4_pool.clone(),
        ipv6_pool: detail.ipv6_pool.clone(),
        ipv4_gateway: detail.ipv4_gateway.clone(),
        ipv6_gateway: detail.ipv6_gateway.clone(),
        vlan: detail.vlan.unwrap_or(0),
        clean_gateway: detail.clean_gateway,
        routes: detail.routes.iter().map(|route| Route::new(&route.dst, &route.gw)).collect(),
        mac: detail.mac.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(nic: &str, address: &str) -> Allocation {
        let address: IpAddr = address.parse().unwrap();
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        Allocation {
            nic: nic.into(),
            address,
            pool: "p".into(),
            prefix,
            gateway: None,
            routes: Vec::new(),
            clean_gateway: Some(false),
        }
    }

    fn claim(nic: &str, address: &str) -> Claim {
        let holder = ipam::claim::PodHolder {
            namespace: "ns".into(),
            name: "web".into(),
            uid: "u1".into(),
            container: None,
            interface: nic.into(),
            node: "n".into(),
        };
        Claim {
            address: address.parse().unwrap(),
            pool: "p".into(),
            state: ipam::claim::State::Allocated,
            holder: ipam::claim::Holder::Pod(holder),
            mac: None,
        }
    }

    #[test]
    fn what_a_pod_was_told_stays_and_new_nics_are_added() {
        let route = Route::new("10.9.0.0/16", "10.0.0.1");
        let (first, _) = merge(Vec::new(), &[allocation("eth0", "10.0.0.2")], std::slice::from_ref(&route));
        assert_eq!(first[0].routes, std::slice::from_ref(&route));
        let (second, leftover) = merge(first.clone(), &[allocation("net1", "10.0.0.3")], std::slice::from_ref(&route));
        assert_eq!((second[0].clone(), second[1].interface.as_str()), (first[0].clone(), "net1"));
        assert!(second[1].routes.is_empty() && leftover.is_empty(), "the route stays where it was");
    }

    #[test]
    fn an_entry_is_true_while_its_nic_has_exactly_these_addresses() {
        let (told, _) = merge(Vec::new(), &[allocation("eth0", "10.0.0.2"), allocation("eth0", "fd00::2")], &[]);
        let rows: [(&[(&str, &str)], bool); 6] = [
            (&[("eth0", "fd00::2"), ("eth0", "10.0.0.2")], true),
            (&[("eth0", "10.0.0.2"), ("eth0", "fd00::2"), ("net1", "10.0.0.3")], true),
            (&[("eth0", "10.0.0.2")], false),
            (&[("eth0", "10.0.0.2"), ("eth0", "fd00::3")], false),
            (&[("net1", "10.0.0.2"), ("net1", "fd00::2")], false),
            (&[], false),
        ];
        for (has, expected) in rows {
            let claims: Vec<Claim> = has.iter().map(|(nic, address)| claim(nic, address)).collect();
            let kept = still_true(&told, &claims.iter().collect::<Vec<_>>());
            assert_eq!(kept.len(), usize::from(expected), "{has:?}");
        }
    }

    #[test]
    fn a_guess_is_not_told() {
        let (nics, _) = merge(Vec::new(), &[allocation("eth0", "10.0.0.2"), allocation("net1", "10.0.0.3")], &[]);
        let record = Record { nics, guessed: ["eth0".to_owned()].into(), ..Record::default() };
        assert_eq!(record.told().iter().map(|nic| nic.interface.as_str()).collect::<Vec<_>>(), ["net1"]);
    }

    #[test]
    fn what_is_freed_meanwhile_is_not_remembered_again() {
        let (nics, _) = merge(Vec::new(), &[allocation("eth0", "10.0.0.2"), allocation("net1", "10.0.0.3")], &[]);
        let stored =
            |nic: &str, address: &str| Stored { claim: claim(nic, address), uid: "x".into(), version: "1".into() };
        for (left, expected) in [
            (vec![stored("eth0", "10.0.0.2"), stored("net1", "10.0.0.3")], vec!["eth0", "net1"]),
            (vec![stored("net1", "10.0.0.3")], vec!["net1"]),
            (vec![], vec![]),
        ] {
            let records = Records::default();
            let record = Record { uid: "u1".into(), nics: nics.clone(), ..Record::default() };
            let mut told = None;
            let kept = records.put_if_absent(record, || left, |record| told = Some(record));
            assert_eq!((&told, &records.get("u1")), (&kept, &kept));
            let kept: Vec<String> =
                kept.iter().flat_map(|record| &record.nics).map(|nic| nic.interface.clone()).collect();
            assert_eq!(kept, expected);
        }
    }

    #[test]
    fn an_endpoint_tells_what_the_record_told() {
        let (nics, _) = merge(Vec::new(), &[allocation("eth0", "10.0.0.2"), allocation("net1", "fd00::2")], &[]);
        let record = Record { uid: "u1".into(), nics: nics.clone(), ..Record::default() };
        let endpoint = SpiderEndpoint::new("ns", "web", status(&record, &OwnerRef::new("v1", "Pod", "web", "u1")));
        assert_eq!(of_endpoint(&endpoint, "u1"), Some(nics));
        assert_eq!(of_endpoint(&endpoint, "u2"), None);
    }
}
