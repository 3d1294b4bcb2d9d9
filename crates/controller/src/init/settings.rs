//! What is to be made, out of the environment.

use std::net::IpAddr;

use daemon::{Env, env};
use ipam::{Family, range};
use ipnet::IpNet;
use k8s_api::{SpiderCoordinator, SpiderIPPool, SpiderIPPoolSpec, SpiderMultusConfig};

use super::network;
use crate::settings;

/// The objects to be made, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// `SPIDERPOOL_NAMESPACE`.
    pub namespace: String,
    /// `SPIDERPOOL_CONTROLLER_NAME`: the Service that serves the webhooks.
    pub controller: String,
    /// The coordinator, if it is enabled.
    pub coordinator: Option<SpiderCoordinator>,
    /// The default pools.
    pub pools: Vec<SpiderIPPool>,
    /// The default network, if SpiderMultusConfigs are enabled.
    pub network: Option<SpiderMultusConfig>,
}

/// A variable that makes no object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// By its type.
    #[error(transparent)]
    Env(#[from] env::Error),
    /// By its meaning.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// The network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// A variable that does not go with another one.
    #[error("environment variable {name}: {value:?}: {problem}")]
    Wrong {
        /// Name of the variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The variables of a default pool.
struct PoolVariables {
    family: Family,
    subnet_object: &'static str,
    name: &'static str,
    subnet: &'static str,
    ranges: &'static str,
    gateway: &'static str,
}

const POOLS: [PoolVariables; 2] = [
    PoolVariables {
        family: Family::V4,
        subnet_object: "SPIDERPOOL_INIT_DEFAULT_IPV4_SUBNET_NAME",
        name: "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME",
        subnet: "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET",
        ranges: "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES",
        gateway: "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_GATEWAY",
    },
    PoolVariables {
        family: Family::V6,
        subnet_object: "SPIDERPOOL_INIT_DEFAULT_IPV6_SUBNET_NAME",
        name: "SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME",
        subnet: "SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_SUBNET",
        ranges: "SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_IPRANGES",
        gateway: "SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_GATEWAY",
    },
];

const COORDINATOR: &str = "SPIDERPOOL_INIT_DEFAULT_COORDINATOR_NAME";
const TUNE_ROUTES: &str = "SPIDERPOOL_INIT_DEFAULT_COORDINATOR_TUNE_POD_ROUTES";
const MULTUS: &str = "SPIDERPOOL_INIT_ENABLE_MULTUS_CONFIG";

impl Plan {
    /// Reads the environment; quotes around values are left out.
    pub async fn new(env: &Env) -> Result<Self, Error> {
        let bare = &env.unquoted();
        let namespace = bare.required("SPIDERPOOL_NAMESPACE")?;
        let controller = bare.required("SPIDERPOOL_CONTROLLER_NAME")?;
        bare.required("SPIDERPOOL_AGENT_NAME")?;
        let pools = POOLS.iter().map(|variables| pool(bare, variables)).collect::<Result<Vec<_>, _>>()?;
        let pools: Vec<SpiderIPPool> = pools.into_iter().flatten().collect();
        if let [v4, v6] = pools.as_slice()
            && v4.metadata.name == v6.metadata.name
        {
            let value = v6.metadata.name.clone().unwrap_or_default();
            return Err(wrong(POOLS[1].name, value, format!("is the name of the IPv4 pool too ({})", POOLS[0].name)));
        }
        let network = if bare.required_flag(MULTUS, false)? { Some(network(bare, &namespace).await?) } else { None };
        // An unset flag is as wrong as an empty one: it says nothing.
        bare.required(MULTUS)?;
        Ok(Self { namespace, controller, coordinator: coordinator(bare)?, pools, network })
    }
}

fn wrong(name: &'static str, value: String, problem: String) -> Error {
    Error::Wrong { name, value, problem }
}

fn coordinator(env: &Env) -> Result<Option<SpiderCoordinator>, Error> {
    let name = env.text(COORDINATOR, "");
    if name.is_empty() {
        return Ok(None);
    }
    env.required(TUNE_ROUTES)?;
    Ok(Some(SpiderCoordinator::new(&name, settings::default_coordinator(env)?)))
}

fn pool(env: &Env, variables: &PoolVariables) -> Result<Option<SpiderIPPool>, Error> {
    let subnet_object = env.text(variables.subnet_object, "");
    if !subnet_object.is_empty() {
        let problem = "the SpiderSubnet feature is not available in this version: set the value ipam.spiderSubnet.enable to false";
        return Err(wrong(variables.subnet_object, subnet_object, problem.to_owned()));
    }
    let name = env.text(variables.name, "");
    if name.is_empty() {
        return Ok(None);
    }
    let family = variables.family;
    let subnet = env.required(variables.subnet)?;
    let net: Option<IpNet> = subnet.parse().ok().filter(|net: &IpNet| Family::of(net.addr()) == family);
    let Some(net) = net else {
        return Err(wrong(variables.subnet, subnet, format!("is not an {family} CIDR, like {}", example(family))));
    };
    if net.trunc().to_string() != subnet {
        return Err(wrong(variables.subnet, subnet, format!("is not in canonical form, which is {}", net.trunc())));
    }
    let ips = list(&env.text(variables.ranges, ""));
    if let Err(error) = range::parse_ranges(&ips, family) {
        return Err(wrong(variables.ranges, env.text(variables.ranges, ""), error.to_string()));
    }
    let gateway = Some(env.text(variables.gateway, "")).filter(|gateway| !gateway.is_empty());
    if let Some(text) = &gateway
        && !text.parse().is_ok_and(|address: IpAddr| net.contains(&address))
    {
        return Err(wrong(variables.gateway, text.clone(), format!("is not an address of {net}")));
    }
    let spec = SpiderIPPoolSpec {
        ip_version: Some(family.version()),
        subnet,
        ips,
        gateway,
        default: Some(true),
        ..SpiderIPPoolSpec::default()
    };
    Ok(Some(SpiderIPPool::new(&name, spec)))
}

fn example(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.6.0.0/16",
        Family::V6 => "fd00:10::/64",
    }
}

/// A list as a template writes it, with or without brackets and quotes.
fn list(text: &str) -> Vec<String> {
    let parts = text.split(|separator: char| separator.is_whitespace() || "\\[],\"'".contains(separator));
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

async fn network(env: &Env, namespace: &str) -> Result<SpiderMultusConfig, Error> {
    let namespace = Some(env.text("SPIDERPOOL_INIT_DEFAULT_CNI_NAMESPACE", ""))
        .filter(|text| !text.is_empty())
        .unwrap_or(namespace.to_owned());
    let name = env.text("SPIDERPOOL_INIT_DEFAULT_CNI_NAME", "");
    if !name.is_empty() {
        return Ok(network::named(&namespace, &name));
    }
    let dir = env.required("SPIDERPOOL_INIT_DEFAULT_CNI_DIR")?;
    Ok(network::detected(&namespace, dir.as_ref()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: [(&str, &str); 4] = [
        ("SPIDERPOOL_NAMESPACE", "kube-system"),
        ("SPIDERPOOL_CONTROLLER_NAME", "spiderpool-controller"),
        ("SPIDERPOOL_AGENT_NAME", "spiderpool-agent"),
        (MULTUS, "\"false\""),
    ];
    const V4: [(&str, &str); 2] = [
        ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME", "\"default-v4-ippool\""),
        ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET", "10.6.0.0/16"),
    ];

    async fn plan(more: &[(&str, &str)]) -> Result<Plan, String> {
        let env: Env = BASE.iter().chain(more).copied().collect();
        Plan::new(&env).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_environment_that_asks_for_nothing_makes_nothing() {
        let plan = plan(&[]).await.unwrap();
        assert_eq!((plan.coordinator, plan.pools, plan.network), (None, vec![], None));
        assert_eq!(plan.controller, "spiderpool-controller");
    }

    #[tokio::test]
    async fn lists_and_quotes_are_read_as_upstream_does() {
        for ranges in [
            "[\"10.6.0.10-10.6.0.20\",\"10.6.0.30\"]",
            "10.6.0.10-10.6.0.20,10.6.0.30",
            "\"10.6.0.10-10.6.0.20 10.6.0.30\"",
        ] {
            let more = [V4[0], V4[1], ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES", ranges)];
            let pool = plan(&more).await.unwrap().pools.remove(0);
            assert_eq!(pool.metadata.name.as_deref(), Some("default-v4-ippool"));
            assert_eq!(pool.spec.ips, ["10.6.0.10-10.6.0.20", "10.6.0.30"], "{ranges}");
            assert_eq!((pool.spec.default, pool.spec.gateway), (Some(true), None));
        }
        let more = [
            (COORDINATOR, "'default'"),
            (TUNE_ROUTES, "\"true\""),
            ("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_POLICY_ROUTES", "[{\"dst\":\"10.0.0.0/8\",\"gw\":\"10.6.0.1\"}]"),
        ];
        let coordinator = plan(&more).await.unwrap().coordinator.unwrap();
        assert_eq!(coordinator.metadata.name.as_deref(), Some("default"));
        assert_eq!(coordinator.spec.policy_routes.unwrap()[0].dst, "10.0.0.0/8");
    }

    #[tokio::test]
    async fn a_wrong_variable_is_named_with_its_value() {
        let gateway = "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_GATEWAY";
        let ranges = "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES";
        let v6 = "SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME";
        let subnet6 = ("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_SUBNET", "fd00::/64");
        let with = |more: &[(&'static str, &'static str)]| [V4.as_slice(), more].concat();
        for (more, expected) in [
            (vec![V4[0]], "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET is required and not set"),
            (vec![V4[0], (V4[1].0, "10.6.0.1/16")], "\"10.6.0.1/16\": is not in canonical form, which is 10.6.0.0/16"),
            (vec![V4[0], (V4[1].0, "fd00::/64")], "\"fd00::/64\": is not an IPv4 CIDR, like 10.6.0.0/16"),
            (with(&[(gateway, "10.7.0.1")]), "IPPOOL_GATEWAY: \"10.7.0.1\": is not an address of 10.6.0.0/16"),
            (with(&[(ranges, "10.6.0.9-10.6.0.1")]), "IPPOOL_IPRANGES: \"10.6.0.9-10.6.0.1\": invalid IP range format"),
            (
                with(&[(v6, "default-v4-ippool"), subnet6]),
                "IPV6_IPPOOL_NAME: \"default-v4-ippool\": is the name of the IPv4 pool too",
            ),
            (
                with(&[(POOLS[0].subnet_object, "default-v4-subnet")]),
                "the SpiderSubnet feature is not available in this version",
            ),
            (vec![(MULTUS, "maybe")], "SPIDERPOOL_INIT_ENABLE_MULTUS_CONFIG: \"maybe\" is not a boolean"),
            (vec![(MULTUS, "true")], "SPIDERPOOL_INIT_DEFAULT_CNI_DIR is required and not set"),
            (
                vec![(MULTUS, "true"), ("SPIDERPOOL_INIT_DEFAULT_CNI_DIR", "/no/such/dir")],
                "cannot read directory \"/no/such/dir\"",
            ),
            (vec![(COORDINATOR, "default")], "COORDINATOR_TUNE_POD_ROUTES is required and not set"),
            (vec![("SPIDERPOOL_NAMESPACE", "")], "SPIDERPOOL_NAMESPACE is required and empty"),
        ] {
            let error = plan(&more).await.unwrap_err();
            assert!(error.contains(expected), "{error}\n{expected}");
        }
    }

    #[tokio::test]
    async fn the_default_network_is_the_first_on_the_node() {
        for (file, text, name, cr_name) in [
            (
                "10-x.conflist",
                r#"{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}"#,
                "calico",
                Some("k8s-pod-network"),
            ),
            ("10-x.conf", r#"{"name": "macvlan-eth0", "type": "macvlan"}"#, "macvlan-eth0", None),
            ("00-multus.conf", r#"{"name": "multus", "type": "multus"}"#, "default", None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(file), text).unwrap();
            let dir = dir.path().to_str().unwrap();
            let network =
                plan(&[(MULTUS, "true"), ("SPIDERPOOL_INIT_DEFAULT_CNI_DIR", dir)]).await.unwrap().network.unwrap();
            assert_eq!(network.metadata.name.as_deref(), Some(name));
            let annotation = network.metadata.annotations.unwrap_or_default().remove("multus.spidernet.io/cr-name");
            assert_eq!(annotation.as_deref(), cr_name);
            assert_eq!(network.spec.cni_type, Some(k8s_api::multus::CniType::Custom), "a detected type has no block");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.conf"), r#"{"name": "My_Net", "type": "bridge"}"#).unwrap();
        let error = plan(&[(MULTUS, "true"), ("SPIDERPOOL_INIT_DEFAULT_CNI_DIR", dir.path().to_str().unwrap())])
            .await
            .unwrap_err();
        assert!(
            error.contains(
                "\"My_Net\", which cannot be the name of an object: set the value multus.multusCNI.defaultCniCRName"
            ),
            "{error}"
        );
    }
}
