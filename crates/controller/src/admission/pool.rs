//! SpiderIPPool under admission: the rules are `ipam`'s; here they get the other pools and the addresses in use, both
//! read from the API itself, not from a cache.
//!
//! Two pools created in the same instant may both be admitted although they overlap; no address is ever given twice
//! all the same, because a SpiderIP's name is its address.

use ipam::rules::{self, Peer, PoolContext, PoolSpec, Refusal, Used};
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
            tracing::info!(pool = pool.name_any(), field = warning.field, text = warning.text, "left for validation to refuse");
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

    async fn validate(&self, change: Change<SpiderIPPool>) -> Result<(), Denied> {
        match change {
            Change::Create(pool) => self.create(&pool).await,
            Change::Update { old, new } => self.update(&old, &new).await,
            Change::Delete(pool) => self.delete(&pool).await,
        }
    }
}

impl Pools {
    async fn create(&self, pool: &SpiderIPPool) -> Result<(), Denied> {
        let peers = self.peers().await?;
        let context = PoolContext { enabled: self.0.enabled, peers: &peers, owner: None };
        Ok(rules::validate_pool_create(&pool.name_any(), &PoolSpec::from(&pool.spec), pool.labels(), &context)?)
    }

    async fn update(&self, old: &SpiderIPPool, new: &SpiderIPPool) -> Result<(), Denied> {
        let name = new.name_any();
        let terminating = new.metadata.deletion_timestamp.is_some();
        let specs = (PoolSpec::from(&old.spec), PoolSpec::from(&new.spec));
        // Labels, finalizers and affinities change often and need no look at other objects.
        let addresses_change = specs.0.ips != specs.1.ips || specs.0.exclude_ips != specs.1.exclude_ips;
        let (mut peers, used) = match addresses_change && !terminating {
            true => (self.peers().await?, used(&self.holders(&name).await?)),
            false => (Vec::new(), Vec::new()),
        };
        peers.retain(|peer| peer.name != name);
        let context = PoolContext { enabled: self.0.enabled, peers: &peers, owner: None };
        let state = (terminating, new.finalizers());
        Ok(rules::validate_pool_update(&name, (&specs.0, &specs.1), new.labels(), state, &used, &context)?)
    }

    async fn delete(&self, pool: &SpiderIPPool) -> Result<(), Denied> {
        if !self.0.guard_deletion {
            return Ok(());
        }
        let name = pool.name_any();
        let holders = used(&self.holders(&name).await?);
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

    async fn peers(&self) -> Result<Vec<Peer>, Denied> {
        let pools = Api::<SpiderIPPool>::all(self.0.client.clone()).list(&ListParams::default()).await;
        let pools = pools.map_err(unreadable("the SpiderIPPools"))?;
        Ok(pools.items.iter().filter_map(|pool| Peer::of(&pool.name_any(), &PoolSpec::from(&pool.spec))).collect())
    }

    async fn holders(&self, pool: &str) -> Result<Vec<SpiderIP>, Denied> {
        let of_pool = ListParams::default().labels(&format!("{}={}", labels::IP_POOL, labels::value(pool)));
        let ips = Api::<SpiderIP>::all(self.0.client.clone()).list(&of_pool).await;
        let mut ips = ips.map_err(unreadable(format!("the SpiderIPs of pool {pool}")))?.items;
        ips.retain(|ip| ip.spec.pool == pool);
        Ok(ips)
    }
}

fn used(ips: &[SpiderIP]) -> Vec<Used> {
    let view = |ip: &SpiderIP| {
        let holder = match &ip.spec.holder {
            Holder::Pod(pod) => format!("{}/{}", pod.namespace, pod.name),
            Holder::Node(node) => format!("node {}", node.name),
            Holder::Other => "a holder this version does not know".to_owned(),
        };
        Some(Used { address: ip.address()?, holder })
    };
    ips.iter().filter_map(view).collect()
}
