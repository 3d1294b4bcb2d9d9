//! The webhook configurations that send the API server to us.
//!
//! With a URL they are ours: created at start and put right when somebody changes or deletes them. Without one they come
//! with the chart, and only the `caBundle` is filled in, if the certificate is our own.

use std::time::Duration;

use daemon::{Chain, Stop};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhook,
        ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use kube::{Api, Client, Resource, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};

use crate::admission::Webhook;

/// How often the configurations are looked at.
const LOOK: Duration = Duration::from_secs(60);
/// How soon a failure is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What the configurations shall say.
#[derive(Clone)]
pub struct Target {
    /// The API.
    pub client: Client,
    /// Name of both configurations.
    pub name: String,
    /// Base URL, if they are ours.
    pub url: Option<String>,
    /// PEM of the CA, if the certificate is our own.
    pub ca: Option<String>,
    /// The admitted kinds.
    pub kinds: Vec<Webhook>,
}

/// A configuration that could not be put right.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {kind} {name}")]
pub struct Error {
    kind: &'static str,
    name: String,
    #[source]
    source: kube::Error,
}

impl Target {
    /// Puts both configurations right, again and again until `stop`. After the first success `first` is dropped and
    /// `written` opens.
    pub async fn keep(self, stop: Stop, written: Stop, first: daemon::health::Guard) -> Result<(), Error> {
        let mut first = Some(first);
        loop {
            let pause = match self.put_right().await {
                Ok(()) => {
                    written.cancel();
                    drop(first.take());
                    LOOK
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "webhook configuration not written");
                    RETRY
                }
            };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn put_right(&self) -> Result<(), Error> {
        match &self.url {
            Some(url) => {
                self.write(self.mutating(url)).await?;
                self.write(self.validating(url)).await
            }
            None => {
                self.fill_ca::<MutatingWebhookConfiguration>().await?;
                self.fill_ca::<ValidatingWebhookConfiguration>().await
            }
        }
    }

    async fn write<K: Configuration>(&self, mut wanted: K) -> Result<(), Error> {
        let targets = wanted.targets();
        let api = Api::<K>::all(self.client.clone());
        let failed = |source| Error { kind: K::KIND, name: self.name.clone(), source };
        match api.get_opt(&self.name).await.map_err(failed)? {
            None => api.create(&PostParams::default(), &wanted).await.map_err(failed)?,
            Some(mut stored) => {
                if stored.targets() == targets {
                    return Ok(());
                }
                *wanted.meta_mut() = stored.meta().clone();
                api.replace(&self.name, &PostParams::default(), &wanted).await.map_err(failed)?
            }
        };
        tracing::info!(kind = K::KIND, name = self.name, "webhook configuration written");
        Ok(())
    }

    async fn fill_ca<K: Configuration>(&self) -> Result<(), Error> {
        let Some(ca) = &self.ca else { return Ok(()) };
        let api = Api::<K>::all(self.client.clone());
        let failed = |source| Error { kind: K::KIND, name: self.name.clone(), source };
        let Some(mut stored) = api.get_opt(&self.name).await.map_err(failed)? else {
            tracing::warn!(
                kind = K::KIND,
                name = self.name,
                "there is no webhook configuration: objects are stored unchecked"
            );
            return Ok(());
        };
        let bundle = Some(ByteString(ca.clone().into_bytes()));
        if stored.clients().all(|client| client.ca_bundle == bundle) {
            return Ok(());
        }
        stored.clients().for_each(|client| client.ca_bundle.clone_from(&bundle));
        api.replace(&self.name, &PostParams::default(), &stored).await.map_err(failed)?;
        tracing::info!(kind = K::KIND, name = self.name, "caBundle of the webhook configuration written");
        Ok(())
    }

    fn client(&self, url: &str, path: &str) -> WebhookClientConfig {
        let ca_bundle = self.ca.clone().map(|ca| ByteString(ca.into_bytes()));
        WebhookClientConfig { ca_bundle, url: Some(format!("{}{path}", url.trim_end_matches('/'))), service: None }
    }

    fn mutating(&self, url: &str) -> MutatingWebhookConfiguration {
        let webhook = |kind: &Webhook| MutatingWebhook {
            name: entry_name(kind),
            client_config: self.client(url, &kind.mutate_path()),
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

    fn validating(&self, url: &str) -> ValidatingWebhookConfiguration {
        let operations =
            |kind: &Webhook| if kind.delete { &["CREATE", "UPDATE", "DELETE"][..] } else { &["CREATE", "UPDATE"] };
        let webhook = |kind: &Webhook| ValidatingWebhook {
            name: entry_name(kind),
            client_config: self.client(url, &kind.validate_path()),
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
