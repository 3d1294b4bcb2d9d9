//! (a) Fills a pool to its last address from ten agents at once, next to bare creates of the same objects.
//! (f) Then empties it by 1000 DELs at once, next to bare deletes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::stream::StreamExt;

use crate::Args;
use crate::api::addresses;
use crate::report;
use crate::socket::{Pod, address, arguments, call};
use crate::stats::{Samples, ratio, shown};
use crate::world::{Agent, World};

const AGENTS: usize = 10;
/// Pods in all.
const PODS: usize = 1000;
const IN_FLIGHT_PER_AGENT: usize = 10;
const ROUNDS: usize = 3;

/// Runs the measurement.
pub async fn run(args: &Args) -> Result<()> {
    let world = World::start(args).await?;
    let per_agent = args.size(PODS) / AGENTS;
    let all = per_agent * AGENTS;
    let exact = addresses(Ipv4Addr::new(10, 16, 0, 1), all as u32);
    let range = format!("{}-{}", exact[0], exact[all - 1]);
    world.api.create_pool("bench", "10.16.0.0/16", &range).await?;
    let mut agents = Vec::new();
    for n in 0..AGENTS {
        agents.push(world.start_agent(&format!("node-{n}")).await?);
    }
    let bare = addresses(Ipv4Addr::new(10, 99, 0, 1), all as u32);
    let [mut creates, mut adds, mut endpoints, mut deletes, mut dels] = [const { Samples(Vec::new()) }; 5];
    let [mut server_cpu, mut bare_cpu] = [const { Samples(Vec::new()) }; 2];
    let mut failures = 0;
    for round in 0..ROUNDS {
        let cpu = world.server_cpu()?;
        creates.0.push(world.api.create_addresses("other", &bare, AGENTS * IN_FLIGHT_PER_AGENT).await?);
        bare_cpu.0.extend(world.server_cpu()?.zip(cpu).map(|(now, before)| now - before));
        deletes.0.push(world.api.delete_addresses(&bare, all).await?);

        let mut pods = Vec::new();
        for n in 0..AGENTS {
            let names = (0..per_agent).map(|m| format!("web-{round}-{n}-{m}"));
            pods.push(world.api.create_pods(&format!("node-{n}"), names).await?);
        }
        let cpu = world.server_cpu()?;
        let started = Instant::now();
        let filled = fill(&agents, &pods).await;
        adds.0.push(started.elapsed());
        failures += filled.iter().filter(|answer| answer.is_err()).count();
        let given: BTreeSet<String> = filled.iter().filter_map(|answer| answer.as_ref().ok().cloned()).collect();
        if let Some(Err(error)) = filled.iter().find(|answer| answer.is_err()) {
            println!("first failure: {error:#}");
        }
        world.api.counts("SpiderEndpoint", given.len()).await?;
        endpoints.0.push(started.elapsed());
        server_cpu.0.extend(world.server_cpu()?.zip(cpu).map(|(now, before)| now - before));
        let failed = filled.iter().filter(|answer| answer.is_err()).count();
        if given.len() + failed < all {
            bail!("{} different addresses for {all} pods: an address was given twice", given.len());
        }

        let everybody: Vec<Pod> = pods.iter().flatten().cloned().collect();
        world.api.delete_pods(&everybody).await?;
        dels.0.push(empty(&agents, &pods).await?);
        // An address whose DEL came before the agent saw its pod's end is freed when it sees it: lost is what stays.
        world.api.counts("SpiderIP", 0).await.context("addresses leaked")?;
        // The next round is not to pay for what this one leaves.
        world.api.counts("SpiderEndpoint", 0).await.context("endpoints leaked")?;
    }
    print(args, &creates, &adds, &endpoints, (failures, all * ROUNDS));
    cpu(args, &server_cpu, &bare_cpu);
    let times = ratio(dels.median(), deletes.median());
    let seen = format!(
        "{} for {all} DELs at once, {times:.2}x bare deletes ({}); none failed, none lost",
        shown(dels.median()),
        shown(deletes.median())
    );
    report::figure("DELs at once", &seen, "<= 2x, none lost", times <= 2.0, "50-65 s, a third fail and leak");
    report::raw("DELs, ms", &dels.raw());
    report::raw("bare deletes, ms", &deletes.raw());
    Ok(())
}

async fn fill(agents: &[Agent], pods: &[Vec<Pod>]) -> Vec<Result<String>> {
    let calls = agents.iter().zip(pods).map(|(agent, pods)| {
        futures::stream::iter(pods)
            .map(|pod| async { address(&call(&agent.socket, "POST", "/v1/ipam/ip", &arguments(pod)).await?) })
            .buffer_unordered(IN_FLIGHT_PER_AGENT)
            .collect::<Vec<_>>()
    });
    futures::future::join_all(calls).await.into_iter().flatten().collect()
}

async fn empty(agents: &[Agent], pods: &[Vec<Pod>]) -> Result<Duration> {
    let started = Instant::now();
    let calls = agents.iter().zip(pods).flat_map(|(agent, pods)| {
        pods.iter().map(|pod| async { call(&agent.socket, "DELETE", "/v1/ipam/ip", &arguments(pod)).await })
    });
    for answer in futures::future::join_all(calls).await {
        answer?;
    }
    Ok(started.elapsed())
}

/// Upstream's fastest fill and its least processor time of the servers, both on kube-apiserver and etcd (quoted).
const UPSTREAM: (Duration, Duration) = (Duration::from_secs(67), Duration::from_secs(50));

fn cpu(args: &Args, fill: &Samples, bare: &Samples) {
    let median = fill.median();
    if fill.0.is_empty() {
        println!("  processor time of the servers: not measured, they run elsewhere");
        return;
    }
    let seen = format!(
        "{} for the fill, {:.2}x bare creates ({})",
        shown(median),
        ratio(median, bare.median()),
        shown(bare.median())
    );
    if args.real {
        report::figure("server CPU", &seen, "<= 1/10 of upstream", median * 10 <= UPSTREAM.1, "50-60 s");
    } else {
        println!("  processor time of the API server: {seen}");
    }
    report::raw("server CPU of the fill, ms", &fill.raw());
    report::raw("server CPU of bare creates, ms", &bare.raw());
}

fn print(args: &Args, creates: &Samples, adds: &Samples, endpoints: &Samples, (failures, all): (usize, usize)) {
    let times = ratio(adds.median(), creates.median());
    let seen = format!(
        "{} to the last address, {times:.2}x bare creates ({}), {failures} of {all} ADDs failed; endpoints written after {}",
        shown(adds.median()),
        shown(creates.median()),
        shown(endpoints.median()),
    );
    let upstream = "67-98 s, 440-510 ADDs fail and are retried (real kube-apiserver)";
    report::figure("exact fit", &seen, "<= 3x, no ADD fails", times <= 3.0 && failures == 0, upstream);
    if args.real {
        let faster = ratio(UPSTREAM.0, adds.median());
        let seen = format!("{faster:.0} times as fast as upstream's fastest run");
        report::figure("exact fit, against upstream", &seen, ">= 25 times", faster >= 25.0, "67 s");
    }
    report::raw("ADDs, ms", &adds.raw());
    report::raw("bare creates, ms", &creates.raw());
}
