//! Takes one pool over: see [`super`] for what and when.
//!
//! Nothing is lost on the way. What cannot be imported stays in `status.allocatedIPs`, is told in an Event, and keeps the pool
//! in the protocol with upstream, in which its addresses are not given to anybody else.

use std::net::IpAddr;
use std::time::Instant;

use futures::{StreamExt as _, stream};
use ipam::{Pool, SpanSet, address_name, pool::Source};
use k8s_api::{
    Holder as ApiHolder, IpState, SpiderIP, SpiderIPPool, SpiderIPPoolStatus,
    ip::PodHolder,
    records::{Record, Records},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use store::{
    Failure,
    failure::{bounded, optional},
};

use super::{Phase, sources::Sources};
use crate::events::Events;

/// Entries that are imported at the same time.
const PARALLEL: usize = 16;
/// Entries that an Event names.
const NAMED: usize = 5;

/// What an import needs.
pub struct Context<'a> {
    /// The API.
    pub client: Client,
    /// For users.
    pub events: &'a Events,
    /// Who is who.
    pub sources: &'a Sources,
    /// Which agents are at work.
    pub phase: Phase,
    /// When the pool became what it is, or upstream's agents went if that was later.
    pub changed_at: Instant,
}

/// A step that failed; the pool is looked at again.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct Error {
    step: String,
    #[source]
    source: Failure,
}

fn failed(step: String) -> impl FnOnce(Failure) -> Error {
    move |source| Error { step, source }
}

/// What is known of the pool without asking.
pub struct Known {
    /// Entries of `status.allocatedIPs` that no SpiderIP of the same pod stands for.
    pub missing: Vec<(IpAddr, Record)>,
    /// Imported SpiderIPs of the pool that no entry stands for any more.
    pub released: Vec<(IpAddr, Record)>,
}

/// What became of an entry.
enum Fate {
    /// It has a SpiderIP.
    Covered,
    /// It got one.
    Imported,
    /// Neither its pod nor an endpoint of it exists.
    Gone(IpAddr, Record),
    /// The SpiderIP of its address is another pod's.
    Conflict(IpAddr, Record, String),
}

/// Imports what the pool tells. False: it is to be looked at again although nothing may change.
pub async fn settle(context: &Context<'_>, pool: &SpiderIPPool, known: &Known) -> Result<bool, Error> {
    let name = pool.name_any();
    let records = match pool.records() {
        // What we wrote ourselves tells nothing new.
        _ if is_widened(pool, context.phase) => Some(Records::default()),
        Ok(records) => Some(records),
        Err(error) => {
            let text = format!(
                "status.allocatedIPs is no JSON object of allocations ({error}): addresses of running pods are taken from their endpoints, and the pool gives no address until the text is mended, or removed: kubectl patch spiderippool {name} --subresource=status --type=merge -p '{{\"status\":{{\"allocatedIPs\":null}}}}'"
            );
            tracing::warn!(pool = name, %error, "status.allocatedIPs cannot be read");
            context.events.warning(pool, "AllocationsUnreadable", text).await;
            None
        }
    };
    let mut entries: Vec<_> = known.missing.iter().cloned().map(|entry| (entry, true)).collect();
    if records.is_none() || context.phase == Phase::Ours {
        entries.extend(users(context, pool, records.as_ref()).await?.into_iter().map(|entry| (entry, false)));
    }
    let mut fates = stream::iter(entries)
        .map(|((address, record), recorded)| import(context, &name, address, record, recorded))
        .buffer_unordered(PARALLEL);
    let (mut imported, mut gone, mut conflicts) = (0_usize, Vec::new(), Vec::new());
    while let Some(fate) = fates.next().await {
        match fate? {
            Fate::Covered => {}
            Fate::Imported => imported += 1,
            Fate::Gone(address, record) => gone.push((address, record)),
            Fate::Conflict(address, record, holder) => conflicts.push((address, record, holder)),
        }
    }
    drop(fates);
    if imported > 0 {
        let text = format!(
            "{imported} addresses in use were taken over from status.allocatedIPs and running pods: each has a SpiderIP now"
        );
        tracing::info!(pool = name, imported, "addresses in use were taken over");
        context.events.normal(pool, "AllocationsImported", text).await;
    }
    let waiting = if context.phase == Phase::Mixed { follow(context, &known.released).await? } else { 0 };
    let Some(mut records) = records else { return Ok(false) };
    let dropped = forget(&name, &mut records, &gone);
    tell(context, pool, &records, &conflicts).await;
    let clean = conflicts.is_empty() && records.broken().next().is_none();
    let done = clean && context.phase == Phase::Ours;
    let mut written = false;
    if done || dropped > 0 {
        let mut status = json!({});
        if !is_widened(pool, context.phase) {
            status = json!({"allocatedIPs": records.text(), "allocatedIPCount": records.len()});
        }
        if done {
            // The keeper makes the rest of the status a view from now on.
            status["source"] = SpiderIPPoolStatus::SPIDER_IP.into();
            status["sourceIPs"] = json!(addresses(pool).texts());
        }
        written = write(context, pool, status).await?;
    }
    if done && written {
        tracing::info!(pool = name, "every address in use has a SpiderIP: the pool is taken over");
    }
    Ok(waiting == 0 && conflicts.is_empty())
}

/// What the pool has; nothing, if its ranges cannot be understood.
fn addresses(pool: &SpiderIPPool) -> SpanSet {
    Pool::try_from(pool).map(|pool| pool.addresses).unwrap_or_default()
}

/// Addresses of the pool that pods have without being recorded.
async fn users(
    context: &Context<'_>,
    pool: &SpiderIPPool,
    records: Option<&Records>,
) -> Result<Vec<(IpAddr, Record)>, Error> {
    let widened = is_widened(pool, context.phase);
    let addresses = if widened { pool.unseen().unwrap_or_default() } else { addresses(pool) };
    let step = || failed("list pods and SpiderEndpoints".to_owned());
    // A new pool may have an address that a pod got since the last list, from elsewhere or from a pool that is gone.
    context.sources.renew(context.changed_at).await.map_err(step())?;
    let users = context.sources.users(&addresses).await.map_err(step())?;
    let is_recorded = |address: IpAddr| records.is_some_and(|records| records.get(address).is_some());
    Ok(users.into_iter().filter(|(address, _)| !is_recorded(*address)).collect())
}

/// Makes the SpiderIP of an entry, or, not `recorded`, of an address that a pod had when pods were listed.
async fn import(
    context: &Context<'_>,
    pool: &str,
    address: IpAddr,
    record: Record,
    recorded: bool,
) -> Result<Fate, Error> {
    let step = |what: &str| format!("{what} {address} of Pod {} (UID {})", record.pod, record.uid);
    let holder = context.sources.holder(address, &record, recorded, context.changed_at).await;
    let holder = holder.map_err(failed(step("find who has")))?;
    let Some(holder) = holder.filter(|holder| recorded || holder.exists) else {
        return Ok(Fate::Gone(address, record));
    };
    let claim = PodHolder {
        namespace: holder.namespace,
        name: holder.name,
        uid: holder.uid,
        container_id: None,
        interface: holder.interface,
        node: holder.node,
    };
    let now = Time(Timestamp::now());
    let name = address_name(address);
    let wanted = SpiderIP::claim(&name, address, pool, IpState::Allocated, ApiHolder::Pod(claim), now);
    let api = Api::<SpiderIP>::all(context.client.clone());
    match bounded(api.create(&PostParams::default(), &wanted)).await {
        Ok(_) => return Ok(Fate::Imported),
        Err(Failure::AlreadyExists) => {}
        Err(failure) => return Err(failed(step("import"))(failure)),
    }
    let found = bounded(api.get(&name)).await.map_err(failed(step("read the SpiderIP of")))?;
    let Some(other) = found.spec.holder.pod().cloned() else {
        return Ok(Fate::Conflict(address, record, "a node".to_owned()));
    };
    if other.uid == record.uid {
        return Ok(Fate::Covered);
    }
    let in_use = context.sources.exists(&other.namespace, &other.name, &other.uid, Instant::now()).await;
    let in_use = in_use.map_err(failed(step("find who else has")))?;
    match (holder.exists, in_use) {
        // What is left of a pod that is gone, while the address is in use by another one.
        (false, true) => Ok(Fate::Gone(address, record)),
        // Upstream gave the address of a pod that is gone to this one.
        (true, false) if other.container_id.is_none() => {
            let mut wanted = wanted;
            wanted.metadata.uid = found.uid();
            wanted.metadata.resource_version = found.resource_version();
            let replaced = bounded(api.replace(&name, &PostParams::default(), &wanted)).await;
            replaced.map(|_| Fate::Imported).map_err(failed(step("import")))
        }
        _ => Ok(Fate::Conflict(address, record, format!("Pod {}/{}", other.namespace, other.name))),
    }
}

/// Upstream's agents have released these: their SpiderIPs go when their pods are gone. Returns how many wait for that.
async fn follow(context: &Context<'_>, released: &[(IpAddr, Record)]) -> Result<usize, Error> {
    let (api, known) = (Api::<SpiderIP>::all(context.client.clone()), Instant::now());
    let mut waiting = 0;
    for (address, record) in released {
        let step = |what: &str| format!("{what} the SpiderIP of {address}, which upstream has released");
        let name = address_name(*address);
        let found = optional(bounded(api.get(&name)).await).map_err(failed(step("read")))?;
        let imported =
            |ip: &SpiderIP| ip.spec.holder.pod().is_some_and(|pod| pod.uid == record.uid && pod.container_id.is_none());
        let Some(ip) = found.filter(imported) else { continue };
        let Some((namespace, pod)) = record.names() else { continue };
        let exists = context.sources.exists(namespace, pod, &record.uid, known).await;
        if exists.map_err(failed(step("find the pod of")))? {
            waiting += 1;
            continue;
        }
        let this = DeleteParams {
            preconditions: Some(Preconditions { uid: ip.uid(), resource_version: ip.resource_version() }),
            ..DeleteParams::default()
        };
        match bounded(api.delete(&name, &this)).await {
            Ok(_) | Err(Failure::NotFound | Failure::Conflict) => {}
            Err(failure) => return Err(failed(step("delete"))(failure)),
        }
    }
    Ok(waiting)
}

/// Takes the entries of pods that are gone out; returns how many.
fn forget(pool: &str, records: &mut Records, gone: &[(IpAddr, Record)]) -> usize {
    let mut dropped = 0;
    for (address, record) in gone {
        if records.get(*address) == Some(record) {
            tracing::info!(pool, %address, pod = record.pod, uid = record.uid, "entry of status.allocatedIPs whose pod is gone is dropped");
            records.remove(*address);
            dropped += 1;
        }
    }
    dropped
}

async fn tell(context: &Context<'_>, pool: &SpiderIPPool, records: &Records, conflicts: &[(IpAddr, Record, String)]) {
    let broken: Vec<String> = records.broken().map(|one| format!("{:?} {}", one.key, one.problem)).collect();
    if !broken.is_empty() {
        let text = format!(
            "{} entries of status.allocatedIPs cannot be understood and stay as they are; their addresses are not given: {}. Mend or remove them to have the pool taken over",
            broken.len(),
            some(&broken)
        );
        tracing::warn!(
            pool = pool.name_any(),
            entries = some(&broken),
            "entries of status.allocatedIPs are not understood"
        );
        context.events.warning(pool, "AllocationsUnreadable", text).await;
    }
    // While agents of both kinds are at work ours may be about to give an address up.
    if !conflicts.is_empty() && context.phase == Phase::Ours {
        let named = conflicts.iter().map(|(address, record, holder)| {
            format!("{address} is recorded for Pod {} and its SpiderIP is of {holder}", record.pod)
        });
        let named: Vec<String> = named.collect();
        let text = format!("{}: delete one of the pods of each", some(&named));
        tracing::warn!(pool = pool.name_any(), conflicts = some(&named), "addresses are recorded twice");
        context.events.warning(pool, "AllocationConflict", text).await;
    }
}

fn some(all: &[String]) -> String {
    let more = if all.len() > NAMED { format!(" and {} more", all.len() - NAMED) } else { String::new() };
    format!("{}{more}", all[..all.len().min(NAMED)].join("; "))
}

/// Writes the status of this version of the pool: an entry that upstream has written since makes it fail.
async fn write(context: &Context<'_>, pool: &SpiderIPPool, status: serde_json::Value) -> Result<bool, Error> {
    let name = pool.name_any();
    let metadata = json!({"resourceVersion": pool.resource_version(), "uid": pool.uid()});
    let patch = Patch::Merge(json!({"metadata": metadata, "status": status}));
    let api = Api::<SpiderIPPool>::all(context.client.clone());
    match bounded(api.patch_status(&name, &PatchParams::default(), &patch)).await {
        Ok(_) => Ok(true),
        // Gone, or changed: the watch will tell.
        Err(Failure::NotFound | Failure::Conflict) => Ok(false),
        Err(failure) => Err(failed(format!("write the status of SpiderIPPool {name}"))(failure)),
    }
}

/// Whether only addresses are to be looked at that the pool was given after it was taken over: its status is our own view.
pub fn is_widened(pool: &SpiderIPPool, phase: Phase) -> bool {
    pool.is_view() && phase == Phase::Ours
}

/// Whether a pool is still to be taken over.
pub fn is_due(pool: &SpiderIPPool, phase: Phase, known: &Known) -> bool {
    match phase {
        Phase::Unknown => false,
        Phase::Ours => pool.source() != Source::Claims,
        Phase::Mixed => !known.missing.is_empty() || !known.released.is_empty() || pool.records().is_err(),
    }
}
