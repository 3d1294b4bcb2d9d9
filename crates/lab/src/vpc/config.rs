//! The cloud as its account holder would describe it: subnets, instances with their NICs, gateways. One JSON file, read
//! by the switch and by the metadata service.

use super::addresses::Addresses;
use super::mac::Mac;
use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// The whole cloud.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Where the switch serves its control API.
    pub control: PathBuf,
    /// The MAC that the router answers with, whatever is asked for.
    pub router_mac: Mac,
    pub vpc: Vpc,
    pub vswitches: Vec<VSwitch>,
    pub instances: Vec<Instance>,
    #[serde(default)]
    pub infrastructure: Vec<Infrastructure>,
}

/// The virtual private cloud that the subnets are cut from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vpc {
    pub id: String,
    pub ipv4: Ipv4Net,
    #[serde(default)]
    pub ipv6: Vec<Ipv6Net>,
}

/// A subnet ("vSwitch"), with one prefix per family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VSwitch {
    pub id: String,
    pub ipv4: Ipv4Net,
    pub ipv4_gateway: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Net>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<Ipv6Addr>,
}

impl VSwitch {
    /// Its prefixes.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        std::iter::once(IpNet::V4(self.ipv4)).chain(self.ipv6.map(IpNet::V6))
    }

    /// Its gateways.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(IpAddr::V4(self.ipv4_gateway)).chain(self.ipv6_gateway.map(IpAddr::V6))
    }
}

/// A machine: a network namespace that the switch puts NICs into.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// The node's name.
    pub node: String,
    /// The namespace's name below `/run/netns`.
    pub netns: String,
    /// Like `i-bp1...`.
    pub id: String,
    pub region: String,
    pub zone: String,
    pub instance_type: String,
    /// The first one is the primary NIC.
    pub nics: Vec<Nic>,
}

impl Instance {
    /// The node's provider id, `<region>.<instance-id>`.
    pub fn provider_id(&self) -> String {
        format!("{}.{}", self.region, self.id)
    }
}

/// An elastic network interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nic {
    /// Like `eni-...`.
    pub id: String,
    /// Its name on the machine.
    pub interface: String,
    pub mac: Mac,
    /// The id of its subnet.
    pub vswitch: String,
    /// The machine's own addresses, one per family at most, the IPv4 one first.
    pub primary: Vec<IpAddr>,
    /// Addresses assigned to the NIC beside them.
    #[serde(default)]
    pub secondary: Vec<Addresses>,
}

impl Nic {
    /// Everything registered for it.
    pub fn addresses(&self) -> impl Iterator<Item = Addresses> {
        self.primary.iter().map(|address| Addresses::One(*address)).chain(self.secondary.iter().cloned())
    }
}

/// What an infrastructure port does for the VPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// IPv4 for the outside goes there.
    NatGateway,
    /// IPv6 for the outside goes there.
    Ipv6Gateway,
    /// What it sends with foreign addresses are balanced flows, and their replies go back to it.
    Balancer,
    /// Owns addresses, nothing else (metadata, for instance).
    Service,
}

/// A port of the cloud's own: exempt from the source check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Infrastructure {
    pub name: String,
    pub netns: String,
    pub interface: String,
    pub mac: Mac,
    pub role: Role,
    /// What it owns inside the VPC; need not lie in a subnet.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

impl Config {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no description of a cloud", path.display()))
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The subnet of that id.
    pub fn vswitch(&self, id: &str) -> Option<&VSwitch> {
        self.vswitches.iter().find(|vswitch| vswitch.id == id)
    }

    /// The machine of that node.
    pub fn instance(&self, node: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.node == node)
    }

    /// The infrastructure port of that name.
    pub fn infrastructure(&self, name: &str) -> Option<&Infrastructure> {
        self.infrastructure.iter().find(|port| port.name == name)
    }
}
