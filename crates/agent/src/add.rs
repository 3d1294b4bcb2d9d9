//! `POST /v1/ipam/ip`: select, claim, tell.
//!
//! On the critical path of an idle ADD there is one round trip to the API server per wave of claims, and claims of one ADD are made
//! at the same time. Everything else comes from caches or happens afterwards.

use crate::agent::{Agent, PodError};
use crate::metrics::Class;
use crate::records::{self, Record};
use crate::upstream::{self, NotBooked};
use ipam::annotation::{AnnotationError, POD_ROUTES, PoolNames};
use ipam::claim::{Add, AddError, Claim, Granted, PodFate, PodKey, Release, Want};
use ipam::detail::{Allocation, NicDetail};
use ipam::owner::{OwnerRef, Step, TopController};
use ipam::select::{self, Cni, MasterAddresses, NicPlan, Request, SelectError, Selection};
use ipam::{Family, Pool, Route, SpanSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::events::PodEvent;
use store::meta::{Meta, OwnerError};
use store::pods::Pod;
use store::pools::Snapshot;
use store::{Failure, meta};
use wire::agent::{AddArgs, AddResponse, IpConfig};

/// Addresses that are tried when upstream takes them meanwhile.
const TRIES: usize = 5;
/// How often an ADD looks whether the controller has looked at a new pool.
const GLANCE: Duration = Duration::from_millis(50);

/// Why an ADD failed.
#[derive(Debug, thiserror::Error)]
pub enum AddFailure {
    /// The pod cannot be told.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The pod has come to its end.
    #[error("Pod {namespace}/{name} is not alive: {state}")]
    Dead {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// What makes it dead.
        state: String,
    },
    /// Its annotation `routes`.
    #[error(transparent)]
    Routes(#[from] AnnotationError),
    /// Its namespace.
    #[error("cannot read Namespace {name}")]
    Namespace {
        /// Name.
        name: String,
        /// Why not.
        #[source]
        source: Failure,
    },
    /// Its top controller.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// No pools.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// No addresses.
    #[error(transparent)]
    Claim(#[from] AddError),
    /// No addresses of pools that upstream allocates from, too.
    #[error(transparent)]
    NotBooked(#[from] NotBooked),
    /// Agents of upstream were always faster.
    #[error("gave up after {TRIES} addresses that agents of upstream Spiderpool took meanwhile")]
    Outrun,
    /// Pools that may not be used yet.
    #[error("SpiderIPPool {} is new, and it cannot be told whether running pods use its addresses", pools.join(", "))]
    New {
        /// Their names.
        pools: Vec<String>,
        /// Why not.
        #[source]
        source: Failure,
    },
    /// What the pod was told before.
    #[error("cannot read SpiderEndpoint {namespace}/{name}, which tells what the pod has")]
    Told {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Why not.
        #[source]
        source: Failure,
    },
    /// An address of a pool that is not there any more.
    #[error("SpiderIPPool {pool}, from which the pod has {address}, cannot be read")]
    Pool {
        /// Name of the pool.
        pool: String,
        /// The address.
        address: String,
    },
}

impl AddFailure {
    fn class(&self) -> Class {
        match self {
            Self::Select(SelectError::NoPool { .. } | SelectError::NoSource { .. } | SelectError::NoFamily { .. }) => {
                Class::NoPool
            }
            Self::Claim(AddError::UsedOut { .. }) => Class::UsedOut,
            Self::Claim(AddError::Unreachable { .. }) => Class::RetriesExhausted,
            _ => Class::Internal,
        }
    }

    /// Is it something that who runs the pod can see and mend?
    fn is_for_people(&self) -> bool {
        !matches!(self, Self::Claim(AddError::Cancelled) | Self::Dead { .. })
    }
}

/// Serves an ADD.
pub async fn add(agent: &Agent, args: AddArgs) -> Result<AddResponse, AddFailure> {
    let started = Instant::now();
    let outcome = attempt(agent, &args).await;
    let failure = outcome.as_ref().err();
    agent.metrics.added(started.elapsed(), failure.map(AddFailure::class));
    match failure {
        None => tracing::debug!(target: "IPAM", took = ?started.elapsed(), "ADD answered"),
        Some(error) => {
            tracing::warn!(target: "IPAM", took = ?started.elapsed(), error = %daemon::Chain(error), "ADD failed");
            tell_people(agent, &args, error);
        }
    }
    outcome
}

/// Leaves an event on the pod. One that the watch has not brought yet is known by what the plugin said.
fn tell_people(agent: &Agent, args: &AddArgs, error: &AddFailure) {
    let uid = match agent.caches.pods.get(&store::cache::key(Some(&args.pod_namespace), &args.pod_name)) {
        Some(pod) if pod.is_called(&args.pod_uid) => pod.uid.clone(),
        Some(_) => return,
        None => args.pod_uid.clone(),
    };
    if !uid.is_empty() && error.is_for_people() {
        agent.events.leave(PodEvent {
            namespace: args.pod_namespace.clone(),
            name: args.pod_name.clone(),
            uid,
            kind: "Warning",
            reason: "FailedIPAllocation",
            message: format!("NIC {}: {}", args.if_name, daemon::Chain(error)),
        });
    }
}

async fn attempt(agent: &Agent, args: &AddArgs) -> Result<AddResponse, AddFailure> {
    let pod = agent.pod(&args.pod_namespace, &args.pod_name, &args.pod_uid).await?;
    if !pod.is_alive() {
        return Err(dead(&pod));
    }
    recall(agent, &pod).await?;
    if let Some(answer) = repeated(agent, args, &pod).await? {
        return Ok(answer);
    }
    let routes = match pod.annotations.get(POD_ROUTES) {
        Some(value) => ipam::annotation::routes(value)?,
        None => Vec::new(),
    };
    let selected = settled_selection(agent, args, &pod).await;
    let has_claims = || !agent.books.of_pod(&pod.uid).is_empty();
    let (selection, refusal) = match selected {
        Ok(selection) => (Some(selection), None),
        // What the pod has stays its own, whatever became of the pools since.
        Err(failure @ AddFailure::Select(_)) if has_claims() => (None, Some(failure)),
        Err(failure) => return Err(failure),
    };
    let wants = selection.as_ref().map(Selection::wants).unwrap_or_default();
    let granted = match (claimed(agent, &pod, request(args, &pod, wants)).await, refusal) {
        // The NIC of this ADD has nothing: then it is the selection that failed.
        (Err(AddFailure::Claim(AddError::Nothing { .. })), Some(failure)) => return Err(failure),
        (outcome, _) => outcome?,
    };
    let record = record(agent, args, &pod, selection.as_ref(), &granted, &routes).await?;
    Ok(answer(&record))
}

fn request(args: &AddArgs, pod: &Pod, wants: Vec<Want>) -> Add {
    Add {
        pod: PodKey { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() },
        container: args.container_id.clone(),
        interface: args.if_name.clone(),
        wants,
        reserved: Arc::default(),
    }
}

/// The answer for a NIC that has all that it was told: the same again, also to the pod's next sandbox, whatever became of annotations, pools
/// and families since. `None` if it was told nothing, or if something was taken away from it.
async fn repeated(agent: &Agent, args: &AddArgs, pod: &Pod) -> Result<Option<AddResponse>, AddFailure> {
    let complete = complete(agent, pod);
    let Some(nic) = complete.iter().find(|nic| nic.interface == args.if_name) else { return Ok(None) };
    let families = [(Family::V4, &nic.ipv4), (Family::V6, &nic.ipv6)].into_iter().filter(|(_, has)| has.is_some());
    // Without pools: nothing but what is there.
    let want = |family| Want { interface: args.if_name.clone(), family, pools: Vec::new(), rejected: Vec::new() };
    let wants = families.map(|(family, _)| want(family)).collect();
    match claimed(agent, pod, request(args, pod, wants)).await {
        Ok(granted) => {
            // Its own routes are on record; those of a NIC that was told nothing are told by the ADD of that NIC.
            let record = record(agent, args, pod, None, &granted, &[]).await?;
            Ok(Some(answer(&record)))
        }
        // Taken away while it was asked for.
        Err(AddFailure::Claim(AddError::UsedOut { .. })) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The entries of the NICs that have all that they were told.
fn complete(agent: &Agent, pod: &Pod) -> Vec<NicDetail> {
    let told = agent.records.get(&pod.uid).map(|record| record.told()).unwrap_or_default();
    let claims = agent.books.of_pod(&pod.uid);
    records::still_true(&told, &claims.iter().map(|stored| &stored.claim).collect::<Vec<_>>())
}

/// Sees that what a pod with claims was told is remembered, also if that was before a restart.
async fn recall(agent: &Agent, pod: &Pod) -> Result<(), AddFailure> {
    if agent.records.get(&pod.uid).is_some() {
        return Ok(());
    }
    let unreadable = |source| AddFailure::Told { namespace: pod.namespace.clone(), name: pod.name.clone(), source };
    crate::recover::record(agent, pod, drop).await.map(drop).map_err(unreadable)
}

/// What no pod gets: reserved addresses, and out of new pools those that running pods have without a claim.
fn kept_back(agent: &Agent, wants: &[Want], in_use: &SpanSet) -> Arc<SpanSet> {
    let reserved = agent.caches.reserved.addresses();
    let is_all = in_use.is_empty() || upstream::new_pools(wants).next().is_none();
    if is_all { reserved } else { Arc::new(reserved.union(in_use)) }
}

/// Claims, and books with upstream what upstream might give too. What upstream has given is given back, and others are tried.
async fn claimed(agent: &Agent, pod: &Pod, mut add: Add) -> Result<Vec<Granted>, AddFailure> {
    let mut others = SpanSet::new();
    for _ in 0..TRIES {
        let in_use = agent.upstream.in_use();
        add.reserved = kept_back(agent, &add.wants, &in_use);
        if !others.is_empty() {
            add.reserved = Arc::new(add.reserved.union(&others));
        }
        let granted = match agent.books.add(add.clone()).await {
            Err(AddError::UsedOut { .. }) if agent.upstream.look_again(&add.wants, &in_use).await => continue,
            outcome => outcome?,
        };
        let taken = agent.upstream.enter(pod, &granted, &agent.metrics).await?;
        let lost = granted.iter().map(|one| &one.stored.claim).filter(|claim| taken.contains(claim.address));
        let nics: BTreeSet<String> = lost.filter_map(|claim| Some(claim.pod()?.interface.clone())).collect();
        if nics.is_empty() {
            return Ok(granted);
        }
        for nic in nics {
            let release = Release {
                pod_uid: Some(pod.uid.clone()),
                container: add.container.clone(),
                interface: Some(nic),
                fate: PodFate::Rejected,
            };
            agent.books.release(release).await;
        }
        others = others.union(&taken);
    }
    Err(AddFailure::Outrun)
}

/// A selection out of pools that may be used, for this NIC and for those that do not have all that they were told. New pools wait a moment
/// for the controller if one is at work; then the agent looks at them itself.
async fn settled_selection(agent: &Agent, args: &AddArgs, pod: &Pod) -> Result<Selection, AddFailure> {
    loop {
        let mut selection = selection(agent, args, pod).await?;
        let complete = complete(agent, pod);
        let is_complete = |plan: &NicPlan| complete.iter().any(|nic| nic.interface == plan.nic);
        selection.nics.retain(|plan| plan.nic == args.if_name || !is_complete(plan));
        let claims = agent.books.of_pod(&pod.uid);
        let is_covered = |want: &Want| {
            let mut claims = claims.iter().map(|stored| &stored.claim);
            claims.any(|claim| {
                claim.pod().is_some_and(|pod| pod.interface == want.interface)
                    && Family::of(claim.address) == want.family
            })
        };
        let is_new = |pool: &Arc<Pool>| agent.upstream.is_new(pool);
        let wants = selection.nics.iter_mut().flat_map(|plan| &mut plan.wants).filter(|want| !is_covered(want));
        let waiting: Vec<&mut Want> = wants.filter(|want| want.pools.iter().any(is_new)).collect();
        if waiting.is_empty() {
            return Ok(selection);
        }
        let new: BTreeMap<&String, &Arc<Pool>> = waiting
            .iter()
            .flat_map(|want| &want.pools)
            .filter(|pool| is_new(pool))
            .map(|pool| (&pool.name, pool))
            .collect();
        if agent.upstream.is_expected(new.values().copied()).await {
            tokio::time::sleep(GLANCE).await;
        } else if let Err(source) = agent.upstream.look_at(&new.values().copied().cloned().collect::<Vec<_>>()).await {
            return Err(AddFailure::New { pools: new.into_keys().cloned().collect(), source });
        }
    }
}

fn dead(pod: &Pod) -> AddFailure {
    let state = if pod.phase.terminating {
        "it is being deleted".to_owned()
    } else {
        format!("phase {} {}", pod.phase.phase, pod.phase.reason).trim_end().to_owned()
    };
    AddFailure::Dead { namespace: pod.namespace.clone(), name: pod.name.clone(), state }
}

async fn selection(agent: &Agent, args: &AddArgs, pod: &Pod) -> Result<Selection, AddFailure> {
    let namespace = namespace(agent, &pod.namespace).await?;
    let node = agent.caches.node.get(&agent.settings.node);
    let snapshot = agent.caches.pools.snapshot();
    let top = top(agent, pod, &snapshot).await?;
    let subject = select::Pod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels: pod.labels.clone(),
        annotations: pod.annotations.clone(),
        node: pod.node.clone(),
        top: TopController { owner: top, namespace: pod.namespace.clone() },
    };
    let cni = Cni {
        pools: PoolNames {
            v4: args.default_ipv4_ippool.clone().unwrap_or_default(),
            v6: args.default_ipv6_ippool.clone().unwrap_or_default(),
        },
        clean_gateway: args.clean_gateway,
        match_master_subnet: args.match_master_subnet,
    };
    let master: MasterAddresses = Err("match_master_subnet is not supported by this version".to_owned());
    let request = Request {
        pod: &subject,
        nic: &args.if_name,
        namespace_annotations: &namespace.annotations,
        namespace_labels: Ok(&namespace.labels),
        node_labels: node.as_ref().map(|node| &node.labels).ok_or("the node is not in the cache"),
        cni: &cni,
        settings: &agent.settings.select,
        pools: &snapshot.pools,
        unusable: &snapshot.broken,
        master: args.match_master_subnet.then_some(&master),
    };
    Ok(select::select(&request)?)
}

async fn namespace(agent: &Agent, name: &str) -> Result<Arc<Meta>, AddFailure> {
    if let Some(meta) = agent.caches.namespaces.get(name) {
        return Ok(meta);
    }
    let unreadable = |source| AddFailure::Namespace { name: name.to_owned(), source };
    let meta = meta::read_namespace(&agent.client, name).await.map_err(unreadable)?;
    meta.map(Arc::new).ok_or_else(|| unreadable(Failure::NotFound))
}

/// Only auto-created pools ask for the top controller; without any, the nearest one does and nothing is read.
async fn top(agent: &Agent, pod: &Pod, snapshot: &Snapshot) -> Result<OwnerRef, AddFailure> {
    let itself = OwnerRef::new("v1", "Pod", &pod.name, &pod.uid);
    if snapshot.has_auto_created {
        return Ok(meta::top_controller(&agent.client, &pod.namespace, itself, pod.controller.clone()).await?);
    }
    match ipam::owner::first(itself, pod.controller.clone()) {
        Step::Top(owner) | Step::Fetch(owner) => Ok(owner),
    }
}

/// Books what the pod is told now, and has it written.
async fn record(
    agent: &Agent,
    args: &AddArgs,
    pod: &Pod,
    selection: Option<&Selection>,
    granted: &[Granted],
    routes: &[Route],
) -> Result<Arc<Record>, AddFailure> {
    let before = agent.records.get(&pod.uid);
    let told = before.as_ref().map(|record| record.told()).unwrap_or_default();
    let claims: Vec<&Claim> = granted.iter().map(|one| &one.stored.claim).collect();
    let mut kept = records::still_true(&told, &claims);
    let known = Known { args, pod, selection };
    for nic in kept.iter_mut().filter(|nic| nic.clean_gateway.is_none()) {
        nic.clean_gateway = known.clean_gateway(&nic.interface);
    }
    let is_kept = |nic: &str| kept.iter().any(|one| one.interface == nic);
    let mut allocations = Vec::new();
    for claim in claims {
        let nic = claim.pod().map(|pod| pod.interface.as_str()).unwrap_or_default();
        if is_kept(nic) {
            continue;
        }
        match allocation(agent, &known, nic, claim).await {
            Ok(allocation) => allocations.push(allocation),
            Err(failure) if nic == args.if_name => return Err(failure),
            // The ADD of that NIC will say so.
            Err(failure) => tracing::debug!(target: "IPAM", nic, error = %failure, "an address is left out"),
        }
    }
    let guessed = allocations.iter().map(|one| &one.nic).filter(|nic| !known.is_told(nic)).cloned().collect();
    let (nics, leftover) = records::merge(kept, &allocations, routes);
    if !leftover.is_empty() {
        tracing::info!(target: "IPAM", routes = ?leftover, "routes of the pod that lie in no subnet of its NICs are left out");
    }
    let now = Record {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
        controller: pod.controller.clone(),
        nics,
        guessed,
    };
    if let Some(before) = before.filter(|before| (&before.nics, &before.guessed) == (&now.nics, &now.guessed)) {
        return Ok(before);
    }
    Ok(agent.records.put(now, |record| agent.endpoints.put(record)))
}

/// What an ADD knows of the NICs of its pod.
struct Known<'a> {
    args: &'a AddArgs,
    pod: &'a Pod,
    selection: Option<&'a Selection>,
}

impl Known<'_> {
    fn plan(&self, nic: &str) -> Option<&NicPlan> {
        self.selection.and_then(|selection| selection.nics.iter().find(|plan| plan.nic == nic))
    }

    /// Whether the answer tells of a NIC what is true of it: of its own, and of those whose pools were selected with it.
    fn is_told(&self, nic: &str) -> bool {
        nic == self.args.if_name || self.plan(nic).is_some()
    }

    fn clean_gateway(&self, nic: &str) -> Option<bool> {
        let configured = (nic == self.args.if_name).then_some(self.args.clean_gateway);
        let selected = self.plan(nic).map(|plan| plan.clean_gateway);
        selected.or_else(|| select::clean_gateway(&self.pod.annotations, &self.pod.namespace, nic, configured))
    }
}

async fn allocation(agent: &Agent, known: &Known<'_>, nic: &str, claim: &Claim) -> Result<Allocation, AddFailure> {
    let of_want = |want: &Want| want.pools.iter().find(|pool| pool.name == claim.pool).cloned();
    let planned = known.plan(nic).and_then(|plan| plan.wants.iter().find_map(of_want));
    let pool = match planned.or_else(|| agent.caches.pools.snapshot().pools.get(&claim.pool).cloned()) {
        Some(pool) => pool,
        None => live_pool(agent, &claim.pool, claim.address).await?,
    };
    Ok(Allocation::new(nic, claim.address, &pool, known.clean_gateway(nic)))
}

async fn live_pool(agent: &Agent, name: &str, address: std::net::IpAddr) -> Result<Arc<Pool>, AddFailure> {
    let pool = store::pools::read(&agent.client, name).await.ok().flatten();
    let missing = || AddFailure::Pool { pool: name.to_owned(), address: address.to_string() };
    pool.ok_or_else(missing)
}

fn answer(record: &Record) -> AddResponse {
    // Imported addresses that no NIC came for yet are on record, but a plugin would not know what to do with them.
    let nics: Vec<NicDetail> = record.nics.iter().filter(|nic| !nic.interface.is_empty()).cloned().collect();
    let response = ipam::detail::response(&nics);
    let ips = response.ips.into_iter().map(|ip| IpConfig {
        address: ip.address,
        gateway: ip.gateway.unwrap_or_default(),
        ip_pool: ip.pool,
        mac: ip.mac.unwrap_or_default(),
        nic: ip.nic,
        version: ip.family.version(),
        vlan: ip.vlan,
        ..IpConfig::default()
    });
    let routes = response.routes.into_iter().map(|one| wire::agent::Route {
        if_name: one.nic,
        dst: one.route.dst,
        gw: one.route.gw,
    });
    AddResponse { dns: None, ips: ips.collect(), routes: routes.collect() }
}
