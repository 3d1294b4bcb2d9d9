//! SpiderSubnet under admission. This version makes nothing of one. Where the configuration switches the feature on, the rules are
//! `ipam`'s and a client is warned; where it does not, the feature says that it does not exist. What is stored
//! may be deleted, but where deletions are guarded, and upstream has given addresses of it to pools.

use std::collections::BTreeMap;

use ipam::{
    Family,
    range::{SpanSet, parse_ranges},
    rules::{self, Refusal, SubnetContext, SubnetSpec},
};
use ipnet::IpNet;
use k8s_api::SpiderSubnet;
use kube::{Api, ResourceExt, api::ListParams};
use serde::Deserialize;

use super::{Change, Context, Denied, Kind, unreadable};

const WARNING: &str = "this version makes nothing of a SpiderSubnet: no pools come from it, and pods that ask for it by annotation do not \
                       start; create SpiderIPPools for the addresses";

/// The handler.
pub struct Subnets(pub Context);

impl Kind for Subnets {
    type Object = SpiderSubnet;

    fn mutate(&self, subnet: &mut SpiderSubnet) {
        if !self.0.subnet {
            return;
        }
        let spec = SubnetSpec::from(&subnet.spec);
        let mutation = rules::mutate_subnet(&spec, subnet.labels(), subnet.finalizers(), false);
        for warning in &mutation.warnings {
            tracing::info!(
                subnet = subnet.name_any(),
                field = warning.field,
                text = warning.text,
                "left for validation to refuse"
            );
        }
        if mutation.add_finalizer {
            subnet.finalizers_mut().push(rules::FINALIZER.to_owned());
        }
        for (key, value) in mutation.labels {
            subnet.labels_mut().insert(key.to_owned(), value);
        }
        let spec = &mut subnet.spec;
        spec.ip_version = mutation.ip_version.or(spec.ip_version);
        if let Some(ips) = mutation.ips {
            spec.ips = ips;
        }
        if let Some(exclude_ips) = mutation.exclude_ips {
            spec.exclude_ips = exclude_ips;
        }
    }

    async fn validate(&self, change: Change<SpiderSubnet>, _: bool) -> Result<(), Denied> {
        match change {
            Change::Delete(subnet) => self.delete(&subnet),
            // One that stays as it is is not held up: finalizers come off, and owners.
            Change::Update { old, new } if old.spec == new.spec => Ok(()),
            Change::Update { new, .. } if !self.0.subnet && new.metadata.deletion_timestamp.is_some() => Ok(()),
            Change::Create(_) | Change::Update { .. } if !self.0.subnet => Err(refusal()),
            Change::Create(subnet) => self.create(&subnet).await,
            Change::Update { old, new } => {
                let (before, after) = (SubnetSpec::from(&old.spec), SubnetSpec::from(&new.spec));
                let (name, state) = (new.name_any(), (new.metadata.deletion_timestamp.is_some(), new.finalizers()));
                let controlled = controlled(&old)?;
                Ok(rules::validate_subnet_update(&name, (&before, &after), state, &controlled, self.0.enabled)?)
            }
        }
    }

    fn warning(&self, change: &Change<SpiderSubnet>) -> Option<&'static str> {
        match change {
            Change::Create(_) => Some(WARNING),
            Change::Update { old, new } if old.spec != new.spec => Some(WARNING),
            Change::Update { .. } | Change::Delete(_) => None,
        }
    }
}

impl Subnets {
    fn delete(&self, subnet: &SpiderSubnet) -> Result<(), Denied> {
        let count = subnet.status.as_ref().and_then(|status| status.allocated_ip_count).unwrap_or_default();
        if !self.0.guard_deletion || count <= 0 || subnet.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let text = format!(
            "Subnet {} is in use: upstream gave {count} of its addresses to pools (status.allocatedIPCount, which this version does not \
             change); to delete it all the same switch enableValidatingResourcesDeletedWebhook off",
            subnet.name_any()
        );
        Err(Refusal::Forbidden(text).into())
    }

    /// The other subnets are read live: there are few, and nobody waits for one.
    async fn create(&self, subnet: &SpiderSubnet) -> Result<(), Denied> {
        let (name, spec) = (subnet.name_any(), SubnetSpec::from(&subnet.spec));
        let others = Api::<SpiderSubnet>::all(self.0.client.clone()).list(&ListParams::default()).await;
        let others = others.map_err(unreadable("the SpiderSubnets"))?.items;
        // One whose CIDR does not parse, as only an API without webhooks stores it, is still a name that is taken.
        if others.iter().any(|other| other.name_any() == name) {
            return Err(Refusal::AlreadyExists.into());
        }
        let cidr = |other: &SpiderSubnet| Some((other.name_any(), other.spec.subnet.parse::<IpNet>().ok()?));
        let subnets: Vec<_> = others.iter().filter_map(cidr).collect();
        let rule = |pools: &[rules::Peer]| {
            let context = SubnetContext { enabled: self.0.enabled, subnets: &subnets, pools };
            rules::validate_subnet_create(&name, &spec, &context)
        };
        let judged = self.0.peers.judge(&self.0.client, "", None, rule).await;
        Ok(judged.map_err(unreadable("the SpiderIPPools"))??)
    }
}

/// What upstream has given to pools, as it stands in the status.
fn controlled(subnet: &SpiderSubnet) -> Result<Vec<(String, SpanSet)>, Denied> {
    #[derive(Deserialize)]
    struct Given {
        ips: Vec<String>,
    }
    let Some(text) = subnet.status.as_ref().and_then(|status| status.controlled_ip_pools.as_ref()) else {
        return Ok(Vec::new());
    };
    let family = subnet.spec.subnet.parse().ok().map(|net: IpNet| Family::of(net.addr()));
    let read = |family| {
        let given: BTreeMap<String, Given> = serde_json::from_str(text).ok()?;
        given.into_iter().map(|(pool, given)| Some((pool, parse_ranges(&given.ips, family).ok()?))).collect()
    };
    family.and_then(read).ok_or_else(|| {
        let text = format!("status.controlledIPPools of Subnet {} is not readable: {text}", subnet.name_any());
        Refusal::Forbidden(text).into()
    })
}

fn refusal() -> Denied {
    let text =
        "the SpiderSubnet feature is not available in this version; create SpiderIPPools for the addresses instead";
    Refusal::Forbidden(text.to_owned()).into()
}
