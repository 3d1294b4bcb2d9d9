//! SpiderIPPool under admission: the rules are `ipam`'s; here they get the other pools ([`crate::pools::peers`]) and
//! the addresses in use, read from the API itself.

use std::{collections::HashSet, net::IpAddr};

use ipam::{
    pool::Source,
    rules::{self, Peer, PoolContext, PoolSpec, Refusal, Used},
};
use k8s_api::{Holder, SpiderIP, SpiderIPPool, labels};
use kube::{Api, ResourceExt, api::ListParams};

use super::{Change, Context, Denied, Kind, unreadable};

/// The handler.
pub struct Pools(pub Context);

impl Kind for Pools {
    type Object = SpiderIPPool;

    fn mutate(&self, pool: &mut SpiderIPPool) {
        let spec = PoolSpec::from(&pool.spec);
        let mutation = rules::mutate_pool(&spec, pool.labels(), pool.finalizers(), false, None);
        for warning in &mutation.warnings {
            tracing::info!(
                pool = pool.name_any(),
                field = warning.field,
                text = warning.text,
                "left for validation to refuse"
            );
        }
        if mutation.add_finalizer {
            pool.finalizers_mut().push(rules::FINALIZER.to_owned());
        }
        for (key, value) in mutation.labels {
            pool.labels_mut().insert(key.to_owned(), value);
        }
        let spec = &mut pool.spec;
        spec.ip_version = mutation.ip_version.or(spec.ip_version);
        if let Some(ips) = mutation.ips {
            spec.ips = ips;
        }
        if let Some(exclude_ips) = mutation.exclude_ips {
            spec.exclude_ips = exclude_ips;
        }
    }

    async fn validate(&self, change: Change<SpiderIPPool>, dry_run: bool) -> Result<(), Denied> {
        match change {
            Change::Create(pool) => self.create(&pool, dry_run).await,
            Change::Update { old, new } => self.update(&old, &new, dry_run).await,
            Change::Delete(pool) => self.delete(&pool).await,
        }
    }
}

impl Pools {
    async fn create(&self, pool: &SpiderIPPool, dry_run: bool) -> Result<(), Denied> {
        let (name, spec) = (pool.name_any(), PoolSpec::from(&pool.spec));
        let rule = |peers: &[Peer]| rules::validate_pool_create(&name, &spec, pool.labels(), &self.context(peers));
        self.judge(&name, (!dry_run).then_some(&spec), rule).await
    }

    async fn update(&self, old: &SpiderIPPool, new: &SpiderIPPool, dry_run: bool) -> Result<(), Denied> {
        let name = new.name_any();
        let terminating = new.metadata.deletion_timestamp.is_some();
        let (before, after) = (PoolSpec::from(&old.spec), PoolSpec::from(&new.spec));
        // Labels, finalizers and affinities change often and need no look at addresses in use.
        let addresses_change = before.ips != after.ips || before.exclude_ips != after.exclude_ips;
        let used = match addresses_change && !terminating {
            true => self.used(old).await?,
            false => Vec::new(),
        };
        let state = (terminating, new.finalizers());
        let rule = |peers: &[Peer]| {
            let others: Vec<Peer> = match addresses_change {
                true => peers.iter().filter(|peer| peer.name != name).cloned().collect(),
                false => Vec::new(),
            };
            rules::validate_pool_update(&name, (&before, &after), new.labels(), state, &used, &self.context(&others))
        };
        self.judge(&name, (addresses_change && !dry_run).then_some(&after), rule).await
    }

    async fn delete(&self, pool: &SpiderIPPool) -> Result<(), Denied> {
        if !self.0.guard_deletion {
            return Ok(());
        }
        let name = pool.name_any();
        let holders = self.used(pool).await?;
        let Some(first) = holders.first() else { return Ok(()) };
        let text = format!(
            "IPPool {name} is in use: {} addresses are allocated, {} to {}; delete the pods first, or switch \
             enableValidatingResourcesDeletedWebhook off",
            holders.len(),
            first.address,
            first.holder
        );
        Err(Refusal::Forbidden(text).into())
    }

    fn context<'a>(&self, peers: &'a [Peer]) -> PoolContext<'a> {
        PoolContext { enabled: self.0.enabled, peers, owner: None }
    }

    async fn judge(
        &self,
        name: &str,
        remember: Option<&PoolSpec>,
        rule: impl Fn(&[Peer]) -> Result<(), Refusal>,
    ) -> Result<(), Denied> {
        let judged = self.0.peers.judge(&self.0.client, name, remember, rule).await;
        Ok(judged.map_err(unreadable("the SpiderIPPools"))??)
    }

    /// The addresses of a stored pool that are in use: its SpiderIPs, and what upstream's agents have recorded and is not imported yet.
    async fn used(&self, pool: &SpiderIPPool) -> Result<Vec<Used>, Denied> {
        let name = pool.name_any();
        let of_pool = ListParams::default().labels(&format!("{}={}", labels::IP_POOL, labels::value(&name)));
        let ips = Api::<SpiderIP>::all(self.0.client.clone()).list(&of_pool).await;
        let ips = ips.map_err(unreadable(format!("the SpiderIPs of pool {name}")))?.items;
        let mut used: Vec<Used> = ips.iter().filter(|ip| ip.spec.pool == name).filter_map(claimed).collect();
        if pool.source() == Source::Listed {
            let records = pool.records().unwrap_or_default();
            let recorded =
                records.iter().map(|(address, record)| Used { address, holder: format!("Pod {}", record.pod) });
            let known: HashSet<IpAddr> = used.iter().map(|used| used.address).collect();
            used.extend(recorded.filter(|used| !known.contains(&used.address)));
        }
        Ok(used)
    }
}

fn claimed(ip: &SpiderIP) -> Option<Used> {
    let holder = match &ip.spec.holder {
        Holder::Pod(pod) => format!("Pod {}/{}", pod.namespace, pod.name),
        Holder::Node(node) => format!("node {}", node.name),
        Holder::Other => "a holder this version does not know".to_owned(),
    };
    Some(Used { address: ip.address()?, holder })
}
