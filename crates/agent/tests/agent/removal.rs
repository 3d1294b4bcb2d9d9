//! The end of the product told from the end of a pod.

use crate::world::{Weather, World, eventually};
use agent::node::removal::Owner;
use agent::node::uninstall::{self, Args};
use daemon::Stop;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use std::path::Path;

async fn daemonset(world: &World) -> Api<DaemonSet> {
    let api: Api<DaemonSet> = Api::namespaced(world.client.clone(), "kube-system");
    let labels = json!({"app": "agent"});
    let object = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "spiderpool-agent"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        },
    });
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    api
}

fn args(dir: &Path) -> Args {
    std::fs::write(dir.join("00-multinet.conflist"), "{}").unwrap();
    Args {
        plugins_dir: None,
        plugin: Vec::new(),
        cni_dir: Some(dir.to_owned()),
        on_stop: true,
        daemonset: Some("spiderpool-agent".into()),
        namespace: Some("kube-system".into()),
    }
}

/// Starts the wait, does something, stops it; how many files went.
async fn removed_after(world: &World, before_stop: impl AsyncFnOnce()) -> usize {
    let client = world.exposed_client();
    world.requests.lock().unwrap().clear();
    let dir = tempfile::tempdir_in(world.dir.path()).unwrap();
    let (args, owner, stop) = (args(dir.path()), Owner::new(client, "kube-system", "spiderpool-agent"), Stop::new());
    let waiting = tokio::spawn({
        let stop = stop.clone();
        async move { uninstall::on_stop(&args, &owner, stop).await }
    });
    eventually("it asked", async || !world.requests.lock().unwrap().is_empty()).await;
    before_stop().await;
    stop.cancel();
    waiting.await.unwrap().unwrap().map_or(0, |outcome| outcome.removed.len())
}

#[tokio::test]
async fn files_stay_while_the_daemonset_is_there_and_go_with_it() {
    let world = World::new().await;
    let api = daemonset(&world).await;
    assert_eq!(removed_after(&world, async || {}).await, 0);
    let delete = async || {
        api.delete("spiderpool-agent", &DeleteParams::default()).await.unwrap();
    };
    assert_eq!(removed_after(&world, delete).await, 1);
}

#[tokio::test]
async fn without_the_right_to_ask_it_ends_at_once() {
    let world = World::new().await;
    let owner = Owner::new(world.client.clone(), "kube-system", "spiderpool-agent");
    let dir = tempfile::tempdir().unwrap();
    let error = uninstall::on_stop(&args(dir.path()), &owner, Stop::new()).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot read DaemonSet kube-system/spiderpool-agent"), "{error}");
    assert!(dir.path().join("00-multinet.conflist").exists());
}

#[tokio::test]
async fn files_stay_when_nobody_can_be_asked() {
    let world = World::new().await;
    daemonset(&world).await;
    let storm = async || world.set(Weather::Gone);
    assert_eq!(removed_after(&world, storm).await, 0);
}
