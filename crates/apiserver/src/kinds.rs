//! What is served: the built-in kinds and those that CustomResourceDefinitions add.
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::schema::{self, CompiledCrd, Schema};
use crate::storage::StoreId;
use crate::table::Columns;

/// One served version of one resource.
#[derive(Debug)]
pub struct Resource {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Plural name, as in paths.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is served.
    pub status: bool,
    /// Paths of replicas for `/scale`.
    pub scale: Option<Scale>,
    /// Where objects are stored.
    pub store: StoreId,
    /// The version that stored objects carry.
    pub stored_version: String,
    /// Whether the kind is built in.
    pub builtin: bool,
    /// Schema, if there is one.
    pub schema: Option<Arc<Schema>>,
    /// The schema's source, for custom resources.
    pub open_api: Option<Value>,
    /// Printer columns.
    pub columns: Columns,
    /// Field selector paths besides name and namespace.
    pub selectable: Vec<String>,
}

/// Where `/scale` finds its numbers.
#[derive(Debug, Clone)]
pub struct Scale {
    /// `spec.replicas`.
    pub spec: String,
    /// `status.replicas`.
    pub status: String,
    /// Path of the selector, as text or as a LabelSelector.
    pub selector: Option<String>,
}

impl Resource {
    /// `plural` or `plural.group`, as messages name it.
    pub fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// `Kind` or `Kind.group`, as some messages name it.
    pub fn qualified_kind(&self) -> String {
        match self.group.as_str() {
            "" => self.kind.clone(),
            group => format!("{}.{group}", self.kind),
        }
    }

    /// `version` or `group/version`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Key of an object in the store.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.namespaced {
            true => format!("{namespace}/{name}"),
            false => name.to_owned(),
        }
    }

    /// Name of the definition of a custom resource.
    pub fn definition(&self) -> Option<String> {
        (!self.builtin).then(|| self.qualified())
    }

    /// Whether this is the built-in kind of that name.
    pub fn is(&self, store: &str) -> bool {
        &*self.store == store
    }

    /// Whether a field selector may use the path.
    pub fn selects(&self, path: &str) -> bool {
        path == "metadata.name"
            || (path == "metadata.namespace" && self.namespaced)
            || self.selectable.iter().any(|p| p == path)
    }

    /// From the stored form to this version. Versions of a custom resource differ in nothing but their name.
    pub fn rewrite_for_client(&self, value: &mut Value) {
        if self.group == "events.k8s.io" {
            rename(value, EVENT_FIELDS);
        }
        value["apiVersion"] = self.api_version().into();
    }

    /// From this version to the stored form.
    pub fn rewrite_for_store(&self, value: &mut Value) {
        if self.group == "events.k8s.io" {
            rename(value, EVENT_FIELDS.map(|(core, events)| (events, core)));
            value["apiVersion"] = "v1".into();
        } else {
            value["apiVersion"] = api_version(&self.group, &self.stored_version).into();
        }
    }
}

fn api_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

/// Fields of core/v1 Event and their names in events.k8s.io/v1.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename<const N: usize>(value: &mut Value, names: [(&str, &str); N]) {
    let Some(object) = value.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = object.remove(from) {
            object.insert(to.to_owned(), value);
        }
    }
}

/// Everything served at one instant.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By group, version, plural.
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
    /// Versions of each group, preferred first; core first, then built-ins, then custom groups.
    groups: Vec<(String, Vec<String>)>,
}

impl Catalog {
    /// The built-ins and the given definitions that are established.
    pub fn new(definitions: &[Value]) -> Self {
        let mut all: Vec<Resource> = builtins();
        for definition in definitions {
            all.extend(custom(definition));
        }
        let mut catalog = Self::default();
        for resource in all {
            catalog.add(resource);
        }
        for (_, versions) in &mut catalog.groups {
            versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        }
        catalog
    }

    fn add(&mut self, resource: Resource) {
        let (group, version) = (resource.group.clone(), resource.version.clone());
        match self.groups.iter_mut().find(|(g, _)| *g == group) {
            Some((_, versions)) if !versions.contains(&version) => versions.push(version.clone()),
            Some(_) => {}
            None => self.groups.push((group.clone(), vec![version.clone()])),
        }
        self.resources.insert((group, version, resource.plural.clone()), Arc::new(resource));
    }

    /// A resource by its place in the path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// A resource by the store its objects are in, in the version they are stored in.
    pub fn by_store(&self, store: &str) -> Option<&Arc<Resource>> {
        let mut all = self.resources.values().filter(|r| &*r.store == store && r.group != "events.k8s.io");
        let first = all.clone().next();
        all.find(|r| r.version == r.stored_version).or(first)
    }

    /// A resource by group and kind, in any version.
    pub fn by_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.values().find(|r| r.group == group && r.kind == kind)
    }

    /// Groups with their versions, preferred first.
    pub fn groups(&self) -> &[(String, Vec<String>)] {
        &self.groups
    }

    /// Resources of one group and version by plural.
    pub fn of<'a>(&'a self, group: &str, version: &str) -> impl Iterator<Item = &'a Arc<Resource>> {
        let from = (group.to_owned(), version.to_owned(), String::new());
        let (group, version) = (group.to_owned(), version.to_owned());
        self.resources.range(from..).map(|(_, r)| r).take_while(move |r| r.group == group && r.version == version)
    }

    /// Everything.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }
}

/// Kubernetes' version priority: GA over beta over alpha, then by number.
fn version_rank(version: &str) -> (u8, u32, u32) {
    let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let major = digits(rest);
    let number = |s: &str| digits(s).parse().unwrap_or(0);
    let (stage, minor) = match &rest[major.len()..] {
        "" => (3, 0),
        tail if tail.starts_with("beta") => (2, number(&tail[4..])),
        tail if tail.starts_with("alpha") => (1, number(&tail[5..])),
        _ => (0, 0),
    };
    (stage, number(&major), minor)
}

/// group, version, kind, plural, short names, namespaced, status, scale, categories
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    bool,
    bool,
    bool,
    &'static [&'static str],
);

#[rustfmt::skip]
const BUILTINS: &[Row] = &[
    ("", "v1", "Namespace", "namespaces", &["ns"], false, true, false, &[]),
    ("", "v1", "Node", "nodes", &["no"], false, true, false, &[]),
    ("", "v1", "Pod", "pods", &["po"], true, true, false, &["all"]),
    ("", "v1", "Service", "services", &["svc"], true, true, false, &["all"]),
    ("", "v1", "Endpoints", "endpoints", &["ep"], true, false, false, &[]),
    ("", "v1", "ConfigMap", "configmaps", &["cm"], true, false, false, &[]),
    ("", "v1", "Secret", "secrets", &[], true, false, false, &[]),
    ("", "v1", "ServiceAccount", "serviceaccounts", &["sa"], true, false, false, &[]),
    ("", "v1", "Event", "events", &["ev"], true, false, false, &[]),
    ("apps", "v1", "DaemonSet", "daemonsets", &["ds"], true, true, false, &["all"]),
    ("apps", "v1", "Deployment", "deployments", &["deploy"], true, true, true, &["all"]),
    ("apps", "v1", "ReplicaSet", "replicasets", &["rs"], true, true, true, &["all"]),
    ("apps", "v1", "StatefulSet", "statefulsets", &["sts"], true, true, true, &["all"]),
    ("batch", "v1", "Job", "jobs", &[], true, true, false, &["all"]),
    ("coordination.k8s.io", "v1", "Lease", "leases", &[], true, false, false, &[]),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", &[], true, false, false, &[]),
    ("events.k8s.io", "v1", "Event", "events", &["ev"], true, false, false, &[]),
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", &[], false, false, false, &["api-extensions"]),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", &[], false, false, false, &["api-extensions"]),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", &["crd", "crds"], false, true, false, &["api-extensions"]),
];

/// Field selector paths of a built-in store.
pub fn builtin_selectable(store: &str) -> Vec<String> {
    let paths: &[&str] = match store {
        "/pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "/namespaces" => &["status.phase"],
        "/nodes" => &["spec.unschedulable"],
        "/secrets" => &["type"],
        "/services" => &["spec.clusterIP", "spec.type"],
        "/events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "apps/replicasets" => &["status.replicas"],
        "batch/jobs" => &["status.successful"],
        _ => &[],
    };
    paths.iter().map(|p| (*p).to_owned()).collect()
}

fn builtins() -> Vec<Resource> {
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    BUILTINS
        .iter()
        .map(|&(group, version, kind, plural, short, namespaced, status, scale, categories)| {
            let home = if group == "events.k8s.io" { "" } else { group };
            let store: StoreId = format!("{home}/{plural}").into();
            Resource {
                group: group.into(),
                version: version.into(),
                kind: kind.into(),
                list_kind: if kind == "Endpoints" { "EndpointsList".into() } else { format!("{kind}List") },
                plural: plural.into(),
                singular: kind.to_lowercase(),
                short_names: strings(short),
                categories: strings(categories),
                namespaced,
                status,
                scale: scale.then(|| Scale {
                    spec: "spec.replicas".into(),
                    status: "status.replicas".into(),
                    selector: Some("spec.selector".into()),
                }),
                selectable: builtin_selectable(&store),
                store,
                stored_version: version.into(),
                builtin: true,
                schema: schema::builtin(group, version, kind),
                open_api: None,
                columns: Columns::builtin(group, kind),
            }
        })
        .collect()
}

/// The served versions of a definition whose names are accepted.
fn custom(definition: &Value) -> Vec<Resource> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let texts = |v: &Value| v.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let established = definition["status"]["conditions"].as_array().into_iter().flatten();
    if !established.into_iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
        return Vec::new();
    }
    let compiled = match CompiledCrd::compile(definition) {
        Ok(compiled) => compiled,
        Err(causes) => {
            tracing::error!(crd = %text(&definition["metadata"]["name"]), ?causes, "stored definition does not compile");
            return Vec::new();
        }
    };
    let versions = || spec["versions"].as_array().into_iter().flatten();
    let stored_version = versions().find(|v| v["storage"] == true).map(|v| text(&v["name"])).unwrap_or_default();
    let (group, plural, kind) = (text(&spec["group"]), text(&names["plural"]), text(&names["kind"]));
    let served = versions().filter(|v| v["served"] == true);
    served
        .map(|version| {
            let scale = &version["subresources"]["scale"];
            let path = |v: &Value| v.as_str().map(|p| p.trim_start_matches('.').to_owned());
            let fields = version["selectableFields"].as_array().into_iter().flatten();
            Resource {
                version: text(&version["name"]),
                list_kind: names["listKind"].as_str().map_or_else(|| format!("{kind}List"), str::to_owned),
                singular: names["singular"].as_str().map_or_else(|| kind.to_lowercase(), str::to_owned),
                short_names: texts(&names["shortNames"]),
                categories: texts(&names["categories"]),
                namespaced: spec["scope"] == "Namespaced",
                status: version["subresources"]["status"].is_object(),
                scale: scale.is_object().then(|| Scale {
                    spec: path(&scale["specReplicasPath"]).unwrap_or_default(),
                    status: path(&scale["statusReplicasPath"]).unwrap_or_default(),
                    selector: path(&scale["labelSelectorPath"]),
                }),
                store: format!("{group}/{plural}").into(),
                stored_version: stored_version.clone(),
                builtin: false,
                schema: compiled.version(&text(&version["name"])).cloned(),
                open_api: Some(version["schema"]["openAPIV3Schema"].clone()),
                columns: Columns::from_crd(version),
                selectable: fields.filter_map(|f| path(&f["jsonPath"])).collect(),
                group: group.clone(),
                kind: kind.clone(),
                plural: plural.clone(),
            }
        })
        .collect()
}
