//! Several controllers on one API server: election, fencing, certificates; and what happens when things are missing.

#![allow(clippy::unwrap_used)] // tests

#[path = "../world/mod.rs"]
mod world;

mod absence;
mod certificates;
mod collection;
mod election;
mod fencing;
mod health;
mod trouble;
mod views;

use std::net::IpAddr;

use k8s_api::{Holder, IpState, SpiderIP, ip::PodHolder};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

/// Name of the SpiderIP of an address.
pub fn name(address: &str) -> String {
    ipam::address_name(address.parse().unwrap())
}

/// A claim of a pod.
pub fn claim(address: &str, pool: &str) -> SpiderIP {
    let address: IpAddr = address.parse().unwrap();
    let holder = Holder::Pod(PodHolder {
        namespace: "default".into(),
        name: format!("pod-{}", ipam::address_name(address)),
        uid: format!("uid-{address}"),
        container_id: None,
        interface: "eth0".into(),
        node: "node-a".into(),
    });
    SpiderIP::claim(&ipam::address_name(address), address, pool, IpState::Allocated, holder, Time(Timestamp::now()))
}
