//! Flags and environment (upstream's contract: config, §2, §3 and §5), checked together once.

mod leader;
mod tls;

pub use tls::Tls;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use daemon::{Config, Env, env};
use k8s_api::{
    CoordinatorSpec, Route,
    coordinator::{CoordinatorMode, PodCidrType},
};

use crate::{gc, leader::Timing};

/// Spiderpool's controller.
#[derive(Debug, Parser)]
#[command(name = "spiderpool-controller", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the controller.
    Daemon(Flags),
    /// Make the objects that an installation begins with. The same as the program spiderpool-init.
    #[command(hide = true)]
    Init,
    /// Remove what is ours and not Helm's, before an uninstallation. Pods go on running.
    Clean(crate::clean::Flags),
    /// Bring the definitions of our kinds to this version, before an upgrade.
    ApplyCrds,
    /// Ask the controller of this machine for its health: exit code 0 if it is well.
    Health(crate::health::Flags),
}

/// Flags of `daemon`.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// The configuration file.
    #[arg(long, default_value = daemon::config::DEFAULT_PATH)]
    pub config_path: PathBuf,
    /// Certificate of the webhook server. Without it the controller makes a CA and a certificate of its own and keeps them
    /// in a Secret.
    #[arg(long, requires = "tls_server_key")]
    pub tls_server_cert: Option<PathBuf>,
    /// Key of the webhook server's certificate.
    #[arg(long, requires = "tls_server_cert")]
    pub tls_server_key: Option<PathBuf>,
    /// Base URL at which the API server reaches the webhooks, like https://127.0.0.1:5722. With it the controller writes
    /// the webhook configurations itself; without, they come with the chart.
    #[arg(long, env = "SPIDERPOOL_WEBHOOK_URL")]
    pub webhook_url: Option<String>,
}

/// What the controller believes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file.
    pub config: Config,
    /// Flags.
    pub flags: Flags,
    /// `SPIDERPOOL_LOG_LEVEL`.
    pub log_level: String,
    /// `SPIDERPOOL_POD_NAMESPACE`.
    pub namespace: String,
    /// `SPIDERPOOL_POD_NAME`.
    pub pod: String,
    /// `SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME`: also the name of Service and webhook configurations.
    pub deployment: String,
    /// `SPIDERPOOL_LEADER_*`.
    pub leader: Timing,
    /// `SPIDERPOOL_AGENT_NAME`: component of the agents' pods, upstream's and ours.
    pub agent: String,
    /// `SPIDERPOOL_TLS_*`.
    pub tls: Tls,
    /// `SPIDERPOOL_HEALTH_PORT`.
    pub health_port: u16,
    /// `SPIDERPOOL_METRIC_HTTP_PORT`, if `SPIDERPOOL_ENABLED_METRIC`.
    pub metrics_port: Option<u16>,
    /// `SPIDERPOOL_ENABLED_DEBUG_METRIC`.
    pub debug_metrics: bool,
    /// `SPIDERPOOL_WEBHOOK_PORT`.
    pub webhook_port: u16,
    /// `SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS`: entries of a pool's `status.allocatedIPs`.
    pub max_allocated_ips: usize,
    /// `SPIDERPOOL_GC_IP_ENABLED`: its settings.
    pub garbage_collection: Option<gc::Settings>,
    /// `SPIDERPOOL_COORDINATOR_ENABLED`: its settings.
    pub coordinator: Option<CoordinatorSettings>,
    /// `SPIDERPOOL_MULTUS_CONFIG_ENABLED`: its resync period.
    pub multus_resync: Option<Duration>,
}

/// Settings of the SpiderCoordinator's reconciler.
#[derive(Clone, Debug)]
pub struct CoordinatorSettings {
    /// `SPIDERPOOL_COORDINATOR_DEAFULT_NAME` (upstream's spelling, and the right one).
    pub name: String,
    /// `SPIDERPOOL_COORDINATOR_INFORMER_RESYNC_PERIOD`.
    pub resync: Duration,
    /// `SPIDERPOOL_CNI_CONFIG_DIR`.
    pub cni_dir: PathBuf,
    /// `SPIDERPOOL_CILIUM_CONFIGMAP_NAMESPACE_NAME`: namespace and name.
    pub cilium_config: (String, String),
    /// The object that is created when there is none, `SPIDERPOOL_INIT_DEFAULT_COORDINATOR_*`.
    pub default: CoordinatorSpec,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable, by its type.
    #[error(transparent)]
    Env(#[from] env::Error),
    /// A variable, by its meaning.
    #[error("environment variable {name}: {value:?} is not {expected}")]
    Meaning {
        /// Name of the variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Two variables that do not go together.
    #[error("environment variable {name}: {value} is not {relation} {other} ({limit})")]
    Relation {
        /// Name of the variable.
        name: &'static str,
        /// Its value.
        value: u64,
        /// How it should be to the other.
        relation: &'static str,
        /// Name of the other.
        other: &'static str,
        /// The other's value.
        limit: u64,
    },
}

impl Settings {
    /// Reads the environment and joins it with flags and file.
    pub fn new(mut flags: Flags, config: Config, env: &Env) -> Result<Self, Error> {
        flags.webhook_url = flags.webhook_url.filter(|url| !url.trim().is_empty());
        if let Some(url) = &flags.webhook_url
            && !url.starts_with("https://")
        {
            let (name, value) = ("SPIDERPOOL_WEBHOOK_URL", url.clone());
            return Err(Error::Meaning { name, value, expected: "a URL that begins with https://" });
        }
        let garbage_collection = gc::Settings::new(&config, env)?;
        let metrics_port = env.port("SPIDERPOOL_METRIC_HTTP_PORT", 5721)?;
        let multus_resync = resync(env, "SPIDERPOOL_MULTUS_CONFIG_INFORMER_RESYNC_PERIOD")?;
        Ok(Self {
            config,
            flags,
            log_level: env.text("SPIDERPOOL_LOG_LEVEL", "info"),
            namespace: env.required("SPIDERPOOL_POD_NAMESPACE")?,
            pod: env.required("SPIDERPOOL_POD_NAME")?,
            deployment: not_empty(env.text("SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME", crate::NAME), crate::NAME),
            leader: leader::timing(env)?,
            agent: not_empty(env.text("SPIDERPOOL_AGENT_NAME", "spiderpool-agent"), "spiderpool-agent"),
            tls: Tls::new(env)?,
            health_port: env.port("SPIDERPOOL_HEALTH_PORT", 5720)?,
            metrics_port: env.flag("SPIDERPOOL_ENABLED_METRIC", false)?.then_some(metrics_port),
            debug_metrics: env.flag("SPIDERPOOL_ENABLED_DEBUG_METRIC", false)?,
            webhook_port: env.port("SPIDERPOOL_WEBHOOK_PORT", 5722)?,
            max_allocated_ips: env.optional_number("SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS")?.unwrap_or(5000),
            garbage_collection,
            coordinator: match env.flag("SPIDERPOOL_COORDINATOR_ENABLED", false)? {
                true => Some(CoordinatorSettings::new(env)?),
                false => None,
            },
            multus_resync: env.flag("SPIDERPOOL_MULTUS_CONFIG_ENABLED", false)?.then_some(multus_resync),
        })
    }
}

/// After how many seconds everything is looked at again; 0, as in client-go: never.
fn resync(env: &Env, name: &'static str) -> Result<Duration, Error> {
    const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
    Ok(match env.optional_number(name)?.unwrap_or(60) {
        0 => NEVER,
        seconds => Duration::from_secs(seconds),
    })
}

impl CoordinatorSettings {
    fn new(env: &Env) -> Result<Self, Error> {
        let default_name = env.text("SPIDERPOOL_COORDINATOR_DEFAULT_NAME", "default");
        let cilium = "SPIDERPOOL_CILIUM_CONFIGMAP_NAMESPACE_NAME";
        let cilium_config = env.text(cilium, "kube-system/cilium-config");
        let Some((namespace, name)) = cilium_config.split_once('/') else {
            return Err(Error::Meaning { name: cilium, value: cilium_config, expected: "namespace/name" });
        };
        Ok(Self {
            name: not_empty(env.text("SPIDERPOOL_COORDINATOR_DEAFULT_NAME", &default_name), "default"),
            resync: resync(env, "SPIDERPOOL_COORDINATOR_INFORMER_RESYNC_PERIOD")?,
            cni_dir: env.text("SPIDERPOOL_CNI_CONFIG_DIR", "/etc/cni/net.d").into(),
            cilium_config: (namespace.to_owned(), name.to_owned()),
            default: default_coordinator(env)?,
        })
    }
}

/// The object that upstream's init job creates, with the chart's defaults.
pub(crate) fn default_coordinator(env: &Env) -> Result<CoordinatorSpec, Error> {
    const MODE: &str = "SPIDERPOOL_INIT_DEFAULT_COORDINATOR_MODE";
    const TYPE: &str = "SPIDERPOOL_INIT_DEFAULT_COORDINATOR_POD_CIDR_TYPE";
    const ROUTES: &str = "SPIDERPOOL_INIT_DEFAULT_COORDINATOR_POLICY_ROUTES";
    let text = |name, default| env.text(name, default).replace(['"', '\''], "");
    let meaning = |name, value: &str, expected| Error::Meaning { name, value: value.to_owned(), expected };
    let mode = not_empty(text(MODE, "auto"), "auto");
    let mode: CoordinatorMode =
        parse(&mode).ok_or_else(|| meaning(MODE, &mode, "auto, underlay, overlay or disabled"))?;
    let kind = not_empty(text(TYPE, "auto"), "auto");
    let kind: PodCidrType =
        parse(&kind).ok_or_else(|| meaning(TYPE, &kind, "auto, cluster, calico, cilium or none"))?;
    let hijack = text("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_HIJACK_CIDR", "169.254.0.0/16");
    let hijack = hijack.split(|separator: char| separator.is_whitespace() || "\\[],".contains(separator));
    let routes = env.text(ROUTES, "");
    let routes: Vec<Route> = match routes.trim_matches(['"', '\'']) {
        "" => Vec::new(),
        json => serde_json::from_str(json).map_err(|_| meaning(ROUTES, json, "a JSON list of {dst, gw}"))?,
    };
    Ok(CoordinatorSpec {
        mode: Some(mode),
        pod_cidr_type: Some(kind),
        tune_pod_routes: Some(env.flag("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_TUNE_POD_ROUTES", true)?),
        hijack_cidr: Some(hijack.filter(|cidr| !cidr.is_empty()).map(str::to_owned).collect()),
        policy_routes: Some(routes),
        veth_link_address: Some(text("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_VETH_LINK_ADDRESS", "")),
        veth_mtu: Some(env.optional_number("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_VETH_MTU")?.unwrap_or(1500)),
        pod_mac_prefix: Some(String::new()),
        pod_default_route_nic: Some(String::new()),
        ..CoordinatorSpec::default()
    })
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(text.into()).ok()
}

fn not_empty(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: [(&str, &str); 2] = [("SPIDERPOOL_POD_NAMESPACE", "kube-system"), ("SPIDERPOOL_POD_NAME", "c-0")];

    fn settings(more: &[(&str, &str)]) -> Result<Settings, Error> {
        let Command::Daemon(flags) = Cli::parse_from(["spiderpool-controller", "daemon"]).command else {
            unreachable!()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "enableIPv4: true").unwrap();
        let config = daemon::config::load(file.path()).unwrap().config;
        Settings::new(flags, config, &POD.iter().chain(more).copied().collect())
    }

    #[test]
    fn defaults_are_upstreams() {
        let settings = settings(&[]).unwrap();
        assert_eq!((settings.health_port, settings.webhook_port, settings.metrics_port), (5720, 5722, None));
        assert_eq!((settings.max_allocated_ips, settings.deployment.as_str()), (5000, "spiderpool-controller"));
        assert!(settings.coordinator.is_none() && settings.multus_resync.is_none());
        assert_eq!(settings.flags.config_path.to_str(), Some("/tmp/spiderpool/config-map/conf.yml"));
    }

    #[test]
    fn the_default_coordinator_is_the_charts() {
        let on = ("SPIDERPOOL_COORDINATOR_ENABLED", "true");
        let coordinator = settings(&[on]).unwrap().coordinator.unwrap();
        assert_eq!(coordinator.name, "default");
        assert_eq!(coordinator.default.hijack_cidr, Some(vec!["169.254.0.0/16".to_owned()]));
        assert_eq!(coordinator.default.pod_cidr_type, Some(PodCidrType::Auto));
        let more = [
            on,
            ("SPIDERPOOL_COORDINATOR_DEAFULT_NAME", "other"),
            ("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_POD_CIDR_TYPE", "\"cluster\""),
            ("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_HIJACK_CIDR", "[\"10.0.0.1\" \"10.1.0.0/16\"]"),
        ];
        let coordinator = settings(&more).unwrap().coordinator.unwrap();
        assert_eq!(
            (coordinator.name.as_str(), coordinator.default.pod_cidr_type),
            ("other", Some(PodCidrType::Cluster))
        );
        assert_eq!(coordinator.default.hijack_cidr, Some(vec!["10.0.0.1".to_owned(), "10.1.0.0/16".to_owned()]));
    }

    #[test]
    fn a_resync_period_of_0_is_never_and_not_at_once() {
        let day = Duration::from_secs(24 * 3600);
        for (seconds, expected) in [("0", None), ("30", Some(Duration::from_secs(30)))] {
            let settings = settings(&[
                ("SPIDERPOOL_COORDINATOR_ENABLED", "true"),
                ("SPIDERPOOL_MULTUS_CONFIG_ENABLED", "true"),
                ("SPIDERPOOL_COORDINATOR_INFORMER_RESYNC_PERIOD", seconds),
                ("SPIDERPOOL_MULTUS_CONFIG_INFORMER_RESYNC_PERIOD", seconds),
            ])
            .unwrap();
            for period in [settings.coordinator.unwrap().resync, settings.multus_resync.unwrap()] {
                assert!(expected.map_or(period > day, |expected| period == expected), "{seconds}: {period:?}");
            }
        }
    }

    #[test]
    fn a_bad_variable_is_named() {
        let error =
            settings(&[("SPIDERPOOL_COORDINATOR_ENABLED", "1"), ("SPIDERPOOL_INIT_DEFAULT_COORDINATOR_MODE", "fast")])
                .unwrap_err();
        let expected = "environment variable SPIDERPOOL_INIT_DEFAULT_COORDINATOR_MODE: \"fast\" is not auto, underlay, overlay or disabled";
        assert_eq!(error.to_string(), expected);
    }
}
