//! The configuration file (`conf.yml` of the ConfigMap `spiderpool-conf`), read once at start.
//!
//! Two stages: [`RawConfig`] is the file as written, every key optional; [`Config`] is what the processes believe. A missing
//! key takes the zero value, not the chart's default; unknown keys are ignored and reported ([`Loaded::unknown`]).

mod fields;

pub use fields::FieldError;
use fields::Fields;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the chart mounts the file.
pub const DEFAULT_PATH: &str = "/tmp/spiderpool/config-map/conf.yml";
const DEFAULT_SOCKET: &str = "/var/run/spidernet/spiderpool.sock";
const DEFAULT_KUBELET_ROOT: &str = "/var/lib/kubelet";
const DEFAULT_PROVIDER_TIMEOUT: Duration = Duration::from_secs(50);
/// A plugin waits 100 s for its agent.
const PROVIDER_TIMEOUT_BOUND: Duration = Duration::from_secs(100);

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// It is not YAML.
    #[error("configuration file {} is not YAML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A key has a value that it cannot have.
    #[error("configuration file {}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key and its value.
        #[source]
        source: FieldError,
    },
}

/// The configuration and what was odd about the file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the processes believe.
    pub config: Config,
    /// Paths of keys that mean nothing.
    pub unknown: Vec<String>,
}

/// The file as written.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct RawConfig {
    pub ipam_unix_socket_path: Option<String>,
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
    pub enable_stateful_set: Option<bool>,
    pub enable_kubevirt_static_ip: Option<bool>,
    pub enable_clean_outdated_endpoint: Option<bool>,
    pub enable_spider_subnet: Option<bool>,
    pub enable_auto_pool_for_application: Option<bool>,
    pub auto_pool_redundant_ip_number: Option<u64>,
    pub enable_ip_conflict_detection: Option<bool>,
    pub enable_gateway_detection: Option<bool>,
    pub enable_validating_resources_deleted_webhook: Option<bool>,
    pub tune_sysctl_config: Option<bool>,
    pub pod_resource_inject: Option<bool>,
    pub pod_resource_inject_exclude: Option<Vec<String>>,
    pub pod_resource_inject_include: Option<Vec<String>>,
    pub network_resource_plugin: Option<bool>,
    pub kubelet_root_dir: Option<String>,
    pub provider_url: Option<String>,
    pub provider_timeout: Option<Duration>,
}

/// What the processes believe. Field names follow the keys of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `ipamUnixSocketPath`.
    pub ipam_unix_socket_path: PathBuf,
    /// `enableIPv4`.
    pub enable_ipv4: bool,
    /// `enableIPv6`.
    pub enable_ipv6: bool,
    /// `enableStatefulSet`: fixed addresses for `apps/v1` StatefulSet.
    pub enable_stateful_set: bool,
    /// `enableKubevirtStaticIP`: fixed addresses for virtual machines.
    pub enable_kubevirt_static_ip: bool,
    /// `enableCleanOutdatedEndpoint`.
    pub enable_clean_outdated_endpoint: bool,
    /// `enableSpiderSubnet`.
    pub enable_spider_subnet: bool,
    /// `enableAutoPoolForApplication`.
    pub enable_auto_pool_for_application: bool,
    /// `clusterSubnetAutoPoolDefaultRedundantIPNumber`, or what the chart writes, `clusterSubnetDefaultFlexibleIPNumber`.
    pub auto_pool_redundant_ip_number: u64,
    /// `enableIPConflictDetection`.
    pub enable_ip_conflict_detection: bool,
    /// `enableGatewayDetection`.
    pub enable_gateway_detection: bool,
    /// `enableValidatingResourcesDeletedWebhook`: pools and subnets in use cannot be deleted.
    pub enable_validating_resources_deleted_webhook: bool,
    /// `tuneSysctlConfig`.
    pub tune_sysctl_config: bool,
    /// `podResourceInject`: `Some` when enabled.
    pub pod_resource_inject: Option<PodResourceInject>,
    /// `agent.networkResourcePlugin.enabled`.
    pub network_resource_plugin: bool,
    /// `agent.networkResourcePlugin.kubeletRootDir`.
    pub kubelet_root_dir: PathBuf,
    /// `iaasNetworkProvider`: `Some` when a URL is given.
    pub iaas_network_provider: Option<IaasNetworkProvider>,
}

/// `podResourceInject` when enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodResourceInject {
    /// `namespacesExclude`.
    pub namespaces_exclude: Vec<String>,
    /// `namespacesInclude`.
    pub namespaces_include: Vec<String>,
}

/// `iaasNetworkProvider` when it has a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IaasNetworkProvider {
    /// `serverUrl`.
    pub server_url: String,
    /// `httpRequestTimeout`.
    pub http_request_timeout: Duration,
}

/// Reads the file.
pub fn load(path: &Path) -> Result<Loaded, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let value = parse_yaml(&text).map_err(|source| Error::Syntax { path: path.to_owned(), source })?;
    let wrong = |source| Error::Value { path: path.to_owned(), source };
    let (raw, unknown) = RawConfig::read(value).map_err(wrong)?;
    Ok(Loaded { config: Config::try_from(raw).map_err(wrong)?, unknown })
}

fn parse_yaml(text: &str) -> Result<serde_json::Value, Box<dyn std::error::Error + Send + Sync>> {
    if text.trim().is_empty() {
        return Ok(serde_json::Value::Null);
    }
    Ok(serde_saphyr::from_str(text)?)
}

impl RawConfig {
    fn read(value: serde_json::Value) -> Result<(Self, Vec<String>), FieldError> {
        let mut file = Fields::of_file(value)?;
        let mut inject = file.below("podResourceInject")?;
        let mut agent = file.below("agent")?;
        let mut plugin = agent.below("networkResourcePlugin")?;
        let mut provider = file.below("iaasNetworkProvider")?;
        let redundant = file.count("clusterSubnetAutoPoolDefaultRedundantIPNumber")?;
        let flexible = file.count("clusterSubnetDefaultFlexibleIPNumber")?;
        let raw = Self {
            ipam_unix_socket_path: file.text("ipamUnixSocketPath")?,
            enable_ipv4: file.flag("enableIPv4")?,
            enable_ipv6: file.flag("enableIPv6")?,
            enable_stateful_set: file.flag("enableStatefulSet")?,
            enable_kubevirt_static_ip: file.flag("enableKubevirtStaticIP")?,
            enable_clean_outdated_endpoint: file.flag("enableCleanOutdatedEndpoint")?,
            enable_spider_subnet: file.flag("enableSpiderSubnet")?,
            enable_auto_pool_for_application: file.flag("enableAutoPoolForApplication")?,
            auto_pool_redundant_ip_number: redundant.or(flexible),
            enable_ip_conflict_detection: file.flag("enableIPConflictDetection")?,
            enable_gateway_detection: file.flag("enableGatewayDetection")?,
            enable_validating_resources_deleted_webhook: file.flag("enableValidatingResourcesDeletedWebhook")?,
            tune_sysctl_config: file.flag("tuneSysctlConfig")?,
            pod_resource_inject: inject.flag("enabled")?,
            pod_resource_inject_exclude: inject.texts("namespacesExclude")?,
            pod_resource_inject_include: inject.texts("namespacesInclude")?,
            network_resource_plugin: plugin.flag("enabled")?,
            kubelet_root_dir: plugin.text("kubeletRootDir")?,
            provider_url: provider.text("serverUrl")?,
            provider_timeout: provider.duration("httpRequestTimeout")?,
        };
        plugin.ignore("devicePluginAffinity");
        plugin.ignore("resourceAdvertisement");
        let unknown = [file, inject, agent, plugin, provider].into_iter().flat_map(Fields::unknown).collect();
        Ok((raw, unknown))
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = FieldError;

    fn try_from(raw: RawConfig) -> Result<Self, FieldError> {
        let on = |flag: Option<bool>| flag.unwrap_or(false);
        let inject = PodResourceInject {
            namespaces_exclude: raw.pod_resource_inject_exclude.unwrap_or_default(),
            namespaces_include: raw.pod_resource_inject_include.unwrap_or_default(),
        };
        Ok(Self {
            ipam_unix_socket_path: absolute("ipamUnixSocketPath", raw.ipam_unix_socket_path, DEFAULT_SOCKET)?,
            enable_ipv4: on(raw.enable_ipv4),
            enable_ipv6: on(raw.enable_ipv6),
            enable_stateful_set: on(raw.enable_stateful_set),
            enable_kubevirt_static_ip: on(raw.enable_kubevirt_static_ip),
            enable_clean_outdated_endpoint: on(raw.enable_clean_outdated_endpoint),
            enable_spider_subnet: on(raw.enable_spider_subnet),
            enable_auto_pool_for_application: on(raw.enable_auto_pool_for_application),
            auto_pool_redundant_ip_number: raw.auto_pool_redundant_ip_number.unwrap_or(0),
            enable_ip_conflict_detection: on(raw.enable_ip_conflict_detection),
            enable_gateway_detection: on(raw.enable_gateway_detection),
            enable_validating_resources_deleted_webhook: on(raw.enable_validating_resources_deleted_webhook),
            tune_sysctl_config: on(raw.tune_sysctl_config),
            pod_resource_inject: on(raw.pod_resource_inject).then_some(inject),
            network_resource_plugin: on(raw.network_resource_plugin),
            kubelet_root_dir: absolute(
                "agent.networkResourcePlugin.kubeletRootDir",
                raw.kubelet_root_dir,
                DEFAULT_KUBELET_ROOT,
            )?,
            iaas_network_provider: provider(raw.provider_url, raw.provider_timeout)?,
        })
    }
}

fn absolute(key: &str, value: Option<String>, default: &str) -> Result<PathBuf, FieldError> {
    let text = value.filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned());
    let path = PathBuf::from(&text);
    if path.is_absolute() { Ok(path) } else { Err(FieldError::new(key, format!("{text:?}"), "an absolute path")) }
}

fn provider(url: Option<String>, timeout: Option<Duration>) -> Result<Option<IaasNetworkProvider>, FieldError> {
    let http_request_timeout = timeout.unwrap_or(DEFAULT_PROVIDER_TIMEOUT);
    if http_request_timeout.is_zero() || http_request_timeout >= PROVIDER_TIMEOUT_BOUND {
        let key = "iaasNetworkProvider.httpRequestTimeout";
        return Err(FieldError::new(key, format!("{http_request_timeout:?}"), "more than 0 and less than 100 s"));
    }
    let Some(server_url) = url.filter(|url| !url.is_empty()) else { return Ok(None) };
    if !server_url.starts_with("http://") && !server_url.starts_with("https://") {
        let key = "iaasNetworkProvider.serverUrl";
        return Err(FieldError::new(key, format!("{server_url:?}"), "an http:// or https:// URL"));
    }
    Ok(Some(IaasNetworkProvider { server_url, http_request_timeout }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Config, Vec<String>), String> {
        let value = parse_yaml(text).map_err(|error| error.to_string())?;
        let (raw, unknown) = RawConfig::read(value).map_err(|error| error.to_string())?;
        Ok((Config::try_from(raw).map_err(|error| error.to_string())?, unknown))
    }

    #[test]
    fn the_charts_file_is_understood_without_a_warning() {
        let (config, unknown) = read(
            r#"
ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock
enableIPv4: true
enableIPv6: true
enableStatefulSet: true
enableKubevirtStaticIP: true
enableCleanOutdatedEndpoint: false
enableSpiderSubnet: true
enableAutoPoolForApplication: true
clusterSubnetDefaultFlexibleIPNumber: 1
enableIPConflictDetection: false
enableGatewayDetection: false
enableValidatingResourcesDeletedWebhook: false
tuneSysctlConfig: true
podResourceInject:
  enabled: false
  namespacesExclude: ["kube-system", "spiderpool"]
  namespacesInclude: []
agent:
  networkResourcePlugin:
    enabled: false
    kubeletRootDir: /var/lib/kubelet
    devicePluginAffinity: {nodeSelector: {}}
    resourceAdvertisement: {subENI: {rules: []}, masterNIC: {rules: []}}
iaasNetworkProvider:
  serverUrl: ""
  httpRequestTimeout: 30s
"#,
        )
        .unwrap();
        assert_eq!(unknown, Vec::<String>::new());
        assert!(config.enable_ipv4 && config.enable_ipv6 && config.enable_stateful_set && config.tune_sysctl_config);
        assert_eq!((config.auto_pool_redundant_ip_number, config.iaas_network_provider), (1, None));
    }

    #[test]
    fn a_missing_key_is_zero_and_the_socket_has_its_path() {
        for text in ["", "{}", "# only a comment\n"] {
            let (config, _) = read(text).unwrap();
            assert!(!config.enable_ipv4 && !config.enable_spider_subnet, "{text:?}");
            assert_eq!(config.ipam_unix_socket_path, Path::new(DEFAULT_SOCKET), "{text:?}");
        }
    }

    #[test]
    fn unknown_keys_are_reported_with_their_path() {
        let (_, unknown) = read("enableIPV4: true\niaasNetworkProvider: {url: x}\n").unwrap();
        assert_eq!(unknown, ["enableIPV4", "iaasNetworkProvider.url"]);
    }

    #[test]
    fn wrong_values_are_named_with_key_and_value() {
        for (text, expected) in [
            ("enableIPv4: maybe", r#"enableIPv4: "maybe" is not a boolean (true or false)"#),
            ("enableIPv6: 1", "enableIPv6: 1 is not a boolean (true or false)"),
            ("ipamUnixSocketPath: run/x.sock", r#"ipamUnixSocketPath: "run/x.sock" is not an absolute path"#),
            ("podResourceInject: true", "podResourceInject: true is not a mapping of keys"),
            ("podResourceInject: {namespacesExclude: [1]}", "podResourceInject.namespacesExclude: [1] is not a list"),
            (
                "iaasNetworkProvider: {httpRequestTimeout: 2m}",
                "iaasNetworkProvider.httpRequestTimeout: 120s is not more",
            ),
            (
                "iaasNetworkProvider: {httpRequestTimeout: 30}",
                "iaasNetworkProvider.httpRequestTimeout: 30 is not a dur",
            ),
            ("iaasNetworkProvider: {serverUrl: ftp://x}", r#"iaasNetworkProvider.serverUrl: "ftp://x" is not an http"#),
            ("clusterSubnetDefaultFlexibleIPNumber: -1", "clusterSubnetDefaultFlexibleIPNumber: -1 is not a number"),
            ("- a\n- b", "the file: [\"a\",\"b\"] is not a mapping of keys"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        assert!(read("enableIPv4: [").is_err());
    }

    #[test]
    fn an_absent_file_is_named() {
        let error = load(Path::new("/nowhere/conf.yml")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read configuration file /nowhere/conf.yml");
    }
}
