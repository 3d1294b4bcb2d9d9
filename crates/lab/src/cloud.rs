//! `spiderpool-lab cloud-controller`: gives Services of type LoadBalancer a balancer of the lab's cloud.
//!
//! Like the real one of Alibaba Cloud it takes only nodes whose `spec.providerID` is `<region>.<instance-id>`, chooses L7 by the annotation
//! `service.beta.kubernetes.io/alibaba-cloud-loadbalancer-protocol-port`, and refuses IPv6; what it refuses it says by the event
//! `SyncLoadBalancerFailed` on the Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;

use crate::balancer::model::{Listener, Mode, Protocol, Service as Wanted, View};
use crate::control;
use crate::events::{Kind, Recorder};

/// The annotation that chooses L7 for a port: `http:80`, several separated by commas.
pub const PROTOCOL_PORT: &str = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-protocol-port";
/// The event that says what is wrong.
pub const FAILED: &str = "SyncLoadBalancerFailed";

/// How the controller runs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Credentials for the API server
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The balancer's control socket
    #[arg(long)]
    balancer: PathBuf,
    /// The region that providerIDs must name
    #[arg(long, default_value = crate::vpc::reference::REGION)]
    region: String,
}

/// Runs until it is stopped.
pub fn run(args: Args) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let client = crate::client::from_kubeconfig(&args.kubeconfig).await?;
    let changed = Arc::new(Notify::new());
    let (one, other) = (changed.clone(), changed.clone());
    let (services, watch_services) =
        crate::client::cached::<Service>(Api::all(client.clone()), watcher::Config::default(), move || {
            one.notify_one()
        });
    let (nodes, watch_nodes) =
        crate::client::cached::<Node>(Api::all(client.clone()), watcher::Config::default(), move || other.notify_one());
    let mut cloud = Cloud {
        recorder: Recorder::new(client.clone(), "cloud-controller-manager", None),
        balancer: control::Client::new(&args.balancer),
        client,
        region: args.region,
        done: BTreeMap::new(),
        said: BTreeMap::new(),
    };
    let work = async {
        tokio::try_join!(services.wait_until_ready(), nodes.wait_until_ready())
            .context("a watch ended before its first list")?;
        loop {
            let good = cloud.sync(&services.state(), &nodes.state()).await;
            let pause = if good { Duration::from_secs(3600) } else { Duration::from_secs(1) };
            let _ = tokio::time::timeout(pause, changed.notified()).await;
        }
    };
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = work => ended,
        () = watch_services => bail!("the watch of services ended"),
        () = watch_nodes => bail!("the watch of nodes ended"),
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

struct Cloud {
    client: Client,
    recorder: Recorder,
    balancer: control::Client,
    region: String,
    /// What the balancer was last asked for, by `namespace/name`.
    done: BTreeMap<String, Wanted>,
    /// The complaints that were made last, by Service.
    said: BTreeMap<String, BTreeSet<String>>,
}

/// A node that cannot be a backend, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LeftOut {
    node: String,
    why: String,
}

impl Cloud {
    /// Brings the balancer in line; whether all went well.
    async fn sync(&mut self, services: &[Arc<Service>], nodes: &[Arc<Node>]) -> bool {
        let (backends, left_out) = backends(nodes, &self.region);
        let mut good = true;
        let mut wanted_names = BTreeSet::new();
        for service in services.iter().filter(|service| is_balanced(service)) {
            let name = format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any());
            wanted_names.insert(name.clone());
            let mut complaints: BTreeSet<String> = left_out
                .iter()
                .map(|left| format!("Error syncing load balancer: node {} is left out: {}", left.node, left.why))
                .collect();
            match wanted(service, &backends) {
                Ok(wanted) => {
                    if let Err(error) = self.ensure(service, &name, wanted).await {
                        complaints.insert(format!("Error syncing load balancer: {error:#}"));
                        good = false;
                    }
                }
                Err(why) => {
                    complaints.insert(format!("Error syncing load balancer: failed to ensure load balancer: {why}"));
                }
            }
            self.complain(service, &name, complaints);
        }
        let gone: Vec<String> = self.done.keys().filter(|name| !wanted_names.contains(*name)).cloned().collect();
        for name in gone {
            good &= self.remove(&name).await;
        }
        good
    }

    async fn ensure(&mut self, service: &Service, name: &str, wanted: Wanted) -> Result<()> {
        let (balancer, path, body) = (self.balancer.clone(), format!("/services/{name}"), wanted.clone());
        let view: View = tokio::task::spawn_blocking(move || balancer.put(&path, &body)).await??;
        let address = view.address.to_string();
        let ingress = service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref()?.ingress.clone())
            .unwrap_or_default();
        if ingress.iter().filter_map(|ingress| ingress.ip.as_deref()).ne([address.as_str()]) {
            let api: Api<Service> = Api::namespaced(self.client.clone(), &service.namespace().unwrap_or_default());
            let patch = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
            api.patch_status(&service.name_any(), &PatchParams::default(), &Patch::Merge(patch))
                .await
                .context("cannot write the status")?;
            self.recorder.note(
                service,
                Kind::Normal,
                "EnsuredLoadBalancer",
                format!("Ensured load balancer {address}"),
            );
        }
        self.done.insert(name.to_owned(), wanted);
        Ok(())
    }

    async fn remove(&mut self, name: &str) -> bool {
        let (balancer, path) = (self.balancer.clone(), format!("/services/{name}"));
        let removed = tokio::task::spawn_blocking(move || balancer.delete::<View>(&path)).await;
        let error = match removed {
            Ok(Ok(_)) => None,
            // Somebody else was quicker.
            Ok(Err(error)) if error.to_string().contains("status 404") => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(error) => Some(error.to_string()),
        };
        match error {
            None => {
                self.done.remove(name);
                self.said.remove(name);
                true
            }
            Some(error) => {
                tracing::warn!(service = name, error, "cannot remove the balancer of a Service");
                false
            }
        }
    }

    /// Says what is new.
    fn complain(&mut self, service: &Service, name: &str, complaints: BTreeSet<String>) {
        let before = self.said.insert(name.to_owned(), complaints.clone()).unwrap_or_default();
        for complaint in complaints.difference(&before) {
            self.recorder.note(service, Kind::Warning, FAILED, complaint.clone());
        }
    }
}

fn is_balanced(service: &Service) -> bool {
    service.metadata.deletion_timestamp.is_none()
        && service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
}

/// The addresses of nodes that the cloud knows, and the nodes that it does not.
fn backends(nodes: &[Arc<Node>], region: &str) -> (Vec<IpAddr>, Vec<LeftOut>) {
    let (mut good, mut left_out) = (Vec::new(), Vec::new());
    for node in nodes {
        let id = node.spec.as_ref().and_then(|spec| spec.provider_id.clone()).unwrap_or_default();
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let mut internal = addresses
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse::<IpAddr>().ok());
        let why = match id.split_once('.') {
            Some((of, instance)) if of == region && !instance.is_empty() => match internal.find(IpAddr::is_ipv4) {
                Some(address) => {
                    good.push(address);
                    continue;
                }
                None => "it has no IPv4 address".to_owned(),
            },
            _ if id.is_empty() => format!("spec.providerID is empty, expected {region}.<instance-id>"),
            _ => format!("spec.providerID {id:?} is not {region}.<instance-id>"),
        };
        left_out.push(LeftOut { node: node.name_any(), why });
    }
    good.sort();
    (good, left_out)
}

/// What to ask the balancer for.
fn wanted(service: &Service, backends: &[IpAddr]) -> Result<Wanted, String> {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.ip_families.iter().flatten().any(|family| family == "IPv6") {
        return Err("spec.ipFamilies: IPv6: backends with IPv6 addresses are not supported".into());
    }
    let mut listeners = Vec::new();
    for port in spec.ports.iter().flatten() {
        let node_port =
            port.node_port.filter(|number| *number > 0).ok_or_else(|| format!("port {} has no nodePort", port.port))?;
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            other => return Err(format!("port {}: protocol {other} is not supported", port.port)),
        };
        listeners.push(Listener { port: port.port as u16, protocol, node_port: node_port as u16 });
    }
    let health_check_port = spec.health_check_node_port.filter(|number| *number > 0).map(|number| number as u16);
    let mode = mode(service.annotations().get(PROTOCOL_PORT).map(String::as_str), &listeners)?;
    Ok(Wanted { mode, listeners, backends: backends.to_vec(), health_check_port })
}

/// L7 if the annotation names every port as `http`; the lab's balancer has one mode per address.
fn mode(annotation: Option<&str>, listeners: &[Listener]) -> Result<Mode, String> {
    let Some(annotation) = annotation else { return Ok(Mode::L4) };
    let bad = || format!("annotation {PROTOCOL_PORT}: {annotation:?}: expected PROTOCOL:PORT, separated by commas");
    let mut http = BTreeSet::new();
    for entry in annotation.split(',') {
        let (protocol, port) = entry.trim().split_once(':').ok_or_else(bad)?;
        let port: u16 = port.parse().map_err(|_| bad())?;
        match protocol {
            "http" => drop(http.insert(port)),
            "tcp" | "udp" => {}
            other => return Err(format!("annotation {PROTOCOL_PORT}: protocol {other:?} is not supported")),
        }
    }
    let count = listeners.iter().filter(|listener| http.contains(&listener.port)).count();
    match count {
        0 => Ok(Mode::L4),
        all if all == listeners.len() => Ok(Mode::L7),
        _ => Err(format!("annotation {PROTOCOL_PORT}: {annotation:?}: http for some ports only is not supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn node(name: &str, provider: Value) -> Arc<Node> {
        let object = json!({
            "metadata": {"name": name}, "spec": {"providerID": provider},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.31.199.183"}, {"type": "InternalIP", "address": "fd00::1"}]}
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn only_nodes_with_a_provider_id_are_backends() {
        let nodes = [node("a", json!("cn-hangzhou.i-1")), node("b", json!(null)), node("c", json!("aws:///i-2"))];
        let (good, left_out) = backends(&nodes, "cn-hangzhou");
        assert_eq!(good, ["172.31.199.183".parse::<IpAddr>().unwrap()]);
        let said: Vec<String> = left_out.iter().map(|left| format!("{}: {}", left.node, left.why)).collect();
        assert_eq!(
            said,
            [
                "b: spec.providerID is empty, expected cn-hangzhou.<instance-id>",
                "c: spec.providerID \"aws:///i-2\" is not cn-hangzhou.<instance-id>"
            ]
        );
    }

    fn service(annotations: Value, families: Value) -> Service {
        let object = json!({
            "metadata": {"name": "s", "annotations": annotations},
            "spec": {"type": "LoadBalancer", "ipFamilies": families, "healthCheckNodePort": 31000, "ports": [{"port": 80, "nodePort": 30080}]}
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_annotation_chooses_the_layer() {
        let rows = [
            (json!(null), Mode::L4),
            (json!({PROTOCOL_PORT: "http:80"}), Mode::L7),
            (json!({PROTOCOL_PORT: "tcp:80"}), Mode::L4),
        ];
        for (annotations, mode) in rows {
            let wanted = wanted(&service(annotations.clone(), json!(["IPv4"])), &[]).unwrap();
            assert_eq!((wanted.mode, wanted.health_check_port), (mode, Some(31000)), "{annotations}");
        }
        let error = wanted(&service(json!({PROTOCOL_PORT: "80"}), json!(["IPv4"])), &[]).unwrap_err();
        assert!(error.contains("expected PROTOCOL:PORT"), "{error}");
    }

    #[test]
    fn ipv6_is_refused() {
        let error = wanted(&service(json!(null), json!(["IPv6"])), &[]).unwrap_err();
        assert!(error.starts_with("spec.ipFamilies: IPv6"), "{error}");
    }
}
