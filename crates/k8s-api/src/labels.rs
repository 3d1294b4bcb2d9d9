//! Label and annotation keys, and the values that fit into them (upstream's contract: annotations, §7 of upstream's contract).

/// On a SpiderIPPool: its subnet, encoded by [`cidr`].
pub const IPPOOL_CIDR: &str = "ipam.spidernet.io/ippool-cidr";
/// On a SpiderSubnet: its subnet, encoded by [`cidr`].
pub const SUBNET_CIDR: &str = "ipam.spidernet.io/subnet-cidr";
/// On a SpiderIPPool: the SpiderSubnet that owns it.
pub const OWNER_SUBNET: &str = "ipam.spidernet.io/owner-spider-subnet";
/// On a SpiderIPPool: present if the pool was made for an application.
pub const OWNER_APPLICATION_NAME: &str = "ipam.spidernet.io/owner-application-name";
/// On a SpiderIPPool: the node whose agent alone needs the pool; absent if several or any may.
pub const POOL_NODE: &str = "ipam.spidernet.io/pool-node";
/// On a SpiderIP: the pool of the address, shortened by [`value`].
pub const IP_POOL: &str = "ipam.spidernet.io/ippool";
/// On a SpiderIP: the node that holds the address, shortened by [`value`].
pub const IP_NODE: &str = "ipam.spidernet.io/node";

/// On the pods of our agents: they keep allocations in SpiderIPs. Agents of upstream lack it.
pub const AGENT_SOURCE: &str = "ipam.spidernet.io/source";
/// On the pods of agents, upstream's and ours: the name of the component.
pub const COMPONENT: &str = "app.kubernetes.io/component";

/// On a SpiderMultusConfig: the name of the NetworkAttachmentDefinition.
pub const MULTUS_CR_NAME: &str = "multus.spidernet.io/cr-name";
/// On a SpiderMultusConfig: the `cniVersion` of the generated configuration.
pub const MULTUS_CNI_VERSION: &str = "multus.spidernet.io/cni-version";
/// On a SpiderMultusConfig: the `name` of the generated configuration.
pub const CNI_CONFIG_NAME: &str = "cni.spidernet.io/cniconfig-name";
/// Group of RDMA networks to inject; annotation, and label copied from it.
pub const RDMA_RESOURCE_INJECT: &str = "cni.spidernet.io/rdma-resource-inject";
/// Group of networks to inject; annotation, and label copied from it.
pub const NETWORK_RESOURCE_INJECT: &str = "cni.spidernet.io/network-resource-inject";
/// On a NetworkAttachmentDefinition: the device plugin resource its pods need.
pub const NAD_RESOURCE_NAME: &str = "k8s.v1.cni.cncf.io/resourceName";

/// The longest label value Kubernetes accepts.
const LONGEST: usize = 63;

/// `name` as a label value: itself, or its head plus `-` plus a hash of the whole where it is longer than 63
/// characters. The result is stable across versions: selectors stored elsewhere depend on it.
pub fn value(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let hash = format!("{:016x}", fnv1a(name.as_bytes()));
    let mut end = LONGEST - 1 - hash.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &name[..end])
}

pub use ipam::cidr_label as cidr;

/// FNV-1a, 64 bit: stable, tiny, and only needed to tell long names apart.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_its_own_label_value() {
        assert_eq!(value("rack1-v4"), "rack1-v4");
        assert_eq!(value(&"n".repeat(63)), "n".repeat(63));
    }

    #[test]
    fn long_names_that_share_their_head_stay_apart() {
        let (a, b) = (format!("{}a", "n".repeat(80)), format!("{}b", "n".repeat(80)));
        assert_ne!(value(&a), value(&b));
        assert_eq!(value(&a).len(), 63);
        assert_eq!(value(&a), format!("{}-f8d19061002fd1cc", "n".repeat(46)));
    }
}
