//! The configuration of the meta plugin, by which the runtime learns that pods of this node have several networks: the thin plugin of
//! Multus, with upstream's file names and keys, or our own `multinet`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Multus' configuration.
pub const MULTUS_FILE: &str = "00-multus.conf";
/// The folder of Multus' kubeconfig.
pub const MULTUS_FOLDER: &str = "multus.d";
/// Multus' kubeconfig, in [`MULTUS_FOLDER`].
pub const KUBECONFIG_FILE: &str = "multus.kubeconfig";
/// multinet's configuration.
pub const MULTINET_FILE: &str = "00-multinet.conflist";

/// Who plays the meta plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Implementation {
    /// The Multus project's thin plugin.
    Multus,
    /// Ours, which asks the agent and needs no kubeconfig.
    Multinet,
}

/// What the configuration says beside the default network.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Who plays the meta plugin.
    #[arg(long, env = "SPIDERPOOL_MULTUS_IMPLEMENTATION", value_enum, default_value_t = Implementation::Multus)]
    pub implementation: Implementation,
    /// Path on the node of the CNI configuration folder.
    #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d")]
    pub host_cni_dir: PathBuf,
    /// Path on the node of the CNI plugin folder.
    #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin")]
    pub host_bin_dir: PathBuf,
    /// Where NetworkAttachmentDefinitions without namespace are, and those that every namespace may use.
    #[arg(long, env = "SPIDERPOOL_POD_NAMESPACE", value_name = "NAMESPACE", value_parser = namespace)]
    pub namespace: String,
    /// Multus' log level.
    #[arg(long, env = "MULTUS_LOG_LEVEL", value_name = "LEVEL", default_value = "debug", value_parser = ["debug", "verbose", "error", "panic"])]
    pub log_level: String,
    /// Multus' log file on the node; empty: none.
    #[arg(long, env = "MULTUS_LOG_FILE", value_name = "FILE", default_value = "/var/log/multus.log")]
    pub log_file: String,
    /// Path on the node of the agent's socket, for multinet.
    #[arg(long, value_name = "FILE", default_value = wire::agent::DEFAULT_SOCKET)]
    pub agent_socket: PathBuf,
}

fn namespace(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        name => Ok(name.to_owned()),
    }
}

impl Options {
    /// The name of the file that the chosen plugin is configured by.
    pub fn file(&self) -> &'static str {
        match self.implementation {
            Implementation::Multus => MULTUS_FILE,
            Implementation::Multinet => MULTINET_FILE,
        }
    }

    /// The configuration with this default network.
    pub fn render(&self, cluster_network: &str) -> String {
        let configuration = match self.implementation {
            Implementation::Multus => self.multus(cluster_network),
            Implementation::Multinet => self.multinet(cluster_network),
        };
        format!("{configuration:#}\n")
    }

    fn multus(&self, cluster_network: &str) -> Value {
        let mut configuration = json!({
            "cniVersion": "0.3.1",
            "name": "multus-cni-network",
            "type": "multus",
            "confDir": self.host_cni_dir,
            "binDir": self.host_bin_dir,
            "logLevel": self.log_level,
            "capabilities": {"portMappings": true, "bandwidth": true},
            "namespaceIsolation": false,
            "clusterNetwork": cluster_network,
            "defaultNetworks": [],
            "multusNamespace": self.namespace,
            "systemNamespaces": [],
            "kubeconfig": self.host_kubeconfig(),
        });
        if !self.log_file.is_empty() {
            configuration["logFile"] = self.log_file.as_str().into();
        }
        configuration
    }

    fn multinet(&self, cluster_network: &str) -> Value {
        let mut plugin = json!({
            "type": "multinet",
            "confDir": self.host_cni_dir,
            "binDir": self.host_bin_dir,
            "capabilities": {"portMappings": true, "bandwidth": true},
            "clusterNetwork": cluster_network,
            "defaultNetworks": [],
            "multusNamespace": self.namespace,
            "systemNamespaces": [],
        });
        if self.agent_socket != Path::new(wire::agent::DEFAULT_SOCKET) {
            plugin["ipam_unix_socket_path"] = json!(self.agent_socket);
        }
        json!({"cniVersion": "1.0.0", "name": "multinet", "plugins": [plugin]})
    }

    /// Path on the node of Multus' kubeconfig.
    fn host_kubeconfig(&self) -> PathBuf {
        self.host_cni_dir.join(MULTUS_FOLDER).join(KUBECONFIG_FILE)
    }

    /// Whether a `00-multus.conf` is from us (or upstream's Spiderpool) and not from a Multus that somebody else installed.
    pub fn is_ours(&self, text: &[u8]) -> bool {
        serde_json::from_slice::<Value>(text).is_ok_and(|found| {
            found["type"] == "multus" && found["kubeconfig"].as_str().map(Path::new) == Some(&self.host_kubeconfig())
        })
    }
}

#[cfg(test)]
pub(super) fn options(implementation: Implementation) -> Options {
    Options {
        implementation,
        host_cni_dir: "/etc/cni/net.d".into(),
        host_bin_dir: "/opt/cni/bin".into(),
        namespace: "kube-system".into(),
        log_level: "debug".into(),
        log_file: "/var/log/multus.log".into(),
        agent_socket: wire::agent::DEFAULT_SOCKET.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multus_is_told_what_upstream_tells_it() {
        let found: Value =
            serde_json::from_str(&options(Implementation::Multus).render("kube-system/ipvlan-eth0")).unwrap();
        let expected = json!({
            "cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus",
            "confDir": "/etc/cni/net.d", "binDir": "/opt/cni/bin", "logLevel": "debug", "logFile": "/var/log/multus.log",
            "capabilities": {"portMappings": true, "bandwidth": true},
            "namespaceIsolation": false, "clusterNetwork": "kube-system/ipvlan-eth0", "defaultNetworks": [],
            "multusNamespace": "kube-system", "systemNamespaces": [],
            "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn settings_reach_the_file() {
        let mut options = options(Implementation::Multinet);
        options.agent_socket = "/run/other.sock".into();
        options.host_bin_dir = "/usr/libexec/cni".into();
        let found: Value = serde_json::from_str(&options.render("flat")).unwrap();
        let plugin = &found["plugins"][0];
        assert_eq!((&found["name"], &plugin["type"]), (&json!("multinet"), &json!("multinet")));
        assert_eq!((&plugin["clusterNetwork"], &plugin["binDir"]), (&json!("flat"), &json!("/usr/libexec/cni")));
        assert_eq!(plugin["ipam_unix_socket_path"], "/run/other.sock");
        options.implementation = Implementation::Multus;
        options.log_file = String::new();
        let found: Value = serde_json::from_str(&options.render("flat")).unwrap();
        assert!(found.get("logFile").is_none());
    }

    #[test]
    fn somebody_elses_multus_is_told_apart() {
        let options = options(Implementation::Multinet);
        let ours = super::options(Implementation::Multus).render("x");
        assert!(options.is_ours(ours.as_bytes()));
        for other in [
            r#"{"type": "multus", "kubeconfig": "/etc/kubernetes/cni/net.d/multus.d/multus.kubeconfig"}"#,
            r#"{"type": "multus-shim"}"#,
            "no JSON",
        ] {
            assert!(!options.is_ours(other.as_bytes()), "{other}");
        }
    }
}
