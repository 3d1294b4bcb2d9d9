//! The binary under load, killed and started again.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start(dir: &Path) -> (Process, Client) {
    let kubeconfig = dir.join("kubeconfig");
    let mut child = Command::new(env!("CARGO_BIN_EXE_spiderpool-apiserver"))
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir)
        .arg("--kubeconfig-out")
        .arg(&kubeconfig)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("spiderpool-apiserver ready at https://127.0.0.1:"), "{line:?}");
    let config = Kubeconfig::read_from(&kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    (Process(child), Client::try_from(config).unwrap())
}

/// What was acknowledged: name to version, `None` once deleted.
type Acknowledged = Arc<Mutex<BTreeMap<String, Option<String>>>>;

/// Creates, and deletes every third again, until the server is gone.
async fn load(api: Api<ConfigMap>, writer: String, acknowledged: Acknowledged) {
    for i in 0.. {
        let mut map = ConfigMap::default();
        let name = format!("{writer}-{i}");
        map.metadata.name = Some(name.clone());
        let Ok(made) = api.create(&PostParams::default(), &map).await else { return };
        acknowledged.lock().unwrap().insert(name.clone(), made.resource_version());
        if i % 3 == 0 {
            acknowledged.lock().unwrap().remove(&name); // in doubt until answered
            if api.delete(&name, &DeleteParams::default()).await.is_err() {
                return;
            }
            acknowledged.lock().unwrap().insert(name, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = Acknowledged::default();
    for round in 0..4 {
        let (mut process, client) = start(dir.path()).await;
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        let stored: BTreeMap<_, _> = api
            .list(&ListParams::default())
            .await
            .unwrap()
            .into_iter()
            .map(|m| (m.name_any(), m.resource_version()))
            .collect();
        for (name, version) in acknowledged.lock().unwrap().iter() {
            assert_eq!(stored.get(name).cloned().flatten(), *version, "round {round}: {name} as acknowledged");
        }
        let writers: Vec<_> =
            (0..24).map(|w| tokio::spawn(load(api.clone(), format!("r{round}w{w}"), acknowledged.clone()))).collect();
        let enough = 300 * (round + 1);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while acknowledged.lock().unwrap().len() < enough {
            assert!(tokio::time::Instant::now() < deadline, "round {round}: too few writes");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        process.0.kill().unwrap(); // SIGKILL
        process.0.wait().unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
    }
}
