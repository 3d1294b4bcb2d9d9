use super::*;
use std::collections::BTreeMap;
use std::fs;

fn args(folder: &Path) -> Args {
    Args {
        plugins_dir: Some(folder.join("bin")),
        plugin: Vec::new(),
        cni_dir: Some(folder.join("net.d")),
        on_stop: false,
        daemonset: None,
        namespace: None,
    }
}

/// A node with files of ours and of others.
fn node() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["bin", "net.d/multus.d"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    for file in ["bin/bridge", "bin/multus", "net.d/10-flat.conf"] {
        fs::write(dir.path().join(file), "theirs").unwrap();
    }
    for file in ["net.d/00-multus.conf", "net.d/multus.d/multus.kubeconfig", "net.d/00-multinet.conflist", "bin/ifacer"]
    {
        fs::write(dir.path().join(file), "ours").unwrap();
    }
    let plugins: Vec<&str> = wire::PLUGIN_NAMES.into_iter().chain(["bridge", "vlan", "tuning"]).collect();
    let plugins: BTreeMap<String, Vec<u8>> =
        plugins.into_iter().map(|name| (name.to_owned(), name.as_bytes().to_vec())).collect();
    install::install(&dir.path().join("bin"), &plugins).unwrap();
    dir
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn only_ours_go_and_what_others_changed_stays() {
    let dir = node();
    fs::write(dir.path().join("bin/tuning"), "changed since").unwrap();
    let outcome = now(&args(dir.path())).unwrap();
    assert_eq!(names(&dir.path().join("bin")), ["bridge", "multus", "tuning"]);
    assert_eq!(names(&dir.path().join("net.d")), ["10-flat.conf"]);
    assert_eq!(outcome.kept, [dir.path().join("bin/tuning")]);
    assert_eq!(outcome.removed.len(), 4 + 5, "{:?}", outcome.removed);
}

#[test]
fn only_named_folders_are_touched() {
    let dir = node();
    let before = names(&dir.path().join("bin"));
    now(&Args { plugins_dir: None, ..args(dir.path()) }).unwrap();
    assert_eq!(names(&dir.path().join("bin")), before);
    assert_eq!(names(&dir.path().join("net.d")), ["10-flat.conf"]);
}

#[test]
fn further_plugins_go_by_name() {
    let dir = node();
    now(&Args { plugin: vec!["multus".into()], ..args(dir.path()) }).unwrap();
    assert!(!dir.path().join("bin/multus").exists());
    assert!(plugin_name("../x").is_err() && plugin_name("").is_err() && plugin_name("host-local").is_ok());
}

#[test]
fn a_second_run_finds_nothing_and_succeeds() {
    let dir = node();
    now(&args(dir.path())).unwrap();
    assert_eq!(now(&args(dir.path())).unwrap(), Outcome::default());
}

#[test]
fn a_folder_of_multus_that_others_use_stays() {
    let dir = node();
    fs::write(dir.path().join("net.d/multus.d/other"), "theirs").unwrap();
    now(&args(dir.path())).unwrap();
    assert_eq!(names(&dir.path().join("net.d/multus.d")), ["other"]);
}

#[test]
fn missing_folders_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = now(&args(dir.path())).unwrap_err().to_string();
    assert!(error.starts_with(&format!("--cni-dir {}/net.d: no such folder", dir.path().display())), "{error}");
}
