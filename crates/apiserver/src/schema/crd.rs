//! Validation of a CustomResourceDefinition itself: names, versions, columns; the schemas are checked by
//! [`super::structural`].
//!
//! kube-apiserver keeps a schema, subresources or columns that all versions share at the top of its internal form,
//! so a single version's schema is reported at `spec.validation.openAPIV3Schema`; the same is done here.

use super::cause::{Cause, child, index};
use super::{names, structural};
use serde_json::Value;

/// Why the definition is refused; `old` is the definition before an update.
pub(crate) fn validate(crd: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &crd["spec"];
    group(spec, &mut causes);
    one_of("spec.scope", &spec["scope"], &["Cluster", "Namespaced"], &mut causes);
    versions(spec, &mut causes);
    kind_names("spec.names", &spec["names"], true, &mut causes);
    conversion(&spec["conversion"], &mut causes);
    if let Some(old) = old {
        immutable(spec, old, &mut causes);
        stored_versions(crd, &mut causes);
    }
    causes
}

/// The name must be made of plural and group.
pub(crate) fn name(crd: &Value, causes: &mut Vec<Cause>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&crd["metadata"]["name"]);
    let wanted = format!("{}.{}", text(&crd["spec"]["names"]["plural"]), text(&crd["spec"]["group"]));
    if !name.is_empty() && name != wanted {
        causes.push(Cause::invalid_text("metadata.name", &name, "must be spec.names.plural+\".\"+spec.group"));
    }
}

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Groups of the Kubernetes project need an approval, unless they were already without one.
pub(crate) fn approval(crd: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let group = crd["spec"]["group"].as_str().unwrap_or_default();
    let protected = [".k8s.io", ".kubernetes.io"].iter().any(|end| group.ends_with(end) || group == &end[1..]);
    let given = |crd: &Value| crd["metadata"]["annotations"][APPROVAL].as_str().unwrap_or_default().to_owned();
    let text = given(crd);
    if !protected || old.is_some_and(|old| given(old) == text) {
        return;
    }
    let path = super::cause::key("metadata.annotations", APPROVAL);
    let detail = format!("protected groups must have approval annotation \"{APPROVAL}\"");
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let is_url = text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some());
    if text.is_empty() {
        causes.push(Cause::required(path, format!("{detail}, {see}")));
    } else if !text.starts_with("unapproved") && !is_url {
        let detail = format!("{detail} with either a URL or a reason starting with \"unapproved\", {see}");
        causes.push(Cause::invalid_text(path, &text, detail));
    }
}

/// Defaults of a definition: names, conversion, stored versions.
pub(crate) fn default(crd: &mut Value) {
    let kind = crd["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    if let Some(names) = crd["spec"]["names"].as_object_mut() {
        let absent = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().is_empty();
        if absent(names.get("singular")) {
            names.insert("singular".into(), kind.to_lowercase().into());
        }
        if absent(names.get("listKind")) && !kind.is_empty() {
            names.insert("listKind".into(), format!("{kind}List").into());
        }
    }
    if let Some(spec) = crd["spec"].as_object_mut() {
        spec.entry("conversion").or_insert_with(|| serde_json::json!({"strategy": "None"}));
    }
}

fn group(spec: &Value, causes: &mut Vec<Cause>) {
    let group = spec["group"].as_str().unwrap_or_default();
    let problems = names::dns1123_subdomain(group);
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if !problems.is_empty() {
        causes.push(Cause::invalid_text("spec.group", group, problems.join(",")));
    } else if !group.contains('.') {
        causes.push(Cause::invalid_text("spec.group", group, "should be a domain with at least one dot"));
    }
}

fn one_of(path: &str, value: &Value, accepted: &[&str], causes: &mut Vec<Cause>) {
    match value.as_str().unwrap_or_default() {
        "" => causes.push(Cause::required(path, "")),
        text if accepted.contains(&text) => {}
        _ => causes.push(Cause::not_supported(path, value, accepted)),
    }
}

fn versions(spec: &Value, causes: &mut Vec<Cause>) {
    let empty = Vec::new();
    let versions = spec["versions"].as_array().unwrap_or(&empty);
    let shared = |key: &str| versions.iter().all(|v| !v[key].is_null() && v[key] == versions[0][key]);
    for (i, version) in versions.iter().enumerate() {
        let path = index("spec.versions", i);
        if !version["schema"]["openAPIV3Schema"].is_object() {
            causes.push(Cause::required(format!("{path}.schema.openAPIV3Schema"), ""));
        }
    }
    for (i, version) in versions.iter().enumerate() {
        let path = index("spec.versions", i);
        let name = version["name"].as_str().unwrap_or_default();
        let problems = names::dns1035_label(name);
        if !problems.is_empty() {
            causes.push(Cause::invalid_text(child(&path, "name"), name, problems.join(",")));
        }
        deprecation(&path, version, causes);
        let status = version["subresources"]["status"].is_object();
        let schema = &version["schema"]["openAPIV3Schema"];
        let at = |key: &str, top: &str| if shared(key) { format!("spec.{top}") } else { child(&path, key) };
        if i == 0 || !shared("schema") {
            let at = format!("{}.openAPIV3Schema", at("schema", "validation"));
            structural::validate(&at, schema, status, causes);
        }
        if i == 0 || !shared("subresources") {
            scale(&at("subresources", "subresources"), &version["subresources"]["scale"], causes);
        }
        if i == 0 || !shared("additionalPrinterColumns") {
            let at = at("additionalPrinterColumns", "additionalPrinterColumns");
            columns(&at, &version["additionalPrinterColumns"], causes);
        }
        if i == 0 || !shared("selectableFields") {
            selectable(&at("selectableFields", "selectableFields"), &version["selectableFields"], schema, causes);
        }
    }
    let mut seen: Vec<&Value> = versions.iter().map(|v| &v["name"]).collect();
    seen.sort_by_key(|name| name.as_str());
    seen.dedup();
    if seen.len() != versions.len() {
        causes.push(Cause::invalid("spec.versions", &spec["versions"], "must contain unique version names"));
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &spec["versions"],
            "must have exactly one version marked as storage version",
        ));
    }
}

fn deprecation(path: &str, version: &Value, causes: &mut Vec<Cause>) {
    let Some(text) = version["deprecationWarning"].as_str() else { return };
    let mut refuse = |why: &str| causes.push(Cause::invalid_text(child(path, "deprecationWarning"), text, why));
    if version["deprecated"] != true {
        refuse("can only be set for deprecated versions");
    } else if text.len() > 256 {
        refuse("must be <= 256 characters long");
    } else if text.is_empty() {
        refuse("must not be an empty string");
    }
}

/// A path such as `.spec.replicas`.
fn simple_path(path: &str, text: &str, causes: &mut Vec<Cause>) -> bool {
    let good = text.starts_with('.');
    if !good {
        causes.push(Cause::invalid_text(path, text, "must be a simple json path starting with ."));
    }
    good
}

fn scale(path: &str, scale: &Value, causes: &mut Vec<Cause>) {
    if !scale.is_object() {
        return;
    }
    for (field, under) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (at, text) = (format!("{path}.scale.{field}"), scale[field].as_str().unwrap_or_default());
        if text.is_empty() {
            causes.push(Cause::required(at, ""));
        } else if simple_path(&at, text, causes) && !text.starts_with(under) {
            causes.push(Cause::invalid_text(
                at,
                text,
                format!("should be a json path under {}", under.trim_end_matches('.')),
            ));
        }
    }
    let at = format!("{path}.scale.labelSelectorPath");
    if let Some(text) = scale["labelSelectorPath"].as_str().filter(|t| !t.is_empty())
        && simple_path(&at, text, causes)
        && !text.starts_with(".spec.")
        && !text.starts_with(".status.")
    {
        causes.push(Cause::invalid_text(at, text, "should be a json path under either .spec or .status"));
    }
}

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 9] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password", "binary"];

fn columns(path: &str, columns: &Value, causes: &mut Vec<Cause>) {
    for (i, column) in columns.as_array().into_iter().flatten().enumerate() {
        let at = index(path, i);
        let text = |key: &str| column[key].as_str().unwrap_or_default();
        if text("name").is_empty() {
            causes.push(Cause::required(child(&at, "name"), ""));
        }
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        match text("type") {
            "" => causes.push(Cause::required(child(&at, "type"), types)),
            known if COLUMN_TYPES.contains(&known) => {}
            other => causes.push(Cause::invalid_text(child(&at, "type"), other, types)),
        }
        if !text("format").is_empty() && !COLUMN_FORMATS.contains(&text("format")) {
            let mut formats = COLUMN_FORMATS;
            formats.sort_unstable();
            let detail = format!("must be one of {}", formats.join(","));
            causes.push(Cause::invalid_text(child(&at, "format"), text("format"), detail));
        }
        match text("jsonPath") {
            "" => causes.push(Cause::required(child(&at, "JSONPath"), "")),
            json_path => {
                simple_path(&child(&at, "JSONPath"), json_path, causes);
            }
        }
    }
}

fn selectable(path: &str, fields: &Value, schema: &Value, causes: &mut Vec<Cause>) {
    let mut seen = Vec::new();
    for (i, field) in fields.as_array().into_iter().flatten().enumerate() {
        let at = child(&index(path, i), "jsonPath");
        let text = field["jsonPath"].as_str().unwrap_or_default();
        if text.is_empty() {
            causes.push(Cause::required(at, ""));
            continue;
        }
        let segments = super::paths::segments(text);
        let found = segments.iter().try_fold(schema, |node, (name, _)| node["properties"].get(name));
        match found {
            None => causes.push(Cause::invalid_text(at, text, "is an invalid path: does not refer to a valid field")),
            Some(_) if segments.first().is_some_and(|(name, _)| name == "metadata") => {
                causes.push(Cause::invalid_text(at, text, "must not point to fields in metadata"));
            }
            Some(node) if !["string", "boolean", "integer"].contains(&node["type"].as_str().unwrap_or_default()) => {
                let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                causes.push(Cause::invalid_text(at, text, detail));
            }
            Some(_) if seen.contains(&text) => causes.push(Cause::duplicate(at, &Value::from(text))),
            Some(_) => seen.push(text),
        }
    }
    if seen.len() > 8 {
        causes.push(Cause::too_many(path, seen.len() as u64, 8));
    }
}

fn kind_names(path: &str, kinds: &Value, required: bool, causes: &mut Vec<Cause>) {
    let text = |key: &str| kinds[key].as_str().unwrap_or_default();
    for key in ["plural", "singular", "kind", "listKind"] {
        if required && text(key).is_empty() {
            causes.push(Cause::required(child(path, key), ""));
        }
    }
    for key in ["plural", "singular"] {
        let problems = names::dns1035_label(text(key));
        if !text(key).is_empty() && !problems.is_empty() {
            causes.push(Cause::invalid_text(child(path, key), text(key), problems.join(",")));
        }
    }
    for key in ["kind", "listKind"] {
        let problems = names::dns1035_label(&text(key).to_lowercase());
        if !text(key).is_empty() && !problems.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            causes.push(Cause::invalid_text(child(path, key), text(key), detail));
        }
    }
    if !text("kind").is_empty() && text("kind") == text("listKind") {
        causes.push(Cause::invalid_text(
            child(path, "listKind"),
            text("listKind"),
            "kind and listKind may not be the same",
        ));
    }
    for key in ["shortNames", "categories"] {
        for (i, name) in super::node::strings(&kinds[key]).iter().enumerate() {
            let problems = names::dns1035_label(name);
            if !problems.is_empty() {
                causes.push(Cause::invalid_text(index(&child(path, key), i), name, problems.join(",")));
            }
        }
    }
}

fn conversion(conversion: &Value, causes: &mut Vec<Cause>) {
    if conversion.is_null() {
        return;
    }
    let path = "spec.conversion";
    one_of(&child(path, "strategy"), &conversion["strategy"], &["None", "Webhook"], causes);
    if conversion["strategy"] == "Webhook" {
        // Stored objects would have to be converted by a webhook, which this server does not call.
        causes.push(Cause::forbidden(child(path, "strategy"), "conversion webhooks are not served by this API server"));
    } else if conversion["webhook"].is_object() {
        causes.push(Cause::forbidden(
            child(path, "webhookClientConfig"),
            "should not be set when strategy is not set to Webhook",
        ));
    }
}

fn immutable(spec: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let before = &old["spec"];
    let conditions = old["status"]["conditions"].as_array().into_iter().flatten();
    let established = conditions.into_iter().any(|c| c["type"] == "Established" && c["status"] == "True");
    let mut check = |path: &str, new: &Value, old: &Value| {
        if new != old {
            causes.push(Cause::invalid(path, new, "field is immutable"));
        }
    };
    if established {
        check("spec.scope", &spec["scope"], &before["scope"]);
        check("spec.names.kind", &spec["names"]["kind"], &before["names"]["kind"]);
    }
    check("spec.group", &spec["group"], &before["group"]);
    check("spec.names.plural", &spec["names"]["plural"], &before["names"]["plural"]);
}

/// A version whose objects may still be stored must stay.
fn stored_versions(crd: &Value, causes: &mut Vec<Cause>) {
    let path = "status.storedVersions";
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    let names: Vec<&str> = versions.filter_map(|v| v["name"].as_str()).collect();
    for (i, stored) in super::node::strings(&crd["status"]["storedVersions"]).iter().enumerate() {
        if !names.contains(&stored.as_str()) {
            let detail = format!(
                "missing from spec.versions; {stored} was previously a storage version, and must remain in spec.versions until a storage \
                 migration ensures no data remains persisted in {stored} and removes {stored} from status.storedVersions"
            );
            causes.push(Cause::invalid_text(index(path, i), stored, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn crd() -> Value {
        json!({"metadata": {"name": "widgets.example.org"}, "spec": {"group": "example.org", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}]}})
    }

    fn with(path: &str, value: Value) -> Vec<String> {
        let mut crd = crd();
        *crd.pointer_mut(path).expect("a path of the sample") = value;
        validate(&crd, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_definition_passes() {
        assert_eq!(validate(&crd(), None), []);
    }

    #[test]
    fn faults_are_named_where_the_real_server_names_them() {
        let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        let rows = [
            (
                "/spec/group",
                json!("plain"),
                "spec.group: Invalid value: \"plain\": should be a domain with at least one dot",
            ),
            (
                "/spec/scope",
                json!("Everywhere"),
                "spec.scope: Unsupported value: \"Everywhere\": supported values: \"Cluster\", \"Namespaced\"",
            ),
            (
                schema,
                json!({}),
                "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
            ),
            (
                schema,
                json!({"type": "array"}),
                "spec.validation.openAPIV3Schema.properties[spec].items: Required value: must be specified",
            ),
            (
                schema,
                json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
                "spec.validation.openAPIV3Schema.properties[spec].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ),
            (
                "/spec/names/kind",
                json!("WidgetList"),
                "spec.names.listKind: Invalid value: \"WidgetList\": kind and listKind may not be the same",
            ),
            ("/spec/versions/0/schema", json!({}), "spec.versions[0].schema.openAPIV3Schema: Required value"),
        ];
        for (path, value, text) in rows {
            assert_eq!(with(path, value), [text], "{path}");
        }
        let texts = with("/spec/versions/0/storage", json!(false));
        assert!(texts[0].ends_with("must have exactly one version marked as storage version"), "{texts:?}");
    }

    #[test]
    fn group_plural_and_stored_versions_stay() {
        let old = crd();
        let mut new = crd();
        new["spec"]["group"] = json!("example.com");
        new["status"] = json!({"storedVersions": ["v1", "v0"]});
        let texts: Vec<_> = validate(&new, Some(&old)).iter().map(ToString::to_string).collect();
        assert_eq!(texts[0], "spec.group: Invalid value: \"example.com\": field is immutable");
        assert!(
            texts[1].starts_with("status.storedVersions[1]: Invalid value: \"v0\": missing from spec.versions"),
            "{texts:?}"
        );
    }

    #[test]
    fn names_are_completed() {
        let mut crd = json!({"spec": {"names": {"kind": "Widget", "plural": "widgets"}}});
        default(&mut crd);
        assert_eq!(
            crd["spec"]["names"],
            json!({"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"})
        );
        assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
    }
}
