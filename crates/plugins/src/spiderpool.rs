//! The `spiderpool` plugin: address management for a main plugin, by asking the node's agent
//! (upstream's plugin of the same name: same configuration, same environment, same result).
//!
//! It holds no state and touches no interface. Addresses are announced by whoever brings the NIC up: when this plugin is called the link
//! is still down, and an announcement for the pod's other NICs would tell the network lies.
//!
//! DEL never waits for an agent that is away: what could not be released is left as a durable note
//! ([`wire::spool`]), which the agent works off.

mod config;
mod log;
mod reply;

use std::time::{Duration, SystemTime};

use net::Netns;
use wire::agent::{self, AddArgs, Client, ReleaseArgs};
use wire::cni::{Call, CniError, CniResult, PodArgs, code};
use wire::spool::{Note, Spool};

use crate::Plugin;
use config::Config;
use log::{Level, Log};

/// How long DEL waits for the agent before it leaves a note instead.
const RELEASE_LIMIT: Duration = Duration::from_secs(30);
/// How long CHECK and STATUS wait for the agent.
const ASK_LIMIT: Duration = Duration::from_secs(30);
/// What the errors of ADD begin with; runbooks look for it.
const ADD_FAILED: &str = "spiderpool IP allocation error";

/// The `spiderpool` plugin.
pub struct Spiderpool;

impl Plugin for Spiderpool {
    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let config = Config::of(call)?;
        let log = Log::open(&config, call);
        let result = add(call, &config);
        match &result {
            Ok(result) => log.write(Level::Info, "ADD", &format!("addresses {}", addresses(result))),
            Err(error) => log.write(Level::Error, "ADD", &error.to_string()),
        }
        result
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        // A configuration that ADD refused must not keep the pod from ending.
        let config = Config::lenient(call)?;
        let log = Log::open(&config, call);
        let result = del(call, &config, &log);
        if let Err(error) = &result {
            log.write(Level::Error, "DEL", &error.to_string());
        }
        result
    }

    /// The addresses of the previous result must be those that the agent has on record for this NIC.
    fn check(&self, call: &Call) -> Result<(), CniError> {
        let config = Config::of(call)?;
        let Some(previous) = call.conf.prev_result()? else { return Ok(()) };
        let PodArgs { namespace, name, .. } = call.env.args.pod()?;
        let client = Client::new(&config.socket).within(ASK_LIMIT.min(config.patience));
        let failed = |error: agent::Error| {
            let code = if error.is_down() { code::TRY_AGAIN_LATER } else { code::CHECK_FAILED };
            CniError::caused(code, &format!("spiderpool: no record of pod {namespace}/{name}"), &error)
        };
        let endpoint = client.workload_endpoint(&namespace, &name).map_err(failed)?;
        reply::check(&previous, &endpoint, &call.env.ifname)
    }

    /// The agent itself watches over the claims of its node and knows the pods; the list of a GC call names the attachments of
    /// one network only, so nothing may be concluded from it.
    fn gc(&self, _call: &Call) -> Result<(), CniError> {
        Ok(())
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        let config = Config::of(call)?;
        let client = Client::new(&config.socket).within(ASK_LIMIT.min(config.patience));
        client
            .healthy()
            .map_err(|error| CniError::caused(code::NOT_AVAILABLE, "unhealthy spiderpool-agent backend", &error))
    }
}

fn add(call: &Call, config: &Config) -> Result<CniResult, CniError> {
    let netns = call.env.netns.clone().unwrap_or_default();
    Netns::open(&netns).map_err(|error| CniError::caused(code::UNKNOWN_CONTAINER, "CNI_NETNS", &error))?;
    let PodArgs { namespace, name, uid, .. } = call.env.args.pod()?;
    let args = AddArgs {
        container_id: call.env.container_id.clone(),
        if_name: call.env.ifname.clone(),
        net_namespace: netns.to_string_lossy().into_owned(),
        pod_namespace: namespace,
        pod_name: name,
        pod_uid: uid,
        default_ipv4_ippool: config.ipv4_pools.clone(),
        default_ipv6_ippool: config.ipv6_pools.clone(),
        clean_gateway: config.clean_gateway,
        match_master_subnet: config.match_master_subnet,
    };
    let answer = Client::new(&config.socket).within(config.patience).add(&args).map_err(|error| not_added(&error))?;
    reply::result(&answer, &call.env.ifname)
}

fn not_added(error: &agent::Error) -> CniError {
    if error.is_down() {
        return CniError::caused(
            code::TRY_AGAIN_LATER,
            &format!("{ADD_FAILED}: unhealthy spiderpool-agent backend"),
            error,
        );
    }
    CniError::caused(code::AGENT, ADD_FAILED, error)
}

fn del(call: &Call, config: &Config, log: &Log) -> Result<(), CniError> {
    let PodArgs { namespace, name, uid, .. } = call.env.args.pod()?;
    let netns = call.env.netns.as_ref().map(|path| path.to_string_lossy().into_owned());
    let args = ReleaseArgs {
        container_id: call.env.container_id.clone(),
        if_name: call.env.ifname.clone(),
        net_namespace: netns.unwrap_or_default(),
        pod_namespace: namespace,
        pod_name: name,
        pod_uid: uid,
    };
    let Err(error) = Client::new(&config.socket).within(RELEASE_LIMIT.min(config.patience)).release(&args) else {
        log.write(Level::Info, "DEL", "released");
        return Ok(());
    };
    let written = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let left = Spool::of_socket(&config.socket).leave(&Note { release: args, written });
    match left {
        Ok(path) => {
            log.write(Level::Warn, "DEL", &format!("{error}; a release note is left in {}", path.display()));
            Ok(())
        }
        Err(spool) => {
            let msg =
                format!("spiderpool: the address is not released ({error}) and no release note could be left: {spool}");
            Err(CniError::new(code::TRY_AGAIN_LATER, msg))
        }
    }
}

fn addresses(result: &CniResult) -> String {
    let addresses: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
    addresses.join(", ")
}
