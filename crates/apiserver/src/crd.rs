//! CustomResourceDefinitions: acceptance of names and status (apiextensions-apiserver `naming_controller`).
use serde_json::{Value, json};

use crate::kinds::Catalog;
use crate::meta;

/// Sets the status of a definition that is created or updated. It is served as soon as it is stored, so `Established`
/// follows at once from the acceptance of its names.
pub fn prepare(catalog: &Catalog, new: &mut Value, old: Option<&Value>) {
    let mut status = old.map_or_else(|| json!({}), |o| o["status"].clone());
    if old.is_some() && new["spec"] == old.map_or(Value::Null, |o| o["spec"].clone()) {
        return;
    }
    let conflict = conflict(catalog, new);
    let names = match &conflict {
        None => condition("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
        Some((reason, message)) => condition("NamesAccepted", "False", reason, message),
    };
    let established = match &conflict {
        None => condition("Established", "True", "InitialNamesAccepted", "the initial names have been accepted"),
        Some(_) => condition("Established", "False", "NotAccepted", "not all names are accepted"),
    };
    for condition in [names, established] {
        set_condition(&mut status, condition);
    }
    if conflict.is_none() {
        status["acceptedNames"] = new["spec"]["names"].clone();
    } else if status["acceptedNames"].is_null() {
        status["acceptedNames"] = json!({"plural": "", "kind": ""});
    }
    let storage = new["spec"]["versions"].as_array().into_iter().flatten().find(|v| v["storage"] == true);
    let storage = storage.map(|v| v["name"].clone()).unwrap_or_default();
    match status["storedVersions"].as_array_mut() {
        Some(stored) if !stored.contains(&storage) => stored.push(storage),
        Some(_) => {}
        None => status["storedVersions"] = json!([storage]),
    }
    new["status"] = status;
}

/// The first name that another resource of the group has.
fn conflict(catalog: &Catalog, definition: &Value) -> Option<(String, String)> {
    let (spec, names) = (&definition["spec"], &definition["spec"]["names"]);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let group = text(&spec["group"]);
    let store = format!("{group}/{}", text(&names["plural"]));
    let others: Vec<_> = catalog.all().filter(|r| r.group == group && *r.store != *store).collect();
    let taken = |name: &str| {
        others.iter().any(|r| r.plural == name || r.singular == name || r.short_names.iter().any(|s| s == name))
    };
    let in_use = |reason: &str, name: &str| Some((reason.to_owned(), format!("\"{name}\" is already in use")));
    for (key, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        let name = text(&names[key]);
        if !name.is_empty() && taken(&name) {
            return in_use(reason, &name);
        }
    }
    let short_names = names["shortNames"].as_array().into_iter().flatten().map(text);
    if let Some(name) = short_names.into_iter().find(|n| taken(n)) {
        return in_use("ShortNamesConflict", &name);
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        let name = text(&names[key]);
        if !name.is_empty() && others.iter().any(|r| r.kind == name || r.list_kind == name) {
            return in_use(reason, &name);
        }
    }
    None
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": meta::now()})
}

fn set_condition(status: &mut Value, mut new: Value) {
    let Some(conditions) = status["conditions"].as_array_mut() else {
        status["conditions"] = json!([new]);
        return;
    };
    match conditions.iter_mut().find(|c| c["type"] == new["type"]) {
        Some(old) => {
            if old["status"] == new["status"] {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}
