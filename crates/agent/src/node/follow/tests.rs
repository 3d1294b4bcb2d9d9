use super::super::meta::options;
use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const FLAT: &str = r#"{"name": "flat", "type": "bridge"}"#;
const CALICO: &str = r#"{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}"#;

struct Node {
    dir: tempfile::TempDir,
    args: Args,
}

impl Node {
    fn new(implementation: Implementation) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (cni_dir, service_account) = (dir.path().join("net.d"), dir.path().join("account"));
        fs::create_dir(&cni_dir).unwrap();
        fs::create_dir(&service_account).unwrap();
        fs::write(service_account.join("token"), "token-1").unwrap();
        fs::write(service_account.join("ca.crt"), "authority-1").unwrap();
        let args = Args {
            cni_dir,
            cluster_network: String::new(),
            options: options(implementation),
            server: ApiServer { host: "10.96.0.1".into(), port: 443 },
            service_account,
            agent_port: 1, // nobody listens there
            no_wait: true,
            once: false,
            interval: 1,
        };
        Self { dir, args }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.args.cni_dir.join(name)
    }

    fn network(&self) -> String {
        let text = fs::read(self.path(self.args.options.file())).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let of_list = found["plugins"][0]["clusterNetwork"].as_str();
        of_list.or(found["clusterNetwork"].as_str()).unwrap().to_owned()
    }

    fn settle(&self) -> Vec<PathBuf> {
        match step(&self.args).unwrap() {
            Step::Settled(changed) => changed,
            Step::Waiting(what) => panic!("{what}"),
        }
    }

    fn wait(&self) -> String {
        match step(&self.args).unwrap() {
            Step::Waiting(what) => what,
            Step::Settled(changed) => panic!("{changed:?}"),
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn multus_gets_its_files_and_the_token_is_for_root_only() {
    let node = Node::new(Implementation::Multus);
    fs::write(node.path("10-flat.conf"), FLAT).unwrap();
    let kubeconfig = node.path("multus.d/multus.kubeconfig");
    assert_eq!(node.settle(), [kubeconfig.clone(), node.path("00-multus.conf")]);
    assert_eq!(node.network(), "flat");
    assert_eq!((mode(&node.path("multus.d")), mode(&kubeconfig)), (0o700, 0o600));
    assert_eq!(node.settle(), Vec::<PathBuf>::new(), "nothing to do the second time");
}

#[test]
fn a_new_token_a_new_authority_and_a_new_default_network_are_followed() {
    let node = Node::new(Implementation::Multus);
    fs::write(node.path("10-flat.conf"), FLAT).unwrap();
    node.settle();
    let kubeconfig = node.path("multus.d/multus.kubeconfig");
    for (file, text) in [("token", "token-2"), ("ca.crt", "authority-2")] {
        fs::write(node.args.service_account.join(file), text).unwrap();
        assert!(node.settle() == [&*kubeconfig], "{file}");
    }
    assert!(fs::read_to_string(&kubeconfig).unwrap().contains("token-2"));
    fs::write(node.path("05-calico.conflist"), CALICO).unwrap();
    assert_eq!(node.settle(), [node.path("00-multus.conf")]);
    assert_eq!(node.network(), "k8s-pod-network");
}

#[test]
fn changes_by_hand_are_undone() {
    let node = Node::new(Implementation::Multinet);
    fs::write(node.path("10-flat.conf"), FLAT).unwrap();
    node.settle();
    fs::write(node.path("00-multinet.conflist"), "{}").unwrap();
    node.settle();
    assert_eq!(node.network(), "flat");
    fs::remove_file(node.path("00-multinet.conflist")).unwrap();
    assert_eq!(node.settle(), [node.path("00-multinet.conflist")]);
}

#[test]
fn a_given_network_needs_no_other_configuration() {
    let mut node = Node::new(Implementation::Multinet);
    node.args.cluster_network = "kube-system/ipvlan-eth0".into();
    assert_eq!(node.settle(), [node.path("00-multinet.conflist")]);
    assert_eq!(node.network(), "kube-system/ipvlan-eth0");
    assert!(!node.path("multus.d").exists(), "multinet has no kubeconfig");
}

#[test]
fn without_any_network_it_waits_and_says_for_what() {
    let node = Node::new(Implementation::Multus);
    assert_eq!(
        node.wait(),
        "no cluster network is given (MULTUS_CLUSTER_NETWORK), and /etc/cni/net.d of the node has no CNI configuration yet"
    );
    fs::write(node.path("10-half.conf"), "{").unwrap();
    assert!(node.wait().contains("10-half.conf: not JSON"), "{}", node.wait());
    assert!(!node.path("00-multus.conf").exists());
    fs::write(node.path("10-half.conf"), FLAT).unwrap();
    node.settle();
    fs::remove_file(node.path("10-half.conf")).unwrap();
    node.wait();
    assert_eq!(node.network(), "flat", "what is there stays");
}

#[test]
fn the_first_configuration_waits_for_the_agent_and_the_kubeconfig_does_not() {
    let mut node = Node::new(Implementation::Multus);
    node.args.no_wait = false;
    fs::write(node.path("10-flat.conf"), FLAT).unwrap();
    assert!(node.wait().starts_with("the agent is not ready: port 1: "), "{}", node.wait());
    assert!(node.path("multus.d/multus.kubeconfig").exists() && !node.path("00-multus.conf").exists());
    fs::write(node.path("00-multus.conf"), "of an earlier pod").unwrap();
    assert_eq!(node.settle(), [node.path("00-multus.conf")]);
}

#[test]
fn a_change_of_implementation_leaves_one_configuration() {
    let mut node = Node::new(Implementation::Multus);
    fs::write(node.path("10-flat.conf"), FLAT).unwrap();
    node.settle();
    node.args.options.implementation = Implementation::Multinet;
    node.settle();
    assert!(node.path("00-multinet.conflist").exists());
    assert!(!node.path("00-multus.conf").exists() && !node.path("multus.d").exists());
    node.args.options.implementation = Implementation::Multus;
    node.settle();
    assert!(node.path("00-multus.conf").exists() && !node.path("00-multinet.conflist").exists());
}

#[test]
fn a_multus_of_somebody_else_stays_beside_multinet() {
    let node = Node::new(Implementation::Multinet);
    fs::write(node.path("10-flat.conf"), FLAT).unwrap();
    fs::write(node.path("00-multus.conf"), r#"{"type": "multus", "kubeconfig": "/elsewhere"}"#).unwrap();
    node.settle();
    assert!(node.path("00-multus.conf").exists());
}

#[test]
fn what_is_missing_is_named() {
    let node = Node::new(Implementation::Multus);
    fs::remove_file(node.args.service_account.join("token")).unwrap();
    let error = step(&node.args).unwrap_err();
    let text = Chain(&error).to_string();
    assert!(
        text.starts_with(&format!("no kubeconfig for Multus: cannot read {}/account/token", node.dir.path().display())),
        "{text}"
    );
    let mut node = Node::new(Implementation::Multinet);
    node.args.cni_dir = "/nonexistent".into();
    assert_eq!(step(&node.args).unwrap_err().to_string(), "cannot list folder /nonexistent");
}

#[tokio::test]
async fn it_follows_until_it_is_stopped() {
    let node = Node::new(Implementation::Multinet);
    let stop = Stop::new();
    let task = tokio::spawn(run(node.args.clone(), stop.clone()));
    let appears = async |expected: &str| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !node.path("00-multinet.conflist").exists() || node.network() != expected {
            assert!(tokio::time::Instant::now() < deadline, "{expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    fs::write(node.path("10-flat.conf"), FLAT).unwrap();
    appears("flat").await;
    fs::write(node.path("05-calico.conflist"), CALICO).unwrap();
    appears("k8s-pod-network").await;
    stop.cancel();
    task.await.unwrap().unwrap();
    assert!(node.path("00-multinet.conflist").exists(), "the end of the process changes nothing");
}

#[tokio::test]
async fn an_error_before_the_first_configuration_ends_it() {
    let mut node = Node::new(Implementation::Multinet);
    node.args.cni_dir = "/nonexistent".into();
    assert!(run(node.args.clone(), Stop::new()).await.is_err());
}
