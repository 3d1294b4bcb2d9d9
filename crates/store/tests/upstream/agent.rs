//! A model of upstream's agent, for the tests of agent and controller.

use k8s_api::SpiderIPPool;
use k8s_api::records::{Record, Records};
use kube::api::PostParams;
use kube::{Api, Client};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What upstream's agent does with a pool: read it, change its status, write the status with the version that was read; five tries
/// within 90 ms; the lowest free address of its ranges; a status of its own type, so that members it does not know are lost.
pub struct Upstream {
    pools: Api<SpiderIPPool>,
}

impl Upstream {
    pub fn new(client: &Client) -> Self {
        Self { pools: Api::all(client.clone()) }
    }

    async fn change(&self, pool: &str, change: impl Fn(&SpiderIPPool, &mut Records) -> bool) -> Result<(), String> {
        for pause in [10, 15, 22, 33, 0] {
            let mut object = self.pools.get(pool).await.unwrap();
            let mut records = object.records().unwrap();
            if !change(&object, &mut records) {
                return Err("all IP addresses used out".into());
            }
            let status = object.status.get_or_insert_default();
            status.allocated_ips = records.text();
            status.allocated_ip_count = Some(i64::try_from(records.len()).unwrap());
            (status.used_ranges, status.source) = (Vec::new(), None);
            match self.pools.replace_status(pool, &PostParams::default(), &object).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        Err("exhaust all retries".into())
    }

    /// One ADD of a kubelet that tries again until it succeeds.
    pub async fn add(&self, pool: &str, name: &str, uid: &str) -> IpAddr {
        let chosen = std::cell::Cell::new(None);
        loop {
            let choose = |object: &SpiderIPPool, records: &mut Records| {
                let ranges = ipam::Pool::try_from(object).unwrap().addresses;
                let record = Record::new("ns1", name, uid);
                let own = records.iter().find(|(_, found)| found.uid == uid).map(|(address, _)| address);
                let free = (0..ranges.size()).filter_map(|n| ranges.nth(n)).find(|one| records.get(*one).is_none());
                chosen.set(own.or(free));
                chosen.get().map(|address| records.insert(address, record)).is_some()
            };
            match self.change(pool, choose).await {
                Ok(()) => return chosen.get().unwrap(),
                Err(text) => assert_eq!(text, "exhaust all retries"),
            }
        }
    }

    pub async fn del(&self, pool: &str, uid: &str) {
        let remove = |_: &SpiderIPPool, records: &mut Records| {
            let own: Vec<IpAddr> =
                records.iter().filter(|(_, one)| one.uid == uid).map(|(address, _)| address).collect();
            own.into_iter().for_each(|address| drop(records.remove(address)));
            true
        };
        while self.change(pool, remove).await.is_err() {}
    }

    pub async fn records(&self, pool: &str) -> BTreeMap<String, String> {
        let records = self.pools.get(pool).await.unwrap().records().unwrap();
        records.iter().map(|(address, record)| (address.to_string(), record.uid.clone())).collect()
    }
}
