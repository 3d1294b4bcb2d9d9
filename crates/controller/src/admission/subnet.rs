//! SpiderSubnet under admission: a feature that does not exist yet says so. What is stored may be deleted.

use ipam::rules::Refusal;
use k8s_api::SpiderSubnet;

use super::{Change, Denied, Kind};

/// The handler.
pub struct Subnets;

impl Kind for Subnets {
    type Object = SpiderSubnet;

    fn mutate(&self, _: &mut SpiderSubnet) {}

    async fn validate(&self, change: Change<SpiderSubnet>, _: bool) -> Result<(), Denied> {
        match change {
            Change::Create(_) => Err(refusal()),
            // One that stays as it is, or goes, is not held up: finalizers come off, and owners.
            Change::Update { old, new } if new.metadata.deletion_timestamp.is_none() && old.spec != new.spec => {
                Err(refusal())
            }
            Change::Update { .. } | Change::Delete(_) => Ok(()),
        }
    }
}

fn refusal() -> Denied {
    let text =
        "the SpiderSubnet feature is not available in this version; create SpiderIPPools for the addresses instead";
    Refusal::Forbidden(text.to_owned()).into()
}
