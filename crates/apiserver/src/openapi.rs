//! `/openapi/v3`: what is served, in the form that kubectl reads for `apply`, `create --validate` and `explain`.
//!
//! One document per group and version: a path for each resource, whose PATCH tells which patch types and which query
//! parameters it takes, and the schemas of the kinds with the merge keys of their lists.

use serde_json::{Map, Value, json};

mod schemas;

/// A served kind.
#[derive(Debug)]
pub struct Served<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Plural resource name.
    pub plural: &'a str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether the status subresource is served.
    pub status: bool,
    /// `openAPIV3Schema` of a custom resource; `None` for built-in kinds.
    pub schema: Option<&'a Value>,
}

impl Served<'_> {
    /// `{group, version, kind}` as extensions write it.
    fn gvk(&self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.kind})
    }
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The answer to `GET /openapi/v3`.
pub fn index(group_versions: &[(&str, &str)]) -> Value {
    let entry = |(group, version): &(&str, &str)| {
        let path = root(group, version);
        let url = format!("/openapi/v3/{path}");
        (path, json!({"serverRelativeURL": url}))
    };
    json!({"paths": group_versions.iter().map(entry).collect::<Map<_, _>>()})
}

/// The answer to `GET /openapi/v3/apis/G/V`.
pub fn document(group: &str, version: &str, kinds: &[Served<'_>]) -> Value {
    let mut paths = Map::new();
    for kind in kinds {
        add_paths(&mut paths, &root(group, version), kind);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": schemas::components(kinds)},
    })
}

/// Query parameters of the verbs that write.
const WRITE: [(&str, &str); 4] = [
    ("pretty", "If 'true', then the output is pretty printed."),
    ("dryRun", "When present, indicates that modifications should not be persisted."),
    ("fieldManager", "The name of the actor that is making these changes."),
    ("fieldValidation", "How unknown and duplicate fields are treated: Ignore, Warn or Strict."),
];

/// Query parameters of lists and watches.
const LIST: [(&str, &str, &str); 10] = [
    ("allowWatchBookmarks", "boolean", "Asks for events of type BOOKMARK."),
    ("continue", "string", "Where a list in parts goes on."),
    ("fieldSelector", "string", "Restricts the objects by their fields."),
    ("labelSelector", "string", "Restricts the objects by their labels."),
    ("limit", "integer", "The most objects to return."),
    ("resourceVersion", "string", "The version to serve from."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant."),
    ("sendInitialEvents", "boolean", "Whether a watch begins with the present state."),
    ("timeoutSeconds", "integer", "When the call ends."),
    ("watch", "boolean", "Asks for changes instead of a list."),
];

fn query(name: &str, type_: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": type_, "uniqueItems": true}})
}

fn write_parameters() -> Vec<Value> {
    WRITE.iter().map(|(name, description)| query(name, "string", description)).collect()
}

fn list_parameters() -> Vec<Value> {
    LIST.iter().map(|(name, type_, description)| query(name, type_, description)).collect()
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description, "schema": {"type": "string", "uniqueItems": true}})
}

/// One operation.
struct Operation<'a> {
    verb: &'a str,
    action: &'a str,
    parameters: Vec<Value>,
    /// Media types and schema of the body.
    body: Option<(&'a [&'a str], String)>,
    answer: String,
}

fn operation(served: &Served<'_>, scope: &str, op: &Operation<'_>) -> Value {
    let reference = |name: &str| json!({"$ref": format!("{}{name}", crate::builtin::types::REF_PREFIX)});
    let json_content = |name: &str| json!({"application/json": {"schema": reference(name)}});
    let mut value = json!({
        "operationId": format!("{}{}{scope}", op.verb, served.kind),
        "tags": [format!("{}_{}", if served.group.is_empty() { "core" } else { served.group }, served.version)],
        "parameters": op.parameters,
        "responses": {"200": {"description": "OK", "content": json_content(&op.answer)}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": op.action,
        "x-kubernetes-group-version-kind": served.gvk(),
    });
    if let Some((media_types, name)) = &op.body {
        let content: Map<String, Value> =
            media_types.iter().map(|m| ((*m).to_owned(), json!({"schema": reference(name)}))).collect();
        value["requestBody"] = json!({"content": content, "required": op.verb != "delete"});
    }
    value
}

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

fn add_paths(paths: &mut Map<String, Value>, root: &str, served: &Served<'_>) {
    let scope = if served.namespaced { "/namespaces/{namespace}" } else { "" };
    let name = schemas::name_of(served);
    let list_name = format!("{name}List");
    let any = ["*/*"].as_slice();
    let op = |verb, action, parameters, body, answer: &str| Operation {
        verb,
        action,
        parameters,
        body,
        answer: answer.to_owned(),
    };
    let list = || op("list", "list", list_parameters(), None, &list_name);
    if served.namespaced {
        let everywhere = json!({"get": operation(served, "ForAllNamespaces", &list())});
        paths.insert(format!("/{root}/{}", served.plural), everywhere);
    }
    let namespace = served
        .namespaced
        .then(|| path_parameter("namespace", "object name and auth scope, such as for teams and projects"));
    let collection = json!({
        "parameters": namespace.iter().collect::<Vec<_>>(),
        "get": operation(served, "", &list()),
        "post": operation(served, "", &op("create", "post", write_parameters(), Some((any, name.clone())), &name)),
        "delete": operation(served, "Collection", &op("delete", "deletecollection", list_parameters(), Some((any, DELETE_OPTIONS.into())), STATUS)),
    });
    paths.insert(format!("/{root}{scope}/{}", served.plural), collection);
    let patches: &[&str] = match served.schema {
        None => {
            &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"]
        }
        Some(_) => &["application/json-patch+json", "application/merge-patch+json"],
    };
    let mut parameters = vec![path_parameter("name", &format!("name of the {}", served.kind))];
    parameters.extend(namespace);
    let object = |suffix: &str| {
        json!({
            "parameters": parameters,
            "get": operation(served, suffix, &op("read", "get", Vec::new(), None, &name)),
            "put": operation(served, suffix, &op("replace", "put", write_parameters(), Some((any, name.clone())), &name)),
            "patch": operation(served, suffix, &op("patch", "patch", write_parameters(), Some((patches, PATCH.into())), &name)),
        })
    };
    let mut whole = object("");
    whole["delete"] =
        operation(served, "", &op("delete", "delete", write_parameters(), Some((any, DELETE_OPTIONS.into())), STATUS));
    paths.insert(format!("/{root}{scope}/{}/{{name}}", served.plural), whole);
    if served.status {
        paths.insert(format!("/{root}{scope}/{}/{{name}}/status", served.plural), object("Status"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Served<'static> {
        Served { group: "", version: "v1", kind: "Pod", plural: "pods", namespaced: true, status: true, schema: None }
    }

    #[test]
    fn a_patch_tells_its_types_and_field_validation() {
        let document = document("", "v1", &[pod()]);
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == "fieldValidation" && p["in"] == "query")
        );
        assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    }

    #[test]
    fn every_reference_of_a_document_resolves() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
        let custom = Served {
            group: "example.org",
            version: "v1",
            kind: "Widget",
            plural: "widgets",
            namespaced: false,
            status: false,
            schema: Some(&schema),
        };
        for document in [document("", "v1", &[pod()]), document("example.org", "v1", &[custom])] {
            let text = document.to_string();
            for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(document["components"]["schemas"][name].is_object(), "{name}");
            }
        }
    }

    #[test]
    fn the_index_lists_group_versions() {
        let index = index(&[("", "v1"), ("apps", "v1")]);
        assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1");
    }
}
