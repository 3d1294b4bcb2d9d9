//! The plugin's own keys: those of Multus, as far as they make sense without a kubeconfig.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use wire::agent::{DEFAULT_SOCKET, Network};
use wire::cni::{Call, CniError, SpecVersion, code};

use super::delegate::NetworkList;
use super::files;

const DEFAULT_CONF_DIR: &str = "/etc/cni/multus/net.d";
const DEFAULT_CACHE_DIR: &str = "/var/lib/cni/multinet";
const DEFAULT_BIN_DIR: &str = "/opt/cni/bin";
const DEFAULT_NAMESPACE: &str = "kube-system";

/// The keys as written. Others that Multus knows (`kubeconfig`, log settings) are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    #[serde(rename = "clusterNetwork")]
    cluster_network: Option<String>,
    #[serde(rename = "defaultNetworks")]
    default_networks: Option<Vec<String>>,
    #[serde(rename = "systemNamespaces")]
    system_namespaces: Option<Vec<String>>,
    #[serde(rename = "multusNamespace")]
    multus_namespace: Option<String>,
    #[serde(rename = "namespaceIsolation")]
    namespace_isolation: Option<bool>,
    #[serde(rename = "globalNamespaces")]
    global_namespaces: Option<String>,
    #[serde(rename = "confDir")]
    conf_dir: Option<PathBuf>,
    #[serde(rename = "cniDir")]
    cni_dir: Option<PathBuf>,
    #[serde(rename = "binDir")]
    bin_dir: Option<PathBuf>,
    #[serde(rename = "readinessindicatorfile", alias = "readinessIndicatorFile")]
    readiness_file: Option<PathBuf>,
    delegates: Option<Vec<Value>>,
    #[serde(rename = "runtimeConfig")]
    runtime_config: Option<Map<String, Value>>,
    #[serde(rename = "ipam_unix_socket_path", alias = "agentSocket")]
    socket: Option<PathBuf>,
}

/// The default network of pods whose annotation names none.
#[derive(Debug)]
pub(super) enum DefaultNetwork {
    /// A NetworkAttachmentDefinition, `name` or `namespace/name`, or a file's network of that name.
    Attachment(String),
    /// A configuration file, or a folder whose first one counts.
    Path(PathBuf),
    /// In the configuration itself (`delegates`).
    Inline(Value),
    /// The agent's.
    Unset,
}

/// What the plugin believes.
#[derive(Debug)]
pub(super) struct Config {
    pub socket: PathBuf,
    pub default_network: DefaultNetwork,
    /// Attached to every pod outside the system namespaces.
    pub default_networks: Vec<String>,
    pub system_namespaces: Vec<String>,
    /// Namespace of networks that name none; empty: the agent's.
    pub multus_namespace: String,
    isolation: Option<Vec<String>>,
    pub conf_dir: PathBuf,
    pub cache_dir: PathBuf,
    pub bin_dir: PathBuf,
    pub readiness_file: Option<PathBuf>,
    /// What the runtime passed for this plugin's capabilities; it is for the default network.
    pub runtime_config: Map<String, Value>,
    version: SpecVersion,
    own_name: String,
}

impl Config {
    pub fn of(call: &Call) -> Result<Self, CniError> {
        let raw: Raw = call.plugin_conf()?;
        let path = |given: Option<PathBuf>, default: &str| set(given).unwrap_or_else(|| default.into());
        let multus_namespace = raw.multus_namespace.unwrap_or_default();
        let isolation = raw.namespace_isolation.unwrap_or_default().then(|| {
            let global =
                raw.global_namespaces.as_deref().unwrap_or("default").split(',').map(|name| name.trim().to_owned());
            let own = if multus_namespace.is_empty() { DEFAULT_NAMESPACE.to_owned() } else { multus_namespace.clone() };
            global.chain([own]).filter(|name| !name.is_empty()).collect()
        });
        Ok(Self {
            socket: path(raw.socket, DEFAULT_SOCKET),
            default_network: default_network(raw.cluster_network, raw.delegates)?,
            default_networks: raw.default_networks.unwrap_or_default(),
            system_namespaces: raw.system_namespaces.unwrap_or_else(|| vec![DEFAULT_NAMESPACE.to_owned()]),
            multus_namespace,
            isolation,
            conf_dir: path(raw.conf_dir, DEFAULT_CONF_DIR),
            cache_dir: path(raw.cni_dir, DEFAULT_CACHE_DIR),
            bin_dir: path(raw.bin_dir, DEFAULT_BIN_DIR),
            readiness_file: set(raw.readiness_file),
            runtime_config: raw.runtime_config.unwrap_or_default(),
            version: call.version,
            own_name: call.conf.name.clone(),
        })
    }

    /// The default network when it is a file or written in the configuration.
    pub fn local_default(&self) -> Result<Option<NetworkList>, CniError> {
        match &self.default_network {
            DefaultNetwork::Unset => Ok(None),
            DefaultNetwork::Attachment(name) if name.contains('/') => Ok(None),
            DefaultNetwork::Attachment(name) => files::named(&self.conf_dir, name),
            DefaultNetwork::Path(path) => self.of_path(path).map(Some),
            DefaultNetwork::Inline(value) => {
                NetworkList::parse("delegates[0]", value.to_string().as_bytes(), &self.own_name, self.version).map(Some)
            }
        }
    }

    fn of_path(&self, path: &Path) -> Result<NetworkList, CniError> {
        if path.is_dir() {
            return files::first(path, &self.own_name)?.ok_or_else(|| {
                CniError::new(
                    code::INVALID_CONFIG,
                    format!("multinet: clusterNetwork: no network configuration in folder {}", path.display()),
                )
            });
        }
        files::read(path)
    }

    /// With `namespaceIsolation` pods may use networks of their own namespace and of the global ones only.
    pub fn check_isolation<'n>(
        &self,
        pod_namespace: &str,
        networks: impl Iterator<Item = &'n Network>,
    ) -> Result<(), CniError> {
        let Some(global) = &self.isolation else { return Ok(()) };
        let mut foreign = networks.filter(|one| one.namespace != pod_namespace && !global.contains(&one.namespace));
        let Some(network) = foreign.next() else { return Ok(()) };
        let msg = format!(
            "multinet: namespaceIsolation: a pod of namespace {pod_namespace} may not use NetworkAttachmentDefinition {}/{}, only those of its own namespace and of {}",
            network.namespace,
            network.name,
            global.join(", ")
        );
        Err(CniError::new(code::INVALID_CONFIG, msg))
    }
}

fn default_network(named: Option<String>, delegates: Option<Vec<Value>>) -> Result<DefaultNetwork, CniError> {
    let inline = delegates.unwrap_or_default();
    match (named.filter(|name| !name.is_empty()), inline.len()) {
        (Some(name), 0) if name.starts_with('/') => Ok(DefaultNetwork::Path(name.into())),
        (Some(name), 0) => Ok(DefaultNetwork::Attachment(name)),
        (None, 0) => Ok(DefaultNetwork::Unset),
        (None, 1) => Ok(DefaultNetwork::Inline(inline.into_iter().next().unwrap_or_default())),
        (None, more) => Err(CniError::new(
            code::INVALID_CONFIG,
            format!("network configuration: delegates has {more} entries, only one is supported"),
        )),
        (Some(_), _) => Err(CniError::new(
            code::INVALID_CONFIG,
            "network configuration: clusterNetwork and delegates exclude each other",
        )),
    }
}

fn set(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}
