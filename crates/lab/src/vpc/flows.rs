//! Flows that a balancer brought into the VPC with the client's own source address.
//!
//! The replies of such a flow carry an address of the outside as destination. Without memory they would leave by the NAT
//! gateway; the table sends them back to the balancer that owns the connection.

use super::fabric::PortId;
use super::frame::FlowKey;
use std::collections::HashMap;
use std::time::Duration;

/// A flow is forgotten after this time without a packet, as cloud balancers do for TCP.
pub const IDLE: Duration = Duration::from_secs(900);

/// One balanced flow.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// The balancer's port.
    pub port: PortId,
    /// When a packet of it was last seen, either way.
    pub last: Duration,
    /// Packets towards the node.
    pub requests: u64,
    /// Packets back to the balancer.
    pub replies: u64,
}

/// The flows by what their replies look like.
#[derive(Debug)]
pub struct Flows {
    by_reply: HashMap<FlowKey, Flow>,
    capacity: usize,
}

impl Flows {
    /// A table that holds at most that many flows.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { by_reply: HashMap::new(), capacity }
    }

    /// Notes a packet that a balancer sent into the VPC.
    pub fn request(&mut self, now: Duration, packet: FlowKey, port: PortId) {
        let reply = packet.reversed();
        if self.by_reply.len() >= self.capacity && !self.by_reply.contains_key(&reply) {
            self.make_room(now);
        }
        let flow = self.by_reply.entry(reply).or_insert(Flow { port, last: now, requests: 0, replies: 0 });
        (flow.port, flow.last) = (port, now);
        flow.requests += 1;
    }

    /// The balancer that a packet towards the outside belongs to.
    pub fn reply(&mut self, now: Duration, packet: &FlowKey) -> Option<PortId> {
        let flow = self.by_reply.get_mut(packet).filter(|flow| now.saturating_sub(flow.last) < IDLE)?;
        flow.last = now;
        flow.replies += 1;
        Some(flow.port)
    }

    /// All flows that are not idle, by what their replies look like.
    pub fn live(&self, now: Duration) -> impl Iterator<Item = (&FlowKey, &Flow)> {
        self.by_reply.iter().filter(move |(_, flow)| now.saturating_sub(flow.last) < IDLE)
    }

    fn make_room(&mut self, now: Duration) {
        self.by_reply.retain(|_, flow| now.saturating_sub(flow.last) < IDLE);
        if self.by_reply.len() >= self.capacity
            && let Some(oldest) = self.by_reply.iter().min_by_key(|(_, flow)| flow.last).map(|(key, _)| *key)
        {
            self.by_reply.remove(&oldest);
        }
    }
}
