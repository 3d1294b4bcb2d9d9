//! The node's own object: registered at start, kept fresh, with a lease that proves life.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::Shared;
use super::record::Record;
use crate::events::now;

/// How often the node says that it lives.
const PERIOD: Duration = Duration::from_secs(5);

/// The namespace of node leases.
pub const LEASES: &str = "kube-node-lease";

/// Registers the node and keeps it fresh, for ever.
pub(super) async fn keep_alive(shared: Arc<Shared>) {
    let mut collected = false;
    loop {
        let network = network_state(&shared, &mut collected).await;
        let pause = match beat(&shared, network).await {
            Ok(()) => PERIOD,
            Err(error) => {
                tracing::warn!(%error, "cannot write the node's status");
                Duration::from_millis(500)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether CNI is usable; the first time also tells the plugins what is still in use.
async fn network_state(shared: &Shared, collected: &mut bool) -> Result<(), String> {
    let list = shared.runtime.network().map_err(|error| error.to_string())?;
    shared.runtime.status(&list).await.map_err(|error| error.to_string())?;
    if !*collected {
        let records = Record::all(&shared.args.root_dir).map_err(|error| error.to_string())?;
        let valid: Vec<_> = records.into_iter().map(|record| (record.sandbox, "eth0".to_owned())).collect();
        shared.runtime.gc(&list, &valid).await.map_err(|error| error.to_string())?;
        *collected = true;
    }
    Ok(())
}

async fn beat(shared: &Shared, network: Result<(), String>) -> kube::Result<()> {
    let name = &shared.args.node_name;
    let nodes: Api<Node> = Api::all(shared.client.clone());
    if nodes.get_opt(name).await?.is_none() {
        let labels = [
            ("kubernetes.io/hostname", name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "amd64"),
            ("beta.kubernetes.io/os", "linux"),
        ];
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..Default::default()
        };
        match nodes.create(&PostParams::default(), &Node { metadata, ..Default::default() }).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            other => drop(other?),
        }
    }
    let old = nodes.get(name).await?.status.unwrap_or_default();
    let patch = json!({"status": status(shared, &old, network)});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    renew_lease(shared).await
}

fn status(shared: &Shared, old: &NodeStatus, network: Result<(), String>) -> NodeStatus {
    let time = Time(now());
    let condition = |kind: &str, status: &str, reason: &str, message: String| {
        let same =
            old.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == status);
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(time.clone()),
            last_transition_time: same
                .and_then(|condition| condition.last_transition_time.clone())
                .or_else(|| Some(time.clone())),
        }
    };
    let ready = match network {
        Ok(()) => condition("Ready", "True", "KubeletReady", "kubelet is posting ready status".into()),
        Err(message) => {
            let message = format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{message}"
            );
            condition("Ready", "False", "KubeletNotReady", message)
        }
    };
    let addresses = shared.args.node_ip.iter().map(|ip| ("InternalIP", ip.to_string()));
    let addresses = addresses.chain([("Hostname", shared.args.node_name.clone())]);
    let capacity = [("cpu", "2"), ("memory", "4Gi"), ("pods", "110")]
        .map(|(key, value)| (key.to_owned(), Quantity(value.to_owned())));
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    NodeStatus {
        addresses: Some(addresses.map(|(type_, address)| NodeAddress { type_: type_.to_owned(), address }).collect()),
        capacity: Some(capacity.clone().into()),
        allocatable: Some(capacity.into()),
        conditions: Some(vec![ready]),
        node_info: Some(NodeSystemInfo {
            architecture: "amd64".into(),
            operating_system: "linux".into(),
            os_image: "lab".into(),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: concat!("lab://", env!("CARGO_PKG_VERSION")).into(),
            kubelet_version: "v1.33.0+lab".into(),
            kube_proxy_version: "v1.33.0+lab".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn renew_lease(shared: &Shared) -> kube::Result<()> {
    let name = &shared.args.node_name;
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), LEASES);
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(40),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..Default::default()
    };
    let patch = json!({"spec": spec});
    match leases.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {
            let metadata =
                ObjectMeta { name: Some(name.clone()), namespace: Some(LEASES.into()), ..Default::default() };
            leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await.map(drop)
        }
        other => other.map(drop),
    }
}
