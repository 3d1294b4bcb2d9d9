//! The cloud's load balancer: a public address per Service, listeners on it, nodes behind it.
//!
//! * **L4** keeps the client's address: the kernel of the balancer's namespace rewrites only the destination to `node:nodePort`;
//!   the VPC remembers the flow and brings the replies back.
//! * **L7** is an HTTP proxy: the node sees the balancer's inside address, the request carries `X-Forwarded-For`.
//!
//! Nodes that fail their health check get no new connections. With `externalTrafficPolicy: Local` the check asks the Service's
//! health check node port, otherwise it connects to the node port. IPv6 nodes are refused, as the real product does.
//!
//! The process runs inside the balancer's namespace; the control plane (cloud-controller) talks to its socket:
//!
//! | request | answer |
//! |---|---|
//! | `PUT /services/{namespace}/{name}` with a [`Service`](model::Service) | [`View`](model::View) with the public address; repeating it changes nothing |
//! | `GET /services` | list of views, with the healthy nodes |
//! | `DELETE /services/{namespace}/{name}` | the last view |

pub mod api;
pub mod health;
pub mod l7;
pub mod model;
pub mod plane;
pub mod rules;

use crate::control;
use anyhow::Result;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The public addresses that the reference run gives out.
pub const PUBLIC: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(203, 0, 113, 20), Ipv4Addr::new(203, 0, 113, 60));

/// `spiderpool-lab balancer`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The control socket
    #[arg(long)]
    pub control: PathBuf,
    /// The interface that carries the public addresses
    #[arg(long, default_value = "wan0")]
    pub interface: String,
    /// The first public address to give out
    #[arg(long, default_value_t = PUBLIC.0)]
    pub first: Ipv4Addr,
    /// The last one
    #[arg(long, default_value_t = PUBLIC.1)]
    pub last: Ipv4Addr,
    /// Milliseconds between two health checks of a node; by default as the real product
    #[arg(long, default_value_t = 2000)]
    pub interval_ms: u64,
}

/// Balances until SIGTERM or SIGINT.
pub fn run(args: Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let interval = Duration::from_millis(args.interval_ms.max(10));
        let plane = Arc::new(plane::Plane::new(args.interface, args.first..=args.last, interval));
        plane.refresh_rules().await?;
        let server = control::Server::bind(&args.control)?;
        println!("balancer ready: control socket {}", args.control.display());
        server.serve(api::router(plane)).await
    })
}
