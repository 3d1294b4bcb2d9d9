//! The VPC: a switch in user space that enforces what a public cloud's network enforces.
//!
//! Its ports are TAP devices in the namespaces of machines. It forwards a frame only if source MAC and source address are
//! registered for the sending NIC, delivers by destination address (never by MAC), routes between its subnets, answers ARP
//! and neighbour discovery itself with one router MAC, knows neither broadcast nor multicast, and counts what it drops by
//! reason. It knows nothing of clusters.
//!
//! Not enforced: TTL (the hop through the router is not counted), security groups. A later fragment of a balanced flow's
//! reply is not recognised and leaves by the NAT gateway.

pub mod addresses;
pub mod api;
pub mod config;
pub mod counters;
pub mod fabric;
pub mod flows;
pub mod frame;
pub mod mac;
pub mod reference;
pub mod reply;
pub mod switch;
pub mod tap;
#[cfg(test)]
mod tests;

use crate::control;
use crate::netns::Netns;
use anyhow::{Context, Result};
use config::Config;
use fabric::Fabric;
use std::path::PathBuf;
use switch::Switch;
use tap::Tap;

/// `spiderpool-lab vpc`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cloud's description (JSON)
    #[arg(long)]
    pub config: PathBuf,
}

/// Makes the ports, prints one line when ready and forwards frames until SIGTERM or SIGINT.
pub fn run(args: Args) -> Result<()> {
    let config = Config::read(&args.config)?;
    let (switch, handle) = Switch::new(Fabric::new(&config)?, ports(&config)?)?;
    let count =
        config.instances.iter().map(|instance| instance.nics.len()).sum::<usize>() + config.infrastructure.len();
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("switch".into()).spawn(move || drop(ended.send(switch.run())))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = control::Server::bind(&config.control)?;
        println!("vpc ready: {count} ports, control socket {}", config.control.display());
        tokio::select! {
            served = server.serve(api::router(handle)) => served,
            ended = end => ended.context("the switch's thread panicked")?.map(|never| match never {}),
        }
    })
}

/// Makes a TAP device for every NIC and infrastructure port, in the fabric's order.
fn ports(config: &Config) -> Result<Vec<Tap>> {
    let nics = config
        .instances
        .iter()
        .flat_map(|instance| instance.nics.iter().map(|nic| (&instance.netns, &nic.interface, nic.mac)));
    let infrastructure = config.infrastructure.iter().map(|port| (&port.netns, &port.interface, port.mac));
    nics.chain(infrastructure)
        .map(|(netns, interface, mac)| Tap::create(&Netns::named(netns), interface, mac))
        .collect()
}
