//! The CRD files of the chart are generated from the types: this says when they are stale.

use std::{fs, path::PathBuf};

use k8s_api::all_crds;

fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../charts/spiderpool/crds")
}

/// Run with `UPDATE_CRDS=1` to write the files.
#[test]
fn the_charts_crds_are_current() {
    let update = std::env::var_os("UPDATE_CRDS").is_some();
    let mut stale = Vec::new();
    for (file, crd) in all_crds() {
        let path = chart().join(&file);
        let yaml = k8s_api::crds::to_yaml(&crd);
        if update {
            fs::create_dir_all(chart()).unwrap();
            fs::write(&path, &yaml).unwrap();
        }
        if fs::read_to_string(&path).unwrap_or_default() != yaml {
            stale.push(file);
        }
    }
    assert!(stale.is_empty(), "stale: {stale:?}; write them with UPDATE_CRDS=1");
    let mut shipped: Vec<_> =
        fs::read_dir(chart()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut generated: Vec<_> = all_crds().into_iter().map(|(file, _)| file).collect();
    shipped.sort();
    generated.sort();
    assert_eq!(shipped, generated, "a file in the chart that no type stands for");
}
