//! What users copy: the YAML in the guides and in the scenarios, created through the API server with strict fields and
//! through the admission rules of this version.

#![allow(clippy::unwrap_used)] // tests

mod world;

use std::path::{Path, PathBuf};

use axum::http;
use serde_json::Value;
use world::World;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The fenced YAML blocks of a Markdown text, without the indentation of a list that they are in.
fn yaml_blocks(markdown: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() != "```yaml" {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let block = lines.by_ref().take_while(|line| line.trim_start() != "```");
        blocks.push(block.map(|line| line.get(indent..).unwrap_or("")).collect::<Vec<_>>().join("\n"));
    }
    blocks
}

/// The objects of a YAML file.
fn objects(yaml: &str) -> Vec<Value> {
    yaml.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// Creates an object as `kubectl create --validate=strict` would; an object that is there already is fine.
async fn create(world: &World, object: &Value) -> Result<(), String> {
    let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let prefix = if api_version.contains('/') { "apis" } else { "api" };
    let plural = format!("{}s", kind.to_lowercase());
    let is_cluster_wide = matches!(kind, "SpiderIPPool" | "SpiderReservedIP" | "SpiderCoordinator");
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let scope = if is_cluster_wide { String::new() } else { format!("/namespaces/{namespace}") };
    let request = http::Request::post(format!("/{prefix}/{api_version}{scope}/{plural}?fieldValidation=Strict"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(object).unwrap())
        .unwrap();
    match world.client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Kinds of which upstream's controller and agents put their finalizer on objects.
#[test]
fn a_removal_by_hand_frees_every_kind_that_has_a_finalizer() {
    for guide in ["docs/uninstall.md", "docs/uninstall-zh_CN.md"] {
        let text = std::fs::read_to_string(repository().join(guide)).unwrap();
        let kinds = text.lines().find_map(|line| line.strip_prefix("for kind in ")?.strip_suffix("; do")).unwrap();
        let kinds: Vec<&str> = kinds.split(' ').collect();
        assert_eq!(kinds, ["spiderippools", "spidersubnets", "spiderendpoints", "spidercoordinators"], "{guide}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_the_guides_is_accepted() {
    let world = World::start().await;
    let mut count = 0;
    let mut guides: Vec<PathBuf> =
        std::fs::read_dir(repository().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    guides.sort();
    for guide in guides {
        for block in yaml_blocks(&std::fs::read_to_string(&guide).unwrap()) {
            for object in objects(&block) {
                let outcome = create(&world, &object).await;
                assert!(outcome.is_ok(), "{}: {outcome:?}\n{block}", guide.display());
                count += 1;
            }
        }
    }
    assert!(count >= 10, "only {count} examples were found in docs/");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_the_scenario_is_accepted() {
    let world = World::start().await;
    let scenario = repository().join("scenarios/alicloud");
    let mut count = 0;
    for folder in ["", "dual-stack", "extra"] {
        for entry in std::fs::read_dir(scenario.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            for object in objects(&std::fs::read_to_string(&path).unwrap()) {
                // The API server in process has IPv4 Services only; the refusal of that one Service is the cloud's affair.
                if object["metadata"]["name"] == "tcp-service-v6" {
                    continue;
                }
                let outcome = create(&world, &object).await;
                assert!(outcome.is_ok(), "{}: {outcome:?}", path.display());
                count += 1;
            }
        }
    }
    assert!(count >= 16, "only {count} objects were found");
    world.end().await;
}
