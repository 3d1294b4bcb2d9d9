//! The `coordinator` plugin: chained behind the plugin that makes a pod's NIC, it connects the pod to its node, to
//! services and to the networks of other plugins, and lets replies leave by the NIC that the request came in.
//!
//! Configuration and the agent's answer become [`config::Settings`]; node and pod are read into [`view::View`]s;
//! [`plan::add`] and [`remove::remove`] decide; [`apply::Kernel`] carries out. It never changes the CNI result.
//!
//! A pair of interfaces connects both: `veth0` in the pod, `veth` and the beginning of the container's ID on the node.
//! Tables, rules and marks are those of `docs/` and of upstream: in the pod table 100 (default by veth0) for packets
//! with mark 0x1, tables 101 and up for further NICs; on the node table 500 with the routes to its pods.

pub mod apply;
pub mod config;
mod node;
pub mod op;
pub mod plan;
pub mod remove;
#[cfg(test)]
mod testing;
pub mod view;

use std::net::IpAddr;
use std::time::Duration;

use net::{Mac, Netns};
use wire::agent::{Client, CoordinatorArgs};
use wire::cni::{Call, CniError, CniResult, PodArgs, code};

use crate::Plugin;
use apply::Kernel;
use config::{Mode, RawConf, Settings};
use view::{View, is_usable};

/// The pod's end of the pair.
pub const POD_VETH: &str = "veth0";
/// How long the agent may take.
const AGENT_LIMIT: Duration = Duration::from_secs(30);

/// The `coordinator` plugin.
pub struct Coordinator;

impl Plugin for Coordinator {
    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let raw: RawConf = call.plugin_conf()?;
        let previous = call.conf.required_prev_result()?;
        let Some(settings) = settings(call, &raw)? else { return Ok(previous) };
        let netns = pod_namespace(call)?;
        let mut kernel = Kernel::open(Some(&netns)).map_err(|error| data_path(call, &error))?;
        let steps = missing_steps(call, settings, &mut kernel)?;
        kernel.apply(&steps).map_err(|error| data_path(call, &error))?;
        Ok(previous)
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        let raw: RawConf = call.plugin_conf()?;
        // A configuration that ADD refused left nothing behind, and must not keep the runtime from cleaning up.
        if matches!(raw.mode(), Ok(Some(Mode::Disabled))) {
            return Ok(());
        }
        let netns = call.env.netns.as_ref().and_then(|path| Netns::open(path).ok());
        let netns = netns.filter(|netns| !is_nodes_own(netns));
        let request = remove::Request {
            nic: call.env.ifname.clone(),
            container_id: call.env.container_id.clone(),
            first: call.env.ifname == raw.first_nic(),
            reported: reported_addresses(call),
        };
        let mut kernel = Kernel::open(netns.as_ref()).map_err(|error| data_path(call, &error))?;
        let removal = plan_removal(&request, &mut kernel).map_err(|error| data_path(call, &error))?;
        let mut failures = kernel.attempt(&removal.ops);
        failures.extend(net::forget(&removal.forget).err().map(|error| error.to_string()));
        if failures.is_empty() {
            return Ok(());
        }
        let msg =
            format!("coordinator: pod interface {} was not removed completely: {}", request.nic, failures.join("; "));
        Err(CniError::new(code::DATA_PATH, msg))
    }

    /// Everything that ADD would do must be there.
    fn check(&self, call: &Call) -> Result<(), CniError> {
        let raw: RawConf = call.plugin_conf()?;
        let Some(settings) = settings(call, &raw)? else { return Ok(()) };
        let netns = pod_namespace(call)?;
        let mut kernel = Kernel::open(Some(&netns)).map_err(|error| data_path(call, &error))?;
        let missing = missing_steps(call, settings, &mut kernel)?;
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = missing.iter().map(|step| step.op.to_string()).collect();
        let msg = format!(
            "coordinator: pod interface {} is not as ADD left it, missing: {}",
            call.env.ifname,
            missing.join("; ")
        );
        Err(CniError::new(code::CHECK_FAILED, msg))
    }

    /// Nothing outlives the pair of a pod, and the kernel removes the pair with the pod's namespace. The list of a GC
    /// call names the attachments of one network only, so that it cannot tell whose an unlisted pair is.
    fn gc(&self, _call: &Call) -> Result<(), CniError> {
        Ok(())
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        let raw: RawConf = call.plugin_conf()?;
        if raw.mode()? == Some(Mode::Disabled) {
            return Ok(());
        }
        let client = Client::new(raw.socket()).within(AGENT_LIMIT);
        client
            .healthy()
            .map_err(|error| CniError::caused(code::NOT_AVAILABLE, "coordinator: the agent cannot be asked", &error))
    }
}

/// What is to be done for the pod; `None` if nothing is.
fn settings(call: &Call, raw: &RawConf) -> Result<Option<Settings>, CniError> {
    if raw.mode()? == Some(Mode::Disabled) {
        return Ok(None);
    }
    let PodArgs { namespace, name, .. } = call.env.args.pod()?;
    let client = Client::new(raw.socket()).within(AGENT_LIMIT);
    let args = CoordinatorArgs { pod_name: name.clone(), pod_namespace: namespace.clone() };
    let answer = client.coordinator_config(&args).map_err(|error| {
        CniError::caused(
            code::TRY_AGAIN_LATER,
            &format!("coordinator: no configuration for pod {namespace}/{name}"),
            &error,
        )
    })?;
    let settings = raw.merge(&answer)?;
    Ok((settings.mode != Mode::Disabled).then_some(settings))
}

/// The pod's namespace, which must not be the node's: everything would be done to the node.
fn pod_namespace(call: &Call) -> Result<Netns, CniError> {
    let path = call.env.netns.clone().unwrap_or_default();
    let netns =
        Netns::open(&path).map_err(|error| CniError::new(code::UNKNOWN_CONTAINER, format!("CNI_NETNS: {error}")))?;
    if is_nodes_own(&netns) {
        let msg = format!("CNI_NETNS {}: is the node's own network namespace", path.display());
        return Err(CniError::new(code::INVALID_ENVIRONMENT, msg));
    }
    Ok(netns)
}

fn is_nodes_own(netns: &Netns) -> bool {
    Netns::current().is_ok_and(|current| current.is(netns).unwrap_or(false))
}

fn missing_steps(call: &Call, settings: Settings, kernel: &mut Kernel<'_>) -> Result<Vec<op::Step>, CniError> {
    let random = || {
        Mac::random().map_err(|error| CniError::new(code::IO_FAILURE, format!("coordinator: random bytes: {error}")))
    };
    let request = plan::Request {
        nic: call.env.ifname.clone(),
        container_id: call.env.container_id.clone(),
        settings,
        host_mac: random()?,
        pod_mac: random()?,
    };
    let read = read_views(&request, kernel).map_err(|error| data_path(call, &error))?;
    plan::add(&request, &read.0, &read.1)
        .map_err(|error| CniError::new(code::INVALID_CONFIG, format!("coordinator: {error}")))
}

fn read_views(request: &plan::Request, kernel: &mut Kernel<'_>) -> Result<(View, View), net::Error> {
    let (netns, netlink) = kernel.pod().expect("ADD and CHECK have a namespace");
    let pod = view::pod(netns, netlink, &request.nic)?;
    let addresses = pod.usable_addresses(&request.nic);
    let host =
        view::host(kernel.host(), &plan::host_veth(&request.container_id), request.settings.host_table, &addresses)?;
    Ok((pod, host))
}

fn plan_removal(request: &remove::Request, kernel: &mut Kernel<'_>) -> Result<remove::Removal, net::Error> {
    let pod = match kernel.pod() {
        Some((netns, netlink)) => Some(view::pod(netns, netlink, &request.nic)?),
        None => None,
    };
    let addresses = remove::addresses(request, pod.as_ref());
    let host = view::host_of_container(kernel.host(), &plan::host_veth(&request.container_id), &addresses)?;
    Ok(remove::remove(request, pod.as_ref(), &host))
}

/// The addresses of the result that the runtime kept; a result that cannot be read has none.
fn reported_addresses(call: &Call) -> Vec<IpAddr> {
    let result = call.conf.prev_result().ok().flatten().unwrap_or_default();
    result.ips.iter().map(|ip| ip.address.addr()).filter(|address| is_usable(*address)).collect()
}

fn data_path(call: &Call, error: &dyn std::error::Error) -> CniError {
    CniError::caused(code::DATA_PATH, &format!("coordinator: pod interface {}", call.env.ifname), error)
}
