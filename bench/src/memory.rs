//! (e) Memory of an agent in a big cluster: 10,000 pods in the API, 100 of them on its node.

use anyhow::Result;

use crate::Args;
use crate::report;
use crate::socket::{address, arguments, call};
use crate::world::World;

const PODS: usize = 10_000;
const ON_NODE: usize = 100;

/// Runs the measurement.
pub async fn run(args: &Args) -> Result<()> {
    let world = World::start(args).await?;
    world.api.create_pool("bench", "10.16.0.0/16", "10.16.0.1-10.16.3.232").await?;
    let on_node = args.size(ON_NODE);
    for node in 1..args.size(PODS) / on_node {
        let names = (0..on_node).map(|n| format!("other-{node}-{n}"));
        world.api.create_pods(&format!("node-{node}"), names).await?;
    }
    let pods = world.api.create_pods("node-0", (0..on_node).map(|n| format!("web-{n}"))).await?;
    let agent = world.start_agent("node-0").await?;
    for pod in &pods {
        address(&call(&agent.socket, "POST", "/v1/ipam/ip", &arguments(pod)).await?)?;
    }
    let (now, peak) = (agent.process.status_kib("VmRSS")?, agent.process.status_kib("VmHWM")?);
    let seen =
        format!("{:.1} MiB resident after {on_node} ADDs, peak {:.1} MiB", now as f64 / 1024.0, peak as f64 / 1024.0);
    report::figure("agent memory", &seen, "<= 30 MiB", peak <= 30 * 1024, "180 MiB");
    Ok(())
}
