//! SpiderMultusConfig under admission.

use k8s_api::{NetworkAttachmentDefinition, SpiderMultusConfig};
use kube::{Api, ResourceExt};

use super::{Change, Context, Denied, Kind, unreadable};
use crate::multus::{defaults, network, rules};

/// The handler.
pub struct MultusConfigs(pub Context);

impl Kind for MultusConfigs {
    type Object = SpiderMultusConfig;

    fn mutate(&self, config: &mut SpiderMultusConfig) {
        defaults::fill(config);
    }

    async fn validate(&self, change: Change<SpiderMultusConfig>, _: bool) -> Result<(), Denied> {
        let (old, new) = match change {
            Change::Create(new) => (None, new),
            // One that is going away is not held up by what is wrong with it: finalizers come off.
            Change::Update { old, new } if new.metadata.deletion_timestamp.is_some() && old.spec == new.spec => {
                return Ok(());
            }
            Change::Update { old, new } => (Some(old), new),
            Change::Delete(_) => return Ok(()),
        };
        let existing = self.definition(&new).await?;
        Ok(rules::check(old.as_ref(), &new, existing.as_ref())?)
    }
}

impl MultusConfigs {
    async fn definition(&self, config: &SpiderMultusConfig) -> Result<Option<NetworkAttachmentDefinition>, Denied> {
        let (namespace, name) = (config.namespace().unwrap_or_default(), network::name(config));
        let definitions = Api::<NetworkAttachmentDefinition>::namespaced(self.0.client.clone(), &namespace);
        definitions.get_opt(name).await.map_err(unreadable(format!("NetworkAttachmentDefinition {namespace}/{name}")))
    }
}
