//! `spiderpool-controller apply-crds`: brings the definitions of our kinds to this version, before an upgrade.
//!
//! Helm installs a chart's definitions once and never changes them again, so fields that a version adds would be pruned. Our definitions
//! are replaced as a whole: merged, a field that a version gave up would stay. The definition of NetworkAttachmentDefinitions is others'
//! as well: it is made where it is missing, and left alone where it is.

use std::time::Duration;

use daemon::{Chain, Env};
use k8s_api::GROUP;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt, api::PostParams};

/// Time for the API server to serve a kind after its definition is stored.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Tries of a read-change-write cycle before somebody else's haste is reported.
const TRIES: usize = 5;

/// A definition that is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refuses.
    #[error("cannot {step} CustomResourceDefinition {name}")]
    Api {
        /// What was tried.
        step: &'static str,
        /// Its name.
        name: String,
        /// The refusal.
        #[source]
        source: kube::Error,
    },
    /// It was stored and is not served.
    #[error("CustomResourceDefinition {name} is stored and not served after {PATIENCE:?}: {reason}")]
    NotServed {
        /// Its name.
        name: String,
        /// What its status says.
        reason: String,
    },
}

/// What became of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was missing.
    Created,
    /// It was another version's.
    Replaced,
    /// It is as this version has it.
    Unchanged,
    /// It is others'.
    LeftAlone,
}

/// The sub-command.
pub async fn run(env: &Env) -> anyhow::Result<()> {
    daemon::log::start(daemon::log::level(&env.text("SPIDERPOOL_LOG_LEVEL", "info"))?)?;
    let client = store::client::connect().await?;
    apply(&client).await?;
    Ok(())
}

/// Brings all definitions to this version and waits until they are served.
pub async fn apply(client: &Client) -> Result<Vec<(String, Outcome)>, Error> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let mut outcomes = Vec::new();
    for (_, wanted) in k8s_api::all_crds() {
        let outcome = put(&api, &wanted).await?;
        tracing::info!(definition = wanted.name_any(), ?outcome, "definition looked at");
        outcomes.push((wanted.name_any(), outcome));
    }
    for (name, _) in &outcomes {
        served(&api, name).await?;
    }
    Ok(outcomes)
}

async fn put(api: &Api<CustomResourceDefinition>, wanted: &CustomResourceDefinition) -> Result<Outcome, Error> {
    let name = wanted.name_any();
    let failed = |step| {
        let name = name.clone();
        move |source| Error::Api { step, name, source }
    };
    for _ in 1..TRIES {
        let written = match api.get_opt(&name).await.map_err(failed("read"))? {
            None => api.create(&PostParams::default(), wanted).await.map(|_| Outcome::Created),
            Some(_) if wanted.spec.group != GROUP => return Ok(Outcome::LeftAlone),
            Some(stored) => {
                let mut changed = stored.clone();
                changed.spec = wanted.spec.clone();
                let replaced = api.replace(&name, &PostParams::default(), &changed).await;
                replaced.map(|now| match now.resource_version() == stored.resource_version() {
                    true => Outcome::Unchanged,
                    false => Outcome::Replaced,
                })
            }
        };
        match written {
            Ok(outcome) => return Ok(outcome),
            // Somebody was faster: look at what they wrote.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                tracing::debug!(definition = name, error = %status.message, "definition changed meanwhile");
            }
            Err(source) => return Err(failed("write")(source)),
        }
        tokio::time::sleep(LOOK).await;
    }
    let last = api.get(&name).await.map_err(failed("read"))?;
    let mut changed = last;
    changed.spec = wanted.spec.clone();
    api.replace(&name, &PostParams::default(), &changed).await.map_err(failed("write"))?;
    Ok(Outcome::Replaced)
}

async fn served(api: &Api<CustomResourceDefinition>, name: &str) -> Result<(), Error> {
    let mut reason = "its status says nothing".to_owned();
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            match api.get(name).await {
                Ok(stored) => {
                    let conditions = stored.status.and_then(|status| status.conditions).unwrap_or_default();
                    if conditions.iter().any(|one| one.type_ == "Established" && one.status == "True") {
                        return;
                    }
                    if let Some(message) = conditions.iter().rev().find_map(|one| one.message.clone()) {
                        reason = message;
                    }
                }
                Err(error) => reason = Chain(&error).to_string(),
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    match waited.await {
        Ok(()) => Ok(()),
        Err(_) => Err(Error::NotServed { name: name.to_owned(), reason }),
    }
}
