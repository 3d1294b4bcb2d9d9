//! The protocol with agents of upstream Spiderpool, for as long as there are any in the cluster.
//!
//! For upstream an allocation is an entry of the pool's `status.allocatedIPs`, made by a compare-and-swap of the status. For us it is a
//! SpiderIP. While both kinds of agents are at work an address is given out only when it is booked in both places:
//!
//! 1. create the SpiderIP: no other agent of ours has the address;
//! 2. [`Listed::enter`] it by the same compare-and-swap: no agent of upstream has it, or can get it from now on.
//!
//! An entry of somebody else found in step 2 wins, and the SpiderIP is given up. An agent's release goes the other way: [`Listed::leave`],
//! then the SpiderIP is deleted, so that an entry without SpiderIP is always upstream's. The collector judges claims of others, and may be
//! refused because the claim has changed: it deletes the SpiderIP first, because a booking that is gone may be another pod's at once. What
//! it leaves when it is interrupted is an entry of a pod that is gone: nobody gets the address, and the import drops it, or makes a
//! claim of it that is collected in its turn.
//!
//! Once the controller has taken a pool over, the chart's policy lets no agent write its status. An agent that still keeps to the protocol
//! (it looks for agents of upstream every 30 s) goes on without booking.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipam::{Span, SpanSet};
use k8s_api::labels;
use k8s_api::records::{Record, Records};
use k8s_api::{SpiderIPPool, SpiderIPPoolStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::failure::{Failure, bounded, optional};

/// How long a compare-and-swap is repeated.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest pause between two tries, in milliseconds.
const LONGEST_PAUSE: u64 = 200;
/// Pods that are not at their end. One that was evicted, say, stays for long and gives no address.
const AT_WORK: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Namespace and name of an agent's pod of upstream that is at work, if there is one, in a namespace or anywhere. Pods of `component`
/// without our label are upstream's.
pub async fn agent(
    client: &Client,
    component: &str,
    namespace: Option<&str>,
) -> Result<Option<(String, String)>, Failure> {
    let selector = format!("{}={},!{}", labels::COMPONENT, labels::value(component), labels::AGENT_SOURCE);
    let params = ListParams::default().labels(&selector).fields(AT_WORK).limit(1);
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let pods = bounded(api.list_metadata(&params)).await?;
    Ok(pods.items.first().map(|pod| (pod.namespace().unwrap_or_default(), pod.name_any())))
}

/// What became of an attempt to book addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// They are booked.
    Booked,
    /// At least one is somebody else's: nothing was booked. These addresses are not to be had.
    Taken(SpanSet),
}

/// `status.allocatedIPs` of pools, changed as upstream changes it.
#[derive(Clone, Debug)]
pub struct Listed {
    api: Api<SpiderIPPool>,
}

impl Listed {
    /// Pools behind this client.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }

    /// Books addresses of one pool for a pod, all or none. `conflict` hears of every write that somebody else had come before.
    pub async fn enter(
        &self,
        pool: &str,
        addresses: &[IpAddr],
        record: &Record,
        conflict: &(dyn Fn() + Sync),
    ) -> Result<Entered, Failure> {
        let mut taken = SpanSet::new();
        let change = |records: &mut Records| {
            let is_ours = |address: &IpAddr| records.get(*address).is_none_or(|found| found.uid == record.uid);
            if !addresses.iter().all(|address| is_ours(address) && !records.is_barred(*address)) {
                taken = records.not_of(&record.uid).map(Span::single).collect();
                return false;
            }
            let missing: Vec<&IpAddr> =
                addresses.iter().filter(|address| records.get(**address) != Some(record)).collect();
            for address in &missing {
                records.insert(**address, record.clone());
            }
            !missing.is_empty()
        };
        self.swap(pool, change, conflict).await?;
        Ok(if taken.is_empty() { Entered::Booked } else { Entered::Taken(taken) })
    }

    /// Takes the booking of an address away, if it is this pod's. `conflict` hears of every write that somebody else had come before.
    pub async fn leave(
        &self,
        pool: &str,
        address: IpAddr,
        uid: &str,
        conflict: &(dyn Fn() + Sync),
    ) -> Result<(), Failure> {
        let change = |records: &mut Records| {
            records.get(address).is_some_and(|found| found.uid == uid) && records.remove(address).is_some()
        };
        self.swap(pool, change, conflict).await
    }

    /// Changes the records of a pool in one step; `change` tells whether there is something to write. A pool that is gone has none.
    async fn swap(
        &self,
        pool: &str,
        mut change: impl FnMut(&mut Records) -> bool,
        conflict: &(dyn Fn() + Sync),
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let mut tries = 0;
        loop {
            let Some(object) = optional(bounded(self.api.get(pool)).await)? else { return Ok(()) };
            let mut records = object.records().map_err(|error| {
                Failure::Refused(format!(
                    "SpiderIPPool {pool}: status.allocatedIPs is no JSON object of allocations: {error}"
                ))
            })?;
            if !change(&mut records) {
                return Ok(());
            }
            tries += 1;
            let written =
                bounded(self.api.patch_status(pool, &PatchParams::default(), &patch(&object, &records))).await;
            if matches!(written, Err(Failure::Conflict)) {
                conflict();
            }
            match written {
                Ok(_) | Err(Failure::NotFound) => return Ok(()),
                // The controller has taken the pool over, which this agent was not told yet. Agents of upstream run under the same account:
                // where the policy keeps us out it keeps them out, and the SpiderIP is the allocation.
                Err(Failure::Refused(why)) if object.is_view() && why.contains(SpiderIPPoolStatus::TAKEN_OVER) => {
                    return Ok(());
                }
                Err(Failure::Conflict) if started.elapsed() < PATIENCE => pause(tries).await,
                Err(Failure::Conflict) => {
                    let text =
                        format!("SpiderIPPool {pool}: gave up after {tries} conflicting writes of status.allocatedIPs");
                    return Err(Failure::Unknown(text));
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// The write of these records into this version of the pool.
fn patch(pool: &SpiderIPPool, records: &Records) -> Patch<serde_json::Value> {
    Patch::Merge(json!({
        "metadata": {"resourceVersion": pool.resource_version(), "uid": pool.uid()},
        "status": {"allocatedIPs": records.text(), "allocatedIPCount": records.len()},
    }))
}

/// Longer with every try, and by chance, so that the writers of many nodes get out of step.
async fn pause(tries: u64) {
    let longest = (10 * tries).min(LONGEST_PAUSE);
    let random = RandomState::new().build_hasher().finish();
    tokio::time::sleep(Duration::from_millis(1 + random % longest)).await;
}
