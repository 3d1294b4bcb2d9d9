//! The `multinet` plugin: attaches a pod to its default network and to those of its annotations, as the Network Plumbing
//! Working Group's "Kubernetes Network Custom Resource Definition De-facto Standard", version 1.3, describes.
//!
//! It is configured like Multus and behaves towards delegates as a runtime does. What a pod asks for comes from the node's
//! agent, which has pods and NetworkAttachmentDefinitions in its caches; there is no kubeconfig on the node.
//!
//! # Expected flow
//! ADD writes down what it is about to attach (`cache`), runs the delegates in order, default network first, reports `network-status`
//! through the agent, and answers with the default network's result. DEL runs the same delegates backwards from what was
//! written down, so it needs neither agent nor API server. The agent takes the report and writes it when it can: ADD waits for no answer of
//! the API server, and fails only where the agent cannot be asked.
//!
//! # Guarantees
//! * An ADD that fails undoes every delegate that it began, last first.
//! * Calls for one container and interface exclude each other; a second ADD neither disturbs the first nor undoes it.
//! * DEL goes on after a delegate's failure, reports it, and can be repeated.

mod cache;
mod config;
mod delegate;
mod device;
mod exec;
mod files;
mod route;
mod status;

use std::time::{Duration, Instant};

use serde_json::Value;
use wire::agent::{self, Client, Network, NetworksArgs, StatusArgs};
use wire::cni::{Call, CniError, CniResult, Command, PodArgs, code};

use crate::Plugin;
use cache::{Cache, Entry};
use config::{Config, DefaultNetwork};
use delegate::{Delegate, NetworkList};
use exec::Invocation;

/// How long STATUS waits for the agent, and DEL for its help when nothing was written down.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long a call waits for another one of the same container and interface.
const LOCK_LIMIT: Duration = Duration::from_secs(60);
/// How long ADD waits for the readiness indicator file (Multus' value).
const READY_LIMIT: Duration = Duration::from_secs(45);

/// The `multinet` plugin.
pub struct Multinet;

impl Plugin for Multinet {
    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let config = Config::of(call)?;
        wait_until_ready(&config)?;
        let pod = call.env.args.pod()?;
        let cache = Cache::new(&config.cache_dir);
        let _lock = cache.lock(&call.env.container_id, &call.env.ifname, Duration::ZERO)?;
        clear_leftovers(call, &config, &cache)?;
        let (delegates, uid) = delegates_of(call, &config, &pod)?;
        let mut entry = Entry::new(call, delegates);
        cache.store(&entry)?;
        match attach(call, &config, &pod, &uid, &mut entry) {
            Ok(result) => {
                entry.complete = true;
                cache.store(&entry)?;
                Ok(result)
            }
            Err(error) => Err(undo(call, &config, &cache, &entry, error)),
        }
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        let config = Config::of(call)?;
        let cache = Cache::new(&config.cache_dir);
        let lock = cache.lock(&call.env.container_id, &call.env.ifname, LOCK_LIMIT)?;
        let entry = match cache.load(&call.env.container_id, &call.env.ifname)? {
            Some(entry) => entry,
            None => match forgotten(call, &config) {
                Some(entry) => entry,
                None => {
                    // One that was cut short tells nothing and would look like a sandbox for ever.
                    cache.forget(&call.env.container_id, &call.env.ifname)?;
                    lock.discard();
                    return Ok(());
                }
            },
        };
        detach(&Invocation::of(call, &config), &entry.delegates)?;
        cache.remove(&entry)?;
        lock.discard();
        Ok(())
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        let config = Config::of(call)?;
        let cache = Cache::new(&config.cache_dir);
        let Some(entry) = cache.load(&call.env.container_id, &call.env.ifname)? else {
            let msg = format!(
                "multinet: nothing is on record of container {} interface {}",
                call.env.container_id, call.env.ifname
            );
            return Err(CniError::new(code::UNKNOWN_CONTAINER, msg));
        };
        let invocation = Invocation::of(call, &config);
        entry.delegates.iter().try_for_each(|delegate| delegate.check(&invocation))
    }

    /// Ends the attachments of this network that the runtime no longer has, then passes the list of those that are left to every network.
    fn gc(&self, call: &Call) -> Result<(), CniError> {
        let config = Config::of(call)?;
        let Some(valid) = call.conf.valid_attachments() else { return Ok(()) };
        let cache = Cache::new(&config.cache_dir);
        let (kept, stale): (Vec<Entry>, Vec<Entry>) =
            cache.entries()?.into_iter().filter(|entry| entry.network == call.conf.name).partition(|entry| {
                valid.iter().any(|one| one.container_id == entry.container_id && one.ifname == entry.ifname)
            });
        let mut failures = Vec::new();
        for entry in stale {
            let ended = cache.lock(&entry.container_id, &entry.ifname, Duration::ZERO).and_then(|lock| {
                detach(&Invocation::of_entry(call, &config, &entry), &entry.delegates)?;
                cache.remove(&entry)?;
                lock.discard();
                Ok(())
            });
            failures.extend(ended.err());
        }
        failures.extend(delegate::collect_garbage(&Invocation::of(call, &config), &kept));
        merged(failures)
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        let config = Config::of(call)?;
        if let Some(file) = config.readiness_file.as_ref().filter(|file| !file.exists()) {
            let msg = format!("multinet: readinessindicatorfile {} does not exist", file.display());
            return Err(CniError::new(code::NOT_AVAILABLE, msg));
        }
        let client = Client::new(&config.socket).within(ASK_LIMIT);
        client
            .healthy()
            .map_err(|error| CniError::caused(code::NOT_AVAILABLE, "multinet: the agent cannot be asked", &error))?;
        match config.local_default()? {
            Some(list) => Delegate::of_file(list, &call.env.ifname, true).status(&Invocation::of(call, &config)),
            None => Ok(()),
        }
    }
}

/// The cluster's default network announces by a file that it can serve.
fn wait_until_ready(config: &Config) -> Result<(), CniError> {
    let Some(file) = &config.readiness_file else { return Ok(()) };
    let started = Instant::now();
    while !file.exists() {
        if started.elapsed() >= READY_LIMIT {
            let msg =
                format!("multinet: readinessindicatorfile {} did not appear within {READY_LIMIT:?}", file.display());
            return Err(CniError::new(code::TRY_AGAIN_LATER, msg));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// An earlier ADD of the same container and interface: if it succeeded this one is refused and nothing is touched; what a killed one
/// left is removed first.
fn clear_leftovers(call: &Call, config: &Config, cache: &Cache) -> Result<(), CniError> {
    let Some(entry) = cache.load(&call.env.container_id, &call.env.ifname)? else { return Ok(()) };
    if entry.complete {
        let msg = format!(
            "multinet: container {} is attached by interface {} already",
            call.env.container_id, call.env.ifname
        );
        return Err(CniError::new(code::INVALID_ENVIRONMENT, msg));
    }
    detach(&Invocation::of(call, config), &entry.delegates)?;
    cache.remove(&entry)
}

/// What the pod is to be attached to, default network first, and the pod's UID.
fn delegates_of(call: &Call, config: &Config, pod: &PodArgs) -> Result<(Vec<Delegate>, String), CniError> {
    let local = config.local_default()?;
    let client = Client::new(&config.socket);
    let networks = networks(&client, call, config, pod, local.is_some()).map_err(|error| {
        let code = if error.is_down() { code::TRY_AGAIN_LATER } else { code::AGENT };
        CniError::caused(
            code,
            &format!("multinet: the networks of pod {}/{} are unknown", pod.namespace, pod.name),
            &error,
        )
    })?;
    config.check_isolation(&pod.namespace, networks.default.iter().chain(&networks.networks))?;
    let mut devices = device::Devices::of_pod(&networks.pod_uid);
    let mut of_network = |network: &Network, ifname: &str, default: bool| {
        let list = network_list(call, config, network)?;
        let device = devices.next(&network.resource_name);
        Ok(Delegate::of_network(network, list, ifname, default, device))
    };
    let first = match (&networks.default, local) {
        (Some(network), _) => of_network(network, &call.env.ifname, true)?,
        (None, Some(list)) => Delegate::of_file(list, &call.env.ifname, true),
        (None, None) => {
            let msg = format!(
                "multinet: pod {}/{} has no default network: neither its annotation v1.multus-cni.io/default-network nor clusterNetwork names one",
                pod.namespace, pod.name
            );
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        }
    };
    let mut delegates = vec![first.with_runtime_config(&config.runtime_config)];
    for network in &networks.networks {
        delegates.push(of_network(network, &network.interface, false)?);
    }
    check_interfaces(&delegates)?;
    Ok((delegates, networks.pod_uid))
}

fn networks(
    client: &Client,
    call: &Call,
    config: &Config,
    pod: &PodArgs,
    local: bool,
) -> Result<agent::Networks, agent::Error> {
    let cluster_network = match &config.default_network {
        DefaultNetwork::Attachment(name) if !local => name.clone(),
        _ => String::new(),
    };
    let extra =
        if config.system_namespaces.contains(&pod.namespace) { Vec::new() } else { config.default_networks.clone() };
    client.networks(&NetworksArgs {
        container_id: call.env.container_id.clone(),
        pod_namespace: pod.namespace.clone(),
        pod_name: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        cluster_network,
        multus_namespace: config.multus_namespace.clone(),
        local_default: local,
        default_networks: extra,
    })
}

/// The configuration of a NetworkAttachmentDefinition; one without configuration stands for a file of that name.
fn network_list(call: &Call, config: &Config, network: &Network) -> Result<NetworkList, CniError> {
    let id = format!("{}/{}", network.namespace, network.name);
    if network.config.trim().is_empty() {
        return files::named(&config.conf_dir, &network.name)?.ok_or_else(|| {
            let msg = format!(
                "multinet: NetworkAttachmentDefinition {id} has no config, and no file in {} has a network of that name",
                config.conf_dir.display()
            );
            CniError::new(code::INVALID_CONFIG, msg)
        });
    }
    let what = format!("config of NetworkAttachmentDefinition {id}");
    NetworkList::parse(&what, network.config.as_bytes(), &network.name, call.version)
}

fn check_interfaces(delegates: &[Delegate]) -> Result<(), CniError> {
    for (index, delegate) in delegates.iter().enumerate() {
        if let Some(other) = delegates[..index].iter().find(|other| other.ifname == delegate.ifname) {
            let msg = format!(
                "multinet: networks {} and {} both ask for interface {}",
                other.id, delegate.id, delegate.ifname
            );
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        }
    }
    Ok(())
}

/// Runs the delegates; results go into the entry.
fn attach(call: &Call, config: &Config, pod: &PodArgs, uid: &str, entry: &mut Entry) -> Result<CniResult, CniError> {
    let invocation = Invocation::of(call, config);
    for delegate in &mut entry.delegates {
        delegate.add(&invocation)?;
    }
    route::choose_default(call, &mut entry.delegates)?;
    let args = StatusArgs {
        pod_namespace: pod.namespace.clone(),
        pod_name: pod.name.clone(),
        pod_uid: uid.to_owned(),
        network_status: status::text(&entry.delegates),
    };
    Client::new(&config.socket).network_status(&args).map_err(|error| {
        let what = format!("multinet: network-status of pod {}/{} is not reported", pod.namespace, pod.name);
        CniError::caused(code::TRY_AGAIN_LATER, &what, &error)
    })?;
    Ok(entry.delegates.first().and_then(|first| first.result.clone()).unwrap_or_default())
}

/// Undoes what a failed ADD began. The record stays if that does not work out, for the DEL that the runtime will call.
fn undo(call: &Call, config: &Config, cache: &Cache, entry: &Entry, error: CniError) -> CniError {
    let begun: Vec<Delegate> = entry.delegates.iter().filter(|delegate| delegate.begun).cloned().collect();
    let undone = detach(&Invocation::of(call, config), &begun).and_then(|()| cache.remove(entry));
    match undone {
        Ok(()) => error,
        Err(more) => {
            let details =
                format!("{}{}not undone: {more}", error.details, if error.details.is_empty() { "" } else { "; " });
            error.with_details(details)
        }
    }
}

/// DEL of all delegates, last first; goes on after failures.
fn detach(invocation: &Invocation<'_>, delegates: &[Delegate]) -> Result<(), CniError> {
    merged(delegates.iter().rev().filter_map(|delegate| delegate.del(invocation).err()).collect())
}

/// Several failures as one: the first with the others' messages.
fn merged(mut failures: Vec<CniError>) -> Result<(), CniError> {
    if failures.is_empty() {
        return Ok(());
    }
    let first = failures.remove(0);
    if failures.is_empty() {
        return Err(first);
    }
    let others: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let msg = format!("{}; {}", first.msg, others.join("; "));
    Err(CniError { msg, ..first })
}

/// DEL of an attachment of which nothing was written down: what the agent says now is the best guess. Without it there is nothing to do:
/// interfaces go with the namespace, and addresses are watched over by the agent.
fn forgotten(call: &Call, config: &Config) -> Option<Entry> {
    let pod = call.env.args.pod().ok()?;
    let limited = Client::new(&config.socket).within(ASK_LIMIT);
    let local = config.local_default().ok()?;
    let networks = networks(&limited, call, config, &pod, local.is_some()).ok()?;
    if !pod.uid.is_empty() && networks.pod_uid != pod.uid {
        return None; // another pod of the same name
    }
    let list = |network: &Network| network_list(call, config, network).ok();
    let first = match &networks.default {
        Some(network) => list(network).map(|list| Delegate::of_network(network, list, &call.env.ifname, true, None)),
        None => local.map(|list| Delegate::of_file(list, &call.env.ifname, true)),
    };
    let further = networks.networks.iter();
    let further = further
        .filter_map(|network| Some(Delegate::of_network(network, list(network)?, &network.interface, false, None)));
    Some(Entry::new(call, first.into_iter().chain(further).collect()))
}

/// The command that an error is about, for messages.
fn doing(command: Command, id: &str, ifname: &str) -> String {
    format!("multinet: {command} of network {id} (interface {ifname})")
}

/// An object, or an empty one.
fn object(value: Option<&Value>) -> serde_json::Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}
