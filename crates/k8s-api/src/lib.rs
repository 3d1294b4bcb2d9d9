//! The Kubernetes kinds Spiderpool owns or reads, their keys and labels, and the custom resource definitions.
//!
//! Everything here is a contract with users' YAML: field names, defaults and limits are those of the upstream API
//! group `spiderpool.spidernet.io/v2beta1`, plus `SpiderIP`. The types read tolerantly (an object no webhook has
//! touched must not stop a watch) and write exactly. [`all_crds`] derives the chart's CRD files from these types, so
//! that schema and code cannot drift. There is no client here: this crate only knows `kube-core`.

pub mod access;
pub mod convert;
pub mod coordinator;
pub mod crds;
pub mod endpoint;
pub mod ip;
pub mod labels;
pub mod multus;
pub mod nad;
pub mod pool;
pub mod records;
pub mod reserved;
mod resource;
mod schema;
pub mod subnet;

pub use coordinator::{CoordinatorSpec, SpiderCoordinator, SpiderCoordinatorStatus};
pub use crds::all_crds;
pub use endpoint::{SpiderEndpoint, SpiderEndpointStatus};
pub use ip::{Holder, IpState, SpiderIP, SpiderIPSpec};
pub use multus::{SpiderMultusConfig, SpiderMultusConfigSpec};
pub use nad::{NetworkAttachmentDefinition, NetworkAttachmentDefinitionSpec};
pub use pool::{Route, SpiderIPPool, SpiderIPPoolSpec, SpiderIPPoolStatus};
pub use reserved::{SpiderReservedIP, SpiderReservedIPSpec};
pub use resource::CustomResource;
pub use subnet::{SpiderSubnet, SpiderSubnetSpec, SpiderSubnetStatus};

/// The API group of every Spiderpool kind.
pub const GROUP: &str = "spiderpool.spidernet.io";
/// The only version of the API group: served and stored.
pub const VERSION: &str = "v2beta1";
/// `group/version` as it stands in `apiVersion`.
pub const API_VERSION: &str = "spiderpool.spidernet.io/v2beta1";
/// The finalizer of every Spiderpool object: the bare group name.
pub const FINALIZER: &str = "spiderpool.spidernet.io";

/// Go's `int` in a schema: an integer without a format.
pub type Int = isize;
/// Go's `uint` in a schema: an integer without a format.
pub type Uint = usize;
