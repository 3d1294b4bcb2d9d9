//! SpiderSubnets that upstream left: the feature is not in this version, so each stays as it is until somebody deletes it. Then the
//! finalizer goes that upstream's controller would take off, and that nobody else would.

use std::{sync::Arc, time::Duration};

use daemon::{Chain, Stop};
use futures::StreamExt as _;
use k8s_api::{FINALIZER, SpiderSubnet};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        Controller,
        controller::{self, Action},
        watcher,
    },
};
use serde_json::json;

use crate::trouble::Explained;

/// How soon a failure is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until `stop`.
pub async fn run(client: Client, stop: Stop) -> Result<(), std::convert::Infallible> {
    let subnets = Api::<SpiderSubnet>::all(client.clone());
    Controller::new(subnets, watcher::Config::default())
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, _, _| Action::requeue(RETRY), Arc::new(client))
        .for_each(async |outcome| match outcome {
            Ok(_) => {}
            Err(controller::Error::QueueError(error)) => {
                tracing::warn!(what = "SpiderSubnets", error = %Explained(&error), "watch interrupted");
            }
            Err(error) => tracing::debug!(error = %Chain(&error), "SpiderSubnet to be tried again"),
        })
        .await;
    Ok(())
}

async fn reconcile(subnet: Arc<SpiderSubnet>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let others: Vec<&String> = subnet.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    if subnet.metadata.deletion_timestamp.is_none() || others.len() == subnet.finalizers().len() {
        return Ok(Action::await_change());
    }
    let name = subnet.name_any();
    let seen = json!({"uid": subnet.uid(), "resourceVersion": subnet.resource_version(), "finalizers": others});
    let patch = Patch::Merge(json!({"metadata": seen}));
    match Api::<SpiderSubnet>::all((*client).clone()).patch_metadata(&name, &PatchParams::default(), &patch).await {
        Ok(_) => tracing::info!(subnet = name, "SpiderSubnet released"),
        // Gone, or changed: then the watch shows it again.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => {
            tracing::warn!(subnet = name, error = %Explained(&error), "cannot release SpiderSubnet");
            return Err(error);
        }
    }
    Ok(Action::await_change())
}
