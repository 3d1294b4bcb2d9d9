//! (b) Latency of one ADD, idle, next to one bare create, as the pool fills.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::Args;
use crate::api::addresses;
use crate::report;
use crate::socket::{address, arguments, call};
use crate::stats::{Samples, ratio, shown};
use crate::world::World;

/// Addresses in use and the figure of upstream at this size.
const SIZES: [(u32, &str); 3] = [(256, "3.6x a bare create"), (2_000, "13x"), (65_536, "refused (25x at 4,900)")];
const SAMPLES: usize = 200;
/// What an agent may take to be ready, and for its first ADD.
const START: Duration = Duration::from_millis(100);
/// Addresses in use lie in runs, as nodes leave them.
const RUN: u32 = 256;

/// How far apart these are.
const STEP: u32 = 1023;

/// Runs the measurement.
pub async fn run(args: &Args) -> Result<()> {
    let mut world = World::start(args).await?;
    world.start_controller()?;
    world.api.create_pool("bench", "10.16.0.0/14", "10.16.0.1-10.19.255.254").await?;
    let samples = args.size(SAMPLES);
    // What the agents give lies among what is filled in later.
    let (mut used, mut filled, mut given) = (0, 0, HashSet::new());
    for (at, (full, upstream)) in SIZES.into_iter().enumerate() {
        let size = u32::try_from(args.size(full as usize))?;
        let more: Vec<Ipv4Addr> = (used..size).map(spread).filter(|address| !given.contains(address)).collect();
        world.api.create_addresses("bench", &more, 100).await?;
        used = size;
        filled += more.len();
        world.api.pool_counts("bench", filled + given.len()).await?;
        let node = format!("node-{at}");
        let agent = world.start_agent(&node).await?;
        let pods = world.api.create_pods(&node, (0..samples).map(|n| format!("web-{at}-{n}"))).await?;
        let bare = addresses(Ipv4Addr::new(10, 99, at as u8, 1), samples as u32);
        let (mut adds, mut creates) = (Samples::default(), Samples::default());
        for (pod, other) in pods.iter().zip(&bare) {
            creates.0.push(world.api.create_addresses("other", std::slice::from_ref(other), 1).await?);
            let started = Instant::now();
            let answer = call(&agent.socket, "POST", "/v1/ipam/ip", &arguments(pod)).await?;
            adds.0.push(started.elapsed());
            given.insert(bare_address(&address(&answer)?)?);
        }
        let times = ratio(adds.median(), creates.median());
        let seen = format!("{}; {times:.2}x a bare create ({})", adds.summary(), shown(creates.median()));
        report::figure(&format!("one ADD, {size} in use"), &seen, "<= 1.5x", times <= 1.5, upstream);
        for (name, took, upstream) in
            [("agent ready after start", agent.ready_after, "0.18 s"), ("the agent's first ADD", adds.0[0], "0.72 s")]
        {
            report::figure(&format!("{name}, {size} in use"), &shown(took), "<= 0.1 s", took <= START, upstream);
        }
        report::raw("ADDs, ms", &adds.raw());
        report::raw("bare creates, ms", &creates.raw());
    }
    Ok(())
}

/// Without the prefix length.
fn bare_address(text: &str) -> Result<Ipv4Addr> {
    let bare = text.split('/').next().unwrap_or_default();
    bare.parse().with_context(|| format!("{text} is no IPv4 address"))
}

/// The place of the address that comes into use at this time.
fn spread(at: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a10_0001 + at / RUN * STEP + at % RUN)
}
