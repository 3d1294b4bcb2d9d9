//! `spiderpool-init`: makes the objects that an installation begins with (upstream's contract: controller, §11.1; config, §5).
//!
//! It may be run any number of times: what exists is left as it is, whatever it says. A failure that time may heal is tried again for a
//! bounded time; one that it cannot heal (a variable, a refusal) ends the run at once, with object, field and value.

pub mod network;
pub mod settings;

use std::{fmt::Debug, future::Future, time::Duration};

use daemon::Env;
use k8s_api::{SpiderCoordinator, SpiderIPPool, SpiderMultusConfig};
use k8s_openapi::api::{core::v1::Endpoints, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use store::{
    Failure,
    failure::{bounded, optional},
};
use tokio::time::Instant;

use settings::Plan;

/// The process' name in logs.
pub const NAME: &str = "spiderpool-init";

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a controller that serves the webhooks.
    pub controller: Duration,
    /// For one object.
    pub object: Duration,
    /// Between the first two tries; doubled up to the tenfold.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            controller: Duration::from_secs(300),
            object: Duration::from_secs(120),
            pause: Duration::from_millis(500),
        }
    }
}

/// Why the run ended without success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No webhooks.
    #[error(
        "no ready endpoint of Service {namespace}/{service} within {waited:?}: is the controller running? Look at its pods and their logs"
    )]
    NoController {
        /// Namespace of the Service.
        namespace: String,
        /// Its name.
        service: String,
        /// How long it was waited for.
        waited: Duration,
        /// The last failure of looking, if looking failed.
        #[source]
        source: Option<Failure>,
    },
    /// An object cannot be made.
    #[error("cannot create {kind} {name}")]
    Object {
        /// Its kind.
        kind: &'static str,
        /// Its name, with the namespace if it has one.
        name: String,
        /// Why not.
        #[source]
        source: Failure,
    },
}

/// Reads the environment and does it.
pub async fn run(env: &Env) -> anyhow::Result<()> {
    daemon::log::start(daemon::log::level(&env.text("SPIDERPOOL_LOG_LEVEL", "info"))?)?;
    let plan = Plan::new(env).await?;
    let client = store::client::connect().await?;
    carry_out(&client, &plan, Patience::default()).await?;
    Ok(())
}

/// Makes what does not exist.
pub async fn carry_out(client: &Client, plan: &Plan, patience: Patience) -> Result<(), Error> {
    let mut maker = Maker { client, plan, patience, ready: false };
    if let Some(coordinator) = &plan.coordinator {
        maker.make(Api::all(client.clone()), SpiderCoordinator::KIND, coordinator).await?;
    }
    for pool in &plan.pools {
        maker.make(Api::all(client.clone()), SpiderIPPool::KIND, pool).await?;
    }
    if let Some(network) = &plan.network {
        let api = Api::<SpiderMultusConfig>::namespaced(client.clone(), &network.namespace().unwrap_or_default());
        maker.make(api, SpiderMultusConfig::KIND, network).await?;
    }
    tracing::info!("done");
    Ok(())
}

struct Maker<'a> {
    client: &'a Client,
    plan: &'a Plan,
    patience: Patience,
    ready: bool,
}

impl Maker<'_> {
    async fn make<K>(&mut self, api: Api<K>, kind: &'static str, object: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let name = object.name_any();
        let shown = object.namespace().map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"));
        let failed = |source| Error::Object { kind, name: shown.clone(), source };
        let read = || async { optional(bounded(api.get_metadata(&name)).await) };
        if self.retry(read).await.map_err(failed)?.is_some() {
            tracing::info!(kind, name = shown, "exists");
            return Ok(());
        }
        self.webhooks().await?;
        let create = || async {
            match bounded(api.create(&PostParams::default(), object)).await {
                Err(Failure::AlreadyExists) => Ok(false),
                outcome => outcome.map(|_| true),
            }
        };
        match self.retry(create).await.map_err(failed)? {
            true => tracing::info!(kind, name = shown, "created"),
            false => tracing::info!(kind, name = shown, "exists"),
        }
        Ok(())
    }

    /// What is created passes a webhook: it must be served.
    async fn webhooks(&mut self) -> Result<(), Error> {
        let started = Instant::now();
        let mut pauses = Pauses(self.patience.pause, self.patience.pause * 10);
        while !self.ready {
            let (namespace, service) = (&self.plan.namespace, &self.plan.controller);
            let looked = is_served(self.client, namespace, service).await;
            self.ready = matches!(looked, Ok(true));
            let source = looked.err();
            let refused = matches!(source, Some(Failure::Refused(_)));
            if !self.ready && (refused || started.elapsed() >= self.patience.controller) {
                let (namespace, service, waited) = (namespace.clone(), service.clone(), started.elapsed());
                return Err(Error::NoController { namespace, service, waited, source });
            }
            if !self.ready {
                tracing::info!(namespace, service, "waiting for the controller to serve its webhooks");
                pauses.next().await;
            }
        }
        Ok(())
    }

    /// Repeats what may have failed for a moment only.
    async fn retry<T, F: Future<Output = Result<T, Failure>>>(&self, step: impl Fn() -> F) -> Result<T, Failure> {
        let started = Instant::now();
        let mut pauses = Pauses(self.patience.pause, self.patience.pause * 10);
        loop {
            match step().await {
                Err(failure) if failure.is_unknown() && started.elapsed() < self.patience.object => {
                    tracing::warn!(error = %failure, "failed, trying again");
                    pauses.next().await;
                }
                outcome => return outcome,
            }
        }
    }
}

/// Pauses that grow: the next one and the longest.
struct Pauses(Duration, Duration);

impl Pauses {
    async fn next(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(self.1);
    }
}

/// Whether a Service has a ready endpoint.
async fn is_served(client: &Client, namespace: &str, service: &str) -> Result<bool, Failure> {
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    match bounded(slices.list(&of_service)).await {
        Ok(list) => {
            let mut endpoints = list.items.iter().flat_map(|slice| &slice.endpoints);
            return Ok(endpoints.any(|endpoint| {
                let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
                ready != Some(false) && !endpoint.addresses.is_empty()
            }));
        }
        // An API server without EndpointSlices.
        Err(Failure::NotFound) => {}
        Err(Failure::Refused(text)) if text.contains("custom resource definitions") => {}
        Err(failure) => return Err(failure),
    }
    let endpoints = Api::<Endpoints>::namespaced(client.clone(), namespace);
    let found = optional(bounded(endpoints.get(service)).await)?;
    let mut subsets = found.into_iter().flat_map(|endpoints| endpoints.subsets.into_iter().flatten());
    Ok(subsets.any(|subset| subset.addresses.is_some_and(|addresses| !addresses.is_empty())))
}
