//! The roles of the chart are generated from the table: this says when they are stale.

use std::{fs, path::PathBuf};

use k8s_api::access::{Component, to_yaml};

/// Run with `UPDATE_RBAC=1` to write the files.
#[test]
fn the_charts_roles_are_current() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../charts/spiderpool/files/rbac");
    let update = std::env::var_os("UPDATE_RBAC").is_some();
    let mut stale = Vec::new();
    for component in Component::ALL {
        let path = dir.join(format!("{}.yaml", component.file()));
        let yaml = to_yaml(component);
        if update {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&path, &yaml).unwrap();
        }
        if fs::read_to_string(&path).unwrap_or_default() != yaml {
            stale.push(path);
        }
    }
    assert!(stale.is_empty(), "stale: {stale:?}; write them with `cargo xtask rbac`");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), Component::ALL.len(), "a file that no component stands for");
}
