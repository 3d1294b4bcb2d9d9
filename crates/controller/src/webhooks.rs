//! The webhook configurations that send the API server to us.
//!
//! With a URL they are ours: created at start and put right when somebody changes or deletes them. Without one they come
//! with the chart, and only the `caBundle` is filled in. Every replica does so; each write is based on the version that was
//! read *before* the CAs were read, so a replica that lags cannot take back what another one has added.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use daemon::Stop;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhook,
        ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use kube::{Api, Client, Resource, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Notify, watch};

use crate::{
    admission::Webhook,
    certificates::{Former, Trust, TrustError},
    trouble::Explained,
};

/// How often the configurations are looked at.
const LOOK: Duration = Duration::from_secs(60);
/// How soon a failure is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How soon the first failure is.
const SOON: Duration = Duration::from_millis(100);

/// What the configurations shall say.
#[derive(Clone)]
pub struct Target {
    /// The API.
    pub client: Client,
    /// Name of both configurations.
    pub name: String,
    /// Base URL, if they are ours.
    pub url: Option<String>,
    /// Which CAs they shall name.
    pub trust: Trust,
    /// Tells that the CAs have changed.
    pub bundle_changed: Arc<Notify>,
    /// Is told which CAs they name.
    pub trusted: watch::Sender<Option<String>>,
    /// CAs that they name a while longer.
    pub former: Former,
    /// The admitted kinds.
    pub kinds: Vec<Webhook>,
}

/// A configuration that could not be put right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read or written.
    #[error("cannot {step} {kind} {name}")]
    Api {
        /// What was tried.
        step: &'static str,
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// The CAs are not known.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There are no CAs yet.
    #[error("the CA of the webhook server is not there yet")]
    NoCa,
    /// There is no configuration.
    #[error("there is no {0} {1}: objects are stored unchecked; install it with the chart")]
    Missing(&'static str, String),
}

impl Target {
    /// Puts both configurations right, again and again until `stop`. After the first success `first` is dropped and
    /// `written` opens, which it also does where there are none.
    pub async fn keep(self, stop: Stop, written: Stop, first: daemon::health::Guard) -> Result<(), Error> {
        let (mut first, mut complaint, mut failures) = (Some(first), None, 0);
        loop {
            let pause = match self.put_right().await {
                Ok(bundle) => {
                    self.trusted.send_if_modified(|known| std::mem::replace(known, bundle.clone()) != bundle);
                    written.cancel();
                    drop(first.take());
                    (complaint, failures) = (None, 0);
                    // What somebody else is to write is looked for.
                    if bundle.is_some() { LOOK } else { RETRY }
                }
                Err(error) => {
                    if matches!(error, Error::Missing(..)) {
                        // Nobody is asked: what is written gets through. Whoever removes the configurations in an emergency does not lose the rest.
                        written.cancel();
                    }
                    failures += 1;
                    let text = Explained(&error).to_string();
                    if failures > 1 && complaint.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "webhook configuration not as it should be");
                        complaint = Some(text);
                    }
                    if failures > 1 { RETRY } else { SOON }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                () = self.bundle_changed.notified() => {}
            }
        }
    }

    /// Returns the CAs that both name.
    async fn put_right(&self) -> Result<Option<String>, Error> {
        let mutating = self.put_right_one(|url, ca| self.mutating(url, ca)).await?;
        let validating = self.put_right_one(|url, ca| self.validating(url, ca)).await?;
        Ok(mutating.filter(|bundle| validating.as_ref() == Some(bundle)))
    }

    async fn put_right_one<K: Configuration>(
        &self,
        wanted: impl Fn(&str, Option<ByteString>) -> K,
    ) -> Result<Option<String>, Error> {
        let api = Api::<K>::all(self.client.clone());
        let failed = |step| {
            let name = self.name.clone();
            move |source| Error::Api { step, kind: K::KIND, name, source }
        };
        loop {
            // In this order: see above.
            let stored = api.get_opt(&self.name).await.map_err(failed("read"))?;
            let mut ca = self.trust.bundle().await?;
            if matches!(self.trust, Trust::Files(_))
                && let (Some(own), Some(mut stored)) = (&ca, stored.clone())
            {
                let stored = named(stored.targets()).unwrap_or_default();
                ca = Some(self.former.joined(K::KIND, own, &stored, Instant::now()));
            }
            let ca = ca.map(|ca| ByteString(ca.into_bytes()));
            if ca.is_none() && matches!(self.trust, Trust::Secret(..)) {
                return Err(Error::NoCa);
            }
            let put = match (stored, &self.url) {
                (None, None) => return Err(Error::Missing(K::KIND, self.name.clone())),
                (None, Some(url)) => api.create(&PostParams::default(), &wanted(url, ca.clone())).await,
                (Some(mut stored), url) => {
                    let before = stored.targets();
                    let mut right = stored.clone();
                    if let Some(url) = url {
                        // What somebody else has injected stays.
                        let injected = || before.first().and_then(|client| client.ca_bundle.clone());
                        right = wanted(url, ca.clone().or_else(injected));
                        *right.meta_mut() = stored.meta().clone();
                    } else if ca.is_some() {
                        right.clients().for_each(|client| client.ca_bundle.clone_from(&ca));
                    }
                    if right.targets() == before {
                        return Ok(named(before));
                    }
                    api.replace(&self.name, &PostParams::default(), &right).await
                }
            };
            match put {
                Ok(mut written) => {
                    tracing::info!(kind = K::KIND, name = self.name, "webhook configuration written");
                    return Ok(named(written.targets()));
                }
                // Another replica was faster.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(source) => return Err(failed("write")(source)),
            }
        }
    }

    fn client(url: &str, ca_bundle: Option<ByteString>, path: &str) -> WebhookClientConfig {
        WebhookClientConfig { ca_bundle, url: Some(format!("{}{path}", url.trim_end_matches('/'))), service: None }
    }

    fn mutating(&self, url: &str, ca: Option<ByteString>) -> MutatingWebhookConfiguration {
        let webhook = |kind: &Webhook| MutatingWebhook {
            name: entry_name(kind),
            client_config: Self::client(url, ca.clone(), &kind.mutate_path()),
            rules: Some(vec![rule(kind, &["CREATE", "UPDATE"])]),
            failure_policy: Some("Fail".to_owned()),
            side_effects: "None".to_owned(),
            admission_review_versions: vec!["v1".to_owned()],
            ..Default::default()
        };
        let mut configuration = MutatingWebhookConfiguration::default();
        configuration.metadata.name = Some(self.name.clone());
        configuration.webhooks = Some(self.kinds.iter().map(webhook).collect());
        configuration
    }

    fn validating(&self, url: &str, ca: Option<ByteString>) -> ValidatingWebhookConfiguration {
        let operations =
            |kind: &Webhook| if kind.delete { &["CREATE", "UPDATE", "DELETE"][..] } else { &["CREATE", "UPDATE"] };
        let webhook = |kind: &Webhook| ValidatingWebhook {
            name: entry_name(kind),
            client_config: Self::client(url, ca.clone(), &kind.validate_path()),
            rules: Some(vec![rule(kind, operations(kind))]),
            failure_policy: Some("Fail".to_owned()),
            side_effects: "None".to_owned(),
            admission_review_versions: vec!["v1".to_owned()],
            ..Default::default()
        };
        let mut configuration = ValidatingWebhookConfiguration::default();
        configuration.metadata.name = Some(self.name.clone());
        configuration.webhooks = Some(self.kinds.iter().map(webhook).collect());
        configuration
    }
}

/// The CAs that all of them name.
fn named(clients: Vec<WebhookClientConfig>) -> Option<String> {
    let mut bundles = clients.into_iter().map(|client| client.ca_bundle.filter(|bundle| !bundle.0.is_empty()));
    let first = bundles.next()??;
    bundles.all(|bundle| bundle.as_ref() == Some(&first)).then(|| String::from_utf8_lossy(&first.0).into_owned())
}

fn entry_name(kind: &Webhook) -> String {
    format!("{}.{}", kind.kind, k8s_api::GROUP)
}

/// The main resource only: status writes of agents and of ours bypass the webhooks.
fn rule(kind: &Webhook, operations: &[&str]) -> RuleWithOperations {
    let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
    RuleWithOperations {
        api_groups: list(&[k8s_api::GROUP]),
        api_versions: list(&[k8s_api::VERSION]),
        operations: list(operations),
        resources: list(&[kind.plural]),
        scope: None,
    }
}

/// What both kinds of configuration have in common.
trait Configuration:
    Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
{
    const KIND: &'static str;

    fn clients(&mut self) -> impl Iterator<Item = &mut WebhookClientConfig>;

    /// Where the webhooks point to and which CA they trust: what a foreign edit would break.
    fn targets(&mut self) -> Vec<WebhookClientConfig> {
        self.clients().map(|client| client.clone()).collect()
    }
}

impl Configuration for MutatingWebhookConfiguration {
    const KIND: &'static str = "MutatingWebhookConfiguration";

    fn clients(&mut self) -> impl Iterator<Item = &mut WebhookClientConfig> {
        self.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config)
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    const KIND: &'static str = "ValidatingWebhookConfiguration";

    fn clients(&mut self) -> impl Iterator<Item = &mut WebhookClientConfig> {
        self.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config)
    }
}
