//! Admission: the webhook's HTTP surface, and what every kind has in common.
//!
//! One handler per kind behind one trait ([`Kind`]) and one route table ([`router`]). A handler says what a change of
//! an object means; reading reviews, patching and answering happen here. A mutation never fails: a step that cannot be
//! done is left out, and validation refuses the object and says why, so nothing half mutated is stored.

pub mod coordinator;
pub mod metrics;
pub mod multus;
pub mod pool;
pub mod reserved;
pub mod review;
pub mod subnet;

use std::{future::Future, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    response::Json,
    routing::{get, post},
};
use daemon::Chain;
use ipam::rules::{Enabled, Refusal};
use kube::{Client, Resource};
use serde::{Serialize, de::DeserializeOwned};

use crate::pools::peers::Peers;
use review::{Answer, Operation, Request, Review};

/// A change of an object that validation judges.
#[derive(Clone, Debug)]
pub enum Change<O> {
    /// It is created.
    Create(O),
    /// It is replaced.
    Update {
        /// What it was.
        old: O,
        /// What it shall be.
        new: O,
    },
    /// It is deleted.
    Delete(O),
}

/// Why a change is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// A rule refuses it.
    #[error("refused")]
    Refused(Refusal),
    /// What the rule needs could not be read. The client may try again.
    #[error("cannot read {what}")]
    Unreadable {
        /// What was to be read.
        what: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ipam::rules::FieldError> for Denied {
    fn from(error: ipam::rules::FieldError) -> Self {
        Self::Refused(error.into())
    }
}

/// Makes a failed read a denial that says what could not be read.
fn unreadable(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Denied {
    let what = what.into();
    move |source| Denied::Unreadable { what, source }
}

/// A kind under admission.
pub trait Kind: Send + Sync + 'static {
    /// The stored type.
    type Object: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Send + Sync;

    /// Changes a new or changed object, which is not terminating.
    fn mutate(&self, object: &mut Self::Object);

    /// Judges a change. Nothing of a dry run is to be remembered.
    fn validate(&self, change: Change<Self::Object>, dry_run: bool) -> impl Future<Output = Result<(), Denied>> + Send;

    /// What a client is to know of a change that is admitted.
    fn warning(&self, _: &Change<Self::Object>) -> Option<&'static str> {
        None
    }
}

/// What the handlers need.
#[derive(Clone)]
pub struct Context {
    /// The API.
    pub client: Client,
    /// What is counted.
    pub metrics: metrics::Metrics,
    /// The pools that exist.
    pub peers: Arc<Peers>,
    /// The enabled families.
    pub enabled: Enabled,
    /// Whether pools and subnets in use cannot be deleted (`enableValidatingResourcesDeletedWebhook`).
    pub guard_deletion: bool,
    /// Whether SpiderCoordinators are admitted (`SPIDERPOOL_COORDINATOR_ENABLED`).
    pub coordinator: bool,
    /// Whether SpiderSubnets are admitted (`enableSpiderSubnet`).
    pub subnet: bool,
    /// Whether SpiderMultusConfigs are admitted (`SPIDERPOOL_MULTUS_CONFIG_ENABLED`).
    pub multus: bool,
}

/// The kinds that are admitted with these settings, as they stand in paths and in webhook names.
pub fn kinds(context: &Context) -> Vec<Webhook> {
    let webhook = |kind, plural, delete| Webhook { kind, plural, delete };
    let mut kinds = vec![
        webhook("spidersubnet", "spidersubnets", context.guard_deletion),
        webhook("spiderippool", "spiderippools", context.guard_deletion),
        webhook("spiderreservedip", "spiderreservedips", false),
    ];
    if context.coordinator {
        kinds.push(webhook("spidercoordinator", "spidercoordinators", false));
    }
    if context.multus {
        kinds.push(webhook("spidermultusconfig", "spidermultusconfigs", false));
    }
    kinds
}

/// One kind's webhooks.
#[derive(Clone, Copy, Debug)]
pub struct Webhook {
    /// Lower-case kind.
    pub kind: &'static str,
    /// Resource name.
    pub plural: &'static str,
    /// Whether deletions are validated.
    pub delete: bool,
}

impl Webhook {
    /// Path of the mutating webhook.
    pub fn mutate_path(&self) -> String {
        format!("/mutate-spiderpool-spidernet-io-v2beta1-{}", self.kind)
    }

    /// Path of the validating webhook.
    pub fn validate_path(&self) -> String {
        format!("/validate-spiderpool-spidernet-io-v2beta1-{}", self.kind)
    }
}

/// All webhooks, and the health path.
pub fn router(context: &Context) -> Router {
    let mut router = Router::new().route("/webhook-health-check", get(|| async { "" }));
    for webhook in kinds(context) {
        let (context, metrics) = (context.clone(), context.metrics.clone());
        router = router.merge(match webhook.kind {
            "spiderippool" => routes(webhook, metrics, pool::Pools(context)),
            "spidersubnet" => routes(webhook, metrics, subnet::Subnets(context)),
            "spiderreservedip" => routes(webhook, metrics, reserved::ReservedIPs(context)),
            "spidercoordinator" => routes(webhook, metrics, coordinator::Coordinators),
            _ => routes(webhook, metrics, multus::MultusConfigs(context)),
        });
    }
    router.layer(DefaultBodyLimit::max(MAX_REVIEW))
}

/// A kind and what its reviews are counted as.
struct Handler<K> {
    kind: K,
    webhook: Webhook,
    metrics: metrics::Metrics,
}

impl<K> Handler<K> {
    fn count(&self, verb: &'static str, begun: Instant, answered: Review) -> Json<Review> {
        self.metrics.answered(self.webhook.kind, verb, answered.verdict(), begun.elapsed());
        Json(answered)
    }
}

/// The longest request that is read. A review of an update has the object twice, each with what its status tells; etcd itself stores no
/// object above 1.5 MiB.
const MAX_REVIEW: usize = 8 << 20;

fn routes<K: Kind>(webhook: Webhook, metrics: metrics::Metrics, kind: K) -> Router {
    Router::new()
        .route(&webhook.mutate_path(), post(mutate::<K>))
        .route(&webhook.validate_path(), post(validate::<K>))
        .with_state(Arc::new(Handler { kind, webhook, metrics }))
}

async fn mutate<K: Kind>(State(handler): State<Arc<Handler<K>>>, Json(review): Json<Review>) -> Json<Review> {
    let (begun, kind) = (Instant::now(), &handler.kind);
    let answered = review
        .answer(|request| async move {
            let Some(object) = &request.object else { return Answer::allowed() };
            match request.parse::<K::Object>(object) {
                Ok(mut object) if object.meta().deletion_timestamp.is_none() => {
                    let before = serde_json::to_value(&object);
                    kind.mutate(&mut object);
                    match (before, serde_json::to_value(&object)) {
                        (Ok(before), Ok(after)) => Answer::patched(&json_patch::diff(&before, &after)),
                        (Err(error), _) | (_, Err(error)) => Answer::failed(&error.to_string()),
                    }
                }
                // Mutation comes before the check against the schema, which names the field that is wrong.
                Ok(_) | Err(_) => Answer::allowed(),
            }
        })
        .await;
    handler.count("mutate", begun, answered)
}

async fn validate<K: Kind>(State(handler): State<Arc<Handler<K>>>, Json(review): Json<Review>) -> Json<Review> {
    let (begun, kind) = (Instant::now(), &handler.kind);
    let answered = review.answer(|request| async move {
        let change = match change::<K>(&request) {
            Ok(change) => change,
            Err(malformed) => return malformed,
        };
        let warning = kind.warning(&change);
        match kind.validate(change, request.dry_run).await {
            Ok(()) => Answer::allowed().with_warning(warning),
            Err(Denied::Refused(refusal)) => {
                tracing::info!(operation = ?request.operation, object = %request.title(), ?refusal, "change refused");
                Answer::refused(&request, &refusal)
            }
            Err(unreadable) => {
                tracing::warn!(object = %request.title(), error = %Chain(&unreadable), "change not judged");
                Answer::failed(&Chain(&unreadable).to_string())
            }
        }
    })
    .await;
    handler.count("validate", begun, answered)
}

fn change<K: Kind>(request: &Request) -> Result<Change<K::Object>, Answer> {
    let part = |object: &Option<serde_json::Value>, name| match object {
        Some(object) => request.parse(object),
        None => Err(Answer::malformed(&format!("a review of {:?} without {name}", request.operation))),
    };
    Ok(match request.operation {
        Operation::Create => Change::Create(part(&request.object, "object")?),
        Operation::Update => {
            Change::Update { old: part(&request.old_object, "oldObject")?, new: part(&request.object, "object")? }
        }
        Operation::Delete => Change::Delete(part(&request.old_object, "oldObject")?),
        Operation::Connect => return Err(Answer::malformed("CONNECT is not admitted here")),
    })
}
