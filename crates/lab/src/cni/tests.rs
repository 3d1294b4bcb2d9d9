use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A runtime in a directory of its own, with shell scripts as plugins.
struct Host {
    dir: PathBuf,
    runtime: Runtime,
}

impl Host {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("spiderpool-cni-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for sub in ["net.d", "bin"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        let runtime = Runtime { conf_dir: dir.join("net.d"), bin_dirs: vec![dir.join("bin")], cache_dir: dir.clone() };
        Self { dir, runtime }
    }

    fn plugin(&self, name: &str, script: &str) {
        let path = self.dir.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", self.dir.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn conf(&self, file: &str, text: &str) {
        fs::write(self.dir.join("net.d").join(file), text).unwrap();
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join(file)).unwrap()).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn attachment() -> Attachment {
    Attachment {
        container_id: "c1".into(),
        netns: "/run/netns/x".into(),
        ifname: "eth0".into(),
        args: vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "a".into())],
        capabilities: json!({"portMappings": [1], "bandwidth": {}}).as_object().unwrap().clone(),
    }
}

const CHAIN: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[
    {"type":"first","capabilities":{"portMappings":true}},{"type":"second","x":1}]}"#;

#[tokio::test]
async fn a_chain_hands_results_on_and_is_undone_backwards() {
    let host = Host::new("chain");
    host.conf("10-a.conflist", CHAIN);
    host.plugin("first", r#"cat > first.$CNI_COMMAND; env | grep CNI_ | sort > env; echo first $CNI_COMMAND >> order; echo '{"ips":[1]}'"#);
    host.plugin("second", r#"cat > second.$CNI_COMMAND; echo second $CNI_COMMAND >> order; echo '{"ips":[1,2]}'"#);
    let list = host.runtime.network().unwrap();
    let result = host.runtime.add(&list, &attachment()).await.unwrap();
    assert_eq!(result, json!({"ips": [1, 2]}));
    assert_eq!(
        host.json("first.ADD"),
        json!({"type": "first", "capabilities": {"portMappings": true}, "name": "net", "cniVersion": "1.0.0", "runtimeConfig": {"portMappings": [1]}})
    );
    assert_eq!(
        host.json("second.ADD"),
        json!({"type": "second", "x": 1, "name": "net", "cniVersion": "1.0.0", "prevResult": {"ips": [1]}})
    );
    let env = fs::read_to_string(host.dir.join("env")).unwrap();
    assert!(env.contains("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=a\n"), "{env}");
    assert!(Path::new(&host.dir.join("results/net-c1-eth0")).exists());

    host.runtime.del(&list, &attachment()).await.unwrap();
    assert_eq!(host.json("second.DEL")["prevResult"], json!({"ips": [1, 2]}));
    assert_eq!(host.json("first.DEL")["prevResult"], json!({"ips": [1, 2]}));
    let order = fs::read_to_string(host.dir.join("order")).unwrap();
    assert_eq!(order, "first ADD\nsecond ADD\nsecond DEL\nfirst DEL\n");
    assert!(!host.dir.join("results/net-c1-eth0").exists());
}

#[tokio::test]
async fn a_failing_plugin_ends_the_chain_with_its_own_words() {
    let host = Host::new("fails");
    host.conf("10-a.conflist", CHAIN);
    host.plugin("first", r#"echo '{"cniVersion":"1.0.0","code":11,"msg":"used up","details":"all of it"}'; exit 1"#);
    host.plugin("second", "touch second-was-called");
    let list = host.runtime.network().unwrap();
    let error = host.runtime.add(&list, &attachment()).await.unwrap_err();
    assert_eq!(error.to_string(), r#"plugin type="first" name="net" failed (add): used up; all of it"#);
    assert!(!host.dir.join("second-was-called").exists());
}

#[tokio::test]
async fn a_plugin_that_is_not_installed_is_named() {
    let host = Host::new("absent");
    host.conf("10-a.conflist", CHAIN);
    let list = host.runtime.network().unwrap();
    let error = host.runtime.add(&list, &attachment()).await.unwrap_err().to_string();
    assert!(error.starts_with("failed to find plugin \"first\" in path ["), "{error}");
}

#[tokio::test]
async fn garbage_collection_needs_version_1_1() {
    let host = Host::new("gc");
    host.plugin("only", "cat > only.$CNI_COMMAND");
    host.conf("10-a.conf", r#"{"cniVersion":"1.0.0","name":"net","type":"only"}"#);
    let valid = [("c1".to_owned(), "eth0".to_owned())];
    host.runtime.gc(&host.runtime.network().unwrap(), &valid).await.unwrap();
    assert!(!host.dir.join("only.GC").exists());
    host.conf("10-a.conf", r#"{"cniVersion":"1.1.0","name":"net","type":"only"}"#);
    host.runtime.gc(&host.runtime.network().unwrap(), &valid).await.unwrap();
    assert_eq!(host.json("only.GC")["cni.dev/valid-attachments"], json!([{"containerID": "c1", "ifname": "eth0"}]));
}

#[test]
fn the_first_file_by_name_counts() {
    let host = Host::new("first");
    assert!(matches!(host.runtime.network(), Err(CniError::NoNetwork { .. })));
    host.conf("20-b.conflist", CHAIN);
    host.conf("10-a.conf", r#"{"cniVersion":"0.3.1","name":"single","type":"bridge"}"#);
    host.conf("00-note.txt", "no configuration");
    let list = host.runtime.network().unwrap();
    assert_eq!((list.name.as_str(), list.plugins.len()), ("single", 1));
    assert!(list.at_least((0, 3, 1)) && !list.at_least((0, 4, 0)));
}
