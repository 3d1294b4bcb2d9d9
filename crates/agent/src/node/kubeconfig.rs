//! The kubeconfig by which Multus, a process on the node, reaches the API server with the pod's service account.

use std::net::IpAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::file::{FileError, failed};

/// Where the API server is, by the environment of every container.
#[derive(Clone, Debug, clap::Args)]
pub struct ApiServer {
    /// Host of the API server.
    #[arg(long = "api-host", env = "KUBERNETES_SERVICE_HOST", value_name = "HOST", default_value = "")]
    pub host: String,
    /// Port of the API server.
    #[arg(long = "api-port", env = "KUBERNETES_SERVICE_PORT", value_name = "PORT", default_value_t = 443)]
    pub port: u16,
}

/// Why there is no kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file of the service account.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not in a cluster.
    #[error("--api-host (environment variable KUBERNETES_SERVICE_HOST) is empty")]
    NoHost,
    /// A token that is none.
    #[error("{0} is empty or not one word")]
    Token(std::path::PathBuf),
}

/// The kubeconfig for what `token`, `ca.crt` and `namespace` in the service account's folder are now.
pub fn render(account: &Path, server: &ApiServer, namespace: &str) -> Result<String, KubeconfigError> {
    let read = |name: &str| {
        let path = account.join(name);
        std::fs::read(&path).map_err(failed("read", &path))
    };
    let token = String::from_utf8_lossy(&read("token")?).trim().to_owned();
    if token.is_empty() || token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(KubeconfigError::Token(account.join("token")));
    }
    let (token, namespace) = (quoted(&token), quoted(namespace));
    let authority = STANDARD.encode(read("ca.crt")?);
    let url = quoted(&url(server)?);
    Ok(format!(
        "# Kubeconfig of the Multus CNI plugin. Kept up to date by spiderpool-agent; changes by hand are undone.
apiVersion: v1
kind: Config
clusters:
  - name: local
    cluster:
      server: {url}
      certificate-authority-data: {authority}
users:
  - name: multus
    user:
      token: {token}
contexts:
  - name: multus-context
    context:
      cluster: local
      user: multus
      namespace: {namespace}
current-context: multus-context
"
    ))
}

/// Brackets round an IPv6 address, and only round one: Go refuses them round IPv4.
fn url(server: &ApiServer) -> Result<String, KubeconfigError> {
    let host = server.host.trim().trim_start_matches('[').trim_end_matches(']');
    match host.parse() {
        _ if host.is_empty() => Err(KubeconfigError::NoHost),
        Ok(IpAddr::V6(address)) => Ok(format!("https://[{address}]:{}", server.port)),
        _ => Ok(format!("https://{host}:{}", server.port)),
    }
}

/// A YAML scalar; JSON's strings are some.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str) -> ApiServer {
        ApiServer { host: host.into(), port: 6443 }
    }

    #[test]
    fn only_ipv6_addresses_get_brackets() {
        for (host, expected) in [
            ("10.96.0.1", "https://10.96.0.1:6443"),
            ("[10.96.0.1]", "https://10.96.0.1:6443"),
            ("fd00::1", "https://[fd00::1]:6443"),
            ("[fd00::1]", "https://[fd00::1]:6443"),
            ("api.example.org", "https://api.example.org:6443"),
        ] {
            assert_eq!(url(&server(host)).unwrap(), expected);
        }
        assert!(url(&server("")).unwrap_err().to_string().contains("KUBERNETES_SERVICE_HOST"));
    }

    #[test]
    fn a_client_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "abc.def\n").unwrap();
        std::fs::write(dir.path().join("ca.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        let text = render(dir.path(), &server("fd00::1"), "kube-system").unwrap();
        let read = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://[fd00::1]:6443"));
        let authority = STANDARD.decode(cluster.certificate_authority_data.as_ref().unwrap()).unwrap();
        assert_eq!(authority, b"-----BEGIN CERTIFICATE-----\n");
        assert_eq!(read.current_context.as_deref(), Some("multus-context"));
        assert_eq!(read.contexts[0].context.as_ref().unwrap().namespace.as_deref(), Some("kube-system"));
    }

    #[test]
    fn tokens_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), "x").unwrap();
        let error = render(dir.path(), &server("h"), "n").unwrap_err().to_string();
        assert_eq!(error, format!("cannot read {}/token", dir.path().display()));
        for token in ["", " \n", "a b", "a\"\nb: c"] {
            std::fs::write(dir.path().join("token"), token).unwrap();
            assert!(matches!(render(dir.path(), &server("h"), "n"), Err(KubeconfigError::Token(_))), "{token:?}");
        }
    }
}
