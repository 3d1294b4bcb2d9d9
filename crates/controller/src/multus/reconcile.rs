//! Keeps the NetworkAttachmentDefinition of every SpiderMultusConfig as [`network`] says.
//!
//! Guarantees: exactly one definition per config, created, put right after foreign edits (also of its owner), made again after
//! deletion; a definition of a former name is deleted; what another SpiderMultusConfig or another controller owns is left alone,
//! with an Event. Deleting a config deletes its definition by owner reference.
//!
//! Every write names UID and version of the definition it was decided on; a conflict means to look again.
//!
//! Annotations: all of the config's are kept on the definition. Others stay, unless they are of Spiderpool's own or
//! `kubectl`'s domain and the config no longer has them.

use std::{sync::Arc, time::Duration};

use daemon::{Chain, Stop};
use futures::StreamExt as _;
use k8s_api::{NetworkAttachmentDefinition, SpiderMultusConfig, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client, Resource as _, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::{ObjectRef, Store},
        watcher,
    },
};

use super::{network, rules};
use crate::{events::Events, trouble::Explained};

/// How soon a failure is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How soon a definition that somebody changed meanwhile is looked at again.
const AGAIN: Duration = Duration::from_millis(200);

/// What the reconciler needs.
pub struct Context {
    /// The API.
    pub client: Client,
    /// For users.
    pub events: Arc<Events>,
    /// How often a config is looked at although nothing has changed.
    pub resync: Duration,
}

/// Why a definition is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The config cannot be turned into one.
    #[error("SpiderMultusConfig {config} makes no network")]
    Network {
        /// namespace/name.
        config: String,
        /// Why not.
        #[source]
        source: network::NetworkError,
    },
    /// Somebody else owns the definition.
    #[error("NetworkAttachmentDefinition {definition} belongs to {owner}, not to SpiderMultusConfig {config}")]
    Foreign {
        /// namespace/name of the definition.
        definition: String,
        /// Kind and name of its owner.
        owner: String,
        /// namespace/name of the config.
        config: String,
    },
    /// The old definition of that name is still going away.
    #[error("NetworkAttachmentDefinition {0} is being deleted")]
    Terminating(String),
    /// The API refuses.
    #[error("cannot {step} NetworkAttachmentDefinition {definition}")]
    Api {
        /// What was tried.
        step: &'static str,
        /// namespace/name of the definition.
        definition: String,
        /// The refusal.
        #[source]
        source: kube::Error,
    },
}

/// Runs until `stop`.
pub async fn run(context: Context, stop: Stop) -> Result<(), std::convert::Infallible> {
    let configs = Api::<SpiderMultusConfig>::all(context.client.clone());
    let definitions = Api::<NetworkAttachmentDefinition>::all(context.client.clone());
    let controller = Controller::new(configs, watcher::Config::default());
    let known = controller.store();
    controller
        .watches(definitions, watcher::Config::default(), move |definition| concerned(&definition, &known))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, _, _| Action::requeue(RETRY), Arc::new(context))
        .for_each(async |outcome| match outcome {
            Ok(_) => {}
            Err(controller::Error::QueueError(error)) => {
                tracing::warn!(what = "SpiderMultusConfigs", error = %Explained(&error), "watch interrupted");
            }
            Err(error) => tracing::debug!(error = %Chain(&error), "SpiderMultusConfig to be tried again"),
        })
        .await;
    Ok(())
}

/// The configs that a definition is or should be of. By its name too: somebody may have taken its owner away, and one that
/// stood in the way may be gone.
fn concerned(
    definition: &NetworkAttachmentDefinition,
    known: &Store<SpiderMultusConfig>,
) -> Vec<ObjectRef<SpiderMultusConfig>> {
    let namespace = definition.namespace().unwrap_or_default();
    let owners = definition.owner_references().iter().filter(|owner| owner.kind == SpiderMultusConfig::KIND);
    let owners = owners.map(|owner| ObjectRef::new(&owner.name).within(&namespace));
    let (configs, name) = (known.state(), definition.name_any());
    let namesakes = configs
        .iter()
        .filter(|config| config.metadata.namespace.as_ref() == Some(&namespace) && network::name(config) == name)
        .map(|config| ObjectRef::from_obj(&**config));
    owners.chain(namesakes).collect()
}

async fn reconcile(config: Arc<SpiderMultusConfig>, context: Arc<Context>) -> Result<Action, Error> {
    if config.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    match ensure(&config, &context).await {
        Ok(()) => Ok(Action::requeue(context.resync)),
        Err(Error::Api { source: kube::Error::Api(status), .. }) if status.code == 409 => {
            tracing::debug!(config = title(config.as_ref()), error = status.message, "network has changed meanwhile");
            Ok(Action::requeue(AGAIN))
        }
        Err(error) => {
            tracing::warn!(config = title(config.as_ref()), error = %Explained(&error), "network not written");
            if let Some(advice) = advice(&error) {
                context
                    .events
                    .warning(config.as_ref(), "NetworkNotWritten", format!("{}; {advice}", Chain(&error)))
                    .await;
            }
            Err(error)
        }
    }
}

/// What a user can do about it.
fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::Network { .. } => Some("correct the spec"),
        Error::Foreign { .. } => Some(
            "rename one of the two, or choose another name by annotation multus.spidernet.io/cr-name before creating it",
        ),
        Error::Terminating(_) | Error::Api { .. } => None,
    }
}

async fn ensure(config: &SpiderMultusConfig, context: &Context) -> Result<(), Error> {
    let wanted = network::definition(config).map_err(|source| Error::Network { config: title(config), source })?;
    let namespace = config.namespace().unwrap_or_default();
    let api = Api::<NetworkAttachmentDefinition>::namespaced(context.client.clone(), &namespace);
    let name = wanted.name_any();
    let failed = |step, name: &str| {
        let definition = format!("{namespace}/{name}");
        move |source| Error::Api { step, definition, source }
    };
    // One list instead of one read: definitions of former names show up in it.
    let stored = api.list(&ListParams::default()).await.map_err(failed("list", "*"))?;
    let (same, others): (Vec<_>, Vec<_>) = stored.items.into_iter().partition(|stored| stored.name_any() == name);
    match same.into_iter().next() {
        None => {
            let mut wanted = wanted;
            own(&mut wanted, config)?;
            api.create(&PostParams::default(), &wanted).await.map_err(failed("create", &name))?;
            tracing::info!(config = title(config), definition = name, "network created");
        }
        Some(stored) => {
            let mut changed = stored.clone();
            merge(&mut changed, wanted);
            own(&mut changed, config)?;
            if changed != stored {
                if stored.metadata.deletion_timestamp.is_some() {
                    return Err(Error::Terminating(format!("{namespace}/{name}")));
                }
                api.replace(&name, &PostParams::default(), &changed).await.map_err(failed("update", &name))?;
                tracing::info!(config = title(config), definition = name, "network put right");
            }
        }
    }
    for stray in others.iter().filter(|stored| is_owned(stored, config)) {
        let stray_name = stray.name_any();
        let precise = DeleteParams {
            preconditions: Some(Preconditions { uid: stray.uid(), resource_version: stray.resource_version() }),
            ..DeleteParams::default()
        };
        match api.delete(&stray_name, &precise).await {
            Ok(_) => {
                tracing::info!(config = title(config), definition = stray_name, "network of a former name deleted")
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(failed("delete", &stray_name)(source)),
        }
    }
    Ok(())
}

fn is_owned(definition: &NetworkAttachmentDefinition, config: &SpiderMultusConfig) -> bool {
    let uid = config.uid();
    definition.metadata.deletion_timestamp.is_none()
        && uid.is_some_and(|uid| definition.owner_references().iter().any(|owner| owner.uid == uid))
}

/// Takes over what the config says; keeps what others have written beside it.
fn merge(stored: &mut NetworkAttachmentDefinition, wanted: NetworkAttachmentDefinition) {
    stored.spec = wanted.spec;
    let wanted = wanted.metadata.annotations.unwrap_or_default();
    let mut annotations = stored.metadata.annotations.take().unwrap_or_default();
    annotations.retain(|key, _| wanted.contains_key(key) || !is_ours(key));
    annotations.extend(wanted);
    stored.metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
}

/// Annotations that only come from the config, so that without it they are leftovers.
fn is_ours(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    key == labels::NAD_RESOURCE_NAME || domain.ends_with(".spidernet.io") || domain == "kubectl.kubernetes.io"
}

/// Makes the config the controller of the definition, unless another one is.
fn own(definition: &mut NetworkAttachmentDefinition, config: &SpiderMultusConfig) -> Result<(), Error> {
    let Some(reference) = config.controller_owner_ref(&()) else { return Ok(()) };
    let reference = OwnerReference { block_owner_deletion: Some(true), ..reference };
    let foreign = |owner: String| Error::Foreign { definition: title(definition), owner, config: title(config) };
    if let Some(owner) = rules::foreign_owner(config, definition) {
        return Err(foreign(format!("{} {owner}", SpiderMultusConfig::KIND)));
    }
    let is_same = |owner: &&OwnerReference| owner.kind == reference.kind && owner.name == reference.name;
    if let Some(owner) =
        definition.owner_references().iter().find(|owner| owner.controller == Some(true) && !is_same(owner))
    {
        return Err(foreign(format!("{} {}", owner.kind, owner.name)));
    }
    let owners = definition.owner_references_mut();
    // Also one of a predecessor of the same name: its UID would have the definition collected.
    match owners.iter_mut().find(|owner| is_same(&&**owner)) {
        Some(owner) => *owner = reference,
        None => owners.push(reference),
    }
    Ok(())
}

fn title<K: kube::Resource>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}
