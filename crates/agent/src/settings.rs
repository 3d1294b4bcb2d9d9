//! What the agent is told: environment and configuration file, checked once at start.

use daemon::config::Config;
use daemon::env::{Env, Error as EnvError};
use daemon::log::LevelFilter;
use ipam::nad::NadDefaults;
use std::path::PathBuf;
use std::time::Duration;

/// Name of the component, unless the chart says otherwise.
const COMPONENT: &str = "spiderpool-agent";

const CNI_DIR: &str = "/var/lib/cni";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Everything that does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `SPIDERPOOL_NODE_NAME`.
    pub node: String,
    /// `SPIDERPOOL_POD_NAMESPACE`: the agent's own namespace.
    pub namespace: String,
    /// `SPIDERPOOL_AGENT_NAME`: component of the agents' pods, upstream's and ours.
    pub component: String,
    /// `ipamUnixSocketPath`.
    pub socket: PathBuf,
    /// Where the release notes of all agents of this host are.
    pub spool_root: PathBuf,
    /// Where runtimes and meta plugins keep what they attached.
    pub cni_dir: PathBuf,
    /// The kernel's file that tells one boot from another.
    pub boot_id: PathBuf,
    /// How long a pod may be gone before its addresses are taken without a `DEL`.
    pub no_del: Duration,
    /// How long a new pool waits for a controller that is at work.
    pub new_pools: Duration,
    /// How often the release notes are listed although nothing shows that there are new ones.
    pub relook: Duration,
    /// `SPIDERPOOL_HEALTH_PORT`.
    pub health_port: u16,
    /// `SPIDERPOOL_METRIC_HTTP_PORT` if `SPIDERPOOL_ENABLED_METRIC`.
    pub metric_port: Option<u16>,
    /// `SPIDERPOOL_LOG_LEVEL`.
    pub log_level: LevelFilter,
    /// `SPIDERPOOL_ENABLED_RELEASE_CONFLICT_IPS`.
    pub release_conflict_ips: bool,
    /// `enableIPv4`, `enableIPv6`, `enableSpiderSubnet`, `MULTUS_CLUSTER_NETWORK`.
    pub select: ipam::select::Settings,
    /// `enableStatefulSet`.
    pub stateful_set: bool,
    /// Keys that are on and ask for fixed addresses, which this version does not have.
    pub fixed_addresses: Vec<&'static str>,
    /// `tuneSysctlConfig`.
    pub tune_sysctls: bool,
    /// `SPIDERPOOL_COORDINATOR_DEAFULT_NAME` (upstream's spelling, and the right one): whose configuration coordinator plugins get.
    pub coordinator: String,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A variable.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// The log level.
    #[error("environment variable SPIDERPOOL_LOG_LEVEL")]
    LogLevel(#[from] daemon::log::LevelError),
    /// A feature that does not exist yet: better refused than silently left out.
    #[error("configuration key {key}: {value} is not supported by this version: {why}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What to do.
        why: &'static str,
    },
    /// No address could ever be given.
    #[error("configuration keys enableIPv4: false and enableIPv6: false: one of them must be true")]
    NoFamily,
}

impl Settings {
    /// Brings environment and file together.
    pub fn new(env: &Env, config: Config) -> Result<Self, SettingsError> {
        refuse_unsupported(&config)?;
        if !config.enable_ipv4 && !config.enable_ipv6 {
            return Err(SettingsError::NoFamily);
        }
        check_unused(env)?;
        let namespace = env.required("SPIDERPOOL_POD_NAMESPACE")?;
        env.required("SPIDERPOOL_POD_NAME")?;
        let metrics = env.flag("SPIDERPOOL_ENABLED_METRIC", false)?;
        let metric_port = env.port("SPIDERPOOL_METRIC_HTTP_PORT", 5711)?;
        let cluster_network = Some(env.text("MULTUS_CLUSTER_NETWORK", "")).filter(|name| !name.is_empty());
        Ok(Self {
            node: env.required("SPIDERPOOL_NODE_NAME")?,
            component: match env.text("SPIDERPOOL_AGENT_NAME", COMPONENT) {
                name if name.is_empty() => COMPONENT.to_owned(),
                name => name,
            },
            socket: config.ipam_unix_socket_path,
            spool_root: wire::spool::DEFAULT_ROOT.into(),
            cni_dir: CNI_DIR.into(),
            boot_id: BOOT_ID.into(),
            no_del: crate::recover::NO_DEL,
            new_pools: crate::upstream::NEW_POOLS,
            relook: crate::notes::RELOOK,
            health_port: env.port("SPIDERPOOL_HEALTH_PORT", 5710)?,
            metric_port: metrics.then_some(metric_port),
            log_level: log_level(env)?,
            release_conflict_ips: env.required_flag("SPIDERPOOL_ENABLED_RELEASE_CONFLICT_IPS", true)?,
            select: ipam::select::Settings {
                enable_ipv4: config.enable_ipv4,
                enable_ipv6: config.enable_ipv6,
                enable_subnet: config.enable_spider_subnet,
                nad: NadDefaults { agent_namespace: namespace.clone(), cluster_network },
            },
            namespace,
            stateful_set: config.enable_stateful_set,
            fixed_addresses: [
                ("enableStatefulSet", config.enable_stateful_set),
                ("enableKubevirtStaticIP", config.enable_kubevirt_static_ip),
            ]
            .into_iter()
            .filter_map(|(key, on)| on.then_some(key))
            .collect(),
            tune_sysctls: config.tune_sysctl_config,
            coordinator: coordinator(env),
        })
    }
}

fn coordinator(env: &Env) -> String {
    let given = env.text("SPIDERPOOL_COORDINATOR_DEAFULT_NAME", &env.text("SPIDERPOOL_COORDINATOR_DEFAULT_NAME", ""));
    if given.is_empty() { "default".to_owned() } else { given }
}

/// `SPIDERPOOL_LOG_LEVEL`; set but empty is an error.
pub fn log_level(env: &Env) -> Result<LevelFilter, SettingsError> {
    let name = match env.text("SPIDERPOOL_LOG_LEVEL", "info") {
        name if name.is_empty() => env.required("SPIDERPOOL_LOG_LEVEL")?,
        name => name,
    };
    Ok(daemon::log::level(&name)?)
}

fn refuse_unsupported(config: &Config) -> Result<(), SettingsError> {
    let probing = "the plugins do not probe yet; set it to false";
    let later = "leave it out";
    let provider = config.iaas_network_provider.as_ref().map(|provider| provider.server_url.clone());
    let refused = [
        ("enableIPConflictDetection", config.enable_ip_conflict_detection.then(|| "true".to_owned()), probing),
        ("enableGatewayDetection", config.enable_gateway_detection.then(|| "true".to_owned()), probing),
        ("agent.networkResourcePlugin.enabled", config.network_resource_plugin.then(|| "true".to_owned()), later),
        ("iaasNetworkProvider.serverUrl", provider, later),
    ];
    match refused.into_iter().find_map(|(key, value, why)| Some((key, value?, why))) {
        Some((key, value, why)) => Err(SettingsError::Unsupported { key, value, why }),
        None => Ok(()),
    }
}

/// Variables of upstream's chart that nothing here needs. They are still checked, so that a wrong value does not wait for a later version.
fn check_unused(env: &Env) -> Result<(), EnvError> {
    env.number("SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS", 5000u64)?;
    env.number("SPIDERPOOL_WAIT_SUBNET_POOL_TIME_IN_SECOND", 2u64)?;
    env.number("SPIDERPOOL_WAIT_SUBNET_POOL_MAX_RETRIES", 25u64)?;
    env.flag("SPIDERPOOL_ENABLED_DEBUG_METRIC", false)?;
    env.flag("SPIDERPOOL_ENABLED_RDMA_METRIC", false)?;
    env.optional_number::<u16>("SPIDERPOOL_GOPS_LISTEN_PORT").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use daemon::Chain;

    const ENV: [(&str, &str); 3] =
        [("SPIDERPOOL_POD_NAMESPACE", "kube-system"), ("SPIDERPOOL_POD_NAME", "a"), ("SPIDERPOOL_NODE_NAME", "node-a")];

    fn config(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf.yml");
        std::fs::write(&path, text).unwrap();
        daemon::config::load(&path).unwrap().config
    }

    fn settings(extra: &[(&str, &str)], text: &str) -> Result<Settings, String> {
        let env: Env = ENV.iter().chain(extra).copied().collect();
        Settings::new(&env, config(text)).map_err(|error| Chain(&error).to_string())
    }

    #[test]
    fn defaults_are_upstreams() {
        let settings = settings(&[], "enableIPv4: true").unwrap();
        assert_eq!((settings.health_port, settings.metric_port, settings.node.as_str()), (5710, None, "node-a"));
        assert!(settings.release_conflict_ips && settings.select.enable_ipv4 && !settings.select.enable_ipv6);
        assert_eq!(settings.select.nad.cluster_network, None);
        assert_eq!(settings.coordinator, "default");
    }

    #[test]
    fn the_environment_is_read() {
        let env = [
            ("SPIDERPOOL_ENABLED_METRIC", "true"),
            ("SPIDERPOOL_METRIC_HTTP_PORT", "0"),
            ("SPIDERPOOL_HEALTH_PORT", "7000"),
            ("MULTUS_CLUSTER_NETWORK", "kube-system/net"),
            ("SPIDERPOOL_GOPS_LISTEN_PORT", ""),
            ("SPIDERPOOL_COORDINATOR_DEAFULT_NAME", "other"),
        ];
        let settings = settings(&env, "enableIPv6: true").unwrap();
        assert_eq!((settings.health_port, settings.metric_port), (7000, Some(0)));
        assert_eq!(settings.select.nad.cluster_network.as_deref(), Some("kube-system/net"));
        assert_eq!(settings.coordinator, "other");
    }

    #[test]
    fn keys_that_ask_for_fixed_addresses_are_known() {
        for (text, expected) in [
            ("enableIPv4: true", vec![]),
            ("enableIPv4: true\nenableKubevirtStaticIP: true", vec!["enableKubevirtStaticIP"]),
            (
                "enableIPv4: true\nenableStatefulSet: true\nenableKubevirtStaticIP: true",
                vec!["enableStatefulSet", "enableKubevirtStaticIP"],
            ),
        ] {
            assert_eq!(settings(&[], text).unwrap().fixed_addresses, expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (env, text, expected) in [
            (
                ("SPIDERPOOL_NODE_NAME", ""),
                "enableIPv4: true",
                "environment variable SPIDERPOOL_NODE_NAME is required and empty",
            ),
            (
                ("SPIDERPOOL_LOG_LEVEL", "loud"),
                "enableIPv4: true",
                "environment variable SPIDERPOOL_LOG_LEVEL: log level \"loud\"",
            ),
            (("X", ""), "enableIPv4: false", "configuration keys enableIPv4: false and enableIPv6: false"),
            (
                ("X", ""),
                "enableIPv4: true\nenableIPConflictDetection: true",
                "configuration key enableIPConflictDetection: true is",
            ),
            (
                ("X", ""),
                "enableIPv4: true\nenableGatewayDetection: true",
                "configuration key enableGatewayDetection: true is not",
            ),
            (
                ("X", ""),
                "enableIPv4: true\niaasNetworkProvider: {serverUrl: \"http://x\"}",
                "configuration key iaasNetworkProvider.serverUrl: http://x is not supported",
            ),
        ] {
            let error = settings(&[env], text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
