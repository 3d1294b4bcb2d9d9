//! What the switch did with frames, by port and, for those it dropped, by reason.

use super::frame::{Body, Neighbour, Parsed};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Why a frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The source MAC (in the Ethernet header, in ARP or in a neighbour message) is not the sending NIC's.
    UnknownSourceMac,
    /// The source address (in the IP header, in ARP or in a neighbour message) is not registered for the sending NIC.
    UnknownSourceAddress,
    /// The destination lies in the VPC, but no NIC owns it.
    NoSuchDestination,
    /// The destination lies outside and the VPC has no gateway for that family.
    NoGateway,
    /// Sent to all stations.
    Broadcast,
    /// Sent to a group of stations.
    Multicast,
    /// Cut short or contradicting itself.
    Malformed,
    /// Longer than the MTU allows.
    TooLong,
    /// The owner of the destination is the port the frame came from.
    Hairpin,
    /// Neither ARP nor IP (a VLAN tag, for instance).
    UnsupportedProtocol,
    /// The interface behind the destination's port is down or gone.
    PortDown,
}

/// What kind of frame was dropped. Groups are noise that every host makes (router solicitations, listener reports); a lost
/// question or unicast frame is traffic that somebody misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// To one station.
    Unicast,
    /// An ARP request or a neighbour solicitation.
    Question,
    /// To a group or to all, and no question.
    Group,
}

impl Class {
    /// The class of a frame; `parsed` is `None` if it is malformed.
    pub fn of(frame: &[u8], parsed: Option<&Parsed>) -> Self {
        match parsed.map(|parsed| parsed.body) {
            Some(Body::Arp { request: true, .. } | Body::Neighbour { kind: Neighbour::Solicitation, .. }) => {
                Self::Question
            }
            _ if frame.first().is_some_and(|first| first & 1 == 1) => Self::Group,
            _ => Self::Unicast,
        }
    }
}

/// Dropped frames of one reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    pub unicast: u64,
    pub question: u64,
    pub group: u64,
}

impl Dropped {
    fn slot(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Unicast => &mut self.unicast,
            Class::Question => &mut self.question,
            Class::Group => &mut self.group,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.unicast + self.question + self.group
    }
}

/// What one port sent and received, seen from the machine behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortCounters {
    /// Frames that entered the switch here.
    pub sent: u64,
    /// Frames that the switch delivered here.
    pub received: u64,
    /// Questions that the router answered.
    pub answered: u64,
    /// Questions for an address of the port itself (duplicate address detection, announcements): left alone.
    pub unanswered: u64,
    /// Frames that entered here and were dropped.
    pub drops: BTreeMap<Reason, Dropped>,
}

/// One dropped frame, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Seconds since the switch started.
    pub at: f64,
    pub port: String,
    pub class: Class,
    /// Addresses and protocol, like tcpdump would print them.
    pub frame: String,
}

/// How many samples are kept per reason.
const SAMPLES: usize = 16;

/// All counters; the JSON of `GET /counters`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Frames delivered to a port.
    pub delivered: u64,
    /// Questions answered by the router.
    pub answered: u64,
    /// Drops by reason over all ports; reasons that never occurred are absent.
    pub drops: BTreeMap<Reason, Dropped>,
    /// Unicast frames dropped, whatever the reason.
    pub unicast_drops: u64,
    /// ARP requests and neighbour solicitations dropped, whatever the reason.
    pub question_drops: u64,
    /// By port, named `node/interface` or by the infrastructure's name.
    pub ports: BTreeMap<String, PortCounters>,
    /// The last dropped frames of each reason, oldest first.
    pub samples: BTreeMap<Reason, Vec<Sample>>,
}

impl Report {
    /// Frames dropped for that reason, of every class.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.drops.get(&reason).map_or(0, Dropped::total)
    }
}

/// The last dropped frames of each reason.
#[derive(Debug, Default)]
pub struct Samples {
    by_reason: BTreeMap<Reason, VecDeque<Sample>>,
}

impl Samples {
    /// Keeps a sample, forgetting the oldest of its reason.
    pub fn keep(&mut self, reason: Reason, sample: Sample) {
        let kept = self.by_reason.entry(reason).or_default();
        if kept.len() == SAMPLES {
            kept.pop_front();
        }
        kept.push_back(sample);
    }
}

/// Counts a dropped frame.
pub fn count(drops: &mut BTreeMap<Reason, Dropped>, reason: Reason, class: Class) {
    *drops.entry(reason).or_default().slot(class) += 1;
}

/// Adds the ports up.
pub fn report(ports: impl Iterator<Item = (String, PortCounters)>, samples: &Samples) -> Report {
    let mut report = Report::default();
    for (name, port) in ports {
        report.delivered += port.received;
        report.answered += port.answered;
        for (reason, dropped) in &port.drops {
            let total = report.drops.entry(*reason).or_default();
            total.unicast += dropped.unicast;
            total.question += dropped.question;
            total.group += dropped.group;
            report.unicast_drops += dropped.unicast;
            report.question_drops += dropped.question;
        }
        report.ports.insert(name, port);
    }
    report.samples = samples.by_reason.iter().map(|(reason, kept)| (*reason, kept.iter().cloned().collect())).collect();
    report
}

/// A line about a frame: addresses, protocol, ports.
pub fn describe(frame: &[u8], parsed: Option<&Parsed>) -> String {
    let Some(Parsed { destination, source, body }) = parsed else {
        let head: Vec<_> = frame.iter().take(34).map(|byte| format!("{byte:02x}")).collect();
        return format!("{} bytes: {}", frame.len(), head.join(" "));
    };
    let what = match body {
        Body::Arp { request: true, sender, target, sender_mac } => {
            format!("ARP who has {target}, tell {sender} ({sender_mac})")
        }
        Body::Arp { sender, sender_mac, .. } => format!("ARP {sender} is at {sender_mac}"),
        Body::Neighbour { kind, source, target, .. } => format!("ND {kind:?} {source}: {target}").to_lowercase(),
        Body::Packet { source, destination, flow: Some(flow), .. } => {
            format!("{source} > {destination} protocol {} {} > {}", flow.protocol, flow.source.1, flow.destination.1)
        }
        Body::Packet { source, destination, .. } => format!("{source} > {destination} {} bytes", frame.len()),
        Body::Other(ethertype) => format!("EtherType {ethertype:#06x}"),
    };
    format!("{source} > {destination}: {what}")
}
