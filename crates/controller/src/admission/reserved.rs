//! SpiderReservedIP under admission. No look at pools or addresses in use: reserving only prevents new allocations.

use ipam::rules::{self, ReservedSpec};
use k8s_api::SpiderReservedIP;
use kube::ResourceExt;

use super::{Change, Context, Denied, Kind};

/// The handler.
pub struct ReservedIPs(pub Context);

impl Kind for ReservedIPs {
    type Object = SpiderReservedIP;

    fn mutate(&self, reserved: &mut SpiderReservedIP) {
        let mutation = rules::mutate_reserved(&ReservedSpec::from(&reserved.spec), false);
        for warning in &mutation.warnings {
            tracing::info!(
                name = reserved.name_any(),
                field = warning.field,
                text = warning.text,
                "left for validation to refuse"
            );
        }
        reserved.spec.ip_version = mutation.ip_version.or(reserved.spec.ip_version);
        if let Some(ips) = mutation.ips {
            reserved.spec.ips = ips;
        }
    }

    async fn validate(&self, change: Change<SpiderReservedIP>, _: bool) -> Result<(), Denied> {
        let enabled = self.0.enabled;
        match change {
            Change::Create(reserved) => {
                rules::validate_reserved_create(&ReservedSpec::from(&reserved.spec), enabled)?;
            }
            Change::Update { old, new } => {
                let specs = (ReservedSpec::from(&old.spec), ReservedSpec::from(&new.spec));
                let terminating = new.metadata.deletion_timestamp.is_some();
                rules::validate_reserved_update(&new.name_any(), (&specs.0, &specs.1), terminating, enabled)?;
            }
            Change::Delete(_) => {}
        }
        Ok(())
    }
}
