//! `metadata`: names, labels, annotations, owners, finalizers, on create and on update.

use super::cause::{Cause, child, go_quote};
use super::names;
use super::node::strings;
use serde_json::{Map, Value};

/// What a kind demands of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameForm {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: namespaces.
    Label,
    /// Anything that fits in a URL path.
    PathSegment,
}

impl NameForm {
    fn problems(self, name: &str) -> Vec<String> {
        match self {
            Self::Subdomain => names::dns1123_subdomain(name),
            Self::Label => names::dns1123_label(name),
            Self::PathSegment => names::path_segment(name),
        }
    }

    /// A prefix may end in a dash, since random characters follow.
    fn prefix_problems(self, prefix: &str) -> Vec<String> {
        match prefix.strip_suffix('-') {
            Some(head) if !head.is_empty() && self != Self::PathSegment => {
                let mut masked: String = head.chars().take(head.chars().count() - 1).collect();
                masked.push('a');
                self.problems(&masked)
            }
            _ => self.problems(prefix),
        }
    }
}

/// Checks the metadata of a new object; its name is already generated.
pub(crate) fn on_create(metadata: &Value, namespaced: bool, form: NameForm, causes: &mut Vec<Cause>) {
    let text = |key: &str| metadata[key].as_str().unwrap_or_default();
    let (name, prefix, namespace) = (text("name"), text("generateName"), text("namespace"));
    if !prefix.is_empty() {
        causes.extend(
            form.prefix_problems(prefix).iter().map(|p| Cause::invalid_text("metadata.generateName", prefix, p)),
        );
    }
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else {
        causes.extend(form.problems(name).iter().map(|p| Cause::invalid_text("metadata.name", name, p)));
    }
    match (namespaced, namespace) {
        (true, "") => causes.push(Cause::required("metadata.namespace", "")),
        (true, ns) => {
            causes.extend(names::dns1123_label(ns).iter().map(|p| Cause::invalid_text("metadata.namespace", ns, p)))
        }
        (false, "") => {}
        (false, _) => causes.push(Cause::forbidden("metadata.namespace", "not allowed on this type")),
    }
    common(metadata, causes);
    finalizers(&strings(&metadata["finalizers"]), causes);
}

/// Checks the metadata of an update; `strict` kinds demand a resourceVersion.
///
/// kube-apiserver checks it once for all kinds and once more with the kind, so each cause is there twice.
pub(crate) fn on_update(new: &Value, old: &Value, strict: bool, causes: &mut Vec<Cause>) {
    let mut found = Vec::new();
    changed(new, old, strict, &mut found);
    causes.extend(found.iter().cloned());
    causes.extend(found);
}

fn changed(new: &Value, old: &Value, strict: bool, causes: &mut Vec<Cause>) {
    if !old["deletionTimestamp"].is_null() {
        no_new_finalizers(new, old, causes);
    }
    if strict && new["resourceVersion"].as_str().unwrap_or_default().is_empty() {
        causes.push(Cause::invalid_text("metadata.resourceVersion", "", "must be specified for an update"));
    }
    let generation = |meta: &Value| meta["generation"].as_i64().unwrap_or(0);
    if generation(new) < generation(old) {
        causes.push(Cause::invalid("metadata.generation", &generation(new).into(), "must not be decremented"));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let empty = |value: &Value| value.is_null() || value == "";
        if new[field] != old[field] && !(empty(&new[field]) && empty(&old[field])) {
            let shown = if new[field].is_null() && matches!(field, "name" | "namespace" | "uid") {
                &Value::from("")
            } else {
                &new[field]
            };
            causes.push(Cause::invalid(format!("metadata.{field}"), shown, "field is immutable"));
        }
    }
    common(new, causes);
}

fn common(metadata: &Value, causes: &mut Vec<Cause>) {
    labels("metadata.labels", metadata["labels"].as_object(), causes);
    annotations(metadata["annotations"].as_object(), causes);
    owners(&metadata["ownerReferences"], causes);
}

/// Checks a map of labels.
pub(crate) fn labels(path: &str, labels: Option<&Map<String, Value>>, causes: &mut Vec<Cause>) {
    for (key, value) in labels.into_iter().flatten() {
        causes.extend(names::qualified_name(key).iter().map(|p| Cause::invalid_text(path, key, p)));
        let value = value.as_str().unwrap_or_default();
        causes.extend(names::label_value(value).iter().map(|p| Cause::invalid_text(path, value, p)));
    }
}

/// All annotations of an object together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

fn annotations(annotations: Option<&Map<String, Value>>, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        let problems = names::qualified_name(&key.to_lowercase());
        causes.extend(problems.iter().map(|p| Cause::invalid_text("metadata.annotations", key, p)));
    }
    if size > ANNOTATIONS_LIMIT {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS_LIMIT as u64));
    }
}

fn owners(owners: &Value, causes: &mut Vec<Cause>) {
    let path = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let text = |key: &str| owner[key].as_str().unwrap_or_default();
        if text("apiVersion").is_empty() || text("apiVersion").ends_with('/') {
            causes.push(Cause::invalid_text(
                child(path, "apiVersion"),
                text("apiVersion"),
                "version must not be empty",
            ));
        }
        for key in ["kind", "name", "uid"].into_iter().filter(|key| text(key).is_empty()) {
            causes.push(Cause::invalid_text(child(path, key), "", "must not be empty"));
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            causes.push(Cause::invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner["controller"].as_bool() == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => causes.push(Cause::invalid(
                    path,
                    owners,
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                )),
                None => controller = Some(this),
            }
        }
    }
}

fn finalizers(finalizers: &[String], causes: &mut Vec<Cause>) {
    let path = "metadata.finalizers";
    for finalizer in finalizers {
        causes.extend(names::qualified_name(finalizer).iter().map(|p| Cause::invalid_text(path, finalizer, p)));
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let list = Value::from(finalizers.to_vec());
        causes.push(Cause::invalid(path, &list, "finalizer orphan and foregroundDeletion cannot be both set"));
    }
}

fn no_new_finalizers(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let before = strings(&old["finalizers"]);
    let mut extra: Vec<_> = strings(&new["finalizers"]).into_iter().filter(|f| !before.contains(f)).collect();
    extra.sort();
    if !extra.is_empty() {
        let list: Vec<_> = extra.iter().map(|f| go_quote(f)).collect();
        let text = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            list.join(", ")
        );
        causes.push(Cause::forbidden("metadata.finalizers", text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn created(metadata: Value, namespaced: bool, form: NameForm) -> Vec<String> {
        let mut causes = Vec::new();
        on_create(&metadata, namespaced, form, &mut causes);
        causes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_follow_the_form_of_the_kind() {
        assert_eq!(
            created(json!({"name": "A_b"}), false, NameForm::Subdomain),
            [
                "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
              and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            created(json!({"name": "a.b"}), false, NameForm::Label),
            ["metadata.name: Invalid value: \"a.b\": must not contain dots"]
        );
        assert_eq!(created(json!({"generateName": "a-", "name": "a-x"}), false, NameForm::Label), [""; 0]);
        assert_eq!(
            created(json!({}), false, NameForm::Label),
            ["metadata.name: Required value: name or generateName is required"]
        );
        assert_eq!(created(json!({"name": "a"}), true, NameForm::Label), ["metadata.namespace: Required value"]);
        assert_eq!(
            created(json!({"name": "a", "namespace": "n"}), false, NameForm::Label),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
    }

    #[test]
    fn labels_owners_and_finalizers_are_checked() {
        let seen = created(
            json!({"name": "a", "labels": {"k": "-"}, "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}], "finalizers": ["a b"]}),
            false,
            NameForm::Subdomain,
        );
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen[0].starts_with("metadata.labels: Invalid value: \"-\": a valid label must be an empty string"));
        assert_eq!(seen[1], "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty");
        assert!(seen[2].starts_with("metadata.finalizers: Invalid value: \"a b\": name part must consist of"));
    }

    #[test]
    fn identity_cannot_change() {
        let mut causes = Vec::new();
        let old = json!({"name": "a", "uid": "1", "resourceVersion": "5", "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let new = json!({"name": "b", "uid": "1", "generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x.y/z"]});
        changed(&new, &old, true, &mut causes);
        let texts: Vec<_> = causes.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x.y/z\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
            ]
        );
    }
}
