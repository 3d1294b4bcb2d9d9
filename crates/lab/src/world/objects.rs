//! Objects out of YAML files, as `kubectl apply` would bring them in.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;

/// The objects of a file that may hold several documents.
pub fn of_file(path: &Path) -> Result<Vec<DynamicObject>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    of_text(&text).with_context(|| format!("{}", path.display()))
}

/// The objects of a text that may hold several documents.
pub fn of_text(text: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in documents(text) {
        let value: Value = serde_saphyr::from_str(&document).context("not YAML")?;
        if !value.is_null() {
            objects.push(DynamicObject::deserialize(value).context("not a Kubernetes object")?);
        }
    }
    Ok(objects)
}

/// Splits at lines of three dashes; documents of comments alone are left out.
fn documents(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for line in text.lines() {
        if line.trim_end() == "---" {
            found.push(String::new());
        } else if let Some(last) = found.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    let has_content =
        |document: &String| document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    found.into_iter().filter(has_content).collect()
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is new.
    Created,
    /// It was there and differs now.
    Configured,
    /// It was there like this.
    Unchanged,
}

/// The annotation by which `kubectl apply` knows what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Creates the object, or merges it into the one that is there. Says `kind/name` with the outcome.
pub async fn apply(client: &Client, object: &DynamicObject) -> Result<(String, Applied)> {
    let shown = shown(object);
    let api = api_of(client, object)?;
    let name = object.name_any();
    let mut wanted = object.clone();
    let text = serde_json::to_string(object).context("not JSON")?;
    wanted.annotations_mut().insert(LAST_APPLIED.to_owned(), format!("{text}\n"));
    match api.create(&PostParams::default(), &wanted).await {
        Ok(_) => Ok((shown, Applied::Created)),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let before = api.get(&name).await.with_context(|| shown.clone())?.resource_version();
            let after = api
                .patch(&name, &PatchParams::default(), &Patch::Merge(&wanted))
                .await
                .with_context(|| shown.clone())?;
            Ok((shown, if after.resource_version() == before { Applied::Unchanged } else { Applied::Configured }))
        }
        Err(error) => Err(error).with_context(|| format!("cannot create {shown}")),
    }
}

/// `kind.group/name`, as kubectl prints it.
pub fn shown(object: &DynamicObject) -> String {
    let types = object.types.clone().unwrap_or_default();
    let group = types.api_version.split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
    format!("{}{group}/{}", types.kind.to_lowercase(), object.name_any())
}

/// The interface to the object's kind, in its namespace.
pub fn api_of(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let Some(types) = &object.types else { bail!("object {} has no apiVersion and kind", object.name_any()) };
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
    Ok(match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_hold_several_objects_and_comments() {
        let text = "# a comment alone\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: |\n    x: 1\n    --- no end\n---\napiVersion: g.io/v1\nkind: Thing\nmetadata: {name: b}\n";
        let objects = of_text(text).unwrap();
        assert_eq!(objects.iter().map(shown).collect::<Vec<_>>(), ["configmap/a", "thing.g.io/b"]);
    }
}
