//! SpiderCoordinator under admission.

use k8s_api::{FINALIZER, SpiderCoordinator};
use kube::ResourceExt;

use super::{Change, Denied, Kind};
use crate::coordinator::rules;

/// The handler.
pub struct Coordinators;

impl Kind for Coordinators {
    type Object = SpiderCoordinator;

    fn mutate(&self, coordinator: &mut SpiderCoordinator) {
        rules::fill(coordinator);
    }

    async fn validate(&self, change: Change<SpiderCoordinator>, _: bool) -> Result<(), Denied> {
        match change {
            Change::Create(new) | Change::Update { new, .. } if !may_go(&new) => {
                Ok(rules::check(&new.spec, rules::Owner::Cluster)?)
            }
            _ => Ok(()),
        }
    }
}

/// An object that is leaving is not held up by what is wrong with it.
fn may_go(coordinator: &SpiderCoordinator) -> bool {
    coordinator.metadata.deletion_timestamp.is_some() && !coordinator.finalizers().iter().any(|name| name == FINALIZER)
}
