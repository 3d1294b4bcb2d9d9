//! The SpiderMultusConfig of the default network.

use std::path::Path;

use ipam::selector::is_dns_subdomain;
use k8s_api::{SpiderMultusConfig, SpiderMultusConfigSpec, labels, multus::CniType};
use kube::ResourceExt as _;

use crate::coordinator::reconcile::default_network;

/// Calico's network has a name of its own, under which Multus looks for it; the object is called after the product.
const CALICO: (&str, &str) = ("k8s-pod-network", "calico");

/// Why no default network can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be read.
    #[error("environment variable SPIDERPOOL_INIT_DEFAULT_CNI_DIR: cannot read directory {dir:?}")]
    Directory {
        /// The directory.
        dir: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No object can have that name.
    #[error(
        "the first CNI configuration in {dir} is of network {name:?}, which cannot be the name of an object: set the value multus.multusCNI.defaultCniCRName"
    )]
    Name {
        /// The directory.
        dir: String,
        /// Name of the network.
        name: String,
    },
}

/// One without configuration: Multus then takes the file of that network name on each node. So a detected macvlan or sriov network
/// needs no block here, which nobody could fill.
pub fn named(namespace: &str, name: &str) -> SpiderMultusConfig {
    let spec = SpiderMultusConfigSpec {
        cni_type: Some(CniType::Custom),
        custom_cni: Some(String::new()),
        ..SpiderMultusConfigSpec::default()
    };
    let mut network = SpiderMultusConfig::new(name, spec);
    network.metadata.namespace = Some(namespace.to_owned());
    network
}

/// The network of the first CNI configuration file; `default` without any.
pub async fn detected(namespace: &str, dir: &Path) -> Result<SpiderMultusConfig, Error> {
    let shown = dir.display().to_string();
    let failed = |source| Error::Directory { dir: dir.display().to_string(), source };
    drop(tokio::fs::read_dir(dir).await.map_err(failed)?); // absent is wrong, empty is not
    let found = default_network(dir).await.map_err(failed)?;
    let name = found.unwrap_or_else(|| "default".to_owned());
    if !is_dns_subdomain(&name) {
        return Err(Error::Name { dir: shown, name });
    }
    if name == CALICO.0 {
        let mut network = named(namespace, CALICO.1);
        network.annotations_mut().insert(labels::MULTUS_CR_NAME.to_owned(), name);
        return Ok(network);
    }
    Ok(named(namespace, &name))
}
