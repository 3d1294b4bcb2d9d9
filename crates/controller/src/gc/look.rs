//! One look: reads what is so from the API itself, has it judged, and carries the verdict out.
//!
//! Order of the reads: first the claim, then the pod of its holder. A pod UID never comes back, so a pod that is gone after
//! its claim was read is gone for good; and a claim that changed meanwhile has another version than the one its deletion names.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use daemon::Chain;
use k8s_api::{FINALIZER, Holder, SpiderEndpoint, SpiderIP, SpiderIPPool};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use store::{
    Failure,
    failure::{bounded, optional},
    upstream::Listed,
};
use tokio::time::Instant;

use super::{
    collector::Shared,
    decide::{Reason, Verdict},
    facts::{ClaimFacts, EndpointFacts, Fixed, HolderFact, Kind, NodeFact, PodFact},
    index::{Sight, UNOWNED},
    live::{self, Features},
    queue::{Outcome, Subject},
};

/// What could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
struct Error {
    step: String,
    #[source]
    source: Failure,
}

fn failed(step: String) -> impl FnOnce(Failure) -> Error {
    move |source| Error { step, source }
}

/// Looks at a subject; tells when to look again.
pub async fn look(shared: &Shared, subject: &Subject, sight: Sight) -> Outcome {
    let mut look = Look {
        shared,
        sight,
        nodes: HashMap::new(),
        fixed: HashMap::new(),
        pools: HashMap::new(),
        again: None,
        failed: false,
    };
    let (name, looked) = match subject {
        Subject::Pod(key) => {
            let (namespace, name) = key.split_once('/').unwrap_or_default();
            (key, look.pod(namespace, name).await)
        }
        Subject::Held(name) => (name, look.held(name).await),
    };
    if let Err(error) = looked {
        tracing::warn!(of = &**name, error = %Chain(&error), "addresses not judged, trying again");
        look.failed = true;
    }
    match (look.failed, look.again) {
        (true, _) => Outcome::Failed,
        (false, Some(wait)) => Outcome::Again(wait.max(shared.settings.gap)),
        (false, None) => Outcome::Done,
    }
}

struct Look<'a> {
    shared: &'a Shared,
    sight: Sight,
    nodes: HashMap<String, NodeFact>,
    fixed: HashMap<String, Fixed>,
    /// Read in this look.
    pools: HashMap<String, Option<Arc<SpiderIPPool>>>,
    again: Option<Duration>,
    failed: bool,
}

impl Look<'_> {
    /// A claim that a node holds.
    async fn held(&mut self, name: &str) -> Result<(), Error> {
        let Some(ip) = self.claim(name).await? else { return Ok(()) };
        let Holder::Node(node) = &ip.spec.holder else { return Ok(()) };
        let facts = self.facts(&ip, &node.name, HolderFact::Node, UNOWNED, Kind::Gone).await?;
        self.judge(&ip, facts, None).await;
        Ok(())
    }

    /// All that is held under a pod's name.
    async fn pod(&mut self, namespace: &str, name: &str) -> Result<(), Error> {
        let mut claims = Vec::new();
        for claim in self.sight.claims.clone() {
            claims.extend(self.claim(&claim).await?);
        }
        let client = &self.shared.client;
        let pod = live::pod(client, namespace, name).await;
        let pod = pod.map_err(failed(format!("read Pod {namespace}/{name}")))?;
        let endpoint = self.shared.endpoints.read(namespace, name).await;
        let endpoint = endpoint.map_err(failed(format!("read SpiderEndpoint {namespace}/{name}")))?;
        let mut claimed = HashSet::new();
        for ip in claims {
            let Holder::Pod(holder) = &ip.spec.holder else { continue };
            if (holder.namespace.as_str(), holder.name.as_str()) != (namespace, name) {
                continue;
            }
            let fact = live::pod_fact(pod.as_ref(), &holder.uid, &holder.node);
            let kind = Kind::from(&fact);
            let fixed = self.fixed(namespace, name, &holder.uid, (pod.as_ref(), endpoint.as_ref())).await?;
            let holder_fact = HolderFact::Pod { pod: Some(fact), fixed: Some(fixed) };
            let facts = self.facts(&ip, &holder.node, holder_fact, &holder.uid, kind).await?;
            if !self.judge(&ip, facts, pod.as_ref()).await {
                claimed.insert(holder.uid.clone());
            }
        }
        match endpoint {
            Some(endpoint) => self.endpoint(&endpoint, pod.as_ref(), &claimed).await,
            None => Ok(()),
        }
    }

    async fn claim(&self, name: &str) -> Result<Option<SpiderIP>, Error> {
        let read = bounded(Api::<SpiderIP>::all(self.shared.client.clone()).get(name)).await;
        optional(read).map_err(failed(format!("read SpiderIP {name}")))
    }

    async fn facts(
        &mut self,
        ip: &SpiderIP,
        node: &str,
        holder: HolderFact,
        uid: &str,
        kind: Kind,
    ) -> Result<ClaimFacts, Error> {
        let now = Instant::now();
        let starts = matches!(
            holder,
            HolderFact::Pod { pod: Some(PodFact::Successor { has_ips: false, .. }), fixed: Some(Fixed::Valid) }
        );
        let heritable = starts && self.is_open(&ip.spec.pool).await?;
        let fact = match self.nodes.get(node) {
            Some(fact) => *fact,
            None => {
                let fact = live::node(&self.shared.client, node).await;
                let fact = fact.map_err(failed(format!("read Node {node}")))?;
                self.nodes.insert(node.to_owned(), fact);
                fact
            }
        };
        Ok(ClaimFacts {
            state: ip.spec.state,
            holder,
            age: age(ip),
            seen: self.sight.seen(uid, kind, now),
            node: Some(fact),
            missing: self.sight.missing(node, now),
            heritable,
        })
    }

    async fn fixed(
        &mut self,
        namespace: &str,
        name: &str,
        uid: &str,
        (pod, endpoint): (Option<&Pod>, Option<&SpiderEndpoint>),
    ) -> Result<Fixed, Error> {
        if let Some(fixed) = self.fixed.get(uid) {
            return Ok(*fixed);
        }
        let settings = &self.shared.settings;
        let features = Features { stateful_set: settings.stateful_set, kubevirt: settings.kubevirt };
        let owner = live::owner(pod, endpoint, uid);
        let fixed = live::fixed(&self.shared.client, (namespace, name, uid), owner.as_ref(), features).await;
        let fixed = fixed.map_err(failed(format!("read the owner of Pod {namespace}/{name}")))?;
        self.fixed.insert(uid.to_owned(), fixed);
        Ok(fixed)
    }

    /// Judges a claim and carries the verdict out; tells whether its address is free.
    async fn judge(&mut self, ip: &SpiderIP, facts: ClaimFacts, pod: Option<&Pod>) -> bool {
        match self.shared.rules.claim(&facts, Timestamp::now()) {
            Verdict::Free(reason) => match self.release(ip, &reason, pod).await {
                Ok(true) => return true,
                Ok(false) => self.wait(self.shared.settings.gap),
                Err(error) => {
                    tracing::warn!(address = ip.spec.address, pool = ip.spec.pool, error = %Chain(&error), "address not released");
                    self.failed = true;
                }
            },
            Verdict::Wait(reason, wait) => {
                tracing::debug!(address = ip.spec.address, pool = ip.spec.pool, %reason, ?wait, "address waits");
                self.wait(wait);
            }
            Verdict::Keep(reason) => {
                tracing::debug!(address = ip.spec.address, pool = ip.spec.pool, %reason, "address kept");
            }
            Verdict::Unread => self.failed = true,
        }
        false
    }

    fn wait(&mut self, wait: Duration) {
        self.again = Some(self.again.map_or(wait, |again| again.min(wait)));
    }

    /// Deletes this very claim in the version it was judged in; `false` if somebody has changed it: then it stays booked with upstream too.
    async fn release(&mut self, ip: &SpiderIP, reason: &Reason, pod: Option<&Pod>) -> Result<bool, Error> {
        let (name, metrics) = (ip.name_any(), self.shared.metrics.clone());
        let judged = Preconditions { uid: ip.uid(), resource_version: ip.resource_version() };
        let params = DeleteParams { preconditions: Some(judged), ..DeleteParams::default() };
        metrics.released.inc();
        match bounded(Api::<SpiderIP>::all(self.shared.client.clone()).delete(&name, &params)).await {
            Ok(_) => {}
            Err(Failure::NotFound) => return Ok(true),
            Err(Failure::Conflict) => {
                metrics.conflicts.inc();
                return Ok(false);
            }
            Err(source) => {
                metrics.failed.inc();
                return Err(Error { step: format!("delete SpiderIP {name}"), source });
            }
        }
        let left = self.leave_upstream(ip).await;
        let holder = ip.spec.holder.pod();
        tracing::info!(
            address = ip.spec.address,
            pool = ip.spec.pool,
            pod = holder.map(|pod| format!("{}/{}", pod.namespace, pod.name)),
            uid = holder.map(|pod| pod.uid.as_str()),
            node = ip.spec.holder.node(),
            %reason,
            "address released"
        );
        self.shared.report.released(&self.shared.events, ip, pod, reason).await;
        if left.is_err() {
            metrics.failed.inc();
        }
        left.map(|()| true)
    }

    /// While agents of upstream may allocate from the pool, the booking that they see goes after the claim (see [`store::upstream`]). One that
    /// cannot be removed is left to the import.
    async fn leave_upstream(&mut self, ip: &SpiderIP) -> Result<(), Error> {
        let name = &ip.spec.pool;
        let (Some(holder), Some(address)) = (ip.spec.holder.pod(), ip.address()) else { return Ok(()) };
        if !self.is_open(name).await? {
            return Ok(());
        }
        // It will be another one.
        self.pools.remove(name);
        let conflict = || {
            self.shared.metrics.conflicts.inc();
        };
        let left = Listed::new(self.shared.client.clone()).leave(name, address, &holder.uid, &conflict).await;
        left.map_err(failed(format!("take {address} out of status.allocatedIPs of SpiderIPPool {name}")))
    }

    /// Whether agents of upstream may still allocate from the pool.
    async fn is_open(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.pool(name).await?.is_some_and(|pool| !pool.is_view()))
    }

    /// A pool, which may be big, and which all addresses of a pod may be from.
    async fn pool(&mut self, name: &str) -> Result<Option<Arc<SpiderIPPool>>, Error> {
        if let Some(pool) = self.pools.get(name) {
            return Ok(pool.clone());
        }
        let read = bounded(Api::<SpiderIPPool>::all(self.shared.client.clone()).get(name)).await;
        let pool = optional(read).map_err(failed(format!("read SpiderIPPool {name}")))?.map(Arc::new);
        self.pools.insert(name.to_owned(), pool.clone());
        Ok(pool)
    }

    /// Judges an endpoint, after its claims.
    async fn endpoint(
        &mut self,
        endpoint: &SpiderEndpoint,
        pod: Option<&Pod>,
        claimed: &HashSet<String>,
    ) -> Result<(), Error> {
        let (namespace, name) = (endpoint.namespace().unwrap_or_default(), endpoint.name_any());
        let terminating = endpoint.metadata.deletion_timestamp.is_some();
        let Some(status) = &endpoint.status else { return Ok(()) };
        if terminating && !endpoint.finalizers().iter().any(|one| one == FINALIZER) {
            return Ok(());
        }
        let uid = status.current.uid.as_str();
        let fact = live::pod_fact(pod, uid, &status.current.node);
        let (kind, now) = (Kind::from(&fact), Instant::now());
        if kind == Kind::Alive && !self.shared.rules.switches.clean_outdated {
            return Ok(());
        }
        let fixed = self.fixed(&namespace, &name, uid, (pod, Some(endpoint))).await?;
        let facts = EndpointFacts {
            pod: Some(fact),
            fixed: Some(fixed),
            claimed: claimed.contains(uid) || self.is_claimed(endpoint, uid).await?,
            names_ips: addresses(endpoint).next().is_some(),
            recorded: self.is_recorded(endpoint, &format!("{namespace}/{name}")).await?,
            terminating,
            age: age(endpoint),
            seen: self.sight.seen(uid, kind, now).max(self.sight.seen(UNOWNED, kind, now)),
        };
        match self.shared.rules.endpoint(&facts) {
            Verdict::Free(reason) => {
                match self.shared.endpoints.remove_this(endpoint).await {
                    Ok(()) => {}
                    Err(Failure::Conflict) => {
                        // Judged anew, as what it is now.
                        self.wait(self.shared.settings.gap);
                        return Ok(());
                    }
                    Err(source) => {
                        return Err(failed(format!("remove SpiderEndpoint {namespace}/{name}"))(source));
                    }
                }
                tracing::info!(endpoint = format!("{namespace}/{name}"), uid, node = status.current.node, %reason, "endpoint removed");
            }
            Verdict::Wait(_, wait) => self.wait(wait),
            Verdict::Keep(reason) => {
                tracing::debug!(endpoint = format!("{namespace}/{name}"), %reason, "endpoint kept");
            }
            Verdict::Unread => self.failed = true,
        }
        Ok(())
    }

    /// Whether any address that the endpoint names is claimed by its pod.
    async fn is_claimed(&self, endpoint: &SpiderEndpoint, uid: &str) -> Result<bool, Error> {
        for address in addresses(endpoint) {
            let claim = self.claim(&ipam::address_name(address)).await?;
            if claim.is_some_and(|ip| ip.spec.holder.pod().is_some_and(|pod| pod.uid == uid)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a pool that agents of upstream may still allocate from has a record of the pod.
    async fn is_recorded(&mut self, endpoint: &SpiderEndpoint, pod: &str) -> Result<bool, Error> {
        let ips = endpoint.status.iter().flat_map(|status| &status.current.ips);
        let pools: HashSet<&String> = ips.flat_map(|ip| ip.ipv4_pool.iter().chain(&ip.ipv6_pool)).collect();
        let record = format!("\"{pod}\"");
        for pool in pools {
            let open = self.pool(pool).await?.filter(|pool| !pool.is_view());
            let records = open.and_then(|pool| pool.status.as_ref()?.allocated_ips.clone());
            if records.is_some_and(|records| records.contains(&record)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The addresses that an endpoint names.
fn addresses(endpoint: &SpiderEndpoint) -> impl Iterator<Item = std::net::IpAddr> {
    let ips = endpoint.status.iter().flat_map(|status| &status.current.ips);
    ips.flat_map(|ip| ip.ipv4.iter().chain(&ip.ipv6)).filter_map(|text| text.split('/').next()?.parse().ok())
}

/// Time since the creation of an object; one of the future has none.
fn age(object: &impl ResourceExt) -> Duration {
    let created = object.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Duration::try_from(Timestamp::now().duration_since(created)).unwrap_or(Duration::ZERO)
}
