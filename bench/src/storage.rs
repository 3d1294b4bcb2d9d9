//! (g) What an address takes in etcd: its database in use before and after many bare creates. etcd also keeps former versions of
//! objects until it is compacted; these objects have none.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use crate::Args;
use crate::api::addresses;
use crate::report;
use crate::world::World;

const ADDRESSES: usize = 10_000;

/// Runs the measurement.
pub async fn run(args: &Args) -> Result<()> {
    let world = World::start(args).await?;
    let Some(before) = world.etcd_in_use().await? else {
        println!("not measured: there is no etcd on this machine");
        return Ok(());
    };
    let many = addresses(Ipv4Addr::new(10, 20, 0, 1), u32::try_from(args.size(ADDRESSES))?);
    world.api.create_addresses("other", &many, 100).await?;
    let after = world.etcd_in_use().await?.context("etcd went away")?;
    let each = after.saturating_sub(before) / u64::try_from(many.len())?;
    let seen = format!("{each} bytes for each of {} SpiderIPs ({before} -> {after} in use)", many.len());
    report::figure("etcd", &seen, "about 1.3 kB (0.2 GB for 150,000)", each <= 1400, "all of a pool in one object");
    Ok(())
}
