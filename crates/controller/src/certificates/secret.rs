//! The Secret with our CA and certificate, shared by all replicas: whoever comes first makes it, the others read it.
//!
//! Every write is based on the version that was read; who comes second reads again. The Secret belongs to the controller
//! and not to the chart, so that upgrades keep the CA.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use daemon::{Stop, health::Guard};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::Notify, time::Instant};

use super::{
    Served,
    authority::{self, Material, Plan, Policy},
    x509::{self, Fault},
};
use crate::trouble::Explained;

/// The longest pause between two looks.
const LOOK: Duration = Duration::from_secs(10);
/// How soon a failure is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the Secret and shows what it holds.
#[derive(Clone)]
pub struct Keeper {
    /// The API.
    pub client: Client,
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub name: String,
    /// Name of the webhook configurations, which say what the API server trusts.
    pub configurations: String,
    /// How certificates shall be.
    pub policy: Policy,
    /// Told when `ca.crt` has changed.
    pub bundle_changed: Arc<Notify>,
}

/// Why there is no (new) certificate.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot {step} Secret {secret}")]
    Api {
        step: &'static str,
        secret: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot read webhook configurations {0}")]
    Configurations(String, #[source] kube::Error),
    #[error("cannot make a certificate for {0}")]
    Make(String, #[source] rcgen::Error),
    #[error("cannot use what Secret {0} holds")]
    Unusable(String, #[source] Fault),
}

/// What a replica remembers between two looks.
#[derive(Default)]
struct Memory {
    shown: Option<(String, String)>,
    bundle: Option<String>,
    /// Which CA the webhook configurations have named, since when.
    named: Option<(String, Instant)>,
    complaint: Option<String>,
}

impl Keeper {
    /// Runs until `stop`; `first` is dropped once there is a certificate to show.
    pub async fn run(self, served: Served, first: Guard, stop: Stop) -> Result<(), std::convert::Infallible> {
        let (mut memory, mut first) = (Memory::default(), Some(first));
        let look = LOOK.min(self.policy.leaf_validity / 12).min(self.policy.settle.max(Duration::from_millis(100)));
        loop {
            let pause = match self.round(&served, &mut memory).await {
                Ok(()) => {
                    drop(first.take());
                    memory.complaint = None;
                    look
                }
                Err(error) => {
                    let text = Explained(&error).to_string();
                    if memory.complaint.as_ref() != Some(&text) {
                        tracing::error!(error = text, "webhook certificate not kept");
                        memory.complaint = Some(text);
                    }
                    RETRY.min(look)
                }
            };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }

    fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    async fn round(&self, served: &Served, memory: &mut Memory) -> Result<(), Error> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let failed = |step| move |source| Error::Api { step, secret: self.title(), source };
        loop {
            let stored = api.get_opt(&self.name).await.map_err(failed("read"))?;
            let material = stored.as_ref().map(material);
            let plan = |settled| {
                let planned = authority::plan(&self.policy, material.as_ref(), x509::now(), settled);
                planned.map_err(|source| Error::Make(self.policy.names.join(", "), source))
            };
            let mut planned = plan(false)?;
            if let Plan::Await(ca) = &planned
                && self.settled(ca, memory).await?
            {
                planned = plan(true)?;
            }
            let Plan::Write(wanted, why) = planned else {
                return self.show(served, memory, &material.unwrap_or_default());
            };
            let written = match stored {
                None => api.create(&PostParams::default(), &self.secret(None, &wanted)).await,
                Some(stored) => {
                    let secret = self.secret(Some(stored), &wanted);
                    api.replace(&self.name, &PostParams::default(), &secret).await
                }
            };
            match written {
                Ok(_) => {
                    tracing::warn!(secret = self.title(), why, "webhook certificates written");
                    return self.show(served, memory, &wanted);
                }
                // Another replica was faster: what it wrote is read.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(source) => return Err(failed("write")(source)),
            }
        }
    }

    /// Whether both webhook configurations have named this CA for long enough.
    async fn settled(&self, ca: &str, memory: &mut Memory) -> Result<bool, Error> {
        let failed = |source| Error::Configurations(self.configurations.clone(), source);
        let mutating = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        let validating = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let mutating = mutating.get_opt(&self.configurations).await.map_err(failed)?;
        let validating = validating.get_opt(&self.configurations).await.map_err(failed)?;
        let bundles = mutating.into_iter().flat_map(|one| one.webhooks.unwrap_or_default());
        let bundles = bundles.map(|webhook| webhook.client_config.ca_bundle);
        let more = validating.into_iter().flat_map(|one| one.webhooks.unwrap_or_default());
        let mut bundles = bundles.chain(more.map(|webhook| webhook.client_config.ca_bundle));
        let named = bundles.all(|bundle| bundle.is_some_and(|bundle| contains(&bundle, ca)));
        match &memory.named {
            _ if !named => {
                memory.named = None;
                self.bundle_changed.notify_one();
                Ok(false)
            }
            Some((same, since)) if same == ca => Ok(since.elapsed() >= self.policy.settle),
            _ => {
                memory.named = Some((ca.to_owned(), Instant::now()));
                Ok(false)
            }
        }
    }

    fn show(&self, served: &Served, memory: &mut Memory, material: &Material) -> Result<(), Error> {
        if memory.bundle.as_ref() != Some(&material.ca) {
            memory.bundle = Some(material.ca.clone());
            self.bundle_changed.notify_one();
        }
        let shown = (material.cert.clone(), material.key.clone());
        if memory.shown.as_ref() != Some(&shown) {
            let (pair, leaf) =
                x509::pair(&material.cert, &material.key).map_err(|source| Error::Unusable(self.title(), source))?;
            served.replace(pair, leaf.not_after);
            memory.shown = Some(shown);
            tracing::info!(secret = self.title(), expires = x509::shown(leaf.not_after), "webhook certificate in use");
        }
        Ok(())
    }

    /// The Secret with this content; labels and other keys of a stored one stay.
    fn secret(&self, stored: Option<Secret>, material: &Material) -> Secret {
        let mut secret = stored.unwrap_or_else(|| Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([
                    ("app.kubernetes.io/name".to_owned(), "spiderpool".to_owned()),
                    ("app.kubernetes.io/managed-by".to_owned(), crate::NAME.to_owned()),
                ])),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            ..Secret::default()
        });
        let data = secret.data.get_or_insert_default();
        for (key, text) in [
            ("ca.crt", &material.ca),
            ("ca.key", &material.ca_key),
            ("tls.crt", &material.cert),
            ("tls.key", &material.key),
        ] {
            data.insert(key.to_owned(), ByteString(text.clone().into_bytes()));
        }
        secret
    }
}

fn contains(bundle: &ByteString, ca: &str) -> bool {
    let bundle = String::from_utf8_lossy(&bundle.0);
    let parsed = |text: &str| x509::chain("caBundle", text).unwrap_or_default();
    let bundle = parsed(&bundle);
    parsed(ca).iter().all(|ca| bundle.iter().any(|known| known.der == ca.der))
}

/// What a Secret holds; what is missing is empty.
pub fn material(secret: &Secret) -> Material {
    let text = |key: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).unwrap_or_default()
    };
    Material { ca: text("ca.crt"), ca_key: text("ca.key"), cert: text("tls.crt"), key: text("tls.key") }
}
