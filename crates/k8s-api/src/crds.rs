//! The custom resource definitions: names, scopes and columns of each kind, joined with the schemas of its types.

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
        CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
        CustomResourceSubresources, CustomResourceValidation,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube_core::Resource;
use serde_json::{Value, json};

use crate::{
    CustomResource, NetworkAttachmentDefinition, SpiderCoordinator, SpiderEndpoint, SpiderIP, SpiderIPPool,
    SpiderMultusConfig, SpiderReservedIP, SpiderSubnet, coordinator, endpoint, ip, multus, nad, pool, reserved, schema,
    subnet,
};

/// Every definition with the name of its file in `charts/spiderpool/crds`.
pub fn all_crds() -> Vec<(String, CustomResourceDefinition)> {
    let spiderpool = [
        SpiderCoordinator::definition(),
        SpiderEndpoint::definition(),
        SpiderIPPool::definition(),
        SpiderIP::definition(),
        SpiderMultusConfig::definition(),
        SpiderReservedIP::definition(),
        SpiderSubnet::definition(),
    ];
    let mut all: Vec<_> =
        spiderpool.into_iter().map(|crd| (format!("{}_{}.yaml", crate::GROUP, crd.spec.names.plural), crd)).collect();
    all.insert(
        0,
        ("k8s.cni.cncf.io_networkattachmentdefinitions_crd.yaml".to_owned(), NetworkAttachmentDefinition::definition()),
    );
    all
}

/// The definition as the chart's file holds it.
pub fn to_yaml(crd: &CustomResourceDefinition) -> String {
    let yaml = serde_saphyr::to_string(crd).expect("a definition is YAML");
    format!("# Generated from the types in crates/k8s-api by `cargo xtask crds`.\n---\n{yaml}")
}

/// What the types do not tell about a kind.
struct Names {
    scope: &'static str,
    singular: &'static str,
    short: &'static str,
    categories: &'static [&'static str],
    status: Status,
    columns: Vec<CustomResourceColumnDefinition>,
}

/// How a kind's definition speaks of subresources.
#[derive(Clone, Copy)]
enum Status {
    /// `/status` is written apart from the main resource.
    Subresource,
    /// No subresource, said explicitly, as upstream does.
    Main,
    /// No subresource.
    None,
}

fn spiderpool(scope: &'static str, singular: &'static str, short: &'static str, status: Status) -> Names {
    Names { scope, singular, short, categories: &["spiderpool"], status, columns: Vec::new() }
}

impl Names {
    fn columns(mut self, columns: impl IntoIterator<Item = CustomResourceColumnDefinition>) -> Self {
        self.columns.extend(columns);
        self
    }

    fn definition<K: Resource<DynamicType = ()>>(
        self,
        description: &str,
        parts: &[(&str, Value)],
    ) -> CustomResourceDefinition {
        let (group, plural) = (K::group(&()).into_owned(), K::plural(&()).into_owned());
        let kind = K::kind(&()).into_owned();
        let list = |items: &[&str]| (!items.is_empty()).then(|| items.iter().map(|item| (*item).to_owned()).collect());
        let schema = serde_json::from_value(schema::object(description, parts))
            .expect("a structural schema fits into JSONSchemaProps");
        CustomResourceDefinition {
            metadata: ObjectMeta { name: Some(format!("{plural}.{group}")), ..Default::default() },
            spec: CustomResourceDefinitionSpec {
                group,
                names: CustomResourceDefinitionNames {
                    categories: list(self.categories),
                    list_kind: Some(format!("{kind}List")),
                    kind,
                    plural,
                    short_names: list(&[self.short]),
                    singular: Some(self.singular.to_owned()),
                },
                scope: self.scope.to_owned(),
                versions: vec![CustomResourceDefinitionVersion {
                    name: K::version(&()).into_owned(),
                    served: true,
                    storage: true,
                    additional_printer_columns: (!self.columns.is_empty()).then_some(self.columns),
                    schema: Some(CustomResourceValidation { open_api_v3_schema: Some(schema) }),
                    subresources: self.status.subresources(),
                    ..Default::default()
                }],
                ..Default::default()
            },
            status: None,
        }
    }
}

impl Status {
    fn subresources(self) -> Option<CustomResourceSubresources> {
        let status = matches!(self, Self::Subresource).then(|| CustomResourceSubresourceStatus(json!({})));
        match self {
            Self::None => None,
            Self::Subresource | Self::Main => Some(CustomResourceSubresources { scale: None, status }),
        }
    }
}

/// A column; `description` as upstream's columns have it.
fn column(name: &str, kind: &str, path: &str, priority: i32, description: &str) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: kind.to_owned(),
        json_path: path.to_owned(),
        priority: (priority > 0).then_some(priority),
        description: (!description.is_empty()).then(|| description.to_owned()),
        format: None,
    }
}

impl CustomResource for SpiderIPPool {
    fn definition() -> CustomResourceDefinition {
        spiderpool("Cluster", "spiderippool", "sp", Status::Subresource)
            .columns([
                column("VERSION", "string", ".spec.ipVersion", 0, "ipVersion"),
                column("SUBNET", "string", ".spec.subnet", 0, "subnet"),
                column("ALLOCATED-IP-COUNT", "integer", ".status.allocatedIPCount", 0, "allocatedIPCount"),
                column("TOTAL-IP-COUNT", "integer", ".status.totalIPCount", 0, "totalIPCount"),
                column("DEFAULT", "boolean", ".spec.default", 0, "default"),
                column("DISABLE", "boolean", ".spec.disable", 10, "disable"),
                column("NodeName", "string", ".spec.nodeName", 10, "nodeName"),
                column("MultusName", "string", ".spec.multusName", 10, "multusName"),
                column(
                    "APP-NAMESPACE",
                    "string",
                    r".spec.podAffinity.matchLabels['ipam\.spidernet\.io/app\-namespace']",
                    10,
                    "podAppNamespace",
                ),
            ])
            .definition::<Self>(
                "SpiderIPPool is the Schema for the spiderippools API.",
                &[
                    ("spec", schema::of::<pool::SpiderIPPoolSpec>()),
                    ("status", schema::of::<pool::SpiderIPPoolStatus>()),
                ],
            )
    }
}

impl CustomResource for SpiderSubnet {
    fn definition() -> CustomResourceDefinition {
        spiderpool("Cluster", "spidersubnet", "ss", Status::Subresource)
            .columns([
                column("VERSION", "string", ".spec.ipVersion", 0, "ipVersion"),
                column("SUBNET", "string", ".spec.subnet", 0, "subnet"),
                column("ALLOCATED-IP-COUNT", "integer", ".status.allocatedIPCount", 0, "allocatedIPCount"),
                column("TOTAL-IP-COUNT", "integer", ".status.totalIPCount", 0, "totalIPCount"),
            ])
            .definition::<Self>(
                "SpiderSubnet is the Schema for the spidersubnets API.",
                &[
                    ("spec", schema::of::<subnet::SpiderSubnetSpec>()),
                    ("status", schema::of::<subnet::SpiderSubnetStatus>()),
                ],
            )
    }
}

impl CustomResource for SpiderReservedIP {
    fn definition() -> CustomResourceDefinition {
        spiderpool("Cluster", "spiderreservedip", "sr", Status::None)
            .columns([column("VERSION", "string", ".spec.ipVersion", 0, "ipVersion")])
            .definition::<Self>(
                "SpiderReservedIP is the Schema for the spiderreservedips API.",
                &[("spec", schema::of::<reserved::SpiderReservedIPSpec>())],
            )
    }
}

impl CustomResource for SpiderEndpoint {
    fn definition() -> CustomResourceDefinition {
        spiderpool("Namespaced", "spiderendpoint", "se", Status::Main)
            .columns([
                column("INTERFACE", "string", ".status.current.ips[0].interface", 0, "interface"),
                column("IPV4POOL", "string", ".status.current.ips[0].ipv4Pool", 0, "ipv4Pool"),
                column("IPV4", "string", ".status.current.ips[0].ipv4", 0, "ipv4"),
                column("IPV6POOL", "string", ".status.current.ips[0].ipv6Pool", 0, "ipv6Pool"),
                column("IPV6", "string", ".status.current.ips[0].ipv6", 0, "ipv6"),
                column("NODE", "string", ".status.current.node", 0, "node"),
            ])
            .definition::<Self>(
                "SpiderEndpoint is the Schema for the spiderendpoints API.",
                &[("status", schema::of::<endpoint::SpiderEndpointStatus>())],
            )
    }
}

impl CustomResource for SpiderCoordinator {
    fn definition() -> CustomResourceDefinition {
        spiderpool("Cluster", "spidercoordinator", "scc", Status::Subresource).definition::<Self>(
            "SpiderCoordinator is the Schema for the spidercoordinators API.",
            &[
                ("spec", schema::of::<coordinator::CoordinatorSpec>()),
                ("status", schema::of::<coordinator::SpiderCoordinatorStatus>()),
            ],
        )
    }
}

impl CustomResource for SpiderMultusConfig {
    fn definition() -> CustomResourceDefinition {
        spiderpool("Namespaced", "spidermultusconfig", "smc", Status::None).definition::<Self>(
            "SpiderMultusConfig is the Schema for the spidermultusconfigs API.",
            &[("spec", schema::of::<multus::SpiderMultusConfigSpec>())],
        )
    }
}

impl CustomResource for SpiderIP {
    fn definition() -> CustomResourceDefinition {
        let mut crd = spiderpool("Cluster", "spiderip", "sip", Status::None)
            .columns([
                column("ADDRESS", "string", ".spec.address", 0, ""),
                column("POOL", "string", ".spec.pool", 0, ""),
                column("STATE", "string", ".spec.state", 0, ""),
                column("NAMESPACE", "string", ".spec.pod.namespace", 0, ""),
                column("POD", "string", ".spec.pod.name", 0, ""),
                column("INTERFACE", "string", ".spec.pod.interface", 0, ""),
                // The label serves both kinds of holder; a column has only one path.
                column("NODE", "string", r".metadata.labels['ipam\.spidernet\.io/node']", 0, ""),
                column("AGE", "date", ".metadata.creationTimestamp", 0, ""),
            ])
            .definition::<Self>(
                "SpiderIP is one address in use: creating it is the allocation.",
                &[("spec", schema::of::<ip::Stored>())],
            );
        // Without a spec there is no holder: nothing could be said to hold the address.
        let schema = crd.spec.versions[0].schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        schema.expect("set a few lines above").required = Some(vec!["spec".to_owned()]);
        crd
    }
}

impl CustomResource for NetworkAttachmentDefinition {
    fn definition() -> CustomResourceDefinition {
        Names {
            scope: "Namespaced",
            singular: "network-attachment-definition",
            short: "net-attach-def",
            categories: &[],
            status: Status::None,
            columns: Vec::new(),
        }
        .definition::<Self>(
            "NetworkAttachmentDefinition is a CRD schema specified by the Network Plumbing Working Group to express the \
             intent for attaching pods to one or more logical or physical networks. More information available at: \
             https://github.com/k8snetworkplumbingwg/multi-net-spec",
            &[("spec", schema::of::<nad::NetworkAttachmentDefinitionSpec>())],
        )
    }
}
