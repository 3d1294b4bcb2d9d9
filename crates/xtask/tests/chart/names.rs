//! Names that the chart gives to processes are names that they read: variables, keys of the configuration file, flags, resources.

use std::collections::BTreeSet;
use std::path::Path;

use crate::helm::{containers, file, render, root};

/// All Rust text below a directory of the checkout, tests included.
pub fn source(dir: &str) -> String {
    fn walk(dir: &Path, text: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut text = String::new();
    walk(&root().join(dir), &mut text);
    text
}

/// The words of a text that begin so.
pub fn words(text: &str, head: &str) -> BTreeSet<String> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !is_word(character)).filter(|word| word.starts_with(head)).map(str::to_owned).collect()
}

/// The programs read these by one name that they put together.
fn is_read(source: &str, name: &str) -> bool {
    let by_family = ["IPV4", "IPV6"].iter().any(|family| {
        let (head, tail) = name.split_once(family).unwrap_or((name, ""));
        !tail.is_empty() && source.contains(head) && source.contains(tail)
    });
    source.contains(&format!("\"{name}\"")) || by_family
}

#[test]
#[ignore = "helm"]
fn processes_read_the_variables_that_they_are_given() {
    let shared = source("crates/daemon/src");
    let agent = source("crates/agent/src") + &shared;
    let controller = source("crates/controller/src") + &shared;
    let mut unread = BTreeSet::new();
    for values in [include_str!("everything.yaml"), "multus: {multusCNI: {defaultCniCRName: net}}"] {
        let all = render(values);
        for object in ["DaemonSet", "Deployment", "Job"].iter().flat_map(|kind| all.all(kind)) {
            let source = if object["kind"] == "DaemonSet" { &agent } else { &controller };
            for container in containers(object).iter().filter(|container| container["name"] != "install-plugins") {
                let names = container["env"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
                let lost = names.filter(|name| !is_read(source, name));
                unread.extend(lost.map(|name| format!("{}: {name}", container["name"].as_str().unwrap())));
            }
        }
    }
    assert!(unread.is_empty(), "variables that no program reads:\n{unread:#?}");
}

#[test]
#[ignore = "helm"]
fn processes_know_the_flags_and_commands_that_they_are_given() {
    let agent = source("crates/agent/src");
    let controller = source("crates/controller/src");
    let mut unknown = BTreeSet::new();
    for values in [include_str!("everything.yaml"), "multus: {implementation: multinet}"] {
        let all = render(values);
        for object in ["DaemonSet", "Deployment", "Job"].iter().flat_map(|kind| all.all(kind)) {
            let source = if object["kind"] == "DaemonSet" { &agent } else { &controller };
            for container in containers(object) {
                if container["command"][0].as_str().is_none_or(|command| !command.contains("spiderpool")) {
                    continue;
                }
                for arg in container["args"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
                    let word = arg.trim_start_matches("--").split('=').next().unwrap();
                    let known = if arg.starts_with("--") {
                        source.contains(&format!("{}:", word.replace('-', "_")))
                            || source.contains(&format!("\"{word}\""))
                    } else {
                        // A command is a variant, or the value of a flag before.
                        let variant: String =
                            word.split('-').map(|part| part[..1].to_uppercase() + &part[1..]).collect();
                        word == "spiderpool-controller" || source.contains(&format!("    {variant}"))
                    };
                    if !known {
                        unknown.insert(format!("{}: {arg}", container["name"].as_str().unwrap()));
                    }
                }
            }
        }
    }
    assert!(unknown.is_empty(), "commands or flags that no program has:\n{unknown:#?}");
}

#[test]
#[ignore = "helm"]
fn the_daemons_read_every_key_of_the_configuration_file_and_find_what_they_read() {
    let source = std::fs::read_to_string(root().join("crates/daemon/src/config.rs")).unwrap();
    let source = source.split("#[cfg(test)]").next().unwrap();
    let conf = render("{}").conf();
    for key in conf.as_object().unwrap().keys() {
        assert!(source.contains(&format!("\"{key}\"")), "nobody reads {key}");
    }
    let read = source.split("file.").skip(1).filter_map(|rest| {
        let (call, key) = rest.split_once("(\"")?;
        call.chars().all(|character| character.is_ascii_lowercase()).then(|| key.split('"').next())?
    });
    for key in read.filter(|key| *key != "clusterSubnetDefaultFlexibleIPNumber") {
        assert!(!conf[key].is_null(), "the chart does not render {key}");
    }
}

#[test]
fn the_versions_are_those_of_the_workspace() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"')).unwrap();
    let chart = crate::helm::yaml(&file("Chart.yaml"));
    assert_eq!((chart["version"].as_str(), chart["appVersion"].as_str()), (Some(version), Some(version)));
}
