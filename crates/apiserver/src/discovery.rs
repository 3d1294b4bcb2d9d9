//! Which resources there are: plain and aggregated discovery, version, OpenAPI.
use serde_json::{Value, json};

use crate::kinds::{Catalog, Resource};
use crate::openapi::{self, Served};

const READ_WRITE: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const SUB: [&str; 3] = ["get", "patch", "update"];

/// The Kubernetes version whose behaviour this server follows.
pub const VERSION: (&str, &str) = ("1", "36");

/// GET `/version`.
pub fn version() -> Value {
    let (major, minor) = VERSION;
    json!({
        "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0+spiderpool"), "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// GET `/api`.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// GET `/apis`.
pub fn group_list(catalog: &Catalog) -> Value {
    let groups = catalog.groups().iter().filter(|(group, _)| !group.is_empty());
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.map(|(g, v)| group_entry(g, v)).collect::<Vec<_>>()})
}

/// GET `/apis/GROUP`.
pub fn group(catalog: &Catalog, name: &str) -> Option<Value> {
    let (group, versions) = catalog.groups().iter().find(|(g, _)| g == name && !g.is_empty())?;
    let mut entry = group_entry(group, versions);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

fn group_entry(group: &str, versions: &[String]) -> Value {
    let entry = |v: &String| json!({"groupVersion": format!("{group}/{v}"), "version": v});
    json!({"name": group, "versions": versions.iter().map(entry).collect::<Vec<_>>(), "preferredVersion": entry(&versions[0])})
}

/// GET `/api/v1`, `/apis/GROUP/VERSION`.
pub fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for resource in catalog.of(group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": READ_WRITE,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = resource.short_names.clone().into();
        }
        if !resource.categories.is_empty() {
            entry["categories"] = resource.categories.clone().into();
        }
        resources.push(entry);
        for (sub, group, version, kind, verbs) in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{sub}", resource.plural), "singularName": "", "namespaced": resource.namespaced,
                "kind": kind, "verbs": verbs,
            });
            if (group, version) != (resource.group.as_str(), resource.version.as_str()) {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            resources.push(entry);
        }
    }
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let list =
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources});
    (!resources.is_empty()).then_some(list)
}

type Sub<'a> = (&'a str, &'a str, &'a str, &'a str, &'a [&'a str]);

/// Name, group, version, kind and verbs of each subresource.
fn subresources(resource: &Resource) -> Vec<Sub<'_>> {
    let mut all: Vec<Sub<'_>> = Vec::new();
    if resource.status {
        all.push(("status", &resource.group, &resource.version, &resource.kind, &SUB));
    }
    if resource.scale.is_some() {
        all.push(("scale", "autoscaling", "v1", "Scale", &SUB));
    }
    if resource.is("/pods") {
        all.push(("binding", "", "v1", "Binding", &["create"]));
    }
    all
}

/// Whether a subresource is served.
pub fn has_subresource(resource: &Resource, name: &str) -> bool {
    subresources(resource).iter().any(|(sub, ..)| *sub == name)
}

/// GET `/api` or `/apis` as one document with all resources (apidiscovery.k8s.io/v2).
pub fn aggregated(catalog: &Catalog, core: bool) -> Value {
    let groups = catalog.groups().iter().filter(|(group, _)| group.is_empty() == core);
    let items: Vec<_> = groups
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<_> = catalog.of(group, version).map(|r| aggregated_resource(r)).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.plural, "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular, "verbs": READ_WRITE,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.clone().into();
    }
    let subs: Vec<_> = subresources(resource)
        .into_iter()
        .map(|(sub, g, v, k, verbs)| json!({"subresource": sub, "responseKind": kind(g, v, k), "verbs": verbs}))
        .collect();
    if !subs.is_empty() {
        entry["subresources"] = subs.into();
    }
    entry
}

/// GET `/openapi/v3`.
pub fn openapi_index(catalog: &Catalog) -> Value {
    let all: Vec<_> =
        catalog.groups().iter().flat_map(|(g, vs)| vs.iter().map(move |v| (g.as_str(), v.as_str()))).collect();
    openapi::index(&all)
}

/// GET `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`.
pub fn openapi_document(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<_> = catalog
        .of(group, version)
        .map(|r| Served {
            group: &r.group,
            version: &r.version,
            kind: &r.kind,
            plural: &r.plural,
            namespaced: r.namespaced,
            status: r.status,
            schema: r.open_api.as_ref(),
        })
        .collect();
    (!kinds.is_empty()).then(|| openapi::document(group, version, &kinds))
}
