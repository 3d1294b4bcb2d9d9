//! `spiderpool-controller clean`: removes what is ours and not Helm's (upstream's contract: controller, §11.2).
//!
//! Order: webhook configurations, so that nothing is asked of a controller that goes → the controller, which would make objects anew and
//! put finalizers on them → our objects, with their finalizers → our definitions → Lease, certificate, init Job. Pods go on running, and
//! keep their addresses; a later installation takes these over.
//!
//! It may be run any number of times: what is gone is done, definitions included. Every step is bounded in time; one that fails is told
//! and does not keep the others from being tried.

pub mod kinds;

use std::time::Duration;

use clap::Args;
use daemon::{Chain, Env};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    apps::v1::Deployment,
    batch::v1::Job,
    coordination::v1::Lease,
    core::v1::{Pod, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use store::{Failure, failure::bounded};
use tokio::time::Instant;

use crate::process;

/// Webhook configurations of the SR-IOV operator that upstream's chart installs.
const SRIOV_MUTATING: [&str; 2] = ["network-resources-injector-config", "sriov-operator-webhook-config"];
const SRIOV_VALIDATING: [&str; 1] = ["sriov-operator-webhook-config"];
/// Between two looks at what is going away.
const PAUSE: Duration = Duration::from_millis(500);

/// Flags of `clean`.
#[derive(Clone, Debug, Default, Args)]
pub struct Flags {
    /// Name of the validating webhook configuration to remove.
    #[arg(long, default_value = "")]
    pub validate: String,
    /// Name of the mutating webhook configuration to remove.
    #[arg(long, default_value = "")]
    pub mutating: String,
    /// Remove webhook configurations and definitions of the SR-IOV operator too: only where this installation brought them.
    #[arg(long)]
    pub sriov_operator: bool,
    /// The longest time for each step, in seconds.
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
}

/// What is to be removed.
#[derive(Clone, Debug)]
pub struct Plan {
    flags: Flags,
    namespace: String,
    deployment: Option<String>,
    secret: String,
    job: Option<String>,
}

/// What is left after all.
#[derive(Debug, thiserror::Error)]
#[error("not everything could be removed: {}", .0.join("; "))]
pub struct Left(Vec<String>);

impl Plan {
    /// Flags and environment together.
    pub fn new(flags: Flags, env: &Env) -> Result<Self, daemon::env::Error> {
        let named = |name| Some(env.text(name, "")).filter(|value| !value.is_empty());
        env.required("SPIDERPOOL_POD_NAME")?;
        Ok(Self {
            flags,
            namespace: env.required("SPIDERPOOL_POD_NAMESPACE")?,
            deployment: named("SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME"),
            secret: named("SPIDERPOOL_TLS_SECRET_NAME")
                .unwrap_or_else(|| "spiderpool-controller-server-certs".to_owned()),
            job: named("SPIDERPOOL_INIT_NAME"),
        })
    }
}

/// Reads the environment and does it.
pub async fn run(flags: Flags, env: &Env) -> anyhow::Result<()> {
    daemon::log::start(daemon::log::level(&env.text("SPIDERPOOL_LOG_LEVEL", "info"))?)?;
    let plan = Plan::new(flags, env)?;
    let client = store::client::connect().await?;
    carry_out(&client, &plan).await?;
    Ok(())
}

/// Removes all of it.
pub async fn carry_out(client: &Client, plan: &Plan) -> Result<(), Left> {
    let mut cleaner = Cleaner { client, limit: Duration::from_secs(plan.flags.timeout), left: Vec::new() };
    let (mutating, validating) = webhooks(&plan.flags);
    for name in mutating {
        cleaner.cluster::<MutatingWebhookConfiguration>(&name).await;
    }
    for name in validating {
        cleaner.cluster::<ValidatingWebhookConfiguration>(&name).await;
    }
    if let Some(name) = &plan.deployment {
        let stopped = cleaner.stop(&plan.namespace, name).await;
        cleaner.note(format!("stop Deployment {}/{name}", plan.namespace), stopped);
    }
    for kind in kinds::ours() {
        let emptied = kinds::empty(client, &kind, cleaner.limit).await;
        cleaner.note(format!("remove the {}", kind.plural), emptied);
    }
    for definition in kinds::definitions(client, plan.flags.sriov_operator, cleaner.limit, &mut cleaner.left).await {
        let removed = kinds::undefine(client, &definition, cleaner.limit).await;
        cleaner.note(format!("remove CustomResourceDefinition {definition}"), removed);
    }
    cleaner.namespaced::<Lease>(&plan.namespace, process::LEASE).await;
    cleaner.namespaced::<Secret>(&plan.namespace, &plan.secret).await;
    if let Some(job) = &plan.job {
        cleaner.namespaced::<Job>(&plan.namespace, job).await;
    }
    if cleaner.left.is_empty() {
        tracing::info!("everything of ours is removed; pods go on running");
        return Ok(());
    }
    Err(Left(cleaner.left))
}

fn webhooks(flags: &Flags) -> (Vec<String>, Vec<String>) {
    let names = |given: &str, operators: &[&str]| {
        let operators = operators.iter().filter(|_| flags.sriov_operator).map(|name| (*name).to_owned());
        Some(given.to_owned()).filter(|name| !name.is_empty()).into_iter().chain(operators).collect()
    };
    (names(&flags.mutating, &SRIOV_MUTATING), names(&flags.validate, &SRIOV_VALIDATING))
}

struct Cleaner<'a> {
    client: &'a Client,
    limit: Duration,
    left: Vec<String>,
}

impl Cleaner<'_> {
    fn note(&mut self, step: String, outcome: Result<(), Failure>) {
        match outcome {
            Ok(()) => tracing::info!(step, "done"),
            Err(failure) => {
                tracing::warn!(step, error = %Chain(&failure), "failed");
                self.left.push(format!("cannot {step}: {failure}"));
            }
        }
    }

    async fn cluster<K>(&mut self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>,
        K: Clone + std::fmt::Debug + DeserializeOwned,
    {
        let removed = remove(&Api::<K>::all(self.client.clone()), name, self.limit).await;
        self.note(format!("remove {} {name}", K::kind(&())), removed);
    }

    async fn namespaced<K>(&mut self, namespace: &str, name: &str)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + DeserializeOwned,
    {
        let removed = remove(&Api::<K>::namespaced(self.client.clone(), namespace), name, self.limit).await;
        self.note(format!("remove {} {namespace}/{name}", K::kind(&())), removed);
    }

    /// Scales the controller to nothing and waits until its pods are gone.
    async fn stop(&self, namespace: &str, name: &str) -> Result<(), Failure> {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), namespace);
        let deployment = match bounded(deployments.get(name)).await {
            Err(failure) if is_absent(&failure) => return Ok(()),
            outcome => outcome?,
        };
        let none = Patch::Merge(serde_json::json!({"spec": {"replicas": 0}}));
        bounded(deployments.patch_scale(name, &PatchParams::default(), &none)).await?;
        let selector = deployment.spec.and_then(|spec| spec.selector.match_labels).unwrap_or_default();
        let selector: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let of_controller = ListParams::default().labels(&selector.join(","));
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let started = Instant::now();
        loop {
            let left = bounded(pods.list_metadata(&of_controller)).await?.items;
            let Some(pod) = left.first() else { return Ok(()) };
            if started.elapsed() >= self.limit {
                return Err(Failure::Unknown(format!("pod {} is still there after {:?}", pod.name_any(), self.limit)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Deletes an object; absent is done. Objects that depend on it go in the background.
async fn remove<K>(api: &Api<K>, name: &str, limit: Duration) -> Result<(), Failure>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    again(limit, || async {
        match bounded(api.delete(name, &DeleteParams::background())).await {
            Err(failure) if is_absent(&failure) => Ok(()),
            outcome => outcome.map(drop),
        }
    })
    .await
}

/// Whether the object, or even its kind, does not exist.
fn is_absent(failure: &Failure) -> bool {
    matches!(failure, Failure::NotFound)
        || matches!(failure, Failure::Refused(text) if text.contains("custom resource definitions"))
}

/// Repeats what may have failed for a moment only.
async fn again<T, F: Future<Output = Result<T, Failure>>>(limit: Duration, step: impl Fn() -> F) -> Result<T, Failure> {
    let started = Instant::now();
    loop {
        match step().await {
            Err(failure) if failure.is_unknown() && started.elapsed() < limit => tokio::time::sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
}
