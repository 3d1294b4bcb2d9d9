//! The cluster's CIDRs out of what a cluster says about itself: pure parsing, each function one source.

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_api::coordinator::PodCidrType;

/// Pod and service CIDRs of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs {
    /// CIDRs of pods.
    pub pods: Vec<String>,
    /// CIDRs of services.
    pub services: Vec<String>,
}

impl Cidrs {
    /// Whether one of the two is unknown.
    pub fn incomplete(&self) -> bool {
        self.pods.is_empty() || self.services.is_empty()
    }

    /// These, with what is unknown taken from `other`.
    pub fn or(self, other: Self) -> Self {
        let first = |own: Vec<String>, other| if own.is_empty() { other } else { own };
        Self { pods: first(self.pods, other.pods), services: first(self.services, other.services) }
    }
}

/// `podSubnet` and `serviceSubnet` of the ConfigMap `kube-system/kubeadm-config`.
///
/// Its values are YAML documents, of which two scalars are wanted: a line scan reads any of kubeadm's versions.
pub fn of_kubeadm(data: &BTreeMap<String, String>) -> Cidrs {
    let find = |key: &str| data.values().flat_map(|text| text.lines()).find_map(|line| scalar(line, key));
    Cidrs {
        pods: list(find("podSubnet").unwrap_or_default()),
        services: list(find("serviceSubnet").unwrap_or_default()),
    }
}

/// `key: value`, at any depth, quoted or not.
fn scalar<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let value = line.trim().strip_prefix(key)?.trim_start().strip_prefix(':')?.trim();
    Some(value.trim_matches(['"', '\'']))
}

/// `--cluster-cidr` and `--service-cluster-ip-range` of kube-controller-manager's command line.
pub fn of_controller_manager<'a>(command_line: impl Iterator<Item = &'a str>) -> Cidrs {
    let mut cidrs = Cidrs::default();
    for argument in command_line {
        if let Some(value) = argument.strip_prefix("--cluster-cidr=") {
            cidrs.pods = list(value);
        } else if let Some(value) = argument.strip_prefix("--service-cluster-ip-range=") {
            cidrs.services = list(value);
        }
    }
    cidrs
}

/// A comma-separated list of CIDRs; what is none is left out.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|cidr| cidr.parse::<IpNet>().is_ok()).map(str::to_owned).collect()
}

/// The type that `auto` stands for, by the name of the cluster's default CNI network.
pub fn type_of_network(name: &str) -> PodCidrType {
    match name {
        "calico" | "k8s-pod-network" => PodCidrType::Calico,
        "cilium" => PodCidrType::Cilium,
        "flannel" => PodCidrType::Cluster,
        _ => PodCidrType::None,
    }
}

/// Where a Cilium configuration says its pod CIDRs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cilium {
    /// In the configuration itself.
    Given(Vec<String>),
    /// In the CiliumPodIPPools.
    Pools,
    /// In Kubernetes' own.
    Kubernetes,
    /// Of a mode that is not known.
    Unknown(String),
}

/// What ConfigMap `cilium-config` says.
pub fn of_cilium(data: &BTreeMap<String, String>) -> Cilium {
    let get = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
    match get("ipam") {
        "cluster-pool" | "cluster-pool-v2beta" => {
            let both = ["cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr"];
            // Several CIDRs of a family are separated by blanks.
            let lists = both.iter().flat_map(|key| list(&get(key).split_whitespace().collect::<Vec<_>>().join(",")));
            Cilium::Given(lists.collect())
        }
        "multi-pool" => Cilium::Pools,
        "kubernetes" => Cilium::Kubernetes,
        other => Cilium::Unknown(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn kubeadm_tells_both_in_any_spelling() {
        let text = "apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nnetworking:\n  dnsDomain: cluster.local\n  \
                    podSubnet: \"10.233.64.0/18,fd00:10:233:64::/60\"\n  serviceSubnet: 10.233.0.0/18, fd00:10:233::/116\n";
        let cidrs = of_kubeadm(&data(&[("ClusterConfiguration", text), ("ClusterStatus", "apiEndpoints: {}\n")]));
        assert_eq!(cidrs.pods, ["10.233.64.0/18", "fd00:10:233:64::/60"]);
        assert_eq!(cidrs.services, ["10.233.0.0/18", "fd00:10:233::/116"]);
        assert!(
            of_kubeadm(&data(&[("ClusterConfiguration", "networking:\n  serviceSubnet: 10.0.0.0/16\n")])).incomplete()
        );
    }

    #[test]
    fn a_command_line_tells_both() {
        let line =
            ["kube-controller-manager", "--cluster-cidr=10.1.0.0/16,x", "--service-cluster-ip-range=10.2.0.0/16"];
        let cidrs = of_controller_manager(line.into_iter());
        assert_eq!((cidrs.pods, cidrs.services), (vec!["10.1.0.0/16".to_owned()], vec!["10.2.0.0/16".to_owned()]));
    }

    #[test]
    fn what_one_source_lacks_another_gives() {
        let one = Cidrs { pods: vec!["10.1.0.0/16".to_owned()], services: vec![] };
        let two = Cidrs { pods: vec!["10.9.0.0/16".to_owned()], services: vec!["10.2.0.0/16".to_owned()] };
        let both = one.or(two);
        assert_eq!((both.pods, both.services), (vec!["10.1.0.0/16".to_owned()], vec!["10.2.0.0/16".to_owned()]));
    }

    #[test]
    fn networks_that_are_known_tell_the_type() {
        for (name, expected) in [
            ("calico", PodCidrType::Calico),
            ("k8s-pod-network", PodCidrType::Calico),
            ("cilium", PodCidrType::Cilium),
            ("flannel", PodCidrType::Cluster),
            ("weave", PodCidrType::None),
        ] {
            assert_eq!(type_of_network(name), expected, "{name}");
        }
    }

    #[test]
    fn cilium_modes() {
        let pool = [
            ("ipam", "cluster-pool"),
            ("cluster-pool-ipv4-cidr", "10.3.0.0/16 10.4.0.0/16"),
            ("cluster-pool-ipv6-cidr", "fd00::/56"),
        ];
        let expected = ["10.3.0.0/16", "10.4.0.0/16", "fd00::/56"].map(str::to_owned);
        assert_eq!(of_cilium(&data(&pool)), Cilium::Given(expected.to_vec()));
        let beta = [("ipam", "cluster-pool-v2beta"), ("cluster-pool-ipv4-cidr", "10.3.0.0/16")];
        assert_eq!(of_cilium(&data(&beta)), Cilium::Given(vec!["10.3.0.0/16".to_owned()]));
        assert_eq!(of_cilium(&data(&[("ipam", "multi-pool")])), Cilium::Pools);
        assert_eq!(of_cilium(&data(&[("ipam", "kubernetes")])), Cilium::Kubernetes);
        assert_eq!(of_cilium(&data(&[("ipam", "eni")])), Cilium::Unknown("eni".to_owned()));
        assert_eq!(of_cilium(&data(&[])), Cilium::Unknown(String::new()));
    }
}
